"""The relay's two doors: a port on loopback, and a socket file to mount into a container."""

import os
import socket
import sys
from pathlib import Path

SOCKET_NAME = "relay.sock"
BACKLOG = 128


def open_port() -> socket.socket:
    """A free port, on loopback only. It listens.

    The protocol is named because asyncio sends small writes at once (TCP_NODELAY) only on sockets
    that name it: without, the first token of an answer waits up to 40 ms behind its headers.
    """
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.bind(("127.0.0.1", 0))
        listener.listen(BACKLOG)
    except BaseException:
        listener.close()
        raise
    return listener


def open_file(directory: Path) -> socket.socket | None:
    """A socket file `relay.sock` below `directory`, for its owner only; None where there is none.

    It replaces what a crashed server left. Raises OSError. It listens only when its mode is set.
    """
    if sys.platform != "linux":
        return None
    # A socket's address has room for 107 bytes, and data directories lie deeper than that: the
    # folder is named by its open file.
    folder = os.open(directory, os.O_PATH | os.O_DIRECTORY)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        place = directory / SOCKET_NAME
        place.unlink(missing_ok=True)
        listener.bind(f"/proc/self/fd/{folder}/{SOCKET_NAME}")
        place.chmod(0o600)
        listener.listen(BACKLOG)
    except BaseException:
        listener.close()
        raise
    finally:
        os.close(folder)
    return listener
