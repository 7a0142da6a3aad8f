"""Who does what, where and when in video: detect on a file, serve, manage keys, measure."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.logging import RichHandler
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from typer.core import TyperCommand

from stmixer.media.errors import MediaError
from stmixer.model.program import program
from stmixer.model.runtimes import PrecisionName, RuntimeName
from stmixer.service.bench.cli import app as bench_app
from stmixer.service.errors import InputError, StartError, StmixerError
from stmixer.service.keys_cli import app as keys_app
from stmixer.service.offline.inputs import Input, inputs_of
from stmixer.service.offline.outputs import check_outputs
from stmixer.service.offline.told import at_once, clock, in_words
from stmixer.service.schemas import DetectOptions, DetectResponse, Preset, Result

app = program("stmixer", __doc__)
app.add_typer(keys_app, name="keys")
app.add_typer(bench_app, name="bench")
console = Console(stderr=True)
log = logging.getLogger("stmixer")

EXIT_USAGE = 2
RUNTIME_HELP = (
    "what runs the model (auto: ONNX Runtime for .onnx files and, on CPUs, graphs beside weights; else eager)"
)
PRECISION_HELP = "of its products (auto: bf16 where a GPU has it, else fp32)"
MEASURED_HELP = "auto: on CPUs the fastest, as measured at start"


def main() -> None:
    """Entry point: every error a user can cause is one line on stderr and exit code 2."""
    # rich keeps log lines and progress bar apart on a terminal; elsewhere a line is a line
    handler = RichHandler(console=console, show_path=False) if console.is_terminal else logging.StreamHandler()
    logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[handler])
    try:
        app()
    except (MediaError, StmixerError) as error:
        fail(f"{error} ({error.code})")


def fail(message: str) -> NoReturn:
    """One line on stderr, and exit code 2."""
    print(f"stmixer: {' '.join(message.split())}", file=sys.stderr)
    raise SystemExit(EXIT_USAGE)


@app.command()
def detect(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE...",
            help="videos, pictures, folders, patterns in quotes, .txt lists, http(s) addresses; or 0 (webcam), rtsp://...",
        ),
    ],
    output: Annotated[
        list[Path] | None,
        typer.Option(
            "-o",
            "--output",
            help="NAME.json, .jsonl, .csv, .ava.csv, .mot.txt, .mp4 (a picture: .jpg) or a folder; may be repeated",
        ),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="bundled weights, or a variant with initial ones (default: stmixer-rt)")
    ] = None,
    weights: Annotated[Path | None, typer.Option(help="a .safetensors or .onnx file, or a name")] = None,
    keyframe_hz: Annotated[float, typer.Option(help="keyframes per second of video")] = 1.0,
    preset: Annotated[Preset | None, typer.Option(help="cctv: a lower threshold, for small and distant people")] = None,
    score_threshold: Annotated[float | None, typer.Option(help="least person score (0.6)")] = None,
    top_k: Annotated[int | None, typer.Option(help="most actions per person (default: all)")] = None,
    action_threshold: Annotated[float, typer.Option(help="least action score")] = 0.0,
    lookahead_ms: Annotated[float | None, typer.Option(help="see at most this far past a keyframe")] = None,
    track_max_gap_s: Annotated[
        float, typer.Option(help="seconds after which somebody who was away is somebody new")
    ] = 2.0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N")] = "auto",
    runtime: Annotated[RuntimeName, typer.Option(help=RUNTIME_HELP)] = "auto",
    precision: Annotated[PrecisionName, typer.Option(help=PRECISION_HELP)] = "auto",
    batch_size: Annotated[int, typer.Option(min=1, help="keyframes per forward")] = 1,
    explain: Annotated[Path | None, typer.Option(help="folder for pictures of each stage's sampling points")] = None,
    seconds: Annotated[
        float | None, typer.Option(min=0, help="of a camera: end after so long (else by Ctrl-C)")
    ] = None,
) -> None:
    """Who does what, where and when in videos and pictures, or before a camera, until Ctrl-C.

    Without -o the results go to stdout as JSON (of several inputs, a line each); on a terminal they are told in words.
    A folder gets a JSON file for each input; what is there already is not done again, and goes into tables from there.
    """
    try:
        options = DetectOptions(
            **({} if score_threshold is None else {"score_threshold": score_threshold}),
            preset=preset,
            model=None,
            keyframe_hz=keyframe_hz,
            top_k=top_k,
            action_threshold=action_threshold,
            lookahead_ms=lookahead_ms,
            track_max_gap_s=track_max_gap_s,
        )
    except ValidationError as error:
        first = error.errors()[0]
        raise InputError("bad_option", f"--{str(first['loc'][0]).replace('_', '-')}: {first['msg']}") from None
    inputs, outputs = inputs_of(sources), output or []
    check_outputs(outputs, inputs)
    if seconds is not None and inputs[0].kind != "camera":
        raise InputError("bad_option", "--seconds is for a camera; a video ends by itself")
    if explain is not None:
        _check_explain(explain, inputs)
    # imported late: a runtime takes seconds, and a wrong path should not; torch's threads sleep while FFmpeg works
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from stmixer.model.heap import keep_freed_memory
    from stmixer.service.offline.camera import CameraCommand
    from stmixer.service.offline.command import DetectCommand
    from stmixer.service.worker.runner import Runner, pick_device, start_runtime

    keep_freed_memory()
    chosen, warning = pick_device(device)
    if warning:
        log.warning(warning)
    # the sampling points of every stage are PyTorch's to tell
    wanted = "eager" if explain is not None and runtime == "auto" and not _is_onnx(weights) else runtime
    loaded = start_runtime(model, weights, chosen, wanted, precision)
    if explain is not None and not loaded.all_stages:
        raise InputError(
            "bad_option", f"--explain shows every stage, which {loaded.name} does not give: leave --runtime out"
        )
    if not loaded.card.trained:
        log.warning("model %s is UNTRAINED: its boxes and names mean nothing", loaded.card.name)
    if inputs[0].kind == "camera":
        log.info("looking at %s until Ctrl-C", inputs[0].name)
        watched = CameraCommand(Runner(loaded), options, outputs, seconds=seconds, on_result=_live_teller(outputs))
        summary = watched.run(inputs[0])
        log.info(
            "%d pictures, %d of them looked past, %d keyframes",
            summary.received,
            summary.dropped.get("mailbox", 0),
            summary.ok,
        )
        return
    command = DetectCommand(
        Runner(loaded), options, outputs,
        batch_size=batch_size, explain=explain, bar=_progress, on_response=_teller(inputs, outputs),
    )  # fmt: skip
    if failed := command.run(inputs):
        fail(f"{len(failed)} of {len(inputs)} could not be used, the first of them {failed[0][0].name}")


def _is_onnx(weights: Path | None) -> bool:
    return weights is not None and weights.suffix == ".onnx"


def _teller(inputs: list[Input], outputs: list[Path]) -> Callable[[Input, DetectResponse], None]:
    """What an input's results are, on stdout: JSON where no file takes it, words where a person reads."""

    def tell(item: Input, response: DetectResponse) -> None:
        if sys.stdout.isatty():
            lines = in_words(response.keyframes)
            print("\n".join(lines if len(inputs) == 1 else [item.name, *(f"  {line}" for line in lines)]))
        elif not outputs:
            named = {} if len(inputs) == 1 else {"source": item.name}
            print(json.dumps(named | response.model_dump(), separators=(",", ":"), ensure_ascii=False), flush=True)

    return tell


