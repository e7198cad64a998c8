"""What a client has to get on with: the list that every client of ours is played through.

It is data. `python -m tests.clients COMMAND…` plays it for a client of your own.
"""

import json
from typing import Any

import msgspec

from protocol.errors import CLOSE_RULES
from tests.clients.script import (
    OTHER,
    RUN,
    Accept,
    Answer,
    App,
    Close,
    Cut,
    Deny,
    Expect,
    Given,
    Hears,
    Leave,
    Left,
    Mark,
    Move,
    Same,
    Say,
    Scenario,
    Turn,
    TurnAll,
    asks,
    beat,
    cancel,
    caught_up,
    follow,
    frame,
    frames,
    hello,
    launch,
    ping,
    say,
    subscribed,
    taken,
)
from tests.protocol.samples import RUN as SNAPSHOT
from tests.protocol.samples import TOTALS

COME_BACK = [code for code, rule in CLOSE_RULES.items() if rule.reconnect and code != 1006]
STAY_AWAY = [code for code, rule in CLOSE_RULES.items() if not rule.reconnect and code != 4401]
ANSWERED = Answer({"run_id": RUN})
LAUNCHED = Answer({"run_id": RUN, "created": True})


def tells(*said: dict[str, Any]) -> tuple[Say, ...]:
    """The server sends these frames."""
    return tuple(Say(json.dumps(each)) for each in said)


def greets(**limits: Any) -> tuple[Move, ...]:
    """A connection comes in and is welcome."""
    return (Accept(), *tells(hello(**limits)))


def begins(seq: int = 0, *, gen: int = 1, of: int | None = None) -> tuple[Move, ...]:
    """The client subscribes from its cursor, and the server begins there."""
    return (asks(seq, gen=gen if of is None else of), ANSWERED, *tells(subscribed(seq, gen=gen)))


def follows(*seqs: int) -> tuple[Move, ...]:
    """The application follows RUN from its start, and these frames come."""
    return (follow(), *begins(), *tells(*frames(*seqs)))


def quiet() -> tuple[Move, ...]:
    """The client has heard all that was said, and asks nothing because of it."""
    return tuple(
        move
        for label in ("quiet", "still quiet")
        for move in (ping(label), Expect({"type": "ping"}), Answer({}), Hears(label))
    )


def row(run_id: str) -> dict[str, Any]:
    run = {**msgspec.to_builtins(SNAPSHOT), "id": run_id}
    fields = {"run": run, "steps_done": 0, "steps_total": 1}
    return say("flow_run_index", row=fields, project_id=OTHER)


RESET = say(
    "flow_run_reset",
    run_id=RUN,
    reason="expired",
    snapshot=msgspec.to_builtins(SNAPSHOT),
    gen=2,
    head=7,
)
FINISHED = frame(2, type="flow_run_finished", totals=msgspec.to_builtins(TOTALS), status="failed")
LIVE = {"state": "live"}
CONNECTING = {"state": "connecting"}
RECONNECTING = {"state": "reconnecting"}


def after_wait(milliseconds: int) -> dict[str, Any]:
    return {"state": "reconnecting", "retry_in_ms": milliseconds}


