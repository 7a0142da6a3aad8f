"""Tokens that every replica knows: the one that is asked for events or pictures need not be the one that gave it."""

from __future__ import annotations

import base64
import hashlib
import hmac
import time
from collections.abc import Callable
from pathlib import Path

from stmixer.service.access import TOKEN_S, Access, Caller
from stmixer.service.errors import AccessError


class SharedAccess(Access):
    """``Access`` whose tokens say whose they are, until when (epoch s), for what, and are signed with ``secret``. The
    machines' clocks have to agree. Whose: not the key's hash, by which it is known elsewhere, but what ``secret`` makes
    of that.

    ``path``, ``known`` as there. Raises StartError for a file that cannot be used.
    """

    def __init__(
        self,
        path: Path | None,
        secret: bytes,
        known: Callable[[str], object] = lambda name: None,
        epoch: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(path, known=known)
        self._secret, self._epoch, self._keyed = secret, epoch, path is not None

    def token(self, caller: Caller, path: str | None = None) -> str:
        """As there."""
        whose = "" if caller.key is None else self._mark(caller.key.sha256)
        until = int(self._epoch() + TOKEN_S)
        place = "" if path is None else hashlib.sha256(path.encode()).hexdigest()
        said = f"{whose}.{until}.{place}"
        return f"{said}.{self._signed(said)}"

    def caller_of_token(self, token: str, path: str) -> Caller:
        """As there."""
        if not self._keyed:
            return self.caller(None)
        said, _, signature = token.rpartition(".")
        parts = said.split(".")
        good = len(parts) == 3 and hmac.compare_digest(signature.encode(), self._signed(said).encode())
        if not good or int(parts[1]) <= self._epoch():
            raise AccessError("unauthorized", "this token is not known here, or has expired: POST /v1/tokens", 401)
        whose, _, place = parts
        if place not in ("", hashlib.sha256(path.encode()).hexdigest()):
            raise AccessError("unauthorized", "this token is for another address", 401)
        self.look_again()
        found = next((known for known in self._callers if hmac.compare_digest(self._mark(known), whose)), "")
        caller = self.holder(found)
        self._known(caller.name)
        return caller

    def _mark(self, sha256: str) -> str:
        return hmac.digest(self._secret, b"key " + sha256.encode(), "sha256").hex()[:16]

    def _signed(self, said: str) -> str:
        return base64.urlsafe_b64encode(hmac.digest(self._secret, said.encode(), "sha256")).decode().rstrip("=")
