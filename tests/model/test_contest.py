"""``auto`` by measuring: who may run, who wins, what is kept of it, and when nothing is measured."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from stmixer.model.bundled import FOLDER, bundled
from stmixer.model.card import read_header
from stmixer.model.runtimes import choices as choices_module
from stmixer.model.runtimes import contest as contest_module
from stmixer.model.runtimes.choices import FILE, MOST_BYTES, MOST_CHOICES, CandidateTimes, ChoiceFile
from stmixer.model.runtimes.contest import EAGER, EAGER_BF16, ONNX, candidates, contest, map_lost
from stmixer.model.runtimes.measure import Candidate, Trial, measured
from stmixer.model.runtimes.processor import CPU, Device

NAME = "stmixer-rt"
FIGURES = {ONNX: 0.020, EAGER: 0.012, EAGER_BF16: 0.030}


class Timed:
    """Figures in place of a clock's; ``asked``: what was measured."""

    def __init__(self, figures: dict[Candidate, float]) -> None:
        self.figures, self.asked = figures, list[Candidate]()

    def __call__(self, trial: Trial) -> float | None:
        candidate = Candidate(trial.runtime, trial.precision)
        self.asked.append(candidate)
        return self.figures.get(candidate)


@pytest.fixture
def shelf(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The bundled weights, whose manifest says that they bear bf16."""
    folder = tmp_path_factory.mktemp("weights")
    for file in FOLDER.glob(f"{NAME}.*"):
        (folder / file.name).symlink_to(file)
    entry = {"name": NAME, "file": f"{NAME}.safetensors", "map_lost": {"bf16": 0.002}}
    entry["lost_by"] = read_header(folder / f"{NAME}.safetensors")[1]
    (folder / "manifest.json").write_text(json.dumps({"bundled": [entry]}))
    monkeypatch.setattr("stmixer.model.bundled.FOLDER", folder)
    return folder


@pytest.fixture
def timed(shelf: Path, monkeypatch: pytest.MonkeyPatch) -> Timed:
    """On a CPU that has bf16, with PyTorch."""
    clock = Timed(dict(FIGURES))
    monkeypatch.setattr(contest_module, "measured", clock)
    monkeypatch.setattr(contest_module, "processor", lambda: ("a CPU", frozenset({"avx512_bf16"})))
    monkeypatch.setattr(contest_module, "has_torch", lambda: True)
    return clock


@pytest.mark.parametrize(
    ("seconds", "best"),
    [
        ({ONNX: 0.020, EAGER: 0.0181}, ONNX),
        ({ONNX: 0.020, EAGER: 0.0179}, EAGER),
        ({ONNX: 0.020, EAGER: 0.0179, EAGER_BF16: 0.0170}, EAGER),
        ({ONNX: 0.020, EAGER: 0.0190, EAGER_BF16: 0.0170}, EAGER_BF16),
        ({EAGER_BF16: 1.0}, EAGER_BF16),
    ],
)
def test_a_heavier_one_has_to_be_much_faster(seconds: dict[Candidate, float], best: Candidate) -> None:
    assert CandidateTimes(tuple(seconds.items())).best() == best


def test_it_is_measured_once_for_weights_threads_and_candidates(timed: Timed, tmp_path: Path) -> None:
    won = contest(NAME, None, CPU, threads=2, cache=tmp_path)
    assert won is not None
    assert (won.candidate, won.how) == (EAGER, ("eager", "fp32"))
    assert won.why == "as measured here, a keyframe: onnx fp32 20 ms, eager fp32 12 ms, eager bf16 30 ms"
    assert timed.asked == [ONNX, EAGER, EAGER_BF16]
    assert contest(None, None, CPU, threads=2, cache=tmp_path) == won, "the same weights by another name"
    assert contest(None, Path(NAME), CPU, threads=2, cache=tmp_path) == won
    assert len(timed.asked) == 3, "kept"
    contest(NAME, None, CPU, threads=1, cache=tmp_path)
    assert len(timed.asked) == 6, "other threads"
    contest(NAME, None, CPU, threads=2, precision="fp32", cache=tmp_path)
    assert timed.asked[6:] == [ONNX, EAGER], "other candidates"
    contest(NAME, None, CPU, threads=2)
    assert len(timed.asked) == 11, "nowhere to keep it"


def test_who_fails_is_left_out_and_without_anybody_nothing_is_said(timed: Timed, tmp_path: Path) -> None:
    del timed.figures[ONNX], timed.figures[EAGER_BF16]
    won = contest(NAME, None, CPU, cache=tmp_path / "1")
    assert won is not None
    assert won.candidate == EAGER
    assert won.why == "as measured here, a keyframe: eager fp32 12 ms; out: onnx fp32, eager bf16"
    timed.figures.clear()
    assert contest(NAME, None, CPU, cache=tmp_path / "2") is None
    assert not (tmp_path / "2").exists()


def test_a_choice_with_somebody_out_is_kept_until_the_machine_starts_anew(
    timed: Timed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    boots: list[str | None] = ["one"]
    monkeypatch.setattr(choices_module, "this_boot", lambda: boots[-1])
    del timed.figures[ONNX]
    won = contest(NAME, None, CPU, cache=tmp_path)
    assert contest(NAME, None, CPU, cache=tmp_path) == won
    assert len(timed.asked) == 3, "kept"
    boots.append("two")
    timed.figures[ONNX] = 0.001
    better = contest(NAME, None, CPU, cache=tmp_path)
    assert (len(timed.asked), better is not None and better.candidate) == (6, ONNX), "it was busy then"
    boots.append("three")
    assert contest(NAME, None, CPU, cache=tmp_path) == better
    assert len(timed.asked) == 6, "nobody was out"
    boots.append(None)
    del timed.figures[ONNX]
    assert contest(NAME, None, CPU, threads=1, cache=tmp_path) == contest(NAME, None, CPU, threads=1, cache=tmp_path)
    assert len(timed.asked) == 12, "who knows whether it is another start"


def test_that_it_takes_its_time_is_said_before(timed: Timed, tmp_path: Path) -> None:
    told = list[tuple[str, int]]()
    for _ in range(2):
        contest(NAME, None, CPU, cache=tmp_path, tell=lambda text: told.append((text, len(timed.asked))))
    text = "measuring what is fastest on this CPU, for 90 s at most: onnx fp32, eager fp32, eager bf16"
    assert told == [(text, 0)]


def test_graphs_that_win_are_asked_for_so_that_pytorch_may_step_in(timed: Timed) -> None:
    timed.figures[EAGER] = 0.5
    won = contest(NAME, None, CPU)
    assert won is not None
    assert (won.candidate, won.how) == (ONNX, ("auto", "fp32"))


@pytest.mark.parametrize(
    "asked",
    [
        {"runtime": "onnx"}, {"runtime": "eager"}, {"precision": "bf16"}, {"device": Device("cuda")},
        {"name": "tiny"}, {"name": None, "weights": FOLDER / f"{NAME}.onnx"},
        {"name": None, "weights": Path("no.safetensors")},
    ],
    ids=str,
)  # fmt: skip
def test_nothing_is_measured_where_there_is_nothing_to_choose(timed: Timed, asked: dict[str, object]) -> None:
    given: dict[str, object] = {"name": NAME, "weights": None, "device": CPU} | asked
    assert contest(**given) is None  # type: ignore[arg-type]
    assert timed.asked == []


def test_without_torch_graphs_run_unmeasured(timed: Timed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contest_module, "has_torch", lambda: False)
    assert contest(NAME, None, CPU) is None
    assert timed.asked == []


def test_bf16_needs_a_cpu_that_has_it_and_weights_that_bear_it(timed: Timed, monkeypatch: pytest.MonkeyPatch) -> None:
    card, digest = read_header(Path(NAME))
    assert candidates(Path(NAME), card, digest) == [ONNX, EAGER, EAGER_BF16]
    assert candidates(Path(NAME), card, "of others") == [ONNX, EAGER], "the record is of other weights"
    file = bundled()[NAME].file
    for lost, expected in ((0.005, [ONNX, EAGER, EAGER_BF16]), (0.006, [ONNX, EAGER]), (True, [ONNX, EAGER])):
        measured_card = replace(card, metrics={"map_lost": {"bf16": lost}})
        assert candidates(file, measured_card, digest) == expected
    assert map_lost(file, replace(card, metrics={"map_lost": "none"}), digest) == {}
    assert candidates(file, card, digest) == [ONNX, EAGER], "nobody has measured it"
    monkeypatch.setattr(contest_module, "processor", lambda: ("a CPU", frozenset({"avx2"})))
    assert candidates(Path(NAME), card, digest) == [ONNX, EAGER]


@pytest.mark.usefixtures("shelf")
def test_the_manifest_says_what_bundled_weights_lose() -> None:
    card, digest = read_header(Path(NAME))
    assert map_lost(Path(NAME), card, digest) == {"bf16": 0.002}
    assert map_lost(Path(NAME), card, "of others") == {}


@pytest.mark.parametrize("name", sorted(bundled()))
def test_what_the_manifest_says_is_of_the_files_beside_it(name: str) -> None:
    weights = bundled()[name]
    assert bool(weights.map_lost) == (weights.lost_by is not None)
    assert weights.lost_by in (None, read_header(weights.file)[1])


@pytest.mark.parametrize(
    "content",
    [
        b"", b"\xff\xfe{", b"[]", b'{"format": 2, "choices": {}}', b'{"format": 1, "choices": []}',
        b'{"format": 1, "choices": {"k": ["onnx"]}}', b'{"format": 1, "choices": {"k": {}}}',
        b'{"format": 1, "choices": {"k": {"onnx fp32": "fast"}}}',
        b'{"format": 1, "choices": {"k": {"onnx fp32": -1.0}}}',
        b'{"format": 1, "choices": {"k": {"onnx fp32": NaN}}}', b'{"format": 1, "choices": {"k": {"tpu int4": 0.1}}}',
        b'{"format": 1, "choices": {"k": {"onnx fp32": null, "eager fp32": 0.1}}}',
        b'{"format": 1, "choices": {"k": {"onnx fp32": null, "eager fp32": 0.1, "boot": "another"}}}',
        b'{"format": 1, "choices": {"k": {"onnx fp32": null, "eager fp32": null}}}',
        b"[" * 100_000, b'{"format": 1, "choices": {"k": {"onnx fp32": 0.1}}}' + b" " * MOST_BYTES,
    ],
)  # fmt: skip
def test_a_broken_file_counts_as_nothing_and_is_written_anew(tmp_path: Path, content: bytes) -> None:
    (tmp_path / FILE).write_bytes(content)
    kept, choice = ChoiceFile(tmp_path), CandidateTimes(((ONNX, 0.02), (EAGER, 0.03)))
    assert kept.read("k", [ONNX, EAGER]) is None
    kept.keep("k", choice)
    assert kept.read("k", [ONNX, EAGER]) == choice
    assert kept.read("k", [ONNX]) is None, "one of them may not run any more"
    assert os.listdir(tmp_path) == [FILE]


def test_a_pipe_in_its_place_counts_as_nothing(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / FILE)
    kept, choice = ChoiceFile(tmp_path), CandidateTimes(((ONNX, 0.02),))
    assert kept.read("k", [ONNX]) is None
    kept.keep("k", choice)
    assert kept.read("k", [ONNX]) == choice


def test_it_keeps_the_newest(tmp_path: Path) -> None:
    kept, choice = ChoiceFile(tmp_path), CandidateTimes(((ONNX, 0.02),))
    for number in range(MOST_CHOICES + 3):
        kept.keep(str(number), choice)
    assert len(json.loads((tmp_path / FILE).read_text())["choices"]) == MOST_CHOICES
    assert kept.read("2", [ONNX]) is None
    assert kept.read("3", [ONNX]) == kept.read(str(MOST_CHOICES + 2), [ONNX]) == choice


def test_a_folder_that_cannot_be_is_lived_without(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    kept = ChoiceFile(tmp_path / "file")
    kept.keep("k", CandidateTimes(((ONNX, 0.02),)))
    assert kept.read("k", [ONNX]) is None


def test_a_trial_runs_in_a_process_of_its_own() -> None:
    patience_s = 250  # of a busy machine
    seconds = measured(Trial(NAME, None, "onnx", "fp32", 1), patience_s)
    assert seconds is not None
    assert seconds > 0
    assert measured(Trial(NAME, None, "onnx", "bf16", 1), patience_s) is None, "refused there"


def test_a_program_that_has_python_in_it_can_try_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", None)
    assert measured(Trial(NAME, None, "onnx", "fp32", 1)) is None
