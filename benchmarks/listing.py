"""The row about the run list: a page of 100 out of 100,000 runs, over HTTP."""

import http.client
import json
import time
import uuid
from contextlib import closing
from pathlib import Path
from typing import Any

from benchmarks.many import podium
from benchmarks.options import Options
from benchmarks.rows import Bound, Row, bounded
from benchmarks.servers.podium import cloned

RUNS = 100_000
ASKED = 50
PAGE = 100


def listing_rows(options: Options) -> list[Row]:
    runs = options.size(RUNS, 300)
    with podium(options) as server:
        cloned(
            Path(server.how["data"]),
            server.how["run_id"],
            *(str(uuid.uuid4()) for _ in range(runs)),
        )
        took = pages(server.how, options.size(ASKED, 3))
    name = f"page of {PAGE} out of {runs:,} runs, over HTTP"
    return [bounded(name, [it * 1000 for it in took], Bound(10, 20, "ms"))]


def pages(how: dict[str, Any], asked: int) -> list[float]:
    """Seconds of each page: from the newest on, each older than the one before."""
    took, before = [], ""
    with closing(http.client.HTTPConnection("127.0.0.1", how["port"])) as connection:
        for _ in range(asked):
            began = time.perf_counter()
            runs = page_of(connection, f"/api/runs{before}", how["token"])
            took.append(time.perf_counter() - began)
            assert len(runs) == PAGE, len(runs)
            before = f"?before={runs[-1]['id']}"
    return took


def page_of(connection: http.client.HTTPConnection, path: str, token: str) -> list[dict[str, Any]]:
    connection.request("GET", path, headers={"Authorization": f"Bearer {token}"})
    answer = connection.getresponse()
    body = answer.read()
    assert answer.status == 200, body
    runs: list[dict[str, Any]] = json.loads(body)["runs"]
    return runs
