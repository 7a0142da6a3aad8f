"""What FFmpeg may open, which stream of it is the video, and why it failed if it did."""

from dataclasses import dataclass
from fractions import Fraction

import av
import av.error
from av.container import InputContainer
from av.stream import Disposition
from av.video.stream import VideoStream

from stmixer.media.camera_feed import CameraFeed
from stmixer.media.errors import MediaError
from stmixer.media.limits import Limits
from stmixer.media.sniff import ONE_PICTURE, is_piece, sniff
from stmixer.media.source import ByteSource, ResourceRefused

# Containers and raw streams that hold their own media, and that cameras, recorders, editors and test suites write; the
# table in docs/formats.md is made from them. Anything that can name other files (hls, dash, concat, sdp, image2, imf,
# mlv, ...) or a device (lavfi, v4l2, ...) stays out, and what FFmpeg adds in future stays out too.
DEMUXERS = (
    "mov,mp4,matroska,webm,avi,mpegts,mpeg,mpegvideo,flv,live_flv,kux,ogg,gif,apng,asf,ivf,"
    "dv,mxf,gxf,dhav,ifv,lmlm4,yuv4mpegpipe,nut,nuv,nsv,rm,ivr,vivo,wtv,ty,pva,r3d,smjpeg,"
    "h264,hevc,vvc,evc,av1,obu,m4v,h261,h263,vc1,cavsvideo,dirac,dnxhd,mjpeg,mpjpeg,mjpeg_2000,ingenient,mxg"
)
# FFmpeg's decoders, by its own names, for what those containers hold in practice; docs/formats.md lists them too. The
# others, five times as many and most of them for games of the nineties, are code that nobody has to reach. Sound and
# subtitles are never decoded, so none of theirs is among them.
DECODERS = (
    "h264,hevc,vvc,libdav1d,av1,vp8,vp9,mpeg1video,mpeg2video,mpeg4,mjpeg,prores,dnxhd,dvvideo,ffv1,rawvideo,"
    "h261,h263,flv,msmpeg4v1,msmpeg4v2,msmpeg4,wmv1,wmv2,wmv3,vc1,theora,dirac,cavs,jpeg2000,png,apng,gif,"
    "cinepak,svq1,svq3,msvideo1,huffyuv,ffvhuff,v210,vp3,vp6,vp6f,rv10,rv20,rv30,rv40,mxpeg,nuv"
)
_DECODERS = frozenset(DECODERS.split(","))
DEFAULT_RATE = Fraction(25)
MOST_RATE = 240
_WITHOUT_CLOCK = frozenset(
    (
        "h264",
        "hevc",
        "vvc",
        "av1",
        "obu",
        "m4v",
        "mpegvideo",
        "h261",
        "h263",
        "mjpeg",
        "mpjpeg",
        "mjpeg_2000",
        "ingenient",
        "dnxhd",
        "cavsvideo",
        "vc1",
        "evc",
        "dirac",
    )
)
_WRAPS = {"mpegts": (1 << 33,), "mpeg": (1 << 33,), "matroska": (1 << 16,), "flv": (1 << 32,), "asf": (1 << 32,)}
_DURATION_IS_END = ("mp4", "matroska", "flv", "asf")
_NOFILLIN = 0x0010  # AVFMT_FLAG_NOFILLIN
_GENPTS = 0x0001  # AVFMT_FLAG_GENPTS; PyAV's own constant is mistyped
_NOT_VIDEO = Disposition.attached_pic | Disposition.timed_thumbnails | Disposition.still_image


def open_container(source: ByteSource, limits: Limits, low_latency: bool) -> InputContainer:
    """Opens a container, reading as far as its streams are known.

    Raises:
        MediaError: ``external_resource``, ``encrypted`` or ``unreadable``.
    """
    options = {
        "format_whitelist": DEMUXERS,
        "codec_whitelist": DECODERS,
        "protocol_whitelist": "none",
        # Without this the demuxer skips a track that lies in another file, and nobody learns why there is no picture.
        "enable_drefs": "1",
        "max_pixels": str(limits.decoder_pixels),
    }
    if low_latency:
        # FFmpeg would otherwise read up to 5 MB or 5 s ahead to estimate a rate that a live stream does not need.
        options |= {"probesize": "65536", "analyzeduration": "200000", "fpsprobesize": "0"}
    try:
        if isinstance(source, CameraFeed):
            container = source.open(DECODERS, options)
        else:
            container = av.open(source, "r", options=options, io_open=source.refuse, metadata_errors="replace")
    except (av.error.FFmpegError, ResourceRefused, UnicodeError) as error:
        raise explain(source, error) from error
    # PyAV turns this on: invented timestamps, wrong for AVI with B-frames, and read ahead for.
    container.flags &= ~_GENPTS
    if low_latency and "matroska" in container.format.name:
        # of a block that would lie before zero, as it counts over its 16 bits, FFmpeg drops the time, and without a
        # rate makes one up, a millisecond after the last
        container.flags |= _NOFILLIN
    return container


