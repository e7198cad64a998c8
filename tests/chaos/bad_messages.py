"""Messages that no honest client sends, each with the answer that it must get."""

from collections import Counter
from collections.abc import Iterator
from random import Random

from tests.chaos.bad_handshakes import opening
from tests.chaos.strikers import ANSWERED, Case
from tests.server.raw_peer import BINARY, TEXT, frame

NOBODY = "00000000-0000-4000-8000-000000000000"
NAMELESS = [
    b"", b"{", b"[]", b"null", b"17", b'"ping"', b'{"id":"a"', b'{"type":"ping"}', b"\x00",
    b'{"type":"ping","id":""}', b'{"type":"ping","id":7}', b'{"type":"ping","id":null}',
    b'{"type":"ping","id":"' + b"i" * 65 + b'"}', b'{"id":"a","type":"ping"}}', b"[" * 5_000,
    b'{"a":' * 5_000, b"NaN", b"-", b'{"type":"ping","id":"\\x"}', b"\xef\xbb\xbf{}",
]  # fmt: skip
"""Nobody knows what to answer: the answer has no id. Twenty in a row end the socket."""
NAMED = [
    '"type":"lunch"',
    '"type":7',
    '"typ":"ping"',
    '"type":"subscribe"',
    '"type":"subscribe","run_id":7',
    '"type":"subscribe","run_id":"x","after":{"gen":-1,"seq":0}',
    '"type":"subscribe","run_id":"x","after":{"gen":1}',
    '"type":"subscribe","run_id":"x","tail":-1',
    '"type":"subscribe","run_id":"x","tail":1e99',
    '"type":"subscribe","run_id":"x","detail":"all"',
    '"type":"launch"',
    '"type":"launch","key":""',
    '"type":"launch","key":7,"project_id":"x","command":"/code-review"',
    '"type":"rerun"',
    '"type":"rerun","run_id":"x","key":"k","steps":"all"',
    '"type":"cancel"',
    '"type":"cancel","run_id":[]',
    '"type":"finish","run_id":{}',
    '"type":"hello"',
    '"type":"plan","band":"huge"',
    '"type":"subscribe","run_id":"x","tail":' + "9" * 400,
    '"type":"launch","key":"k","project_id":"x","input":' + "[" * 70 + "]" * 70,
]
"""What follows an id; each is answered `bad_message`."""
NOT_FOUND = [
    f'"type":"subscribe","run_id":"{NOBODY}"', f'"type":"cancel","run_id":"{NOBODY}"',
    f'"type":"finish","run_id":"{NOBODY}"', f'"type":"rerun","run_id":"{NOBODY}","key":"k"',
    f'"type":"launch","key":"k","project_id":"{NOBODY}","command":"/code-review small"',
]  # fmt: skip
BURST = 60
"""Messages of one socket, which may send 64 at once."""


def message_sessions(host: str, messages: int, *, seed: int) -> Iterator[Case]:
    """Sockets that send bad messages of every kind, BURST each."""
    random = Random(seed)
    for _ in range(-(-messages // BURST)):
        asks: Counter[tuple[str, str]] = Counter()
        sent: list[bytes] = []
        for number in range(BURST):
            text, answer = _message(random, str(number), number)
            sent.append(text)
            asks[answer] += 1
        yield Case("messages", opening(host), b"".join(sent), frozenset({ANSWERED}), asks=asks)


def _message(random: Random, id: str, number: int) -> tuple[bytes, tuple[str, str]]:
    if number % 12 == 0:
        return _named(id, random.choice(NOT_FOUND)), (id, "not_found")
    if number % 12 == 1:
        return _named(id, '"type":"ping","x":"' + "x" * 66_000 + '"'), (id, "too_large")
    if number % 12 == 2:
        return frame(BINARY, _plain(id, '"type":"ping"')), ("", "bad_message")
    if number % 2:
        return frame(TEXT, random.choice(NAMELESS)), ("", "bad_message")
    return _named(id, random.choice(NAMED)), (id, "bad_message")


def _named(id: str, rest: str) -> bytes:
    return frame(TEXT, _plain(id, rest))


def _plain(id: str, rest: str) -> bytes:
    return f'{{"id":"{id}",{rest}}}'.encode()
