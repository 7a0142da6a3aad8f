"""ONNX Runtime, silent: of itself it sends its maker (Microsoft) what machine this is and what it runs.

1.31 does so on Linux from its import on, and keeps a device's number in ``~/.cache/Microsoft``, unless a variable says
otherwise before that. Whoever has set that variable is heeded. All of ours take it from here.
"""

from __future__ import annotations

import os

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

__all__ = ["onnxruntime", "ort_errors"]
