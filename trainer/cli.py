"""``stmixer-train``: fit, eval, score, calibrate, average, import, label, empties, bank.

Whatever a user can get wrong is one line each on stderr and exit code 2, before training starts. Torch is imported by
the commands that need it.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console
from rich.progress import Progress

from stmixer.model.program import program
from stmixer.trainer.config.file import load_config, load_phases, parse_config, presets, settings_of
from stmixer.trainer.config.run import CustomSet, RunConfig
from stmixer.trainer.errors import DivergedError, TrainError

if TYPE_CHECKING:
    import torch

EXIT_USAGE = 2

main = program("stmixer-train", f"Train and evaluate STMixer. Presets: {', '.join(presets())}.")

ConfigPath = Annotated[Path, typer.Option("--config", "-c", help="the run's YAML")]
Settings = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="over the YAML, for example --set epochs=3")
]
DataRoot = Annotated[
    Path | None, typer.Option("--data-root", metavar="DIR", help="where the YAML's sets lie, over its data_root")
]
EmptySets = Annotated[list[Path] | None, typer.Option("--empty", help="a set without people, as of `empties`")]
Every = Annotated[
    int | None,
    typer.Option(
        "--every",
        min=1,
        metavar="N",
        help="of custom sets, annotated frames whose index is a multiple of N (default: all)",
    ),
]
Device = Annotated[str | None, typer.Option(help="cpu, cuda (default: cuda where there is one)")]


@contextmanager
def _user_errors() -> Iterator[None]:
    try:
        yield
    except (TrainError, DivergedError) as error:
        for line in str(error).splitlines():
            typer.echo(f"stmixer-train: {line}", err=True)
        raise typer.Exit(EXIT_USAGE) from None


@contextmanager
def _progress(doing: str) -> Iterator[Callable[..., None]]:
    """A bar on stderr while there is a terminal; gives what moves it on: ``completed``, ``total``, ``description``."""
    with Progress(console=Console(stderr=True), transient=True) as bar:
        yield partial(bar.update, bar.add_task(doing, total=None))


@main.command()
def fit(
    config: ConfigPath,
    data_root: DataRoot = None,
    settings: Settings = None,
    resume: Annotated[bool, typer.Option("--resume", help="go on with the run in run_dir")] = False,
) -> None:
    """Train, phase by phase where the YAML has phases. Under torchrun, on all of its processes."""
    with _user_errors():
        runs = load_phases(config, _overrides(settings, data_root))
        if runs[0].says_no_start and not resume:
            raise TrainError(
                f"{config} does not say what {runs[0].model} starts from: name init.weights or init.backbone, or ask "
                "for training from nothing with init: {weights: null}, which wants a large data set and much time"
            )
        _log_to_stderr()
        from stmixer.trainer.training.fit import fit_phases

        fit_phases(runs, resume=resume)


@main.command("eval")
def evaluate(
    weights: Annotated[Path, typer.Argument(help="a .safetensors file")],
    config: Annotated[Path | None, typer.Option("--config", "-c", help="a run's YAML, for its sets")] = None,
    custom: Annotated[list[Path] | None, typer.Option("--custom", help="a custom set's folder")] = None,
    data_root: DataRoot = None,
    settings: Settings = None,
    part: Annotated[Literal["val", "train"], typer.Option(help="the split")] = "val",
    output: Annotated[Path, typer.Option("-o", "--output", help="folder of reports")] = Path("evaluation"),
    empty: EmptySets = None,
    every: Every = None,
    lookahead_ms: Annotated[
        float | None, typer.Option("--lookahead-ms", min=0, help="see no further ahead, as a low-latency stream")
    ] = None,
    single_frame: Annotated[
        bool, typer.Option("--single-frame", help="the keyframe alone: what is known without motion")
    ] = False,
    turned: Annotated[
        bool, typer.Option("--turned", help="the pictures turned by 90°, people alone: is somebody found who lies")
    ] = False,
    camera_motion: Annotated[
        bool,
        typer.Option("--camera-motion", help="a simulated camera moves: is the keyframe, not the window, believed"),
    ] = False,
    precision: Annotated[Literal["fp32", "bf16"], typer.Option(help="bf16: autocast")] = "fp32",
    device: Device = None,
) -> None:
    """Evaluate weights on sets: JSON, a page with pictures, detections as csv, and a summary of all sets."""
    with _user_errors():
        run = _evaluated_run(config, custom, empty, data_root, settings, every)
        if single_frame and lookahead_ms is not None:
            raise TrainError("--single-frame sees nothing ahead; leave out --lookahead-ms")
        if single_frame and camera_motion:
            raise TrainError("--single-frame has no window for a camera to move over; leave out --camera-motion")
        from stmixer.trainer.data.clips import View
        from stmixer.trainer.evaluate.evaluation import Evaluation, EvaluationMode

        mode = EvaluationMode(View(lookahead_ms, single_frame, camera_motion), precision, turned)
        chosen = _device(device)
        with _progress("detecting") as update:
            evaluation = Evaluation(
                *(run, weights, part, chosen),
                progress=lambda done, total: update(completed=done, total=total),
                mode=mode,
            )
            done = evaluation.run(output)
        Console(width=None if sys.stdout.isatty() else 160).print(done)
        typer.echo(f"wrote {output}")


@main.command()
def calibrate(
    weights: Annotated[Path, typer.Argument(help="a .safetensors file")],
    output: Annotated[Path, typer.Option("-o", "--output", help="the calibrated .safetensors file")],
    config: Annotated[Path | None, typer.Option("--config", "-c", help="a run's YAML, for its sets")] = None,
    custom: Annotated[list[Path] | None, typer.Option("--custom", help="a custom set's folder")] = None,
    empty: EmptySets = None,
    every: Every = None,
    data_root: DataRoot = None,
    settings: Settings = None,
    device: Device = None,
) -> None:
    """Make scores mean what they say: affine maps of the logits, fitted on validation sets, folded into the weights."""
    with _user_errors():
        run = _evaluated_run(config, custom, empty, data_root, settings, every)
        from stmixer.trainer.calibrate.run import Calibrator

        chosen = _device(device)
        with _progress("detecting") as update:
            calibrator = Calibrator(
                *(run, weights, chosen),
                progress=lambda done, total: update(completed=done, total=total),
            )
            done = calibrator.run(output)
        Console(width=None if sys.stdout.isatty() else 160).print(done.table())
        typer.echo(f"wrote {output}")


@main.command()
def label(
    sources: Annotated[list[Path], typer.Argument(metavar="VIDEO_OR_FOLDER...", help="videos, or folders of them")],
    detector: Annotated[Path, typer.Option("--detector", help="a YOLOX person detector as ONNX")],
    output: Annotated[Path, typer.Option("-o", "--output", help="the new set's folder")],
    every: Annotated[int, typer.Option(min=1, help="look at every n-th frame")] = 5,
    score: Annotated[float, typer.Option(min=0.01, max=1, help="from which a person counts")] = 0.5,
    min_length: Annotated[float, typer.Option(min=0, help="shorter tracks are dropped, s")] = 0.5,
    max_gap: Annotated[float, typer.Option(min=0, help="gaps up to this are filled in, s")] = 0.5,
    copy: Annotated[bool, typer.Option("--copy", help="copy the videos, else link them")] = False,
    force: Annotated[bool, typer.Option("--force", help="overwrite boxes.csv and videos.csv")] = False,
) -> None:
    """Draft person boxes for videos without annotation: a custom set for a person to correct."""
    with _user_errors():
        from stmixer.trainer.annotate.draft import LabelOptions
        from stmixer.trainer.annotate.label import label as draft
        from stmixer.trainer.annotate.person_detector import PersonDetector

        options = LabelOptions(every, min_length, max_gap, copy, force)
        with _progress("looking") as update:
            done = draft(
                *(sources, PersonDetector(detector, score), output, options),
                lambda name, read, total: update(description=name, completed=read, total=total),
            )
        for path, reason in done.skipped:
            typer.echo(f"stmixer-train: {path} is skipped: {reason}", err=True)
        for video in done.drafts:
            people = f"tracks {len(video.tracks)}, boxes {video.boxes}, {video.filled} of them filled in"
            typer.echo(f"{video.name}: {video.frames} frames, {people}")
        typer.echo(f"wrote {output}: look at previews/, then put labels into boxes.csv")


@main.command("import")
def import_set(
    sources: Annotated[
        list[Path], typer.Argument(metavar="FILE_OR_FOLDER...", help="what a tool exported, unpacked: COCO, CVAT, ...")
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="the new set's folder")],
    media: Annotated[
        list[Path] | None, typer.Option("--media", help="where its videos or pictures lie (default: beside it)")
    ] = None,
    attribute: Annotated[
        list[str] | None, typer.Option("--attribute", help="which says what somebody does (default: action)")
    ] = None,
    person: Annotated[
        list[str] | None, typer.Option("--person", help="a label that says no more than that somebody is there")
    ] = None,
    leave_out: Annotated[list[str] | None, typer.Option("--leave-out", help="a label of what is no person")] = None,
    labels: Annotated[Path | None, typer.Option("--labels", help="AVA's csv: the list of labels, .pbtxt")] = None,
    start_s: Annotated[float, typer.Option("--start-s", help="AVA's csv: the second that files begin with")] = 0.0,
    sequences: Annotated[bool, typer.Option("--sequences", help="numbered pictures are frames of a video")] = False,
    fps: Annotated[float | None, typer.Option(min=0.1, max=1000, help="of these, pictures a second")] = None,
    val: Annotated[list[str] | None, typer.Option("--val", help="a video, or folder of pictures, to check by")] = None,
    nobody: Annotated[bool, typer.Option("--nobody", help="pictures without a box show nobody")] = False,
    pseudo: Annotated[bool, typer.Option("--pseudo", help="a detector drew the boxes, not people")] = False,
    copy: Annotated[bool, typer.Option("--copy", help="copy videos and pictures, else link them")] = False,
    force: Annotated[bool, typer.Option("--force", help="overwrite an earlier set's tables")] = False,
) -> None:
    """Make a set of what another tool exported: COCO, CVAT 1.1, VIA 3, YOLO, AVA's csv. What is left out is told."""
    with _user_errors():
        from stmixer.trainer.imports.importing import import_export
        from stmixer.trainer.imports.media_files import MediaFiles
        from stmixer.trainer.imports.naming import Naming
        from stmixer.trainer.imports.options import ImportOptions
        from stmixer.trainer.imports.recognise import TableOptions, read_export

        named = None if attribute is None else tuple(attribute)
        naming = Naming(named, frozenset(person or ()), frozenset(leave_out or ()))
        options = ImportOptions(naming, fps, sequences, tuple(val or ()), nobody, pseudo, copy, force)
        with _progress("reading") as update:
            export = read_export(sources, TableOptions(labels, start_s))
            beside = [source if source.is_dir() else source.parent for source in sources]
            files = MediaFiles(media or beside, output)
            done = import_export(export, files, output, options, lambda name: update(description=name))
        for line in done.lines:
            typer.echo(line)
        sets = ", ".join(f"{{kind: {kind}, root: {folder}}}" for kind, folder in done.sets)
        typer.echo(f"look at previews/; a run has it with  sets: [{sets}]")


