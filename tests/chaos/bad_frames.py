"""Frames that no honest client sends, each with what it must get.

All of them are made by a seeded generator: the same seed is the same attack.
"""

import struct
from collections.abc import Callable, Iterator
from random import Random

from tests.chaos.bad_handshakes import Made, opening
from tests.chaos.strikers import ALIVE, CUT, STILL_THERE, Case
from tests.server.raw_peer import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    fragments,
    frame,
)  # fmt: skip

FIN = 0x80
PROTOCOL, UTF8, TOO_BIG = {"1002"}, {"1007"}, {"1009"}


def raw(first: int, size: int, payload: bytes = b"", *, masked: bool = True) -> bytes:
    """A frame whose head says what it wants; the length in the longest form."""
    mask = 0x80 if masked else 0
    return struct.pack("!BBQ", first, mask | 127, size) + bytes(4 if masked else 0) + payload


def _reserved_bits(random: Random) -> Made:
    return frame(random.choice((0x1, 0x2, 0x9)) | random.randrange(1, 8) << 4, b"x"), PROTOCOL


def _bad_opcode(random: Random) -> Made:
    return frame(random.choice([3, 4, 5, 6, 7, 11, 12, 13, 14, 15]), b"x"), PROTOCOL


def _unmasked(random: Random) -> Made:
    size = random.randrange(126)
    return struct.pack("!BB", FIN | random.choice((TEXT, PING)), size) + bytes(size), PROTOCOL


def _large_control(random: Random) -> Made:
    return frame(random.choice((PING, PONG, CLOSE)), bytes(random.randrange(126, 70_000))), PROTOCOL


def _fragmented_control(random: Random) -> Made:
    return frame(random.choice((PING, PONG, CLOSE)), b"", fin=False), PROTOCOL


def _continuation_of_nothing(random: Random) -> Made:
    return frame(CONTINUATION, b"x", fin=random.random() < 0.5), PROTOCOL


def _message_in_a_message(random: Random) -> Made:
    second = frame(random.choice((TEXT, BINARY)), b"{}", fin=random.random() < 0.5)
    return frame(TEXT, b"{", fin=False) + second, PROTOCOL


def _endless_length(random: Random) -> Made:
    size = random.choice((2**63, 2**63 - 1, 2**64 - 1, 2**32, 1024 * 1024 + 1))
    return raw(FIN | TEXT, size, bytes(random.randrange(100))), TOO_BIG


def _longer_than_it_says(random: Random) -> Made:
    """The rest is read as the next frame, which has reserved bits."""
    return frame(TEXT, b"{}")[:-1] + b"}" + b"\xf1" + bytes(9), PROTOCOL


def _never_whole(random: Random) -> Made:
    """Half a frame, and the end of the connection."""
    whole = frame(TEXT, random.randbytes(random.randrange(200, 60_000)))
    return whole[: random.randrange(1, 200)], {CUT}


def _large_in_parts(random: Random) -> Made:
    """Together more than the server's parser keeps."""
    part = frame(CONTINUATION, bytes(60_000), fin=False)
    return frame(TEXT, bytes(60_000), fin=False) + part * 20, TOO_BIG


