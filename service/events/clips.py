"""Pictures of events on disk: a clip and a thumbnail each, in one folder, bounded in bytes and days.

Synchronous; whoever has an event loop calls it in a thread. A file is there whole or not at all. What is not named as
ours is not touched.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from stmixer.service.errors import StartError

Kind = Literal["mp4", "jpg"]

DAY_S = 86_400.0
_EVENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", re.ASCII)
_OURS = re.compile(rf"({_EVENT.pattern})\.(mp4|jpg)", re.ASCII)
_PART = re.compile(rf"\.{_EVENT.pattern}\.(mp4|jpg)\.part", re.ASCII)


@dataclass(frozen=True, slots=True)
class Part:
    """A file that is being written: ``fd`` until ``commit`` or ``abandon``."""

    event_id: str
    kind: Kind
    fd: int
    path: Path


@dataclass(frozen=True, slots=True)
class _PicturesOfOne:
    """All of one event; ``at``: epoch s at which the newest of its files was written."""

    event_id: str
    size: int
    at: float
    names: tuple[str, ...]


class ClipStore:
    """``bytes``: what there is, as of the last change. ``clock``: epoch s."""

    def __init__(
        self, folder: Path, most_bytes: int, most_age_s: float, clock: Callable[[], float] = time.time
    ) -> None:
        self._folder, self._most_bytes, self._most_age_s, self._clock = folder, most_bytes, most_age_s, clock
        self.bytes = 0

    def open(self) -> None:
        """Begin: what a process before has left half done goes. Raises StartError for a folder that cannot be used."""
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            for name in os.listdir(self._folder):
                if _PART.fullmatch(name):
                    (self._folder / name).unlink()
            self.commit(self._fresh(".try.jpg.part", "try", "jpg"))
            (self._folder / "try.jpg").unlink()
            self.trim()
        except OSError as error:
            why = error.strerror or str(error)
            raise StartError("bad_clips", f"--event-clips {self._folder}: {why}; name a folder of its own") from None

    def begin(self, event_id: str, kind: Kind) -> Part:
        """A file to be written. Raises OSError, ValueError for what is no event's id."""
        if not _EVENT.fullmatch(event_id):
            raise ValueError("an event's id has letters, digits, - and _")
        return self._fresh(f".{event_id}.{kind}.part", event_id, kind)

    def _fresh(self, name: str, event_id: str, kind: Kind) -> Part:
        path = self._folder / name
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        return Part(event_id, kind, os.open(path, flags, 0o600), path)

    def commit(self, part: Part) -> bool:
        """It is whole: let it be there. False where it is larger than all that may be. Raises OSError."""
        if os.fstat(part.fd).st_size > self._most_bytes:
            self.abandon(part)
            return False
        try:
            os.fdatasync(part.fd)
            os.utime(part.fd, (self._clock(), self._clock()))
            os.replace(part.path, self._folder / f"{part.event_id}.{part.kind}")
        except OSError:
            self.abandon(part)
            raise
        os.close(part.fd)
        self.trim()
        return True

    def abandon(self, part: Part) -> None:
        """It does not become whole."""
        os.close(part.fd)
        with contextlib.suppress(OSError):
            part.path.unlink()

    def find(self, event_id: str, kind: Kind) -> Path | None:
        """One that is there, and no link to anything."""
        if not _EVENT.fullmatch(event_id):
            return None
        path = self._folder / f"{event_id}.{kind}"
        with contextlib.suppress(OSError):
            return path if stat.S_ISREG(path.lstat().st_mode) else None
        return None

    def trim(self) -> int:
        """Let go of what is too old, then of the oldest until the rest is little enough; how many events' went."""
        kept = sorted(self._kept(), key=lambda one: one.at)
        total, oldest, gone = sum(one.size for one in kept), self._clock() - self._most_age_s, 0
        for one in kept:
            if one.at >= oldest and total <= self._most_bytes:
                break
            for name in one.names:
                with contextlib.suppress(FileNotFoundError):
                    (self._folder / name).unlink()
            total -= one.size
            gone += 1
        self.bytes = total
        return gone

    def _kept(self) -> list[_PicturesOfOne]:
        found: dict[str, _PicturesOfOne] = {}
        with os.scandir(self._folder) as entries:
            for entry in entries:
                ours = _OURS.fullmatch(entry.name)
                if ours is None or not entry.is_file(follow_symlinks=False):
                    continue
                with contextlib.suppress(FileNotFoundError):
                    said, before = (
                        entry.stat(follow_symlinks=False),
                        found.get(ours[1], _PicturesOfOne(ours[1], 0, 0.0, ())),
                    )
                    found[ours[1]] = _PicturesOfOne(
                        ours[1], before.size + said.st_size, max(before.at, said.st_mtime), (*before.names, entry.name)
                    )
        return list(found.values())
