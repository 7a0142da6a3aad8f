"""What a file takes `stmixer detect`, against another version: wall time, and CPU seconds, which load disturbs less.

    python -m bench.upload ../old tests/clips/walk.mp4 -o bench/results/upload.json

Each turn is a process that runs the file once to warm up (its beginning) and once to be measured. ``main_thread_cpu_s``
is what the thread computes that results wait for: less it cannot take, on however many cores.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bench.checkouts import OURS, commit, compared, in_turns, tell
from bench.hardware import measured_on

SCRIPT = """
import itertools, json, sys, time
import stmixer

clip, hz, weights, seconds = sys.argv[1], float(sys.argv[2]), sys.argv[3], float(sys.argv[4])
detector = stmixer.load(weights, "cpu")
list(itertools.islice(detector.detect(clip, keyframe_hz=hz), 2))
wall, used, main = time.perf_counter(), time.process_time(), time.thread_time()
results = itertools.takewhile(lambda result: result.pts_us < seconds * 1e6, detector.detect(clip, keyframe_hz=hz))
keyframes = sum(1 for _ in results)
ended = (time.perf_counter() - wall, time.process_time() - used, time.thread_time() - main)
print(json.dumps({"keyframes": keyframes, "wall_s": ended[0], "cpu_s": ended[1], "main_thread_cpu_s": ended[2]}))
"""


def main(
    other: Annotated[Path, typer.Argument(help="a checkout of the other version")],
    clip: Annotated[Path, typer.Argument(help="a video")],
    output: Annotated[Path | None, typer.Option("-o", "--output", help="the result, JSON")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="turns of each")] = 5,
    keyframe_hz: Annotated[float, typer.Option(min=0.1, max=8)] = 2.0,
    seconds: Annotated[float, typer.Option(min=2, help="of the video, at most")] = 600.0,
    weights: Annotated[str, typer.Option(help="a bundled name or a file")] = "stmixer-rt",
) -> None:
    """Measure, and write down."""
    arguments = [str(clip.resolve()), str(keyframe_hz), weights, str(seconds)]
    turns = in_turns(SCRIPT, arguments, other.resolve(), rounds)
    result = {
        "what": "stmixer detect over a file; medians, taken in turns",
        "other": commit(other),
        "ours": commit(OURS),
        "video": clip.name,
        "seconds": seconds,
        "keyframe_hz": keyframe_hz,
        "weights": Path(weights).name,
        "rounds": rounds,
        **measured_on(),
        "figures": compared(*turns),
    }
    tell(result, output)


if __name__ == "__main__":
    typer.run(main)
