"""`stmixer detect` over many things: where results go, what goes on after a bad file, what a second run does."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import logging
import re
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from posting import made_video
from rich.console import Console

from stmixer.media.annotated import drawn
from stmixer.media.errors import MediaError
from stmixer.service import cli
from stmixer.service.errors import InputError
from stmixer.service.offline.command import DetectCommand
from stmixer.service.offline.inputs import Input, inputs_of
from stmixer.service.offline.outputs import Table, check_outputs, form_of, videos_of, write_mot
from stmixer.service.offline.told import in_words
from stmixer.service.schemas import Action, Actor, DetectOptions, DetectResponse, FrameSize, Result, Summary, Timings
from stmixer.trainer.evaluators.ava_csv import read_detections

OPTIONS = DetectOptions(keyframe_hz=2, score_threshold=0.0, top_k=2)


@pytest.fixture(scope="module")
def runner(tiny_weights: Path) -> Any:
    import torch

    from stmixer.model.checkpoint import load
    from stmixer.model.runtimes.choose import torch_runtime
    from stmixer.service.worker.runner import Runner

    return Runner(torch_runtime(load(tiny_weights), torch.device("cpu")))


@contextlib.contextmanager
def no_bar(text: str, /, unit: str = "s") -> Iterator[Any]:
    yield lambda done, whole: None


class Run:
    """A command with what it said."""

    def __init__(
        self, runner: Any, given: Sequence[str | Path], *outputs: Path, options: DetectOptions = OPTIONS
    ) -> None:
        self.responses: dict[str, DetectResponse] = {}
        command = DetectCommand(
            runner, options, outputs, batch_size=1, explain=None, bar=no_bar, on_response=self._take,
        )  # fmt: skip
        self.failed = command.run(inputs_of([str(one) for one in given]))

    def _take(self, item: Input, response: DetectResponse) -> None:
        self.responses[item.name] = response


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A video of two seconds, one of half a second further down, a picture, and a file that is none."""
    here = tmp_path / "in"
    (here / "sub").mkdir(parents=True)
    (here / "long.mp4").write_bytes(made_video(128, 96, 61))
    (here / "sub" / "short.mp4").write_bytes(made_video(96, 128, 15))
    (here / "bad.mp4").write_text("no video")
    pixels = np.random.default_rng(0).integers(0, 255, (90, 120, 3), np.uint8)
    Image.fromarray(pixels).save(here / "still.png")
    return here