def choose_stream(container: InputContainer, pid: int | None = None) -> VideoStream:
    """The video to read: the one of this PID where there is one; else of those that are no cover picture the first that
    may be decoded, preferring default tracks, then such as hold anything.

    Not FFmpeg's own choice, which goes by bit rate and takes a two-picture track of stills over the film beside it.

    Raises:
        MediaError: ``no_video``; ``unsupported_codec`` when there is no decoder for any, or none that is taken.
    """
    streams = [s for s in container.streams.video if not s.disposition & _NOT_VIDEO]
    if not streams:
        kinds = sorted({"a cover picture" if s.type == "video" else str(s.type) for s in container.streams}) or [
            "nothing"
        ]
        raise MediaError("no_video", f"the file holds no video, only {', '.join(kinds)}; send one with a picture")

    def rank(stream: VideoStream) -> tuple[bool, bool, bool]:
        empty = stream.average_rate is None and not stream.frames
        return (_is_taken(stream), bool(stream.disposition & Disposition.default), not empty)

    best = max([s for s in streams if s.id == pid] or streams, key=rank)
    if best.codec_context is None:
        raise MediaError(
            "unsupported_codec", "there is no decoder for this video; convert it, for instance to H.264 in MP4"
        )
    if not _is_taken(best):
        codec = best.codec_context.codec.canonical_name
        raise MediaError(
            "unsupported_codec", f"video encoded as {codec} is not taken; convert it, for instance to H.264 in MP4"
        )
    return best


def _is_taken(stream: VideoStream) -> bool:
    return stream.codec_context is not None and stream.codec_context.codec.name in _DECODERS


def has_clock(container: InputContainer) -> bool:
    """Whether its timestamps are its own; those of an elementary stream FFmpeg has made up."""
    return container.format.name not in _WITHOUT_CLOCK


def clock_wraps(container: InputContainer) -> tuple[int, ...]:
    """After how many ticks of its streams the container's clock begins anew.

    FFmpeg undoes the first wrap of an MPEG clock, and falls back by its whole range a day later, without a sign.
    """
    name = container.format.name
    return next((wraps for kind, wraps in _WRAPS.items() if kind in name), (1 << 32,))


def stream_rate(container: InputContainer, stream: VideoStream) -> Fraction | None:
    """Frames per second: as an elementary stream says itself; else the container's average, or FFmpeg's guess."""
    own = stream.codec_context.framerate
    rates = (stream.average_rate, stream.guessed_rate) if has_clock(container) else (own,)
    return next((rate for rate in rates if rate is not None and 0 < rate <= MOST_RATE), None)


def codecs_rate(stream: VideoStream) -> Fraction | None:
    """Frames per second as the video itself says, whatever the container's timestamps are."""
    own = stream.codec_context.framerate
    return own if own is not None and 0 < own <= MOST_RATE else None


@dataclass(frozen=True, slots=True)
class Rate:
    """Frames per second for frames without a timestamp; ``assumed`` where nothing says it."""

    value: Fraction
    assumed: bool


def timeline_rate(container: InputContainer, stream: VideoStream, hint: float | None) -> Rate:
    """The rate to go by. The hint goes first for a stream without a clock."""
    given = Fraction(hint).limit_denominator(1_000_000) if hint is not None and hint > 0 else None
    known = stream_rate(container, stream)
    rate = (known or given) if has_clock(container) else (given or known)
    return Rate(rate or DEFAULT_RATE, assumed=rate is None)


def others_told(container: InputContainer, chosen: VideoStream) -> list[str]:
    """A line on the video streams that are not read, where there are any."""
    others = [s for s in container.streams.video if s.index != chosen.index and not s.disposition & _NOT_VIDEO]
    if not others:
        return []
    return [f"the file holds {len(others) + 1} video streams; stream {chosen.index} is read, as a player would show it"]


def stream_duration_s(container: InputContainer, stream: VideoStream) -> float | None:
    """Length in seconds that the container claims, or None."""
    if not has_clock(container):
        return None
    if stream.duration is not None and stream.time_base is not None:
        length, start = float(stream.duration * stream.time_base), float((stream.start_time or 0) * stream.time_base)
    elif container.duration is not None:
        length, start = container.duration / 1_000_000, (container.start_time or 0) / 1_000_000
    else:
        return None
    # of some containers FFmpeg gives the end, which is the same for all but pieces of longer recordings
    ends = any(kind in container.format.name for kind in _DURATION_IS_END)
    return length - start if ends and 0 < start < length else length


def explain(
    source: ByteSource, error: BaseException | None, encrypted: bool = False, *, opening: bool = True
) -> MediaError:
    """The MediaError for a file of which nothing could be read, by what was seen of it; ``opening``: of a camera that
    did not get as far as its streams."""
    if isinstance(source, CameraFeed):
        return source.explain(error, opening=opening)
    reason = getattr(error, "strerror", None) or ("no picture could be decoded" if error is None else str(error))
    if source.refused or isinstance(error, ResourceRefused):
        return MediaError(
            "external_resource",
            "the file refers to other files or addresses, which are not opened; send the video itself",
        )
    if (named := sniff(bytes(source.head))) is not None:
        return named
    if encrypted or source.looks_encrypted():
        return MediaError("encrypted", "the video is encrypted (DRM); send one that is not")
    if not source.head:
        return MediaError("unreadable", "the file is empty; send a video")
    if isinstance(error, av.error.DecoderNotFoundError | av.error.PatchWelcomeError | av.error.NotImplementedError):
        return MediaError("unsupported_codec", f"the video cannot be decoded ({reason}); convert it to H.264 in MP4")
    if source.head.startswith(b"\xff\xd8\xff"):
        return MediaError("no_video", f"this is a JPEG picture: {ONE_PICTURE}")
    if is_piece(bytes(source.head)):
        return MediaError(
            "unreadable",
            "this is a segment of a fragmented MP4 without its beginning; put the initialisation segment before it",
        )
    if source.lacks_index():
        return MediaError(
            "unreadable",
            "the MP4's index (moov) is missing: its recording or a copy of it broke off; send a whole one, "
            "or record fragmented MP4, of which a part can be read",
        )
    if error is None:
        return MediaError("no_frames", "the video holds no picture; check that the file is complete")
    return MediaError("unreadable", f"the file cannot be read as a video ({reason}); check that it is complete")
