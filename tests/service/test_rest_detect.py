"""POST /v1/detect: the same detections as a direct call, in each of its three forms, under every option."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import av
import httpx
import numpy as np
import pytest
from conftest import OWN_CLIPS
from posting import MP4, NDJSON, conserved, lines_of, made_video, metric, post, problem, same_actors
from serving import Server, running_server

from stmixer.service.api.detect import WARNINGS, WARNINGS_BYTES, in_a_header
from stmixer.service.client import Client

WALK, FALL = OWN_CLIPS / "walk.mp4", OWN_CLIPS / "fall.mp4"
Direct = Callable[..., dict[str, Any]]


def direct_call(model: Any) -> Direct:
    """The pipeline of `stmixer detect` in this process: what the service must answer."""
    import torch

    from stmixer.model.runtimes.choose import torch_runtime
    from stmixer.service.offline.file import FileResults
    from stmixer.service.schemas import DetectOptions
    from stmixer.service.worker.runner import Runner

    runner = Runner(torch_runtime(model, torch.device("cpu")))

    def run(clip: Path | bytes, folder: Path, **options: Any) -> dict[str, Any]:
        path = clip if isinstance(clip, Path) else folder / "clip.mp4"
        if isinstance(clip, bytes):
            path.write_bytes(clip)
        results = FileResults(runner, path, DetectOptions(**options))
        keyframes = [result.model_dump(mode="json") for result in results]
        return {"keyframes": keyframes, "summary": results.summary.model_dump()}

    return run


@pytest.fixture(scope="module")
def direct(tiny_weights: Path) -> Direct:
    from stmixer.model.checkpoint import load

    return direct_call(load(tiny_weights))


def same_results(answer: dict[str, Any], expected: dict[str, Any]) -> None:
    """Keyframe by keyframe, and the counts."""
    assert len(answer["keyframes"]) == len(expected["keyframes"]) > 0
    for ours, theirs in zip(answer["keyframes"], expected["keyframes"], strict=True):
        for name in ("seq", "pts_us", "warming", "frame"):
            assert ours[name] == theirs[name]
        assert len(theirs["actors"]) > 1
        same_actors(ours["actors"], theirs["actors"])
    counted = ("received", "sampled", "not_sampled", "dropped", "keyframes_due", "ok")
    assert {k: answer["summary"][k] for k in counted} == {k: expected["summary"][k] for k in counted}


# -- the same detections


def test_detections_equal_a_direct_call(server: Server, direct: Direct, tmp_path: Path) -> None:
    answer = post(server, WALK, score_threshold=0, keyframe_hz=2)
    assert answer.status_code == 200
    same_results(answer.json(), direct(WALK, tmp_path, score_threshold=0, keyframe_hz=2))


@pytest.mark.slow
def test_detections_equal_a_direct_call_among_8_others(server: Server, direct: Direct, tmp_path: Path) -> None:
    wide, tall, square = made_video(320, 180, 75), made_video(240, 320, 60), made_video(256, 256, 60)
    clips: list[tuple[Path | bytes, float]] = [
        (WALK, 1), (FALL, 1.5), (wide, 3), (tall, 2), (square, 2.5), (FALL, 1), (wide, 1), (tall, 3), (square, 1),
    ]  # fmt: skip
    batches, inferences = metric(server, "batches_total", worker="0"), metric(server, "inferences_total", worker="0")
    with ThreadPoolExecutor(len(clips)) as pool:
        answers = list(pool.map(lambda c: post(server, c[0], score_threshold=0, keyframe_hz=c[1]), clips))
    ran = metric(server, "inferences_total", worker="0") - inferences
    assert ran == sum(answer.json()["summary"]["ok"] for answer in answers)
    assert metric(server, "batches_total", worker="0") - batches < ran, "no batch held two keyframes"
    for (clip, hz), answer in zip(clips, answers, strict=True):
        same_results(answer.json(), direct(clip, tmp_path, score_threshold=0, keyframe_hz=hz))


@pytest.mark.slow
def test_a_full_size_model_equals_a_direct_call(tmp_path: Path) -> None:
    from stmixer.model.checkpoint import untrained

    clip = made_video(320, 240, 50)
    with running_server(model="slowonly_r50") as server:
        answer = post(server, clip, timeout=250, score_threshold=0).json()
    assert (answer["model"], answer["trained"]) == ("slowonly_r50", False)
    same_results(answer, direct_call(untrained("slowonly_r50"))(clip, tmp_path, score_threshold=0))


# -- JSON, lines, video


def test_the_shape_of_the_answer(server: Server) -> None:
    before = time.time() * 1e6
    response = post(server, FALL, score_threshold=0, keyframe_hz=2)
    after = time.time() * 1e6
    assert response.headers["content-type"] == "application/json"
    answer = response.json()
    assert list(answer) == ["model", "trained", "frame", "keyframes", "summary", "warnings"]
    assert (answer["model"], answer["trained"], answer["warnings"]) == ("tiny", False, [])
    assert answer["frame"] == {"width": 640, "height": 360}
    labels = {a["id"]: a["name"] for a in httpx.get(server.url + "/v1/labels").json()["labels"]}
    assert [k["pts_us"] for k in answer["keyframes"]] == [n * 500_000 for n in range(11)]
    seen = set[int]()
    for seq, keyframe in enumerate(answer["keyframes"]):
        assert set(keyframe) == {
            "seq", "pts_us", "received_at_us", "sent_at_us", "warming", "timings_ms", "dropped_since_last", "frame",
            "actors", "model",
        }  # fmt: skip
        assert (keyframe["seq"], keyframe["dropped_since_last"]) == (seq, 0)
        assert keyframe["frame"] == answer["frame"]
        assert before < keyframe["received_at_us"] < keyframe["sent_at_us"] < after
        assert set(keyframe["timings_ms"]) == {"lookahead", "decode", "queue", "inference", "postprocess"}
        assert min(keyframe["timings_ms"].values()) >= 0
        numbers = [actor["track_id"] for actor in keyframe["actors"]]
        assert len(set(numbers)) == len(numbers)
        for actor in keyframe["actors"]:
            assert set(actor) == {"track_id", "box_px", "box", "person_score", "actions"}
            assert actor["track_id"] >= 1
            assert 0 <= actor["person_score"] <= 1
            assert np.allclose(np.array(actor["box"]) * [640, 360, 640, 360], actor["box_px"], atol=1e-3)
            assert 0 <= min(actor["box"]) <= max(actor["box"]) <= 1
            assert {action["id"]: action["name"] for action in actor["actions"]} == labels
            scores = [action["score"] for action in actor["actions"]]
            assert scores == sorted(scores, reverse=True)
            smoothed = [action["smoothed"] for action in actor["actions"]]
            if actor["track_id"] not in seen:
                assert np.allclose(smoothed, np.clip(scores, 1e-4, 1 - 1e-4), atol=1e-6), "nobody was there before"
            else:
                assert not np.allclose(smoothed, scores)
            seen.add(actor["track_id"])
    assert set(answer["summary"]) == {
        "received", "sampled", "not_sampled", "dropped", "keyframes_due", "pending",
        "ok", "superseded", "deadline", "error", "worker_lost", "cancelled",
    }  # fmt: skip
    conserved(answer["summary"])
    assert (answer["summary"]["received"], answer["summary"]["ok"]) == (81, 11)


def test_lines_hold_what_json_holds(server: Server) -> None:
    whole = post(server, FALL, score_threshold=0, top_k=3).json()
    *keyframes, tail = lines_of(post(server, FALL, accept=NDJSON, score_threshold=0, top_k=3))
    assert [set(k) for k in keyframes] == [set(k) for k in whole["keyframes"]]
    for ours, theirs in zip(keyframes, whole["keyframes"], strict=True):
        same_actors(ours["actors"], theirs["actors"])
    assert tail == {name: whole[name] for name in ("model", "trained", "summary", "warnings")}


def frames_of(video: Path | io.BytesIO) -> tuple[str, list[np.ndarray]]:
    with av.open(str(video) if isinstance(video, Path) else video) as container:
        codec = container.streams.video[0].codec_context.name
        return codec, [frame.to_ndarray(format="rgb24").astype(int) for frame in container.decode(video=0)]


def test_the_video_has_every_frame_and_the_boxes_on_it(server: Server) -> None:
    clip, at = made_video(320, 240, 45), 30  # the frame at 1 s, where keyframe 1 is
    actors = post(server, clip, score_threshold=0).json()["keyframes"][1]["actors"]
    (_, source), (codec, drawn), (_, bare) = (
        frames_of(io.BytesIO(clip)),
        frames_of(io.BytesIO(post(server, clip, accept=MP4, score_threshold=0).content)),
        frames_of(io.BytesIO(post(server, clip, accept=MP4, score_threshold=1).content)),
    )
    assert codec == "h264"
    assert len(drawn) == len(bare) == len(source) == 45
    assert drawn[at].shape == source[at].shape
    on_boxes = np.zeros((240, 320), bool)
    for actor in actors:
        x1, y1, x2, y2 = (round(v) for v in actor["box_px"])
        on_boxes[y1 : y2 + 1, [min(x, 319) for x in (x1, x2)]] = True
        on_boxes[[min(y, 239) for y in (y1, y2)], x1 : x2 + 1] = True
    changed, unchanged = np.abs(drawn[at] - source[at]).mean(-1), np.abs(bare[at] - source[at]).mean(-1)
    # without actors only the banner is drawn, at the top: below it is the source, encoded once more
    assert changed[60:][on_boxes[60:]].mean() > 3 * unchanged[60:].mean()
    assert changed[60:][on_boxes[60:]].mean() > 40
    assert unchanged[:16].mean() > 2 * unchanged[60:].mean()


def test_warnings_come_in_every_form_of_answer(server: Server, tmp_path: Path) -> None:
    """An elementary stream has no timestamps, which is told."""
    target = io.BytesIO()
    with av.open(target, "w", format="mpeg2video") as output:
        track = output.add_stream("mpeg2video", rate=25)
        track.width, track.height, track.pix_fmt = 160, 96, "yuv420p"
        for number in range(30):
            picture = np.full((96, 160, 3), 40 + number, np.uint8)
            output.mux(track.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        output.mux(track.encode(None))
    clip = target.getvalue()
    told = ["frames without a timestamp: 30, taken as 25 per second"]
    assert post(server, clip).json()["warnings"] == told
    assert lines_of(post(server, clip, accept=NDJSON))[-1]["warnings"] == told
    assert json.loads(post(server, clip, accept=MP4).headers[WARNINGS]) == told
    assert json.loads(post(server, made_video(128, 96, 8), accept=MP4).headers[WARNINGS]) == []
    with Client(server.url) as client:
        assert client.render(clip, tmp_path / "drawn.mp4") == told
        lines = client.detect_lines(clip)
        assert lines.warnings == []
        assert len(list(lines)) == 3  # two keyframes and the summary
        assert lines.warnings == told


@pytest.mark.parametrize(("warnings", "kept"), [([], 0), (["ü" * 9] * 9, 9), (["x" * 400] * 30, 10), (["ü" * 5000], 0)])
def test_warnings_in_a_header_are_bounded(warnings: list[str], kept: int) -> None:
    text = in_a_header(warnings)
    assert text.isascii()
    assert len(text) <= WARNINGS_BYTES
    assert "\n" not in text
    more = [f"and {len(warnings) - kept} more"] if kept < len(warnings) else []
    assert json.loads(text) == warnings[:kept] + more


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("*/*", "application/json"),
        ("", "application/json"),
        ("image/png", "application/json"),
        ("application/json, application/x-ndjson;q=0.5", "application/json"),
        ("application/json;q=0.1, Application/X-NDJSON", NDJSON),
        ("video/mp4;q=0, application/x-ndjson;q=0.2", NDJSON),
        ("video/*;q=0.1, video/mp4", MP4),
    ],
)
def test_the_answer_follows_accept(server: Server, accept: str, kind: str) -> None:
    response = post(server, made_video(128, 96, 8), accept=accept)
    assert response.status_code == 200
    assert response.headers["content-type"] == kind


# -- options


@pytest.fixture
def lone(tiny_weights: Path) -> Iterator[Server]:
    """One keyframe at a time: which others share its batch, and so how numbers are rounded, is a matter of chance."""
    with running_server(weights=tiny_weights, max_batch=1) as server:
        yield server


def test_options_do_what_they_say(lone: Server) -> None:
    def actors(**options: object) -> list[dict[str, Any]]:
        found = [actor for k in post(lone, FALL, **options).json()["keyframes"] for actor in k["actors"]]
        for actor in found:
            assert actor.pop("track_id") >= 1  # whose it is depends on who is looked at
        return found

    def keyframes_own(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [a | {"actions": [x | {"smoothed": None} for x in a["actions"]]} for a in found]

    everyone = actors(score_threshold=0)
    middle = float(np.median([actor["person_score"] for actor in everyone]))
    some = actors(score_threshold=middle)
    assert 0 < len(some) < len(everyone)
    assert [a["box"] for a in some] == [a["box"] for a in everyone if a["person_score"] >= middle]
    assert all(len(actor["actions"]) == 80 for actor in everyone)
    best = actors(score_threshold=0, top_k=3)
    assert [a["actions"] for a in best] == [a["actions"][:3] for a in everyone]
    likely = actors(score_threshold=0, action_threshold=0.3)
    assert [a["actions"] for a in likely] == [[s for s in a["actions"] if s["score"] >= 0.3] for a in everyone]
    assert any(len(a["actions"]) < 80 for a in likely)
    standard = [a for a in everyone if a["person_score"] >= 0.6]
    assert keyframes_own(actors()) == keyframes_own(standard)


@pytest.mark.slow
def test_lookahead_0_sees_nothing_later_as_the_command_does(server: Server, tiny_weights: Path, tmp_path: Path) -> None:
    full, none = (post(server, WALK, score_threshold=0, **o).json() for o in ({}, {"lookahead_ms": 0}))
    assert len(full["keyframes"]) == len(none["keyframes"]) == 7
    apart = [
        np.abs(np.array([a["box"] for a in x["actors"]]) - [a["box"] for a in y["actors"]]).max()
        for x, y in zip(full["keyframes"], none["keyframes"], strict=True)
    ]
    assert min(apart) > 1e-3
    out = tmp_path / "out.json"
    command = [sys.executable, "-m", "stmixer.service.cli", "detect", str(WALK), "--weights", str(tiny_weights)]
    command += ["--score-threshold", "0", "--lookahead-ms", "0", "-o", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=dict(os.environ))
    assert done.returncode == 0, done.stderr
    same_results(none, json.loads(out.read_text()))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("keyframe_hz", "0"), ("keyframe_hz", "-1"), ("keyframe_hz", "31"), ("keyframe_hz", "nan"),
        ("keyframe_hz", "often"), ("keyframe_hz", "5e-324"), ("keyframe_hz", ""),
        ("score_threshold", "-0.1"), ("score_threshold", "1.1"), ("score_threshold", "inf"),
        ("top_k", "0"), ("top_k", "1.5"), ("action_threshold", "2"), ("action_threshold", "x"),
        ("lookahead_ms", "-1"), ("lookahead_ms", "1e9"), ("frames", "3"), ("KEYFRAME_HZ", "2"),
        ("preset", "night"),
    ],
)  # fmt: skip
def test_a_bad_option_is_named(server: Server, name: str, value: str) -> None:
    assert name in problem(post(server, FALL, **{name: value}), 422, "bad_option")


def test_a_preset_in_query_and_form(server: Server) -> None:
    """Its threshold; one that is given counts before it, wherever either stands."""
    low, high = (post(server, FALL, score_threshold=threshold, top_k=1).json() for threshold in (0.3, 0.75))
    assert sum(len(k["actors"]) for k in low["keyframes"]) > sum(len(k["actors"]) for k in high["keyframes"])
    same_results(post(server, FALL, preset="cctv", top_k=1).json(), low)
    same_results(post(server, FALL, preset="cctv", score_threshold=0.75, top_k=1).json(), high)

    def form(data: dict[str, str], params: dict[str, str]) -> Any:
        files = {"file": ("a.mp4", FALL.read_bytes())}
        return httpx.post(server.url + "/v1/detect", data=data, params=params, files=files, timeout=60).json()

    same_results(form({"preset": "cctv", "top_k": "1"}, {}), low)
    same_results(form({"preset": "cctv", "top_k": "1"}, {"score_threshold": "0.75"}), high)
    same_results(form({"score_threshold": "0.75", "top_k": "1"}, {"preset": "cctv"}), high)


# -- bodies


def test_raw_and_multipart_are_the_same(server: Server) -> None:
    raw = post(server, FALL, score_threshold=0, top_k=1).json()
    for name in ("clip.mp4", "", "../../etc/passwd", "x" * 300, "clip\u00e9.m3u8"):
        files = {"file": (name or "blob", FALL.read_bytes(), "text/html")}
        params = {"score_threshold": "0", "top_k": "1"}
        response = httpx.post(server.url + "/v1/detect", files=files, params=params, timeout=60)
        assert response.status_code == 200, response.text
        same_results(response.json(), raw)


def multipart(server: Server, body: bytes, kind: str = "multipart/form-data; boundary=b") -> httpx.Response:
    return httpx.post(server.url + "/v1/detect", content=body, headers={"Content-Type": kind}, timeout=60)


PART = b'--b\r\nContent-Disposition: form-data; name="%s"%s\r\n\r\n%s\r\n'


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (PART % (b"video", b'; filename="a.mp4"', b"x") + b"--b--\r\n", "'file'"),
        (PART % (b"video", b"", b"x") + b"--b--\r\n", "'video'"),
        (PART % (b"video", b"", b"x" * 2**21) + b"--b--\r\n", "4096 bytes"),
        (PART % (b"video", b"; filename*=UTF-8''%C3%9C.mp4", b"x") + b"--b--\r\n", "'video'"),
        (PART % (b"file", b"", b"x") + PART % (b"file", b"", b"y") + b"--b--\r\n", "several"),
        (PART % (b"file", b"", b"x"), "breaks off"),
        (PART % (b"file", b"\r\nContent-Transfer-Encoding: base64", b"eA==") + b"--b--\r\n", "base64"),
        (PART % (b"top_k", b"", b"1") + PART % (b"top_k", b"", b"2") + b"--b--\r\n", "twice"),
        (PART % (b"top_k", b"", b"\xff") + b"--b--\r\n", "UTF-8"),
        (b"text before it\r\n" * 8000 + PART % (b"file", b"", b"x") + b"--b--\r\n", "boundary"),
        (PART % (b"file", b'; filename="a"', b"x") + PART % (b"two", b'; filename="b"', b"x") + b"--b--\r\n", "files"),
        (b"--b--\r\n", "'file'"),
        (b"no boundary at all", "multipart"),
        (b"", "multipart"),
        (b"--b\r\nContent-Disposition: form-data\r\n\r\nx\r\n--b--\r\n", "name"),
        (b"--b\r\n" + b"h" * 10_000 + b": x\r\n\r\nx\r\n--b--\r\n", "multipart"),
        (b"".join(PART % (b"f%d" % n, b"", b"x") for n in range(20)) + b"--b--\r\n", "fields"),
    ],
    ids=lambda v: v if isinstance(v, str) else None,
)
def test_a_bad_multipart_body_is_explained(server: Server, body: bytes, says: str) -> None:
    assert says in problem(multipart(server, body), 400, "bad_multipart")


FIELDS = PART % (b"top_k", b"", b"1") + PART % (b"score_threshold", b"", b"0") + PART % (b"lookahead_ms", b"", b"")


@pytest.mark.parametrize(
    ("disposition", "before", "behind"),
    [
        (b'; filename="clip.mp4"', b"", FIELDS),
        (b'; filename="clip.mp4"', FIELDS, b""),
        (b"", b"", FIELDS),
        (b"; filename*=UTF-8''%C3%9Cbung.mp4", b"", FIELDS),
        (b'; filename="clip.mp4"', b"This is a message of several parts.\r\n", FIELDS),
        (b'; filename=""', b"--\r\n--bb\r\n\r\n" + FIELDS, b""),
        (b"; filename=clip.mp4\r\nContent-Transfer-Encoding: binary", b"", FIELDS),
    ],
    ids=["fields behind", "fields before", "no filename", "filename*", "preamble", "odd preamble", "encoding"],
)
def test_a_form_in_whatever_form(server: Server, disposition: bytes, before: bytes, behind: bytes) -> None:
    """Its fields count as the query's do: every person of the clip, one action each."""
    body = before + PART % (b"file", disposition, FALL.read_bytes()) + behind + b"--b--\r\n"
    answer = multipart(server, body)
    assert answer.status_code == 200, answer.text
    same_results(answer.json(), post(server, FALL, score_threshold=0, top_k=1).json())
    assert {len(actor["actions"]) for frame in answer.json()["keyframes"] for actor in frame["actors"]} == {1}


