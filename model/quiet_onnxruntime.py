"""ONNX Runtime, silent: by itself 1.31 has telemetry for its maker (Microsoft) switched on, on Linux too.

From its import on, with a number of the machine in ``~/.cache/Microsoft``, unless a variable says otherwise
before that. Whoever has set the variable is heeded. All that we run takes it from here.
"""

from __future__ import annotations

import os

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

__all__ = ["onnxruntime", "ort_errors"]
