"""Videos made by the tests: every frame says which it is, and its corners say how it lies."""

import io
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from conftest import SHARED_CLIPS

RED, GREEN, BLUE, WHITE = (220, 30, 30), (30, 200, 30), (30, 30, 220), (235, 235, 235)
MakeVideo = Callable[..., bytes]


def corners(width: int, height: int, grey: int = 110) -> np.ndarray:
    """(H, W, 3) uint8: top left red, top right green, bottom left blue, bottom right white, the middle grey."""
    rgb = np.full((height, width, 3), grey, np.uint8)
    h, w = height // 3, width // 3
    rgb[:h, :w], rgb[:h, -w:], rgb[-h:, :w], rgb[-h:, -w:] = RED, GREEN, BLUE, WHITE
    return rgb


def corner_names(rgb: np.ndarray) -> str:
    """First letters of the colours top left, top right, bottom left, bottom right."""
    names = {"r": RED, "g": GREEN, "b": BLUE, "w": WHITE}
    height, width = rgb.shape[:2]
    y, x = height // 8, width // 8
    found = ""
    for at in ((y, x), (y, -x - 1), (-y - 1, x), (-y - 1, -x - 1)):
        found += min(names, key=lambda name: float(np.abs(rgb[at].astype(int) - names[name]).sum()))
    return found


def _make(
    frames: int = 12,
    width: int = 96,
    height: int = 64,
    *,
    container: str = "mp4",
    codec: str = "libx264",
    pts: Sequence[int] | None = None,
    time_base: Fraction = Fraction(1, 30),
    matrix: Sequence[int] | None = None,
    options: dict[str, str] | None = None,
    bframes: int = 0,
    offsets: list[int] | None = None,
) -> bytes:
    target = io.BytesIO()
    with av.open(target, "w", format=container, options=options or {}) as output:
        stream = output.add_stream(codec, rate=30)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.time_base = stream.codec_context.time_base = time_base
        stream.codec_context.max_b_frames = bframes
        stream.codec_context.gop_size = 12
        if codec == "libx264":
            stream.codec_context.options = {"preset": "veryfast", "tune": "zerolatency"} if not bframes else {}
        if codec.startswith("libvpx"):
            stream.codec_context.options = {"deadline": "realtime", "lag-in-frames": "0", "cpu-used": "8"}
        if matrix is not None:
            stream.set_display_matrix(matrix)
        for index in range(frames):
            frame = av.VideoFrame.from_ndarray(corners(width, height, 60 + 8 * (index % 16)), format="rgb24")
            frame.pts, frame.time_base = (pts[index] if pts is not None else index), time_base
            output.mux(stream.encode(frame))
            if offsets is not None:
                offsets.append(target.tell())
        output.mux(stream.encode(None))
    return target.getvalue()


@pytest.fixture(scope="session")
def make_video() -> MakeVideo:
    """Encodes a small video and returns its bytes."""
    return _make


@pytest.fixture
def clip() -> Callable[[str], Path]:
    """A shared clip by name; skips the test where it is not there."""

    def find(name: str) -> Path:
        path = SHARED_CLIPS / name
        if not path.exists():
            pytest.skip(f"no clip {name}: the shared clips are not on this machine")
        return path

    return find


@pytest.fixture(scope="session")
def read_corners() -> Callable[[np.ndarray], str]:
    return corner_names


@pytest.fixture(scope="session")
def draw_corners() -> Callable[..., np.ndarray]:
    return corners
