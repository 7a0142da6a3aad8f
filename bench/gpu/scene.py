"""What a day is about: the models and sizes on a GPU, and the small ones of a rehearsal on a CPU."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

TESTS = Path(__file__).parents[2] / "tests"


@dataclass(frozen=True, slots=True)
class Scene:
    """``size``: side of the square clip that models are timed on, px. ``cases``: of tests/reference. ``films``: width
    and height, px, of what is decoded, the first of what cameras film, for ``film_s`` a round. ``most_cameras``: where
    a search stops; a trial of it waits ``settle_s``, then counts for ``count_s``.
    """

    device: str
    models: tuple[str, ...]
    compiled: str
    runtimes: tuple[str, ...]
    precisions: tuple[str, ...]
    batches: tuple[int, ...]
    size: int
    cases: tuple[str, ...]
    films: tuple[tuple[int, int], ...]
    film_s: float
    rates_hz: tuple[float, ...]
    first_cameras: int
    most_cameras: int
    settle_s: float
    count_s: float

    @property
    def on_gpu(self) -> bool:
        """False in a rehearsal."""
        return self.device != "cpu"


GPU = Scene(
    device="cuda",
    models=("stmixer-rt", "slowfast_r50", "vit_b"),
    compiled="slowfast_r50",
    runtimes=("eager", "cudagraph"),
    precisions=("fp32", "bf16"),
    batches=(1, 8),
    size=256,
    cases=("slowfast_r50.two", "vit_b.one", "slowonly_r50.one", "slowfast_r101_nl.one"),
    films=((1280, 720), (1920, 1080)),
    film_s=10.0,
    rates_hz=(1.0, 4.0, 8.0),
    first_cameras=8,
    most_cameras=1024,
    settle_s=1.5,
    count_s=3.0,
)
REHEARSAL = Scene(
    device="cpu",
    models=("tiny",),
    compiled="tiny",
    runtimes=("eager", "cudagraph"),
    precisions=("fp32",),
    batches=(1, 2),
    size=64,
    cases=("slowonly_r50.one",),
    films=((160, 96), (192, 128)),
    film_s=2.0,
    rates_hz=(1.0,),
    first_cameras=1,
    most_cameras=2,
    settle_s=1.0,
    count_s=3.0,
)
