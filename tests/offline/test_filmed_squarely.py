"""Of people stored in pixels that are not square the same is found as of the scene filmed squarely."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import pytest
from conftest import OWN_CLIPS

import stmixer
from stmixer.service.schemas import Result

FRAMES = 75
STORED = {
    "4:3": Fraction(4, 3), "16:11": Fraction(16, 11), "1:2": Fraction(1, 2), "3:4": Fraction(3, 4),
}  # fmt: skip


def stored(path: Path, ratio: Fraction) -> Path:
    """The beginning of a walk in pixels of this shape, as large on a screen as it was."""
    with av.open(str(OWN_CLIPS / "walk.mp4")) as given, av.open(str(path), "w") as output:
        film = given.streams.video[0]
        wide, high = film.codec_context.width, film.codec_context.height
        width, height = round(wide / ratio), high
        track = output.add_stream("libx264", rate=film.average_rate)
        track.width, track.height, track.pix_fmt = width // 2 * 2, height // 2 * 2, "yuv420p"
        track.options, track.codec_context.sample_aspect_ratio = {"preset": "veryfast", "crf": "14"}, ratio
        for number, frame in enumerate(given.decode(film)):
            if number == FRAMES:
                break
            picture = frame.reformat(track.width, track.height, "yuv420p")
            picture.pts = number
            picture.time_base = 1 / Fraction(film.average_rate or 25)
            output.mux(track.encode(picture))
        output.mux(track.encode(None))
    return path


def overlap(one: tuple[float, ...], other: tuple[float, ...]) -> float:
    """Intersection over union of two normalised boxes."""
    wide = max(0.0, min(one[2], other[2]) - max(one[0], other[0]))
    high = max(0.0, min(one[3], other[3]) - max(one[1], other[1]))
    areas = sum((b[2] - b[0]) * (b[3] - b[1]) for b in (one, other))
    return wide * high / (areas - wide * high)


@pytest.mark.slow
def test_the_same_people_in_the_same_places(tmp_path: Path) -> None:
    detector = stmixer.load("stmixer-rt", "cpu")

    def found(ratio: Fraction) -> list[Result]:
        return list(detector.detect(stored(tmp_path / "x.mp4", ratio), keyframe_hz=1))

    squarely = found(Fraction(1))
    assert squarely
    assert all(result.actors for result in squarely)
    shown = {(result.frame.width, result.frame.height) for result in squarely}
    for ratio in STORED.values():
        results = found(ratio)
        sizes = {(r.frame.width, r.frame.height) for r in results}
        assert [w / h for w, h in sizes] == pytest.approx([w / h for w, h in shown], rel=0.01)
        for ours, theirs in zip(results, squarely, strict=True):
            assert ours.pts_us == theirs.pts_us
            for actor in theirs.actors:
                assert max(overlap(actor.box, other.box) for other in ours.actors) > 0.85, (ratio, ours.pts_us)
