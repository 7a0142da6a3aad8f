"""A decoder process, forked by ``decoder.nursery``: the only place where untrusted media meets FFmpeg.

Shuts itself in (``decoder.cell``), then reads one source, samples it on the time grid, resizes, writes ring slots, and
tells the API process of every frame (``ipc.messages``, TO_DECODER and FROM_DECODER). Its memory is bounded, an upload's
CPU time too. It never reads a second source, which may be somebody else's; when the parent is gone it ends. One that is
told to draw pictures of streams (``decoder.easel``) reads no source: it meets pixels and boxes, of all streams.
"""

from __future__ import annotations

import errno
import os
import resource
import socket
import stat
import time
from collections.abc import Callable, Sequence
from typing import BinaryIO

from stmixer.media.annotated import write_annotated
from stmixer.media.camera_feed import Camera
from stmixer.media.decode import VideoReader
from stmixer.media.device import CameraDevice
from stmixer.media.errors import MediaError
from stmixer.media.jpeg import instead_of_jpeg
from stmixer.media.loaded import load_all
from stmixer.media.pace import OTHER_UNIT, StampPace
from stmixer.media.rtsp import RtspCamera
from stmixer.service.decoder import cell, seccomp
from stmixer.service.decoder.cutting import Cutting
from stmixer.service.decoder.easel import draw_pictures
from stmixer.service.decoder.jpeg import CompressedPicture
from stmixer.service.decoder.sampling import Sampling
from stmixer.service.decoder.writer import ParentGone, Writer
from stmixer.service.ipc.channel import Channel, ChannelError, Received
from stmixer.service.ipc.drawing import read_keyframes
from stmixer.service.ipc.messages import (
    FROM_DECODER,
    TO_DECODER,
    CaptureOrigin,
    CutPackets,
    DecoderReady,
    DrawnTo,
    DrawPicture,
    EndOfPictures,
    Flushed,
    FlushSource,
    FramesDropped,
    JpegPicture,
    KeepPackets,
    NotStored,
    OpenCamera,
    OpenContainer,
    OpenDevice,
    OpenPictures,
    OpenUpload,
    PictureWanted,
    Progress,
    Render,
    Rendered,
    SourceEnded,
    SourceFailed,
    SourceWarns,
)

Order = OpenUpload | OpenContainer | OpenCamera | OpenDevice

_CAPTURE_STEP_US = 1000
"""By how much a camera's clock has to differ from what was told of it to be told anew."""
_TOLD_EVERY_S = 1.0
"""Between two words on how far drawing has come, however long a frame takes; much less than ``patience.STUCK_S``."""
_MOST_TOLD = 20
"""Things that are wrong with a camera's pictures which are told of."""
_ENDS_A_STREAM = ("aspect_unsupported", "too_large")
"""What is wrong with all of a camera's pictures, not with one."""
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS)
"""Why a disk does not take what is written."""


def decode_file(channel: Channel, fd: int, order: OpenUpload | OpenContainer, cutting: Cutting) -> None:
    """An upload or a live container, until its end. Takes over ``fd``."""
    with os.fdopen(fd, "rb", buffering=0) as source:
        decode_video(channel, source, order, cutting)


