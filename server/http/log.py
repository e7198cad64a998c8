"""The stored log over REST: pages of frames, and the whole of it as one file."""

import asyncio
import re
import zlib
from collections.abc import AsyncIterator, Callable

import msgspec
from msgspec import Raw
from starlette.requests import Request
from starlette.routing import Route
from starlette.types import ASGIApp

from protocol.commands import Detail
from protocol.connection import LogState, start_after
from protocol.errors import ErrorCode, ProtocolError
from protocol.ids import RunId, Seq, UserId
from protocol.rest import FramesPage, RecordingHeader, parse_log_query
from server.http.answers import json
from server.http.asking import guest_of, run_of, signed_in
from server.http.sign_in import SignIn
from server.http.streamed import CutShort, Outlet, Produce, Streamed
from server.ports import LogHead, Page, Store
from server.users.audit import Deed
from server.users.directory import Guest

PAGE_FRAMES = 500
"""Of one answer of `frames`."""
_GZIP = 16 + zlib.MAX_WBITS
_NOT = re.compile(r"\s*q\s*=\s*0(\.0*)?\s*")


class LogRoutes:
    """Both read what is stored, the folded frames too, and neither waits for more."""

    def __init__(self, *, store: Store, sign_in: SignIn, stall_seconds: float) -> None:
        self._store = store
        self._sign_in = sign_in
        self._stall_seconds = stall_seconds

    def routes(self) -> list[Route]:
        table = [
            ("frames", self.frames, Deed.VIEW),
            ("recording", self.recording, Deed.EXPORT),
        ]
        return [
            Route(
                f"/api/runs/{{id}}/{name}",
                signed_in(self._sign_in, handler, deed),
                methods=["GET"],
            )
            for name, handler, deed in table
        ]

    async def frames(self, request: Request, user: UserId) -> ASGIApp:
        """The page after a cursor. It is empty when the reader has everything."""
        run_id = (await run_of(self._store, request, user)).run.id
        query = parse_log_query(request.query_params, None)
        log = await self._log(run_id)
        state = LogState(log.gen, log.head, log.floor, log.bases)
        start = start_after(state, after=query.after, tail=None)
        after = log.head if start is None else start
        entries = await self._store.read(
            run_id, after=after, limit=PAGE_FRAMES, outline=query.detail is Detail.OUTLINE
        )
        page = FramesPage(
            run_id=run_id,
            gen=log.gen,
            head=Seq(max([log.head, *(entry.seq for entry in entries)])),
            after=after,
            expired=start is None,
            frames=[Raw(entry.data) for entry in entries],
        )
        return json(page)

    async def recording(self, request: Request, user: UserId) -> ASGIApp:
        """The whole log; of a run that has not ended only when asked with `?live=1`."""
        run = (await run_of(self._store, request, user)).run
        if not run.status.terminal and request.query_params.get("live") != "1":
            raise ProtocolError(
                ErrorCode.BUSY,
                "the run has not ended",
                hint="ask with `?live=1` for what there is so far",
            )
        log = await self._log(run.id)
        if log.floor > 0:
            raise ProtocolError(
                ErrorCode.NOT_FOUND,
                "the frames of this run have expired",
                hint="its report is kept, at /report.json",
            )
        header = RecordingHeader(
            run_id=run.id, gen=log.gen, frames=log.head, ended=run.status.terminal
        )
        packed = takes_gzip(request.headers.get("accept-encoding", ""))
        return Streamed(
            self._writer(guest_of(request), header, packed=packed),
            headers=_headers(run.id, packed=packed),
            stall_seconds=self._stall_seconds,
        )

    def _writer(self, guest: Guest, header: RecordingHeader, *, packed: bool) -> Produce:
        async def produce(outlet: Outlet) -> None:
            visits = self._sign_in.visits
            visits.enter(outlet, guest, lambda code: outlet.abort())
            try:
                await self._check_still(guest, header.run_id)
                pages = self._pages(header)
                async for data in _gzipped(pages) if packed else pages:
                    await outlet.write(data)
            finally:
                visits.left(outlet)

        return produce

    async def _check_still(self, guest: Guest, run_id: RunId) -> None:
        """Raise CutShort when the run was taken from the reader before the visit began."""
        if await self._store.visible(guest.user, run_id) is None:
            raise CutShort

    async def _pages(self, header: RecordingHeader) -> AsyncIterator[bytes]:
        """The lines of the file, a page at a time; raises CutShort when frames are gone."""
        yield msgspec.json.encode(header) + b"\n"
        sent = Seq(0)
        while sent < header.frames:
            lines, last = await self._store.page(
                header.run_id, after=sent, outline=False, make=_lines_to(header.frames)
            )
            if last == sent:
                raise CutShort
            sent = last
            yield lines

    async def _log(self, run_id: RunId) -> LogHead:
        log = await self._store.log(run_id)
        if log is None:
            raise ProtocolError(ErrorCode.NOT_FOUND, "run not found", field="run_id")
        return log


def takes_gzip(accepted: str) -> bool:
    """Whether an Accept-Encoding header takes gzip; its own word comes before that of `*`."""
    parts = [part.partition(";") for part in accepted.split(",")]
    weights = {name.strip().lower(): weight for name, _, weight in parts}
    weight = weights.get("gzip", weights.get("*"))
    return weight is not None and not _NOT.fullmatch(weight)


def _lines_to(last: int) -> Callable[[Page], tuple[bytes, Seq]]:
    """Makes the lines of a page, and says up to which seq. A live run goes on meanwhile; the file
    has what its header says."""

    def lines(page: Page) -> tuple[bytes, Seq]:
        wanted = [entry.data + b"\n" for entry in page.entries if entry.seq <= last]
        return b"".join(wanted), page.through

    return lines


async def _gzipped(pages: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The pages compressed, in a thread: a page of 256 KiB takes milliseconds."""
    packer = zlib.compressobj(wbits=_GZIP)
    async for page in pages:
        data = await asyncio.to_thread(packer.compress, page)
        if data:
            yield data
    yield await asyncio.to_thread(packer.flush)


def _headers(run_id: RunId, *, packed: bool) -> dict[str, str]:
    headers = {
        "content-type": "application/x-ndjson",
        "content-disposition": f'attachment; filename="podium-{run_id}.ndjson"',
        "vary": "accept-encoding",
    }
    return headers | {"content-encoding": "gzip"} if packed else headers
