"""`/metrics`: what an operator watches, as Prometheus reads it. Counted where it happens, and put
together only when somebody asks."""

import asyncio
import os
import resource
from collections import Counter, deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal, NamedTuple

from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp

from protocol.ids import UserId
from protocol.states import RunStatus
from server.channel.traffic import Traffic
from server.channel.websocket import Channel
from server.http.sse import Events
from server.http.users import require_operator
from server.rates import Rates
from server.runs.runner import Runner
from server.runs.under_way import UnderWay

LOOK_SECONDS = 1.0
LOOKS = 60
TYPE = "text/plain; version=0.0.4"


class Metric(NamedTuple):
    name: str
    kind: Literal["counter", "gauge"]
    says: str
    values: Mapping[str, float]
    """By their labels, as `status="failed"`; an empty text has none."""


class LoopLag:
    """How late the event loop is: everything that is written here waits at least so long."""

    def __init__(self) -> None:
        self._late: deque[float] = deque([0.0], maxlen=LOOKS)

    @property
    def last(self) -> float:
        return self._late[-1]

    @property
    def worst(self) -> float:
        """Of the last minute."""
        return max(self._late)

    async def watch(self) -> None:
        """Look again and again, for ever."""
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + LOOK_SECONDS
            await asyncio.sleep(LOOK_SECONDS)
            self._late.append(max(0.0, loop.time() - due))


class Metrics:
    def __init__(
        self,
        *,
        channel: Channel,
        events: Events,
        traffic: Traffic,
        runner: Runner,
        under_way: UnderWay,
        rates: Rates,
        ended: Counter[RunStatus],
        writes: Callable[[], int],
        lag: LoopLag,
    ) -> None:
        """`writes` says how many wait for the store."""
        self._channel = channel
        self._events = events
        self._traffic = traffic
        self._runner = runner
        self._under_way = under_way
        self._rates = rates
        self._ended = ended
        self._writes = writes
        self._lag = lag

    async def answer(self, request: Request, user: UserId) -> ASGIApp:
        """For the operator alone: behind a proxy everybody comes from loopback."""
        require_operator(request, "sees metrics")
        open_files = await asyncio.to_thread(_open_files)
        metrics = [*self._clients(), *self._work(), *self._process(open_files)]
        return PlainTextResponse(text(metrics), media_type=TYPE)

    def _clients(self) -> list[Metric]:
        sockets, traffic = self._channel.count(), self._traffic
        closes = {f'code="{code.value}"': float(n) for code, n in traffic.closes.items()}
        return [
            gauge("podium_sockets", "Sockets that are signed in", sockets.signed_in),
            gauge("podium_strangers", "Sockets that wait for their ticket", sockets.strangers),
            gauge("podium_event_streams", "Event streams that are open", self._events.count),
            gauge("podium_subscriptions", "Runs followed, over all sockets", sockets.subscriptions),
            counter("podium_frames_sent_total", "Frames given to sockets", traffic.frames),
            counter("podium_bytes_sent_total", "Bytes given to sockets", traffic.bytes),
            counter("podium_lagging_total", "Readers that fell behind the ring", traffic.lagging),
            counter("podium_stalled_total", "Sockets cut off as stalled", traffic.stalled),
            Metric("podium_closes_total", "counter", "Sockets that we closed", closes),
        ]

    def _work(self) -> list[Metric]:
        ended = {f'status="{status.value}"': float(n) for status, n in self._ended.items()}
        limited = {
            'what="messages"': float(self._traffic.rate_limited),
            'what="launches"': float(self._under_way.rates.refused),
            'what="requests"': float(self._rates.refused),
        }
        return [
            gauge("podium_runs", "Runs that have not ended", self._runner.count),
            gauge("podium_launches", "Launches being made ready", self._under_way.count),
            Metric("podium_runs_ended_total", "counter", "Runs that ended", ended),
            Metric("podium_rate_limited_total", "counter", "Refused as too fast", limited),
            gauge("podium_store_queue", "Writes that wait for the store", self._writes()),
            gauge("podium_loop_lag_seconds", "How late the event loop is", self._lag.last),
            gauge("podium_loop_lag_max_seconds", "The worst of a minute", self._lag.worst),
        ]

    def _process(self, open_files: int) -> list[Metric]:
        times = os.times()
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        return [
            gauge("podium_tasks", "Tasks of the event loop", len(asyncio.all_tasks())),
            counter("process_cpu_seconds_total", "Processor time", times.user + times.system),
            gauge("process_open_fds", "Open descriptors", open_files),
            gauge("process_max_fds", "Descriptors that may be open", limit),
        ]


def gauge(name: str, says: str, value: float) -> Metric:
    return Metric(name, "gauge", says, {"": value})


def counter(name: str, says: str, value: float) -> Metric:
    return Metric(name, "counter", says, {"": value})


def text(metrics: list[Metric]) -> str:
    lines: list[str] = []
    for it in metrics:
        lines += f"# HELP {it.name} {it.says}.", f"# TYPE {it.name} {it.kind}"
        for labels, value in it.values.items():
            name = f"{it.name}{{{labels}}}" if labels else it.name
            lines.append(f"{name} {int(value) if value == int(value) else value}")
    return "\n".join([*lines, ""])


def _open_files() -> int:
    folder = Path("/proc/self/fd")
    return len(list(folder.iterdir())) if folder.exists() else 0
