"""Tokens and secrets: made here, kept as digests, or in a file that only the owner can read."""

import hashlib
import os
import secrets
import tempfile
from pathlib import Path

from server.guards import TOKEN_LENGTH


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
    """The secret in a file, which is made (0600) where there is none. Blocks."""
    try:
        secret = path.read_text("ascii").strip()
    except (FileNotFoundError, UnicodeDecodeError):
        secret = ""
    # One that a crash left empty, or somebody cut, would let everyone in.
    return secret if len(secret) >= TOKEN_LENGTH else _made(path)


def _made(path: Path) -> str:
    """Whole or not there, and for its owner only from the first byte on."""
    secret = new_token()
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, fresh = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(secret + "\n")
    Path(fresh).replace(path)
    return secret