def _no_utf8(random: Random) -> Made:
    bad = random.choice((b"\xff", b"\xc3(", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xc0\xaf"))
    return frame(TEXT, b'{"id":"' + bad + b'"}'), UTF8


def _no_utf8_in_parts(random: Random) -> Made:
    """Each fragment ends within a character, and the last one never completes it."""
    text = "ééé€€€😀😀".encode()
    cut = random.randrange(1, len(text) - 4)
    return (
        frame(TEXT, text[:cut], fin=False)
        + frame(PING, b"between")
        + frame(CONTINUATION, text[cut:-1], fin=False)
        + frame(CONTINUATION, b"", fin=True)
    ), UTF8


def _compressed(random: Random) -> Made:
    """No compression was agreed on."""
    return frame(0x40 | TEXT, b"\xaaV*\xceH\xccK\xc9I\x05\x00"), PROTOCOL


def _bad_close(random: Random) -> Made:
    code = random.choice((0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65_535))
    return frame(CLOSE, struct.pack("!H", code) + b"why"), PROTOCOL


def _short_close(random: Random) -> Made:
    return frame(CLOSE, b"\x03"), PROTOCOL


def _close_in_bad_text(random: Random) -> Made:
    return frame(CLOSE, b"\x03\xe8\xff\xfe"), UTF8 | PROTOCOL


def _close_in_a_message(random: Random) -> Made:
    return frame(TEXT, b"{", fin=False) + frame(CLOSE, b"\x03\xe8"), PROTOCOL | {"1000"}


def _after_the_close(random: Random) -> Made:
    return frame(CLOSE, b"\x03\xe8") + random.randbytes(200), {"1000"}


def _many_fragments(random: Random) -> Made:
    return fragments(random.randrange(65, 3_000), random.choice((b"", b"x"))), {"4413"}


def _large_message(random: Random) -> Made:
    """It is answered, and the socket stays: that it is too large is no crime."""
    return frame(TEXT, bytes([32]) * random.randrange(65_537, 200_000)) + STILL_THERE, {ALIVE}


def _binary(random: Random) -> Made:
    return frame(BINARY, random.randbytes(random.randrange(300))) + STILL_THERE, {ALIVE}


def _empty(random: Random) -> Made:
    return frame(random.choice((TEXT, BINARY, PONG, PING)), b"") * 5 + STILL_THERE, {ALIVE}


def _unasked_pongs(random: Random) -> Made:
    return frame(PONG, random.randbytes(20)) * 40 + STILL_THERE, {ALIVE}


def _controls_between(random: Random) -> Made:
    """What the protocol allows: a ping and a pong between the fragments of a message."""
    return (
        frame(TEXT, b"{", fin=False)
        + frame(PING, b"a")
        + frame(CONTINUATION, b"", fin=False)
        + frame(PONG, b"b")
        + frame(CONTINUATION, b"}")
        + STILL_THERE
    ), {ALIVE}


def _noise(random: Random) -> Made:
    """Bytes without a plan: their beginning may be a frame that is still to come."""
    return random.randbytes(random.randrange(2, 2_000)), {
        CUT, "1000", "1002", "1007", "1009", *map(str, range(3_000, 5_000))
    }  # fmt: skip


FRAMES: list[Callable[[Random], Made]] = [
    _reserved_bits, _bad_opcode, _unmasked, _large_control, _fragmented_control,
    _continuation_of_nothing, _message_in_a_message, _endless_length, _longer_than_it_says,
    _no_utf8, _no_utf8_in_parts, _compressed, _bad_close, _short_close, _close_in_bad_text,
    _close_in_a_message, _after_the_close, _many_fragments, _large_message, _binary, _empty,
    _unasked_pongs, _controls_between, _never_whole, _large_in_parts, _noise,
]  # fmt: skip
ENDING = (_never_whole, _noise)
"""What a server may wait for the rest of, so that the client must be the one to end it."""


def frame_sessions(host: str, count: int, *, seed: int) -> Iterator[Case]:
    """Sessions of every kind in turn, of a user and of strangers that may still say `hello`."""
    random = Random(seed)
    user, stranger = opening(host), opening(host, f"Origin: http://{host}", Authorization="")
    for number in range(count):
        make = FRAMES[number % len(FRAMES)]
        payload, expects = make(random)
        first = stranger if random.random() < 0.3 else user
        yield Case(make.__name__, first, payload, frozenset(expects), ends=make in ENDING)


def fragment_sessions(host: str, count: int, *, each: int) -> Iterator[Case]:
    """So many fragments in each, of one byte and of none in turn."""
    floods = [fragments(each, payload) for payload in (b"x", b"")]
    for number in range(count):
        yield Case("flood", opening(host), floods[number % 2], frozenset({"4413"}))