def decode_video(channel: Channel, source: BinaryIO | Camera, order: Order, cutting: Cutting) -> None:
    """A video until its end."""
    writer, live, progress = Writer(channel), not isinstance(order, OpenUpload), order.progress
    paced = isinstance(order, OpenContainer) and order.paced
    sampling = Sampling(order.sampling, writer, prompt=live)
    limits, threads = order.sampling.limits, order.sampling.threads

    def warn(code: str, message: str) -> None:
        writer.tell(SourceWarns(code, message))

    prompt = live and not paced  # a file lies there: it can be looked at before its first picture
    mp4 = isinstance(order, OpenContainer) and order.fragmented_mp4
    with VideoReader(
        source, limits=limits, low_latency=prompt, fragmented_mp4=mp4, threads=threads, on_warning=warn,
        ring=cutting.ring,
    ) as reader:  # fmt: skip
        shift_us: int | None = 0
        told: dict[str, int] = {}
        if progress is None:
            info = reader.info
            sampling.open(info.width, info.height, info.average_rate, info.codec)
        else:
            sampling.go_on(progress, writer.ring())
            shift_us, told = (None, {}) if live else (0, dict(progress.dropped))
        started, began = time.thread_time(), time.monotonic()
        captured_us: int | None = None
        pace = StampPace() if prompt else None
        try:
            for frame in reader:
                if paced:
                    time.sleep(max(0.0, began + frame.pts_us / 1e6 - time.monotonic()))
                # when its bytes were there: now, less the work since the frame before it
                at = time.monotonic() - (time.thread_time() - started)
                if shift_us is None and progress is not None:
                    cutting.shift_us = shift_us = _goes_on_at(progress, at) - frame.pts_us
                if pace is None or reader.in_other_unit:
                    pace = None
                elif (unit := pace.unit(frame.pts_us, at)) is not None:
                    pace = None  # once is enough
                    reader.warnings.append(f"timestamps run {unit.pace} than pictures arrive; {OTHER_UNIT}")
                    warn("timestamps", reader.warnings[-1])
                if (origin_us := reader.capture.origin_us) is not None:
                    origin_us -= shift_us or 0
                    if captured_us is None or abs(origin_us - captured_us) > _CAPTURE_STEP_US:
                        captured_us = origin_us
                        channel.send(CaptureOrigin(origin_us))
                sampling.frame(frame.pts_us + (shift_us or 0), frame, at)
                _tell_dropped(writer, reader.dropped, told)
                while (received := writer.waiting()) is not None:
                    match received.message:
                        case FlushSource():
                            _flush(channel, sampling)
                        case KeepPackets() | CutPackets():
                            cutting.carry_out(received)
                started = time.thread_time()
        finally:  # a failure on the way too leaves every frame before it told of, and written
            sampling.commit()
            sampling.tell_frames()
            _tell_dropped(writer, reader.dropped, told)
        channel.send(SourceEnded(tuple(reader.warnings)))


def _goes_on_at(progress: Progress, at: float) -> int:
    """The timestamp, µs, of a frame received at monotonic time ``at``, the first of another container of a stream."""
    since_us = 0 if progress.origin is None else round((at - progress.origin) * 1e6)
    return max(progress.pts_us + 1, since_us)


def _tell_dropped(writer: Writer, dropped: dict[str, int], told: dict[str, int]) -> None:
    for reason, count in dropped.items():
        if count > told.get(reason, 0):
            writer.tell(FramesDropped(reason, count - told.get(reason, 0), told=False))
            told[reason] = count


def _flush(channel: Channel, sampling: Sampling) -> None:
    sampling.commit()
    sampling.tell_frames()
    channel.send(Flushed())


def decode_pictures(channel: Channel, order: OpenPictures, cutting: Cutting) -> None:
    """Pictures one by one as messages, each answered with ``PictureWanted``."""
    writer = Writer(channel)
    sampling = Sampling(order.sampling, writer, prompt=True)
    opened, newest_us, told = False, -1, set[str]()
    if order.progress is not None:
        sampling.go_on(order.progress, writer.ring())
        opened, newest_us = True, order.progress.pts_us
    while True:
        received = writer.next()
        if isinstance(received.message, FlushSource):
            _flush(channel, sampling)
            continue
        if isinstance(received.message, KeepPackets | CutPackets):
            cutting.carry_out(received)
            continue
        if isinstance(received.message, EndOfPictures):
            sampling.commit()
            sampling.tell_frames()
            channel.send(SourceEnded(sampling.warnings))
            return
        arrived: JpegPicture = received.message
        picture = CompressedPicture(received.payload, order.sampling.limits)
        try:
            if arrived.pts_us <= newest_us:
                channel.send(FramesDropped("out_of_order", 1, told=False))
                continue
            if not opened:
                height, width = picture.decoded().shape[:2]
                sampling.open(width, height, None)
                opened = True
            newest_us = arrived.pts_us
            cutting.ring.put_picture(arrived.pts_us, picture.data)
            sampling.frame(arrived.pts_us, picture, arrived.at)
        except MediaError as error:
            if error.code in _ENDS_A_STREAM or (not opened and instead_of_jpeg(picture.data) is not None):
                raise
            channel.send(FramesDropped("corrupt", 1, told=False))
            if error.message not in told and len(told) < _MOST_TOLD:
                told.add(error.message)
                channel.send(SourceWarns("corrupt", error.message))
        finally:
            channel.send(PictureWanted())