@main.command()
def empties(
    sets: Annotated[list[Path], typer.Argument(metavar="SET...", help="folders of custom sets, everybody annotated")],
    detector: Annotated[Path, typer.Option("--detector", help="a YOLOX person detector as ONNX")],
    output: Annotated[Path, typer.Option("-o", "--output", help="the new set's folder")],
    train: Annotated[int, typer.Option(min=0, help="clips of each set for training, at most")] = 30,
    val: Annotated[int, typer.Option(min=0, help="clips of each set for validation, at most")] = 20,
    score: Annotated[float, typer.Option(min=0.01, max=1, help="from which the detector's people count")] = 0.15,
    leave_out: Annotated[list[str] | None, typer.Option("--leave-out", help="a video not to use")] = None,
    medians_only: Annotated[
        list[str] | None, typer.Option("--medians-only", help="a video in which somebody lacks boxes")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="replace an earlier set of empty clips")] = False,
) -> None:
    """Make a set of clips without people out of annotated sets: fixed cameras' backgrounds, and corners left free."""
    with _user_errors():
        from stmixer.trainer.annotate.empty_set import EmptySetOptions, make_empty_set
        from stmixer.trainer.annotate.person_detector import PersonDetector

        options = EmptySetOptions(train, val, tuple(leave_out or ()), tuple(medians_only or ()), force=force)
        with _progress("looking") as update:
            done = make_empty_set(
                *(sets, PersonDetector(detector, score), output, options),
                progress=lambda name: update(description=name),
            )
        for path, reason in done.skipped:
            typer.echo(f"stmixer-train: {path} is skipped: {reason}", err=True)
        for (name, part, kind), count in sorted(done.counts().items()):
            typer.echo(f"{name} {part}: {count} {kind}s")
        typer.echo(f"wrote {output}: look at previews/, and name in --leave-out what shows a person")


