"""A camera in the place of a file: FFmpeg reads it, over RTSP or as a device of this machine."""

from __future__ import annotations

import io
import time

from av.container import InputContainer

from stmixer.media.device import CameraDevice, explain_device, open_device
from stmixer.media.errors import MediaError
from stmixer.media.rtsp import RtspCamera, explain_camera, open_camera
from stmixer.media.source import ByteSource

Camera = RtspCamera | CameraDevice


class CameraFeed(ByteSource):
    """Nothing is read from it here."""

    def __init__(self, camera: Camera) -> None:
        super().__init__(io.BytesIO(), owned=True)
        self._camera, self._began = camera, time.monotonic()

    def open(self, codecs: str, options: dict[str, str]) -> InputContainer:
        """Have FFmpeg begin. ``codecs``: the decoders that it may take. Raises FFmpegError."""
        if isinstance(self._camera, CameraDevice):
            return open_device(self._camera, options)
        return open_camera(self._camera, codecs, options)

    def explain(self, error: BaseException | None, *, opening: bool) -> MediaError:
        """What is wrong with it; ``opening``: it did not get as far as its streams."""
        if isinstance(self._camera, CameraDevice):
            return explain_device(self._camera, error, opening=opening)
        return explain_camera(self._camera, error, opening=opening, age_s=time.monotonic() - self._began)
