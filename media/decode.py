"""Reading a video: frames in presentation order, with times that only rise, from files and live streams alike.

FFmpeg's log stays off, as PyAV has it by default. Its messages cannot be had safely: they come from FFmpeg's decoding
threads and take Python's lock, which PyAV holds while it waits for those very threads to end. What an error says here
is FFmpeg's error text instead.
"""

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from fractions import Fraction
from math import ceil
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

import av
import av.codec.context
import av.error
from av.container import InputContainer
from av.packet import Packet
from av.video.stream import VideoStream

from stmixer.media.camera_feed import Camera, CameraFeed
from stmixer.media.capture_clock import CaptureClock
from stmixer.media.deinterlace import Deinterlacer
from stmixer.media.display import Display
from stmixer.media.errors import MediaError
from stmixer.media.frame import Frame
from stmixer.media.limits import Limits
from stmixer.media.pace import other_unit
from stmixer.media.packet_ring import PacketRing
from stmixer.media.probe import (
    DECODERS,
    Rate,
    choose_stream,
    clock_wraps,
    codecs_rate,
    explain,
    has_clock,
    open_container,
    others_told,
    stream_duration_s,
    stream_rate,
    timeline_rate,
)
from stmixer.media.source import ByteSource, PartedByteSource, ResourceRefused, SeekableByteSource, open_source
from stmixer.media.takeover import Takeover
from stmixer.media.timeline import INTERVALS, Placed, Timeline
from stmixer.media.track_display import TrackDisplay

__all__ = ["Frame", "Limits", "VideoInfo", "VideoReader"]

# Packets in a row that fail before the rest is given up: ten seconds at 25 fps, more than any group of pictures that
# can still recover, little enough that a long broken file ends soon.
MAX_FAILURES = 250
MAX_TAKEOVERS_TOLD = 20
"""Times that another video takes over which are told of while they happen."""
_NOT_LOOKED_THROUGH = (
    "it was looked through for other files behind the first only in part; one that begins behind that is not read"
)
_MICROSECOND = Fraction(1, 1_000_000)
_TICKS_A_SECOND = 1_000_000_000
"""At least: what takes over is not rounded into the ticks of what it follows, which may be as long as a frame."""


@dataclass(frozen=True, slots=True)
class VideoInfo:
    """What is known of a video once its first frame is decoded.

    Attributes:
        width, height: pixels of the first frame, as displayed.
        rotation: degrees clockwise that were applied: 0, 90, 180, 270.
        mirrored: whether a reflection was applied too.
        average_rate: frames per second, or None.
        codec, container: FFmpeg's names.
        duration_s: what the container claims, or None, as of several files; a hint, for nothing but progress.
        sample_aspect_ratio: width of a pixel over its height as stored; ``width`` has it applied.
    """

    width: int
    height: int
    rotation: int
    mirrored: bool
    average_rate: float | None
    codec: str
    container: str
    duration_s: float | None
    sample_aspect_ratio: float


@dataclass(frozen=True, slots=True)
class _Shown:
    """A decoded picture, how it is to be shown, and what its timestamps count in: seconds a tick.

    ``file``: of several behind each other, whose clocks have nothing to do with each other, which one it is of.
    ``rate``: for pictures without a timestamp."""

    picture: av.VideoFrame
    display: Display
    time_base: Fraction
    file: int
    rate: Rate

    @property
    def size(self) -> tuple[int, int]:
        return self.display.size(self.picture.width, self.picture.height)

    def ticks(self, base: Fraction) -> tuple[int | None, int | None]:
        """When to present and when it was decoded, in ticks of ``base``."""
        pts, dts = self.picture.pts, self.picture.dts
        scale = self.time_base / base
        return None if pts is None else round(pts * scale), None if dts is None else round(dts * scale)


def _no_frames() -> Generator[Frame]:
    yield from ()


