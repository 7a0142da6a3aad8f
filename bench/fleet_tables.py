"""What `bench.fleet` found as the tables of docs/scale.md.

python -m bench.fleet_tables bench/results/fleet.json
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

Found = dict[str, Any]


def tables(found: Found) -> dict[str, str]:
    """By what they are about; Markdown."""
    return {
        "knee": knee(found), "per stream": per_stream(found), "placing": placing(found), "loss": loss(found),
        "upgrade": upgrade(found), "herd": herd(found),
    }  # fmt: skip


def _table(heads: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def _thousands(value: float) -> str:
    return f"{value:,.0f}".replace(",", " ")


def _seconds(value: float | None) -> str:
    return "never" if value is None else f"{value:g}"


def knee(found: Found) -> str:
    """Of one machine."""
    one, costs = found["knee"], found["machine"]
    what = f"{costs['cores']} cores, {costs['fps']:g} pictures and {costs['keyframe_hz']:g} keyframe a second"
    known = ", ".join(map(str, one["known_from"]))
    return _table(
        ("One machine", "Knee measured", "Knee simulated", "Apart", "Simulated from steps of"),
        [(what, one["measured"], one["simulated"], f"{100 * one['apart']:.1f} %", f"{known} cameras")],
    )


def per_stream(found: Found) -> str:
    """What a camera takes, and all of them."""
    each, streams = found["per_stream"], found["streams"]
    fleet = found["fleet"]

    def cores(value: float) -> tuple[str, str]:
        return f"{value:g} cores", f"{_thousands(value * streams)} cores"

    rows = [
        ("Keyframes", *cores(each["worker_cores"]), "`knee.json`"),
        ("Decoding, H.264 of 720p, 15 pictures a second", *cores(each["decoder_cores"]), "`decode_cpu.json`"),
        ("Network, in, JPEG as the benchmark's cameras", f"{each['network_mbit_s']:g} Mbit/s",
         f"{_thousands(each['network_mbit_s'] * streams / 1000)} Gbit/s", "`knee.json`"),
        ("The worker's memory: features, larger batches", f"{each['features_mb']:g} MB",
         f"{each['features_mb'] * streams / 1e6:.1f} TB", "`knee.json`"),
        ("Ring, 16:9", f"{each['ring_mb']:g} MB", f"{each['ring_mb'] * streams / 1e6:.1f} TB", "computed"),
        (f"Machines like the measured one, {fleet['room']} streams each, four fifths full", "–",
         _thousands(fleet["machines"]), "`fleet.json`"),
    ]  # fmt: skip
    return _table(("", "A camera", f"{_thousands(streams)} cameras", "From"), rows)


def placing(found: Found) -> str:
    """Who meets a full machine."""
    heads = ("A new stream goes to", "Attempts refused", "Without a place in the end", "Fullest and emptiest machine")
    rows = [
        (one["placing"], _thousands(one["refusals"]), _thousands(one["unserved_in_the_end"]),
         f"{one['fullest']} and {one['emptiest']}")
        for one in found["placing"]
    ]  # fmt: skip
    return _table(heads, rows)


def loss(found: Found) -> str:
    """A tenth of the machines is gone."""
    heads = ("Full before", "Machines lost", "99 % back after, s", "All back after, s", "Without after 120 s")
    rows = [
        (f"{one['full_before_percent']} %", f"{_thousands(one['lost'])} of {_thousands(one['machines'])}",
         _seconds(one["seconds_until_99_percent"]), _seconds(one["seconds_until_all"]),
         f"{one['unserved_percent_after_120_s']:.1f} %")
        for one in found["loss"]
    ]  # fmt: skip
    return _table(heads, rows)


def upgrade(found: Found) -> str:
    """One wave after the other."""
    heads = ("Machines at once", "A stream goes to", "Minutes", "Moves of one, mean and most", "Most without results")
    rows = [
        (f"{one['at_once_percent']:g} %", one["placing"], f"{one['seconds'] / 60:.0f}",
         f"{one['moves_of_a_stream']['mean']:g} and {one['moves_of_a_stream']['most']}",
         f"{one['most_unserved_percent']:.1f} %")
        for one in found["upgrade"]
    ]  # fmt: skip
    return _table(heads, rows)


def herd(found: Found) -> str:
    """All come back."""
    heads = ("Clients", "Most attempts in 100 ms", "… once they get through", "99 % served, s after that", "Refused")
    rows = [
        (one["clients"], _thousands(one["most_attempts_in_100_ms"]),
         _thousands(one["most_attempts_in_100_ms_once_reachable"]),
         _seconds(one["seconds_until_99_percent_once_reachable"]), _thousands(one["refusals"]))
        for one in found["herd"]
    ]  # fmt: skip
    return _table(heads, rows)


def main(result: Annotated[Path, typer.Argument(help="of bench.fleet")]) -> None:
    """Print them."""
    for name, text in tables(json.loads(result.read_text())).items():
        typer.echo(f"<!-- {name} -->\n{text}\n")


if __name__ == "__main__":
    typer.run(main)