FRAMES = [
    Scenario(
        "frames are given once and in order",
        (*greets(), *follows(1, 2, 3), *tells(caught_up(3), *frames(4))),
        [*taken(1, 2, 3), ["caught_up", 3], *taken(4)],
        states=[CONNECTING, LIVE],
    ),
    Scenario(
        # The page once asked when the socket was open, and again at the hello: it showed all twice.
        "a hello that comes late is waited for, and asked is once",
        (
            Accept(),
            Expect({"type": "hello", "ticket": "first"}),
            follow(),
            Answer({}),
            *tells(hello()),
            *begins(),
            *tells(*frames(1, 2)),
        ),
        taken(1, 2),
        options={"tickets": ["first"]},
    ),
    Scenario(
        "nothing is asked before the hello",
        (
            Accept(),
            Expect({"type": "hello", "ticket": "first"}),
            follow(),
            Deny("unauthenticated"),
            Left(),
            Accept(),
            Expect({"type": "hello", "ticket": "second"}),
            Answer({}),
            *tells(hello()),
            *begins(),
        ),
        options={"tickets": ["first", "second"]},
    ),
    Scenario(
        # The browser has podium's cookie as well, and the server greets whoever that one is.
        "nothing is asked before the ticket is answered",
        (
            Accept(),
            Expect({"type": "hello", "ticket": "first"}),
            *tells(hello()),
            follow(),
            Deny("unauthenticated"),
            Left(),
            Accept(),
            Expect({"type": "hello", "ticket": "second"}),
            *tells(hello()),
            Answer({}),
            *begins(),
            *tells(*frames(1)),
        ),
        taken(1),
        states=[CONNECTING, CONNECTING, LIVE],
        options={"tickets": ["first", "second"]},
    ),
    Scenario(
        "a second answer to one subscription makes the reader start again, not double",
        (*greets(), *follows(1, 2), *tells(subscribed(0), *frames(1, 2, 3))),
        [*taken(1, 2), ["truncate", 0], *taken(1, 2, 3)],
    ),
    Scenario(
        "doubles are left out",
        (*greets(), *follows(1, 2, 2, 1, 3, 3)),
        taken(1, 2, 3),
    ),
    Scenario(
        "a gap is asked for again",
        (*greets(), *follows(1, 2, 4, 5), *begins(2), *tells(*frames(3, 4, 5))),
        taken(1, 2, 3, 4, 5),
    ),
    Scenario(
        "frames in the wrong order come in the right one",
        (*greets(), *follows(1, 3, 2, 4), *begins(1), *tells(*frames(2, 3, 4))),
        taken(1, 2, 3, 4),
    ),
    Scenario(
        "a gap that stays is not asked for in a hurry, but at the next heartbeats",
        (
            *greets(),
            *follows(1, 3),
            *begins(1),
            *tells(*frames(3)),
            *quiet(),
            *tells(beat(run=3), beat(run=3)),
            *begins(1),
            *tells(*frames(2, 3)),
        ),
        taken(1, 2, 3),
    ),
    Scenario(
        "a loss at a quiet tail is found by the heads, once it is sure",
        (
            *greets(),
            *follows(1, 2),
            *tells(beat(run=3)),
            *quiet(),
            *tells(beat(run=3)),
            *begins(2),
            *tells(*frames(3)),
        ),
        taken(1, 2, 3),
    ),
    Scenario(
        "frames on their way are no loss",
        (*greets(), *follows(1), *tells(beat(run=9), frame(2), beat(run=9), frame(3), beat(run=9))),
        taken(1, 2, 3),
    ),
    Scenario(
        "a caught_up that names what has not come shows a loss at once",
        (
            *greets(),
            *follows(1),
            *tells(caught_up(2)),
            *begins(1),
            *tells(*frames(2), caught_up(2)),
        ),
        [*taken(1, 2), ["caught_up", 2]],
    ),
    Scenario(
        "a server that has forgotten the run is asked again",
        (*greets(), *follows(1), *tells(beat(), beat()), *begins(1), *tells(*frames(2))),
        taken(1, 2),
    ),
    Scenario(
        "an answer that never says where frames go on is asked for again",
        (
            *greets(),
            follow(),
            asks(),
            ANSWERED,
            *tells(*frames(1), beat(), beat()),
            *begins(),
            *tells(*frames(1)),
        ),
        taken(1),
    ),
    Scenario(
        "of an ended run nothing more is wanted",
        (
            *greets(),
            *follows(1),
            *tells(FINISHED),
            Expect({"type": "unsubscribe", "run_id": RUN}),
            Answer({}),
            *tells(*frames(3), beat(run=3), beat(run=3)),
            Close(1012),
            *greets(),
        ),
        taken(1, 2),
    ),
    Scenario(
        "what is unknown is counted, not given",
        (
            *greets(),
            *follows(),
            *tells(
                frame(1, novelty={"a": 1}),
                frame(2, type="flow_run_novelty"),
                say("flow_run_weather", run_id=RUN, seq=9, sky="blue"),
                say("flow_run_mood", mood="good"),
                frame(3),
            ),
        ),
        taken(1, 3),
    ),
    Scenario(
        "an outline has holes",
        (
            *greets(),
            follow(detail="outline"),
            Expect(
                {
                    "type": "subscribe",
                    "run_id": RUN,
                    "detail": "outline",
                    "after": {"gen": 1, "seq": 0},
                }
            ),
            ANSWERED,
            *tells(subscribed(0), *frames(1, 4, 4, 3, 9), caught_up(9), beat(run=9), beat(run=9)),
        ),
        [*taken(1, 4, 9), ["caught_up", 9]],
    ),
    Scenario(
        "a tail begins where the server says, and goes on from the cursor",
        (
            *greets(),
            follow(tail=2),
            Expect({"type": "subscribe", "run_id": RUN, "tail": 2, "after": None}),
            ANSWERED,
            *tells(subscribed(5), *frames(6, 7)),
            Close(1012),
            *greets(),
            *begins(7),
        ),
        taken(6, 7),
    ),
    Scenario(
        "a reader that lags is told so and loses nothing",
        (*greets(), *follows(1), *tells(say("flow_run_lagging", run_id=RUN, behind=7), *frames(2))),
        [*taken(1), ["lagging", 7], *taken(2)],
    ),
    Scenario(
        "frames that have expired begin again at the snapshot",
        (
            *greets(),
            follow(after={"gen": 1, "seq": 3}),
            asks(3),
            ANSWERED,
            *tells(RESET, frame(8)),
            Close(1012),
            *greets(),
            *begins(8, gen=2),
        ),
        [["reset", 7], *taken(8)],
    ),
    Scenario(
        "what a server has lost is dropped",
        (
            *greets(),
            *follows(1, 2, 3),
            Close(1012),
            *greets(),
            asks(3),
            ANSWERED,
            *tells(subscribed(2, gen=2), *frames(3)),
            Close(1012),
            *greets(),
            *begins(3, gen=2),
        ),
        [*taken(1, 2, 3), ["truncate", 2], *taken(3)],
    ),
    Scenario(
        "nothing is taken before the server has said where frames go on",
        (
            *greets(),
            *follows(1, 2),
            Close(1012),
            *greets(),
            asks(2),
            *tells(*frames(3)),
            ANSWERED,
            *tells(subscribed(1, gen=2), *frames(2, 3)),
        ),
        [*taken(1, 2), ["truncate", 1], *taken(2, 3)],
    ),
    Scenario(
        "a server that would skip frames is left",
        (
            *greets(),
            follow(),
            asks(),
            ANSWERED,
            *tells(subscribed(5)),
            Left(),
            *greets(),
            *begins(),
            *tells(*frames(1)),
        ),
        taken(1),
    ),
    Scenario(
        "frames of runs that are not followed are nobody's",
        (*greets(), *follows(1), *tells(frame(2, run=OTHER), subscribed(0, run=OTHER), frame(2))),
        taken(1, 2),
    ),
    Scenario(
        "a run that is no longer followed is silent",
        (
            *greets(),
            *follows(1),
            Given(1),
            App("unfollow", {"run": RUN}),
            Expect({"type": "unsubscribe", "run_id": RUN}),
            *tells(*frames(2)),
            Answer({}),
            Close(1012),
            *greets(),
        ),
        taken(1),
    ),
    Scenario(
        "a run that cannot be seen is told once, and not asked for again",
        (*greets(), follow(), asks(), Deny("not_found"), Close(1012), *greets()),
        [["error", "not_found"]],
    ),
    Scenario(
        "a run that cannot be read now is asked for later",
        (
            *greets(),
            follow(),
            asks(),
            Deny("store_unavailable", 5),
            *begins(),
            *tells(*frames(1)),
        ),
        taken(1),
    ),
    Scenario(
        "the run list comes, and comes again",
        (
            *greets(),
            App("index", {}),
            Expect({"type": "subscribe_index"}),
            Answer({}),
            *tells(row(RUN), row(OTHER)),
            Close(1012),
            *greets(),
            Expect({"type": "subscribe_index"}),
            Answer({}),
            *tells(row(RUN)),
        ),
        rows=[RUN, OTHER, RUN],
    ),
]

