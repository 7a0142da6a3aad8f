"""A request's video body, raw or multipart, into an anonymous file: bounded, and gone with its descriptor.

An upload takes nothing of the capacity until it is whole: it is a stream only then. All that are on their way, or wait
for a place, are bounded together, in number and in bytes; where there is no room for one more, the slowest gives way.
"""

from __future__ import annotations

import asyncio
import logging
import math
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any, BinaryIO, cast

from fastapi import Request

from stmixer.service.access import Caller
from stmixer.service.api.multipart import FormReader
from stmixer.service.api.senders import count_decoder
from stmixer.service.errors import AccessError, CapacityError, InputError, StmixerError, no_room
from stmixer.service.metrics import Metrics
from stmixer.service.settings import Settings

log = logging.getLogger("stmixer.uploads")

SLOW_BYTES_PER_S = 16 * 1024
"""An upload slower than this, on average, gives way where others have no room."""
LEAST_BYTES_PER_S = 1024
"""An upload slower than this ends, whether or not others wait."""
KEY_SHARE = 0.75
"""Of all the room for uploads that are no streams yet, what those of one key may take."""
STEP_BYTES = 4 * 2**20
"""In what steps room is reserved for an upload that does not say its size."""
LEFT_FREE, LEFT_FREE_BYTES = 0.02, 2**30
"""Of the disk, for what is no upload: a part of it, and no more than so much."""
GRACE_S = 5.0
"""How long one is not yet called slow."""
OVERHEAD_BYTES = 2**16
"""What a form may have besides its video."""


@dataclass(eq=False)
class Upload:
    """One that waits. ``bytes``: what has come of it, ``reserved``: room that it has for what is to come as well;
    ``whole``: all has come. ``ended_by`` is why it has to end."""

    task: asyncio.Task[Any]
    began: float
    caller: Caller
    bytes: int = 0
    reserved: int = 0
    whole: bool = False
    ended_by: StmixerError | None = None

    def end(self, error: StmixerError) -> None:
        """Have it answered with this."""
        self.ended_by = self.ended_by or error
        self.task.cancel()


