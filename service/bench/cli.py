"""``stmixer bench streams``: how many cameras a service carries, and what happens to them when things go wrong."""

from __future__ import annotations

import json
import os
import platform
import sys
from contextlib import ExitStack
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console
from rich.table import Table

from stmixer.service.errors import InputError
from stmixer.service.settings import CLIENT_KEY

app = typer.Typer(no_args_is_help=True, help="Measure a service from outside, over real sockets.")


@app.callback()
def _root() -> None:
    """Measure a service from outside, over real sockets."""


@app.command()
def streams(
    clip: Annotated[Path, typer.Argument(help="a video: what cameras film and uploaders post")],
    url: Annotated[str | None, typer.Option(help="a running service (default: one is started and measured)")] = None,
    api_key_file: Annotated[
        Path | None, typer.Option(help=f"a file with the key of that service, where {CLIENT_KEY} does not have it")
    ] = None,
    api_key: Annotated[str | None, typer.Option(hidden=True)] = None,
    pid: Annotated[int | None, typer.Option(help="its process id, if it runs here: for CPU, memory and kills")] = None,
    model: Annotated[str | None, typer.Option(help="of a service that is started: variant")] = None,
    weights: Annotated[Path | None, typer.Option(help="of a service that is started: weights file")] = None,
    cameras: Annotated[str, typer.Option(help="streams at a time, step after step")] = "1,2,4,8",
    uploads: Annotated[int, typer.Option(min=0, help="uploaders beside them")] = 0,
    seconds: Annotated[float, typer.Option(min=1, help="of each step")] = 20.0,
    fps: Annotated[int, typer.Option(min=1, max=120)] = 15,
    codec: Annotated[Literal["jpeg", "webm", "mpegts", "mix"], typer.Option(help="mix: each in turns")] = "jpeg",
    jitter_ms: Annotated[float, typer.Option(min=0, help="pictures are sent up to this much late")] = 0.0,
    keyframe_hz: Annotated[float, typer.Option(min=0.001, max=30)] = 2.0,
    lookahead_ms: Annotated[float | None, typer.Option(min=0)] = None,
    fault: Annotated[list[str] | None, typer.Option(help="what goes wrong; repeat, or 'all'")] = None,
    fault_every_s: Annotated[float, typer.Option(min=0.5, help="mean time between faults, of each camera")] = 30.0,
    worker_module: Annotated[
        str | None, typer.Option(help="a Python module that runs in the worker's place, and fails as it likes")
    ] = None,
    oom_top_k: Annotated[
        int | None, typer.Option(min=1, help="of the fault oom_worker: the top_k for which that one has no memory")
    ] = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="the figures, JSON")] = None,
) -> None:
    """Cameras and uploaders at work: p50, p95, p99 of latency and freshness, drops by reason, CPU, memory, the knee."""
    key = _client_key(api_key, api_key_file)
    options = dict(locals())
    del options["key"]
    if not clip.is_file():
        raise InputError("not_found", f"{clip} is no file; name a video")
    if find_spec("psutil") is None:
        raise InputError("bad_option", "the bench needs psutil: pip install 'stmixer[bench]'")
    from stmixer.service.bench.clients import CAMERA_FAULTS, Camera
    from stmixer.service.bench.film import Film
    from stmixer.service.bench.processes import own_service
    from stmixer.service.bench.streams import PROCESS_FAULTS, Load, knee, measure, mixed

    counts = _counts(cameras)
    faults = _faults(fault or [], (*CAMERA_FAULTS, *PROCESS_FAULTS), oom_top_k)
    of_cameras = tuple(f for f in faults if f in CAMERA_FAULTS)
    of_processes = tuple(f for f in faults if f in PROCESS_FAULTS)
    if of_processes and url is not None and pid is None:
        raise InputError("bad_option", f"--fault {of_processes[0]} needs --pid of a service on this machine")
    film = Film(clip, fps)
    camera = Camera(
        film, codec="jpeg" if codec == "mix" else codec, keyframe_hz=keyframe_hz, lookahead_ms=lookahead_ms,
        jitter_ms=jitter_ms, faults=of_cameras, fault_every_s=fault_every_s if of_cameras else 0.0,
    )  # fmt: skip
    loads = [
        Load(
            mixed(camera, count) if codec == "mix" else (camera,) * count, uploads, film, seconds, of_processes,
            fault_every_s if of_processes else 0.0, worker_module, oom_top_k,
        )
        for count in counts
    ]  # fmt: skip
    with ExitStack() as stack:
        if url is None:
            settings = {"model": model, "weights": weights, "max_streams": max(counts) + uploads + 8}
            given = {name: value for name, value in settings.items() if value is not None}
            url, pid = stack.enter_context(own_service(given, worker_module))
        steps = measure(loads, url, key, pid)
    said = {name: value.name if isinstance(value, Path) else value for name, value in options.items()}
    said["api_key"] = None if key is None else "given"
    if output is not None:
        result = {"machine": _machine(), "options": said, "knee": knee(steps), "steps": steps}
        output.write_text(json.dumps(result, indent=1) + "\n")
    out = Console()
    out.print(_table(steps))
    out.print(f"knee: {knee(steps)} cameras (95 % of the keyframes due came back)")


