"""Tokens and secrets: made here, kept as digests, or in a file that only the owner can read."""

import fcntl
import hashlib
import os
import secrets
import time
from pathlib import Path

from server.private_file import write_private
from server.settings.guards import TOKEN_LENGTH

TRIES, PAUSE = 250, 0.02
"""For another process that is just making the same secret: five seconds."""


def new_token() -> str:
    """256 random bits."""
    return secrets.token_urlsafe(32)


def new_id() -> str:
    """Names a token or a session. It is no secret."""
    return secrets.token_hex(8)


def digest_of(token: str) -> bytes:
    """What is kept and looked up. How long the look-up takes tells nothing of a token: whoever
    guesses cannot choose the digest of the guess."""
    return hashlib.sha256(token.encode("utf-8", "replace")).digest()


def kept_secret(path: Path) -> str:
    """The secret in a file, which is made (0600) where there is none. Whoever asks at the same
    time, in whichever process, gets the same one. Blocks; raises OSError."""
    for _ in range(TRIES):
        secret = _read(path) or _made(path)
        if secret:
            return secret
        time.sleep(PAUSE)
    raise OSError(f"{path} is being made by another process, which does not come to its end")


def _read(path: Path) -> str:
    """What is kept; empty where it is no secret. One that a crash left empty, or somebody cut,
    would let everyone in."""
    try:
        secret = path.read_text("ascii").strip()
    except (FileNotFoundError, UnicodeDecodeError):
        return ""
    return secret if len(secret) >= TOKEN_LENGTH else ""


def _made(path: Path) -> str:
    """A new secret in place of what is there; empty where another process is just doing the same.
    It is whole or not there, and for its owner only from the first byte on."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "rb") as old:
        try:
            fcntl.flock(old, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Whoever held the lock before may have put another file in the place of this one.
            if not os.path.samestat(os.fstat(old.fileno()), os.stat(path)):
                return ""
        except (BlockingIOError, FileNotFoundError):
            return ""
        return _read(path) or _replaced(path)


def _replaced(path: Path) -> str:
    secret = new_token()
    write_private(path, f"{secret}\n".encode(), durable=True)
    return secret
