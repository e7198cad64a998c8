"""The words of a scenario: what a server that misbehaves does, and what an application asks.

A script is played in order by `stage.py`. Messages of the client are taken strictly one by one: a
message that no move expects fails the scenario.
"""

from typing import Any, NamedTuple

RUN = "0b5f3c9e-7a1d-4c52-9a51-0d6c2f1e8a01"
OTHER = "0b5f3c9e-7a1d-4c52-9a51-0d6c2f1e8a02"
AT = "2026-11-22T10:00:00.000Z"
FOREVER = 3600.0

# --- what the server does -------------------------------------------------------------------------


class Accept(NamedTuple):
    """Wait for the next connection and accept it."""

    protocol: bool = True
    not_before_ms: float = 0
    """Measured from the last Mark."""


class Turn(NamedTuple):
    """Wait for the next connection and turn it away."""

    status: int


class TurnAll(NamedTuple):
    """Turn away whoever comes from now on. (Node asks twice by itself at a 401.)"""

    status: int


class Leave(NamedTuple):
    """Wait for the next connection, and never answer it."""


class Say(NamedTuple):
    """Send what is no frame perhaps: text or bytes as they are."""

    data: str | bytes


class Expect(NamedTuple):
    """The next message has these fields, and lacks those that are None."""

    fields: dict[str, Any]
    not_before_ms: float = 0


class Same(NamedTuple):
    """The next message is the last one again, but for its id."""

    not_before_ms: float = 0


class Answer(NamedTuple):
    """Acknowledge the last message."""

    fields: dict[str, Any]


class Deny(NamedTuple):
    """Refuse the last message."""

    code: str
    retry_after_ms: int | None = None


class Close(NamedTuple):
    code: int


class Cut(NamedTuple):
    """End the connection with a reset, as a crash or a proxy does."""


class Left(NamedTuple):
    """The client gives this connection up by itself."""


class Mark(NamedTuple):
    """From here on `not_before_ms` is measured."""


# --- what the application does --------------------------------------------------------------------


class App(NamedTuple):
    """Done before the next move: `follow`, `unfollow`, `index`, `launch`, `cancel`, `ping`."""

    do: str
    fields: dict[str, Any]


class Hears(NamedTuple):
    """Wait until the application has its answer to `label`."""

    label: str


class Given(NamedTuple):
    """Wait until the application has been given this frame of RUN."""

    seq: int


Move = (
    Accept
    | Turn
    | TurnAll
    | Leave
    | Say
    | Expect
    | Same
    | Answer
    | Deny
    | Close
    | Cut
    | Left
    | Mark
    | App
    | Hears
    | Given
)


class Scenario(NamedTuple):
    """A script, and what must have come of it."""

    name: str
    moves: tuple[Move, ...]
    heard: list[list[Any]] = []
    """Of RUN, in order: `["frame", seq]`, `["truncate", seq]`, `["reset", head]`, …"""
    states: list[dict[str, Any]] | None = None
    """Every change of state, with the fields that matter here; None: not looked at."""
    answers: dict[str, dict[str, Any]] = {}
    """By label: fields of the ack, or `{"error": code}`."""
    rows: list[str] = []
    """The ids of the run list's rows, in order."""
    options: dict[str, Any] = {}
    live: bool = True
    """Whether the client is connected at the end."""


# --- the usual ------------------------------------------------------------------------------------


def say(type: str, **fields: Any) -> dict[str, Any]:
    return {"type": type, **fields}


def hello(*, heartbeat: float = FOREVER, **limits: Any) -> dict[str, Any]:
    usual = {
        "message_bytes": 65536,
        "subscriptions": 200,
        "sockets": 32,
        "burst": 64,
        "per_second": 20,
        "heartbeat_seconds": heartbeat,
    }
    return say(
        "flow_run_hello", user_id="local", build="0", server_time=AT, limits={**usual, **limits}
    )


def frame(seq: int, run: str = RUN, **fields: Any) -> dict[str, Any]:
    """A stored frame."""
    usual = {"type": "flow_run_status", "run_id": run, "seq": seq, "at": AT, "status": "running"}
    return {**usual, **fields}


def frames(*seqs: int) -> list[dict[str, Any]]:
    return [frame(seq) for seq in seqs]


def subscribed(start: int, *, gen: int = 1, head: int = 9, run: str = RUN) -> dict[str, Any]:
    return {"type": "flow_run_subscribed", "run_id": run, "gen": gen, "head": head, "from": start}


def caught_up(seq: int) -> dict[str, Any]:
    return say("flow_run_caught_up", run_id=RUN, seq=seq)


def beat(**heads: int) -> dict[str, Any]:
    """A heartbeat; `run=3` is the head of RUN."""
    named = {RUN: heads["run"]} if "run" in heads else {}
    return say("flow_run_heartbeat", heads=named, at=AT)


def follow(run: str = RUN, **fields: Any) -> App:
    return App("follow", {"run": run, **fields})


def launch(label: str, **fields: Any) -> App:
    return App("launch", {"label": label, "body": {"project_id": OTHER, **fields}})


def cancel(label: str) -> App:
    return App("cancel", {"label": label, "run": RUN})


def ping(label: str = "ping") -> App:
    return App("ping", {"label": label})


def asks(seq: int = 0, *, gen: int = 1, run: str = RUN) -> Expect:
    return Expect({"type": "subscribe", "run_id": run, "after": {"gen": gen, "seq": seq}})


def taken(*seqs: int) -> list[list[Any]]:
    return [["frame", seq] for seq in seqs]
