"""Which rules can be, and what is said of those that cannot; areas of the picture; the file of rules."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from stmixer.service.errors import InputError, StartError
from stmixer.service.event_schemas import Rule
from stmixer.service.events.rules import check_rules, read_rules
from stmixer.service.events.zone import foot, holds, overlap, why_no_area

LABELS = ("stand", "fall", "lie")
SQUARE = ((0.1, 0.1), (0.4, 0.1), (0.4, 0.4), (0.1, 0.4))


def test_a_point_is_in_an_area_or_not() -> None:
    bent = ((0.0, 0.0), (0.9, 0.0), (0.9, 0.9), (0.6, 0.9), (0.6, 0.3), (0.0, 0.3))
    for x, y, inside in ((0.1, 0.1, True), (0.7, 0.8, True), (0.3, 0.8, False), (0.95, 0.1, False), (0.1, 0.5, False)):
        assert holds(bent, (x, y)) is inside
        assert holds(bent[::-1], (x, y)) is inside
    assert foot((0.2, 0.1, 0.4, 0.7)) == (pytest.approx(0.3), 0.7)


def test_boxes_overlap() -> None:
    assert overlap((0, 0, 0.2, 0.2), (0.1, 0, 0.3, 0.2)) == pytest.approx(1 / 3)
    assert overlap((0, 0, 0.2, 0.2), (0.2, 0, 0.3, 0.2)) == 0
    assert overlap((0, 0, 0.2, 0.2), (0, 0, 0.2, 0.2)) == pytest.approx(1)
    assert overlap((0, 0, 0, 0), (0, 0, 0, 0)) == 0


@pytest.mark.parametrize(
    ("zone", "says"),
    [
        (SQUARE, None),
        (SQUARE[:3], None),
        ((), "an area has at least 3 corners, not 0"),
        (SQUARE[:2], "an area has at least 3 corners, not 2"),
        ((SQUARE[0], SQUARE[0], *SQUARE[1:]), "corner 1 stands there twice"),
        ((SQUARE[0], SQUARE[2], SQUARE[1], SQUARE[3]), "the edges from corner 1 and from corner 3 cross: give the"),
        (((0.1, 0.1), (0.5, 0.1), (0.3, 0.1)), "the edges from corner 1 and from corner 2 cross"),
        ((*SQUARE, (0.2, 0.1)), "the edges from corner 1 and from corner 4 cross"),
    ],
)
def test_corners_make_an_area_or_it_is_said_why_not(zone: tuple[tuple[float, float], ...], says: str | None) -> None:
    found = why_no_area(zone)
    assert found is None if says is None else found is not None and found.startswith(says)


@pytest.mark.parametrize(
    ("rules", "says"),
    [
        (
            [Rule(id="a", label="fal")],
            "rule 'a': the model knows no label 'fal'; did you mean 'fall'? it knows",
        ),
        ([Rule(id="a", label="dance")], "rule 'a': the model knows no label 'dance'; it knows fall, lie, stand"),
        ([Rule(id="a", person=True)] * 2, "rule 'a': two rules have this id: give each its own"),
        ([Rule(id="a", person=True, zone=SQUARE[:2])], "rule 'a': zone: an area has at least 3 corners, not 2"),
    ],
)
def test_what_cannot_be_is_told_of(rules: list[Rule], says: str) -> None:
    with pytest.raises(InputError) as raised:
        check_rules(rules, LABELS)
    assert raised.value.code == "bad_rule"
    assert str(raised.value).startswith(says)


def test_corners_are_bounded_in_all() -> None:
    """Checking 50 zones of 50 corners takes a sixth of a second of the event loop's."""
    line = tuple((n / 60, 0.1) for n in range(49))
    zones = [Rule(id=f"r{n}", person=True, zone=(*line, (0.5, 0.9))) for n in range(9)]
    check_rules(zones[:8])
    with pytest.raises(InputError, match="the zones of all rules have 450 corners together, at most 400"):
        check_rules(zones)


def test_labels_are_checked_once_they_are_known() -> None:
    check_rules([Rule(id="a", label="dance")])
    check_rules([Rule(id="a", label="fall"), Rule(id="b", person=True, zone=SQUARE)], LABELS)


@pytest.mark.parametrize(
    "wrong",
    [
        {}, {"label": "fall", "person": True}, {"person": False}, {"person": True, "id": "a/b"},
        {"person": True, "id": ""}, {"person": True, "min_score": 1.1}, {"person": True, "for_s": -1},
        {"person": True, "clear_s": 86_401}, {"person": True, "count": {"min": 0}}, {"person": True, "speed": 1},
        {"person": True, "zone": [[0, 0], [1, 0], [1, 1.2]]}, {"person": True, "clip": {"pre_s": 61}},
        {"person": True, "for_s": float("nan")},
    ],
)  # fmt: skip
def test_a_rule_has_bounds(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Rule.model_validate({"id": "a", **wrong})


def test_a_file_of_rules(tmp_path: Path) -> None:
    path = tmp_path / "rules.yaml"
    path.write_text("rules: [{id: fall, label: fall, for_s: 2, zone: [[0, 0], [1, 0], [1, 1]]}]")
    (rule,) = read_rules(path)
    assert (rule.label, rule.for_s, rule.zone) == ("fall", 2, ((0, 0), (1, 0), (1, 1)))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("rules: [", "line 1: this is no YAML"), ("", "file: Input should be"), ("rules: {}", "rules: Input should be"),
        ("rules: [{id: a}]", "rules.0: Value error, a rule has either label, an action, or person: true"),
        ("rules: [{id: a, person: true, 'x y': 1}]", "rules.0.?: Extra inputs are not permitted"),
        ("rules: [{id: a, person: true}, {id: a, person: true}]", "rule 'a': two rules have this id"),
        ("rules: " + "[" * 3000, "this is no YAML"),
        ("rules: [{id: a, person: true, zone: [[0, 0], [1, 1]]}]", "rule 'a': zone: an area has at least 3 corners"),
    ],
)  # fmt: skip
def test_a_broken_file_is_told_of(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "rules.yaml"
    path.write_text(text)
    with pytest.raises(StartError) as raised:
        read_rules(path)
    assert raised.value.code == "bad_rules"
    assert str(raised.value).startswith(f"--rules {path}: {says}")


def test_no_file_is_told_of_too(tmp_path: Path) -> None:
    with pytest.raises(StartError, match="No such file"):
        read_rules(tmp_path / "none.yaml")
