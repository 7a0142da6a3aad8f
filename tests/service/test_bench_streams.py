"""`stmixer bench streams`: what it counts is what happened, and it can be told what shall go wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import OWN_CLIPS
from posting import eventually, samples
from serving import Server, running_server
from typer.testing import CliRunner

from stmixer.service.bench.streams import knee, p95_slope, slope_per_hour
from stmixer.service.bench.tally import Seen, Sent, Tally
from stmixer.service.cli import app
from stmixer.service.errors import InputError
from stmixer.service.schemas import Result, Summary

CLIP = OWN_CLIPS / "fall.mp4"


def run(tmp_path: Path, server: Server, *options: str) -> dict[str, Any]:
    output = tmp_path / "out.json"
    told = CliRunner().invoke(
        app,
        ["bench", "streams", str(CLIP), "--url", server.url, "--pid", str(server.process.pid), *options,
         "-o", str(output), "--lookahead-ms", "0"],
    )  # fmt: skip
    assert told.exit_code == 0, told.output + str(told.exception)
    assert "knee" in told.output
    return json.loads(output.read_text())


def test_what_it_says_is_what_the_service_counts(tmp_path: Path, server: Server) -> None:
    before = samples(server)
    report = run(tmp_path, server, "--cameras", "2", "--uploads", "1", "--seconds", "4", "--keyframe-hz", "4")
    # the service notes a request once it is answered
    answered = ("stmixer_request_seconds_count", (("code", "200"), ("route", "/v1/detect")))
    uploads = before.get(answered, 0) + report["steps"][0]["uploads"]
    after = eventually(lambda: samples(server), lambda seen: seen.get(answered, 0) >= uploads)

    def added(name: str, **labels: str) -> float:
        key = (f"stmixer_{name}", tuple(sorted(labels.items())))
        return after.get(key, 0) - before.get(key, 0)

    (step,) = report["steps"]
    assert step["results"] == added("e2e_latency_seconds_count", source="ws") > 8
    assert step["uploads"] == added("request_seconds_count", route="/v1/detect", code="200") > 0
    assert step["frames_received"] == sum(added("frames_received_total", source=s) for s in ("ws", "upload"))
    for outcome, count in step["keyframes"].items():
        assert count == sum(added("keyframes_total", source=s, outcome=outcome) for s in ("ws", "upload"))
    assert step["sums_that_fail"] == []
    assert step["stream_ends"] == {"finished": 2}
    latency, freshness = step["latency_ms"], step["freshness_ms"]
    assert 0 < latency["p50"] <= latency["p95"] <= latency["p99"]
    assert latency["p50"] <= freshness["p50"] < latency["p50"] + 200  # up to a frame and a JPEG's way
    assert step["usage"]["cores"]["worker"] > 0
    assert step["usage"]["rss_mib"]["api"] > 20
    assert report["options"]["fps"] == 15


@pytest.mark.slow
def test_all_that_can_go_wrong_at_clients_ends_well(tmp_path: Path, tiny_weights: Path) -> None:
    with running_server(weights=tiny_weights, spare_workers=1, resume_ttl_s=10) as server:
        report = run(
            tmp_path, server, "--cameras", "4", "--codec", "mix", "--seconds", "40", "--fault-every-s", "4",
            "--jitter-ms", "20", *(w for f in ("stall", "corrupt", "jump", "half_open", "slow_reader", "kill_decoder")
            for w in ("--fault", f)),
        )  # fmt: skip
    (step,) = report["steps"]
    assert {"stall", "half_open", "kill_decoder"} <= set(step["faults"])
    assert step["sums_that_fail"] == []
    assert step["results"] > 50
    assert set(step["frames_dropped"]) <= {"mailbox", "corrupt", "out_of_order", "decoder", "cancelled"}
    assert step["keyframes"]["error"] == step["keyframes"]["worker_lost"] == 0
    assert set(step["stream_ends"]) <= {"finished", "left half open", "unreadable"}


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (["--cameras", "one"], "--cameras one"),
        (["--cameras", "-1"], "--cameras"),
        (["--fault", "earthquake"], "earthquake"),
        (["--fault", "kill_worker", "--url", "http://127.0.0.1:9"], "--pid"),
        (["--fault", "oom_worker"], "--worker-module"),
    ],
    ids=str,
)
def test_what_makes_no_sense_is_refused(options: list[str], word: str) -> None:
    refused = CliRunner().invoke(app, ["bench", "streams", str(CLIP), *options])
    assert isinstance(refused.exception, InputError)
    assert word in str(refused.exception)


def test_a_clip_that_is_none() -> None:
    refused = CliRunner().invoke(app, ["bench", "streams", "nowhere.mp4"])
    assert isinstance(refused.exception, InputError)


# -- figures


def result(pts_us: int) -> Result:
    return Result.model_validate(
        {
            "seq": 0, "pts_us": pts_us, "received_at_us": 0, "sent_at_us": 0, "warming": False, "dropped_since_last": 0,
            "timings_ms": dict.fromkeys(("lookahead", "decode", "queue", "inference", "postprocess"), 0.0),
            "frame": {"width": 1, "height": 1}, "actors": [],
        }
    )  # fmt: skip


def test_latency_is_from_the_last_needed_frame_and_freshness_from_the_moment() -> None:
    sent = Sent()
    for n in range(10):
        sent.frame(n * 100_000, taken=50 + n / 10, sent=50 + n / 10 + 0.02)
    seen = sent.seen(result(250_000), lookahead_us=300_000, at=51.0)
    assert seen.latency_s == pytest.approx(51.0 - 50.62)  # the frame at 0.6 s is the first at or after 0.55 s
    assert seen.freshness_s == pytest.approx(51.0 - 50.25)
    sent.frame(100_000, 60.0, 60.0)  # back in time: the service drops it
    assert sent.seen(result(900_000), 0, 51.0).latency_s == pytest.approx(51.0 - 50.92)


def test_sums_that_fail_are_kept() -> None:
    tally = Tally()
    tally.summary(Summary(received=3, sampled=2, not_sampled=1, keyframes_due=1, ok=1))
    assert not tally.broken
    tally.summary(Summary(received=4, sampled=2, not_sampled=1, keyframes_due=1, ok=1))
    tally.summary(Summary(received=3, sampled=2, dropped={"mailbox": 1}, keyframes_due=2, ok=1))
    assert len(tally.report()["sums_that_fail"]) == 2
    assert tally.report()["keyframes_ok_share"] == 1.0
    assert tally.report()["latency_ms"] is None


def test_slopes_and_the_knee() -> None:
    assert slope_per_hour([0, 3600, 7200], [1, 3, 5]) == 2
    assert slope_per_hour([0, 1], [1, 2]) is None
    tally = Tally(results=[Seen(at=float(t), latency_s=0.1 + t / 36_000, freshness_s=0) for t in range(3600)])
    moved = p95_slope(tally, 0.0)
    assert len(moved["p95_ms"]) == 12
    assert moved["ms_per_hour"] == pytest.approx(100, rel=0.01)
    shares = {1: 1.0, 2: 0.97, 4: 0.9, 8: 0.99}
    steps = [{"cameras": n, "keyframes_ok_share": share, "refused": {}} for n, share in shares.items()]
    assert knee(steps) == 2
    assert knee([{"cameras": 1, "keyframes_ok_share": 0.5, "refused": {}}]) is None