class VideoReader:
    """Iterates once over the frames of a video. Not thread-safe.

    The first frame is decoded at once: :attr:`info` is therefore complete, a file without frames fails here, and with a
    live source the constructor waits for the first picture.

    Args:
        source: a path, or a binary file object whose ``read(n)`` may wait and may return less than n; b'' ends it. A
            file object is not closed here, and exceptions that it raises pass through. Or a camera, which FFmpeg reads.
        limits: enforced when opening and at every frame.
        rate_hint: frames per second of a raw stream without timestamps.
        threads: decoding threads.
        low_latency: for live sources: little probing, and no frame held back by threads.
        fragmented_mp4: what a live source is said to be; it may be joined anywhere, and is read from its tables on.
        on_warning: told of what is odd, a code and a line, when it is first met: ``timestamps``, ``corrupt`` (packets
            that cannot be decoded, what is behind the first and cannot be read), ``other_videos`` (which of several is
            read), ``takeover`` (another video, which is read from there on: of MPEG-TS, or behind another recording).
            ``warnings`` sums up.
        ring: gets every packet, and when its picture is shown.

    Attributes:
        info: see :class:`VideoInfo`.
        warnings: one line each, complete once iteration has ended.
        capture: when pictures were taken, where a camera tells.
        dropped: frames not delivered by reason: ``out_of_order``, ``corrupt`` (a packet that could not be decoded).
        in_other_unit: whether its timestamps count in another unit than the container says, by the rate of the video.
        unread: why the first one of the files behind the first could not be read, where one could not; None: all were.

    Raises:
        MediaError: any code but ``aspect_unsupported``; ``too_large`` and ``too_long`` also while iterating, and any
            where what takes over, or a file behind the first, cannot be read and no frame has come yet.
    """

    def __init__(
        self,
        source: str | Path | BinaryIO | Camera,
        *,
        limits: Limits,
        rate_hint: float | None = None,
        threads: int = 2,
        low_latency: bool = False,
        fragmented_mp4: bool = False,
        on_warning: Callable[[str, str], None] | None = None,
        ring: PacketRing | None = None,
    ) -> None:
        self.warnings: list[str] = []
        self.dropped: dict[str, int] = {}
        self._limits = limits
        self._on_warning, self._told = on_warning, set[str]()
        self._ring = PacketRing() if ring is None else ring
        self._damaged = 0
        self._resizes, self._size = 0, (0, 0)
        self._delivered, self._takeovers, self._files = False, 0, 0
        self.in_other_unit = False
        self.unread: MediaError | None = None
        self._files_unread = 0
        self._encrypted = False
        self._first_failure: av.error.FFmpegError | None = None
        self._frames: Generator[Frame] = _no_frames()
        self._first: Frame | None = None
        self._container: InputContainer | None = None
        self._stream: VideoStream | None = None
        self._source: ByteSource = CameraFeed(source) if isinstance(source, Camera) else open_source(source)
        self._threads, self._low_latency = threads, low_latency
        self._watched = False  # whether another video may take over
        self._broken = False  # whether what is read now ended in a fault
        self.capture = CaptureClock()
        try:
            self._look_through(fragmented_mp4)
            container, stream = self._open()
            for line in others_told(container, stream):
                self.warnings.append(line)
                self._tell(line, "other_videos")
            self._frames = self._deliver(container, stream, rate_hint)
            self._first = next(self._frames, None)
            if self._first is None:
                raise explain(self._source, self._first_failure, self._encrypted)
            self.info = self._describe(self._first)
        except BaseException:
            self.close()
            raise

    def _look_through(self, fragmented_mp4: bool) -> None:
        """Whether another video may take over, or other files are behind the first."""
        if isinstance(self._source, SeekableByteSource):
            more = self._source.may_hold_more()
            if (parted := self._source.in_parts()) is not None:
                self._source = parted
            elif self._source.takes_over():
                self._source, self._watched = self._source.straight_on(), True
            if more and not self._watched:
                self.warnings.append(_NOT_LOOKED_THROUGH)
                self._tell(_NOT_LOOKED_THROUGH, "corrupt")
        elif self._low_latency and not isinstance(self._source, CameraFeed):
            self._watched = True
        if self._watched:
            self._source.watch(fragmented_mp4)

    def __iter__(self) -> Iterator[Frame]:
        if self._first is not None:
            first, self._first = self._first, None
            yield first
        yield from self._frames

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends reading and frees the decoder; frames already delivered stay valid. May be called twice."""
        # First: a generator left alive elsewhere would go on reading a container that PyAV has freed. It also holds the
        # decoder, whose memory lives as long as something refers to it.
        self._frames.close()
        self._first = None
        # A failure that is kept refers to this reader, and that to who is told of oddities: the ring of a stream would
        # stay mapped until Python's collector happens to run.
        self._on_warning = self._first_failure = None
        self._close_container()
        self._source.close()

    def _close_container(self) -> None:
        self._stream = None
        if self._container is not None:
            self._container.close()
            self._container = None

    def _open(self, pid: int | None = None) -> tuple[InputContainer, VideoStream]:
        """The source, or what has taken over in it with this PID, and which stream of it is read."""
        while True:
            try:
                return self._open_part(pid)
            except MediaError:
                if self._source.takeover is not None:  # before anything but its tables has come
                    pid = self._take_over(self._source.takeover)
                elif self._source.wait_for_tables():  # joined where nothing can be guessed without
                    self._close_container()
                else:
                    raise

    def _open_part(self, pid: int | None) -> tuple[InputContainer, VideoStream]:
        self._broken = False
        container = open_container(self._source, self._limits, self._low_latency)
        self._container = container
        stream = choose_stream(container, pid)
        if self._watched:
            self._source.follow(stream.id if container.format.name == "mpegts" else None)
        self._check_claims(stream)
        self._configure(stream, self._threads, self._low_latency)
        self._ring.clear()
        self._stream = stream
        return container, stream

    def _check_claims(self, stream: VideoStream) -> None:
        width, height = stream.codec_context.width, stream.codec_context.height
        if width and height:
            self._limits.check_size(width, height)

    def _configure(self, stream: VideoStream, threads: int, low_latency: bool) -> None:
        context = stream.codec_context
        context.options = {"max_pixels": str(self._limits.decoder_pixels), "codec_whitelist": DECODERS}
        context.thread_count = threads
        context.thread_type = "SLICE" if low_latency else "AUTO"
        if low_latency and context.codec.canonical_name == "av1":
            # dav1d has frame threads of its own, which this flag turns off. Codecs that reorder must not have it.
            context.flags |= int(av.codec.context.Flags.low_delay)

    def _deliver(self, container: InputContainer, stream: VideoStream, rate_hint: float | None) -> Generator[Frame]:
        """Pictures with their place in time, checked against the limits."""
        rate, clock = timeline_rate(container, stream, rate_hint), has_clock(container)
        tick = stream.time_base or _MICROSECOND
        parts = ceil(tick * _TICKS_A_SECOND)
        base, wraps = tick / parts, [ticks * parts for ticks in clock_wraps(container)]
        timeline: Timeline[_Shown] = Timeline(base, rate.value, wraps, assumed=rate.assumed)
        deinterlacer = Deinterlacer()
        if rate.assumed and not clock:
            self.warnings.append(f"the stream does not say its rate; taken as {float(rate.value):g} frames per second")
        index = 0
        try:
            pictures = self._shown(deinterlacer, container, stream, rate_hint)
            for placed in self._placed(pictures, timeline, base if clock else None):
                if (frame := self._frame(placed, index, timeline)) is not None:
                    yield frame
                    index += 1
        except ResourceRefused as error:
            raise explain(self._source, error) from error
        finally:
            self._add_warnings(timeline, deinterlacer)

    def _placed(
        self, pictures: Generator[_Shown], timeline: Timeline[_Shown], base: Fraction | None
    ) -> Generator[Placed[_Shown]]:
        """``base``: seconds a tick, of what has a clock."""
        file = 0
        for shown in pictures:
            self._limits.check_size(*shown.size)
            if shown.file != file:
                file = shown.file
                yield from timeline.begin_anew(shown.rate.value, assumed=shown.rate.assumed)
            yield from timeline.place(shown, *((None, None) if base is None else shown.ticks(base)))
        yield from timeline.end()

    def _frame(self, placed: Placed[_Shown], index: int, timeline: Timeline[_Shown]) -> Frame | None:
        """What a placed picture is delivered as; None for one that is left out."""
        if placed.pts_us is None:
            self._count_dropped("out_of_order")
            self._tell("frames are left out, their timestamps being no later than the last")
            return None
        self._check_duration(placed.pts_us, index)
        if timeline.resets:
            self._tell("the timestamps start anew; time goes on without a gap")
        if timeline.strays:
            self._tell("timestamps lie far from those before and after; such frames are put between them")
        if index == INTERVALS:
            self._check_unit(placed.pts_us / index)
        picture, size = placed.item.picture, placed.item.size
        if index and size != self._size:
            self._resizes += 1
        self._size, self._delivered = size, True
        self._damaged += picture.is_corrupt
        self.capture.place(picture, placed.pts_us)
        self._ring.placed(picture.pts if picture.pts is not None else picture.dts, placed.pts_us)
        return Frame(picture, index, placed.pts_us, placed.item.display)

    def _check_duration(self, pts_us: int, index: int) -> None:
        try:
            self._limits.check_duration(pts_us / 1_000_000)
        except MediaError as error:
            if index and (odd := self._other_unit(pts_us / index)) is not None:
                raise MediaError(error.code, f"{error.message}; its {odd}") from None
            raise

    def _check_unit(self, interval_us: float) -> None:
        """Says where the container's timestamps, so far apart, are in another unit than it says, by the video's own
        rate. A live stream's are held against the moments at which it comes besides."""
        if (odd := self._other_unit(interval_us)) is not None:
            self.in_other_unit = True
            self.warnings.append(odd)
            self._tell(odd)

    def _other_unit(self, interval_us: float) -> str | None:
        stream = self._stream
        if stream is None:
            return None
        return other_unit(interval_us, codecs_rate(stream), stream.time_base, live=self._low_latency)

    def _tell(self, warning: str, code: str = "timestamps") -> None:
        """Passes a warning on, once."""
        if self._on_warning is not None and warning not in self._told:
            self._told.add(warning)
            self._on_warning(code, warning)

    def _shown(
        self, deinterlacer: Deinterlacer, container: InputContainer, stream: VideoStream, rate_hint: float | None
    ) -> Generator[_Shown]:
        """Pictures as they are to be shown: of the stream, and of whatever takes over from it."""
        while True:
            displays, base = TrackDisplay(self._source, container, stream), stream.time_base or _MICROSECOND
            rate = timeline_rate(container, stream, rate_hint)
            for picture in self._whole(deinterlacer, self._pictures(container, stream)):
                yield _Shown(picture, displays.of(picture), base, self._files, rate)
            if (opened := self._open_next()) is None:
                return
            container, stream = opened

    def _open_next(self) -> tuple[InputContainer, VideoStream] | None:
        """What goes on behind what has come to its end; None where nothing does, or nothing that can be read."""
        if not self._broken and not self._source.pass_over():
            behind = "the video has ended; what comes behind its end is not read"
            self.warnings.append(behind)
            self._tell(behind, "corrupt")
        while (takeover := self._source.follows()) is not None:
            within = takeover.pid is not None  # of MPEG-TS, where others may follow it while it opens
            if within:
                self._count_takeover(takeover)
            self._end_part()
            try:
                opened = self._open(takeover.pid)
            except MediaError as error:
                if not self._delivered or error.code == "too_large":
                    raise
                self._files_unread += 1
                # another one: what was raised refers to this reader
                self.unread = self.unread or MediaError(error.code, error.message)
                self._tell(f"a file behind the first could not be read: {error}", "corrupt")
                continue
            if not within:
                self._count_takeover(takeover)
            return opened
        return None

    def _take_over(self, takeover: Takeover) -> int | None:
        """Ends what was read until now; the PID of what is read next, of MPEG-TS."""
        self._count_takeover(takeover)
        self._end_part()
        return takeover.pid

    def _count_takeover(self, takeover: Takeover) -> None:
        self._takeovers += 1
        self._files += takeover.is_file
        if self._on_warning is not None and self._takeovers <= MAX_TAKEOVERS_TOLD:
            self._on_warning("takeover", f"another video takes over ({takeover.name}); it is read from here on")

    def _end_part(self) -> None:
        self._source.next_part()
        self._close_container()

    def _whole(self, deinterlacer: Deinterlacer, pictures: Generator[av.VideoFrame]) -> Generator[av.VideoFrame]:
        for picture in pictures:
            yield from deinterlacer.put(picture)
        yield from deinterlacer.end()

    def _pictures(self, container: InputContainer, stream: VideoStream) -> Generator[av.VideoFrame]:
        """Decodes until the end, past packets that fail."""
        failures = 0
        for packet in self._packets(container, stream):
            try:
                pictures = stream.codec_context.decode(packet)
            except av.error.FFmpegError as error:
                failures += 1
                self._count_dropped("corrupt")
                self._first_failure = self._first_failure or error
                if self._delivered:  # what a stream that is joined in its middle begins with may be cut
                    self._tell(f"packets cannot be decoded: {error.strerror}", "corrupt")
                if failures >= MAX_FAILURES and (self._delivered or not self._low_latency):
                    self._stop(f"reading stopped after {failures} packets in a row that could not be decoded")
                    return
                continue
            if pictures:
                failures = 0
            yield from pictures

    def _packets(self, container: InputContainer, stream: VideoStream) -> "Generator[Packet[VideoStream] | None]":
        """The stream's packets, then None, which makes the decoder give up the frames it holds back."""
        try:
            for packet in container.demux(stream):
                # PyAV's own end mark, or a frame that AVI left empty; to a decoder, both mean the end. After the mark
                # PyAV fails where the file has got streams that it did not begin with.
                if packet.size == 0:
                    if packet.pts is None and packet.dts is None:
                        break
                    continue
                if packet.has_sidedata("encryption_info"):
                    # Decoding it gives noise or errors. A clear beginning before it has been delivered.
                    self._encrypted = True
                    self._stop("reading stopped where the video begins to be encrypted")
                    break
                if isinstance(self._source, CameraFeed):
                    self.capture.read(packet)
                self._ring.put(packet)
                yield packet
        except av.error.FFmpegError as error:
            if isinstance(self._source, CameraFeed):
                raise explain(self._source, error, opening=False) from error
            self._first_failure, self._broken = self._first_failure or error, True
            self.warnings.append(f"the file could be read only in part: {error.strerror}")
        yield None

    def _stop(self, why: str) -> None:
        """Says that no more is read of what is read now."""
        self._broken = True
        self.warnings.append(why if self._source.follows() is None else f"{why}, and goes on with what is behind it")

    def _count_dropped(self, reason: str) -> None:
        self.dropped[reason] = self.dropped.get(reason, 0) + 1

    def _add_warnings(self, timeline: Timeline[_Shown], deinterlacer: Deinterlacer) -> None:
        """Sums up in warnings what was met on the way."""
        if corrupt := self.dropped.get("corrupt"):
            reason = self._first_failure.strerror if self._first_failure else "unknown"
            self.warnings.append(f"packets that could not be decoded: {corrupt}, the first: {reason}")
        if self._damaged:
            self.warnings.append(f"frames that are damaged, delivered all the same: {self._damaged}")
        if timeline.missing:
            many = timeline.missing
            self.warnings.append(f"frames without a timestamp: {many}, taken as {timeline.taken_as:g} per second")
        if late := self.dropped.get("out_of_order"):
            self.warnings.append(f"frames left out, their timestamps being no later than the last: {late}")
        if timeline.strays:
            self.warnings.append(f"timestamps far from their neighbours': {timeline.strays}, put between those")
        if timeline.resets:
            self.warnings.append(f"times the timestamps start anew: {timeline.resets}; time goes on without a gap")
        if self._takeovers:
            self.warnings.append(f"times that another video took over: {self._takeovers}; it was read from there on")
        if self.unread is not None:
            self.warnings.append(f"files behind the first that could not be read: {self._files_unread}; {self.unread}")
        if self._resizes:
            self.warnings.append(f"changes of the picture size: {self._resizes}")
        if deinterlacer.pictures:
            self.warnings.append(f"interlaced frames, made whole from both fields: {deinterlacer.pictures}")

    def _describe(self, first: Frame) -> VideoInfo:
        # of what the first frame came from: something may have taken over before it, and PyAV has freed the rest
        container, stream = self._container, self._stream
        assert container is not None
        assert stream is not None
        rate = stream_rate(container, stream)
        context = stream.codec_context
        return VideoInfo(
            width=first.width,
            height=first.height,
            rotation=first.display.orientation.rotation,
            mirrored=first.display.orientation.mirrored,
            average_rate=None if rate is None else float(rate),
            codec=context.codec.canonical_name,
            container=container.format.name,
            duration_s=None if isinstance(self._source, PartedByteSource) else stream_duration_s(container, stream),
            sample_aspect_ratio=float(first.display.pixel_shape),
        )