def test_a_bad_file_among_many_stops_nothing(runner: Any, folder: Path, tmp_path: Path) -> None:
    run = Run(runner, [folder], tmp_path / "all.csv", tmp_path / "all.jsonl", tmp_path / "out")
    ((item, error),) = run.failed
    assert (item.file_name, error.code) == ("bad.mp4", "unreadable")
    counts = {Path(name).name: len(response.keyframes) for name, response in run.responses.items()}
    assert counts == {"long.mp4": 5, "still.png": 1, "short.mp4": 1}
    assert sorted(str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*.*")) == [
        "long.mp4.json", "still.png.json", "sub/short.mp4.json",
    ]  # fmt: skip
    written = json.loads((tmp_path / "out" / "long.mp4.json").read_text())
    assert written == json.loads(run.responses[str(folder / "long.mp4")].model_dump_json()) | {
        "options": OPTIONS.model_dump()
    }

    lines = [json.loads(line) for line in (tmp_path / "all.jsonl").read_text().splitlines()]
    assert [Path(line.pop("source")).name for line in lines] == ["long.mp4"] * 5 + ["still.png", "short.mp4"]
    assert lines[:5] == written["keyframes"]

    with (tmp_path / "all.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    first = written["keyframes"][0]["actors"][0]
    assert rows[0] == {
        "source": str(folder / "long.mp4"), "seq": "0", "time_s": "0.0", "person": "0",
        "person_score": str(round(first["person_score"], 4)),
        **{key: str(round(v, 1)) for key, v in zip(("x1", "y1", "x2", "y2"), first["box_px"], strict=True)},
        "action_id": str(first["actions"][0]["id"]), "action": first["actions"][0]["name"],
        "action_score": str(round(first["actions"][0]["score"], 4)),
        "track_id": str(first["track_id"]), "action_smoothed": str(round(first["actions"][0]["smoothed"], 4)),
    }  # fmt: skip
    people = sum(len(k["actors"]) for k in written["keyframes"])
    assert sum(row["source"].endswith("long.mp4") for row in rows) == 2 * people, "a row an action, top_k of them"


def test_tables_of_other_peoples_forms(tmp_path: Path) -> None:
    keyframes = [result(0, WALK), result(1, (0.7, {}), WALK), result(2)]
    response = DetectResponse(
        model="m", trained=True, frame=FrameSize(width=100, height=100), keyframes=keyframes, summary=Summary(),
        warnings=[],
    )  # fmt: skip
    assert [form_of(Path(name)) for name in ("a.ava.csv", "a.csv", "a.b.csv", "a.mot.txt", "a.txt", "a")] == [
        ".ava.csv", ".csv", ".csv", ".mot.txt", ".txt", "",
    ]  # fmt: skip
    table = Table(tmp_path / "all.ava.csv", 2.0)
    table.add("clips/one.mp4", "one", response)
    table.close()
    corners = "0.1235,0.2000,0.3000,0.6000"
    assert (tmp_path / "all.ava.csv").read_text().splitlines() == [
        f"one,0000,{corners},0,0.8000", f"one,0000,{corners},1,0.1000",
        f"one,0000.500,{corners},0,0.8000", f"one,0000.500,{corners},1,0.1000",
    ]  # fmt: skip
    write_mot(tmp_path / "one.mot.txt", response)
    place = "10.0,20.1,20.0,39.9"
    assert (tmp_path / "one.mot.txt").read_text().splitlines() == [
        f"1,1,{place},0.9000,-1,-1,-1", f"2,1,{place},0.7000,-1,-1,-1", f"2,2,{place},0.9000,-1,-1,-1",
    ]  # fmt: skip


def at(*seconds: float) -> DetectResponse:
    """A person who walks at those times, more surely in each keyframe than in the one before."""
    keyframes = [
        result(k, (0.9, {"walk": (k + 1) / 100})).model_copy(update={"pts_us": round(1e6 * s)})
        for k, s in enumerate(seconds)
    ]
    return DetectResponse(
        model="m", trained=True, frame=FrameSize(width=100, height=100), keyframes=keyframes, summary=Summary(),
        warnings=[],
    )  # fmt: skip


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        # the bundled model's grid, 16/15 s: at second 8 two are as near, 7.467 and 8.533
        (
            [k * 16 / 15 for k in range(11)],
            [*((n, n + 1) for n in range(8)), (8, 8), (9, 9), (10, 10), (11, 11)],
        ),
        ([6.4, 7.45, 8.55], [(6, 1), (7, 2), (8, 2), (9, 3)]),
        ([0.0, 0.96, 1.92, 2.88], [(0, 1), (1, 2), (2, 3), (3, 4)]),
        ([0.0, 0.6, 1.2, 2.4], [(0, 1), (1, 3), (2, 4)]),
        ([0.0, 1.0, 2.0, 9.0, 10.0], [(0, 1), (1, 2), (2, 3), (9, 4), (10, 5)]),
        ([0.0], [(0, 1)]),
        ([], []),
    ],
)  # fmt: skip
def test_at_one_a_second_avas_table_has_whole_seconds_and_its_evaluators_read_it(
    tmp_path: Path, seconds: list[float], expected: list[tuple[int, int]]
) -> None:
    table = Table(tmp_path / "all.ava.csv", 1.0)
    table.add("one.mp4", "one", at(*seconds))
    table.close()
    read = read_detections(tmp_path / "all.ava.csv")
    assert list(zip(read.frame.tolist(), (100 * read.score).round().tolist(), strict=True)) == expected


