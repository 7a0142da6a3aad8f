"""A decoder process: the only place where untrusted media meets FFmpeg.

Reads one source at a time, samples it on the time grid, resizes, writes ring slots, and tells the API process of every
frame. Its memory is bounded, an upload's CPU time too; when the parent is gone it ends.

    parent → child   open {kind, done?, …} [fd], ring {…} [fd], limit {number}, jpeg {pts_us, at} + bytes, flush, end,
                     render {…} [source fd, target fd]
    child → parent   opened, frames {pts_us, at, not_sampled}, sample {…}, full {number}, dropped {reason, count, told},
                     next (ready for another jpeg), flushed, ended {warnings}, failed {code, message}, rendered
"""

from __future__ import annotations

import logging
import os
import resource
import signal
import socket
import sys
import time
from typing import BinaryIO

from stmixer.media.decode import Limits, VideoReader
from stmixer.media.errors import MediaError
from stmixer.service.decoder.render import render_video
from stmixer.service.decoder.writer import Jpeg, ParentGone, Writer
from stmixer.service.ipc.channel import Channel, ChannelError, Header, Message
from stmixer.service.ipc.child import die_with_parent
from stmixer.service.schemas import Result

log = logging.getLogger("stmixer.decoder")


def decode_video(channel: Channel, source: BinaryIO, options: Header) -> None:
    """An upload or a live container, until its end."""
    limits = Limits(**options["limits"])
    writer = Writer(channel, options)
    live, done = options["kind"] == "live", options.get("done")
    with VideoReader(source, limits=limits, low_latency=live, threads=options["threads"]) as reader:
        if done is None:
            writer.open(reader.info.width, reader.info.height, reader.info.average_rate)
        else:
            writer.go_on(done)
        started = time.thread_time()
        told: dict[str, int] = dict(done["dropped"]) if done and not live else {}
        shift_us: int | None = None if done and live else 0
        try:
            for frame in reader:
                # when its bytes were there: now, less the work since the frame before it
                at = time.monotonic() - (time.thread_time() - started)
                if shift_us is None:
                    shift_us = _goes_on_at(done or {}, at) - frame.pts_us
                writer.frame(frame.pts_us + shift_us, frame, at)
                _tell_dropped(channel, reader.dropped, told)
                writer.obey()
                if writer.flush_asked:
                    _flush(channel, writer)
                started = time.thread_time()
        finally:  # a failure on the way too leaves every frame before it told of, and written
            writer.commit()
            writer.tell_frames()
            _tell_dropped(channel, reader.dropped, told)
        channel.send({"t": "ended", "warnings": reader.warnings})


def _goes_on_at(done: Header, at: float) -> int:
    """The timestamp, µs, of a frame received at monotonic time ``at``, the first of another container of a stream."""
    since = 0 if done["origin"] is None else round((at - done["origin"]) * 1e6)
    return max(int(done["pts_us"]) + 1, since)


def _tell_dropped(channel: Channel, dropped: dict[str, int], told: dict[str, int]) -> None:
    for reason, count in dropped.items():
        if count > told.get(reason, 0):
            channel.send({"t": "dropped", "reason": reason, "count": count - told.get(reason, 0), "told": False})
            told[reason] = count


def _flush(channel: Channel, writer: Writer) -> None:
    writer.flush_asked = False
    writer.commit()
    writer.tell_frames()
    channel.send({"t": "flushed"})


def decode_jpegs(channel: Channel, options: Header) -> None:
    """Pictures one by one as messages, each answered with ``next``."""
    limits = Limits(**options["limits"])
    writer = Writer(channel, options)
    opened, last_us = "done" in options, -1
    if opened:
        writer.go_on(options["done"])
        last_us = options["done"]["pts_us"]
    while True:
        message = writer.next()
        if message.header["t"] == "flush":
            _flush(channel, writer)
            continue
        if message.header["t"] == "end":
            writer.commit()
            writer.tell_frames()
            channel.send({"t": "ended", "warnings": writer.warnings})
            return
        picture = Jpeg(message.payload, limits)
        try:
            pts_us = message.header["pts_us"]
            if pts_us <= last_us:
                channel.send({"t": "dropped", "reason": "out_of_order", "count": 1, "told": False})
                continue
            if not opened:
                picture.decode()
                writer.open(picture.width, picture.height, None)
                opened = True
            last_us = pts_us
            writer.frame(pts_us, picture, message.header["at"])
        except MediaError as error:
            if error.code in ("aspect_unsupported", "too_large"):
                raise
            channel.send({"t": "dropped", "reason": "corrupt", "count": 1, "told": False})
        finally:
            channel.send({"t": "next"})


def render(channel: Channel, message: Message) -> None:
    """Draw results into a copy of the video: source and target by descriptor."""
    options = message.header
    results = [Result.model_validate(r) for r in options["results"]]
    with os.fdopen(message.fds[0], "rb") as source, os.fdopen(message.fds[1], "w+b") as target:
        source.seek(0)
        render_video(source, target, results, trained=options["trained"], limits=Limits(**options["limits"]))
    channel.send({"t": "rendered"})


def serve(channel: Channel) -> None:
    """Jobs one after another until the parent closes."""
    while (message := channel.receive()) is not None:
        header = message.header
        try:
            match header["t"]:
                case "open":
                    _limit_cpu(header.get("cpu_s"))
                    if header["kind"] == "jpeg":
                        decode_jpegs(channel, header)
                    else:
                        with os.fdopen(message.fds[0], "rb", buffering=0) as source:
                            decode_video(channel, source, header)
                case "render":
                    _limit_cpu(header.get("cpu_s"))
                    render(channel, message)
                case _:  # an order that crossed with the end of its stream
                    continue
        except MediaError as error:
            channel.send({"t": "failed", "code": error.code, "message": str(error)})
        except MemoryError:
            channel.send({"t": "failed", "code": "too_large", "message": "decoding it needs more memory than allowed"})


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
    channel = Channel(socket.socket(fileno=int(sys.argv[1])))
    try:
        channel.send({"t": "ready"})
        serve(channel)
    except (ParentGone, ChannelError):
        pass


if __name__ == "__main__":
    main()