def _client_key(on_the_command_line: str | None, file: Path | None) -> str | None:
    """The key to ask with. One on the command line, where every user of the machine reads it, is hidden at once.

    That is: we begin anew with it in the environment, which nobody else reads. Raises InputError.
    """
    if on_the_command_line is not None:
        instead = f"use --api-key-file, or {CLIENT_KEY} in the environment"
        print(f"stmixer: --api-key shows the key to everybody on this machine; {instead}", file=sys.stderr)
        os.environ[CLIENT_KEY] = on_the_command_line
        os.execv(sys.executable, [sys.executable, *without_option(sys.orig_argv[1:], "--api-key")])
    if (key := os.environ.pop(CLIENT_KEY, None)) is not None:
        return key
    if file is None:
        return None
    try:
        return file.read_text().strip()
    except (OSError, UnicodeError) as error:
        raise InputError("bad_option", f"--api-key-file {file}: {getattr(error, 'strerror', None) or error}") from None


def without_option(arguments: list[str], name: str) -> list[str]:
    """A command line without an option and its value, however it is written."""
    kept, values = [], iter(arguments)
    for argument in values:
        if argument == name:
            next(values, None)
        elif not argument.startswith(name + "="):
            kept.append(argument)
    return kept


def _counts(text: str) -> list[int]:
    try:
        counts = [int(part) for part in text.split(",")]
    except ValueError:
        counts = []
    if not counts or min(counts) < 0 or max(counts) > 1000:
        raise InputError("bad_option", f"--cameras {text}: numbers from 0 to 1000 with commas, for instance 1,2,4")
    return counts


def _faults(given: list[str], known: tuple[str, ...], oom_top_k: int | None) -> list[str]:
    if given == ["all"]:
        return [name for name in known if name != "oom_worker" or oom_top_k is not None]
    if "oom_worker" in given and oom_top_k is None:
        raise InputError(
            "bad_option",
            "--fault oom_worker needs a worker that can be told to have no memory: --worker-module names it "
            "(tests/faulty_worker.py is one), --oom-top-k the top_k that tells it",
        )
    for name in given:
        if name not in known:
            raise InputError("bad_option", f"--fault {name}: one of {', '.join(known)}, all")
    return given


def _table(steps: list[dict[str, Any]]) -> Table:
    times = ("latency p50/p95/p99 ms", "freshness p50/p95/p99 ms")
    table = Table("cameras", "uploads", "results", "ok", *times, "drops", "cores", "MiB")
    for report in steps:
        usage = report["usage"]
        table.add_row(
            str(report["cameras"]), str(report["uploaders"]), str(report["results"]), str(report["keyframes_ok_share"]),
            _three(report["latency_ms"]), _three(report["freshness_ms"]),
            " ".join(f"{reason} {number}" for reason, number in report["frames_dropped"].items()) or "none",
            f"{sum(usage['cores'].values()):.2f}" if usage else "–",
            f"{sum(usage['rss_mib'].values()):.0f}" if usage else "–",
        )  # fmt: skip
    return table


def _three(found: dict[str, float] | None) -> str:
    return "–" if found is None else " / ".join(f"{value:.0f}" for value in found.values())


def _machine() -> dict[str, Any]:
    return {
        "cpu": platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "stmixer": metadata.version("stmixer"),
        "torch": metadata.version("torch"),
    }
