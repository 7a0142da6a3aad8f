"""A fleet of machines, simulated: where streams are placed, what a lost rack, an upgrade and a herd of clients do.

    python -m bench.fleet -o bench/results/fleet.json --plots docs/images

Nothing here was run on more than one machine. What one machine does is simulated first, from what `bench.overload`
measured at half of its knee and less (bench/results/knee.json), and has to have the measured knee within 15 %: else
nothing more is computed. Then streams are placed on many such machines (`bench.placed_streams`); their clients come
back as the page does, or as the service does to a camera. docs/scale.md says what came of it.
"""

from __future__ import annotations

import json
import math
import platform
import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from bench.line_plot import Line, line_plot
from bench.one_machine import Load, MachineCosts, costs_of, knee_of, loads_of
from bench.placed_streams import PAGE_JITTER, Fleet, PagePatience, Patience, Placing, PulledPatience
from stmixer.model.clip import window
from stmixer.model.zoo import variant
from stmixer.service.engine.admission import USABLE
from stmixer.service.ipc.ring import ring_shape

RESULTS = Path(__file__).parent / "results"
STREAMS = 100_000
APART = 0.15
"""By how much of it the simulated knee may be off the measured one."""
SEED = 1
FULL = 0.8
"""How full the fleet is where nothing else is said."""
LOST, SILENT_S = 0.1, 10.0
"""The part of the machines that is lost at once; how long a client waits for one that is gone without a word."""
RESTART_S = 40.0
"""Of a machine in an upgrade: the drain (20 s at most), and a start of 10 to 20 s."""
UNREACHABLE_S = 12.0
"""How long nobody gets through in a herd's case."""
DECODED = ("h264", "1280x720", 15)
"""What a camera sends, as decoders are measured (bench/results/decode_cpu.json): codec, size, pictures a second."""
CURVES = ("refused_percent", "unserved_percent", "attempts_in_100_ms")
"""What the plots show; the result has no need of it."""
SIZE_16_9 = 569, 320
"""The bundled model's input of a 16:9 picture, px."""


def read(name: str) -> dict[str, Any]:
    """A result of another bench."""
    found: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text())
    return found


@dataclass(frozen=True)
class Knee:
    """Of one machine, cameras, between whole numbers on a line. ``apart``: by what part of the measured one."""

    measured: float
    simulated: float
    known_from: tuple[int, ...]

    @property
    def apart(self) -> float:
        return round(abs(self.simulated - self.measured) / self.measured, 3)

    @property
    def believed(self) -> bool:
        return self.apart <= APART


def machine(report: dict[str, Any], seed: int) -> tuple[MachineCosts, Knee, list[Load]]:
    """One machine: its costs at little load, its knee beside the measured one, and what came of each load."""
    measured = knee_of({row["cameras"]: row["keyframes_ok_share"][0] for row in report["rows"]})
    costs = costs_of(report, int(measured / 2))
    loads = loads_of(costs, float(report["seconds"]), seed)  # for as long: what is too much by little takes its time
    simulated = knee_of({load.cameras: load.ok_share for load in loads})
    return costs, Knee(round(measured, 2), round(simulated, 2), costs.known_from), loads


# -- what a stream takes


@dataclass(frozen=True)
class PerStream:
    """Of one camera with a keyframe a second. Bytes are 10^6 where they are mega."""

    worker_cores: float
    decoder_cores: float
    network_mbit_s: float
    features_mb: float
    ring_mb: float


