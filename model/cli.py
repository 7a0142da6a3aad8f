"""``stmixer-weights``: list and fetch weights, convert published ones, describe a file or a variant, verify a file.

Whatever a user can get wrong is one line on stderr (or a line and the list of names) and exit code 2. Torch is imported
by the commands that need it, so that a wrong word is answered at once.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from stmixer.model import extras
from stmixer.model.bundled import NamedWeights, PublishedWeights, bundled, published
from stmixer.model.clip import padded_size, window
from stmixer.model.config import ConfigError, DetectorConfig
from stmixer.model.labels import AVA_LABELS, Label, default_labels
from stmixer.model.named import weights_named
from stmixer.model.program import program
from stmixer.model.pulled import BY_HAND, PulledWeights, cache_folder, pulled
from stmixer.model.runtimes import PrecisionName, RuntimeName
from stmixer.model.zoo import VARIANTS

if TYPE_CHECKING:
    from torch import Tensor

    from stmixer.model.card import ModelCard

EXIT_USAGE = 2
PUBLISHED_ON = "AVA v2.2 (as published by the authors)"
NO_LICENCE = "not stated by its authors"
LIST_WIDTH = 400
"""Columns of a list for programs: a row is a line."""
COST_SIZE = (256, 256)
"""Width and height, px, of the clip that the paper counts (Table 1)."""

main = program("stmixer-weights", "Convert, describe and verify STMixer weights.")


class UsageError(ValueError):
    """A command that cannot be carried out as given."""


@contextmanager
def _user_errors() -> Iterator[None]:
    from stmixer.model.card import CheckpointError
    from stmixer.model.runtimes.runtime import RuntimeUnavailable

    try:
        yield
    except ModuleNotFoundError as error:
        if error.name not in extras.TORCH:
            raise
        message = extras.brought_by("torch", [error.name])
    except (CheckpointError, ConfigError, RuntimeUnavailable, UsageError) as error:
        message = str(error)
    except BrokenPipeError:
        raise  # the reader of a pipe has gone; typer ends quietly
    except OSError as error:
        message = f"{error.filename}: {error.strerror or error}"
    else:
        return
    for line in f"stmixer-weights: {message}".splitlines():  # what is to be copied stands on a line of its own
        typer.echo(_printable(line), err=True)
    raise typer.Exit(EXIT_USAGE)


@main.command()
def convert(
    src: Annotated[Path, typer.Argument(help="a published .pth")],
    output: Annotated[Path, typer.Option("-o", "--output", help="the .safetensors file to write")],
    variant: Annotated[str | None, typer.Option(help="variant it holds (default: told from the names)")] = None,
    labels: Annotated[Path | None, typer.Option(help="a name a line, or JSON (default: AVA's 80)")] = None,
    licence: Annotated[str, typer.Option(help="licence of the weights")] = NO_LICENCE,
    source: Annotated[str | None, typer.Option(help="where they come from (default: the authors, SRC)")] = None,
    trained_on: Annotated[str | None, typer.Option(help=f"data (default: {PUBLISHED_ON})")] = None,
    untrained: Annotated[bool, typer.Option("--untrained", help="they are initial weights")] = False,
) -> None:
    """Published layout to a self-describing file. Nothing in SRC is executed; every name must be used exactly once."""
    with _user_errors():
        from stmixer.model.card import ModelCard
        from stmixer.model.checkpoint import save
        from stmixer.model.foreign.published import from_published, guess_config, read_published_file

        _check_paths(src, output, untrained and trained_on is not None)
        names = None if labels is None else _read_labels(labels)
        file = read_published_file(src)
        published = file.tensors
        config = guess_config(published, variant)
        tensors = from_published(published, config)
        classes = config.decoder.classes
        if trained_on is None and not untrained and classes == len(AVA_LABELS):
            trained_on = PUBLISHED_ON
        card = ModelCard(
            config,
            names or default_labels(classes),
            trained=not untrained,
            trained_on=trained_on,
            licence=licence,
            source=source or f"MCG-NJU/STMixer, {src.name}",
        )
        save(output, tensors, card)
        read: dict[str, object] = {"read": src}
        read |= {f"note {number}": note for number, note in enumerate(file.notes, start=1)}
        read |= {"names used": len(published), "types": _types(published), "wrote": output}
        _print_pairs(read | _described(card))
        if names is None and classes != len(AVA_LABELS):
            typer.echo(f"labels are placeholders (class 1 ... class {classes}); --labels names them")


def _check_paths(src: Path, output: Path, contradiction: bool) -> None:
    if contradiction:
        raise UsageError("--untrained and --trained-on contradict each other")
    _check_output(src, output)
    if src.suffix == ".safetensors":
        raise UsageError(f"{src} is a safetensors file already; `stmixer-weights info` describes it")


def _check_output(src: Path, output: Path) -> None:
    if not output.parent.is_dir():
        raise UsageError(f"{output.parent} is not a folder; make it first")
    if output.exists() and not output.is_file():
        raise UsageError(f"{output} is not an ordinary file; name another")
    if output.exists() and src.exists() and output.samefile(src):
        raise UsageError(f"{output} is the source itself; name another file")


def _types(tensors: Mapping[str, Tensor]) -> str:
    return ", ".join(sorted({str(t.dtype).removeprefix("torch.") for t in tensors.values()}))


def _read_labels(path: Path) -> tuple[Label, ...]:
    """Names, one a line, numbered from 1; or JSON: a list of names or of {"id", "name"}, or {"1": name, ...}."""
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".json":
            return tuple(_json_labels(json.loads(text)))
    except FileNotFoundError:
        raise UsageError(f"{path} does not exist") from None
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror or error}") from None
    except (ValueError, KeyError, TypeError, RecursionError):
        raise UsageError(f'{path} is no list of labels: names, or {{"id": 1, "name": "..."}}, in UTF-8') from None
    names = [line.strip() for line in text.splitlines() if line.strip()]
    if not names:
        raise UsageError(f"{path} holds no labels")
    return tuple(Label(i, name) for i, name in enumerate(names, start=1))


def _json_labels(data: Any) -> Iterable[Label]:
    if isinstance(data, dict):
        data = [{"id": int(key), "name": name} for key, name in data.items()]
    if not isinstance(data, list) or not data:
        raise TypeError
    for i, entry in enumerate(data, start=1):
        label = Label(i, entry) if isinstance(entry, str) else Label(entry["id"], entry["name"])
        if not isinstance(label.id, int) or not isinstance(label.name, str):
            raise TypeError
        yield label


@main.command()
def info(
    target: Annotated[str | None, typer.Argument(metavar="[FILE|VARIANT]", help="default: list the variants")] = None,
    cost: Annotated[bool, typer.Option("--cost", help="count multiply-adds instead, in 10^9")] = False,
    size: Annotated[str | None, typer.Option(metavar="WxH", help="clip size for --cost, px (default: 256x256)")] = None,
) -> None:
    """What a file or a variant is; with --cost (before or after the name), what one forward of it counts."""
    with _user_errors():
        if size is not None and not cost:
            raise UsageError("--size goes with --cost")
        if target is None:
            if cost:
                raise UsageError(f"--cost wants a file or a variant: {', '.join(VARIANTS)}")
            _print_variants()
        elif cost:
            _print_cost(_config_of(target), COST_SIZE if size is None else _parse_size(size))
        elif target in VARIANTS:
            _print_pairs(_flat(VARIANTS[target].to_dict()))
        else:
            card, digest = _card_of(target)
            _print_pairs(_described(card) | {"digest": digest} | _flat(card.config.to_dict()))


def _card_of(target: str) -> tuple[ModelCard, str]:
    from stmixer.model.card import read_header

    if weights_named(target) is None and not Path(target).exists():
        raise UsageError(f"{target} is neither a file nor bundled nor a variant; {_names()}")
    return read_header(Path(target))


def _names() -> str:
    fetched = f"; fetched: {', '.join(pulled())}" if pulled() else ""
    return f"bundled: {', '.join(bundled())}{fetched}; variants: {', '.join(VARIANTS)}"


def _config_of(target: str) -> DetectorConfig:
    return VARIANTS[target] if target in VARIANTS else _card_of(target)[0].config


def _parse_size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"([1-9]\d{0,4})x([1-9]\d{0,4})", text, re.ASCII)
    if match is None:
        raise UsageError(f"--size wants WIDTHxHEIGHT in pixels, for example 256x256, got {text!r}")
    return int(match[1]), int(match[2])


@main.command("list")
def list_weights() -> None:
    """Weights by name, bundled, fetched or published by others: size, SHA-256, mAP; "unknown" where nobody knows it."""
    with _user_errors():
        table = Table("name", "variant", "MB", "SHA-256", "mAP %, as published", "where")
        shown = 12 if sys.stdout.isatty() else None
        for name, variant, size, digest, *rest in _listed():
            table.add_row(name, variant, size, digest[:shown], *rest)
        Console(highlight=False, width=None if sys.stdout.isatty() else LIST_WIDTH).print(table)


def _listed() -> Iterator[tuple[str, ...]]:
    there = pulled()
    for name, known in bundled().items():
        yield (name, *_on_disk(known), "see its card", "bundled")
    for name, fetched in there.items():
        known = NamedWeights(name, _ready_or_fetched(fetched))
        known_map = _percent(published().get(name))
        yield (name, *_on_disk(known), known_map, _whence(fetched))
    for name, one in published().items():
        if name not in there:
            size = "unknown" if one.size is None else f"{one.size / 1e6:.1f}"
            get = "stmixer-weights pull" if one.url is not None else "by hand: stmixer-weights pull says how"
            yield (name, one.variant, size, one.sha256 or "unknown", _percent(one), get)


def _ready_or_fetched(one: PulledWeights) -> Path:
    """The file that its name stands for; where it is yet to be converted, what was fetched."""
    ready = one.file.with_suffix(".safetensors")
    return ready if ready.is_file() else one.file


def _on_disk(one: NamedWeights) -> tuple[str, str, str]:
    """Variant, size and hash of a file that is there."""
    from stmixer.model.card import CheckpointError, read_header

    try:
        variant = read_header(one.file)[0].name
    except CheckpointError:
        variant = "to be converted"
    with one.file.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    return variant, f"{one.file.stat().st_size / 1e6:.1f}", found


def _whence(one: PulledWeights) -> str:
    return one.source if one.source == BY_HAND else f"fetched from {one.source}"


def _percent(one: PublishedWeights | None) -> str:
    return "unknown" if one is None or one.map_percent is None else f"{one.map_percent:.1f} ({one.data})"


@main.command("pull")
def pull_weights(
    target: Annotated[str, typer.Argument(metavar="NAME|URL", help="a name of `list`, or an https address")],
    name: Annotated[str | None, typer.Option(help="what to call it (default: the file's name)")] = None,
    sha256: Annotated[str | None, typer.Option(help="what it has to be")] = None,
) -> None:
    """Fetch weights over https, once: --weights NAME, init.weights and stmixer.load(NAME) find them, offline too."""
    from stmixer.model.pull import PullError, pull

    with _user_errors():
        folder = cache_folder()
        if folder is None:
            raise UsageError("there is no home folder to keep weights in; set XDG_CACHE_HOME, or fetch a file by hand")
        if target in bundled():
            typer.echo(f"{target} comes with the package: there is nothing to fetch")
            return
        if "://" not in target and name is None and (there := pulled(folder).get(target)) is not None:
            _tell_pulled(there)
            return
        url, name, sha256 = _where_from(target, name, sha256, folder)
        try:
            with Progress(console=Console(stderr=True), transient=True) as bar:
                task = bar.add_task("fetching", total=None)
                fetched = pull(
                    *(url, folder),
                    name=name,
                    sha256=sha256,
                    progress=lambda done, total: bar.update(task, completed=done, total=total),
                )
        except PullError as error:
            raise UsageError(str(error)) from None
        _tell_pulled(fetched)


def _where_from(target: str, name: str | None, sha256: str | None, folder: Path) -> tuple[str, str | None, str | None]:
    """Address, name and hash of what is to be fetched. Raises UsageError, OSError.

    The folder is there when somebody is told to put something into it.
    """
    if "://" in target:
        return target, name, sha256
    one = published().get(target)
    if one is None:
        names = ", ".join([*bundled(), *pulled(folder), *published()])
        raise UsageError(f"{target} is no https address, and none of the names that are known: {names}")
    if one.url is None:
        folder.mkdir(parents=True, exist_ok=True)
        raise UsageError(
            f"{one.title} is not to be had by a program: its authors publish it {one.where}. Fetch it there in a "
            f"browser, then `stmixer-weights convert FILE.pth -o {folder / one.name}.safetensors --variant "
            f"{one.variant}` makes it known as {one.name}. Its size and SHA-256 are "
            f"{'unknown' if one.sha256 is None else one.sha256}"
        )
    return one.url, name or one.name, sha256 or one.sha256


def _tell_pulled(one: PulledWeights) -> None:
    sure = f", SHA-256 {one.sha256}" if one.sha256 else ""
    typer.echo(f"{one.file}: {one.bytes:,} bytes{sure}, {_whence(one)}")
    ready = one.file.with_suffix(".safetensors")
    if _ready_or_fetched(one) == ready:
        typer.echo(f"it goes by the name {one.name}: stmixer serve --weights {one.name}")
    else:
        typer.echo(f"it is one of PyTorch's: stmixer-weights convert {one.file} -o {ready}, then it goes by {one.name}")


@main.command()
def verify(
    file: Annotated[Path, typer.Argument(help="a .safetensors file of stmixer-weights")],
    runtime: Annotated[RuntimeName | None, typer.Option(help="compare this runtime with the plain network")] = None,
    precision: Annotated[PrecisionName, typer.Option(help="of that runtime")] = "auto",
    device: Annotated[str, typer.Option(help="of that runtime: cpu, cuda or cuda:N")] = "cpu",
) -> None:
    """Load strictly, compare the digest, look for numbers that are none, run one small clip; or compare a runtime."""
    with _user_errors():
        from stmixer.model.check import check_file, check_runtime
        from stmixer.model.checkpoint import load
        from stmixer.model.runtimes.device import named_device

        for sentence in check_file(file):
            typer.echo(f"ok  {sentence}")
        if runtime is not None or precision != "auto":
            typer.echo(check_runtime(load(file), named_device(device), runtime or "auto", precision))


@main.command()
def export(
    target: Annotated[str, typer.Argument(metavar="FILE|VARIANT", help="a .safetensors file, or initial weights")],
    output: Annotated[Path | None, typer.Option("-o", "--output", help="the .onnx file to write")] = None,
    beside: Annotated[bool, typer.Option("--beside", help="graphs that read FILE's tensors, beside it")] = False,
) -> None:
    """To ONNX (opset 18; batch, height and width free), each file compared with the network at another size."""
    with _user_errors():
        if beside == (output is not None):
            raise UsageError("give either -o x.onnx, or --beside for graphs that go with FILE and read its weights")
        if output is None:
            _export_beside(target)
            return
        if output.suffix != ".onnx":
            raise UsageError(f"{output}: the name must end in .onnx")
        if not output.parent.is_dir():
            raise UsageError(f"{output.parent} is not a folder; make it first")
        from stmixer.model.checkpoint import load, untrained
        from stmixer.model.export import export as write

        if target not in VARIANTS and weights_named(target) is None and not Path(target).exists():
            raise UsageError(f"{target} is neither a file nor bundled nor a variant; {_names()}")
        if target in VARIANTS:
            _tell_exported(write(untrained(target), output))
        else:
            _tell_exported(write(load(Path(target)), output, stated=_card_of(target)[1]))


def _export_beside(target: str) -> None:
    named = weights_named(target)
    weights = Path(target) if named is None else named.file
    if not weights.is_file() or weights.suffix != ".safetensors":
        raise UsageError(f"--beside wants a .safetensors file or a bundled name, got {target}")
    from stmixer.model.export import export_beside

    _tell_exported(export_beside(weights))


def _tell_exported(written: Mapping[Path, float]) -> None:
    for path, worst in written.items():
        typer.echo(f"ok  {path}: {path.stat().st_size / 2**20:.1f} MiB, deviates from eager by {worst:.1e}")


@main.command()
def pack(
    src: Annotated[Path, typer.Argument(help="a .safetensors file of stmixer-weights or stmixer-train")],
    output: Annotated[Path, typer.Option("-o", "--output", help="the .safetensors file to write")],
    name: Annotated[str | None, typer.Option(help="the model's name from now on")] = None,
    metrics: Annotated[Path | None, typer.Option(help="JSON: what was measured")] = None,
    licence: Annotated[str | None, typer.Option(help="licence of the weights")] = None,
    source: Annotated[str | None, typer.Option(help="where they come from")] = None,
    trained_on: Annotated[str | None, typer.Option(help="data")] = None,
) -> None:
    """For publishing: matrices in half precision, and what a user must know of the weights in the file itself."""
    with _user_errors():
        from stmixer.model.card import read_header
        from stmixer.model.checkpoint import halved, read_tensors, save

        card, _ = read_header(src)
        _check_output(src, output)
        given = {"licence": licence, "source": source, "trained_on": trained_on, "metrics": _read_metrics(metrics)}
        card = replace(card, **{key: value for key, value in given.items() if value is not None})
        if name is not None:
            card = replace(card, config=replace(card.config, name=name))
        save(output, halved(read_tensors(src)), card)
        _print_pairs({"read": src, "wrote": output, "bytes": f"{output.stat().st_size:,}"} | _described(card))


def _read_metrics(path: Path | None) -> Any:
    if path is None:
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read as JSON: {error}") from None


def _print_cost(config: DetectorConfig, size: tuple[int, int]) -> None:
    """Multiply-adds by part, of one clip of this width and height, px."""
    from stmixer.model.cost import multiply_adds

    width, height = padded_size(*size, config.preprocess)
    parts = multiply_adds(config, width, height)
    table = Table("part", title=f"{config.name}, one clip of {width} x {height}", title_justify="left")
    table.add_column("10^9 multiply-adds", justify="right")
    for part, value in parts.items():
        table.add_row(part, f"{value:.2f}")
    _console().print(table)
    typer.echo(f"total {sum(parts.values()):.1f}")


def _print_variants() -> None:
    """The zoo, a row each."""
    table = Table("variant", "backbone", "clip, frames x stride", "needs after the keyframe", "queries", "classes")
    for name, config in VARIANTS.items():
        clip, decoder = config.clip, config.decoder
        row = (f"{clip.frames} x {clip.stride}", f"{float(window(clip).lookahead_s):.2f} s")
        table.add_row(name, config.backbone.kind, *row, str(decoder.queries), str(decoder.classes))
    _console().print(table)


def _described(card: ModelCard) -> dict[str, object]:
    """What a user should know of a file first."""
    from stmixer.model.detector import skeleton

    return {
        "model": card.name,
        "parameters": f"{sum(p.numel() for p in skeleton(card.config).parameters()):,}",
        "trained": "yes" if card.trained else "NO: initial weights, its results mean nothing",
        "trained on": card.trained_on or "not stated",
        "licence": card.licence or "not stated",
        "source": card.source or "not stated",
        "labels": f"{len(card.labels)}: {card.labels[0].name} ... {card.labels[-1].name}",
    }


def _flat(data: Mapping[str, Any], prefix: str = "") -> dict[str, object]:
    """Nested mappings as one, keys joined by dots; sequences as their items."""
    pairs: dict[str, object] = {}
    for key, value in data.items():
        if isinstance(value, Mapping):
            pairs |= _flat(value, f"{prefix}{key}.")
        else:
            pairs[prefix + key] = " ".join(map(str, value)) if isinstance(value, (list, tuple)) else value
    return pairs


def _print_pairs(pairs: Mapping[str, object]) -> None:
    """A line each, values wrapped under themselves."""
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for key, value in pairs.items():
        table.add_row(key, Text(_printable(str(value))))
    _console().print(table)


def _console() -> Console:
    # piped, lines are for programs: wide enough that a digest stays whole
    return Console(highlight=False, width=None if sys.stdout.isatty() else 160)


def _printable(text: str) -> str:
    """What a file says, without the control characters that would reach the terminal."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


if __name__ == "__main__":
    main()
