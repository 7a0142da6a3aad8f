"""A camera that is read over RTSP, through FFmpeg: the one source whose connection FFmpeg believes to make by itself.

What it may speak of is bounded as everything is: the one protocol, the codecs of ``media.probe``. Media come within the
RTSP connection (interleaved, "TCP"), whatever is behind that (``service.sources.relay``); sound is not even asked for.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass, field

import av
import av.error
from av.container import InputContainer

from stmixer.media.errors import MediaError

_NOT_DECODED = (av.error.DecoderNotFoundError, av.error.PatchWelcomeError, av.error.NotImplementedError)
_TIMED_OUT = (av.error.ExitError, av.error.TimeoutError)
_ANSWERS = (av.error.HTTPError, av.error.InvalidDataError)
_REDIRECTED = (errno.EINVAL, errno.EBADF, errno.ENOTSOCK)
"""What comes of another address (FFmpeg takes ``rtsp`` for a protocol then, which is not on its list), or of a second
connection where the process was given one."""


@dataclass(frozen=True, slots=True)
class RtspCamera:
    """``url``: with a literal address, and user and password where it takes them; ``silent_s``: how long it may say
    nothing."""

    url: str = field(repr=False)
    silent_s: float = 10.0


def open_camera(camera: RtspCamera, codecs: str, options: dict[str, str]) -> InputContainer:
    """Describe, set up and play. ``codecs``: the decoders that it may take. Raises FFmpegError."""
    options = {
        **options,
        "rtsp_transport": "tcp",
        "protocol_whitelist": "tcp",
        "format_whitelist": "rtsp",
        "codec_whitelist": codecs,
        "allowed_media_types": "video",
        "timeout": str(round(camera.silent_s * 1e6)),
    }
    waits = (2 * camera.silent_s, camera.silent_s)
    return av.open(camera.url, "r", format="rtsp", options=options, timeout=waits, metadata_errors="replace")


def explain_camera(camera: RtspCamera, error: BaseException | None, *, opening: bool, age_s: float) -> MediaError:
    """What is wrong with a camera, by FFmpeg's error; its own text may have the password in it and is not passed on.

    ``age_s``: seconds since it was to be opened.
    """
    said = getattr(error, "strerror", None) or "it does not say why"
    waited = opening and age_s >= camera.silent_s and isinstance(error, av.error.InvalidDataError)
    if waited or isinstance(error, _TIMED_OUT):  # an answer that does not come FFmpeg takes for a wrong one
        return MediaError("silent", f"the camera took the connection and said nothing for {camera.silent_s:g} s")
    match error:
        case None:
            return MediaError("no_frames", "the camera sends no picture that can be decoded")
        case av.error.HTTPUnauthorizedError() | av.error.HTTPForbiddenError():
            with_some = "@" in camera.url.partition("://")[2].partition("/")[0]
            what = "does not take this user and password" if with_some else "asks for a user and a password"
            return MediaError("unauthorized", f"the camera {what}")
        case av.error.HTTPNotFoundError():
            return MediaError("no_such_path", "the camera has nothing at this path")
        case _ if isinstance(error, _NOT_DECODED):
            return MediaError("unsupported_codec", f"the camera's video cannot be decoded ({said}); H.264 can")
        case av.error.HTTPClientError():
            return MediaError("bad_answer", f"the camera does not play this ({said}); it may hold no video")
        case _ if isinstance(error, _ANSWERS):
            return MediaError("bad_answer", f"the camera's answer is no use ({said}); is it an RTSP server?")
        case av.error.FFmpegError() if opening and error.errno in _REDIRECTED:
            return MediaError("bad_answer", "the camera sends us to another address, which is not followed; give that")
        case OSError() if error.errno == errno.EPROTONOSUPPORT:  # its answer was 461
            return MediaError(
                "bad_answer", "the camera does not send by this transport; take the other one, tcp or udp"
            )
        case _:
            return MediaError("connection_lost", f"the connection to the camera ended ({said})")