def per_stream(knee: dict[str, Any], decode: dict[str, Any]) -> PerStream:
    """From what was measured, but for the ring, whose size is computed as the service does."""
    rows = [row for row in knee["rows"] if row["cameras"] <= knee["knee"]]
    worker = [row["cores"][0]["worker"] / row["keyframes_per_s"][0] for row in rows]
    codec, size, fps = DECODED
    (decoded,) = [row for row in decode["rows"] if (row["codec"], row["size"]) == (codec, size)]
    cameras, resident = [row["cameras"] for row in rows], [row["rss_mib"][0]["worker"] for row in rows]
    features_mib, _ = np.polyfit(cameras, resident, 1)
    return PerStream(
        worker_cores=round(float(np.median(worker)) * knee["keyframe_hz"], 3),
        decoder_cores=round(fps / decoded["frames_per_s"], 3),
        network_mbit_s=round(knee["picture_bytes"] * 8 * knee["fps"] / 1e6, 2),
        features_mb=round(max(0.0, float(features_mib)) * 2**20 / 1e6, 1),
        ring_mb=round(ring_shape(window(variant("rt_nano").clip), *SIZE_16_9).total_bytes / 1e6, 1),
    )


# -- the fleet


@dataclass(frozen=True)
class Size:
    """``room``: streams that a machine admits; ``machines``: of which ``FULL`` are taken by all streams."""

    streams: int
    room: int
    machines: int

    @classmethod
    def of(cls, streams: int, knee: int, full: float = FULL) -> Size:
        """For so many streams on machines with that knee."""
        room = max(1, int(USABLE * knee))
        return cls(streams, room, math.ceil(streams / (room * full)))


def sampled(fleet: Fleet, until: float, step: float) -> list[tuple[float, float]]:
    """Run, and look at how many streams have no results, percent."""
    curve, streams = list[tuple[float, float]](), len(fleet.served) + fleet.unserved
    begin = fleet.now
    for number in range(round((until - begin) / step) + 1):
        fleet.run(begin + number * step)
        curve.append((round(number * step, 3), round(100 * fleet.unserved / streams, 3)))
    return curve


def back_after(curve: Sequence[tuple[float, float]], percent: float) -> float | None:
    """From when on no more than so many are without results; None where that does not come."""
    late = [moment for moment, away in curve if away > percent]
    after = [moment for moment, _ in curve if not late or moment > late[-1]]
    return after[0] if after else None


def placing(size: Size, start_s: float, seed: int, how: Placing) -> dict[str, Any]:
    """Streams come one after the other over an hour's sixth, until 95 % of all room is taken."""
    streams = int(0.95 * size.room * size.machines)
    fleet = Fleet(size.machines, size.room, seed, start_s=start_s, placing=how)
    for stream in range(streams):
        fleet.at(600.0 * stream / streams, partial(fleet.arrive, stream))
    curve, before = list[tuple[float, float]](), (0, 0)
    for part in range(1, 41):
        fleet.run(600.0 * part / 40)
        attempts, refusals = len(fleet.attempts) - before[0], fleet.refusals - before[1]
        before = len(fleet.attempts), fleet.refusals
        curve.append((round(95 * part / 40, 2), round(100 * refusals / max(1, attempts), 2)))
    fleet.check()
    taken = [m.taken for m in fleet.machines]
    return {
        "placing": how, "streams": streams, "refusals": fleet.refusals, "unserved_in_the_end": fleet.unserved,
        "fullest": max(taken), "emptiest": min(taken), "refused_percent": curve,
    }  # fmt: skip


def loss(streams: int, knee: int, start_s: float, seed: int, full: float) -> dict[str, Any]:
    """A tenth of the machines is gone at once, with no word; the others have to take their streams."""
    size = Size.of(streams, knee, full)
    fleet = Fleet(
        size.machines, size.room, seed, start_s=start_s, learns_s=SILENT_S, placing="the emptier of two"
    )  # fmt: skip
    fleet.fill(size.streams)
    fleet.lose(range(round(LOST * size.machines)))
    curve = sampled(fleet, 120.0, 0.5)
    fleet.check()
    return {
        "full_before_percent": round(100 * full), "machines": size.machines, "lost": round(LOST * size.machines),
        "seconds_until_99_percent": back_after(curve, 1.0), "seconds_until_all": back_after(curve, 0.0),
        "unserved_percent_after_120_s": curve[-1][1], "refusals": fleet.refusals, "unserved_percent": curve,
    }  # fmt: skip


