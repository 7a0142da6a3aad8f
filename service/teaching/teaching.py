"""The one lesson of a service: clips are put on its shelf, a process learns from them, what came of it is kept or not.

All lies in one folder: ``clips/LABEL/``, ``work/`` (what the process makes), ``kept/``, and ``lesson.json``.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from stmixer.service.errors import InputError, StartError, no_room
from stmixer.service.teach_schemas import KeptModel, Teach, TeachClip, TeachLimits, TeachTrial
from stmixer.service.teaching.kept import WEIGHTS, KeptModels, beside
from stmixer.service.teaching.process import LessonProcess
from stmixer.service.teaching.record import Record
from stmixer.service.teaching.shelf import MOST_CLIPS, MOST_LABELS, NewClip, Shelf
from stmixer.service.teaching.told import Told

log = logging.getLogger("stmixer.teaching")

TEACHER_MODULE = "stmixer.cli"
MOST_CLIP_S = 60.0
"""The longest clip to learn from, where the service's own limit is not shorter."""
_STARTS_FROM = "stmixer-rt"


class Teaching:
    """``teacher_module``: what the process that learns runs."""

    def __init__(self, folder: Path, most_bytes: int, most_clip_s: float, teacher_module: str = TEACHER_MODULE) -> None:
        self.folder = folder
        self.most_clip_s = min(MOST_CLIP_S, most_clip_s)
        self._work, self._file = folder / "work", folder / "lesson.json"
        self._shelf, self._kept = Shelf(folder / "clips", most_bytes), KeptModels(folder / "kept")
        self._teacher = teacher_module
        self._record = Record()
        self._told = Told(f"{folder}{os.sep}")
        self._process: LessonProcess | None = None
        self._following: asyncio.Task[None] | None = None
        self._stopped = False
        self._turn = asyncio.Lock()
        self._held: int | None = None

    # -- life

    def open(self) -> None:
        """Take the folder, which is made where it is missing. Raises StartError for one that cannot be used."""
        try:
            for folder in (self.folder, self._work):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._held = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            fcntl.flock(self._held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._shelf.open()
            self._kept.open()
            self._record = Record.read(self._file)
            self._record.write(self._file)
        except BlockingIOError:
            self._let_go()
            why = "another service teaches there; name a folder of its own"
            raise StartError("bad_teach_dir", f"--teach-dir {self.folder}: {why}") from None
        except OSError as error:
            self._let_go()
            why = error.strerror or str(error)
            raise StartError("bad_teach_dir", f"--teach-dir {self.folder}: {why}; name a folder of its own") from None

    async def close(self) -> None:
        """End what learns, and let the folder go."""
        async with self._turn:
            await self._end_process()
        self._let_go()

    def _let_go(self) -> None:
        held, self._held = self._held, None
        if held is not None:
            os.close(held)

    # -- how it stands

    async def state(self, trial: TeachTrial) -> Teach:
        """All that is known of it; ``trial``: how that of its outcome stands."""
        clips, kept = await asyncio.to_thread(lambda: (self._shelf.clips(), self._kept.all()))
        record = self._record
        limits = TeachLimits(
            labels=MOST_LABELS, clips=MOST_CLIPS, clip_s=self.most_clip_s, bytes=self._shelf.most_bytes
        )
        return Teach(
            state=record.state, name=record.name, says=record.says, figures=record.figures,
            phases=[phase.model_copy() for phase in self._told.phases],
            notes=list(self._told.notes or record.notes), clips=clips, bytes=sum(clip.bytes for clip in clips),
            pictures=self.draft is not None, trial=trial, kept=kept, limits=limits,
        )  # fmt: skip

    @property
    def learning(self) -> bool:
        """Whether a process learns now."""
        return self._process is not None

    @property
    def draft(self) -> Path | None:
        """The page that shows who was taken for the actor of each clip, once it is there."""
        page = self._work / f"{self._record.name}.teach" / "draft.html"
        return page if page.is_file() else None

    @property
    def outcome(self) -> Path:
        """The weights that were learned. Raises InputError (409) where there are none."""
        weights = self._weights
        if self._record.state != "done" or not weights.is_file():
            raise InputError("not_learned", "nothing has been learned yet that could be tried or kept", 409)
        return weights

    @property
    def _weights(self) -> Path:
        return self._work / f"{self._record.name}{WEIGHTS}"

    # -- clips

    async def begin_clip(self, label: str, scene: str | None) -> NewClip:
        """A clip to be written; names are checked (``names``). ``commit_clip`` or ``abandon_clip`` follows. Raises
        InputError where there is no room, CapacityError."""
        async with self._turn:
            self._check_still()
            with _stored():
                return await asyncio.to_thread(self._shelf.begin, label, scene)

    def check_growing(self, clip: NewClip) -> None:
        """Raises InputError where what is being written takes too much."""
        self._shelf.check_growing(clip)

    async def commit_clip(self, clip: NewClip) -> TeachClip:
        """It is whole. Raises InputError, CapacityError where it cannot be kept; it is abandoned then."""
        async with self._turn:
            if self.learning:
                self._shelf.abandon(clip)
                self._check_still()
            with _stored():
                return await asyncio.to_thread(self._shelf.commit, clip)

    def abandon_clip(self, clip: NewClip) -> None:
        """It does not become whole."""
        self._shelf.abandon(clip)

    async def clip(self, clip_id: int) -> Path:
        """A clip's file. Raises InputError (404)."""
        path = await asyncio.to_thread(self._shelf.find, clip_id)
        if path is None:
            raise _no_clip()
        return path

    async def remove_clip(self, clip_id: int) -> None:
        """Let go of one. Raises InputError."""
        async with self._turn:
            self._check_still()
            with _stored():
                if not await asyncio.to_thread(self._shelf.remove, clip_id):
                    raise _no_clip()

    # -- the lesson

    async def begin(self, name: str) -> None:
        """Learn from the clips that there are; what was done of it before is not done again. Raises InputError,
        CapacityError."""
        async with self._turn:
            self._check_still()
            if not await asyncio.to_thread(self._shelf.clips):
                raise InputError("no_clips", "there is no clip to learn from yet", 409)
            await asyncio.to_thread(self._kept.check, name)
            with _stored():
                await asyncio.to_thread(self._rename_work, name)
                self._note(Record(state="learning", name=name))
                self._told = Told(f"{self.folder}{os.sep}")
                self._stopped = False
                arguments = (
                    "teach", str(self._shelf.folder), "-o", str(self._weights), "--weights", _STARTS_FROM, "--json",
                )  # fmt: skip
                try:
                    self._process = await LessonProcess.begin(self._teacher, arguments, self._work)
                except OSError as error:
                    self._note(Record(state="failed", name=name, says=f"it could not be begun: {error.strerror}"))
                    return
            log.info("a lesson begins: %s", name)
            self._following = asyncio.create_task(self._follow(self._process))

    async def stop(self) -> None:
        """End what learns, if anything does; what is done is kept."""
        async with self._turn:
            await self._end_process()

    async def keep(self) -> KeptModel:
        """Move what was learned to where it is served from. Raises InputError, CapacityError."""
        async with self._turn:
            self._check_still()
            with _stored():
                kept = await asyncio.to_thread(self._kept.keep, self.outcome)
                self._note(Record(name=self._record.name))
            self._told = Told(f"{self.folder}{os.sep}")
            log.info("a lesson was kept: %s", kept.weights)
            return kept

    async def discard(self) -> None:
        """End what learns, and delete all but what was kept. Raises CapacityError where the disk does not let us."""
        async with self._turn:
            await self._end_process()
            with _stored():
                await asyncio.to_thread(self._shelf.clear)
                await asyncio.to_thread(shutil.rmtree, self._work)
                self._work.mkdir(mode=0o700)
                self._note(Record())
            self._told = Told(f"{self.folder}{os.sep}")
            log.info("the lesson was discarded")

    def _check_still(self) -> None:
        if self.learning:
            raise InputError("learning", "it is learning; wait for its end, or stop it", 409)

    def _rename_work(self, name: str) -> None:
        """Under another name the lesson goes on with what it has; a model of the old name is let go of."""
        old, before = self._record.name, self._weights
        if old == name:
            return
        for path in [*beside(before), before]:
            path.unlink(missing_ok=True)
        with contextlib.suppress(FileNotFoundError):
            (self._work / f"{old}.teach").rename(self._work / f"{name}.teach")

    async def _follow(self, process: LessonProcess) -> None:
        try:
            await process.follow(self._told.take)
        finally:
            self._process = None
            self._told.over()
        record = self._ended(process)
        log.info("a lesson ended: %s%s", record.state, f" ({record.says})" if record.says else "")
        self._record = record
        try:
            record.write(self._file)
        except OSError as error:  # it is known until the service ends
            log.error("how the lesson ended cannot be written down: %s", error)

    def _ended(self, process: LessonProcess) -> Record:
        name, notes, end = self._record.name, tuple(self._told.notes), self._told.end
        if end is not None and end.state == "done" and end.figures is not None and self._weights.is_file():
            return Record(state="done", name=name, notes=notes, figures=end.figures)
        if self._stopped or (end is not None and end.state == "stopped"):
            at = self._told.phases[-1].phase if self._told.phases else ""
            during = f" during {at}" if at else ""
            says = f"stopped{during}; what is done is kept, and goes on when it is begun again"
            return Record(state="stopped", name=name, notes=notes, says=says)
        says = end.says if end is not None and end.state == "failed" else process.how_it_ended
        return Record(state="failed", name=name, notes=notes, says=self._told.words(says))

    async def _end_process(self) -> None:
        process, following = self._process, self._following
        if process is not None:
            self._stopped = True
            await process.stop()
        if following is not None:
            await asyncio.gather(following, return_exceptions=True)
            self._following = None

    def _note(self, record: Record) -> None:
        record.write(self._file)
        self._record = record


@contextlib.contextmanager
def _stored() -> Iterator[None]:
    """Raises CapacityError ``storage`` where the disk refuses."""
    try:
        yield
    except OSError as error:
        log.error("the lesson's folder does not take it: %s", error)
        raise no_room() from None


def _no_clip() -> InputError:
    return InputError("not_found", "there is no such clip (any more)", 404)
