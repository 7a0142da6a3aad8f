"""What workers are started with: the settings, and after the first one what that has chosen."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from stmixer.model.bundled import bundled
from stmixer.model.labels import AVA_LABELS
from stmixer.model.pulled import cache_folder
from stmixer.model.runtimes.measure import Trial
from stmixer.model.zoo import variant
from stmixer.service.engine.model_info import ModelInfo
from stmixer.service.engine.worker import WeightsSource, Worker, worker_options
from stmixer.service.errors import StartError
from stmixer.service.ipc.child import Child
from stmixer.service.ipc.messages import WorkerBroken, WorkerOptions, WorkerTells
from stmixer.service.places import Place
from stmixer.service.settings import Settings
from stmixer.service.worker.process import open_runner

STANDARD = WeightsSource(None, None)
WHY = "as measured here, a keyframe: onnx fp32 20 ms, eager fp32 12 ms"
FIRST = ModelInfo(
    variant("tiny"), AVA_LABELS, False, None, None, None, None, "cpu", runtime="eager", precision="bf16", chosen=WHY
)


@pytest.mark.parametrize(
    ("given", "like", "expected"),
    [
        ({}, None, ("auto", "auto", None)),
        ({}, FIRST, ("eager", "bf16", WHY)),
        ({}, replace(FIRST, runtime="onnx", precision="fp32"), ("auto", "fp32", WHY)),
        ({}, replace(FIRST, device="cuda"), ("auto", "auto", None)),
        ({"runtime": "compile"}, FIRST, ("compile", "auto", None)),
    ],
)
def test_those_that_follow_run_as_the_first_one_does(
    given: dict[str, str], like: ModelInfo | None, expected: tuple[str, str, str | None]
) -> None:
    options = worker_options(Settings(**given), STANDARD, Place("auto"), like)  # type: ignore[arg-type]
    assert (options.runtime, options.precision, options.chosen) == expected


def test_where_what_is_measured_once_is_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert worker_options(Settings(), STANDARD, Place("auto")).cache == str(tmp_path / ".cache/stmixer")
    monkeypatch.setenv("XDG_CACHE_HOME", "not/absolute")
    assert worker_options(Settings(), STANDARD, Place("auto")).cache == str(tmp_path / ".cache/stmixer")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    assert worker_options(Settings(), STANDARD, Place("auto")).cache == str(tmp_path / "x/stmixer")
    assert worker_options(Settings(cache_dir=tmp_path / "own"), STANDARD, Place("auto")).cache == str(tmp_path / "own")


@pytest.mark.parametrize(
    ("name", "expected"), [("mine", ("mine", 320, "eager")), ("stmixer-rt-hd", ("stmixer-rt-hd", 448, "onnx"))]
)
def test_weights_by_name_reach_a_worker(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, expected: tuple[str, int, str]
) -> None:
    """Fetched ones, and bundled ones that share a file: a worker begins in another folder, and is told the name."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = cache_folder()
    assert folder is not None
    folder.mkdir(parents=True)
    (folder / "mine.safetensors").symlink_to(bundled()["stmixer-rt"].file)
    options = worker_options(Settings(), WeightsSource(None, Path(name)), Place("cpu"))
    monkeypatch.chdir(tmp_path)
    runner, ready = open_runner(replace(options, max_batch=1, chosen="as the first"))
    assert (runner.card.name, runner.card.config.preprocess.short_side, ready.runtime) == expected


def test_a_worker_runs_what_won_and_one_after_it_does_not_measure(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked = list[str]()

    def measured(trial: Trial) -> float:
        asked.append(trial.runtime)
        return {"onnx": 0.020, "eager": 0.010}[trial.runtime]

    monkeypatch.setattr("stmixer.model.runtimes.contest.measured", measured)
    first = WorkerOptions("stmixer-rt", None, "cpu", "auto", "fp32", 2, 1, str(tmp_path))
    _, ready = open_runner(first)
    why = "as measured here, a keyframe: onnx fp32 20 ms, eager fp32 10 ms"
    assert (ready.runtime, ready.precision, ready.chosen) == ("eager", "fp32", why)
    assert asked == ["onnx", "eager"]
    _, ready = open_runner(replace(first, chosen="as the first", cache=None))
    assert (ready.runtime, ready.chosen) == ("onnx", "as the first")
    _, ready = open_runner(replace(first, model="tiny", chosen="as the first"))
    assert (ready.runtime, ready.chosen) == ("eager", "since it has no ONNX graphs"), "there have been some before"
    assert len(asked) == 2


def test_what_a_worker_takes_its_time_for_is_in_the_log(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    said = iter([WorkerTells("measuring"), WorkerBroken("no such file")])

    class Said:
        channel = property(lambda self: self)

        async def receive(self) -> SimpleNamespace:
            return SimpleNamespace(message=next(said))

        async def end(self) -> int:
            return 2

    async def spawn(*_: object) -> Said:
        return Said()

    monkeypatch.setattr(Child, "spawn", spawn)
    with caplog.at_level("INFO", "stmixer"), pytest.raises(StartError, match="no such file"):
        asyncio.run(Worker.start("first", "module", worker_options(Settings(), STANDARD, Place("auto"))))
    assert "worker first: measuring" in caplog.messages
