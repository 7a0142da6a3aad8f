"""Who may do what, and how much of it: whoever holds a key (``service.key_file``), with its limits.

The file is read again when it changes: a key that is taken away, or whose time is over, opens nothing from then on, and
whoever runs something for it is told so (``Caller.lapsed``).
"""

from __future__ import annotations

import asyncio
import logging
import math
import secrets
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from stmixer.service.errors import AccessError, CapacityError, StartError
from stmixer.service.key_file import Key, KeyFile, Scope, digest, now_utc, read_keys

log = logging.getLogger("stmixer.access")

TAKEN_AWAY, OVER = "this key was taken away", "this key has expired"

TOKEN_S = 60.0
"""How long a token opens what it opens."""
MOST_TOKENS = 100
"""Of a caller at a time; its oldest gives way."""

Clock = Callable[[], float]
Calendar = Callable[[], datetime]


class Budget:
    """So much per minute. It may be overdrawn by one use, and is then closed until that is paid off."""

    def __init__(self, per_minute: float | None, clock: Clock) -> None:
        self._per_minute, self._clock = per_minute, clock
        self._left, self._at = per_minute or 0.0, clock()

    def change(self, per_minute: float | None) -> None:
        """Another limit; what was used of the old one counts."""
        used = (self._per_minute or 0.0) - self._left
        self._per_minute, self._left = per_minute, (per_minute or 0.0) - used

    def spend(self, amount: float) -> int:
        """0 if that was allowed, else the seconds to wait."""
        if self._per_minute is None:
            return 0
        now = self._clock()
        self._left = min(self._per_minute, self._left + (now - self._at) * self._per_minute / 60)
        self._at = now
        if self._left <= 0:
            return max(1, math.ceil((1 - self._left) * 60 / self._per_minute))
        self._left -= amount
        return 0


class Caller:
    """Whoever holds a key, with what they use of it now. ``key`` None is anyone, where no keys are asked for.

    A key has one caller for good, however often its limits change. ``lapsed`` is set once the key is taken away or its
    time is over; ``why`` says which.
    """

    def __init__(self, key: Key | None, clock: Clock = time.monotonic) -> None:
        self.key, self.streams = key, 0
        self._requests = Budget(key.requests_per_minute if key else None, clock)
        self._bytes = Budget(_bytes_per_minute(key) if key else None, clock)
        self._keyframes = Budget(key.keyframes_per_minute if key else None, clock)
        self.lapsed, self.why = asyncio.Event(), ""

    @property
    def name(self) -> str:
        """The key's; empty for anyone."""
        return self.key.name if self.key else ""

    @property
    def sees_all(self) -> bool:
        """Whether others' streams are shown to it as well."""
        return self.key is None or "admin" in self.key.scopes

    def change(self, key: Key) -> None:
        """The same key with other limits, scopes or days."""
        self.key = key
        self._requests.change(key.requests_per_minute)
        self._bytes.change(_bytes_per_minute(key))
        self._keyframes.change(key.keyframes_per_minute)

    def lapse(self, why: str) -> None:
        """It opens nothing from here on."""
        self.why = why
        self.lapsed.set()

    def holds(self) -> None:
        """Its key is (again) good."""
        self.why = ""
        self.lapsed.clear()

    def check(self) -> None:
        """Raises AccessError (401) once it has lapsed."""
        if self.lapsed.is_set():
            raise AccessError("unauthorized", self.why, 401)

    def is_same(self, other: Caller) -> bool:
        """Whether that is the holder of the same key, or anyone where no keys are asked for."""
        return self is other or (self.key is not None and other.key is not None and self.key.sha256 == other.key.sha256)

    def allow(self, scope: Scope | None) -> None:
        """Raises AccessError without the scope; None is what every key may."""
        if scope is not None and self.key is not None and scope not in self.key.scopes:
            raise AccessError("forbidden", f"key {self.key.name!r} has no scope {scope!r}", 403)

    def spend_request(self) -> None:
        """Raises CapacityError (429) for one too many."""
        if wait_s := self._requests.spend(1):
            assert self.key is not None
            raise _over(f"{self.key.requests_per_minute} requests a minute", wait_s)

    def spend_bytes(self, count: int) -> None:
        """Raises CapacityError (429) once the bytes are used up."""
        if wait_s := self._bytes.spend(count):
            assert self.key is not None
            raise _over(f"{self.key.megabytes_per_minute} MB a minute", wait_s)

    def spend_keyframe(self) -> None:
        """Raises CapacityError (429) for one too many."""
        if wait_s := self._keyframes.spend(1):
            assert self.key is not None
            raise _over(f"{self.key.keyframes_per_minute} keyframes a minute", wait_s)

    @property
    def percent(self) -> int:
        """What its streams may take of the capacity together."""
        limit = self.key.capacity_percent if self.key else None
        return 100 if limit is None else limit

    def over_share(self) -> CapacityError:
        """What is answered to a stream that would take more."""
        return _over(f"{self.percent} % of the capacity at a time", 5)

    @property
    def may_open(self) -> bool:
        """Whether it may have one more stream."""
        limit = self.key.streams if self.key else None
        return limit is None or self.streams < limit

    def open_stream(self) -> StreamPlace:
        """A place for one more. Raises CapacityError (429) for one too many."""
        if not self.may_open:
            assert self.key is not None
            raise _over(f"{self.key.streams} streams at a time", 5)
        return StreamPlace(self)


