"""How fast a model runs: milliseconds, multiply-adds, share of the machine's own matrix-product rate, peak memory.

    python -m bench.model run slowonly_r50 rt_lite0 --runtime eager --runtime onnx -o bench/results/model_cpu.json
    python -m bench.model run slowonly_r50 vit_l -o bench/results/paper_cpu.json      # all rows of that page
    python -m bench.model run csn_152 --add -o bench/results/paper_cpu.json           # beside the rows that it has
    python -m bench.model page                            # docs/paper.md, Figures by model: the column of milliseconds

Each row is a process of its own, so that its peak memory is its own. The machine's rate is that of a 2048 x 2048 x 2048
product in float32; product and forwards take turns, since a machine's speed changes from second to second, and each has
its median of five after two. A share is multiply-adds / time / rate. Multiply-adds are convolutions and linear layers
as the paper counts them; the decoder's own include the products of adaptive mixing. Run it on a machine that does
nothing else.
"""

from __future__ import annotations

import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor

from bench.hardware import onnx_runtime, processor
from stmixer.model.checkpoint import open_model
from stmixer.model.config import DetectorConfig
from stmixer.model.cost import multiply_adds
from stmixer.model.frame_maps import STRIDES
from stmixer.model.frame_then_clip import clips_of, frames_of
from stmixer.model.runtimes.choose import open_runtime, torch_runtime
from stmixer.model.runtimes.eager import EagerRuntime
from stmixer.model.runtimes.runtime import Runtime, RuntimeUnavailable
from stmixer.model.zoo import VARIANTS
from stmixer.service.ipc.child import KEEPS_FREED_MEMORY

WARM_UPS, ROUNDS = 2, 5
ROOT = Path(__file__).resolve().parents[1]
RESULTS, PAGE = ROOT / "bench" / "results" / "paper_cpu.json", ROOT / "docs" / "paper.md"
SHOWN = ("eager", "fp32", 1)
"""Of the rows those whose milliseconds the page has."""
COLUMNS = 8
"""What `|` cuts a row of the page's table into."""
PRODUCT = 2048

app = typer.Typer(pretty_exceptions_enable=False)


def milliseconds(runs: Mapping[str, Callable[[], object]], device: torch.device) -> dict[str, float]:
    """Each one's median, all of them taking turns, after some rounds to warm up."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for i in range(WARM_UPS + ROUNDS):
        for name, run in runs.items():
            started = time.perf_counter()
            run()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            if i >= WARM_UPS:
                times[name].append(time.perf_counter() - started)
    return {name: statistics.median(taken) * 1e3 for name, taken in times.items()}


def mixing_products(config: DetectorConfig) -> float:
    """10^9 multiply-adds of the products of adaptive mixing (paper §3.4), which the paper's count leaves out."""
    c = config.decoder
    channels = c.dim // c.groups
    spatial = c.points * channels**2 + c.points_out * c.points * channels
    temporal = c.frames * channels**2 + c.frames_out * c.frames * channels
    return c.stages * c.queries * c.groups * (spatial + temporal) / 1e9


def open_variant(name: str, runtime: str, precision: str, device: torch.device, folder: Path) -> Runtime:
    """The variant with initial weights, or bundled ones; for ONNX Runtime exported first."""
    if runtime != "onnx":
        return torch_runtime(open_model(name, None), device, runtime=runtime, precision=precision)
    path = folder / f"{name}.onnx"
    if not path.exists():
        from stmixer.model.export import export  # it wants packages that a rented GPU lacks

        export(open_model(name, None), path)
    return open_runtime(None, path, device, precision=precision, tensors=True)


def parts(runtime: EagerRuntime, clip: Tensor, sizes: Tensor) -> dict[str, Callable[[], object]]:
    """The parts that are timed apart; of eager alone."""
    detector, device = runtime.detector, runtime.device
    if runtime.card.config.backbone.per_frame:
        frame = clip[:1, :, 0].contiguous()
        maps = clips_of(runtime.frame_stage(frames_of(clip)), len(clip))
        return {"frame_ms": lambda: runtime.frame_stage(frame), "clip_ms": lambda: runtime.clip_stage(maps, sizes)}

    def inferred(run: Callable[[], object]) -> Callable[[], object]:
        def call() -> None:
            with torch.inference_mode(), torch.autocast(device.type, enabled=False):
                run()

        return call

    with torch.inference_mode():
        space = detector.feature_space(detector.backbone(clip))
    return {
        "backbone_ms": inferred(lambda: detector.feature_space(detector.backbone(clip))),
        "decoder_ms": inferred(lambda: detector.decoder(space, STRIDES, sizes)),
    }