COMMANDS = [
    Scenario(
        "a launch whose ack is lost is the same launch again",
        (*greets(), launch("it"), Expect({"type": "launch"}), Cut(), *greets(), Same(), LAUNCHED),
        answers={"it": {"run_id": RUN, "created": True}},
    ),
    Scenario(
        "a launch is asked until it is answered, commands before subscriptions",
        (
            *greets(),
            *follows(1),
            launch("it", key="k"),
            Expect({"type": "launch", "key": "k"}),
            Cut(),
            *greets(),
            Same(),
            Close(1012),
            Turn(503),
            *greets(),
            Same(),
            LAUNCHED,
            *begins(1),
        ),
        taken(1),
        answers={"it": {"run_id": RUN}},
    ),
    Scenario(
        "what is asked while offline is asked once somebody answers",
        (*greets(), Close(1012), cancel("it"), *greets(), Expect({"type": "cancel"}), ANSWERED),
        answers={"it": {"run_id": RUN}},
    ),
    Scenario(
        "nobody waits for ever: offline",
        (Turn(503), Leave(), launch("it", key="k"), Hears("it")),
        answers={"it": {"error": "offline"}},
        options={"launch_seconds": 0.05},
        live=False,
    ),
    Scenario(
        "nobody waits for ever: no answer",
        (
            *greets(),
            *quiet(),
            launch("it", key="k"),
            Expect({"type": "launch"}),
            Hears("it"),
            LAUNCHED,
        ),
        answers={"it": {"error": "timeout"}},
        options={"launch_seconds": 0.5},
    ),
    Scenario(
        "a ping asks about this connection",
        (Turn(503), Leave(), ping("it"), Hears("it")),
        answers={"it": {"error": "offline"}},
        live=False,
    ),
    Scenario(
        "what waits is bounded",
        (
            Turn(503),
            Leave(),
            *(cancel(f"one of many {number}") for number in range(256)),
            cancel("one too many"),
            Hears("one too many"),
        ),
        answers={"one too many": {"error": "busy"}},
        live=False,
    ),
    Scenario(
        "answers to nothing are nothing",
        (
            *greets(),
            *tells(
                say("flow_run_ack", id="nobody"),
                say("flow_run_error", id="", code="bad_message", message="no"),
                say("flow_run_error", id="nobody", code="not_found", message="no"),
            ),
            *follows(1),
        ),
        taken(1),
    ),
    Scenario(
        "a refusal has its code",
        (*greets(), cancel("it"), Expect({"type": "cancel"}), Deny("not_found")),
        answers={"it": {"error": "not_found"}},
    ),
    Scenario(
        "busy without a time is for the caller to decide about",
        (*greets(), cancel("it"), Expect({"type": "cancel"}), Deny("busy")),
        answers={"it": {"error": "busy"}},
    ),
    Scenario(
        "too fast is asked again, when the server says",
        (
            *greets(),
            cancel("it"),
            Expect({"type": "cancel"}),
            Mark(),
            Deny("rate_limited", 40),
            Same(not_before_ms=40),
            ANSWERED,
        ),
        answers={"it": {"run_id": RUN}},
    ),
    Scenario(
        "a subscription that is too fast is asked again, when the server says",
        (
            *greets(),
            follow(),
            asks(),
            Mark(),
            Deny("rate_limited", 40),
            Same(not_before_ms=40),
            ANSWERED,
            *tells(subscribed(0), *frames(1)),
        ),
        taken(1),
    ),
    Scenario(
        "what was put off is not asked twice by a new connection",
        (
            *greets(),
            follow(),
            asks(),
            Deny("rate_limited", 300),
            Close(1012),
            *greets(),
            asks(),
            # The second one waits for its answer when the time of the first is over.
            cancel("it"),
            Expect({"type": "cancel"}),
            Deny("busy", 600),
            Same(),
            ANSWERED,
            *tells(subscribed(0), *frames(1)),
        ),
        taken(1),
        answers={"it": {"run_id": RUN}},
    ),
    Scenario(
        "no more is said than the server takes",
        (
            Accept(),
            Mark(),
            *tells(hello(burst=4, per_second=4)),
            *(follow(run=f"{RUN[:-1]}{number}") for number in range(4, 10)),
            *(
                move
                for number in range(4, 10)
                for move in (
                    # Three at once, then three in a second: three quarters of what is allowed.
                    Expect(
                        {"type": "subscribe", "run_id": f"{RUN[:-1]}{number}"},
                        not_before_ms=1000 if number == 9 else 0,
                    ),
                    Answer({}),
                )
            ),
        ),
    ),
    Scenario(
        "what the server would not take is not sent",
        (*greets(message_bytes=200), launch("it", command="x" * 200)),
        answers={"it": {"error": "too_large"}},
    ),
]

