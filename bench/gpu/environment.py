"""What the machine is, and whether CUDA works at all: a few seconds that tell whether the rest is worth them."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import subprocess
import time
from importlib import metadata

from bench.gpu.notes import Notes
from bench.gpu.scene import Scene
from bench.hardware import onnx_runtime, processor

PACKAGES = ("stmixer", "torch", "torchvision", "timm", "av", "numpy", "triton", "nvidia-cudnn-cu13")
NEEDED = (
    *("PIL", "av", "cv2", "fastapi", "httpx", "multipart", "onnxruntime", "prometheus_client", "psutil"),
    *("pydantic_settings", "pytest", "pytest_timeout", "rich", "safetensors", "timm", "torchvision", "typer"),
    *("uvicorn", "websockets", "yaml"),
)
"""Modules that the steps import, ours aside."""
ASKED = ("name", "driver_version", "memory.total", "memory.used", "clocks.sm", "power.limit", "compute_cap")


def environment(notes: Notes, scene: Scene, _: str) -> None:
    """Processor, versions, what is missing; then the GPU, as its driver and as PyTorch see it, and one product."""
    notes.add(key="processor", value=processor())
    notes.add(key="cores", value=len(os.sched_getaffinity(0)))
    notes.add(key="memory GiB", value=round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1))
    notes.add(key="python", value=platform.python_version())
    for package in PACKAGES:
        notes.add(key=package, value=_version(package))
    notes.add(key="onnxruntime", value=onnx_runtime())
    notes.add(key="missing", value=[name for name in NEEDED if importlib.util.find_spec(name) is None])
    notes.add(key="compilers", value=[name for name in ("g++", "c++", "clang++", "nvcc") if shutil.which(name)])
    for line in nvidia_smi():
        notes.add(key="GPU", value=line)
    import torch

    notes.add(key="torch's CUDA", value=torch.version.cuda)
    if importlib.util.find_spec("onnxruntime") is not None:
        from stmixer.model.quiet_onnxruntime import onnxruntime

        notes.add(key="ONNX Runtime's providers", value=onnxruntime.get_available_providers())
    if importlib.util.find_spec("av") is not None:
        from av.codec.hwaccel import hwdevices_available

        notes.add(key="FFmpeg's devices", value=hwdevices_available())
    began = time.perf_counter()
    a = torch.randn(1024, 1024, device=scene.device)
    notes.add(key="a product", value=round(float((a @ a).diagonal().std()), 1))
    notes.add(key="first use of the device s", value=round(time.perf_counter() - began, 2))
    if scene.on_gpu:
        notes.add(key="capability", value=torch.cuda.get_device_capability())
        notes.add(key="cuDNN", value=torch.backends.cudnn.version())
        notes.add(key="memory of the GPU GiB", value=[round(x / 2**30, 1) for x in torch.cuda.mem_get_info()])


def nvidia_smi() -> list[str]:
    """What the driver's own tool says of each GPU; nothing where it is not there, or does not work."""
    command = ["nvidia-smi", f"--query-gpu={','.join(ASKED)}", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return done.stdout.strip().splitlines()


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
