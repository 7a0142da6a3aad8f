"""`bench.fleet`: one machine as measured, streams that are never lost nor in two places, the same for the same seed."""

from __future__ import annotations

import json
import random
import xml.etree.ElementTree as ET
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

import bench.fleet
from bench.fleet import APART, RESULTS, Size, back_after, machine, plots, read, scenarios
from bench.fleet_tables import tables
from bench.line_plot import HEIGHT, WIDTH, Line, line_plot
from bench.one_machine import MAX_BATCH, MachineCosts, costs_of, knee_of, loads_of, run
from bench.overload import Counts
from bench.placed_streams import PAGE_BACKOFF_S, PAGE_BUSY_S, Fleet, PagePatience, Placing, PulledPatience

ROOT = Path(__file__).resolve().parents[1]
DOCUMENT = ROOT / "docs" / "scale.md"
FEW = 1200
COSTS = MachineCosts(cores=2, fps=10, keyframe_hz=1, batch_s=0.0, keyframe_s=0.1, turn_s=0.0, picture_cpu_s=0.0)


def found() -> dict[str, Any]:
    """The committed result."""
    return read("fleet")


@cache
def small(seed: int = 1) -> dict[str, list[dict[str, Any]]]:
    """All cases of a small fleet."""
    return scenarios(FEW, 9, 0.01, seed)


# -- what is committed


def test_the_simulated_knee_is_the_measured_one_within_15_percent() -> None:
    """Of the committed result, and of the program as it is now."""
    told, measured = found()["knee"], read("knee")
    assert told["believed"] is True
    assert told["apart"] <= APART == 0.15
    assert int(told["measured"]) == measured["knee"]
    assert told["apart"] == round(abs(told["simulated"] - told["measured"]) / told["measured"], 3)
    costs, knee, loads = machine(measured, found()["seed"])
    assert (knee.measured, knee.simulated, knee.apart) == (told["measured"], told["simulated"], told["apart"])
    assert max(costs.known_from) <= measured["knee"] / 2, "what it is compared with tells it nothing"
    assert [load.cameras for load in loads] == [load["cameras"] for load in found()["loads"]]


def test_the_document_says_what_was_found() -> None:
    text = DOCUMENT.read_text()
    for name, table in tables(found()).items():
        assert table in text, f"the table of {name}: python -m bench.fleet_tables bench/results/fleet.json"
    for source in found()["from"]:
        assert f"`{source}`" in text
        assert (RESULTS / source).is_file()


def test_the_pictures_are_those_of_the_program() -> None:
    """The one of a machine, which takes no time; the others are there."""
    measured = read("knee")
    costs, _, loads = machine(measured, found()["seed"])
    made = plots(measured, loads, small())
    assert costs.known_from
    assert (ROOT / "docs" / "images" / "fleet_knee.svg").read_text() == made["fleet_knee"]
    for name, text in made.items():
        assert (ROOT / "docs" / "images" / f"{name}.svg").is_file()
        assert f"images/{name}.svg" in DOCUMENT.read_text()
        ET.fromstring(text)


# -- one machine


def test_a_worker_that_has_time_loses_nothing_and_one_that_has_not_loses_the_rest() -> None:
    few, enough, twice = (run(COSTS, cameras, 100, 1) for cameras in (5, 10, 20))
    assert (few.due, few.ok_share) == (500, 1.0)
    assert enough.ok_share > 0.97
    assert twice.ok_share == pytest.approx(0.5, abs=0.02)
    assert few.p95_s < enough.p95_s < twice.p95_s


def knee_with(costs: MachineCosts) -> float:
    return knee_of({load.cameras: load.ok_share for load in loads_of(costs, 100, 1)})


def test_a_knee_lies_on_the_line_between_what_is_enough_and_what_is_not() -> None:
    assert knee_of({2: 1.0, 4: 0.9, 6: 0.96}) == pytest.approx(3.0)
    assert knee_of({1: 0.9}) == pytest.approx(0.5)
    with pytest.raises(ValueError, match="too much"):
        knee_of({1: 1.0, 2: 0.95})


def test_where_the_knee_of_a_machine_is() -> None:
    """A keyframe of a tenth of a second, one a second each: ten fit, and eleven lose one of eleven."""
    assert knee_with(COSTS) == pytest.approx(10.5, abs=0.3)
    assert knee_with(replace(COSTS, picture_cpu_s=0.01)) == pytest.approx(7, abs=0.4), "ten cameras take half of them"
    loads = loads_of(COSTS, 100, 1)
    assert [load.cameras for load in loads] == list(range(1, len(loads) + 1))
    assert loads[-1].ok_share <= 2 / 3 < loads[-2].ok_share


