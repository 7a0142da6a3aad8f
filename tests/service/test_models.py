"""Another model while streams run, over REST: it takes over, nothing is lost, what is broken changes nothing.

``DRILL_SWAPS`` sets how many times the drill changes models (50).
"""

from __future__ import annotations

import itertools
import os
import shutil
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from conftest import OWN_CLIPS
from drills import complaints, deaths, write_report
from following import Followed, pull
from posting import OUTCOMES, WORKER, conserved, eventually, metric, post, problem
from serving import Server, running_server
from ws_client import jpeg, paced, stream

CLIP = OWN_CLIPS / "walk.mp4"
ASKED = {"keyframe_hz": 2, "score_threshold": 0.0}
SWAPS = int(os.environ.get("DRILL_SWAPS", "50"))
CAMERAS, UPLOADS = 8, 4
BROKEN = {
    "broken": "is not a safetensors file",
    "page": "web page",
    "variant": "the weights do not fit the model",
}
"""Files that do not load, and what is said of them."""


@dataclass(frozen=True)
class Shelf:
    """A service, and the folder whose weights it may load: ``other`` is like what serves, ``broken`` is cut short, as a
    full disk leaves it, and ``variant`` says that it is of another model than its tensors are of."""

    server: Server
    folder: Path

    def asked(self, **order: Any) -> httpx.Response:
        return httpx.post(self.server.url + "/v1/models", json=order, timeout=60)

    def told(self) -> dict[str, dict[str, Any]]:
        listed = httpx.get(self.server.url + "/v1/models", timeout=60).json()["models"]
        return {one["name"]: one for one in listed}

    def comes(self, name: str, state: str) -> dict[str, Any]:
        """Wait until a model is in a state."""
        eventually(lambda: self.told()[name]["state"], lambda now: now == state, 180)
        return self.told()[name]

    def made_default(self, name: str) -> httpx.Response:
        return httpx.post(f"{self.server.url}/v1/models/{name}/default", timeout=60)

    def forgotten(self, name: str) -> httpx.Response:
        return httpx.delete(f"{self.server.url}/v1/models/{name}")


