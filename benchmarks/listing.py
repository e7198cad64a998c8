"""The row about the run list: a page of 100 out of 100,000 runs, over HTTP."""

import http.client
import json
import time
import uuid
from pathlib import Path

from benchmarks.many import podium
from benchmarks.options import Options
from benchmarks.rows import Bound, Row, bounded
from benchmarks.servers.podium import cloned

RUNS = 100_000
ASKED = 50
PAGE = 100


def listing_rows(options: Options) -> list[Row]:
    runs = options.count(RUNS, 300)
    with podium(options) as server:
        cloned(Path(server.how["data"]), server.how["run_id"], *(str(uuid.uuid4()) for _ in range(runs)))
        took = pages(server.how, options.count(ASKED, 3))
    # The first pages fill SQLite's cache.
    name = f"page of {PAGE} out of {runs:,} runs, over HTTP"
    return [bounded(name, [it * 1000 for it in took], Bound(10, 20, "ms"))]


def pages(how: dict[str, object], asked: int) -> list[float]:
    """Seconds of each page: from the newest on, each older than the one before."""
    connection = http.client.HTTPConnection("127.0.0.1", int(str(how["port"])))
    took, before = [], ""
    for _ in range(asked):
        began = time.perf_counter()
        connection.request("GET", f"/api/runs{before}", headers={"Authorization": f"Bearer {how['token']}"})
        answer = connection.getresponse()
        body = answer.read()
        took.append(time.perf_counter() - began)
        assert answer.status == 200, body
        runs = json.loads(body)["runs"]
        assert len(runs) == PAGE, len(runs)
        before = f"?before={runs[-1]['id']}"
    return took
