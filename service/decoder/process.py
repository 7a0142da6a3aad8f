"""A decoder process: the only place where untrusted media meets FFmpeg.

Reads one source at a time, samples it on the time grid, resizes, writes ring slots, and tells the API process of every
frame (``ipc.messages``, TO_DECODER and FROM_DECODER). Its memory is bounded, an upload's CPU time too; when the parent
is gone it ends.
"""

from __future__ import annotations

import os
import resource
import signal
import socket
import sys
import time

from stmixer.media.annotated import write_annotated
from stmixer.media.decode import VideoReader
from stmixer.media.errors import MediaError
from stmixer.media.sniff import sniff
from stmixer.service.decoder.jpeg import CompressedPicture
from stmixer.service.decoder.sampling import Sampling
from stmixer.service.decoder.writer import ParentGone, Writer
from stmixer.service.ipc.channel import Channel, ChannelError, Received
from stmixer.service.ipc.child import die_with_parent
from stmixer.service.ipc.drawing import read_keyframes
from stmixer.service.ipc.messages import (
    TO_DECODER,
    DecoderReady,
    EndOfPictures,
    Flushed,
    FlushSource,
    FramesDropped,
    JpegPicture,
    OpenContainer,
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

_ENDS_A_STREAM = ("aspect_unsupported", "too_large")
"""What is wrong with all of a camera's pictures, not with one."""


def decode_video(channel: Channel, fd: int, order: OpenUpload | OpenContainer) -> None:
    """An upload or a live container, until its end. Takes over ``fd``."""
    writer, live, progress = Writer(channel), isinstance(order, OpenContainer), order.progress
    sampling = Sampling(order.sampling, writer, prompt=live)
    limits, threads = order.sampling.limits, order.sampling.threads

    def warn(code: str, message: str) -> None:
        writer.tell(SourceWarns(code, message))

    with (
        os.fdopen(fd, "rb", buffering=0) as source,
        VideoReader(source, limits=limits, low_latency=live, threads=threads, on_warning=warn) as reader,
    ):
        shift_us: int | None = 0
        told: dict[str, int] = {}
        if progress is None:
            sampling.open(reader.info.width, reader.info.height, reader.info.average_rate)
        else:
            sampling.go_on(progress, writer.ring())
            shift_us, told = (None, {}) if live else (0, dict(progress.dropped))
        started = time.thread_time()
        try:
            for frame in reader:
                # when its bytes were there: now, less the work since the frame before it
                at = time.monotonic() - (time.thread_time() - started)
                if shift_us is None and progress is not None:
                    shift_us = _goes_on_at(progress, at) - frame.pts_us
                sampling.frame(frame.pts_us + (shift_us or 0), frame, at)
                _tell_dropped(writer, reader.dropped, told)
                while (received := writer.waiting()) is not None:
                    if isinstance(received.message, FlushSource):
                        _flush(channel, sampling)
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


def decode_pictures(channel: Channel, order: OpenPictures) -> None:
    """Pictures one by one as messages, each answered with ``PictureWanted``."""
    writer = Writer(channel)
    sampling = Sampling(order.sampling, writer, prompt=True)
    opened, newest_us, told = False, -1, ""
    if order.progress is not None:
        sampling.go_on(order.progress, writer.ring())
        opened, newest_us = True, order.progress.pts_us
    while True:
        received = writer.next()
        if isinstance(received.message, FlushSource):
            _flush(channel, sampling)
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
            sampling.frame(arrived.pts_us, picture, arrived.at)
        except MediaError as error:
            if error.code in _ENDS_A_STREAM or (not opened and sniff(picture.data) is not None):
                raise
            channel.send(FramesDropped("corrupt", 1, told=False))
            if error.message != told:
                told = error.message
                channel.send(SourceWarns("corrupt", told))
        finally:
            channel.send(PictureWanted())


def render(channel: Channel, received: Received) -> None:
    """Draw keyframes into a copy of the video: source, target and keyframes by descriptor."""
    order: Render = received.message
    with os.fdopen(received.fds[2], "rb") as drawing:
        keyframes = read_keyframes(drawing)
    with os.fdopen(received.fds[0], "rb") as source, os.fdopen(received.fds[1], "w+b") as target:
        source.seek(0)
        write_annotated(source, target, keyframes, trained=order.trained, limits=order.limits)
    channel.send(Rendered())


def serve(channel: Channel) -> None:
    """Sources one after another until the parent closes."""
    while (received := channel.receive()) is not None:
        order = received.message
        try:
            match order:
                case OpenUpload() | OpenContainer():
                    _limit_cpu(order.sampling.cpu_s)
                    decode_video(channel, received.fds[0], order)
                case OpenPictures():
                    _limit_cpu(order.sampling.cpu_s)
                    decode_pictures(channel, order)
                case Render():
                    _limit_cpu(order.cpu_s)
                    render(channel, received)
                case _:  # it crossed with the end of its stream
                    for fd in received.fds:
                        os.close(fd)
        except MediaError as error:
            channel.send(SourceFailed(error.code, str(error)))
        except MemoryError:
            channel.send(SourceFailed("too_large", "decoding it needs more memory than allowed"))


def _limit_cpu(seconds: float | None) -> None:
    """Bound CPU time from here on; the kernel's SIGXCPU ends the process past it."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    soft = resource.RLIM_INFINITY if seconds is None else int(used.ru_utime + used.ru_stime + seconds) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (soft, hard))


def main() -> None:
    """``python -m stmixer.service.decoder.process FD MEMORY_MB``."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides when to end
    die_with_parent()
    memory = int(sys.argv[2]) * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    channel = Channel(socket.socket(fileno=int(sys.argv[1])), TO_DECODER)
    try:
        channel.send(DecoderReady())
        serve(channel)
    except (ParentGone, ChannelError):
        pass


if __name__ == "__main__":
    main()