@main.command()
def bank(
    weights: Annotated[Path, typer.Option("--weights", help="a .safetensors file")],
    output: Annotated[Path, typer.Option("-o", "--output", help="the bank, a .safetensors file")],
    config: Annotated[Path | None, typer.Option("--config", "-c", help="a run's YAML, for its set")] = None,
    custom: Annotated[Path | None, typer.Option("--custom", help="a custom set's folder")] = None,
    name: Annotated[str | None, typer.Option("--name", help="which of several sets")] = None,
    data_root: DataRoot = None,
    settings: Settings = None,
    device: Device = None,
) -> None:
    """Make a set's long-term query bank: the best queries of a clip a second of each of its videos."""
    with _user_errors():
        if (config is None) == (custom is None):
            raise TrainError("bank wants --config or --custom")
        run = _read_run(config, [] if custom is None else [custom], data_root, settings)
        from stmixer.trainer.long_term.bank import BankMaker

        chosen = _device(device)
        with _progress("looking") as update:
            maker = BankMaker(
                *(run, weights, chosen, name),
                progress=lambda done, total: update(completed=done, total=total),
            )
            card = maker.run(output)
        typer.echo(f"wrote {output}: {card.set}, {len(card.videos)} videos, of {card.model} {card.digest[:12]}")


