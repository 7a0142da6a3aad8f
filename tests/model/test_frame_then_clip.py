"""Frames one by one, then clips: each frame's maps come to the clips that hold it, in their order."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from stmixer.model.frame_then_clip import (
    FRAMES_AT_ONCE,
    by_cell,
    clips_of,
    detect_by_frame,
    detect_each_frame_once,
    frames_of,
    gather,
    maps_of_frames,
)

SIZES = torch.tensor([[8.0, 4.0]] * 2)


def stage(frames: Tensor) -> tuple[Tensor, ...]:
    """Two levels whose values tell the frame: (F, 3, 4, 8) -> (F, 3, 4, 8) and (F, 3, 2, 4)."""
    return 2 * frames, frames[..., ::2, ::2] + 1


def clip_of_two() -> Tensor:
    """(2, 3, 4, 4, 8); the second clip's first three frames are the first one's last three."""
    frames = torch.arange(5.0).view(5, 1, 1, 1) + torch.rand(5, 3, 4, 8, generator=torch.Generator().manual_seed(0))
    return torch.stack((frames[:4], frames[1:])).transpose(1, 2)


def test_frames_and_back() -> None:
    clip = clip_of_two()
    frames = frames_of(clip)
    assert torch.equal(frames[5], clip[1, :, 1])
    (maps,) = clips_of([frames], 2)
    assert torch.equal(maps, clip.transpose(1, 2))


def test_each_frame_once_gives_the_same_maps() -> None:
    seen: list[tuple[list[Tensor], Tensor, tuple[Tensor, ...]]] = []
    counted: list[int] = []

    def counting(frames: Tensor) -> tuple[Tensor, ...]:
        counted.append(len(frames))
        return stage(frames)

    def clip_stage(maps: Sequence[Tensor], sizes_wh: Tensor, *bank: Tensor) -> None:
        seen.append((list(maps), sizes_wh, bank))

    for detect in (detect_by_frame, detect_each_frame_once):
        detect(counting, clip_stage, clip_of_two(), SIZES, torch.ones(1))  # type: ignore[arg-type]
    assert counted == [8, 5]
    (every, sizes, bank), (once, same_sizes, same_bank) = seen
    assert sizes is same_sizes is SIZES
    assert len(bank) == len(same_bank) == 1
    assert [x.shape for x in every] == [(2, 4, 3, 4, 8), (2, 4, 3, 2, 4)]
    assert all(torch.equal(a, b) for a, b in zip(every, once, strict=True))


def test_kept_maps_are_gathered_as_if_they_had_been_computed_together() -> None:
    clip = clip_of_two()
    together = clips_of(stage(frames_of(clip)), 2)
    kept = [by_cell(x[0] for x in stage(frame.unsqueeze(0))) for frame in frames_of(clip)]
    gathered = gather([kept[:4], kept[4:]])
    plain = [[x[0] for x in stage(frame.unsqueeze(0))] for frame in frames_of(clip)]
    assert all(map(torch.equal, gather([plain[:4], plain[4:]], cells=False), together))
    assert all(torch.equal(a, b) for a, b in zip(gathered, together, strict=True))
    assert gathered[0].permute(0, 1, 3, 4, 2).is_contiguous(), "a cell's channels lie side by side"


def test_many_frames_run_in_parts() -> None:
    numbers = list(range(2 * FRAMES_AT_ONCE + 1))
    runs = list(maps_of_frames(stage, numbers, lambda part: torch.tensor(part).float().view(-1, 1, 1, 1)))
    assert [len(part) for part, _ in runs] == [FRAMES_AT_ONCE, FRAMES_AT_ONCE, 1]
    assert [int(x) // 2 for _, (first, _) in runs for x in first] == numbers
    assert not list(maps_of_frames(stage, [], lambda part: torch.empty(0)))
