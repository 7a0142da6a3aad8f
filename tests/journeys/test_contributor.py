"""A contributor, by docs/architecture.md, Where to add: a backbone and a source of hers; make check is green.

What she writes stands below, with the places of the page that it goes to. The checkout is copied first.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from packaged import ROOT

pytestmark = pytest.mark.slow

MEMORY = ".mypy_cache"
"""What mypy has found of modules and packages that have not changed since."""

CONFIG = '''
@dataclass(frozen=True, slots=True)
class PooledConfig:
    """Means of a frame's pixels: the cheapest backbone that there is."""

    kind: Literal["pooled"] = "pooled"
    channels: int = 8

    def __post_init__(self) -> None:
        require(1 <= self.channels <= 4096, f"backbone.channels must be 1 to 4096, got {self.channels}")

    def temporal_points(self, frames: int) -> int:
        """T of the four maps for a clip of ``frames`` frames."""
        return frames

    @property
    def map_channels(self) -> tuple[int, int, int, int]:
        """Channels of the maps at strides 4, 8, 16, 32."""
        return self.channels, self.channels, self.channels, self.channels

    @property
    def per_frame(self) -> bool:
        """Whether a frame's maps depend on that frame alone, so that they can be computed once and kept."""
        return True

'''

MODULE = '''"""Means of pixels as maps."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from stmixer.model.backbone_config import PooledConfig


class Pooled(nn.Module):
    """(F, 3, H, W) frames -> four maps (F, C, H / s, W / s) at strides s = 4, 8, 16, 32."""

    def __init__(self, config: PooledConfig) -> None:
        super().__init__()
        self.colours = nn.Conv2d(3, config.channels, 1)

    def forward(self, frames: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.colours(F.avg_pool2d(frames, stride)) for stride in (4, 8, 16, 32))
'''

SOURCE = '''"""A container that is here already, as bytes: played at its own pace."""

from __future__ import annotations

import os

from stmixer.service.ipc.messages import OpenContainer, Progress
from stmixer.service.sources.context import SourceContext
from stmixer.service.sources.decoder_link import DecoderDied
from stmixer.service.sources.source import WHAT_IT_DID, DecodedSource


class RememberedSource(DecodedSource):
    """It has no socket, and is not played again where its decoder dies."""

    def __init__(self, context: SourceContext, container: bytes) -> None:
        super().__init__(context)
        self._file = os.memfd_create("stmixer-remembered", os.MFD_CLOEXEC)
        with os.fdopen(os.dup(self._file), "wb") as file:
            file.write(container)
        os.lseek(self._file, 0, os.SEEK_SET)

    def _order(self, progress: Progress | None) -> tuple[OpenContainer, list[int]]:
        return OpenContainer(self._context.sampling(), progress, paced=True), [self._file]

    def _owed(self) -> None:
        """It waits for its time."""

    async def _died(self, death: DecoderDied) -> bool:
        self._fail(WHAT_IT_DID[death.reason])
        return False

    def interrupt(self) -> None:
        """It has no client."""

    async def resume(self) -> None:
        """It was never interrupted."""

    async def ended(self) -> None:
        """It ends with what it remembers."""

    async def close(self) -> None:
        """Free everything."""
        try:
            await super().close()
        finally:
            os.close(self._file)
'''

HER_TEST = '''"""What she added does what it should."""

from __future__ import annotations

import asyncio
from pathlib import Path

import torch
from in_process import running_engine

from stmixer.model.detector import build
from stmixer.model.zoo import variant
from stmixer.service.schemas import DetectOptions
from stmixer.service.sources.remembered import RememberedSource

WALK = Path(__file__).parent / "clips" / "walk.mp4"


def test_the_backbone() -> None:
    detector = build(variant("rt_pooled", classes=3))
    with torch.inference_mode():
        last = detector(torch.rand(1, 3, 8, 64, 96), torch.tensor([[96.0, 64.0]])).stages[-1]
    assert last.action_logits.shape == (1, 24, 3)
    assert bool(torch.isfinite(last.boxes_xyxy_px).all())


def test_the_source() -> None:
    async def played() -> list[int]:
        async with (
            running_engine() as running,
            asyncio.timeout(120),
            running.session("latest", DetectOptions(keyframe_hz=2)) as session,
        ):
            await session.open(RememberedSource(session.context, WALK.read_bytes()))
            return [result.pts_us async for result in session.results()]

    times = asyncio.run(played())
    assert times == sorted(set(times))
    assert times[0] == 0
    assert times[-1] >= 2_000_000
'''

ROW = """        DetectorConfig(
            name="rt_pooled",
            clip=_REALTIME_CLIP,
            preprocess=PreprocessConfig(224, antialias=True, mean=_IMAGENET_MEAN, std=_IMAGENET_STD),
            backbone=PooledConfig(),
            decoder=_REALTIME_DECODER,
        ),
