"""Runs that nobody can see any more are stopped: whoever could have done it is gone."""

from server.logs import logger
from server.ports import Store
from server.runs.runner import Runner

log = logger(__name__)


async def stop_unseen(store: Store, runner: Runner) -> None:
    """Cancel every unfinished run whose user was revoked, or has left its project."""
    for run_id in await store.unfinished():
        record = await store.get(run_id)
        if record is not None and await store.visible(record.user_id, run_id) is None:
            log.info("run_unseen", run_id=run_id, user=record.user_id)
            await runner.cancel(record)
