"""A camera of this machine (V4L2), read through FFmpeg, which means to open it by its name.

In a decoder's cell nothing is opened by a name: the process has the device as a descriptor, and FFmpeg is given that
(``service.decoder.seccomp``).
"""

from __future__ import annotations

import errno
from dataclasses import dataclass

import av
import av.error
from av.container import InputContainer

from stmixer.media.errors import MediaError

_NO_CAMERA = (errno.ENOTTY, errno.EINVAL, errno.ENODEV, errno.ENXIO)
_LOST = (errno.EIO, errno.ENODEV, errno.ENXIO)


@dataclass(frozen=True, slots=True)
class CameraDevice:
    """``path``: as in /dev/video0."""

    path: str


def open_device(device: CameraDevice, options: dict[str, str]) -> InputContainer:
    """Begin to capture, in the size and format that it is set to. Raises FFmpegError."""
    options = {**options, "format_whitelist": "video4linux2,v4l2"}
    return av.open(device.path, "r", format="video4linux2", options=options, metadata_errors="replace")


def explain_device(device: CameraDevice, error: BaseException | None, *, opening: bool) -> MediaError:
    """What is wrong with it, by FFmpeg's error."""
    said = getattr(error, "strerror", None) or "it does not say why"
    number = getattr(error, "errno", None)
    if error is None:
        return MediaError("no_frames", f"{device.path} sends no picture that can be decoded")
    if number == errno.EBUSY:
        return MediaError("bad_answer", f"{device.path} is held by another program")
    if opening and number in _NO_CAMERA:
        return MediaError("no_video", f"{device.path} is no camera ({said})")
    if not opening and number in _LOST:
        return MediaError("connection_lost", f"{device.path} gives no more pictures; was it unplugged?")
    return MediaError("bad_answer", f"{device.path} does not work as a camera does ({said})")
