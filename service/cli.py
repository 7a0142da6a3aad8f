"""Who does what, where and when in video: detect on a file, serve, manage keys, measure."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.logging import RichHandler
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from stmixer.media.decode import Limits
from stmixer.media.errors import MediaError
from stmixer.model.runtimes import PrecisionName, RuntimeName
from stmixer.service.bench.cli import app as bench_app
from stmixer.service.errors import InputError, StartError, StmixerError
from stmixer.service.keys_cli import app as keys_app
from stmixer.service.schemas import DetectOptions, DetectResponse, Result

if TYPE_CHECKING:
    from stmixer.model.runtimes.runtime import Runtime
    from stmixer.service.offline.engine import DetectedKeyframe
    from stmixer.service.offline.file import FileResults

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
app.add_typer(keys_app, name="keys")
app.add_typer(bench_app, name="bench")
console = Console(stderr=True)
log = logging.getLogger("stmixer")

EXIT_USAGE = 2
RUNTIME_HELP = "what runs the model (auto: ONNX Runtime for .onnx files, else eager)"
PRECISION_HELP = "of its products (auto: bf16 where a GPU has it, else fp32)"


def main() -> None:
    """Entry point: every error a user can cause is one line on stderr and exit code 2."""
    # rich keeps log lines and progress bar apart on a terminal; elsewhere a line is a line
    handler = RichHandler(console=console, show_path=False) if console.is_terminal else logging.StreamHandler()
    logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[handler])
    try:
        app()
    except (MediaError, StmixerError) as error:
        _fail(f"{error} ({error.code})")


def _fail(message: str) -> None:
    print(f"stmixer: {' '.join(message.split())}", file=sys.stderr)
    raise SystemExit(EXIT_USAGE)


@app.callback()
def _root() -> None:
    """Realtime spatio-temporal action detection with STMixer."""


@app.command()
def detect(
    clip: Annotated[Path, typer.Argument(help="a video file")],
    output: Annotated[
        list[Path] | None, typer.Option("-o", "--output", help="out.json or out.mp4; repeat for both (default: stdout)")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="bundled weights, or a variant with initial ones (default: stmixer-rt)")
    ] = None,
    weights: Annotated[Path | None, typer.Option(help="a .safetensors or .onnx file, or a bundled name")] = None,
    keyframe_hz: Annotated[float, typer.Option(help="keyframes per second of video")] = 1.0,
    score_threshold: Annotated[float, typer.Option(help="least person score")] = 0.6,
    top_k: Annotated[int | None, typer.Option(help="most actions per person (default: all)")] = None,
    action_threshold: Annotated[float, typer.Option(help="least action score")] = 0.0,
    lookahead_ms: Annotated[float | None, typer.Option(help="see at most this far past a keyframe")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N")] = "auto",
    runtime: Annotated[RuntimeName, typer.Option(help=RUNTIME_HELP)] = "auto",
    precision: Annotated[PrecisionName, typer.Option(help=PRECISION_HELP)] = "auto",
    batch_size: Annotated[int, typer.Option(min=1, help="keyframes per forward")] = 1,
    explain: Annotated[Path | None, typer.Option(help="folder for pictures of each stage's sampling points")] = None,
) -> None:
    """Who does what, where and when in a video file."""
    try:
        options = DetectOptions(
            keyframe_hz=keyframe_hz,
            score_threshold=score_threshold,
            top_k=top_k,
            action_threshold=action_threshold,
            lookahead_ms=lookahead_ms,
        )
    except ValidationError as error:
        first = error.errors()[0]
        raise InputError("bad_option", f"--{str(first['loc'][0]).replace('_', '-')}: {first['msg']}") from None
    outputs = output or []
    _check_outputs(clip, outputs, explain)
    # imported late: torch takes seconds, and a wrong path should not; its threads sleep, not spin, while FFmpeg works
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from stmixer.service.offline.file import FileResults
    from stmixer.service.worker.runner import Runner, pick_device, start_runtime

    chosen, warning = pick_device(device)
    if warning:
        log.warning(warning)
    loaded = start_runtime(model, weights, chosen, runtime, precision)
    if explain is not None and not loaded.all_stages:
        raise InputError(
            "bad_option", f"--explain shows every stage, which {weights} does not give: use a .safetensors"
        )
    if not loaded.card.trained:
        log.warning("model %s is UNTRAINED: its boxes and names mean nothing", loaded.card.name)
    limits, drawer = Limits.unlimited(), _explainer(explain)
    with _progress("detecting") as advance:
        results = FileResults(
            Runner(loaded), clip, options, limits=limits, batch_size=batch_size, progress=advance, on_detected=drawer
        )
        response = _response(loaded, list(results), results)
    for warning in response.warnings:
        log.warning(warning)
    if not outputs:
        print(response.model_dump_json())
    for path in outputs:
        _write(path, clip, response, limits)


@app.command()
def serve(
    host: Annotated[str | None, typer.Option(help="address to bind (127.0.0.1)")] = None,
    port: Annotated[int | None, typer.Option(help="port; 0 takes a free one (8000)")] = None,
    model: Annotated[str | None, typer.Option(help="bundled weights, or a variant with initial ones (stmixer-rt)")] = None,
    weights: Annotated[Path | None, typer.Option(help="a .safetensors or .onnx file, or a bundled name")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda or cuda:N (auto)")] = None,
    runtime: Annotated[RuntimeName | None, typer.Option(help=RUNTIME_HELP)] = None,
    precision: Annotated[PrecisionName | None, typer.Option(help=PRECISION_HELP)] = None,
    max_batch: Annotated[int | None, typer.Option(help="keyframes per batch (8)")] = None,
    max_streams: Annotated[int | None, typer.Option(help="streams at a time (what the worker can do)")] = None,
    spare_workers: Annotated[int | None, typer.Option(help="warm workers behind the first, 0 or 1 (1)")] = None,
    shutdown_timeout: Annotated[float | None, typer.Option(help="seconds to finish what runs (20)")] = None,
    keys: Annotated[Path | None, typer.Option(help="file of `stmixer keys`; every request then needs one")] = None,
    allowed_hosts: Annotated[str | None, typer.Option(help="DNS names it is reached by, with commas")] = None,
    forwarded_allow_ips: Annotated[
        str | None, typer.Option(help="proxies whose X-Forwarded-* headers count, with commas (127.0.0.1,::1)")
    ] = None,
    root_path: Annotated[str | None, typer.Option(help="the prefix under which a proxy serves it, like /cam")] = None,
    ssl_certfile: Annotated[Path | None, typer.Option(help="certificate chain, PEM: serve https and wss")] = None,
    ssl_keyfile: Annotated[Path | None, typer.Option(help="its private key, PEM")] = None,
    allow_anonymous: Annotated[bool | None, typer.Option("--allow-anonymous", help="serve other machines")] = None,
) -> None:
    """Serve clips over REST and cameras over WebSocket. Every setting also exists as STMIXER_<NAME>."""
    given = {name: value for name, value in locals().items() if value is not None}
    from stmixer.service.api.server import run_server
    from stmixer.service.logs import configure
    from stmixer.service.settings import Settings

    if unknown := Settings.unknown_environment():
        raise StartError("bad_setting", f"{', '.join(unknown)}: no such setting; remove it or correct its name")
    try:
        settings = Settings(**given)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0]) if first["loc"] else ""
        flag = f"--{name.replace('_', '-')} or " if name in serve.__annotations__ else ""
        option = f"{name} ({flag}STMIXER_{name.upper()}): " if name else ""
        raise StartError("bad_setting", option + first["msg"].removeprefix("Value error, ")) from None
    configure(settings)
    run_server(settings)


def _write(path: Path, clip: Path, response: DetectResponse, limits: Limits) -> None:
    from stmixer.media.annotated import write_annotated

    try:
        if path.suffix == ".json":
            path.write_text(json.dumps(response.model_dump(), indent=1) + "\n")
        else:
            with _progress("drawing") as advance:
                write_annotated(
                    clip, path, response.keyframes, trained=response.trained, limits=limits, progress=advance
                )
    except OSError as error:
        raise StartError("unwritable", f"{path} cannot be written: {error.strerror or error}") from None
    log.info(
        "%d keyframes, %d actors → %s", len(response.keyframes), sum(len(k.actors) for k in response.keyframes), path
    )


def _check_outputs(clip: Path, outputs: list[Path], explain: Path | None) -> None:
    if not clip.exists():
        raise InputError("not_found", f"{clip} does not exist")
    if clip.is_dir():
        raise InputError("not_found", f"{clip} is a folder; name a video file")
    for path in outputs:
        if path.suffix not in (".json", ".mp4"):
            raise InputError("bad_option", f"-o {path}: the name must end in .json or .mp4")
        if not path.parent.is_dir():
            raise InputError("unwritable", f"the folder of -o {path} does not exist")
        if path.exists() and path.samefile(clip):
            raise InputError("bad_option", f"-o {path} is the input itself")
    if explain is not None:
        try:
            explain.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError("unwritable", f"--explain {explain}: {error.strerror}") from None


def _response(loaded: Runtime, keyframes: list[Result], results: FileResults) -> DetectResponse:
    return DetectResponse(
        model=loaded.card.name,
        trained=loaded.card.trained,
        frame=results.frame,
        keyframes=keyframes,
        summary=results.summary,
        warnings=results.warnings,
    )


def _explainer(folder: Path | None) -> Callable[[DetectedKeyframe], None] | None:
    if folder is None:
        return None
    from stmixer.service.offline.explain import write_explanation

    return lambda keyframe: log.info("→ %s", write_explanation(keyframe, folder))


@contextmanager
def _progress(what: str) -> Iterator[Callable[[float, float | None], None]]:
    """A bar over seconds of video; only a spinner's worth where the container does not know its length."""
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed:.1f} s"),
               TimeElapsedColumn(), TimeRemainingColumn())  # fmt: skip
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


if __name__ == "__main__":
    main()