def test_videos_of_one_name_stay_two_in_avas_table(folder: Path) -> None:
    def names(*given: str) -> list[str]:
        return list(videos_of(inputs_of([str(folder), *given])).values())

    assert names() == ["bad", "long", "still", "short"]
    (folder / "sub" / "long.mp4").touch()
    (folder / "bad.avi").touch()
    (folder / "sub" / "bad.mp4").touch()
    assert names("http://h/sub/long.mp4?k=1") == [
        "bad.avi", "bad.mp4", "long", "still", "sub/bad", "sub/long", "short", "h/sub/long.mp4",
    ]  # fmt: skip


def test_what_is_written_goes_by_the_names_end(runner: Any, folder: Path, tmp_path: Path) -> None:
    run = Run(runner, [folder / "long.mp4"], tmp_path / "x.ava.csv", tmp_path / "x.mot.txt")
    (response,) = run.responses.values()
    people = sum(len(result.actors) for result in response.keyframes)
    assert people
    assert len((tmp_path / "x.mot.txt").read_text().splitlines()) == people
    assert len((tmp_path / "x.ava.csv").read_text().splitlines()) == 2 * people, "two actions each"
    with pytest.raises(InputError, match=r"\.mot\.txt"):
        check_outputs([tmp_path / "x.txt"], inputs_of([str(folder / "long.mp4")]))
    with pytest.raises(InputError, match="holds the results of one"):
        check_outputs([tmp_path / "x.mot.txt"], inputs_of([str(folder)]))


def test_avas_table_of_a_folder_at_the_default_rate(runner: Any, folder: Path, tmp_path: Path) -> None:
    (folder / "sub" / "long.avi").write_bytes((folder / "long.mp4").read_bytes())
    options = OPTIONS.model_copy(update={"keyframe_hz": DetectOptions().keyframe_hz})
    run = Run(runner, [folder], tmp_path / "all.ava.csv", options=options)
    assert all(response.keyframes for response in run.responses.values())
    read = read_detections(tmp_path / "all.ava.csv")
    assert set(zip(read.video.tolist(), read.frame.tolist(), strict=True)) == {
        ("long", 0), ("long", 1), ("long", 2), ("sub/long", 0), ("sub/long", 1), ("sub/long", 2),
        ("still", 0), ("short", 0),
    }  # fmt: skip


