"""Which precisions a device does well. One that it only emulates is refused, not run a hundred times slower."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from stmixer.model.runtimes.runtime import RuntimeUnavailable

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

_AMPERE, _VOLTA = (8, 0), (7, 0)


def pick_precision(wanted: str, device: torch.device) -> str:
    """``auto`` or a precision's name -> fp32, bf16 or fp16. ``auto`` is bf16 on CUDA from Ampere on, else fp32.

    Raises RuntimeUnavailable for a precision that the device has no arithmetic for.
    """
    if wanted == "auto":
        return "bf16" if device.type == "cuda" and torch.cuda.get_device_capability(device) >= _AMPERE else "fp32"
    if wanted not in DTYPES:
        raise RuntimeUnavailable(f"--precision {wanted!r} is none; use auto, {', '.join(DTYPES)}")
    if wanted != "fp32" and not has_precision(wanted, device):
        where = "this GPU" if device.type == "cuda" else "this CPU"
        raise RuntimeUnavailable(
            f"--precision {wanted}: {where} only emulates it, many times slower than fp32; use --precision fp32"
        )
    return wanted


def has_precision(precision: str, device: torch.device) -> bool:
    """Whether the device multiplies matrices of this type in hardware."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (_AMPERE if precision == "bf16" else _VOLTA)
    if device.type == "cpu" and precision == "bf16":
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return device.type == "cpu" and torch.cpu._is_amx_fp16_supported()


def full_float32() -> None:
    """Have float32 on GPUs mean float32 in all of this process: no TF32, whose products have 10 bits.

    cuDNN's own default is TF32, and an environment (TORCH_ALLOW_TF32_CUBLAS_OVERRIDE, which vendors' containers set)
    may ask for it in matrix products.
    """
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False


class WideProducts(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Within it, products of bf16 or fp16 matrices are computed in fp32 and rounded, as hardware with such arithmetic
    does, and not by the CPU's own emulation, which is a hundred times slower.

    For knowing what a precision costs where no device has it; no faster than fp32.
    """

    _PRODUCTS = frozenset(
        {
            torch.ops.aten.convolution.default,
            torch.ops.aten.mm.default,
            torch.ops.aten.addmm.default,
            torch.ops.aten.bmm.default,
            torch.ops.aten.baddbmm.default,
        }
    )

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        narrow = args[0].dtype if func in self._PRODUCTS else torch.float32
        if narrow == torch.float32:
            return func(*args, **(kwargs or {}))
        out: Tensor = func(*tree_map_only(Tensor, Tensor.float, args), **(kwargs or {}))
        return out.to(narrow)
