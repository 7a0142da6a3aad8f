"""SlowOnly and SlowFast: 3-D ResNets of bottleneck blocks (Feichtenhofer et al., ICCV 2019).

The temporal kernel sits on a block's first 1 x 1 convolution, the spatial stride on its 3 x 3; nothing pools over time
inside a pathway, and res5 strides like the others, so that the maps lie at strides 4, 8, 16 and 32.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stmixer.model.backbones.factorised import FactorisedConv3d as Conv3d
from stmixer.model.clip import slow_indices
from stmixer.model.config import ResNetConfig

RES4 = 2
"""Index of res4 among the stages."""


class Bottleneck(nn.Module):
    """k x 1 x 1 -> 1 x 3 x 3 -> 1 x 1 x 1, each with batch norm, and a projected shortcut where the shape changes."""

    def __init__(self, channels_in: int, inner: int, channels_out: int, kernel_t: int, stride: int, eps: float) -> None:
        super().__init__()
        self.conv_a = Conv3d(channels_in, inner, (kernel_t, 1, 1), padding=(kernel_t // 2, 0, 0), bias=False)
        self.norm_a = nn.BatchNorm3d(inner, eps=eps)
        self.conv_b = Conv3d(inner, inner, (1, 3, 3), stride=(1, stride, stride), padding=(0, 1, 1), bias=False)
        self.norm_b = nn.BatchNorm3d(inner, eps=eps)
        self.conv_c = Conv3d(inner, channels_out, 1, bias=False)
        self.norm_c = nn.BatchNorm3d(channels_out, eps=eps)
        self.shortcut: Conv3d | None = None
        self.shortcut_norm: nn.BatchNorm3d | None = None
        if channels_in != channels_out or stride != 1:
            self.shortcut = Conv3d(channels_in, channels_out, 1, stride=(1, stride, stride), bias=False)
            self.shortcut_norm = nn.BatchNorm3d(channels_out, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        identity = x
        if self.shortcut is not None and self.shortcut_norm is not None:
            identity = self.shortcut_norm(self.shortcut(x))
        x = F.relu(self.norm_a(self.conv_a(x)), inplace=True)
        x = F.relu(self.norm_b(self.conv_b(x)), inplace=True)
        return F.relu(self.norm_c(self.conv_c(x)).add_(identity), inplace=True)


class NonLocal(nn.Module):
    """Every position looks at all (Wang et al., CVPR 2018), at half resolution in time and space.

    x + BN(out(theta(x)^T phi(pooled) g(pooled) / positions)): a dot product over the number of positions, no softmax.
    """

    def __init__(self, channels: int, eps: float) -> None:
        super().__init__()
        inner = channels // 2
        self.theta = nn.Conv3d(channels, inner, 1)
        self.phi = nn.Conv3d(channels, inner, 1)
        self.g = nn.Conv3d(channels, inner, 1)
        self.out = nn.Conv3d(inner, channels, 1)
        self.norm = nn.BatchNorm3d(channels, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        pooled = F.max_pool3d(x, 2)  # before the convolutions of keys and values
        theta, phi, g = self.theta(x).flatten(2), self.phi(pooled).flatten(2), self.g(pooled).flatten(2)
        affinity = theta.transpose(1, 2) @ phi / phi.shape[2]
        attended = (g @ affinity.transpose(1, 2)).view(x.shape[0], -1, *x.shape[2:])
        out: Tensor = x + self.norm(self.out(attended))
        return out


class Pathway(nn.Module):
    """Stem and res2 .. res5 of one pathway. ``extra`` channels join the input of each stage (SlowFast's fusion).

    ``kernels`` are the temporal ones of stem and stages, taken by the first ``temporal_blocks`` blocks of each stage;
    later ones have 1. Non-local blocks follow the res4 blocks in ``nonlocal_after``.
    """

    def __init__(
        self,
        config: ResNetConfig,
        width: int,
        kernels: tuple[int, ...],
        extra: tuple[int, ...] = (0, 0, 0, 0),
        nonlocal_after: tuple[int, ...] = (),
    ) -> None:
        super().__init__()
        eps = config.norm_eps
        self.stem = Conv3d(3, width, (kernels[0], 7, 7), (1, 2, 2), (kernels[0] // 2, 3, 3), bias=False)
        self.stem_norm = nn.BatchNorm3d(width, eps=eps)
        self.stages = nn.ModuleList()
        channels = width
        for i, depth in enumerate(config.depths):
            inner, out = width * 2**i, 4 * width * 2**i
            blocks = nn.Sequential()
            for j in range(depth):
                channels_in = channels + extra[i] if j == 0 else out
                kernel = kernels[i + 1] if j < config.temporal_blocks[i] else 1
                blocks.add_module(str(j), Bottleneck(channels_in, inner, out, kernel, 2 if i and j == 0 else 1, eps))
                if i == RES4 and j in nonlocal_after:
                    blocks.add_module(f"nonlocal{j}", NonLocal(out, eps))
            self.stages.append(blocks)
            channels = out

    def start(self, x: Tensor) -> Tensor:
        """Stem and its 1 x 3 x 3 max-pool: (B, 3, T, H, W) -> (B, width, T, H / 4, W / 4)."""
        return F.max_pool3d(F.relu(self.stem_norm(self.stem(x)), inplace=True), (1, 3, 3), (1, 2, 2), (0, 1, 1))


class SlowOnly(nn.Module):
    """The slow pathway alone. Every frame it is given is kept: T of the maps is the clip's."""

    def __init__(self, config: ResNetConfig) -> None:
        super().__init__()
        self.slow = Pathway(config, config.width, config.temporal_kernels, nonlocal_after=config.nonlocal_after)

    def forward(self, clip: Tensor) -> tuple[Tensor, ...]:
        x = self.slow.start(_channels_last(clip))
        maps = []
        for stage in self.slow.stages:
            x = stage(x)
            maps.append(x)
        return tuple(maps)


class Fusion(nn.Module):
    """Fast to slow: a [k, 1, 1] convolution of temporal stride alpha to twice the channels, BN, ReLU, concatenated."""

    def __init__(self, channels: int, kernel: int, alpha: int, eps: float) -> None:
        super().__init__()
        self.conv = Conv3d(channels, 2 * channels, (kernel, 1, 1), (alpha, 1, 1), (kernel // 2, 0, 0), bias=False)
        self.norm = nn.BatchNorm3d(2 * channels, eps=eps)

    def forward(self, slow: Tensor, fast: Tensor) -> Tensor:
        return torch.cat((slow, F.relu(self.norm(self.conv(fast)), inplace=True)), 1)


class SlowFast(nn.Module):
    """Both pathways. A map is the slow stage's output before fusion beside the fast one's, max-pooled alpha in time."""

    def __init__(self, config: ResNetConfig) -> None:
        super().__init__()
        fast_width = config.width // config.fast_ratio
        fast_out = (fast_width, *(4 * fast_width * 2**i for i in range(3)))
        extra = tuple(2 * c for c in fast_out)
        self.alpha = config.alpha
        self.slow = Pathway(config, config.width, config.temporal_kernels, extra, config.nonlocal_after)
        self.fast = Pathway(config, fast_width, config.fast_temporal_kernels)
        self.fusions = nn.ModuleList(Fusion(c, config.fusion_kernel, config.alpha, config.norm_eps) for c in fast_out)

    def forward(self, clip: Tensor) -> tuple[Tensor, ...]:
        # slices, not an index tensor: that would travel to the device in every forward
        seen = torch.cat([clip[:, :, i : i + 1] for i in slow_indices(clip.shape[2], self.alpha)], 2)
        slow, fast = self.slow.start(_channels_last(seen)), self.fast.start(_channels_last(clip))
        maps = []
        for fusion, slow_stage, fast_stage in zip(self.fusions, self.slow.stages, self.fast.stages, strict=True):
            slow, fast = slow_stage(fusion(slow, fast)), fast_stage(fast)
            pooled = F.max_pool3d(fast, (self.alpha, 1, 1))
            maps.append(torch.cat((slow, pooled), 1))
        return tuple(maps)


def _channels_last(clip: Tensor) -> Tensor:
    """(B, 3, T, H, W), (B, T, H, W, 3) in memory; everything after it stays laid out like that."""
    return clip.contiguous(memory_format=torch.channels_last_3d)
