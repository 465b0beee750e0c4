"""The listening socket. Its address is taken before the model is loaded, so that a busy port is known within the first
second, and it listens only afterwards, so that nobody is let in before there is anything to answer with."""

import errno
import os
import socket

BACKLOG = 2048  # connections that may wait to be accepted


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
