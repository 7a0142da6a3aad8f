"""STMixer, served: who does what, where and when in video.

    import stmixer

    detector = stmixer.load()
    for result in detector.detect("clip.mp4", keyframe_hz=2):
        print(result.pts_us / 1e6, [(actor.box_px, actor.actions[0].name) for actor in result.actors])

Frames of one's own go into ``detector.stream()``. Importing this is cheap: what runs the model comes with ``load``.
What is wrong is a ``StmixerError`` (an option, weights, a device) or a ``MediaError`` (a video), in one sentence.
"""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stmixer.media.errors import MediaError
    from stmixer.model.labels import Label
    from stmixer.model.runtimes import PrecisionName, RuntimeName
    from stmixer.service.errors import StmixerError
    from stmixer.service.offline.detector import ActionDetector
    from stmixer.service.offline.file import FileResults
    from stmixer.service.offline.stream import FrameStream
    from stmixer.service.schemas import Action, Actor, FrameSize, Result, Summary, data_frame_of

    __version__: str

__all__ = [
    "Action", "ActionDetector", "Actor", "FileResults", "FrameSize", "FrameStream", "Label", "MediaError", "Result",
    "StmixerError", "Summary", "__version__", "data_frame_of", "load",
]  # fmt: skip

_HOMES = {
    "Action": "stmixer.service.schemas",
    "ActionDetector": "stmixer.service.offline.detector",
    "Actor": "stmixer.service.schemas",
    "FileResults": "stmixer.service.offline.file",
    "FrameSize": "stmixer.service.schemas",
    "FrameStream": "stmixer.service.offline.stream",
    "Label": "stmixer.model.labels",
    "MediaError": "stmixer.media.errors",
    "Result": "stmixer.service.schemas",
    "StmixerError": "stmixer.service.errors",
    "Summary": "stmixer.service.schemas",
    "data_frame_of": "stmixer.service.schemas",
}
"""Where a name is made; it is imported when it is first used."""


def load(
    path_or_name: str | os.PathLike[str] | None = None,
    device: str = "auto",
    *,
    runtime: RuntimeName = "auto",
    precision: PrecisionName = "auto",
) -> ActionDetector:
    """A model, ready to detect.

    Args:
        path_or_name: a ``.safetensors`` or ``.onnx`` file of ``stmixer-weights``, or the name of weights that are
            bundled (``"stmixer-rt"``) or that ``stmixer-weights pull`` has fetched; None for the bundled ones.
        device: ``auto`` (a CUDA GPU where there is one), ``cpu``, ``cuda`` or ``cuda:N``.
        runtime: ``auto`` (ONNX Runtime for ``.onnx`` files, and on a CPU for weights with graphs beside them, as the
            bundled ones have; else eager), ``eager``, ``compile``, ``cudagraph``, ``onnx``. All but ``onnx`` want
            PyTorch (``pip install 'stmixer[torch]'``).
        precision: of its products: ``auto`` (bf16 where a GPU has it, else fp32), ``fp32``, ``bf16``, ``fp16``.

    Raises:
        StmixerError: there is no such file or name, it is no model of ours, or the device, runtime or precision
            cannot be had; the message says what can.
    """
    weights = None if path_or_name is None else _weights(path_or_name)
    from stmixer.service.offline.detector import ActionDetector

    return ActionDetector.open(weights, device, runtime=runtime, precision=precision)


def _weights(path_or_name: str | os.PathLike[str]) -> Path:
    from stmixer.model.bundled import bundled, published
    from stmixer.model.named import weights_named
    from stmixer.model.pulled import pulled
    from stmixer.service.errors import StartError

    path = Path(path_or_name)
    if path.suffix in (".safetensors", ".onnx"):
        if not os.path.isfile(path):
            raise StartError("bad_weights", f"there is no file {path}; leave it out for the bundled weights")
        return path
    if weights_named(path) is not None:
        return path
    if str(path) in {*pulled(), *published()}:
        how = f"`stmixer-weights pull {path}` says what to do"
        raise StartError("bad_weights", f"{path} is not ready to be used: {how}")
    fetched = f"; fetched: {', '.join(pulled())}" if pulled() else ""
    raise StartError(
        "bad_weights",
        f"{path} is neither a .safetensors or .onnx file nor the name of bundled weights: {', '.join(bundled())}"
        f"{fetched}; `stmixer-weights convert` makes a file of a published checkpoint, `stmixer-weights pull` fetches "
        "one",
    )


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("stmixer")
    if name not in _HOMES:
        raise AttributeError(f"module 'stmixer' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