def upgrade(size: Size, start_s: float, seed: int, at_once: float, how: Placing) -> dict[str, Any]:
    """Each machine drains, is away and comes back empty, so many at a time."""
    fleet = Fleet(size.machines, size.room, seed, start_s=start_s, placing=how)
    fleet.fill(size.streams)
    wave = max(1, round(at_once * size.machines))
    waves = [range(first, min(first + wave, size.machines)) for first in range(0, size.machines, wave)]
    pause_s = RESTART_S + 10
    for number, members in enumerate(waves):
        for member in members:
            fleet.at(number * pause_s, partial(fleet.drain, member))
            fleet.at(number * pause_s + RESTART_S, partial(fleet.restore, member))
    curve = sampled(fleet, len(waves) * pause_s + 30, 0.5)
    fleet.check()
    moves = [fleet.moves[stream] for stream in range(size.streams)]
    return {
        "placing": how, "at_once_percent": round(100 * at_once, 1), "seconds": len(waves) * pause_s,
        "moves_of_a_stream": {"mean": round(sum(moves) / len(moves), 2), "most": max(moves)},
        "refusals": fleet.refusals, "most_unserved_percent": max(away for _, away in curve),
        "unserved_in_the_end": fleet.unserved, "unserved_percent": [point for point in curve if point[0] <= 200],
    }  # fmt: skip


def herd(
    size: Size, start_s: float, seed: int, name: str, patience: Callable[[random.Random], Patience]
) -> dict[str, Any]:
    """Everybody is cut off at once, and nobody gets through for a while."""
    fleet = Fleet(
        size.machines, size.room, seed, start_s=start_s, placing="the emptier of two", patience=patience
    )  # fmt: skip
    fleet.fill(size.streams)
    fleet.reachable = False
    fleet.at(UNREACHABLE_S, lambda: setattr(fleet, "reachable", True))
    fleet.cut_off(range(size.streams))
    curve = sampled(fleet, 60.0, 0.1)
    fleet.check()
    edges = np.arange(0, 30.1, 0.1)
    attempts, _ = np.histogram(fleet.attempts, edges)
    arrived, _ = np.histogram([moment for moment in fleet.attempts if moment >= UNREACHABLE_S], edges)
    back_at = back_after(curve, 1.0)
    return {
        "clients": name, "attempts": len(fleet.attempts), "refusals": fleet.refusals,
        "most_attempts_in_100_ms": int(attempts.max()),
        "most_attempts_in_100_ms_once_reachable": int(arrived.max()),
        "seconds_until_99_percent_once_reachable": None if back_at is None else round(back_at - UNREACHABLE_S, 1),
        "attempts_in_100_ms": [(round(float(at), 1), int(n)) for at, n in zip(edges[:-1], attempts, strict=True)],
    }  # fmt: skip


def scenarios(streams: int, knee: int, start_s: float, seed: int) -> dict[str, list[dict[str, Any]]]:
    """All of them."""
    size = Size.of(streams, knee)
    ways: tuple[Placing, ...] = ("at random", "the emptier of two", "the emptiest")
    clients: dict[str, Callable[[random.Random], Patience]] = {
        "the page": PagePatience,
        "the page without jitter": partial(PagePatience, jitter=0.0),
        "the service, of its cameras": PulledPatience,
    }
    return {
        "placing": [placing(size, start_s, seed, how) for how in ways],
        "loss": [loss(streams, knee, start_s, seed, full) for full in (0.95, 0.9, FULL)],
        "upgrade": [
            upgrade(size, start_s, seed, part, how)
            for part, how in ((0.01, ways[1]), (0.1, ways[1]), (0.1, ways[2]), (0.25, ways[1]))
        ],
        "herd": [herd(size, start_s, seed, name, patience) for name, patience in clients.items()],
    }


# -- pictures


