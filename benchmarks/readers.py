"""Readers of a fan-out, in a process of their own: they count the bytes of whole messages.

`python -m benchmarks.readers PORT READERS SIZE`: every message has SIZE bytes. For each number on
stdin it reads until so many messages have come to all of them together, and prints how many.
"""

import base64
import selectors
import socket
import sys


def connect(port: int) -> socket.socket:
    peer = socket.create_connection(("127.0.0.1", port))
    key = base64.b64encode(bytes(16)).decode()
    peer.sendall(
        f"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n".encode()
    )
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += peer.recv(1)
    peer.setblocking(False)
    return peer


def main() -> None:
    port, readers, size = map(int, sys.argv[1:])
    frame = size + (2 if size < 126 else 4)
    ready = selectors.DefaultSelector()
    peers = [connect(port) for _ in range(readers)]
    for peer in peers:
        ready.register(peer, selectors.EVENT_READ)
    ready.register(sys.stdin, selectors.EVENT_READ)
    got, wanted = 0, -1
    while True:
        for key, _ in ready.select():
            if isinstance(key.fileobj, socket.socket):
                got += len(key.fileobj.recv(1 << 20))
            elif line := sys.stdin.readline():
                wanted = int(line)
            else:
                return
        if wanted >= 0 and got >= wanted * frame:
            print(got // frame if got % frame == 0 else -1, flush=True)
            wanted = -1


main()
