"""What the steps of `bench.gpu_day` make of what they see, without a GPU."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import tomllib
from collections.abc import Collection, Iterable
from importlib.metadata import packages_distributions, requires
from pathlib import Path
from typing import Any

import av
import pytest
import torch
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from bench.gpu import checks, wheels
from bench.gpu.cameras import judged, limit, outcome
from bench.gpu.checks import ORDER, collected, gpu_files, place
from bench.gpu.day import Outcome
from bench.gpu.decoding import brightness, decode, planes
from bench.gpu.films import make_film
from bench.gpu.launches import counted, placed
from bench.gpu.models import fastest, per_second
from bench.gpu.notes import Notes, read_rows, without_places
from bench.gpu.parity import filler, reference_clip
from bench.gpu.scene import GPU, REHEARSAL
from bench.gpu.search import Found, most_borne
from bench.gpu.table import REHEARSED, cell, goals, markdown, table
from bench.gpu.watch import means
from bench.gpu_day import MINUTES, plan, run_step, with_command

ROOT = Path(__file__).parents[1]


# -- the plan


def test_the_cheapest_comes_first_and_all_fits() -> None:
    steps = plan(GPU)
    names = [step.name for step in steps]
    assert names[:2] == ["environment", "checks"]
    assert names.index("models.vit_b") < names.index("parity") < names.index("cameras.stmixer-rt")
    assert [step.name for step in steps if step.rest] == names[-2:] == ["onnx.stmixer-rt", "compiled.slowfast_r50"]
    until_the_goal = itertools.takewhile(lambda step: step.name != "cameras.slowfast_r50", steps)
    assert sum(step.seconds for step in until_the_goal) <= 60 * MINUTES, "both goals are measured whatever is slow"
    assert [s.name.split(".")[0] for s in plan(REHEARSAL)] == list(dict.fromkeys(n.split(".")[0] for n in names))


def test_the_page_has_every_step_and_its_limit() -> None:
    rows = [line for line in (ROOT / "docs/gpu.md").read_text().splitlines() if line.startswith("| `")]
    for step in plan(GPU):
        kind = step.name.partition(".")[0]
        (row,) = [row for row in rows if f"`{step.name}`" in row.split("|")[1] or f"`{kind}.…`" in row.split("|")[1]]
        assert f"{step.seconds:g} s" in row.split("|")[3], step.name


def test_what_is_no_step_is_told(tmp_path: Path) -> None:
    with pytest.raises(Exception, match="dreams is no step"):
        run_step("dreams", Notes(tmp_path / "x", 1), REHEARSAL)


def test_a_day_is_what_is_meant_where_nothing_is_named() -> None:
    assert with_command([]) == ["run"]
    assert with_command(["--rehearse"]) == ["run", "--rehearse"]
    for named in (["run", "--rehearse"], ["step", "parity", "there", "1"]):
        assert with_command(named) == named
    asked = [sys.executable, "-m", "bench.gpu_day", "--rehearse", "--help"]
    done = subprocess.run(asked, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "--again" in done.stdout


# -- what is carried


def test_tree_and_wheels_can_be_carried() -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True, text=True).stdout
    files = [ROOT / name for name in listed.split("\0") if name]
    tracked = sum(path.stat().st_size for path in files if path.is_file() and not path.is_symlink())
    fetched = sum(path.stat().st_size for path in (ROOT / ".wheels").glob("*.whl"))
    assert fetched <= wheels.WHEELS_BYTES
    assert tracked + wheels.WHEELS_BYTES <= wheels.MAX_BYTES


def test_wheels_are_of_the_pinned_versions() -> None:
    pins = wheels.pinned()
    assert len(pins) == len(wheels.LACKING)
    assert [pin.partition("==")[0] for pin in pins] == list(wheels.LACKING)
    assert all(pin.partition("==")[2] for pin in pins)
    command = wheels.command(Path("there"))
    assert command[-len(pins) :] == pins
    assert "--no-deps" in command
    assert command[command.index("-d") + 1] == "there"


NAMED = ("torch", "torchvision", "timm", "opencv-python-headless", "pytest")
"""What docs/gpu.md says must be on such a machine."""
NOT_NEEDED = ("onnxruntime-gpu",)
"""Ours, and done without where it is not there: it is larger than all that may be carried."""


def closure(names: Iterable[str], besides: Collection[str] = ()) -> set[str]:
    """These packages and whatever they need, by what is installed here; without those ``besides``."""
    found: set[str] = set()
    todo = [Requirement(name) for name in names]
    while todo:
        asked = todo.pop()
        name = canonicalize_name(asked.name)
        if name in besides or name in found:
            continue
        found.add(name)
        needs = map(Requirement, requires(name) or [])
        todo += [need for need in needs if need.marker is None or need.marker.evaluate({"extra": ""})]
    return found


def test_what_the_page_names_and_what_is_carried_is_all_that_is_needed() -> None:
    page = (ROOT / "docs/gpu.md").read_text()
    there = page[page.index("On a Linux machine") :].partition("\n")[0]
    assert [name for name in ("PyTorch", "torchvision", "timm", "OpenCV", "pytest") if name not in there] == []
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = closure([*project["dependencies"], "psutil", "pytest-timeout"], NOT_NEEDED)
    assert wanted - closure(NAMED) - set(wheels.LACKING) == set()
    assert set(wheels.LACKING) <= wanted, "carried for nothing"


WITHOUT = """
import importlib, sys
from importlib.machinery import PathFinder
absent = set(sys.argv[1].split(","))
class Lacking(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in absent else super().find_spec(name, path, target)
sys.meta_path = [Lacking if finder is PathFinder else finder for finder in sys.meta_path]
for name in sys.argv[2:]:
    importlib.import_module(name)
"""


@pytest.mark.slow
def test_every_step_begins_with_what_is_named_and_carried() -> None:
    allowed = closure(NAMED) | set(wheels.LACKING) | {"stmixer"}
    absent = [
        module for module, owners in packages_distributions().items()
        if not any(canonicalize_name(owner) in allowed for owner in owners)
    ]  # fmt: skip
    assert "onnxruntime" in absent
    modules = [f"bench.gpu.{path.stem}" for path in (ROOT / "bench/gpu").glob("[a-z]*.py") if path.stem != "told"]
    tests = [f"tests.{'.'.join(Path(name).with_suffix('').parts[-2:])}" for name in gpu_files(ROOT)]
    assert len(tests) > 2
    modules += ["stmixer.service.cli", "conftest", "tests.model.conftest", *tests]
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, ",".join(absent), *modules],
        cwd=ROOT, env=os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]


# -- the tests on CUDA


@pytest.mark.slow
def test_every_gpu_test_has_a_place_and_every_place_a_test() -> None:
    tests = collected(ROOT, gpu_files(ROOT))
    assert len(tests) > 50
    assert [test for test in tests if place(test) == len(ORDER)] == []
    empty = [pattern for n, pattern in enumerate(ORDER) if n not in set(map(place, tests))]
    assert empty == []


def test_what_breaks_most_comes_first() -> None:
    of = "tests/model/test_runtimes.py::test_same_numbers_at_other_batches_and_sizes"
    tests = [
        f"{of}[rt_nano-cuda-compile-one]", f"{of}[vit_b-cuda-cudagraph-one]", f"{of}[rt_nano-cuda-eager-three]",
        "tests/service/test_gpu_service.py::test_the_same_people[cudagraph]",
        "tests/service/test_gpu_service.py::test_the_same_people[eager]",
    ]  # fmt: skip
    assert sorted(tests, key=place) == [tests[n] for n in (4, 3, 2, 1, 0)]


MADE = """
import os, time, pytest
def pid(): open({log!r}, "a").write(f"{{os.getpid()}} ")
def test_a(): pid()
def test_ends(): os._exit(9)
def test_broken():
    pid()
    raise RuntimeError("CUDA error: made")
def test_b(): pid()
def test_out(): pytest.skip("needs CUDA")
def test_hangs(): time.sleep(600)
def test_last(): pass
"""


def ran(tmp_path: Path, seconds: float, names: list[str], monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests/test_made.py").write_text(MADE.format(log=str(tmp_path / "pids")))
    notes = Notes(tmp_path / "checks.jsonl", seconds)
    checks.run(notes, [f"tests/test_made.py::test_{name}" for name in names], tmp_path)
    return {row["test"].partition("::")[2]: row["ended"] for row in read_rows(tmp_path / "checks.jsonl")}


@pytest.mark.slow
def test_a_test_that_ends_the_process_costs_no_other_its_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert ran(tmp_path, 200, ["a", "ends", "broken", "b", "out"], monkeypatch) == {
        "test_a": "passed", "test_ends": "took its process along (9)", "test_broken": "failed", "test_b": "passed",
        "test_out": "skipped",
    }  # fmt: skip
    first, broken, after = (tmp_path / "pids").read_text().split()
    assert len({first, broken, after}) == 3, "after CUDA broke, another process"


@pytest.mark.slow
def test_a_test_that_hangs_is_named_and_what_came_before_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran(tmp_path, 25, ["a", "hangs", "last"], monkeypatch)
    rows = read_rows(tmp_path / "checks.jsonl")
    assert [row["ended"] for row in rows] == ["passed", "hung", "no time"]


# -- cameras


@pytest.mark.parametrize(
    ("bears", "first", "most", "found", "tried"),
    [
        (300, 64, 1024, Found(288, 304), [64, 128, 256, 512, 384, 320, 288, 304]),
        (3, 8, 64, Found(3, 4), [8, 4, 2, 3]),
        (0, 4, 64, Found(0, 1), [4, 2, 1]),
        (999, 8, 20, Found(20, None), [8, 16, 20]),
    ],
)
def test_the_search(bears: int, first: int, most: int, found: Found, tried: list[int]) -> None:
    seen: list[int] = []

    def borne(number: int) -> bool:
        seen.append(number)
        return number <= bears

    assert most_borne(borne, first, most, lambda: True) == found
    assert seen == tried


def test_a_search_without_time_says_what_it_has() -> None:
    turns = iter([True, True, False])
    assert most_borne(lambda number: number < 10, 8, 64, lambda: next(turns)) == Found(8, 16)


def samples(ok: float, late: float, superseded: float) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    def key(name: str, **labels: str) -> tuple[str, tuple[tuple[str, str], ...]]:
        return f"stmixer_{name}", tuple(sorted(labels.items()))

    return {
        key("e2e_latency_seconds_count", source="pull"): ok,
        key("e2e_latency_seconds_bucket", source="pull", le="0.15"): ok - late,
        key("e2e_latency_seconds_count", source="ws"): 7 * ok,
        key("keyframes_total", source="pull", outcome="ok"): ok,
        key("keyframes_total", source="pull", outcome="superseded"): superseded,
        key("keyframes_total", source="pull", outcome="cancelled"): 50.0,
        key("keyframes_total", source="ws", outcome="superseded"): 9 * ok,
        key("stage_seconds_sum", stage="inference"): ok * 0.02,
        key("stage_seconds_count", stage="inference"): ok,
        key("inferences_total", worker="0"): ok,
        key("batches_total", worker="0"): ok / 4,
    }


@pytest.mark.parametrize(("late", "superseded", "borne"), [(5, 5, True), (6, 0, False), (0, 6, False)])
def test_what_is_borne_is_what_came_in_time_and_at_all(late: int, superseded: int, borne: bool) -> None:
    row = judged(samples(40, 30, 20), samples(140, 30 + late, 20 + superseded))
    assert (row["borne"], row["results"], row["within_150_ms"]) == (borne, 100, 1 - late / 100)
    assert row["ok_share"] == round(100 / (100 + superseded), 3)
    assert (row["stages_ms"], row["batch"]) == ({"inference": 20.0}, 4.0)


def test_nothing_is_not_borne() -> None:
    assert judged({}, {})["borne"] is False


@pytest.mark.parametrize(
    ("cores", "more", "expected"),
    [
        ({"decoder": 13.0, "api": 0.8, "worker": 0.9}, {}, "decode: all cores are busy"),
        ({"decoder": 4.0, "api": 0.97, "worker": 0.9}, {"gpu_busy": 0.9}, "Python: the API process fills its core"),
        ({"decoder": 4.0, "api": 0.5, "worker": 0.9}, {"gpu_busy": 0.95}, "GPU: it computes all the time"),
        ({"decoder": 4.0, "api": 0.5, "worker": 1.0}, {"gpu_busy": 0.3}, "launches: the worker fills its core"),
        (
            {"decoder": 4.0, "api": 0.5, "worker": 1.0},
            {"stages_ms": {"preprocess": 9.0, "inference": 4.0}},
            "copies: the worker fills its core",
        ),
        ({"decoder": 1.0, "api": 0.1, "worker": 0.2}, {}, "unclear"),
    ],
)
def test_the_limit_is_named(cores: dict[str, float], more: dict[str, object], expected: str) -> None:
    assert limit({"cores": cores, **more}, 16).startswith(expected)


# -- models, launches, graphs, decoding, parity


def test_the_fastest_way_is_that_of_a_clip_not_of_a_batch() -> None:
    rows = [
        {"runtime": "eager", "precision": "fp32", "batch": 1, "ms": 5.0},
        {"runtime": "cudagraph", "precision": "bf16", "batch": 8, "ms": 16.0},
        {"runtime": "onnx", "precision": "fp32", "refused": "no provider"},
    ]
    assert fastest(rows) == ("cudagraph", "bf16")
    assert per_second(rows) == 500.0
    assert (fastest(rows[2:]), per_second([])) == (None, 0.0)


def test_launches_are_counted_by_kind() -> None:
    events = [
        ("cudaLaunchKernel", 40), ("cudaLaunchKernelExC", 2), ("cuLaunchKernel", 3), ("cudaGraphLaunch", 2),
        ("Memcpy HtoD (Pageable -> Device)", 5), ("Memcpy DtoH (Device -> Pageable)", 4), ("aten::conv3d", 7),
        ("cudaStreamSynchronize", 6), ("void at::native::kernel", 99),
    ]  # fmt: skip
    assert counted(events) == {
        "launches": 45, "graph launches": 2, "copies to the GPU": 5, "copies from the GPU": 4, "waits": 6,
        "operators": 7,
    }  # fmt: skip


def test_operators_on_the_cpu_are_named() -> None:
    def ran_on(name: str, kind: str, provider: str) -> dict[str, object]:
        return {"cat": "Node", "name": name, "args": {"op_name": kind, "provider": provider}}

    events = [
        ran_on("a_kernel_time", "Conv", "CUDAExecutionProvider"),
        ran_on("b_kernel_time", "Shape", "CPUExecutionProvider"),
        ran_on("a_kernel_time", "Conv", "CUDAExecutionProvider"), {"cat": "Session", "name": "run", "args": {}},
        {"cat": "Node", "name": "fence", "args": {}},
    ]  # fmt: skip
    assert placed(events) == {"operators": {"CUDA": 1, "CPU": 1}, "on the CPU": {"Shape": 1}}


def test_a_film_is_as_long_as_said_and_decodes(tmp_path: Path) -> None:
    path = tmp_path / "film.mp4"
    assert make_film(path, 96, 64, 1.0, 3) == 45
    assert decode(path, threads=1) == 45
    with av.open(str(path)) as video:
        times = [frame.time for frame in video.decode(video=0)]
    assert times == pytest.approx([n / 15 for n in range(45)])
    with pytest.raises(RuntimeError, match="no stream is compatible"):
        decode(path, accelerated="vdpau")


def test_a_frame_is_a_tensor_where_it_lies(tmp_path: Path) -> None:
    make_film(tmp_path / "film.mp4", 96, 64, 1.0)
    with av.open(str(tmp_path / "film.mp4")) as video:
        frame = next(video.decode(video=0))
        luma, blue, red = planes(frame)
        expected = torch.from_numpy(frame.to_ndarray()[:64].copy())
        mean = brightness(frame)
        del frame
    assert [tuple(plane.shape) for plane in (luma, blue, red)] == [(64, 96), (32, 48), (32, 48)]
    assert torch.equal(luma, expected), "the tensor holds the frame"
    assert float(mean) == pytest.approx(float(expected.float().mean()))


def test_the_references_clip_is_padded_as_tests_pad_it() -> None:
    clip = reference_clip(filler(), 4, [(60, 40), (33, 64)])
    assert clip.shape == (2, 3, 4, 64, 64)
    assert bool(clip[0, ..., :40, :60].any())
    assert not clip[0, ..., 40:, :].any()
    assert not clip[1, ..., 33:].any()


def test_what_the_driver_tells_is_averaged() -> None:
    lines = ["10, 20, [N/A], 2048", "30, 20, [N/A], 2048", "", "broken"]
    assert means(lines) == {"gpu_busy": 0.2, "gpu_memory_busy": 0.2, "gpu_memory_gib": 2.0}


# -- what is written


def test_folders_of_the_machine_are_left_out() -> None:
    here = str(Path(os.sep, "root", "x", "a.py"))
    assert without_places({"said": [f"File {here}:3\n{here}"], "n": 1}) == {"said": ["File a.py:3\na.py"], "n": 1}
    for kept in ("http://127.0.0.1:8000/v1/detect", "tests/model/test_gpu.py::test_parity", "N/A", "frames/s"):
        assert without_places(kept) == kept


def test_rows_that_were_cut_off_cost_no_others(tmp_path: Path) -> None:
    notes = Notes(tmp_path / "x.jsonl", 0)
    notes.add(a=1)
    with (tmp_path / "x.jsonl").open("a") as file:
        file.write('{"a": ')
    assert read_rows(tmp_path / "x.jsonl") == [{"a": 1}]
    assert read_rows(tmp_path / "none.jsonl") == []
    assert notes.left_s() == 0
    assert notes.folder == tmp_path


def test_tables_have_a_column_for_each_key() -> None:
    assert table([{"a": 1, "b": 0.123456}, {"b": "x|y\nz", "c": {"k": 2}}]) == (
        "| a | b | c |\n| --- | --- | --- |\n| 1 | 0.1235 |  |\n|  | x/y z | k 2 |\n"
    )
    assert len(cell("x" * 1000)) < 200


OUTCOMES = [
    Outcome(
        "models.slowfast_r50", "done", 3.0,
        [
            {"precision": "bf16", "batch": 1, "ms": 4.2}, {"precision": "fp32", "batch": 1, "ms": 1.0},
            {"precision": "bf16", "batch": 8, "ms": 2.0},
        ],
        "",
    ),
    Outcome(
        "cameras.stmixer-rt", "killed", 9.0,
        [
            {"keyframe_hz": 1.0, "cameras": 64, "borne": True},
            {"keyframe_hz": 1.0, "cameras": 320, "stopped_by": "decode"},
        ],
        "last words",
    ),
]  # fmt: skip


def test_goals_stand_beside_what_was_found() -> None:
    text = markdown(OUTCOMES, rehearsal=False, whats={"models.slowfast_r50": "milliseconds"})
    assert "at most 5 ms: 4.2 ms" in text
    assert "300 cameras of 720p15 at one keyframe a second with the bundled model: 320, stopped by: decode" in text
    assert "It was killed; its last words:\n\n```text\nlast words\n```" in text
    assert REHEARSED not in text
    assert markdown([], rehearsal=False, whats={}).count("not measured") == 2


@pytest.mark.parametrize(
    ("found", "tried", "said"),
    [
        (Found(0, None), [], "not measured"),
        (Found(8, None), [{"borne": True}], "at least 8"),
        (Found(0, 64), [{"borne": False, "cores": {"api": 1.0}}],
         "fewer than 64, stopped by: Python: the API process fills its core"),
        (Found(0, 1), [{"borne": False, "cores": {"api": 1.0}}],
         "0, stopped by: Python: the API process fills its core"),
    ],
)  # fmt: skip
def test_what_a_search_without_time_came_to(found: Found, tried: list[dict[str, Any]], said: str) -> None:
    row = {"keyframe_hz": 1.0, **outcome(found, tried, 16)}
    assert row["cameras"] == (found.borne if tried else None)
    assert goals([Outcome("cameras.stmixer-rt", "done", 9.0, [row], "")])[1].endswith(f"the bundled model: {said}")


def test_a_rehearsal_says_that_it_is_one() -> None:
    text = markdown(OUTCOMES, rehearsal=True, whats={})
    assert REHEARSED in text
    assert "Goals" not in text