def plots(knee: dict[str, Any], loads: Sequence[Load], found: dict[str, list[dict[str, Any]]]) -> dict[str, str]:
    """By file name, without its ending."""
    measured = [(row["cameras"], 100 * row["keyframes_ok_share"][0]) for row in knee["rows"]]
    simulated = [(load.cameras, round(100 * load.ok_share, 2)) for load in loads]
    return {
        "fleet_knee": line_plot(
            "One machine: keyframes that came back", "cameras of a keyframe a second", "percent of those due",
            [Line("simulated", simulated), Line("measured", measured, dots=True)],
        ),
        "fleet_placing": line_plot(
            "Attempts that met a full machine", "percent of all room taken", "percent of attempts",
            [Line(one["placing"], one["refused_percent"]) for one in found["placing"]],
        ),
        "fleet_loss": line_plot(
            "A tenth of the machines is lost", "seconds", "percent of streams without results",
            [Line(f"{one['full_before_percent']} % full", one["unserved_percent"]) for one in found["loss"]],
        ),
        "fleet_upgrade": line_plot(
            "A rolling upgrade, its first waves", "seconds", "percent of streams without results",
            [Line(f"{one['at_once_percent']:g} % at once", one["unserved_percent"])
             for one in found["upgrade"] if one["placing"] != "the emptiest"],
        ),
        "fleet_herd": line_plot(
            f"All are cut off, and nobody gets through for {UNREACHABLE_S:g} s", "seconds", "attempts in 100 ms",
            [Line(one["clients"], one["attempts_in_100_ms"]) for one in found["herd"]],
        ),
    }  # fmt: skip


def without_curves(found: dict[str, list[dict[str, Any]]]) -> dict[str, list[dict[str, Any]]]:
    """The figures alone: a curve is what a plot is for."""
    return {
        name: [{key: value for key, value in one.items() if key not in CURVES} for one in of_kind]
        for name, of_kind in found.items()
    }


def main(
    output: Annotated[Path, typer.Option("-o", "--output", help="the result, JSON")],
    plots_to: Annotated[Path | None, typer.Option("--plots", help="a folder for the pictures, SVG")] = None,
    streams: Annotated[int, typer.Option(min=100)] = STREAMS,
    seed: int = SEED,
) -> None:
    """Simulate and write; ends with 1 where one machine's simulated knee is not the measured one's."""
    report = read("knee")
    costs, knee, loads = machine(report, seed)
    typer.echo(f"knee: {knee.simulated} simulated, {knee.measured} measured, {100 * knee.apart:g} % apart")
    if not knee.believed:
        typer.echo(f"over {100 * APART:g} %: what such a machine does in a fleet is not computed", err=True)
        raise typer.Exit(1)
    start_s, carried = read("decoder_start")["forked"]["seconds"], int(knee.simulated)
    each, found = per_stream(report, read("decode_cpu")), scenarios(streams, carried, start_s, seed)
    result = {
        "what": "a simulated fleet; one machine's costs are measured, everything of more than one is computed",
        "from": ["knee.json", "decode_cpu.json", "decoder_start.json"],
        "seed": seed, "python": platform.python_version(), "streams": streams, "page_jitter": PAGE_JITTER,
        "knee": {**asdict(knee), "apart": knee.apart, "believed": knee.believed},
        "machine": {name: round(v, 6) if isinstance(v, float) else v for name, v in asdict(costs).items()},
        "loads": [{**asdict(load), "p95_s": round(load.p95_s, 3)} for load in loads],
        "per_stream": asdict(each), "fleet": asdict(Size.of(streams, carried)), **without_curves(found),
    }  # fmt: skip
    output.write_text(json.dumps(result, indent=1) + "\n")
    if plots_to is not None:
        for name, text in plots(report, loads, found).items():
            (plots_to / f"{name}.svg").write_text(text)
    typer.echo(json.dumps({"per_stream": result["per_stream"], "fleet": result["fleet"]}))


if __name__ == "__main__":
    typer.run(main)
