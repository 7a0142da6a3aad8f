"""An online long-term model, served: its bank belongs to the stream, and no worker's end ends it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from conftest import OWN_CLIPS
from faulty_worker import MODULE, slowly
from narrow import narrow
from posting import NDJSON, WORKER, lines_of, metric, post, same_actors
from serving import Server, running_server

from stmixer.model.card import ModelCard
from stmixer.model.checkpoint import load, save
from stmixer.model.detector import skeleton
from stmixer.model.foreign.published_names import published_name
from stmixer.model.labels import AVA_LABELS
from stmixer.model.query_bank import OnlineBank, new_bank
from stmixer.model.runtimes.choose import torch_runtime
from stmixer.service.errors import StartError
from stmixer.service.offline.file import FileResults
from stmixer.service.schemas import DetectOptions
from stmixer.service.worker.process import split_banks
from stmixer.service.worker.runner import Job, Runner

FALL = OWN_CLIPS / "fall.mp4"
CPU = torch.device("cpu")


def write_model(path: Path, name: str, fill) -> Path:
    """A long-term ``tiny`` with fill.py's weights: all but its last action head are those of ``tiny_weights``."""
    config = narrow(name)
    state = {
        k: torch.as_tensor(fill.fill(published_name(k), v.shape)) for k, v in skeleton(config).state_dict().items()
    }
    save(path, state, ModelCard(config, AVA_LABELS, trained=False, source="fill.py"))
    return path


@pytest.fixture(scope="module")
def online(tmp_path_factory, fill) -> Path:
    return write_model(tmp_path_factory.mktemp("online") / "online.safetensors", "online", fill)


def detected(weights: Path, options: DetectOptions) -> list[list[dict[str, object]]]:
    results = FileResults(Runner(torch_runtime(load(weights), CPU)), FALL, options, batch_size=4)
    return [result.model_dump(mode="json")["actors"] for result in results]


def test_a_clip_knows_the_ones_before(online: Path) -> None:
    """The first clip's actions are those of an empty bank; a later one's are not."""
    options = DetectOptions(score_threshold=0, keyframe_hz=1)
    found = detected(online, options)
    runner = Runner(torch_runtime(load(online), CPU))
    own = runner._banks
    runner._banks = lambda jobs: own([replace(job, bank=None) for job in jobs])
    blind = [result.model_dump(mode="json")["actors"] for result in FileResults(runner, FALL, options)]
    assert len(found) == len(blind) == 6
    assert found[0] == blind[0]
    for ours, theirs in zip(found[1:], blind[1:], strict=True):
        assert [a["box"] for a in ours] == [a["box"] for a in theirs], "only actions look back"
        assert [a["actions"] for a in ours] != [a["actions"] for a in theirs]


def test_the_online_bank_is_the_offline_one_without_the_future(
    online: Path, tiny_weights: Path, tmp_path: Path
) -> None:
    """After t clips: the bank that `stmixer-train bank` makes of the same video, seen up to t."""
    from training import own_set, run_config

    from stmixer.trainer.long_term.bank import BankMaker, QueryBank

    root = own_set(tmp_path / "set", "train")
    path = tmp_path / "bank.safetensors"
    clips, k, dim = new_bank(narrow("online")).shape
    BankMaker(run_config(root), tiny_weights, CPU, k=k).run(path)
    offline = QueryBank(path)
    runner = Runner(torch_runtime(load(online), CPU))
    own, entries = runner.run, []
    runner.run = lambda jobs: entries.append(done := own(jobs)) or done
    assert len(list(FileResults(runner, FALL, DetectOptions(keyframe_hz=1)))) == 6
    bank = OnlineBank(clips, k, dim)
    for t, done in enumerate(entries):
        queries, mask = bank.window(t)
        wanted, there = offline.window("fall.mp4", t, width_clips=2 * clips, before_clips=clips)
        assert there[clips * k], "the offline one knows the clip itself and what follows"
        assert mask.tolist() == there[: clips * k].tolist()
        assert mask.sum() == min(t, clips) * k
        # both are in half precision
        np.testing.assert_allclose(queries.astype(np.float32), wanted[: clips * k].numpy(), atol=2e-3, rtol=2e-3)
        bank.add(t, done.entries[0])


def test_an_offline_model_is_not_served(tmp_path: Path, fill) -> None:
    weights = write_model(tmp_path / "offline.safetensors", "offline", fill)
    with pytest.raises(StartError, match="wants another model's bank of the whole video"):
        Runner(torch_runtime(load(weights), CPU))


def test_windows_go_over_the_wire_as_they_are(online: Path) -> None:
    runner = Runner(torch_runtime(load(online), CPU))
    bank = new_bank(runner.card.config)
    _, k, dim = bank.shape
    bank.add(4, np.random.RandomState(0).standard_normal((k, dim)).astype(np.float16))
    windows = [bank.window(5), bank.window(6), bank.window(60)]
    payload = b"".join(queries.tobytes() + mask.tobytes() for queries, mask in windows)
    for (queries, mask), there in zip(windows, split_banks(runner, payload, 3), strict=True):
        assert there is not None
        np.testing.assert_array_equal(there[0], queries)
        np.testing.assert_array_equal(there[1], mask)
    frames = np.zeros((4, 128, 170, 3), np.uint8)
    done = runner.run([Job(frames, 170, 128, 0.5, None, 0.0, bank=window) for window in windows])
    assert done.entries.shape == (3, k, dim)
    assert done.entries.dtype == np.float16


@pytest.fixture(scope="module")
def slow_server(online: Path) -> Iterator[Server]:
    with running_server(weights=online, worker_module=MODULE, environment=slowly(200), max_batch=4) as server:
        yield server


def smoothed(keyframe: dict[str, Any]) -> list[float]:
    return [action["smoothed"] for actor in keyframe["actors"] for action in actor["actions"]]


@pytest.mark.slow
def test_served_as_from_a_file_and_across_a_workers_death(slow_server: Server, online: Path) -> None:
    """Four keyframes a second, an entry a second; a worker killed in the middle changes no number."""
    wanted = {"score_threshold": 0, "keyframe_hz": 4}
    expected = detected(online, DetectOptions(**wanted))
    calm = lines_of(post(slow_server, FALL, accept=NDJSON, **wanted))
    restarts, old = (
        metric(slow_server, "worker_restarts_total", worker="0", reason="exit"),
        slow_server.children_of(WORKER),
    )
    with httpx.stream(
        "POST", slow_server.url + "/v1/detect", params={k: str(v) for k, v in wanted.items()},
        content=FALL.read_bytes(), headers={"Accept": NDJSON}, timeout=120,
    ) as response:  # fmt: skip
        lines = response.iter_lines()
        found = [json.loads(next(lines)) for _ in range(9)]  # two seconds are in the bank
        old[0].kill()
        found += [json.loads(line) for line in lines]
    assert slow_server.children_of(WORKER)[0].pid != old[0].pid
    assert metric(slow_server, "worker_restarts_total", worker="0", reason="exit") == restarts + 1
    assert len(found) == len(calm) == len(expected) + 1
    for ours, theirs, from_file in zip(found[:-1], calm[:-1], expected, strict=True):
        same_actors(ours["actors"], theirs["actors"])
        same_actors(ours["actors"], json.loads(json.dumps(from_file)))
        assert smoothed(ours) == pytest.approx(smoothed(theirs), abs=1e-4), "what they have been doing is the stream's"
    assert found[-1]["summary"]["worker_lost"] == 0