@pytest.mark.parametrize(
    ("fields", "query", "says"),
    [
        ({"top_k": "0"}, "", "top_k"),
        ({"keyframe_hz": "often"}, "", "keyframe_hz"),
        ({"topk": "1"}, "", "topk"),
        ({"top_k": "1"}, "?top_k=2", "top_k: in the query and in the form"),
        ({"top_k": "1"}, "?score_threshold=2", "score_threshold"),
    ],
)
def test_a_fields_fault_is_named(server: Server, fields: dict[str, str], query: str, says: str) -> None:
    url = f"{server.url}/v1/detect{query}"
    answer = httpx.post(url, data=fields, files={"file": ("a.mp4", FALL.read_bytes())}, timeout=60)
    assert says in problem(answer, 422, "bad_option")


def test_multipart_without_a_boundary(server: Server) -> None:
    assert "boundary" in problem(multipart(server, b"x", "multipart/form-data"), 400, "bad_multipart")


def test_an_empty_file_is_explained(server: Server) -> None:
    assert "empty" in problem(post(server, b""), 400, "unreadable")
    body = PART % (b"file", b'; filename="a.mp4"', b"") + b"--b--\r\n"
    assert "empty" in problem(multipart(server, body), 400, "unreadable")


@pytest.mark.parametrize("kind", ["application/json", "text/plain", "application/x-www-form-urlencoded", "", "////"])
def test_a_body_that_is_no_video_is_explained(server: Server, kind: str) -> None:
    body = json.dumps({"url": "http://example.com/clip.mp4"}).encode()
    response = httpx.post(server.url + "/v1/detect", content=body, headers={"Content-Type": kind}, timeout=60)
    assert "video" in problem(response, 400, "unreadable")


def test_a_video_is_taken_by_its_bytes_whatever_its_type_says(server: Server) -> None:
    for kind in ("application/x-www-form-urlencoded", "application/json", "image/png"):
        response = httpx.post(
            server.url + "/v1/detect", content=FALL.read_bytes(), headers={"Content-Type": kind}, timeout=60
        )
        assert response.status_code == 200
