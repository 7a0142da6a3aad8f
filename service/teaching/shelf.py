"""Clips to learn from on disk: a folder for each label, as `stmixer teach` wants them; bounded in number and bytes.

Synchronous; whoever has an event loop calls it in a thread. A clip is there whole or not at all: it is written under a
hidden name. Files are called by a number that we give, and by the scene where that was said.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from stmixer.service.errors import InputError
from stmixer.service.teach_schemas import TeachClip
from stmixer.service.teaching.names import label_of

MOST_LABELS = 20
MOST_CLIPS = 200
_OURS = re.compile(r"(?:(?P<scene>[^.]+)__)?(?P<number>[0-9]{1,9})\.mp4")


@dataclass(frozen=True, slots=True)
class NewClip:
    """One that is being written: ``fd`` until ``Shelf.commit`` or ``abandon``. ``room``: bytes that were left then."""

    clip_id: int
    label: str
    scene: str | None
    fd: int
    path: Path
    room: int


class Shelf:
    """All clips below a folder of ours, ``most_bytes`` of them."""

    def __init__(self, folder: Path, most_bytes: int) -> None:
        self.folder, self.most_bytes = folder, most_bytes
        self._last = 0
        self._begun: dict[int, NewClip] = {}

    def open(self) -> None:
        """Begin: what a process before has left half done goes. Raises OSError."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for part in self.folder.glob("*/.*.part"):
            part.unlink()
        self._last = max((clip.clip_id for clip in self.clips()), default=0)

    def clips(self) -> list[TeachClip]:
        """In the order in which they came."""
        return sorted((clip for clip, _ in self._found()), key=lambda clip: clip.clip_id)

    def check_room(self, label: str) -> int:
        """Bytes that are left for one more of this label, and for those that are being written. Raises InputError where
        there is no room."""
        clips = self.clips()
        labels = {clip.label for clip in clips}
        alike = [other for other in labels if other.casefold() == label.casefold() and other != label]
        if alike:
            raise InputError("bad_label", f"there is a label {alike[0]!r} already; write it the same way")
        if label not in labels and len(labels) >= MOST_LABELS:
            raise InputError("too_many", f"there may be {MOST_LABELS} labels; remove one first", 409)
        if len(clips) + len(self._begun) >= MOST_CLIPS:
            raise InputError("too_many", f"there may be {MOST_CLIPS} clips; remove some first", 409)
        room = self.most_bytes - sum(clip.bytes for clip in clips)
        if room <= self._coming():
            raise self._full()
        return room

    def begin(self, label: str, scene: str | None) -> NewClip:
        """A clip to be written. Names are checked (``names``). Raises InputError as ``check_room``, OSError."""
        room = self.check_room(label)
        folder = self.folder / label
        folder.mkdir(mode=0o700, exist_ok=True)
        self._last += 1
        path = folder / f".{self._last}.part"
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        clip = NewClip(self._last, label, scene, os.open(path, flags, 0o600), path, room)
        self._begun[clip.clip_id] = clip
        return clip

    def check_growing(self, new: NewClip) -> None:
        """While it is written. Raises InputError where it, and what is written besides, take too much, or all was let
        go of meanwhile (409)."""
        if not new.path.exists():
            raise _discarded()
        if os.fstat(new.fd).st_size + self._coming(besides=new) > new.room:
            raise self._full()

    def _coming(self, besides: NewClip | None = None) -> int:
        """Bytes of clips that are being written."""
        size = 0
        for clip in list(self._begun.values()):
            with contextlib.suppress(FileNotFoundError):
                size += 0 if clip is besides else clip.path.stat().st_size
        return size

    def commit(self, new: NewClip) -> TeachClip:
        """It is whole: let it be there. Raises InputError where it takes too much or all was let go of meanwhile (409),
        OSError; it is abandoned then."""
        try:
            size = os.fstat(new.fd).st_size
            if sum(clip.bytes for clip in self.clips()) + size > self.most_bytes:
                raise self._full()
            os.fdatasync(new.fd)
            whole = new.path.with_name(f"{f'{new.scene}__' if new.scene else ''}{new.clip_id}.mp4")
            try:
                os.replace(new.path, whole)
            except FileNotFoundError:
                raise _discarded() from None
        except BaseException:
            self.abandon(new)
            raise
        del self._begun[new.clip_id]
        os.close(new.fd)
        return TeachClip(clip_id=new.clip_id, label=new.label, scene=new.scene, bytes=size)

    def abandon(self, new: NewClip) -> None:
        """It does not become whole."""
        del self._begun[new.clip_id]
        os.close(new.fd)
        with contextlib.suppress(OSError):
            new.path.unlink()
        with contextlib.suppress(OSError):  # it may have others in it
            new.path.parent.rmdir()

    def find(self, clip_id: int) -> Path | None:
        """A clip's file, which is no link."""
        return next((path for clip, path in self._found() if clip.clip_id == clip_id), None)

    def remove(self, clip_id: int) -> bool:
        """Whether it was there. Raises OSError."""
        path = self.find(clip_id)
        if path is None:
            return False
        path.unlink()
        with contextlib.suppress(OSError):
            path.parent.rmdir()
        return True

    def clear(self) -> None:
        """Let go of all. Raises OSError."""
        shutil.rmtree(self.folder)
        self.folder.mkdir(mode=0o700)

    def _found(self) -> Iterator[tuple[TeachClip, Path]]:
        with os.scandir(self.folder) as labels:
            folders = [entry for entry in labels if entry.is_dir(follow_symlinks=False) and _is_label(entry.name)]
        for folder in folders:
            with os.scandir(folder.path) as files:
                for file in files:
                    ours = _OURS.fullmatch(file.name)
                    if ours is None or not file.is_file(follow_symlinks=False):
                        continue
                    with contextlib.suppress(FileNotFoundError):
                        size = file.stat(follow_symlinks=False).st_size
                        number, scene = int(ours["number"]), ours["scene"]
                        clip = TeachClip(clip_id=number, label=folder.name, scene=scene, bytes=size)
                        yield clip, Path(file.path)

    def _full(self) -> InputError:
        room = f"{self.most_bytes / 2**20:.0f} MiB"
        return InputError("too_large", f"the clips take all of the {room} for them; remove some first", 413)


def _discarded() -> InputError:
    return InputError("discarded", "the lesson was discarded while this clip came in; send it again", 409)


def _is_label(name: str) -> bool:
    try:
        return label_of(name) == name
    except InputError:
        return False
