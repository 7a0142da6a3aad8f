"""What FFmpeg may open, which stream of it is the video, and why it failed if it did."""

from fractions import Fraction

import av
import av.error
from av.container import InputContainer
from av.stream import Disposition
from av.video.stream import VideoStream

from stmixer.media.errors import MediaError
from stmixer.media.limits import Limits
from stmixer.media.source import ByteSource, ResourceRefused

# Containers and raw streams that hold their own media. Anything that can name other files (hls, dash, concat, sdp,
# image2, imf, ...) or a device (lavfi, v4l2, ...) stays out, and what FFmpeg adds in future stays out too.
DEMUXERS = (
    "mov,mp4,matroska,webm,avi,mpegts,mpeg,mpegvideo,flv,live_flv,ogg,gif,asf,ivf,"
    "h264,hevc,vvc,av1,obu,m4v,h261,h263,mjpeg,mpjpeg"
)
DEFAULT_RATE = Fraction(25)
_GENPTS = 0x0001  # AVFMT_FLAG_GENPTS; PyAV's own constant is mistyped
_NOT_VIDEO = Disposition.attached_pic | Disposition.timed_thumbnails | Disposition.still_image


def open_container(source: ByteSource, limits: Limits, low_latency: bool) -> InputContainer:
    """Opens a container, reading as far as its streams are known.

    Raises:
        MediaError: ``external_resource``, ``encrypted`` or ``unreadable``.
    """
    options = {
        "format_whitelist": DEMUXERS,
        "protocol_whitelist": "none",
        # Without this the demuxer skips a track that lies in another file, and nobody learns why there is no picture.
        "enable_drefs": "1",
        "max_pixels": str(limits.decoder_pixels),
    }
    if low_latency:
        # FFmpeg would otherwise read up to 5 MB or 5 s ahead to estimate a rate that a live stream does not need.
        options |= {"probesize": "65536", "analyzeduration": "200000", "fpsprobesize": "0"}
    try:
        container = av.open(source, "r", options=options, io_open=source.refuse, metadata_errors="replace")
    except (av.error.FFmpegError, ResourceRefused, UnicodeError) as error:
        raise explain(source, error) from error
    # PyAV turns this on: invented timestamps, wrong for AVI with B-frames, and read ahead for.
    container.flags &= ~_GENPTS
    return container


def choose_stream(container: InputContainer) -> VideoStream:
    """The video to read: of those that are no cover picture the first that can be decoded, preferring default tracks,
    then such as hold anything.

    Not FFmpeg's own choice, which goes by bit rate and takes a two-picture track of stills over the film beside it.

    Raises:
        MediaError: ``no_video``; ``unsupported_codec`` when there is no decoder for any.
    """
    streams = [s for s in container.streams.video if not s.disposition & _NOT_VIDEO]
    if not streams:
        kinds = sorted({str(s.type) for s in container.streams}) or ["nothing"]
        raise MediaError("no_video", f"the file holds no video, only {', '.join(kinds)}; send one with a picture")

    def rank(stream: VideoStream) -> tuple[bool, bool, bool]:
        empty = stream.average_rate is None and not stream.frames
        return (stream.codec_context is not None, bool(stream.disposition & Disposition.default), not empty)

    best = max(streams, key=rank)
    if best.codec_context is None:
        raise MediaError(
            "unsupported_codec", "there is no decoder for this video; convert it, for instance to H.264 in MP4"
        )
    return best


def stream_rate(stream: VideoStream) -> Fraction | None:
    """Frames per second as the container has it: the average where it is plausible, else FFmpeg's guess."""
    for rate in (stream.average_rate, stream.guessed_rate):
        if rate is not None and 0 < rate <= 240:
            return rate
    return None


def timeline_rate(stream: VideoStream, hint: float | None) -> Fraction:
    """Frames per second for frames without a timestamp.

    A raw stream has no clock, and what FFmpeg gives for it (25) is an assumption, so there the hint goes first.
    """
    given = Fraction(hint).limit_denominator(1_000_000) if hint is not None and hint > 0 else None
    known = stream_rate(stream)
    raw = stream.start_time is None and stream.duration is None
    return (given or known if raw else known or given) or DEFAULT_RATE


def stream_duration_s(container: InputContainer, stream: VideoStream) -> float | None:
    """Length in seconds that the container claims, or None."""
    if stream.duration is not None and stream.time_base is not None:
        return float(stream.duration * stream.time_base)
    return container.duration / 1_000_000 if container.duration is not None else None


def explain(source: ByteSource, error: BaseException | None, encrypted: bool = False) -> MediaError:
    """The MediaError for a file of which nothing could be read, by what was seen of it."""
    reason = getattr(error, "strerror", None) or ("no picture could be decoded" if error is None else str(error))
    if source.refused or isinstance(error, ResourceRefused) or source.looks_like_playlist():
        return MediaError(
            "external_resource",
            "the file refers to other files or addresses, which are not opened; send the video itself",
        )
    if encrypted or source.looks_encrypted():
        return MediaError("encrypted", "the video is encrypted (DRM); send one that is not")
    if not source.head:
        return MediaError("unreadable", "the file is empty; send a video")
    if isinstance(error, av.error.DecoderNotFoundError | av.error.PatchWelcomeError | av.error.NotImplementedError):
        return MediaError("unsupported_codec", f"the video cannot be decoded ({reason}); convert it to H.264 in MP4")
    if error is None:
        return MediaError("no_frames", "the video holds no picture; check that the file is complete")
    return MediaError("unreadable", f"the file cannot be read as a video ({reason}); check that it is complete")
