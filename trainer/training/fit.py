"""One run from start to end: data, detector, Lightning's loop, weights."""

from __future__ import annotations

import errno
import importlib.util
import logging
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, EMAWeightAveraging, RichProgressBar
from lightning.pytorch.loggers import CSVLogger, Logger
from lightning.pytorch.utilities import rank_zero_only
from torch.utils.data import DataLoader

from stmixer.model.card import read_header
from stmixer.model.config import DetectorConfig
from stmixer.model.detector import Detector
from stmixer.model.heap import keep_freed_memory
from stmixer.trainer.config.run import RunConfig
from stmixer.trainer.data.cached_features import FeatureClips
from stmixer.trainer.data.clipset import ClipSet, ClipSource
from stmixer.trainer.data.loader import TrainLoader, make_loader
from stmixer.trainer.data.plan import Plan, in_order
from stmixer.trainer.data.records import Split
from stmixer.trainer.data.sets import RunData, label_list, load_data
from stmixer.trainer.errors import TrainError, writing
from stmixer.trainer.long_term.windows import Windows, clips_at_once, make_windows
from stmixer.trainer.training.best_weights import BestWeights, finds_somebody
from stmixer.trainer.training.cached_features import feature_folder, make_features, wait_for_features
from stmixer.trainer.training.checkpoint_files import CheckpointFiles
from stmixer.trainer.training.data_wait import DataWait
from stmixer.trainer.training.devices import check_devices
from stmixer.trainer.training.module import TrainingModule
from stmixer.trainer.training.progress import Progress, StepProgress
from stmixer.trainer.training.run_folder import RunFolder
from stmixer.trainer.training.weights import initial_detector, write_weights

log = logging.getLogger("stmixer.train")

_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)
"""What a disk says that takes no more."""


class ResumeCheckpoint(Callback):
    """Writes ``last.ckpt`` every so many steps and after every epoch, complete or not at all.

    Raises TrainError, in all processes, where the disk does not take it.
    """

    def __init__(self, path: Path, every: int, files: CheckpointFiles) -> None:
        self._path, self._every, self._files = path, every, files

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Lightning's hook."""
        if trainer.global_step % self._every == 0:
            self._save(trainer)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Lightning's hook."""
        self._save(trainer)

    def _save(self, trainer: L.Trainer) -> None:
        trainer.save_checkpoint(self._path)  # every process takes part, one writes
        failure = trainer.strategy.broadcast(self._files.failure)
        if failure is not None:
            stays = "; the one before it stays" if self._path.exists() else ""
            raise TrainError(f"{self._path} cannot be written: {failure}{stays}")


def fit(config: RunConfig, *, resume: bool = False, progress: Progress | None = None) -> TrainingModule:
    """Train. Everything that can be wrong with data or folder is said before the first step.

    Args:
        progress: is told how far it has come, in place of a bar on a terminal.

    Raises:
        TrainError: faults of data, configuration or folder.
        DivergedError: the network's output is no longer finite.
    """
    quieten_lightning()
    check_devices(config)
    if not _on_cuda(config):
        keep_freed_memory()
    folder = RunFolder(config.run_dir)
    if rank_zero_only.rank == 0:  # type: ignore[attr-defined]  # the first process writes the folder while others still start
        folder.open(config, resume=resume)
    data = load_data(config)
    labels = label_list(data.labels)
    detector = initial_detector(config, labels)
    first = None if config.mixing == 1 else {k: v.clone() for k, v in detector.state_dict().items()}
    cached = None
    if config.cached_features is not None:
        cached = _features(folder.root / "features", config, data, detector, progress)
    sizes = tuple(len(source.split) for source in data.train) if cached is None else cached.sizes

    def write(path: Path) -> None:
        trained = finds_somebody(module.reports)
        write_weights(path, module.detector, first, config, data, labels, trained=trained)

    best = BestWeights(folder.best if config.evaluate.keep == "best" else None, write, config.evaluate.patience)
    shown = [] if progress is None else [StepProgress(progress)]
    steps = len(training_plan(config, data, sizes, 1, 0))
    trainer = build_trainer(config, folder, steps, [best, *shown], bar=progress is None and sys.stderr.isatty())
    plan = training_plan(config, data, sizes, trainer.world_size, trainer.global_rank)
    windows = training_windows(config, data, detector.config)
    module = TrainingModule(detector, config, len(plan), data.val, labels, windows)
    if trainer.is_global_zero:
        with writing(folder.root, "run folder "):
            folder.write(config)
            folder.write_frozen(module.frozen_parameters())
    for line in summary(config, data, plan, module):
        log.info(line)
    clips = cached or ClipSet(data.train, detector.config, config.augment, config.cache_bytes, stills=config.stills)
    train = TrainLoader(clips, plan, config.workers, _on_cuda(config))
    val = evaluation_loader(config, data.val, trainer.world_size, trainer.global_rank)
    module.train()  # Lightning keeps the mode it is given, and detectors are built for evaluation
    with _faults_in_one_line(folder):
        trainer.fit(module, train, val, ckpt_path=str(folder.checkpoint) if resume else None, weights_only=False)
    if trainer.is_global_zero and trainer.state.finished:
        _finish(folder, best, write)
    return module


