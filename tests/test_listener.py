"""Taking an address and letting clients in are two steps, and each can fail with a sentence that says what to do."""

import socket
from contextlib import closing

import pytest

from app.listener import KEEPALIVE, UNSENT_IN_KERNEL, AddressError, open_port, take_address


def test_an_address_is_taken_before_anybody_is_let_in():
    with closing(take_address("127.0.0.1", 0)) as sock:
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(sock.getsockname())
        open_port(sock)
        socket.create_connection(sock.getsockname()).close()


def test_a_port_that_is_served_is_refused():
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(AddressError, match=f"port {port}: another program uses this port; .* --port"):
            take_address("127.0.0.1", port)


def test_of_two_that_start_together_the_second_is_told():
    with closing(take_address("127.0.0.1", 0)) as first:
        port = first.getsockname()[1]
        with closing(take_address("127.0.0.1", port)) as second:
            open_port(first)
            with pytest.raises(AddressError, match=f"port {port}: another program"):
                open_port(second)


def test_connections_notice_that_a_peer_is_gone_and_keep_little_for_it():
    """What the system has of it; what comes of it is in tests/reliability/test_catalogue_lifecycle.py."""
    with closing(take_address("127.0.0.1", 0)) as sock:
        open_port(sock)
        with socket.create_connection(sock.getsockname()), closing(sock.accept()[0]) as accepted:
            assert accepted.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            for name, value in (KEEPALIVE | {"TCP_NOTSENT_LOWAT": UNSENT_IN_KERNEL}).items():
                if hasattr(socket, name):
                    assert accepted.getsockopt(socket.IPPROTO_TCP, getattr(socket, name)) == value


def test_a_port_is_free_again_at_once():
    """Though connections that the server closed itself linger in the system."""
    with closing(take_address("127.0.0.1", 0)) as sock:
        address = sock.getsockname()
        open_port(sock)
        with socket.create_connection(address) as client:
            accepted, _ = sock.accept()
            accepted.close()
            assert client.recv(1) == b""
    take_address(*address).close()


@pytest.mark.parametrize(
    ("host", "problem"),
    [("192.0.2.1", "no such address; see --host"), ("no.such.host.invalid", "--host is no name or address")],
)
def test_a_host_that_is_not_ours_is_refused(host, problem):
    with pytest.raises(AddressError, match=problem):
        take_address(host, 0)


def test_a_name_with_addresses_of_both_kinds_is_taken_as_ipv4(monkeypatch):
    both = [
        (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("::1", 0, 0, 0)),
        (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 0)),
    ]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: both)

    with closing(take_address("localhost", 0)) as sock:
        assert sock.getsockname()[0] == "127.0.0.1"


@pytest.mark.skipif(not socket.has_ipv6, reason="needs IPv6")
def test_an_ipv6_address_is_taken():
    try:
        sock = take_address("::1", 0)
    except AddressError:
        pytest.skip("this machine has no ::1")
    with closing(sock):
        assert sock.family == socket.AF_INET6
