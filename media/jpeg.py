"""JPEG pictures, in and out. Those that come in are untrusted.

OpenCV decodes: at 720p it takes a quarter of Pillow's time. It is handed only what begins as a JPEG and is bounded by
its own header.
"""

import cv2
import numpy as np

from stmixer.media.errors import MediaError
from stmixer.media.limits import Limits
from stmixer.media.sniff import named, raw_pixels, streamed

# Start-of-frame markers: C0–CF without the tables DHT (C4), JPG (C8) and DAC (CC).
_SOF = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_SOS = 0xDA
_BEGIN, _END, _SCAN = b"\xff\xd8", b"\xff\xd9", b"\xff\xda"
_FILLING = bytes(range(1, 255)) + _END
MAX_SCANS = 100
"""Each is a pass over the whole picture; a progressive JPEG has about ten."""
_BROKEN = "send a complete JPEG"
_PREFIX_BYTES = 8
_UNSAID = 'where they are its time, begin the stream with "timestamps": "prefix"'
_ALONE = "send nothing but the picture, each as a message of its own"
_LOOK = 1024
"""How far behind other bytes, such as a header of HTTP, a JPEG is looked for."""
_WANTED = "encode pictures as JPEG (of a canvas: toBlob(callback, 'image/jpeg'))"
_NALS = (b"\0\0\0\1", b"\0\0\1")
_MUX = 'put it into MPEG-TS, and begin the stream with "codec": "mpegts"'


def instead_of_jpeg(data: bytes) -> str | None:
    """What something is that should be a JPEG, and what to do, where it is known to be something else."""
    if data[:2] == _BEGIN:
        return None
    other = "a GIF" if data[:4] == b"GIF8" else named(data)
    if other is not None:
        return f"{other}, not a JPEG; {_WANTED}"
    if (container := streamed(data)) is not None:
        what, codec = container
        return f'{what}, not a JPEG; begin the stream with "codec": "{codec}"'
    if data.startswith(_NALS):
        return f"H.264 or H.265 in no container, not a JPEG; {_MUX}"
    if (before := data.find(b"\xff\xd8\xff", 0, _LOOK)) > 0:
        return f"a JPEG behind {before} other bytes; {_UNSAID if before == _PREFIX_BYTES else _ALONE}"
    if (pixels := raw_pixels(len(data))) is not None:
        return f"as many bytes as raw pixels take (for instance {pixels}), not a JPEG; {_WANTED}"
    return None


def jpeg_size(data: bytes) -> tuple[int, int]:
    """(width, height) as stored, read from the header without decoding.

    Raises:
        MediaError: ``unreadable`` when this is no JPEG, or its header is missing.
    """
    return _header(data)[0]


def _header(data: bytes) -> tuple[tuple[int, int], int]:
    """(width, height) as stored, and where the first scan begins."""
    if data[:2] != _BEGIN:
        raise MediaError("unreadable", f"this is {instead_of_jpeg(data) or f'not a JPEG; {_BROKEN}'}")
    size = None
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:  # fill byte
            at += 1
            continue
        length = int.from_bytes(data[at + 2 : at + 4], "big")
        if marker in _SOF and at + 9 <= len(data):
            size = int.from_bytes(data[at + 7 : at + 9], "big"), int.from_bytes(data[at + 5 : at + 7], "big")
        if marker == _SOS and size is not None:
            return size, at
        at += 2 + max(length, 2)
    raise MediaError("unreadable", f"the JPEG has no usable header; {_BROKEN}")


def decode_jpeg(data: bytes, limits: Limits) -> np.ndarray:
    """Decodes one JPEG, checking its size before any pixel is decoded.

    An EXIF orientation is applied, as browsers show it and as video rotation is. A missing end marker is put there, as
    some cameras leave it off. Damage inside the picture is decoded as far as it goes, as in video.

    Returns:
        (H, W, 3) uint8 RGB, C-contiguous, as displayed.

    Raises:
        MediaError: ``too_large``, or ``unreadable`` for anything that is not a whole JPEG.
    """
    size, scan = _header(data)
    limits.check_size(*size)
    if (scans := data.count(_SCAN, scan)) > MAX_SCANS:
        raise MediaError("unreadable", f"the JPEG has {scans} scans, and may have {MAX_SCANS}; {_WANTED}")
    try:
        if data.find(_END, scan) >= 0:
            rgb = _decoded(data)
        else:
            rgb = _decoded(data + _END)
            # where nothing but the end is missing, what stands before it is no part of the picture
            filled = _decoded(data + _FILLING)
            if rgb is not None and (filled is None or not np.array_equal(rgb, filled)):
                raise MediaError("unreadable", f"the JPEG is cut off; {_BROKEN}")
    except cv2.error as error:
        raise MediaError("unreadable", f"the JPEG cannot be decoded ({error.err}); {_BROKEN}") from error
    if rgb is None:
        raise MediaError("unreadable", f"the JPEG cannot be decoded; {_BROKEN}")
    limits.check_size(rgb.shape[1], rgb.shape[0])
    return rgb


def _decoded(data: bytes) -> np.ndarray | None:
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)


def encode_jpeg(rgb: np.ndarray, quality: int = 85) -> bytes:
    """(H, W, 3) uint8 RGB → JPEG; ``quality`` from 1 to 100."""
    done, data = cv2.imencode(".jpg", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])
    assert done
    return data.tobytes()
