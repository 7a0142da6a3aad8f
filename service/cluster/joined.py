"""What all replicas measure, at one address: the same series, each with the replica that it is of."""

from __future__ import annotations

from collections.abc import Mapping

UNANSWERED = "stmixer_replicas_unanswered"


def joined_metrics(scraped: Mapping[str, str], unanswered: int) -> str:
    """One text in Prometheus' form, each family once. ``scraped``: the text of each replica's, by its name;
    ``unanswered``: how many replicas have not said theirs."""
    families: dict[str, list[str]] = {}
    heads: dict[str, dict[str, str]] = {}
    for replica, text in sorted(scraped.items()):
        label = f'replica="{replica}"'
        family = ""
        for line in text.splitlines():
            if line.startswith("# "):
                _, kind, family, *_ = line.split(" ", 3)
                heads.setdefault(family, {}).setdefault(kind, line)
                families.setdefault(family, [])
            elif line:
                families.setdefault(family, []).append(_labelled(line, label))
    lines = [line for family, series in families.items() for line in (*heads.get(family, {}).values(), *series)]
    lines += [
        f"# HELP {UNANSWERED} Replicas whose part of this answer is missing.", f"# TYPE {UNANSWERED} gauge",
        f"{UNANSWERED} {unanswered}.0",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def _labelled(line: str, label: str) -> str:
    """A sample's line with one label more, the first: a value of another may hold any character."""
    name, brace, rest = line.partition("{")
    if brace and " " not in name:
        return f"{name}{{{label},{rest}"
    name, _, value = line.partition(" ")
    return f"{name}{{{label}}} {value}"