@main.command()
def average(reports: Annotated[list[Path], typer.Argument(metavar="REPORT.json...", help="of eval")]) -> None:
    """The mean of several reports, for example of JHMDB's three splits."""
    with _user_errors():
        from stmixer.trainer.evaluate.average import average as mean

        typer.echo(str(mean(reports)))


@main.command()
def score(
    detections: Annotated[
        Path, typer.Argument(help="video,timestamp,x1,y1,x2,y2,label,score: AVA's csv, whoever wrote it")
    ],
    truth: Annotated[Path, typer.Option(help="ground truth in the same form, without scores")],
    labels: Annotated[Path, typer.Option(help="the label map, .pbtxt")],
    excluded: Annotated[
        Path | None, typer.Option(help="the list of timestamps to leave out, where there is one")
    ] = None,
    by_label: Annotated[bool, typer.Option("--by-label", help="each label's average precision too")] = False,
) -> None:
    """Detections in AVA's csv against ground truth, under both protocols in use; no model, no video."""
    with _user_errors():
        from stmixer.trainer.evaluate.score import score_ava, told

        for line in told(score_ava(detections, truth, labels, excluded), by_label=by_label):
            typer.echo(line)


def _evaluated_run(
    config: Path | None,
    custom: list[Path] | None,
    empty: list[Path] | None,
    data_root: Path | None,
    settings: list[str] | None,
    every: int | None,
) -> RunConfig:
    """The sets of a YAML or of the command line, and those without people beside them. Raises TrainError."""
    if (config is None) == (not custom):
        raise TrainError("give --config, or --custom (once or more)")
    run = _read_run(config, custom or [], data_root, settings)
    bare = tuple(CustomSet(kind="custom", root=folder.resolve(), empty=True) for folder in empty or [])
    looked = run.evaluate if every is None else run.evaluate.model_copy(update={"every": every})
    return run.model_copy(update={"sets": (*run.sets, *bare), "evaluate": looked})


def _read_run(config: Path | None, custom: list[Path], data_root: Path | None, settings: list[str] | None) -> RunConfig:
    """A YAML's run, or one of these custom sets where there is no YAML. Raises TrainError."""
    overrides = _overrides(settings, data_root)
    if config is not None:
        return load_config(config, overrides)
    if data_root is not None:
        raise TrainError("--data-root says where a YAML's sets lie; --custom names its folder itself")
    sets = [{"kind": "custom", "root": str(folder.resolve()), "parts": ["train", "val"]} for folder in custom]
    return parse_config({"run_dir": ".", "sets": sets} | overrides, "--set")


def _device(name: str | None) -> torch.device:
    """Raises TrainError for a device that is not there."""
    from stmixer.model.runtimes.device import named_device
    from stmixer.model.runtimes.runtime import RuntimeUnavailable

    try:
        return named_device(name)
    except RuntimeUnavailable as error:
        raise TrainError(str(error)) from None


def _overrides(settings: list[str] | None, data_root: Path | None) -> dict[str, Any]:
    """``--set`` and ``--data-root``. The latter is relative to the folder that the command runs in, not to the YAML's.
    Raises TrainError.
    """
    merged = settings_of(settings or [])
    if data_root is not None:
        if "data_root" in merged:
            raise TrainError("give --data-root or --set data_root, not both")
        merged["data_root"] = str(data_root.resolve())
    return merged


def _log_to_stderr() -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)


if __name__ == "__main__":
    main()