@pytest.fixture(scope="module")
def folder(tiny_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from stmixer.model.checkpoint import load, save

    found = tmp_path_factory.mktemp("shelf")
    shutil.copy(tiny_weights, found / "same.safetensors")
    model = load(tiny_weights)
    state = {name: x * 1.02 if x.is_floating_point() else x for name, x in model.detector.state_dict().items()}
    save(found / "other.safetensors", state, model.card)
    whole = (found / "other.safetensors").read_bytes()
    (found / "broken.safetensors").write_bytes(whole[: len(whole) // 2])
    (found / "page.safetensors").write_text("<!doctype html><title>Not found</title>")
    config = model.card.config
    deeper = replace(config, decoder=replace(config.decoder, stages=config.decoder.stages + 1))
    save(found / "variant.safetensors", state, replace(model.card, config=deeper))
    return found


@pytest.fixture(scope="module")
def shelf(tiny_weights: Path, folder: Path) -> Iterator[Shelf]:
    with running_server(weights=tiny_weights, weights_dir=folder, allow_files=OWN_CLIPS) as server:
        yield Shelf(server, folder)


def test_only_what_lies_in_the_folder_can_be_asked_for(shelf: Shelf, tiny_weights: Path) -> None:
    for weights in ("nothing.safetensors", "../" + tiny_weights.name, str(tiny_weights), "/etc/passwd", "."):
        assert "below --weights-dir" in problem(shelf.asked(weights=weights), 422, "no_such_weights")
    (shelf.folder / "link.safetensors").symlink_to(tiny_weights)
    assert "below --weights-dir" in problem(shelf.asked(weights="link.safetensors"), 422, "no_such_weights")
    problem(shelf.asked(weights="same.safetensors", name="a/b"), 422, "bad_option")
    problem(shelf.made_default("nobody"), 404, "unknown_model")
    problem(shelf.forgotten("nobody"), 404, "unknown_model")
    problem(shelf.forgotten("tiny"), 409, "model_in_use")
    problem(post(shelf.server, CLIP, model="nobody"), 422, "unknown_model")
    assert list(shelf.told()) == ["tiny"]


def test_without_a_folder_there_are_the_bundled_names(server: Server) -> None:
    detail = problem(httpx.post(server.url + "/v1/models", json={"weights": "x.safetensors"}), 422, "no_such_weights")
    assert "stmixer-rt" in detail
    assert "--weights-dir" in detail


def test_a_stream_may_not_name_a_model_that_is_not_there(shelf: Shelf) -> None:
    with stream(shelf.server, model="nobody") as client:
        code, name, message = client.refused()
    assert (code, name) == (4400, "unknown_model")
    assert "there is tiny" in message


@pytest.mark.slow
def test_what_is_broken_is_told_and_changes_nothing(shelf: Shelf) -> None:
    before = post(shelf.server, CLIP, **ASKED).json()
    for name, why in BROKEN.items():
        answer = shelf.asked(weights=f"{name}.safetensors", default=True)
        assert (answer.status_code, answer.headers["location"]) == (202, f"/v1/models/{name}")
        told = shelf.comes(name, "failed")
        assert why in told["reason"]
        assert httpx.get(shelf.server.url + answer.headers["location"]).json() == told
    assert [name for name, told in shelf.told().items() if told["default"]] == ["tiny"]
    assert post(shelf.server, CLIP, **ASKED).json()["keyframes"][0]["actors"] == before["keyframes"][0]["actors"]
    assert not deaths(shelf.server)
    assert [shelf.forgotten(name).status_code for name in BROKEN] == [204] * len(BROKEN)


@pytest.mark.slow
def test_another_one_takes_over_a_stream_that_runs_and_gives_it_back(shelf: Shelf) -> None:
    with stream(shelf.server, keyframe_hz=4, score_threshold=0, lookahead_ms=0) as client:
        assert client.first("ready")["model"] == "tiny"
        wanted = ["tiny", "other", "tiny"]
        for n in paced(15, 90):
            client.picture(jpeg(n % 50))
            made = [result["model"] for result in client.of("result")]
            if len(made) >= 2 and "other" not in shelf.told():
                assert shelf.asked(weights="other.safetensors", default=True).status_code == 202
            if made.count("other") >= 3 and made[-1] == "other":
                assert shelf.made_default("tiny").status_code == 200
            if list(dict.fromkeys(made)) == wanted[:2] and made[-1] == "tiny":
                break
        summary = client.stop()
        results = client.of("result")
    conserved(summary)
    seqs = [result["seq"] for result in results]
    assert seqs == sorted(set(seqs)), "no keyframe twice"
    assert summary["ok"] == len(results)
    assert summary["error"] == summary["worker_lost"] == summary["cancelled"] == 0
    told = shelf.told()
    assert told["other"]["state"] == "ready"
    assert told["other"]["digest"] != told["tiny"]["digest"]
    named = post(shelf.server, CLIP, model="other", **ASKED).json()
    assert named["model"] == "other"
    assert {keyframe["model"] for keyframe in named["keyframes"]} == {"other"}
    with stream(shelf.server, model="other", keyframe_hz=4, lookahead_ms=0) as client:
        assert client.first("ready")["model"] == "other"
        client.picture(jpeg())
        assert client.first("result")["model"] == "other"
        client.stop()
    pulled = pull(shelf.server, "file:walk.mp4", model="other", loop=True)["id"]
    followed = Followed(shelf.server, pulled)
    assert eventually(lambda: followed.of("result"))[0]["model"] == "other"
    assert httpx.delete(f"{shelf.server.url}/v1/streams/{pulled}").status_code == 204
    default = post(shelf.server, CLIP, **ASKED).json()
    assert default["keyframes"][0]["actors"] != named["keyframes"][0]["actors"]
    assert httpx.get(shelf.server.url + "/v1/labels", params={"model": "other"}).json()["model"] == "other"
    assert shelf.forgotten("other").status_code == 204
    assert list(shelf.told()) == ["tiny"]
    assert not deaths(shelf.server)


@pytest.mark.slow
def test_a_watched_file_takes_over_when_another_one_lies_there(folder: Path, tmp_path: Path) -> None:
    """What a full disk has cut short does not; nor does a full disk keep the whole one from it: nothing is written."""
    file = tmp_path / "mine.safetensors"
    shutil.copy(folder / "same.safetensors", file)
    with running_server(watch=file) as server:
        shelf, process = Shelf(server, folder), psutil.Process(server.process.pid)
        first = shelf.told()["tiny"]["digest"]

        def put(name: str) -> None:
            shutil.copy(folder / f"{name}.safetensors", tmp_path / "new")
            (tmp_path / "new").replace(file)

        put("broken")
        eventually(lambda: shelf.told().get("mine.2", {}).get("state"), lambda state: state == "failed", 60)
        assert BROKEN["broken"] in shelf.told()["mine.2"]["reason"]
        assert shelf.told()["tiny"]["default"] is True
        assert post(server, CLIP, **ASKED).json()["model"] == "tiny"
        before = process.rlimit(psutil.RLIMIT_FSIZE)
        process.rlimit(psutil.RLIMIT_FSIZE, (0, before[1]))  # a worker that is started now has it too
        put("other")
        eventually(lambda: shelf.told().get("mine.3", {}).get("default"), lambda is_default: is_default is True, 60)
        process.rlimit(psutil.RLIMIT_FSIZE, before)
        assert shelf.told()["mine.3"]["digest"] != first
        assert post(server, CLIP, **ASKED).json()["model"] == "mine.3"


# -- the drill


@dataclass(frozen=True)
class Seen:
    """What a camera saw: its results' keyframes and models, the close code of a socket that was closed, the counts."""

    seqs: list[int]
    models: list[str]
    closed: int | None
    summary: dict[str, Any]

    @property
    def doubled(self) -> int:
        return len(self.seqs) - len(set(self.seqs))

    @property
    def lost(self) -> int:
        """Keyframes that the service gave up, and those that it counts as done and that did not come."""
        given_up = sum(self.summary[outcome] for outcome in ("error", "worker_lost", "cancelled"))
        return int(given_up + self.summary["ok"] - len(set(self.seqs)))

    @property
    def changes(self) -> int:
        return sum(a != b for a, b in itertools.pairwise(self.models))


def _camera(server: Server, stop: threading.Event) -> Seen:
    with stream(server, keyframe_hz=2, score_threshold=1, lookahead_ms=0) as client:
        client.first("ready", 60)
        for n in paced(10, 24 * 3600):
            if stop.is_set() or client.close_code is not None:
                break
            client.picture(jpeg(n % 50))
        closed = client.close_code
        summary = client.stop() if closed is None else client.first("summary")
        results = client.of("result")
    return Seen([result["seq"] for result in results], [result["model"] for result in results], closed, summary)


def _uploads(server: Server, stop: threading.Event) -> Counter[str]:
    made = Counter[str]()
    while not stop.is_set():
        answer = post(server, CLIP, **ASKED)
        assert answer.status_code == 200, answer.text
        conserved(answer.json()["summary"])
        keyframes = answer.json()["keyframes"]
        assert [keyframe["seq"] for keyframe in keyframes] == list(range(len(keyframes)))
        made.update(keyframe["model"] for keyframe in keyframes)
    return made


@pytest.mark.drill
@pytest.mark.timeout(0)
def test_models_change_as_often_as_they_like(tiny_weights: Path, folder: Path) -> None:
    with running_server(weights=tiny_weights, weights_dir=folder, spare_workers=1) as server:
        shelf, stop = Shelf(server, folder), threading.Event()
        names, memory = ("tiny", "other"), list[dict[str, float]]()
        assert shelf.asked(weights="other.safetensors").status_code == 202
        shelf.comes("other", "ready")
        began = time.monotonic()
        with ThreadPoolExecutor(CAMERAS + UPLOADS) as pool:
            cameras = [pool.submit(_camera, server, stop) for _ in range(CAMERAS)]
            posting = [pool.submit(_uploads, server, stop) for _ in range(UPLOADS)]
            try:
                for number in range(SWAPS):
                    before = metric(server, "inferences_total", worker=str((number + 1) % 2))
                    assert shelf.made_default(names[(number + 1) % 2]).status_code == 200
                    _runs_on(server, str((number + 1) % 2), before)
                    if number % 10 == 9:  # what is broken changes nothing, with all that goes on
                        broken = list(BROKEN)[number // 10 % len(BROKEN)]
                        assert shelf.asked(weights=f"{broken}.safetensors", default=True).status_code == 202
                        assert BROKEN[broken] in shelf.comes(broken, "failed")["reason"]
                        assert shelf.forgotten(broken).status_code == 204
                        memory.append(_memory_mib(server))
                    print(f"change {number + 1} at {time.monotonic() - began:.0f} s", flush=True)
            finally:
                stop.set()
            seen, made = [future.result() for future in cameras], [future.result() for future in posting]
        write_report("drill_model_changes", {
            "changes": SWAPS, "cameras": CAMERAS, "uploaders": UPLOADS, "seconds": round(time.monotonic() - began),
            "closes": sum(one.closed is not None for one in seen), "live_keyframes_lost": sum(one.lost for one in seen),
            "live_keyframes_doubled": sum(one.doubled for one in seen),
            "live_keyframes": {name: sum(one.summary[name] for one in seen) for name in OUTCOMES},
            "live_keyframes_by_model": dict(Counter(name for one in seen for name in one.models)),
            "posted_keyframes_by_model": dict(sum(made, Counter[str]())),
            "changes_that_each_camera_saw": [one.changes for one in seen], "memory_mib_after_each_tenth": memory,
        })  # fmt: skip
        assert [one.closed for one in seen] == [None] * CAMERAS
        for one in seen:
            conserved(one.summary)
            assert one.seqs == sorted(one.seqs)
            assert (one.lost, one.doubled) == (0, 0)
        assert min(one.changes for one in seen) >= SWAPS // 2
        for process in memory[0]:
            assert memory[-1][process] < memory[0][process] + 64
        assert not complaints(server)
        assert not deaths(server)


def _runs_on(server: Server, worker: str, before: float) -> None:
    """Wait until a model's worker has run some more."""
    eventually(lambda: metric(server, "inferences_total", worker=worker), lambda now: now >= before + 2 * CAMERAS, 180)


def _memory_mib(server: Server) -> dict[str, float]:
    """Of the API process, and of the workers in service, which are the oldest: one of each model."""
    workers = sorted(server.children_of(WORKER), key=lambda worker: worker.create_time())[:2]
    processes = {"api": psutil.Process(server.process.pid), "tiny": workers[0], "other": workers[1]}
    return {name: round(process.memory_info().rss / 2**20, 1) for name, process in processes.items()}