@dataclass(eq=False)
class WaitingUploads:
    """All uploads that are no streams yet. ``empty`` is set while there are none.

    Room is reserved before it is used: at once for one that says its size. ``free_bytes``: what the disk has left.
    """

    most: int
    most_bytes: int
    metrics: Metrics
    clock: Callable[[], float] = time.monotonic
    free_bytes: Callable[[], float] = lambda: math.inf
    empty: asyncio.Event = field(default_factory=asyncio.Event)
    _uploads: set[Upload] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.empty.set()
        self.metrics.uploads_waiting.set_function(lambda: len(self._uploads))

    @contextmanager
    def one_more(self, caller: Caller) -> Iterator[Upload]:
        """Around an upload's wait, in the task that answers it. Raises CapacityError where no more may wait."""
        if len(self._uploads) >= self.most:
            self._have_one_give_way(f"{self.most} uploads are on their way already; try again later")
        task = asyncio.current_task()
        assert task is not None
        upload = Upload(task, self.clock(), caller)
        self._uploads.add(upload)
        self.empty.clear()
        try:
            yield upload
        except asyncio.CancelledError:
            if upload.ended_by is None:
                raise
            task.uncancel()
            raise upload.ended_by from None
        finally:
            self._uploads.discard(upload)
            if not self._uploads:
                self.empty.set()

    def take(self, upload: Upload, count: int) -> None:
        """More of it has come. Raises CapacityError as ``reserve``."""
        needed = upload.bytes + count
        if needed > upload.reserved:
            step = upload.reserved + STEP_BYTES
            self.reserve(upload, step if needed <= step and self._fits(upload, step) else needed)
        self._make_room(upload, needed)
        upload.bytes = needed

    def reserve(self, upload: Upload, size: int) -> None:
        """Keep room for ``size`` bytes of it, of its key's part and of the disk.

        Of the room of all it takes what has come: a size that was merely said keeps nobody out. Raises CapacityError
        where its key has too much (429), all together have, or the disk has not that much.
        """
        if upload.caller.key is not None and self._of_key(upload) + size > KEY_SHARE * self.most_bytes:
            self.metrics.streams_rejected.labels("uploads").inc()
            limit = f"{_mib(KEY_SHARE * self.most_bytes)} that it may have on their way together"
            raise CapacityError("over_limit", f"this key's uploads take all of the {limit}; send fewer at once", 429)
        self._make_room(upload, min(size, upload.bytes + STEP_BYTES))
        to_come = sum(max(0, each.reserved - each.bytes) for each in self._uploads if each is not upload)
        if to_come + size - upload.bytes > self.free_bytes():
            self.metrics.streams_rejected.labels("uploads").inc()
            log.error("no room on the disk for an upload of %s", _mib(size))
            raise CapacityError("storage", f"the disk has no room for {_mib(size)} more; try again later")
        upload.reserved = size

    def _make_room(self, upload: Upload, wanted: int) -> None:
        """Others give way, the slowest first, until there is room for ``wanted`` bytes of this one."""
        while self._of_others(upload) + wanted > self.most_bytes:
            limit = f"the {_mib(self.most_bytes)} for them"
            self._have_one_give_way(f"the uploads on their way take all the room, {limit}; try again later", upload)

    def _of_others(self, upload: Upload) -> int:
        return sum(each.bytes for each in self._uploads if each is not upload)

    def _of_key(self, upload: Upload) -> int:
        """What the others of its key have reserved."""
        mine = (each for each in self._uploads if each is not upload and each.caller.is_same(upload.caller))
        return sum(each.reserved for each in mine)

    def _fits(self, upload: Upload, size: int) -> bool:
        own = upload.caller.key is None or self._of_key(upload) + size <= KEY_SHARE * self.most_bytes
        return own and self._of_others(upload) + size <= self.most_bytes

    def end_all(self, error: StmixerError) -> None:
        """Have all of them answered with this."""
        for upload in self._uploads:
            upload.end(error)

    def end_lapsed(self) -> None:
        """Have those answered whose key is no longer good."""
        for upload in self._uploads:
            if upload.caller.lapsed.is_set():
                upload.end(AccessError("unauthorized", upload.caller.why, 401))

    def _have_one_give_way(self, full: str, but: Upload | None = None) -> None:
        """End the slowest of those that are too slow, which frees its bytes at once. Raises CapacityError for none."""
        now = self.clock()

        def pace(upload: Upload) -> float:
            return upload.bytes / (now - upload.began)

        slow = [u for u in self._uploads if u is not but and not u.whole and now - u.began > GRACE_S]
        slowest = min(slow, key=pace, default=None)
        if slowest is None or pace(slowest) >= SLOW_BYTES_PER_S:
            self.metrics.streams_rejected.labels("uploads").inc()
            raise CapacityError("capacity", full)
        self._uploads.discard(slowest)
        seconds = now - slowest.began
        why = f"{slowest.bytes} bytes came in {seconds:.0f} s, and others wait; send it again over a faster line"
        slowest.end(InputError("upload_stalled", why, 408))


@dataclass
class Beside:
    """A form's part that goes to a file of its own beside the video; at most so many bytes of it."""

    name: str
    file: BinaryIO
    most_bytes: int
    written: int = 0

    def write(self, data: bytes) -> None:
        """More of it. Raises InputError past its limit, OSError."""
        self.written += len(data)
        if self.written > self.most_bytes:
            raise InputError("too_large", f"{self.name} has more than {_mib(self.most_bytes)}", 413)
        write_all(self.file, data)


