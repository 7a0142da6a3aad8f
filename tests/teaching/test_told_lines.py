"""What a lesson tells, line by line: phases, time left, notes, last words; and lines that are none."""

from __future__ import annotations

import json

import pytest

from stmixer.service.teach_schemas import TeachFigures
from stmixer.service.teaching.told import MOST_NOTES, MOST_WORDS, Told


def heard(*lines: dict[str, object]) -> Told:
    told = Told("/home/me/teach/")
    for line in lines:
        told.take(json.dumps(line).encode())
    return told


def test_phases_as_they_come() -> None:
    told = heard(
        {"state": "start", "phase": "look", "says": "reading the clips"},
        {"state": "end", "phase": "look", "says": "6 clips of fall, walk"},
        {"state": "start", "phase": "learn", "says": "learning"},
        {"state": "progress", "phase": "learn", "done": 3, "total": 10, "left_s": 12.5, "says": ""},
    )
    look, learn = told.phases
    assert (look.phase, look.running, look.came) == ("look", False, "6 clips of fall, walk")
    assert (learn.running, learn.done, learn.total, learn.left_s, learn.came) == (True, 3, 10, 12.5, "")


def test_a_phase_that_another_one_ends_with() -> None:
    """As `Teller.next` has it: the one before says no end of its own."""
    told = heard({"state": "start", "phase": "features"}, {"state": "start", "phase": "learn"})
    assert [phase.running for phase in told.phases] == [False, True]


def test_paths_are_left_out_of_words() -> None:
    told = heard({"state": "note", "says": "/home/me/teach/clips/wave/3.mp4 is left out:\n  nobody was found in it"})
    assert told.notes == ["clips/wave/3.mp4 is left out: nobody was found in it"]


def test_last_words_are_the_last() -> None:
    figures = {"mean_ap": None, "recall": 1, "false_people": 0.5, "keyframes": 4, "named": None}
    told = heard(
        {"state": "start", "phase": "write"}, {"state": "done", "figures": figures, "next": "stmixer serve"},
        {"state": "failed", "says": "later"}, {"state": "start", "phase": "look"},
    )  # fmt: skip
    assert told.end is not None
    assert (told.end.state, told.end.figures) == ("done", TeachFigures(**figures))  # type: ignore[arg-type]
    assert [phase.running for phase in told.phases] == [False]


@pytest.mark.parametrize(
    "line",
    [
        b"Epoch 1: 100%", b"{", b"[]", b'{"state": "dancing"}', b'{"state": "progress", "done": -1}',
        b'{"state": "progress", "left_s": NaN}', b'{"state": "note", "says": 3}', b"\xff\xfe",
        b'{"state": "done", "figures": {"recall": "high"}}',
    ],
)  # fmt: skip
def test_what_is_no_line_is_passed_over(line: bytes) -> None:
    told = heard({"state": "start", "phase": "look"})
    told.take(line)
    assert (len(told.phases), told.notes, told.end) == (1, [], None)


def test_it_is_bounded() -> None:
    told = heard(
        *({"state": "note", "says": "x" * 5000} for _ in range(MOST_NOTES + 5)),
        *({"state": "start", "phase": "p"} for _ in range(1000)),
    )
    assert [len(note) for note in told.notes] == [MOST_WORDS] * MOST_NOTES
    assert len(told.phases) == 20
