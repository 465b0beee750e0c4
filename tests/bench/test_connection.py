"""HTTP to a server over sockets: reuse, loss, nonsense."""

import asyncio
import shutil
import ssl
import subprocess
from pathlib import Path

import pytest

from app.bench.connection import Connections, Lost, Site
from app.bench.errors import BadWorkload
from app.bench.records import Failure
from tests.bench.scripted_server import Raw, ScriptedServer, page, scripted
from tests.bench.virtual_time import in_virtual_time


class Everything:
    has_enough = False

    def __init__(self) -> None:
        self.status = 0
        self.text = b""

    def head(self, status: int) -> None:
        self.status = status

    def body(self, data: bytes, now: float) -> None:
        self.text += data


async def post(connections: Connections) -> Everything:
    received = Everything()
    await connections.exchange(connections.site.request("POST", "/x", {"X-A": "b"}, b"{}"), received)
    return received


def connections_to(server: ScriptedServer) -> Connections:
    return Connections(Site.parse(server.url))


@pytest.mark.parametrize(
    ("url", "site"),
    [
        ("localhost:8000", Site("localhost", 8000, False, "")),
        ("http://host", Site("host", 80, False, "")),
        ("https://host/v1/", Site("host", 443, True, "")),
        ("http://[::1]:80/api/v1", Site("::1", 80, False, "/api")),
    ],
)
def test_a_url_says_where_a_server_is(url: str, site: Site) -> None:
    assert Site.parse(url) == site


@pytest.mark.parametrize("url", ["ftp://host", "http://", "http://host:port", "http://host:99999"])
def test_what_is_no_url_of_a_server_is_refused(url: str) -> None:
    with pytest.raises(BadWorkload, match="not the URL of a server"):
        Site.parse(url)


def test_a_request_names_host_and_length() -> None:
    request = Site.parse("http://[::1]:80/api").request("POST", "/x", {"A": "b"}, b"{}")
    assert request == b"POST /api/x HTTP/1.1\r\nHost: [::1]:80\r\nA: b\r\nContent-Length: 2\r\n\r\n{}"


@in_virtual_time
async def test_a_socket_is_used_again() -> None:
    async with scripted(page("200 OK", b"hello")) as server:
        connections = connections_to(server)
        assert [(await post(connections)).text for _ in range(3)] == [b"hello"] * 3
        assert server.num_connections == 1
        connections.close()


@pytest.mark.parametrize("is_closed_at_once", [True, False])
@in_virtual_time
async def test_a_server_that_closes_each_connection_is_asked_over_new_ones(is_closed_at_once: bool) -> None:
    answer = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok"
    async with scripted(Raw(answer, closes=is_closed_at_once)) as server:
        connections = connections_to(server)
        assert [(await post(connections)).text for _ in range(3)] == [b"ok"] * 3
        assert server.num_connections == 3


@in_virtual_time
async def test_a_connection_that_was_closed_when_it_is_used_again_is_no_failure() -> None:
    """The server says that it keeps the connection, and closes it on the next request."""
    answers = [page("200 OK", b"one"), Raw(b""), page("200 OK", b"two")]
    async with scripted(answers.__getitem__) as server:
        connections = connections_to(server)
        assert (await post(connections)).text == b"one"
        assert (await post(connections)).text == b"two"
        connections.close()


@in_virtual_time
async def test_a_body_without_a_length_ends_with_the_connection() -> None:
    async with scripted(Raw(b"HTTP/1.1 200 OK\r\n\r\nhello")) as server:
        assert (await post(connections_to(server))).text == b"hello"


@pytest.mark.parametrize(
    ("data", "failure"),
    [
        (b"", Failure.UNREACHABLE),
        (b"HTTP/1.1 200", Failure.BROKEN),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf", Failure.BROKEN),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhe", Failure.BROKEN),
        (b"SSH-2.0-OpenSSH\r\n", Failure.NONSENSE),
    ],
)
@in_virtual_time
async def test_an_answer_that_is_none_is_lost(data: bytes, failure: Failure) -> None:
    async with scripted(Raw(data)) as server:
        with pytest.raises(Lost) as lost:
            await post(connections_to(server))
    assert lost.value.failure is failure


@in_virtual_time
async def test_a_port_where_nobody_listens_is_unreachable() -> None:
    async with scripted(Raw(b"")) as server:
        pass
    with pytest.raises(Lost, match=f"127.0.0.1:{server.port} cannot be reached") as lost:
        await post(connections_to(server))
    assert lost.value.failure is Failure.UNREACHABLE


@in_virtual_time
async def test_a_request_that_is_given_up_leaves_no_connection_to_the_next() -> None:
    answers = [Raw(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nlate", closes=False), page("200 OK", b"fresh")]
    async with scripted(answers.__getitem__) as server:
        connections = connections_to(server)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await post(connections)
        async with asyncio.timeout(5):
            await server.tasks[0]  # which ends when the client closes its connection
        assert (await post(connections)).text == b"fresh"
        connections.close()


@pytest.fixture
def certified(tmp_path: Path) -> ssl.SSLContext:
    """With a certificate that nobody vouches for."""
    if (openssl := shutil.which("openssl")) is None:
        pytest.skip("there is no openssl to make a certificate with")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    options = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 1 -subj /CN=localhost"
    command = [openssl, *options.split(), "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    return context


async def test_a_certificate_is_verified_unless_it_shall_not_be(certified: ssl.SSLContext) -> None:
    async with scripted(page("200 OK", b"hello"), certified) as server:
        site = Site.parse(f"https://127.0.0.1:{server.port}")
        with pytest.raises(Lost, match="certificate") as lost:
            await post(Connections(site))
        assert lost.value.failure is Failure.UNREACHABLE
        connections = Connections(site, is_verified=False)
        assert [(await post(connections)).text for _ in range(2)] == [b"hello"] * 2
        connections.close()
