"""`make drill`: an hour of sixteen cameras of all kinds while things go wrong. DRILL_SOAK_S: seconds."""

from __future__ import annotations

import json
import os
from pathlib import Path
from statistics import median

import pytest
from conftest import OWN_CLIPS
from drills import complaints, deaths, write_report
from faulty_worker import MODULE, POISON
from posting import DECODER, both_warm, descriptors, eventually, metric
from serving import running_server
from typer.testing import CliRunner

from stmixer.service.cli import app

SECONDS = float(os.environ.get("DRILL_SOAK_S", "3600"))
EXPLAINED = {"mailbox", "corrupt", "out_of_order", "decoder", "cancelled"}


@pytest.mark.drill
@pytest.mark.timeout(0)
def test_an_hour_of_sixteen_cameras_with_faults(tiny_weights: Path, tmp_path: Path) -> None:
    output = tmp_path / "soak.json"
    with running_server(weights=tiny_weights, spare_workers=1, resume_ttl_s=15, worker_module=MODULE) as server:
        both_warm(server)
        before = descriptors(server)
        told = CliRunner().invoke(
            app,
            ["bench", "streams", str(OWN_CLIPS / "fall.mp4"), "--url", server.url, "--pid", str(server.process.pid),
             "--cameras", "16", "--codec", "mix", "--fps", "10", "--keyframe-hz", "1", "--lookahead-ms", "0",
             "--uploads", "1", "--seconds", str(SECONDS), "--fault", "all", "--fault-every-s", "60",
             "--worker-module", MODULE, "--oom-top-k", str(POISON["oom"]),
             "--jitter-ms", "30", "-o", str(output)],
        )  # fmt: skip
        assert told.exit_code == 0, told.output + str(told.exception)
        eventually(lambda: metric(server, "streams_active", source="ws"), lambda n: n == 0, 60)
        eventually(lambda: metric(server, "ring_bytes"), lambda n: n == 0, 60)
        eventually(lambda: len(server.children_of(DECODER)), lambda n: n == 2, 60)
        eventually(lambda: descriptors(server), lambda n: n <= before, 60)
        report = json.loads(output.read_text())
        (step,) = report["steps"]
        write_report("drill_soak", {"options": report["options"], **step, "worker_deaths": deaths(server)})
        assert not complaints(server)
    assert step["sums_that_fail"] == []
    assert set(step["frames_dropped"]) <= EXPLAINED
    assert step["keyframes"]["error"] == 0
    slopes = step["usage"]["rss_mib_per_hour"]
    assert slopes["api"] < 32, slopes
    p95s = step["p95_over_time"]["p95_ms"]
    # Medians: a slice in which the worker died just after its spare is an incident and no trend.
    first, last = median(p95s[:6]), median(p95s[-6:])
    assert last < 2 * first + 200, p95s