def render(channel: Channel, received: Received, clock: Callable[[], float] = time.monotonic) -> None:
    """Draw keyframes into a copy of the video: source, target and keyframes by descriptor."""
    order: Render = received.message
    with os.fdopen(received.fds[2], "rb") as drawing:
        keyframes = read_keyframes(drawing)
    told_at = clock()

    def tell(done_s: float, of_s: float | None) -> None:
        nonlocal told_at
        if clock() - told_at >= _TOLD_EVERY_S:
            told_at = clock()
            channel.send(DrawnTo(max(0, round(done_s * 1e6)), None if of_s is None else max(0, round(of_s * 1e6))))

    with os.fdopen(received.fds[0], "rb") as source, os.fdopen(received.fds[1], "w+b") as target:
        source.seek(0)
        try:
            write_annotated(source, target, keyframes, trained=order.trained, limits=order.limits, progress=tell)
            target.flush()
        except OSError as error:
            if error.errno not in _NO_ROOM:
                raise
            channel.send(NotStored(os.strerror(error.errno)))
            target.raw.close()  # what is buffered yet has no room either
            return
    channel.send(Rendered())


def serve(channel: Channel) -> None:
    """One source, then nothing until the parent closes."""
    cutting, received = Cutting(channel), channel.receive()
    while received is not None and isinstance(received.message, KeepPackets):
        cutting.carry_out(received)
        received = channel.receive()
    if received is None:
        return
    try:
        carry_out(channel, received, cutting)
    except MediaError as error:
        channel.send(SourceFailed(error.code, str(error)))
    except MemoryError:
        channel.send(SourceFailed("too_large", "decoding it needs more memory than allowed"))
    while (late := channel.receive()) is not None:  # it crossed with the end of the source
        if isinstance(late.message, CutPackets):
            cutting.carry_out(late)
            continue
        for fd in late.fds:
            os.close(fd)


def carry_out(channel: Channel, received: Received, cutting: Cutting) -> None:
    """The one order of this process. Raises MediaError, MemoryError."""
    match received.message:
        case OpenUpload() | OpenContainer() as order:
            _limit_cpu(order.sampling.cpu_s)
            cell.write_no_file()
            decode_file(channel, received.fds[0], order, cutting)
        case OpenCamera() as order:
            _limit_cpu(order.sampling.cpu_s)
            cell.write_no_file()
            decode_video(channel, RtspCamera(order.url, order.silent_s), order, cutting)
        case OpenDevice() as order:
            _limit_cpu(order.sampling.cpu_s)
            cell.write_no_file()
            decode_video(channel, CameraDevice(order.path), order, cutting)
        case OpenPictures() as order:
            _limit_cpu(order.sampling.cpu_s)
            cell.write_no_file()
            decode_pictures(channel, order, cutting)
        case Render() as order:
            _limit_cpu(order.cpu_s)
            render(channel, received)
        case DrawPicture():
            draw_pictures(channel, received)


def _limit_cpu(seconds: float | None) -> None:
    """Bound CPU time from here on, for good: SIGXCPU ends the process past it, and a second later SIGKILL."""
    if seconds is None:
        return
    used, hard = resource.getrusage(resource.RUSAGE_SELF), resource.getrlimit(resource.RLIMIT_CPU)[1]
    soft = int(used.ru_utime + used.ru_stime + seconds) + 1
    if hard == resource.RLIM_INFINITY or soft < hard:
        resource.setrlimit(resource.RLIMIT_CPU, (soft, soft + 1))


def prepare() -> None:
    """All that is needed later and cannot be had inside: what decoders share, made before they are (``nursery``)."""
    for corridor in (TO_DECODER, FROM_DECODER):
        corridor.prepare()
    load_all()


def run(connection: socket.socket, memory_bytes: int) -> None:
    """A decoder's whole life, after ``prepare``: its end of the channel, and the address space it may have."""
    _live(connection, memory_bytes)


def run_connected(connection: socket.socket, memory_bytes: int) -> None:
    """The same of one whose descriptor 0 is a socket, connected to the camera that it is to read, or a video device."""
    is_socket = stat.S_ISSOCK(os.fstat(seccomp.GIVEN).st_mode)
    _live(connection, memory_bytes, seccomp.CONNECTED if is_socket else seccomp.WITH_DEVICE)


def _live(connection: socket.socket, memory_bytes: int, besides: Sequence[seccomp.Call] = ()) -> None:
    channel = Channel(connection, TO_DECODER)
    missing = cell.shut(memory_bytes, besides)
    try:
        channel.send(DecoderReady(missing))
        serve(channel)
    except (ParentGone, ChannelError):
        pass
