"""What container and codec say of how a video's pictures look; the container's word goes first, as in players."""

from __future__ import annotations

import av
from av.container import InputContainer
from av.video.stream import VideoStream

from stmixer.media.crop import TrackAt, container_crop
from stmixer.media.display import Crop, Display, Orientation, pixel_shape
from stmixer.media.source import ByteSource

_UNSAID_MATRIX, _UNSAID_RANGE = 2, 0  # AVCOL_SPC_UNSPECIFIED, AVCOL_RANGE_UNSPECIFIED


class TrackDisplay:
    """How each picture of a stream that is just opened is to be shown."""

    def __init__(self, source: ByteSource, container: InputContainer, stream: VideoStream) -> None:
        self._source, self._container, self._stream = source, container, stream
        said, codecs = stream.sample_aspect_ratio, stream.codec_context.sample_aspect_ratio
        self._containers_shape = said if said is not None and said != codecs else None
        self._crop: Crop | None = None
        # before the first picture is decoded these are the container's, where it says any; then the codec's
        self._matrix, self._range = stream.codec_context.colorspace, stream.codec_context.color_range
        self._overrules = False

    def of(self, picture: av.VideoFrame) -> Display:
        """Also tells the picture its own colours, where the container knows them and it does not, or not the same."""
        if self._crop is None:
            track = TrackAt(self._stream.index, self._stream.id)
            size = picture.width, picture.height
            self._crop = container_crop(self._source, self._container.format.name, track, *size)
            self._overrules = (picture.colorspace, picture.color_range) != (self._matrix, self._range)
        if self._matrix != _UNSAID_MATRIX and (self._overrules or picture.colorspace == _UNSAID_MATRIX):
            picture.colorspace = self._matrix
        if self._range != _UNSAID_RANGE and (self._overrules or picture.color_range == _UNSAID_RANGE):
            picture.color_range = self._range
        shape = self._containers_shape or self._stream.codec_context.sample_aspect_ratio
        return Display(Orientation.of(picture), pixel_shape(shape), self._crop)
