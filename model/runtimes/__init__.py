"""Ways to run a detector: one interface (``runtime.Runtime``), the same tensors in and out. Imports no torch itself."""

from typing import Literal

RuntimeName = Literal["auto", "eager", "compile", "cudagraph", "onnx"]
PrecisionName = Literal["auto", "fp32", "bf16", "fp16"]