def _live_teller(outputs: list[Path]) -> Callable[[Result], None]:
    """What a camera's results are, on stdout as they come: a line of JSON each where no file takes them, and where a
    person reads words, whenever something else goes on."""
    before = ""

    def tell(result: Result) -> None:
        nonlocal before
        if sys.stdout.isatty():
            if (now := at_once(result)) != before:
                print(f"{clock(result.pts_us)}  {now}", flush=True)
                before = now
        elif not outputs:
            print(json.dumps(result.model_dump(), separators=(",", ":"), ensure_ascii=False), flush=True)

    return tell


def _check_explain(explain: Path, inputs: list[Input]) -> None:
    if len(inputs) > 1 or inputs[0].kind in ("picture", "camera"):
        raise InputError("bad_option", "--explain takes one video")
    try:
        explain.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError("unwritable", f"--explain {explain}: {error.strerror}") from None


class _Serve(TyperCommand):
    """Its help names the settings that have no option, too."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """As any command's, and a table."""
        from stmixer.service.settings import Settings

        super().format_help(ctx, formatter)
        formatter.write("\nSettings of the environment alone, with their defaults:\n\n")
        optional = {parameter.name for parameter in self.params}
        for name, setting in Settings.model_fields.items():
            if name not in optional:
                default = "" if setting.default is None else f" ({setting.default})"
                formatter.write(f"  STMIXER_{name.upper()}{default}: {setting.description}\n")


