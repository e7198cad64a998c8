"""The real clock and the real ids, given to the rooms from outside."""

import asyncio
import secrets
import time
import uuid
from datetime import UTC, datetime
from pathlib import Path


class SystemClock:
    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class RandomIds:
    def uuid(self) -> str:
        return str(uuid.uuid4())

    def marker(self) -> str:
        return secrets.token_hex(8)


def boot_id() -> str:
    """Changes with each boot of the machine; empty where the system does not tell."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    except OSError:
        return ""


def rfc3339(moment: datetime) -> str:
    """A UTC time as the wire writes it: `2026-01-31T12:00:00.000Z`."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