def _finish(folder: RunFolder, best: BestWeights, write: Callable[[Path], None]) -> None:
    """The run's file: the best weights where they are kept, else the last. Raises TrainError."""
    if best.path is not None and best.path.exists():
        with writing(folder.weights):
            best.path.replace(folder.weights)
    elif best.path is None or not folder.weights.exists():  # a run that was done already keeps what was best
        write(folder.weights)
    log.info(f"wrote {folder.weights}")
    if not read_header(folder.weights)[0].trained:
        log.warning(
            f"{folder.weights} finds nobody on the validation sets and says so of itself (trained: false): "
            "train for longer, on more, or from weights that find people"
        )


@contextmanager
def _faults_in_one_line(folder: RunFolder) -> Iterator[None]:
    """Raises TrainError for what the machine, and not the program, does to a run."""

    def quietly(given: threading.ExceptHookArgs) -> None:
        """TensorBoard's thread hands on what the disk says, and would print it besides."""
        if not (isinstance(given.exc_value, OSError) and given.exc_value.errno in _DISK):
            before(given)

    before, threading.excepthook = threading.excepthook, quietly
    try:
        yield
    except ValueError as error:
        if "other batches" in str(error):
            raise TrainError(f"{folder.checkpoint}: {error}") from None
        raise
    except OSError as error:
        if error.errno not in _DISK:
            raise
        raise TrainError(f"run folder {folder.root} cannot be written: {error.strerror}{_goes_on(folder)}") from None
    except RuntimeError as error:
        if not str(error).startswith("DataLoader worker"):
            raise
        ended = "a process that makes clips was ended, as when memory runs out"
        raise TrainError(
            f"{ended}: fewer workers or a smaller cache_mb take less ({error}){_goes_on(folder)}"
        ) from None
    finally:
        threading.excepthook = before


def _goes_on(folder: RunFolder) -> str:
    return "; go on with --resume" if folder.checkpoint.exists() else ""


def fit_phases(configs: Sequence[RunConfig], *, resume: bool = False, progress: Progress | None = None) -> None:
    """Train runs of which each starts from the one before. ``resume`` passes over those that are done. ``progress`` as
    for ``fit``.

    Raises:
        TrainError, DivergedError: as ``fit``.
    """
    for config in configs:
        if resume and len(configs) > 1 and (config.run_dir / "weights.safetensors").exists():
            log.info(f"{config.run_dir} is done")
        else:
            begun = resume and (len(configs) == 1 or RunFolder(config.run_dir).checkpoint.exists())
            fit(config, resume=begun, progress=progress)


def quieten_lightning() -> None:
    """Leaves its warnings, but not its advertisements, nor a deprecation inside itself that we cannot mend."""
    for name in ("lightning.pytorch", "lightning.fabric", "lightning"):
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=".*LeafSpec.* is deprecated", category=FutureWarning)
    # frozen norms are meant to be so
    warnings.filterwarnings("ignore", message=r"Found \d+ module\(s\) in eval mode")


def training_windows(
    config: RunConfig, data: RunData, detector: DetectorConfig
) -> tuple[Windows | None, Windows | None]:
    """A long-term model's windows in training and in evaluation; nothing of one is seen in the other.

    Raises:
        TrainError: a bank that does not go with the model.
    """
    train, val = (make_windows(detector, config.bank, None, sources) for sources in (data.train, data.val))
    return train, val


def _features(
    root: Path, config: RunConfig, data: RunData, detector: Detector, progress: Progress | None
) -> FeatureClips:
    """The first process makes them while others wait, or have not started yet."""
    maps = feature_folder(root, config, detector)
    if rank_zero_only.rank == 0:  # type: ignore[attr-defined]
        device = torch.device("cuda" if _on_cuda(config) else "cpu")
        make_features(maps, config, data.train, detector, device, progress)
    wait_for_features(maps)
    return FeatureClips(maps, detector.config.clip, config.augment, len(data.train))


