"""A day's results for people: one table a step, and the goals beside what was found."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from bench.gpu.day import Outcome
from bench.gpu.notes import Row

REHEARSED = "**A rehearsal on a CPU with small models: no figure here is a result.**"
MAX_CELL = 160
NOT_MEASURED = "not measured"
GOAL_MS, GOAL_CAMERAS = 5.0, 300


def markdown(outcomes: Sequence[Outcome], *, rehearsal: bool, whats: dict[str, str]) -> str:
    """All of it. ``whats``: what a step is about, by its name."""
    parts = ["# A day on a GPU\n", *([f"{REHEARSED}\n"] if rehearsal else [])]
    if not rehearsal:
        parts += ["## Goals\n", *(f"- {line}\n" for line in goals(outcomes))]
    steps = [{"step": o.step, "ended": o.ended, "seconds": o.seconds, "rows": len(o.rows)} for o in outcomes]
    parts += ["## Steps\n", table(steps)]
    for outcome in outcomes:
        if outcome.rows or outcome.said:
            parts.append(f"## {outcome.step}: {whats.get(outcome.step, '')}\n")
        if outcome.rows:
            parts.append(table(outcome.rows))
        if outcome.said:
            parts.append(f"It was {outcome.ended}; its last words:\n\n```text\n{outcome.said.strip()[-600:]}\n```\n")
    return "\n".join(parts)


def table(rows: Sequence[Row]) -> str:
    """Rows as Markdown, a column for each key that one of them has."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    lines = [columns, ["---"] * len(columns), *([cell(row.get(key)) for key in columns] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def cell(value: Any) -> str:
    """A value in a table: short, on one line, with nothing in it that ends a cell."""
    match value:
        case None:
            text = ""
        case float():
            text = f"{value:.4g}"
        case list() | tuple():
            text = ", ".join(map(str, value))
        case dict():
            text = ", ".join(f"{key} {number}" for key, number in value.items())
        case _:
            text = str(value)
    return " ".join(text.split()).replace("|", "/")[:MAX_CELL]


def goals(outcomes: Iterable[Outcome]) -> list[str]:
    """What was wanted beside what was found; ``NOT_MEASURED`` where it was not."""
    rows = {outcome.step: outcome.rows for outcome in outcomes}
    clips = [
        row["ms"]
        for row in rows.get("models.slowfast_r50", [])
        if row.get("precision") == "bf16" and row.get("batch") == 1 and "ms" in row
    ]
    found = [r for r in rows.get("cameras.stmixer-rt", []) if r.get("keyframe_hz") == 1.0 and "stopped_by" in r]
    fastest = f"{min(clips):g} ms" if clips else NOT_MEASURED
    borne = _borne(found[0]) if found else NOT_MEASURED
    return [
        f"`slowfast_r50`, one clip in bf16, at most {GOAL_MS:g} ms: {fastest}",
        f"{GOAL_CAMERAS} cameras of 720p15 at one keyframe a second with the bundled model: {borne}",
    ]


def _borne(row: Row) -> str:
    """How many cameras a search found, and what stopped them."""
    match row:
        case {"cameras": None}:
            return NOT_MEASURED
        case {"cameras": number, "stopped_by": None}:
            return f"at least {number}"
        case {"cameras": 0, "too_many": int(fewest)} if fewest > 1:
            return f"fewer than {fewest}, stopped by: {row['stopped_by']}"
    return f"{row['cameras']}, stopped by: {row['stopped_by']}"
