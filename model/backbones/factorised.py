"""Convolutions whose kernel is 1 in time or 1 in space, computed as the 2-D convolutions that they are.

The 2-D kernels of oneDNN and cuDNN run at the rate of a matrix product; the 3-D ones need not (half that rate on a
CPU). With the memory of a clip laid out (B, T, H, W, C), ``channels_last_3d``, neither direction copies anything.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class FactorisedConv3d(nn.Conv3d):
    """A Conv3d with zero padding and a kernel (1, k, k) or (k, 1, 1); parameters and result are Conv3d's own."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T, H, W) -> (B, C_out, T', H', W'), channels last in memory if x is.

        Frames by themselves, (F, C, H, W) -> (F, C_out, H', W'), where the kernel is 1 in time.
        """
        if x.dim() == 4:
            assert self.kernel_size[0] == 1
            return F.conv2d(x, self.weight.squeeze(2), self.bias, self.stride[1:], self._pads[1:])
        if self.kernel_size[0] == 1 and self.stride[0] == 1:
            return self._each_frame(x)
        if self.kernel_size[1:] == (1, 1) and self.stride[1:] == (1, 1):
            return self._each_place(x)
        return super().forward(x)

    def _each_frame(self, x: Tensor) -> Tensor:
        frames = x.transpose(1, 2).flatten(0, 1)
        y = F.conv2d(frames, self.weight.squeeze(2), self.bias, self.stride[1:], self._pads[1:])
        return y.reshape(x.shape[0], x.shape[2], *y.shape[1:]).transpose(1, 2)

    def _each_place(self, x: Tensor) -> Tensor:
        y = F.conv2d(x.flatten(3), self.weight.squeeze(-1), self.bias, (self.stride[0], 1), (self._pads[0], 0))
        return y.reshape(*y.shape[:3], *x.shape[3:])

    @property
    def _pads(self) -> tuple[int, ...]:
        assert not isinstance(self.padding, str)
        return self.padding