class StreamPlace:
    """One of the streams that a caller may have, until it is released."""

    def __init__(self, caller: Caller) -> None:
        self._caller: Caller | None = caller
        caller.streams += 1

    def release(self) -> None:
        """Give it back; once, however often that is said."""
        caller, self._caller = self._caller, None
        if caller is not None:
            caller.streams -= 1


class Access:
    """The keys that are asked for. ``path`` None asks for none; ``known`` is told the name of each key that comes.

    Raises StartError for a file that cannot be used.
    """

    def __init__(
        self,
        path: Path | None,
        clock: Clock = time.monotonic,
        calendar: Calendar = now_utc,
        known: Callable[[str], object] = lambda name: None,
    ) -> None:
        self._path, self._clock, self._calendar, self._known = path, clock, calendar, known
        self._anyone = Caller(None, clock)
        self.nobody = Caller(None, clock)
        """Whose the service's own streams are: of no key, and without limits."""
        self._callers: dict[str, Caller] = {}
        self._tokens: dict[str, tuple[Caller, float, str | None]] = {}
        self._seen: tuple[int, int, int] | None = None
        if path is not None:
            self._seen = _version(path)
            self._take(read_keys(path))

    def caller(self, secret: str | None) -> Caller:
        """Who that is. Raises AccessError (401)."""
        if self._path is None:
            return self._anyone
        if secret is None:
            raise AccessError("unauthorized", "send a key: Authorization: Bearer KEY, or api_key in start", 401)
        self.look_again()
        found = self._callers.get(digest(secret))
        if found is None or found.why == TAKEN_AWAY:
            raise AccessError("unauthorized", "this key is not known here", 401)
        self._known(found.name)
        found.check()
        return found

    def holder(self, sha256: str) -> Caller:
        """Who holds the key with this hash, as the file says it now. Raises AccessError (401)."""
        self.look_again()
        found = self._callers.get(sha256)
        if found is None:
            raise AccessError("unauthorized", "this key is not known here", 401)
        found.check()
        return found

    def token(self, caller: Caller, path: str | None = None) -> str:
        """A new secret that stands for a caller's key for ``TOKEN_S`` seconds, at that path alone if one is given."""
        now, token = self._clock(), secrets.token_urlsafe(24)
        for old in [old for old, (_, until, _) in self._tokens.items() if until <= now]:
            del self._tokens[old]
        own = [known for known, (whose, _, _) in self._tokens.items() if whose is caller]
        if len(own) >= MOST_TOKENS:
            del self._tokens[own[0]]
        self._tokens[digest(token)] = caller, now + TOKEN_S, path
        return token

    def caller_of_token(self, token: str, path: str) -> Caller:
        """Who that stands for at this path. Raises AccessError (401)."""
        if self._path is None:
            return self._anyone
        caller, until, only = self._tokens.get(digest(token), (None, 0.0, None))
        if caller is None or until <= self._clock():
            raise AccessError("unauthorized", "this token is not known here, or has expired: POST /v1/tokens", 401)
        if only not in (None, path):
            raise AccessError("unauthorized", "this token is for another address", 401)
        self.look_again()
        self._known(caller.name)
        caller.check()
        return caller

    def look_again(self) -> None:
        """Let those know whose key is no longer in the file, or whose time is over."""
        if self._path is None:
            return
        version = _version(self._path)
        if version != self._seen:
            self._seen = version
            try:
                self._take(read_keys(self._path))
                log.info("%s: %d keys", self._path, sum(not c.lapsed.is_set() for c in self._callers.values()))
            except StartError as error:  # half a file must neither open nor shut the door
                log.error("%s; the keys of before stay", error)
        now = self._calendar()
        for caller in self._callers.values():
            if caller.key is not None and caller.key.is_over(now) and not caller.lapsed.is_set():
                caller.lapse(OVER)

    def _take(self, file: KeyFile) -> None:
        """Those of a changed file; each keeps what it has used."""
        now, there = self._calendar(), {key.sha256 for key in file.keys}
        for sha256, caller in self._callers.items():
            if sha256 not in there:
                caller.lapse(TAKEN_AWAY)
        for key in file.keys:
            caller = self._callers.setdefault(key.sha256, Caller(key, self._clock))
            caller.change(key)
            if key.is_over(now):
                caller.lapse(OVER)
            else:
                caller.holds()


def bearer(headers: dict[bytes, bytes]) -> str | None:
    """The key of an Authorization header; None without one. Raises AccessError for another kind."""
    value = headers.get(b"authorization")
    if value is None:
        return None
    kind, _, secret = value.decode("latin-1").partition(" ")
    if kind.lower() != "bearer" or not secret.strip():
        raise AccessError("unauthorized", "the Authorization header has to be: Bearer KEY", 401)
    return secret.strip()


def _bytes_per_minute(key: Key) -> float | None:
    return None if key.megabytes_per_minute is None else key.megabytes_per_minute * 1e6


def _over(limit: str, wait_s: int) -> CapacityError:
    return CapacityError("over_limit", f"this key may have {limit}; try again later", 429, wait_s)


def _version(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
