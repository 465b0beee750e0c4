"""The listening socket. Its address is taken before the model is loaded, so that a busy port is known within the first
second, and it listens only afterwards, so that nobody is let in before there is anything to answer with.

What connections inherit from it has the kernel notice a peer that has vanished (a machine without power, a cable that
is out: nothing comes, no end either), and keep little of what nobody takes.
"""

import errno
import os
import socket

BACKLOG = 2048  # connections that may wait to be accepted
KEEPALIVE = {  # a peer from which nothing has come for 30 s is asked thrice; without an answer it is gone
    "TCP_KEEPIDLE": 30,
    "TCP_KEEPINTVL": 10,
    "TCP_KEEPCNT": 3,
    "TCP_USER_TIMEOUT": 60_000,  # ms; also one that does not acknowledge, or for so long has no room for a byte
}
# Bytes that wait in the kernel until the peer has room. Left to itself it takes megabytes for a client that reads
# nothing, and only then would the server's own buffer fill, and its clock begin.
UNSENT_IN_KERNEL = 64 * 1024


class AddressError(ValueError):
    """An address that cannot be listened on; the message says why and what to do."""

    def __init__(self, host: str, port: int, error: OSError) -> None:
        reasons = {
            errno.EADDRINUSE: "another program uses this port; stop it, or choose another port with --port",
            errno.EACCES: "this user may not; choose a port from 1024 on with --port",
            errno.EADDRNOTAVAIL: "this machine has no such address; see --host",
        }
        unresolved = f"--host is no name or address that resolves ({error.strerror})"
        known = error.errno is not None and not isinstance(error, socket.gaierror)
        reason = reasons.get(error.errno or 0, os.strerror(error.errno or 0)) if known else unresolved
        super().__init__(f"cannot listen on {host} port {port}: {reason}.")


def take_address(host: str, port: int) -> socket.socket:
    """A socket bound to the address, refusing connections as yet. Raises AddressError."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = min(found, key=lambda entry: entry[0] != socket.AF_INET)
        sock = socket.socket(family, kind, protocol)
    except OSError as error:
        raise AddressError(host, port, error) from error
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # else a restart waits for old connections
        _set_what_connections_inherit(sock)
        sock.bind(address)
    except OSError as error:
        sock.close()
        raise AddressError(host, port, error) from error
    return sock


def open_port(sock: socket.socket) -> None:
    """Lets clients in. Of two programs that took the same address, the second learns it here: AddressError."""
    try:
        sock.listen(BACKLOG)
    except OSError as error:
        host, port = sock.getsockname()[:2]
        raise AddressError(host, port, error) from error


def _set_what_connections_inherit(sock: socket.socket) -> None:
    """As far as the system has it; Linux has all."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (KEEPALIVE | {"TCP_NOTSENT_LOWAT": UNSENT_IN_KERNEL}).items():
        if hasattr(socket, name):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