CONNECTIONS = [
    Scenario(
        "a cut connection comes back to where it was",
        (*greets(), *follows(1, 2), Given(2), Cut(), *greets(), *begins(2), *tells(*frames(3))),
        taken(1, 2, 3),
        states=[CONNECTING, LIVE, {**RECONNECTING, "code": 1006}, CONNECTING, LIVE],
    ),
    Scenario(
        "every close code that says come back",
        tuple(
            move
            for code in [*COME_BACK, 1000, 1011, 4999]
            for move in (*greets(), *tells(beat()), Close(code))
        )
        + greets(),
    ),
    *(
        Scenario(
            f"close code {code} says stay away",
            (*greets(), cancel("it"), Expect({"type": "cancel"}), Close(code)),
            answers={"it": {"error": "offline"}},
            states=[CONNECTING, LIVE, {"state": "refused", "code": code}],
            live=False,
        )
        for code in [*STAY_AWAY, 1007, 1009]
    ),
    Scenario(
        "a server that does not let in is asked again, more and more slowly",
        (
            Turn(503),
            Turn(429),
            Turn(502),
            *greets(),
            Close(1012),
            *greets(),
            *tells(beat()),
            *quiet(),  # a reset may take along what the client has not read
            Cut(),
            *greets(),
        ),
        states=[
            CONNECTING,
            after_wait(8),
            CONNECTING,
            after_wait(16),
            CONNECTING,
            after_wait(32),
            CONNECTING,
            LIVE,
            after_wait(40),  # a hello alone is no proof of health
            CONNECTING,
            LIVE,
            after_wait(8),
            CONNECTING,
            LIVE,
        ],
        options={"backoff": {"base_ms": 8, "max_ms": 40}, "random": 1},
    ),
    Scenario(
        "the waits of many are spread from nothing on",
        (Turn(503), *greets()),
        states=[CONNECTING, after_wait(0), CONNECTING, LIVE],
        options={"backoff": {"base_ms": 8, "max_ms": 40}, "random": 0},
    ),
    Scenario(
        "a server that drains is given the time it asks for",
        (
            *greets(),
            *tells(say("flow_run_draining", retry_after_ms=40)),
            Mark(),
            Close(1012),
            Accept(not_before_ms=40),
            *tells(hello()),
        ),
        states=[CONNECTING, LIVE, after_wait(60), CONNECTING, LIVE],
    ),
    Scenario(
        "silence is the end of a connection",
        (
            # Nothing is asked on it: on a busy machine it may be over before that.
            *greets(heartbeat=0.02),
            Left(),
            *greets(),
            *follows(1),
        ),
        taken(1),
        states=[CONNECTING, LIVE, RECONNECTING, CONNECTING, LIVE],
    ),
    Scenario(
        "a hello that never comes is the end of a connection",
        (Accept(), Left(), Accept()),
        options={"connect_seconds": 1.0},
        live=False,
    ),
    Scenario(
        "text that is no frame is the end of a connection",
        (
            *greets(),
            *follows(1),
            Say("{]"),
            Left(),
            *greets(),
            *begins(1),
            Say("7"),
            Left(),
            *greets(),
            *begins(1),
            Say('{"seq": 2}'),
            Left(),
            *greets(),
            *begins(1),
            *tells(*frames(2)),
        ),
        taken(1, 2),
    ),
    Scenario(
        "a binary message says nothing",
        (*greets(), *follows(1), Say(b"\x00\xff"), *tells(*frames(2))),
        taken(1, 2),
    ),
    Scenario(
        "a frame may be huge",
        (*greets(), *follows(1), *tells(frame(2, reason="x" * 2_000_000), frame(3))),
        taken(1, 2, 3),
    ),
    Scenario(
        "what does not speak podium.v1 is nobody",
        (Accept(protocol=False), Left(), *greets(), *follows(1)),
        taken(1),
        states=[CONNECTING, RECONNECTING, CONNECTING, LIVE],
    ),
    Scenario(
        "a refused ticket is followed by another one",
        (
            Accept(),
            Expect({"type": "hello", "ticket": "first"}),
            Deny("unauthenticated"),
            Left(),
            Accept(),
            Expect({"type": "hello", "ticket": "second"}),
            Answer({}),
            *tells(hello()),
            *follows(1),
        ),
        taken(1),
        states=[CONNECTING, CONNECTING, LIVE],
        options={"tickets": ["first", "second"]},
    ),
    Scenario(
        "a socket that is somebody else's is never live",
        (
            Accept(),
            Expect({"type": "hello", "ticket": "first"}),
            *tells(hello()),
            cancel("it"),
            Deny("forbidden"),
            Left(),
        ),
        answers={"it": {"error": "offline"}},
        states=[CONNECTING, {"state": "refused", "code": 4403}],
        options={"tickets": ["first", "second"]},
        live=False,
    ),
    Scenario(
        "a ticket that is never answered is the end of a connection",
        (
            Accept(),
            Expect({"type": "hello", "ticket": "first"}),
            *tells(hello()),
            Left(),
            Accept(),
            Expect({"type": "hello", "ticket": "second"}),
        ),
        options={"tickets": ["first", "second"], "connect_seconds": 1.0},
        live=False,
    ),
    Scenario(
        "a session that ends is renewed",
        (
            Accept(),
            Expect({"type": "hello", "ticket": "first"}),
            Answer({}),
            *tells(hello()),
            *follows(1),
            Close(4401),
            Accept(),
            Expect({"type": "hello", "ticket": "second"}),
            Answer({}),
            *tells(hello()),
            *begins(1),
            *tells(*frames(2)),
        ),
        taken(1, 2),
        states=[CONNECTING, LIVE, CONNECTING, LIVE],
        options={"tickets": ["first", "second"]},
    ),
    Scenario(
        "who has no credentials left is signed out",
        (
            Accept(),
            Expect({"type": "hello", "ticket": "first"}),
            Answer({}),
            *tells(hello()),
            cancel("it"),
            Expect({"type": "cancel"}),
            Close(4401),
        ),
        answers={"it": {"error": "unauthenticated"}},
        states=[CONNECTING, LIVE, CONNECTING, {"state": "signed_out", "code": 4401}],
        options={"tickets": ["first"]},
        live=False,
    ),
    Scenario(
        "two refused tickets are enough",
        (
            Accept(),
            Expect({"type": "hello", "ticket": "first"}),
            Close(4401),
            Accept(),
            Expect({"type": "hello", "ticket": "second"}),
            Close(4401),
        ),
        states=[CONNECTING, CONNECTING, {"state": "signed_out"}],
        options={"tickets": ["first", "second", "third"]},
        live=False,
    ),
    Scenario(
        # Its socket is let in as a stranger's: nothing but its own hello has the server speak.
        "who has no ticket and is not signed in is told at once",
        (
            Accept(),
            Expect({"type": "hello", "ticket": None}),
            cancel("it"),
            Deny("unauthenticated"),
            Left(),
            Accept(),
            Expect({"type": "hello", "ticket": None}),
            Deny("unauthenticated"),
        ),
        answers={"it": {"error": "unauthenticated"}},
        states=[CONNECTING, CONNECTING, {"state": "signed_out", "code": 4401}],
        live=False,
    ),
    Scenario(
        "a provider of tickets that is out of order is asked again",
        (
            Accept(),
            Expect({"type": "hello", "ticket": "first"}),
            Answer({}),
            *tells(hello()),
        ),
        states=[CONNECTING, after_wait(45), CONNECTING, LIVE],
        options={"tickets": [{"code": "rate_limited", "retry_after_ms": 30}, "first"]},
    ),
    Scenario(
        "who is not let in for want of credentials is signed out",
        (TurnAll(401),),
        states=[CONNECTING, CONNECTING, {"state": "signed_out"}],
        live=False,
    ),
    Scenario(
        "who is not let in from here stays away",
        (TurnAll(403),),
        states=[CONNECTING, {"state": "refused", "code": 4403}],
        live=False,
    ),
]

SCENARIOS = [*FRAMES, *COMMANDS, *CONNECTIONS]
BY_NAME = {scenario.name: scenario for scenario in SCENARIOS}
assert len(BY_NAME) == len(SCENARIOS)
