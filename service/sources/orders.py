"""What a decoder process is told to begin with, as message headers; ``decoder.py`` reads them."""

from __future__ import annotations

from dataclasses import asdict

from stmixer.media.decode import Limits
from stmixer.service.engine.model_info import ModelInfo
from stmixer.service.engine.stream import Stream
from stmixer.service.ipc.channel import Header
from stmixer.service.ipc.ring import RingShape
from stmixer.service.settings import Settings

CPU_PER_SECOND = 8
"""CPU seconds an upload may take per second that it may play: four times as long, on two threads."""


def opening(kind: str, model: ModelInfo, settings: Settings, stream: Stream) -> Header:
    """Open a source of this kind: the grid and size of the samples, and what the source may cost."""
    config, s = model.config, settings
    upload = kind == "upload"
    duration = s.max_duration_s if upload else 1e9
    order: Header = {
        "t": "open",
        "kind": kind,
        "grid": [config.clip.grid_s.numerator, config.clip.grid_s.denominator],
        "short_side": config.preprocess.short_side,
        "antialias": config.preprocess.antialias,
        "limits": asdict(Limits(s.max_width, s.max_height, duration, s.max_width * s.max_height)),
        "threads": 2 if upload else 1,
        "cpu_s": CPU_PER_SECOND * s.max_duration_s if upload else None,
    }
    if stream.policy == "latest":
        schedule = stream.schedule
        order["instants"] = {"keyframe_hz": schedule.hz, "after_us": round(schedule.lookahead_ms * 1000)}
    return order


def ring_order(ring: RingShape, limit: int) -> Header:
    """Write into the ring that comes with it, samples up to number ``limit``."""
    return {"t": "ring", "width": ring.width, "height": ring.height, "capacity": ring.capacity, "limit": limit}