@asynccontextmanager
async def received_file(
    request: Request,
    settings: Settings,
    caller: Caller,
    waiting: WaitingUploads,
    upload: Upload,
    beside: Beside | None = None,
) -> AsyncIterator[tuple[BinaryIO, dict[str, str]]]:
    """The body's video as an open file at position 0, and a form's other fields.

    ``beside``: a part that there has to be as well; only a form has one. Raises InputError, CapacityError;
    ClientDisconnect passes.
    """
    limit = settings.max_upload_mb * 2**20 + (beside.most_bytes if beside else 0)
    declared = int(request.headers.get("content-length") or 0)
    if declared > limit + OVERHEAD_BYTES:
        raise _too_large(settings)
    waiting.reserve(upload, declared)
    content_type = request.headers.get("content-type", "")
    is_form = content_type.partition(";")[0].strip().lower() == "multipart/form-data"
    form = FormReader(content_type, beside.name if beside else None) if is_form else None
    if beside is not None and form is None:
        raise InputError("bad_multipart", f"send a form: the video as 'file', and {beside.name!r} beside it", 400)
    with storage_errors("an upload"):
        unbuffered = tempfile.TemporaryFile(prefix="stmixer-", buffering=0)  # noqa: SIM115
    with unbuffered:
        file = cast(BinaryIO, unbuffered)
        pace = Pace(settings.upload_idle_s, waiting.clock)
        video_bytes = 0
        async for chunk in _limited(request, settings, limit, caller, pace):
            waiting.take(upload, len(chunk))
            video = chunk if form is None else b"".join(form.feed(chunk))
            video_bytes += len(video)
            if video_bytes > settings.max_upload_mb * 2**20:  # whatever else the body may have
                raise _too_large(settings)
            with storage_errors("an upload"):
                await asyncio.to_thread(write_all, file, video)
                if form is not None and beside is not None:
                    await asyncio.to_thread(beside.write, form.take_beside())
        if form is not None:
            form.finish()
        upload.whole = True
        whole = _checked(file)
        count_decoder(request.scope)
        yield whole, {} if form is None else form.fields


def write_all(file: BinaryIO, chunk: bytes) -> None:
    """All of it; an unbuffered file takes what still fits, and says why it does not take the rest."""
    view = memoryview(chunk)
    while view:
        view = view[file.write(view) :]


@contextmanager
def storage_errors(what: str) -> Iterator[None]:
    """Around what writes to disk: a disk without room is no fault of the video. Raises CapacityError ``storage``."""
    try:
        yield
    except OSError as error:
        log.error("%s cannot be stored: %s", what, error)
        raise no_room() from None


def _checked(file: BinaryIO) -> BinaryIO:
    if file.seek(0, 2) == 0:
        raise InputError("unreadable", "the body is empty: send a video file", 400)
    file.seek(0)
    return file


class Pace:
    """Whether an upload comes fast enough, over one window of ``window_s`` after another: a good start is no excuse."""

    def __init__(self, window_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._window_s, self._clock = window_s, clock
        self._began, self._bytes = clock(), 0

    def took(self, count: int) -> None:
        """More of it has come. Raises InputError (408) where that was too little for too long."""
        self._bytes += count
        seconds = self._clock() - self._began
        if seconds < self._window_s:
            return
        if self._bytes < LEAST_BYTES_PER_S * seconds:
            why = f"{self._bytes} bytes came in {seconds:.0f} s; send the video again over a faster line"
            raise InputError("upload_stalled", why, 408)
        self._began, self._bytes = self._clock(), 0


async def _limited(
    request: Request, settings: Settings, limit: int, caller: Caller, pace: Pace
) -> AsyncIterator[bytes]:
    """The body, ended with an error when it is too large, too slow, or stands still."""
    stream, total = request.stream(), 0
    while True:
        try:
            async with asyncio.timeout(settings.upload_idle_s):
                chunk = await anext(stream)
        except StopAsyncIteration:
            return
        except TimeoutError:
            seconds = settings.upload_idle_s
            raise InputError("upload_stalled", f"no byte came for {seconds:g} s; send the video again", 408) from None
        total += len(chunk)
        if total > limit + OVERHEAD_BYTES:
            raise _too_large(settings)
        caller.spend_bytes(len(chunk))
        pace.took(len(chunk))
        if chunk:
            yield chunk


def free_disk_bytes() -> float:
    """What may still be written where uploads wait."""
    try:
        usage = shutil.disk_usage(tempfile.gettempdir())
        return max(0, usage.free - min(LEFT_FREE * usage.total, LEFT_FREE_BYTES))
    except OSError:
        return math.inf  # what cannot be written says so then


def _mib(count: float) -> str:
    return f"{count / 2**20:.3g} MiB"


def _too_large(settings: Settings) -> InputError:
    return InputError(
        "too_large", f"the body is over {settings.max_upload_mb} MiB; cut the video or lower its resolution", 413
    )
