"""A run's folder: what was asked for, with what it ran, and what came out.

``config.yaml`` (all keys), ``files.json`` (what was in the files that it names), ``versions.json`` (packages, git
commit), ``metrics/start_<n>/metrics.csv`` (one folder per
start), ``last.ckpt`` (to go on from), ``best.safetensors`` (while a run that keeps the best is under way),
``frozen.txt`` (parameters that are not trained), ``weights.safetensors``.
"""

from __future__ import annotations

import json
import platform
import subprocess
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

from stmixer.trainer.config.run import RunConfig, current_keys
from stmixer.trainer.data.set_folder import make_writable
from stmixer.trainer.errors import TrainError, writing
from stmixer.trainer.training.named_files import by_contents, contents

MAY_CHANGE = frozenset(
    {
        *("run_dir", "data_root", "epochs", "workers", "cache_mb", "check", "checkpoint_every", "log_every"),
        *("accelerator", "devices", "nodes", "evaluate", "licence"),
    }
)
"""Keys that a resumed run may have otherwise: they do not touch the losses, or only extend them."""

_PACKAGES = ("stmixer", "torch", "lightning", "numpy", "scipy", "av", "opencv-python-headless", "pydantic")


class RunFolder:
    """The folder of one run."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.config = root / "config.yaml"
        self.files = root / "files.json"
        self.checkpoint = root / "last.ckpt"
        self.weights = root / "weights.safetensors"
        self.best = root / "best.safetensors"

    def open(self, config: RunConfig, *, resume: bool) -> None:
        """Make the folder, or find the run in it.

        Raises:
            TrainError: it cannot be written, holds another run, or holds none to go on with.
        """
        with writing(self.root, "run folder "):
            make_writable(self.root)
        if resume:
            self._same_run(config)
        elif self.config.exists():
            raise TrainError(f"run folder {self.root} holds a run already: add --resume, or name another run_dir")

    def write(self, config: RunConfig) -> None:
        """Write configuration and versions."""
        values = config.model_dump(mode="json")
        self.config.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
        self.files.write_text(json.dumps(contents(values), indent=2) + "\n", encoding="utf-8")
        (self.root / "versions.json").write_text(json.dumps(versions(), indent=2) + "\n", encoding="utf-8")

    def write_frozen(self, names: Sequence[str]) -> None:
        """List what is not trained."""
        (self.root / "frozen.txt").write_text("".join(f"{name}\n" for name in names), encoding="utf-8")

    def next_start(self) -> str:
        """A name for the metrics of this start."""
        return f"start_{len(list((self.root / 'metrics').glob('start_*')))}"

    def _same_run(self, config: RunConfig) -> None:
        if not self.checkpoint.exists():
            raise TrainError(f"run folder {self.root} holds no last.ckpt to go on from")
        before, now = self._begun_with(), config.model_dump(mode="json")
        # earlier versions wrote down no contents: what is where it was is taken for what it was
        recorded = json.loads(self.files.read_text(encoding="utf-8")) if self.files.exists() else {}
        before, now = by_contents(before, contents(before) | recorded), by_contents(now, contents(now))
        changed = [key for key in now if key not in MAY_CHANGE and before.get(key) != now[key]]
        if changed:
            raise TrainError(f"{self.config}: the run began with other values of {', '.join(changed)}")

    def _begun_with(self) -> dict[str, Any]:
        """The run's configuration as it was written; keys that an earlier version did not know at their defaults."""
        written = current_keys(yaml.safe_load(self.config.read_text(encoding="utf-8")))
        try:
            return RunConfig.model_validate(written).model_dump(mode="json")
        except ValueError:
            return written


def versions() -> dict[str, str]:
    """Packages and the source's commit."""
    found = {"python": platform.python_version(), "commit": _commit()}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def _commit() -> str:
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    except OSError:
        return "unknown"
    return done.stdout.strip() or "unknown"
