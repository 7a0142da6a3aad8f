"""`bench.gpu_day --rehearse`: all of a day on a GPU, on a CPU with a small model."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bench.gpu.scene import REHEARSAL
from bench.gpu.table import REHEARSED
from bench.gpu_day import RESULTS, ROOT, plan


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_all_steps_run_and_say_what_they_found(tmp_path: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in RESULTS.iterdir()}
    command = [sys.executable, "-m", "bench.gpu_day", "--rehearse", "--folder", str(tmp_path), "--minutes", "55"]
    done = subprocess.run(command, check=False, cwd=ROOT, capture_output=True, text=True)
    result = json.loads((tmp_path / "rehearsal/gpu_day.json").read_text())
    ended = {step["step"]: (step["ended"], step["said"]) for step in result["steps"]}
    assert ended == dict.fromkeys((step.name for step in plan(REHEARSAL)), ("done", "")), done.stderr
    assert done.returncode == 0
    assert result["rehearsal"] is True
    assert REHEARSED in (tmp_path / "rehearsal" / "gpu_day").with_suffix(".md").read_text()
    assert {path: path.stat().st_mtime_ns for path in RESULTS.iterdir()} == before, "a rehearsal's figures are nobody's"
    rows: dict[str, list[dict[str, Any]]] = {step["step"]: step["rows"] for step in result["steps"]}
    assert {row["ended"] for row in rows["checks"]} == {"skipped"}, "no test of CUDA runs where none is to be seen"
    assert len(rows["checks"]) > 50
    assert [(row["runtime"], row.get("batch")) for row in rows["models.tiny"]] == [
        ("eager", 1), ("eager", 2), ("cudagraph", None),
    ]  # fmt: skip
    assert [row["worst"] < 1e-3 for row in rows["parity"] if "worst" in row] == [True]
    graphs = [row for row in rows["launches"] if "graph" in row]
    assert [row["on the CPU"].get("Conv", 0) > 0 for row in graphs] == [True, False]
    decoded = {row["how"]: "frames_per_s" in row for row in rows["decoding"]}
    assert [worked for how, worked in decoded.items() if how.startswith("CPU")] == [True, True]
    assert not any(worked for how, worked in decoded.items() if how.startswith("cpu")), "FFmpeg has no device so called"
    found = [row for row in rows["cameras.tiny"] if "stopped_by" in row]
    assert [row["keyframe_hz"] for row in found] == list(REHEARSAL.rates_hz)
    killed, _, without = rows["faults"]
    assert killed["results_again_s"] is not None
    assert (killed["worker_lost"], killed["error"]) == (0, 0)
    assert (without["workers_lost"], without["answers"][1]) == (3, 200), "a keyframe runs three times at most"
