"""Frame, then clip: how a detector that sees frames one by one (``config.backbone.per_frame``) runs its two stages.

The frame stage gives a frame's maps whatever clip it is in; the clip stage decodes the maps of a clip's frames. Whoever
knows that clips share frames computes each once: a batch of neighbouring keyframes (``detect_each_frame_once``) or a
stream, which keeps maps from one clip to the next (``maps_of_frames`` and ``gather``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, TypeVar

from stmixer.model.outputs import DecoderOutput

if TYPE_CHECKING:
    from torch import Tensor

F = TypeVar("F")

FRAMES_AT_ONCE = 8
"""Frames per run of the frame stage: enough to fill a GPU, few enough to bound its memory."""

FrameStage = Callable[["Tensor"], Sequence["Tensor"]]
"""(F, 3, H, W) normalised and padded frames -> four maps (F, D, H / s, W / s), and where the model has them the frames'
starts (F, 5, K, 1), which all here treats as a map like the others."""

ClipStage = Callable[..., DecoderOutput]
"""Such maps (B, T, D, H / s, W / s), (B, 2) sizes in px and, of a long-term model, its bank -> the decoder's output."""


def frames_of(clip: Tensor) -> Tensor:
    """(B, 3, T, H, W) -> its frames (B T, 3, H, W), clip by clip."""
    return clip.transpose(1, 2).flatten(0, 1)


def clips_of(maps: Iterable[Tensor], batch: int) -> list[Tensor]:
    """Maps of the frames of so many clips, (B T, D, h, w) each -> (B, T, D, h, w)."""
    return [x.reshape(batch, -1, *x.shape[1:]) for x in maps]


def detect_by_frame(
    frame_stage: FrameStage, clip_stage: ClipStage, clip: Tensor, sizes_wh: Tensor, *bank: Tensor | None
) -> DecoderOutput:
    """Both stages on every frame of a clip (B, 3, T, H, W): ``Detector.forward``."""
    return clip_stage(clips_of(frame_stage(frames_of(clip)), clip.shape[0]), sizes_wh, *bank)


def detect_each_frame_once(
    frame_stage: FrameStage, clip_stage: ClipStage, clip: Tensor, sizes_wh: Tensor, *bank: Tensor
) -> DecoderOutput:
    """The same, running the frame stage once on frames of the batch that are equal, bit by bit."""
    frames = frames_of(clip)
    firsts: list[int] = []
    place: list[int] = []
    for i in range(len(frames)):
        same = next((k for k, j in enumerate(firsts) if frames[i].equal(frames[j])), None)
        if same is None:
            same = len(firsts)
            firsts.append(i)
        place.append(same)
    maps = frame_stage(frames[firsts])
    return clip_stage(clips_of((x[place] for x in maps), clip.shape[0]), sizes_wh, *bank)


def maps_of_frames(
    frame_stage: FrameStage, frames: Sequence[F], pixels: Callable[[Sequence[F]], Tensor], at_once: int = FRAMES_AT_ONCE
) -> Iterator[tuple[Sequence[F], Sequence[Tensor]]]:
    """Run the frame stage over any number of frames.

    Args:
        frame_stage: see ``FrameStage``.
        frames: what stands for them, in order.
        pixels: some of ``frames`` -> (F, 3, H, W), the stage's input.
        at_once: how many of them, at most.

    Yields:
        Those frames, and their maps.
    """
    for first in range(0, len(frames), at_once):
        part = frames[first : first + at_once]
        yield part, frame_stage(pixels(part))


def by_cell(maps: Iterable[Tensor]) -> tuple[Tensor, ...]:
    """A frame's maps (D, h, w) as they are kept: (h, w, D), a cell's channels side by side, as samplers read them."""
    return tuple(x.permute(1, 2, 0).contiguous() for x in maps)


def gather(clips: Sequence[Sequence[Sequence[Tensor]]], *, cells: bool = True) -> list[Tensor]:
    """The clip stage's maps out of kept ones.

    ``clips`` holds, for each of B clips and each of its T frames, the maps (h, w, D) that ``by_cell`` gave;
    without ``cells``, maps (D, h, w) as they are.
    Returns as many maps (B, T, D, h, w), each a view of (B, T, h, w, D).
    """
    import torch  # who runs ONNX imports this module, and needs none

    frames = [frame for clip in clips for frame in clip]
    stacked = clips_of((torch.stack(level) for level in zip(*frames, strict=True)), len(clips))
    return [x.permute(0, 1, 4, 2, 3) for x in stacked] if cells else stacked
