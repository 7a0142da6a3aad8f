"""The long-term query bank of a set (paper §3.5): what a short-term model saw in every clip of its videos.

A clip a second, from each video's first frame on, whatever is annotated: a bank is for looking around a keyframe, also
where nobody drew a box, and AVA's keyframes, whole seconds, are among them. Videos without any keyframe are left out.

The file is safetensors: ``queries`` (M, k, 2D) float16, spatial before temporal, of the k best person scores, the best
first; ``scores`` (M, k) float32; ``times_us`` (M,) int64 after the video's first frame; ``starts`` (V + 1,) int64, the
first clip of each video. Its header's ``stmixer_bank`` entry names the model and its digest, set, videos, k and dim.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from stmixer.media.errors import MediaError
from stmixer.model.card import CheckpointError, read_header
from stmixer.model.checkpoint import Model, digest, load
from stmixer.model.query_bank import ENTRY_US as CLIP_US
from stmixer.model.query_bank import second_of
from stmixer.model.stage import best_queries
from stmixer.trainer.config.run import RunConfig, SetConfig
from stmixer.trainer.data.batch import network_input
from stmixer.trainer.data.check import check_split, frame_times
from stmixer.trainer.data.clipset import ClipSet, ClipSource
from stmixer.trainer.data.loader import make_loader
from stmixer.trainer.data.plan import in_order
from stmixer.trainer.data.records import FrameFolder, Picture, Split, Video
from stmixer.trainer.data.sets import read_set
from stmixer.trainer.errors import TrainError

FORMAT = 1
TOP_K = 5
WIDTH_CLIPS = 60


@dataclass(frozen=True, slots=True)
class BankCard:
    """What a bank says of itself: ``digest`` is its model's (model.checkpoint), ``dim`` the queries' width, 2D."""

    model: str
    digest: str
    set: str
    videos: tuple[str, ...]
    k: int
    dim: int

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> BankCard:
        """Raises KeyError or TypeError for what is missing or unknown."""
        if unknown := set(data) - {field.name for field in fields(cls)}:
            raise KeyError(", ".join(sorted(unknown)))
        return cls(**{**data, "videos": tuple(data["videos"])})


class QueryBank:
    """Reads a bank. The queries stay in the file until a window wants them; may be pickled to worker processes."""

    def __init__(self, path: Path, model_digest: str | None = None) -> None:
        """Open a bank.

        Args:
            path: the file.
            model_digest: of the model that the bank must come from, as its file's header states it; None takes any.

        Raises:
            TrainError: no bank, or another model's.
        """
        self.path = path
        self.card = _read_card(path)
        if model_digest is not None and self.card.digest != model_digest:
            raise TrainError(
                f"{path} is a bank of another model: of {self.card.model} {self.card.digest[:12]}, not of "
                f"{model_digest[:12]}; make it again with `stmixer-train bank`"
            )
        self._rows = {video: i for i, video in enumerate(self.card.videos)}
        self._file: Any = None
        self.times_us, self.scores, self._starts = (self._tensor(n) for n in ("times_us", "scores", "starts"))
        self._check_shapes()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_file": None}

    def clips(self, video: str) -> slice:
        """The rows of a video's clips in ``times_us`` and ``scores``. Raises KeyError for a video it does not hold."""
        row = self._rows[video]
        return slice(int(self._starts[row]), int(self._starts[row + 1]))

    def window(
        self, video: str, t_s: float, width_clips: int = WIDTH_CLIPS, before_clips: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """The queries around a moment.

        Args:
            video: as the set names it.
            t_s: seconds after the video's first frame; the clip nearest to it is the window's centre.
            width_clips: w.
            before_clips: how many of them lie before the centre (default: w // 2); the rest are it and later ones.

        Returns:
            (K, 2D) float32 queries, K = w * k, by rising time and falling person score, zero where the video has no
            clip, and (K,) bool, True where it has one.

        Raises:
            KeyError: a video that the bank does not hold.
        """
        rows, k = self.clips(video), self.card.k
        first = second_of(round(t_s * 1e6)) - (width_clips // 2 if before_clips is None else before_clips)
        begin, end = max(first, 0), min(first + width_clips, rows.stop - rows.start)
        queries = torch.zeros(width_clips, k, self.card.dim)
        mask = torch.zeros(width_clips, k, dtype=torch.bool)
        if begin < end:
            there = slice(begin - first, end - first)
            queries[there] = self._opened().get_slice("queries")[rows.start + begin : rows.start + end].float()
            mask[there] = True
        return queries.flatten(0, 1), mask.flatten()

    def _opened(self) -> Any:
        if self._file is None:  # one per process
            self._file = safe_open(self.path, "pt")
        return self._file

    def _tensor(self, name: str) -> Tensor:
        try:
            tensor: Tensor = self._opened().get_tensor(name)
        except (SafetensorError, OSError) as error:
            raise TrainError(f"{self.path} is a damaged bank: {error}") from None
        return tensor

    def _check_shapes(self) -> None:
        clips, shape = len(self.times_us), list(self._opened().get_slice("queries").get_shape())
        good = shape == [clips, self.card.k, self.card.dim] and len(self._starts) == len(self.card.videos) + 1
        if not good or int(self._starts[-1]) != clips or self.scores.shape != (clips, self.card.k):
            raise TrainError(f"{self.path} is a damaged bank: its tensors are not of the shapes that it states")


def _read_card(path: Path) -> BankCard:
    if not path.is_file():
        raise TrainError(f"bank {path} does not exist")
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise TrainError(f"{path} is not a safetensors file: {error}") from None
    if "stmixer_bank" not in metadata:
        raise TrainError(f"{path} is not a query bank; `stmixer-train bank` makes one")
    try:
        header = json.loads(metadata["stmixer_bank"])
        if header["format"] != FORMAT:
            raise TrainError(f"{path} has format {header['format']}, this version reads {FORMAT}: make it again")
        return BankCard.from_dict(header["card"])
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise TrainError(f"{path} is a damaged bank: {type(error).__name__} {error}") from None


@dataclass(frozen=True, slots=True)
class BankMaker:
    """Runs a model over a set. ``progress`` is told batches done and in all; ``set_name`` chooses among several."""

    config: RunConfig
    weights: Path
    device: torch.device
    set_name: str | None = None
    k: int = TOP_K
    progress: Callable[[int, int], None] | None = None

    def run(self, out: Path) -> BankCard:
        """Make the bank of all videos of the set, train and val, complete or not at all.

        Raises:
            TrainError: weights or data that cannot be used, k over the model's queries, a file that cannot be written.
        """
        model, model_digest = self._model()
        if model.card.config.long_term is not None:
            raise TrainError(f"{self.weights} is a long-term model: a bank is made with the short-term one before it")
        chosen, split = self._choose()
        if self.k > model.card.config.decoder.queries:
            raise TrainError(f"k is {self.k}, the model has {model.card.config.decoder.queries} queries")
        partial = out.with_name(out.name + ".partial")
        try:
            out.parent.mkdir(parents=True, exist_ok=True)
            partial.touch()
            mode = partial.stat().st_mode
            tensors = self._tensors(model, ClipSource.of(chosen, split, ()))
            names = tuple(video.name for video in split.videos)
            dim = int(tensors["queries"].shape[-1])
            card = BankCard(model.card.name, model_digest, split.name, names, self.k, dim)
            save_file(tensors, partial, {"stmixer_bank": json.dumps({"format": FORMAT, "card": asdict(card)})})
            partial.chmod(mode)
            partial.replace(out)
        except (OSError, SafetensorError) as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else error
            raise TrainError(f"{out} cannot be written: {reason}") from None
        finally:
            if partial.parent.is_dir():
                partial.unlink(missing_ok=True)
        return card

    def _model(self) -> tuple[Model, str]:
        try:
            model = load(self.weights)
            _, stated = read_header(self.weights)
        except CheckpointError as error:
            raise TrainError(str(error).splitlines()) from None
        if digest(model.detector.state_dict()) != stated:
            raise TrainError(f"{self.weights} is damaged: its tensors do not have the digest that it states")
        return model, stated

    def _choose(self) -> tuple[SetConfig, Split]:
        """The set, and a split of its clips instead of its keyframes."""
        splits: dict[str, tuple[SetConfig, list[Split]]] = {}
        config = self.config.model_copy(update={"labels": None})  # a bank asks for none
        for i, chosen in enumerate(config.sets):
            parts = [read_set(config, chosen, part) for part in chosen.parts]
            name = parts[0].name
            splits[f"{name}#{i + 1}" if name in splits else name] = (chosen, parts)
        wanted = next(iter(splits)) if self.set_name is None and len(splits) == 1 else self.set_name
        if wanted is None or wanted not in splits:
            raise TrainError(f"a bank is of one set: choose with --name among {', '.join(splits)}")
        chosen, parts = splits[wanted]
        checked = [check_split(split, self.config.check) for split in parts if len(split)]
        if not checked:
            raise TrainError(f"{wanted}: no annotated frame of any video")
        videos = {video.name: video for split in checked for video in split.videos}
        return chosen, every_second(wanted, list(videos.values()))

    @torch.inference_mode()
    def _tensors(self, model: Model, source: ClipSource) -> dict[str, Tensor]:
        config, split = model.card.config, source.split
        batches = in_order([split.video], self.config.evaluate.batch_size)
        clips = ClipSet([source], config, None, self.config.cache_bytes)
        loader = make_loader(clips, batches, self.config.workers, self.device.type == "cuda")
        detector = model.detector.to(self.device).eval()
        queries = torch.empty(len(split), self.k, 2 * config.decoder.dim, dtype=torch.float16)
        scores = torch.empty(len(split), self.k)
        for done, batch in enumerate(loader, start=1):
            clip, sizes_wh = network_input(batch.to(self.device).frames, config.preprocess)
            best, their_scores = best_queries(detector(clip, sizes_wh), self.k)
            rows = [draw.keyframe for draw in batch.draws]
            queries[rows], scores[rows] = best.to("cpu", torch.float16), their_scores.cpu()
            if self.progress is not None:
                self.progress(done, len(batches))
        starts = np.searchsorted(split.video, np.arange(len(split.videos) + 1))
        times = torch.from_numpy(split.pts_us)
        return {"queries": queries, "scores": scores, "times_us": times, "starts": torch.from_numpy(starts).long()}


def every_second(name: str, videos: Sequence[Video]) -> Split:
    """A split with a clip a second of each video and nobody in it. Raises TrainError for an unreadable video."""
    counts = [_end_us(name, video) // CLIP_US + 1 for video in videos]
    clip = np.concatenate([np.arange(count) for count in counts])
    n = len(clip)
    return Split(
        name=name,
        part="val",
        labels=(),
        videos=tuple(videos),
        video=np.repeat(np.arange(len(videos)), counts),
        frame=clip,
        pts_us=clip * CLIP_US,
        starts=np.zeros(n + 1, dtype=np.int64),
        boxes_xyxy=np.zeros((0, 4)),
        actions=np.zeros((0, 0), dtype=np.bool_),
        annotated=np.zeros((0, 0), dtype=np.bool_),
        crowd=np.zeros(0, dtype=np.bool_),
        posture=np.zeros(0, dtype=np.int64),
        track=np.zeros(0, dtype=np.int64),
    )


def _end_us(name: str, video: Video) -> int:
    """When the last frame is shown."""
    match video.source:
        case FrameFolder() as folder:
            return folder.time_us(folder.count - 1)
        case Picture():
            return 0
        case source:
            if source.duration_us is not None:
                return source.duration_us
            try:
                return int(frame_times(source.path)[-1])
            except MediaError as error:
                raise TrainError(f"{name}: {source.path}: {error}") from None