def test_what_lies_between_batches_counts() -> None:
    slow = replace(COSTS, keyframe_s=0.05, turn_s=0.05)
    assert run(slow, MAX_BATCH, 100, 1).ok_share > 0.99, "one batch of eight"
    assert knee_with(slow) < knee_with(replace(slow, turn_s=0.0)) - 2


def test_costs_are_read_from_few_cameras_alone() -> None:
    """Rows as a machine of known costs would give them; those near the knee are nonsense."""
    fixed_s, each_s, beside = 0.02, 0.1, 0.02

    def row(cameras: int) -> dict[str, Any]:
        slower = 2 / (2 - beside * cameras)
        return {
            "cameras": cameras, "cores": [{"api": 0.005 * cameras, "decoder": 0.01 * cameras}],
            "sender_cpu_s": [0.005 * cameras * 20], "size_met": [float(cameras)],
            "stages_ms": [{"preprocess": 0.0, "postprocess": 0.0, "queue": 5 + 7.0 * cameras,
                           "inference": 1000 * slower * (fixed_s + cameras * each_s)}],
        }  # fmt: skip

    report = {"cores": 2, "fps": 10, "seconds": 20, "keyframe_hz": 1, "rows": [row(n) for n in (1, 2, 4)]}
    report["rows"].append(row(9) | {"size_met": [1.0]})
    costs = costs_of(report, 4)
    assert costs.known_from == (1, 2, 4)
    assert (costs.batch_s, costs.keyframe_s) == (pytest.approx(fixed_s), pytest.approx(each_s))
    assert costs.picture_cpu_s == pytest.approx(beside / 10)
    assert costs.turn_s == pytest.approx(0.007)
    with pytest.raises(ValueError, match="two rows"):
        costs_of(report, 1)


def test_what_was_counted_between_two_looks() -> None:
    """Batches of one and of three: a keyframe is in one of three three times as often."""
    before = Counts({1: 2.0, 3: 0.0}, {"inference": 1.0})
    after = Counts({1: 3.0, 3: 1.0}, {"inference": 2.0, "queue": 0.4})
    assert after.since(before) == {
        "batch_size": 2.0, "size_met": 2.5, "stages_ms": {"inference": 250.0, "queue": 100.0},
    }  # fmt: skip


def test_a_knee_that_is_not_the_measured_one_ends_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured = read("knee")
    twice = [row | {"cameras": 2 * row["cameras"]} for row in measured["rows"]]  # the same costs, and twice the knee
    monkeypatch.setattr(bench.fleet, "read", lambda name: measured | {"rows": [*measured["rows"][:2], *twice[2:]]})
    app = typer.Typer()
    app.command()(bench.fleet.main)
    done = CliRunner().invoke(app, ["-o", str(tmp_path / "fleet.json")])
    assert done.exit_code == 1
    assert "is not computed" in done.output
    assert not (tmp_path / "fleet.json").exists()


# -- many machines


def test_the_same_seed_gives_the_same_and_another_one_another() -> None:
    first, again, other = (json.dumps(each) for each in (small(), scenarios(FEW, 9, 0.01, 1), small(2)))
    assert first == again
    assert first != other


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("placing", ["at random", "the emptier of two", "the emptiest"])
def test_no_stream_is_lost_or_in_two_places(placing: Placing, seed: int) -> None:
    """Whatever happens to machines, in any order."""
    chance = random.Random(seed)
    patience = PulledPatience if seed % 2 else PagePatience
    fleet = Fleet(20, 6, seed, start_s=0.2, learns_s=1.0, placing=placing, patience=patience)
    fleet.fill(60)
    for stream in range(60, 130):  # ten more than there is room for
        fleet.at(chance.uniform(0, 30), partial(fleet.arrive, stream))
    down = set[int]()
    for second in range(1, 60):
        fleet.run(second)
        fleet.check()
        number = chance.randrange(20)
        match chance.choice(("lose", "drain", "restore", "cut")):
            case "lose" if number not in down:
                fleet.lose([number])
                down.add(number)
            case "drain" if number not in down:
                fleet.drain(number)
                down.add(number)
            case "restore" if down:
                fleet.restore(down.pop())
            case "cut":
                fleet.cut_off(chance.sample(sorted(fleet.served), min(5, len(fleet.served))))
        fleet.check()
    for number in down:
        fleet.restore(number)
    fleet.run(400)
    fleet.check()
    assert (len(fleet.served), fleet.unserved) == (120, 10), "all room is taken in the end"


