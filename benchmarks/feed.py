"""What every Python server of the benchmarks does alike: say how to connect, and hear when to
publish.

Nothing but the standard library: servers of other environments import this, too.
"""

import asyncio
import json
import os
import socket
import sys
from collections.abc import Callable

ROOM = 65_536
"""Bytes that are read at once."""


def listener() -> socket.socket:
    """A socket that listens. It says that it is TCP, or asyncio would leave Nagle's algorithm on:
    messages would wait 40 ms for each other, and cost half as much."""
    bound = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    bound.bind(("127.0.0.1", 0))
    bound.listen(4_096)
    return bound


def announce(port: int, **how: object) -> None:
    """Say where sockets are taken: the one line that this process writes of itself."""
    print(json.dumps({"port": port, **how}), flush=True)


def asked(publish: Callable[[int], None]) -> None:
    """Call `publish` with how many messages are asked for: each byte of stdin is one."""
    heard(lambda data: publish(len(data)))


def heard(take: Callable[[bytes], None]) -> None:
    """Call `take` with what comes on stdin. The process ends with it."""
    loop = asyncio.get_running_loop()
    standard_input = sys.stdin.fileno()

    def readable() -> None:
        data = os.read(standard_input, ROOM)
        if data:
            take(data)
        else:
            os._exit(0)

    os.set_blocking(standard_input, False)
    loop.add_reader(standard_input, readable)
