"""Keeps the store small: folds the frames of ended runs, and deletes them when they are old."""

from datetime import timedelta

from server.logs import logger
from server.ports import Clock, Store, StoreUnavailable
from server.world import rfc3339

log = logger(__name__)

PAUSE_SECONDS = 600.0


async def keep_house(store: Store, clock: Clock, *, frames_days: int) -> None:
    """Until cancelled. One run at a time, so that live runs hardly notice."""
    while True:
        try:
            while await store.fold():
                pass
            expired = await store.expire(rfc3339(clock.now() - timedelta(days=frames_days)))
            if expired:
                log.info("frames_expired", runs=expired)
        except StoreUnavailable as error:
            log.warning("housekeeping_failed", error=str(error))
        await clock.sleep(PAUSE_SECONDS)