@app.command(cls=_Serve)
def serve(
    host: Annotated[str | None, typer.Option(help="address to bind (127.0.0.1)")] = None,
    port: Annotated[int | None, typer.Option(help="port; 0 takes a free one (8000)")] = None,
    model: Annotated[str | None, typer.Option(help="bundled weights, or a variant untrained (stmixer-rt)")] = None,
    weights: Annotated[Path | None, typer.Option(help="a .safetensors or .onnx file, or a name")] = None,
    weights_dir: Annotated[
        Path | None, typer.Option(help="folder whose files may be loaded while the service runs")
    ] = None,
    watch: Annotated[
        Path | None, typer.Option(help="a weights file that is served, and anew when another one takes its place")
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="auto, cpu, cuda or cuda:N; or several with commas, a worker on each (auto)")
    ] = None,
    runtime: Annotated[RuntimeName | None, typer.Option(help=f"what runs the model ({MEASURED_HELP})")] = None,
    precision: Annotated[PrecisionName | None, typer.Option(help=f"of its products ({MEASURED_HELP})")] = None,
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
    allow_networks: Annotated[
        str | None, typer.Option(help="private networks that streams may be pulled from, with commas")
    ] = None,
    allow_files: Annotated[Path | None, typer.Option(help="folder whose files may be played as streams")] = None,
    allow_devices: Annotated[
        str | None, typer.Option(help="video devices that may be read, like /dev/video0, with commas")
    ] = None,
    pull_ca_file: Annotated[
        Path | None, typer.Option(help="certificates, PEM, by which cameras are known, too")
    ] = None,
    streams: Annotated[Path | None, typer.Option(help="YAML file of streams to pull; SIGHUP reads it anew")] = None,
    rules: Annotated[Path | None, typer.Option(help="YAML file of rules for all streams, of which events come")] = None,
    events_file: Annotated[Path | None, typer.Option(help="file that keeps events over a restart")] = None,
    webhook: Annotated[str | None, typer.Option(help="http or https address to which events are posted")] = None,
    webhook_secret_file: Annotated[Path | None, typer.Option(help="file whose content signs what is posted")] = None,
    mqtt: Annotated[
        str | None, typer.Option(help="MQTT broker to which events go, like mqtt://host:1883 or mqtts://host")
    ] = None,
    mqtt_user: Annotated[str | None, typer.Option(help="by which it knows us")] = None,
    mqtt_password_file: Annotated[Path | None, typer.Option(help="file whose content is that user's password")] = None,
    mqtt_ca_file: Annotated[Path | None, typer.Option(help="certificates, PEM, by which mqtts is known")] = None,
    mqtt_topic: Annotated[str | None, typer.Option(help="what all topics begin with (stmixer)")] = None,
    mqtt_discovery: Annotated[
        str | None, typer.Option(help="where Home Assistant looks for sensors, by itself homeassistant (none)")
    ] = None,
    event_clips: Annotated[Path | None, typer.Option(help="folder for clips of events, of rules that ask")] = None,
    event_clips_mb: Annotated[int | None, typer.Option(help="what those may take; the oldest give way (2048)")] = None,
    event_clips_days: Annotated[float | None, typer.Option(help="how long they are kept (14)")] = None,
    allow_teach: Annotated[
        bool | None, typer.Option("--allow-teach", help="new actions may be taught on the page, by admins")
    ] = None,
    teach_dir: Annotated[
        Path | None, typer.Option(help="folder for lessons and models kept (~/.local/share/stmixer/teach)")
    ] = None,
    teach_mb: Annotated[int | None, typer.Option(help="what the clips of a lesson may take (2048)")] = None,
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


@contextmanager
def _progress(what: str, unit: str = "s") -> Iterator[Callable[[float, float | None], None]]:
    """A bar, over seconds of video by itself; only a spinner's worth where nobody knows how much there is."""
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn(f"{{task.completed:.1f}} {unit}"),
               TimeElapsedColumn(), TimeRemainingColumn())  # fmt: skip
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


if __name__ == "__main__":
    main()