@app.command("row", hidden=True)
def row(name: str, runtime: str, precision: str, batch: int, size: int, folder: Path) -> None:
    """One measurement, as JSON on stdout."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        opened = open_variant(name, runtime, precision, device, folder)
    except RuntimeUnavailable as error:
        print(json.dumps({"model": name, "runtime": runtime, "precision": precision, "refused": str(error)}))
        return
    print(json.dumps(measured(opened, name, precision, batch, size, device)))


def measured(
    opened: Runtime, name: str, precision: str, batch: int, size: int, device: torch.device
) -> dict[str, object]:
    """The figures of one runtime on square clips; ``precision`` as it was asked for."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    config = opened.card.config
    clip = torch.randn(batch, 3, config.clip.frames, size, size, device=device)
    sizes = torch.full((batch, 2), float(size), device=device)
    a, b = torch.randn(PRODUCT, PRODUCT, device=device), torch.randn(PRODUCT, PRODUCT, device=device)
    runs: dict[str, Callable[[], object]] = {"product": lambda: a @ b, "whole": lambda: opened.detect(clip, sizes)}
    if isinstance(opened, EagerRuntime) and opened.name == "eager" and precision == "fp32":
        runs |= parts(opened, clip, sizes)
    timed = milliseconds(runs, device)
    rate, whole_ms = PRODUCT**3 / timed.pop("product") / 1e6, timed.pop("whole")
    counted = multiply_adds(config, size, size, batch)
    decoder = sum(v for k, v in counted.items() if k.startswith("decoder")) + batch * mixing_products(config)
    result = {
        "model": name,
        "runtime": opened.name,
        "precision": opened.precision,
        "batch": batch,
        "ms": _milliseconds(whole_ms),
        "multiply_adds_e9": round(sum(counted.values()), 2),
        "share_of_rate": round(sum(counted.values()) / whole_ms * 1e3 / rate, 3),
        "rate_e9_per_s": round(rate, 1),
        "peak_mb": round(peak_bytes(device) / 2**20),
    } | {k: _milliseconds(v) for k, v in timed.items()}
    decoder_ms = timed.get("decoder_ms", timed.get("clip_ms"))
    if decoder_ms is not None:
        result["decoder_multiply_adds_e9"] = round(decoder, 2)
        result["decoder_share_of_rate"] = round(decoder / decoder_ms * 1e3 / rate, 3)
    return result


def _milliseconds(value: float) -> float:
    """To a tenth, or of a few to a hundredth."""
    return round(value, 1 if value >= 10 else 2)


def peak_bytes(device: torch.device) -> int:
    """Of the GPU's memory, or of this process's."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    status = Path("/proc/self/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))) * 1024


@app.command("run")
def run(
    models: Annotated[list[str], typer.Argument(help="variants")],
    output: Annotated[Path, typer.Option("-o", "--output", help="the result, JSON")],
    runtime: Annotated[list[str], typer.Option(help="eager, compile, cudagraph, onnx; repeat for more")] = ["eager"],  # noqa: B006
    precision: Annotated[list[str], typer.Option(help="fp32, bf16, fp16; repeat for more")] = ["fp32"],  # noqa: B006
    batch: Annotated[list[int], typer.Option(help="clips; repeat for more")] = [1],  # noqa: B006
    size: Annotated[int, typer.Option(help="side of the square clip, px")] = 256,
    add: Annotated[
        bool, typer.Option("--add", help="keep the file's other rows, of the same machine and versions")
    ] = False,
) -> None:
    """Measure every combination and write."""
    where, load = conditions(size), os.getloadavg()[0]
    before = rows_of(output, where) if add else []
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for arguments in ((m, r, p, str(b)) for m in models for r in runtime for p in precision for b in batch):
            command = [sys.executable, "-m", "bench.model", "row", *arguments, str(size), folder]
            # memory as the service's workers have it
            environment = {**KEEPS_FREED_MEMORY, **os.environ}
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
            rows.append(json.loads(done.stdout.splitlines()[-1]))
            typer.echo(rows[-1])
    joined = {key_of(each): each for each in [*before, *rows]}  # what is measured again in the other one's place
    result = where | {"load_before": load, "rows": list(joined.values())}
    output.write_text(json.dumps(result, indent=1) + "\n")


def conditions(size: int) -> dict[str, object]:
    """What is measured, on which machine and with which versions."""
    return {
        "what": "forwards of initial weights on square clips",
        "size": size,
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {os.cpu_count()} cores",
        "processor": processor(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "onnxruntime": onnx_runtime(),
    }


def rows_of(results: Path, where: Mapping[str, object]) -> list[dict[str, object]]:
    """A file's rows. Raises BadParameter where they were measured elsewhere: rows of one file can be compared."""
    before: dict[str, Any] = json.loads(results.read_text())
    if differ := [name for name, value in where.items() if before.get(name) != value]:
        raise typer.BadParameter(f"{results} has rows of another {', '.join(differ)}: measure all of them again")
    return list(before["rows"])


def key_of(row: Mapping[str, object]) -> tuple[object, ...]:
    """What was measured in it."""
    return tuple(row.get(name) for name in ("model", "runtime", "precision", "batch"))


@app.command("page")
def page(
    results: Annotated[Path, typer.Option(help="what `run` wrote")] = RESULTS,
    document: Annotated[Path, typer.Option(help="the page that has the table")] = PAGE,
) -> None:
    """Write the milliseconds of eager, fp32, one clip into the table of models; a dash where nothing is measured."""
    measured = {row["model"]: row["ms"] for row in json.loads(results.read_text())["rows"] if key_of(row)[1:] == SHOWN}
    document.write_text(with_milliseconds(document.read_text(), measured))


def with_milliseconds(text: str, measured: Mapping[str, float]) -> str:
    """The page, the last column but one of each model's row filled."""

    def filled(row: re.Match[str]) -> str:
        name, cells = row[1], row[0].split("|")
        if name in VARIANTS and len(cells) == COLUMNS:
            cells[-3] = f" {measured[name]:.1f} " if name in measured else " – "
        return "|".join(cells)

    return re.sub(r"^\| `(\w+)` \|.*\|$", filled, text, flags=re.MULTILINE)


if __name__ == "__main__":
    app()
