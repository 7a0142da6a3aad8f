"""A weights file that is looked at while it is served: what somebody puts in its place takes over."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
from pathlib import Path
from typing import NamedTuple

from stmixer.service.engine.engine import Engine
from stmixer.service.engine.worker import WeightsSource
from stmixer.service.errors import InputError

log = logging.getLogger("stmixer.models")

LOOK_S = 2.0


class FileState(NamedTuple):
    """By what a file is known to be another one."""

    inode: int
    bytes: int
    changed_ns: int


class WatchedFile:
    """``file`` is loaded anew when it is another one than it was and has stayed so for a look; what it takes over from
    is kept for a way back, and forgotten when there is one after the next. ``restart``: as ``Engine.load``."""

    def __init__(self, file: Path, engine: Engine, *, restart: bool = False) -> None:
        self._file, self._engine, self._restart = file, engine, restart
        self._served = self._seen = _look(file)
        self._numbers = itertools.count(2)
        self._loaded: list[str] = []

    async def watch(self) -> None:
        """For ever; what served when this began is forgotten in its turn."""
        self._loaded.append(self._engine.models.default.name)
        while True:
            await asyncio.sleep(LOOK_S)
            try:
                await self.look()
            except Exception:  # the next change still counts
                log.exception("%s could not be looked at", self._file)

    async def look(self) -> None:
        """Load it if it has changed, and not since the last look."""
        now, before = await asyncio.to_thread(_look, self._file), self._seen
        self._seen = now
        if now is None or now == self._served or now != before:
            return
        self._served = now
        name = f"{self._file.stem}.{next(self._numbers)}"
        log.info("%s has changed: it is loaded as %s", self._file, name)
        for older in self._loaded[:-1]:
            with contextlib.suppress(InputError):  # it is in use; the next change will come
                await self._engine.models.forget(older)
                self._loaded.remove(older)
        try:
            self._engine.load(name, WeightsSource(None, self._file), default=True, restart=self._restart)
        except InputError as error:
            log.error("%s is not loaded: %s", self._file, error)
        else:
            self._loaded.append(name)


def _look(file: Path) -> FileState | None:
    try:
        found = file.stat()
    except OSError:
        return None
    return FileState(found.st_ino, found.st_size, found.st_mtime_ns)
