"""docs/security.md's table of ASVS: what is met points at tests that there are."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TEST = re.compile(r"`(tests/[\w/]+\.py)::(test_\w+)`")


def rows(text: str) -> list[tuple[str, str, str]]:
    """Section, whether it is met, and the rest, of each row of the table of ASVS."""
    _, _, after = text.partition("## ASVS")
    cells = [line.strip("|").split("|") for line in after.splitlines() if line.startswith("| V")]
    return [(section.strip(), met.strip(), why.strip()) for section, met, why in cells]


def faults(text: str) -> list[str]:
    """What is wrong with it."""
    found = []
    for section, met, why in rows(text):
        tests = TEST.findall(why)
        if not re.fullmatch(r"(not )?met(, .+)?", met):
            found.append(f"{section}: {met!r} is no verdict")
        if met.startswith("met") and not tests:
            found.append(f"{section}: met, and no test says so")
        for file, name in tests:
            path = ROOT / file
            if not path.is_file() or not re.search(rf"^(async )?def {name}\(", path.read_text(), re.MULTILINE):
                found.append(f"{section}: there is no {file}::{name}")
    return found


def test_every_row_that_is_met_names_tests_that_there_are() -> None:
    text = (ROOT / "docs" / "security.md").read_text()
    assert len(rows(text)) > 20
    assert faults(text) == []


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        ("| V1 one | met | because |", "V1 one: met, and no test says so"),
        ("| V1 one | partly | x |", "V1 one: 'partly' is no verdict"),
        (
            "| V1 one | met | `tests/test_lock.py::test_nothing` |",
            "V1 one: there is no tests/test_lock.py::test_nothing",
        ),
        ("| V1 one | not met | `tests/none.py::test_x` |", "V1 one: there is no tests/none.py::test_x"),
    ],
)
def test_a_fault_is_seen(row: str, fault: str) -> None:
    assert faults(f"## ASVS\n{row}\n") == [fault]