def training_plan(config: RunConfig, data: RunData, sizes: tuple[int, ...], world: int, rank: int) -> Plan:
    """The order of the training clips on one process, of sets of so many keyframes. Raises TrainError for a batch that
    cannot be dealt evenly."""
    weights = tuple(source.config.weight for source in data.train)
    given = tuple(w for w in weights if w is not None)
    clips = config.clips_per_epoch or sum(sizes)
    return Plan(sizes, given or None, clips, config.batch_size, rank, world, config.seed)


def evaluation_loader(
    config: RunConfig, sources: Sequence[ClipSource], world: int = 1, rank: int = 0
) -> DataLoader[Any]:
    """Every evaluation keyframe once, over all processes."""
    size = clips_at_once(config.detector(), config.evaluate.batch_size)
    batches = in_order([source.split.video for source in sources], size, rank, world)
    clips = ClipSet(sources, config.detector(), None, config.cache_bytes, stills=config.stills)
    return make_loader(clips, batches, config.workers, _on_cuda(config))


def _on_cuda(config: RunConfig) -> bool:
    return torch.cuda.is_available() and config.accelerator != "cpu"


def build_trainer(
    config: RunConfig, folder: RunFolder, steps: int, more: Sequence[Callback] = (), *, bar: bool = False
) -> L.Trainer:
    """Lightning's loop as the configuration wants it; an epoch has ``steps``. ``more``: besides what every run has;
    ``bar``: one on the terminal.

    Under torchrun the process takes its place from the environment.
    """
    files = CheckpointFiles()
    callbacks: list[Callback] = [ResumeCheckpoint(folder.checkpoint, config.checkpoint_every, files), DataWait(), *more]
    if config.optimiser.ema_decay is not None:
        callbacks.append(EMAWeightAveraging(use_buffers=False, decay=config.optimiser.ema_decay))
    if bar:
        callbacks.append(RichProgressBar())
    every = config.evaluate.every_epochs
    trainer = L.Trainer(
        accelerator=config.accelerator,
        devices=config.devices,
        num_nodes=config.nodes,
        precision="bf16-mixed" if config.precision == "bf16" else "32-true",
        max_epochs=config.epochs,
        gradient_clip_val=config.optimiser.clip_norm,
        sync_batchnorm=config.backbone_norm == "sync",
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        check_val_every_n_epoch=every or config.epochs,
        log_every_n_steps=min(config.log_every, steps),
        enable_checkpointing=False,
        enable_progress_bar=bar,
        enable_model_summary=False,
        callbacks=callbacks,
        plugins=[files],
        logger=_loggers(folder),
        default_root_dir=folder.root,
    )
    return trainer


def _loggers(folder: RunFolder) -> list[Logger]:
    start = folder.next_start()
    loggers: list[Logger] = [CSVLogger(folder.root, name="metrics", version=start, flush_logs_every_n_steps=10)]
    if importlib.util.find_spec("tensorboard") is not None:
        from lightning.pytorch.loggers import TensorBoardLogger

        loggers.append(TensorBoardLogger(folder.root, name="tensorboard", version=start))
    return loggers


def summary(config: RunConfig, data: RunData, plan: Plan, module: TrainingModule) -> list[str]:
    """What is about to happen, for the log."""
    trained = sum(p.numel() for p in module.detector.parameters() if p.requires_grad)
    lines = [f"{config.model}, {trained:,} parameters to train, {len(module.frozen_parameters())} tensors frozen"]
    for source in (*data.train, *data.val):
        split = source.split
        lines.append(f"{split.name} {split.part}: {len(split.videos)} videos, {len(split)} keyframes, {_people(split)}")
    untaught = [label for i, label in enumerate(data.labels) if not any(s.actions[:, i].any() for s in data.train)]
    if untaught:
        lines.append(f"labels without a training box: {', '.join(untaught)}")
    lines.append(f"{config.epochs} epochs of {len(plan)} steps of {config.batch_size} clips")
    return lines


def _people(split: Split) -> str:
    people = ~split.crowd
    unknown = people & ~split.annotated.any(1)
    areas = f", {int(split.crowd.sum())} areas to ignore" if split.crowd.any() else ""
    return f"{int(people.sum())} people, {int(unknown.sum())} of unknown action{areas}"