"""

NEW_FILES = {
    "model/backbones/pooled.py": MODULE,
    "service/sources/remembered.py": SOURCE,
    "tests/test_hers.py": HER_TEST,
}
CHANGES = (
    ("model/backbone_config.py", "\nBackboneConfig = ", CONFIG + "\nBackboneConfig = "),
    ("model/backbone_config.py", " | FrameConfig\n", " | FrameConfig | PooledConfig\n"),
    ("model/backbones/__init__.py", "    match config:\n", "    match config:\n        case PooledConfig():\n"
     "            return Pooled(config)\n"),
    ("model/backbones/__init__.py", "from stmixer.model.backbones.resnet3d",
     "from stmixer.model.backbones.pooled import Pooled\nfrom stmixer.model.backbones.resnet3d"),
    ("model/backbones/__init__.py", "from stmixer.model.backbones.csn",
     "from stmixer.model.backbone_config import PooledConfig\nfrom stmixer.model.backbones.csn"),
    ("model/zoo.py", "        # Its frame stage can start", ROW + "        # Its frame stage can start"),
    ("model/zoo.py", "from stmixer.model.config import",
     "from stmixer.model.backbone_config import PooledConfig\nfrom stmixer.model.config import"),
    ("docs/detector.md", "- **YOLOX-nano**", "- **Pooled** (`rt_pooled`): means of pixels, then one convolution.\n"
     "- **YOLOX-nano**"),
    ("docs/paper.md", "\nMultiply–adds and milliseconds are",
     "| `rt_pooled` | none of the paper's | no | 0.93 | – | an example |\n\nMultiply–adds and milliseconds are"),
)  # fmt: skip
"""File, the place in it, and what stands there then: as the page's steps have them, in their order."""


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what is tracked, with what she adds; where `make check` has been run, it remembers what it found."""
    folder = tmp_path_factory.mktemp("hers") / "stmixer"
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True, text=True).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_symlink() or (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name, follow_symlinks=False)
    if (ROOT / MEMORY).is_dir():
        shutil.copytree(ROOT / MEMORY, folder / MEMORY)
    for name, text in NEW_FILES.items():
        assert not (folder / name).exists()
        (folder / name).write_text(text)
    for name, place, then in CHANGES:
        text = (folder / name).read_text()
        assert text.count(place) == 1, f"{name}: {place!r}"
        (folder / name).write_text(text.replace(place, then))
    return folder


def run(folder: Path, *command: str) -> None:
    environment = os.environ | {"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=1200, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_make_check_is_green(checkout: Path) -> None:
    """As CONTRIBUTING.md has it, in an environment that is set up."""
    run(checkout, "make", "check", "READY=", f"BIN={Path(sys.executable).parent}")


def test_what_she_added_works_and_the_pages_know_it(checkout: Path) -> None:
    ours = ("model/test_config", "model/test_published", "trainer/test_paper_page", "trainer/test_paper_presets")
    tests = ("tests/test_hers.py", *(f"tests/{name}.py" for name in ours))
    run(checkout, sys.executable, "-m", "pytest", "-q", "-m", "not slow", "-p", "no:cacheprovider", *tests)


def test_a_wall_that_she_breaks_is_told(checkout: Path) -> None:
    source = checkout / "service" / "sources" / "remembered.py"
    source.write_text(SOURCE.replace("import os\n", "import os\n\nimport torch\n"))
    try:
        with pytest.raises(AssertionError, match=r"service\.sources\.remembered"):
            run(checkout, sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/test_walls.py")
    finally:
        source.write_text(SOURCE)