def test_a_stream_in_two_places_would_be_seen() -> None:
    fleet = Fleet(2, 3, 1, start_s=0.1)
    fleet.fill(4)
    fleet.check()
    fleet.machines[0].streams.add(1)
    with pytest.raises(AssertionError, match="stream 1 is in 2 places"):
        fleet.check()
    fleet.machines[0].streams.remove(1)
    fleet.machines[1].streams.remove(1)
    del fleet.served[1]
    with pytest.raises(AssertionError, match="a stream is lost"):
        fleet.check()


def test_a_client_waits_as_the_page_does() -> None:
    early, late = PagePatience(random.Random(1), 0.0), PagePatience(random.Random(1), 0.25)
    assert [early.wait_s(0, refused=False) for _ in range(6)] == [*PAGE_BACKOFF_S, PAGE_BACKOFF_S[-1]]
    assert early.wait_s(0, refused=True) == PAGE_BUSY_S
    assert all(0.75 * s <= late.wait_s(0, refused=False) <= s for s in PAGE_BACKOFF_S)
    assert PAGE_BUSY_S <= late.wait_s(0, refused=True) <= 1.25 * PAGE_BUSY_S
    late.succeeded()
    assert late.wait_s(0, refused=False) <= PAGE_BACKOFF_S[0]


def test_who_finds_room() -> None:
    """A machine that is known to be the emptiest refuses nobody while there is room; a blind choice does."""
    by_placing = {one["placing"]: one for one in small()["placing"]}
    assert by_placing["the emptiest"]["refusals"] == 0
    assert by_placing["the emptiest"]["fullest"] - by_placing["the emptiest"]["emptiest"] <= 1
    assert by_placing["at random"]["refusals"] > by_placing["the emptier of two"]["refusals"]


def test_a_lost_tenth_comes_back_where_there_is_room_for_it() -> None:
    crowded, tight, roomy = small()["loss"]
    assert (crowded["full_before_percent"], roomy["full_before_percent"]) == (95, 80)
    assert crowded["seconds_until_all"] is None
    assert crowded["unserved_percent_after_120_s"] == pytest.approx(5, abs=1.5), "what there is no room for"
    assert tight["unserved_percent_after_120_s"] < crowded["unserved_percent_after_120_s"]
    assert roomy["unserved_percent_after_120_s"] == 0
    assert 10 < roomy["seconds_until_99_percent"] <= roomy["seconds_until_all"]


def test_an_upgrade_moves_everybody_and_ends_with_all_of_them() -> None:
    for one in small()["upgrade"]:
        assert one["moves_of_a_stream"]["mean"] >= 1
        if one["at_once_percent"] < 20:  # of a quarter some still look for what is empty
            assert one["unserved_in_the_end"] == 0


def test_chance_takes_the_edge_off_a_herd() -> None:
    page, together, _ = small()["herd"]
    assert together["most_attempts_in_100_ms_once_reachable"] == FEW
    assert page["most_attempts_in_100_ms_once_reachable"] < FEW / 5


def test_when_all_are_back() -> None:
    curve = [(0.0, 0.0), (1.0, 9.0), (2.0, 0.5), (3.0, 0.0)]
    assert (back_after(curve, 1.0), back_after(curve, 0.0)) == (2.0, 3.0)
    assert back_after(curve[:2], 1.0) is None
    assert Size.of(1000, 10, 0.8) == Size(1000, 8, 157)


# -- pictures


def test_a_plot_shows_its_points_within_its_frame() -> None:
    text = line_plot("a < b", "x", "y", [Line("one", [(0, 0), (3, 7)]), Line("two", [(1, 2)], dots=True)])
    picture = ET.fromstring(text)
    space = "{http://www.w3.org/2000/svg}"
    (line,) = picture.iter(f"{space}polyline")
    points = [tuple(map(float, point.split(","))) for point in line.attrib["points"].split()]
    assert len(points) == 2
    assert all(0 < x < WIDTH and 0 < y < HEIGHT for x, y in points)
    assert points[0][0] < points[1][0]
    assert points[0][1] > points[1][1], "up is more"
    said = [part.text for part in picture.iter(f"{space}text")]
    assert {"a < b", "x", "y", "one", "two", "8", "4"} <= set(said), "axes end at a round number"
    assert len(list(picture.iter(f"{space}circle"))) == 2, "its point, and its mark"