def test_a_second_run_does_what_the_first_did_not(runner: Any, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    Run(runner, [folder], out)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.json")}
    (folder / "bad.mp4").write_bytes(made_video(128, 96, 8))
    (out / "still.png.json").unlink()
    run = Run(runner, [folder], out)
    assert {Path(name).name for name in run.responses} == {"bad.mp4", "still.png"}
    assert not run.failed
    assert {p: p.stat().st_mtime_ns for p in before if p.name != "still.png.json"} == {
        p: t for p, t in before.items() if p.name != "still.png.json"
    }
    assert (out / "bad.mp4.json").is_file()
    assert not list(out.rglob("*.partial"))


@pytest.mark.parametrize("name", ["all.csv", "all.ava.csv", "all.jsonl"])
def test_a_table_of_a_second_run_has_what_the_first_found(runner: Any, folder: Path, tmp_path: Path, name: str) -> None:
    """README's own command, given twice."""
    out, table = tmp_path / "out", tmp_path / name
    Run(runner, [folder], out, table)
    first = table.read_text()
    assert first
    run = Run(runner, [folder], out, table)
    assert list(run.responses) == []
    assert table.read_text() == first
    (out / "still.png.json").write_text('{"model": "tiny"}')
    run = Run(runner, [folder], out, table)
    assert [(item.file_name, error.code) for item, error in run.failed] == [
        ("bad.mp4", "unreadable"), ("still.png", "unreadable"),
    ]  # fmt: skip
    assert "still.png.json holds no results; delete it" in str(run.failed[1][1])


def test_results_of_another_model_or_by_other_options_are_made_anew(
    runner: Any, folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (folder / "bad.mp4").unlink()
    out, table = tmp_path / "out", tmp_path / "all.csv"
    Run(runner, [folder], out, table)
    others = OPTIONS.model_copy(update={"keyframe_hz": 1.0})
    run = Run(runner, [folder], out, table, options=others)
    assert len(run.responses) == 3
    assert "3 have results of another model or by other options" in caplog.text
    alone = tmp_path / "alone.csv"
    Run(runner, [folder], alone, options=others)
    assert table.read_text() == alone.read_text()
    assert Run(runner, [folder], out, table, options=others.model_copy(update={"model": "tiny"})).responses == {}

    for name, change in (("still.png", {"model": "another"}), ("long.mp4", {"options": None})):
        file = out / f"{name}.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | change))
    run = Run(runner, [folder], out, options=others)
    assert {Path(name).name for name in run.responses} == {"still.png"}, "options are not asked of older files"
    assert Run(runner, [folder], out, table, options=others).responses == {}
    assert table.read_text() == alone.read_text()


def test_a_single_bad_file_is_an_error(runner: Any, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="cannot be read as a video"):
        Run(runner, [folder / "bad.mp4"], tmp_path / "x.json")
    assert not (tmp_path / "x.json").exists()


def test_a_picture_is_a_video_of_one_frame_and_is_drawn_upon(runner: Any, folder: Path, tmp_path: Path) -> None:
    target = tmp_path / "drawn.png"
    run = Run(runner, [folder / "still.png"], target)
    (response,) = run.responses.values()
    assert (response.frame.width, response.frame.height) == (120, 90)
    (keyframe,) = response.keyframes
    assert keyframe.pts_us == 0
    assert keyframe.actors
    before, after = np.array(Image.open(folder / "still.png")), np.array(Image.open(target))
    assert before.shape == after.shape
    assert (before != after).any()


@pytest.mark.parametrize(("content", "said"), [(b"no picture", "is no picture"), (b"", "is no picture")])
def test_what_is_no_picture(runner: Any, tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "x.jpg").write_bytes(content)
    with pytest.raises(MediaError, match=said):
        Run(runner, [tmp_path / "x.jpg"])


def test_a_picture_that_is_cut_off(runner: Any, folder: Path, tmp_path: Path) -> None:
    whole = (folder / "still.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(MediaError, match="cannot be read as a picture"):
        Run(runner, [tmp_path / "cut.png"])


class Quiet(SimpleHTTPRequestHandler):
    """A file server that says nothing."""

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def address(folder: Path) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=folder))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_an_address_gives_what_its_file_gives(runner: Any, folder: Path, address: str) -> None:
    def found(of: Any) -> Any:
        (response,) = Run(runner, [of]).responses.values()
        return [(k.pts_us, k.actors) for k in response.keyframes]

    assert found(f"{address}/sub/short.mp4") == found(folder / "sub" / "short.mp4")


@pytest.mark.parametrize(
    ("place", "said"), [("/none.mp4", "answered with 404 File not found"), ("", "cannot be fetched")]
)
def test_an_address_that_gives_nothing(runner: Any, address: str, place: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        Run(runner, [address + place if place else "http://127.0.0.1:1/x.mp4"])


@pytest.mark.parametrize("place", ["/sub/short.mp4", "/none.mp4"])
def test_an_addresss_password_is_told_nobody(
    runner: Any, address: str, place: str, caplog: pytest.LogCaptureFixture
) -> None:
    """By no line of a log, a fetch that succeeds included, and by no error."""
    secret = address.replace("://", "://me:hunter2@") + place
    caplog.set_level(logging.INFO)
    said = ""
    try:
        Run(runner, [secret])
    except InputError as error:
        said = str(error)
    assert ("404" in said) == (place == "/none.mp4")
    assert "hunter2" not in said + caplog.text


# -- results in words, tables and other people's types


def result(seq: int, *actors: tuple[float, dict[str, float]], smoothed: float = 0.5) -> Result:
    """``smoothed``: as a share of the keyframe's own score."""
    people = tuple(
        Actor(
            (10.04, 20.06, 30.0, 60.0), (0.12345678, 0.2, 0.3, 0.6), score,
            tuple(Action(n, name, value, value * smoothed) for n, (name, value) in enumerate(actions.items())), number,
        )
        for number, (score, actions) in enumerate(actors, start=1)
    )  # fmt: skip
    timings = Timings(lookahead=0, decode=0, queue=0, inference=0, postprocess=0)
    return Result(
        seq=seq, pts_us=seq * 500_000, received_at_us=0, sent_at_us=0, warming=False, timings_ms=timings,
        dropped_since_last=0, frame=FrameSize(width=100, height=100), actors=people,
    )  # fmt: skip


WALK, FALL, UNSURE = (0.9, {"walk": 0.8, "fall": 0.1}), (0.9, {"fall": 0.7}), (0.7, {"walk": 0.4})


def test_on_a_terminal_a_bar_says_how_far_it_is_and_how_long_it_will_take(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = io.StringIO()
    monkeypatch.setattr(cli, "console", Console(file=terminal, force_terminal=True, width=100))
    with cli._progress("1/2 walk.mp4") as advance:
        advance(3.0, 6.0)
    shown = re.sub(r"\x1b\[[\d;?]*\w", "", terminal.getvalue())
    assert re.search(r"1/2 walk\.mp4 ━+[╺╸]?━* 3\.0 s \d:\d\d:\d\d (-:--:--|\d:\d\d:\d\d)", shown), shown
    with cli._progress("fetching walk.mp4", "MiB") as advance:
        advance(40.0, 80.0)
    assert "40.0 MiB" in terminal.getvalue()


def test_results_in_words() -> None:
    assert in_words([]) == ["nobody"]
    assert in_words([result(0), result(1)]) == ["nobody"]
    told = [WALK], [WALK, WALK], [], [WALK, FALL], [], [], [FALL], [UNSURE]
    assert in_words([result(k, *actors, smoothed=1) for k, actors in enumerate(told)]) == [
        "person 1: walk 0:00–0:01; fall 0:03",
        "person 2: fall 0:01; walk 0:00",
    ]
    assert in_words([result(7300, WALK, smoothed=1)]) == ["person 1: walk 1:00:50"]
    assert in_words([result(2, UNSURE), result(4, UNSURE)]) == ["person 1: 0:01–0:02, nothing that it knows"]


def test_words_and_pictures_say_what_somebody_has_been_doing_not_one_keyframes_word() -> None:
    at_once, goes_on = result(0, WALK), result(1, UNSURE, smoothed=2)
    assert in_words([at_once]) == ["person 1: 0:00, nothing that it knows"]
    assert in_words([goes_on]) == ["person 1: walk 0:00"]
    assert [actor.labels for actor in drawn(at_once.actors)] == [[]]
    assert [actor.labels for actor in drawn(goes_on.actors)] == [[("walk", 0.8)]]
    scores = {"a": (0.9, 0.6), "b": (0.8, 0.7), "c": (0.7, 0.55), "d": (0.2, 0.9)}
    actions = tuple(Action(n, name, *both) for n, (name, both) in enumerate(scores.items()))
    actor = replace(goes_on.actors[0], actions=actions)
    assert drawn([actor])[0].labels == [("d", 0.9), ("b", 0.7), ("a", 0.6)]
    assert [action.name for action in actor.with_best(3).actions] == ["d", "b", "a"]
    assert replace(actions[0], smoothed=None).said == 0.9, "of results that somebody else has made"


def test_a_crowd_in_words() -> None:
    crowd = [UNSURE] * 10
    seen = result(0, WALK, FALL, *crowd, smoothed=1), result(2, *([WALK] * 13), smoothed=1)
    assert in_words(seen) == [
        "13 people",
        "walk: 0:00–0:01, up to 13 people",
        "fall: 0:00",
    ]


def test_results_as_plain_values() -> None:
    plain = result(3, (0.123456, {"walk": 0.654321})).to_dict()
    assert json.loads(json.dumps(plain)) == plain
    assert plain["actors"] == [
        {
            "box_px": [10.0, 20.1, 30.0, 60.0], "box": [0.1235, 0.2, 0.3, 0.6], "person_score": 0.1235,
            "actions": [{"id": 0, "name": "walk", "score": 0.6543, "smoothed": 0.3272}], "track_id": 1,
        }
    ]  # fmt: skip
    assert set(plain) == set(Result.model_fields) - {"capture_at_us"}, "no camera has told its clock"
    assert Result.model_validate(plain).actors[0].actions[0].name == "walk"


def test_results_as_rows() -> None:
    assert result(1, WALK, (0.6, {})).rows() == [
        (1, 0.5, 0, 0.9, 10.0, 20.1, 30.0, 60.0, 0, "walk", 0.8, 1, 0.4),
        (1, 0.5, 0, 0.9, 10.0, 20.1, 30.0, 60.0, 1, "fall", 0.1, 1, 0.05),
        (1, 0.5, 1, 0.6, 10.0, 20.1, 30.0, 60.0, None, None, None, 2, None),
    ]


def test_results_for_supervision(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a stand-in that takes what the package takes: it would bring another OpenCV over ours."""

    class Detections:
        def __init__(self, **given: Any) -> None:
            self.given = given

        @classmethod
        def empty(cls) -> Detections:
            return cls()

    monkeypatch.setitem(__import__("sys").modules, "supervision", type("module", (), {"Detections": Detections}))
    assert result(0).to_supervision().given == {}
    given = result(0, WALK, (0.6, {})).to_supervision().given
    assert given["xyxy"].shape == (2, 4)
    assert given["xyxy"].dtype == np.float32
    assert given["confidence"] == pytest.approx([0.9, 0.6])
    assert list(given["class_id"]) == [0, -1]
    assert list(given["tracker_id"]) == [1, 2]
    assert list(given["data"]["class_name"]) == ["walk", "person"]
    assert given["data"]["action_smoothed"] == pytest.approx([0.4, 0.0])
    for people in ([WALK, (0.6, {})], [WALK, WALK]):  # as many each: still a person's in one place
        actors = result(0, *people).actors
        actions = result(0, *people).to_supervision().given["data"]["actions"]
        assert actions.shape == (2,)
        assert list(actions) == [actor.actions for actor in actors]


@pytest.mark.parametrize(("module", "call"), [("supervision", "to_supervision"), ("pandas", "to_df")])
def test_what_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch, module: str, call: str) -> None:
    from stmixer.service.errors import StartError

    monkeypatch.setitem(__import__("sys").modules, module, None)
    response = DetectResponse(
        model="m", trained=True, frame=FrameSize(width=1, height=1), keyframes=[], summary=Summary(), warnings=[]
    )
    with pytest.raises(StartError, match=f"pip install {module}"):
        getattr(result(0, WALK) if call == "to_supervision" else response, call)()


def test_results_as_a_data_frame() -> None:
    pandas = pytest.importorskip("pandas")
    response = DetectResponse(
        model="m", trained=True, frame=FrameSize(width=1, height=1), keyframes=[result(0, WALK), result(1)],
        summary={}, warnings=[],
    )  # fmt: skip
    table = response.to_df()
    assert isinstance(table, pandas.DataFrame)
    assert list(table["action"]) == ["walk", "fall"]
    assert list(table.columns[:3]) == ["seq", "time_s", "person"]
