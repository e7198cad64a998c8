"""The session cookie: sealed with a secret of the server, bound to the token that opened it."""

import hashlib
import hmac
from typing import NamedTuple

from server.ports import Clock
from server.users.directory import Guest
from server.users.tokens import new_id

SESSION_SECONDS = 30 * 24 * 3600


class Opened(NamedTuple):
    """What a cookie says of itself, once its seal is found right."""

    session: str
    token: str
    expires: int


class Sessions:
    """Opens and reads sessions. Whether the token and the session still stand, the directory
    says."""

    def __init__(self, secret: str, *, clock: Clock) -> None:
        self._secret = secret.encode()
        self._clock = clock

    def open(self, guest: Guest) -> tuple[str, int]:
        """The cookie's value for the bearer of a token, and how many seconds it lasts: never longer
        than the token."""
        assert guest.token is not None
        now = int(self._clock.now().timestamp())
        expires = now + SESSION_SECONDS
        if guest.expires is not None:
            expires = min(expires, int(guest.expires))
        text = f"{new_id()}.{guest.token}.{expires}"
        return f"{text}.{self._seal(text)}", expires - now

    def read(self, value: str) -> Opened | None:
        """None for a value that is not ours, or has expired."""
        text, _, seal = value.rpartition(".")
        if not hmac.compare_digest(seal.encode("utf-8", "replace"), self._seal(text).encode()):
            return None
        session, token, expires = text.split(".")
        opened = Opened(session, token, int(expires))
        return opened if opened.expires > self._clock.now().timestamp() else None

    def _seal(self, text: str) -> str:
        data = b"session:" + text.encode("utf-8", "replace")
        return hmac.new(self._secret, data, hashlib.sha256).hexdigest()
