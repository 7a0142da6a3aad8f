"""Containers as a live sender makes them, of pictures that say which one they are."""

from __future__ import annotations

from ws_client import numbered

from stmixer.media.live import LiveCodec, live_container

KINDS: dict[str, tuple[str, LiveCodec]] = {
    "vp8": ("webm", "libvpx"),
    "vp9": ("webm", "libvpx-vp9"),
    "h264": ("mpegts", "libx264"),
}


def video(kind: str, frames: int, fps: int = 30) -> tuple[str, bytes, list[int]]:
    """The wire's codec name, the bytes, and how many of them there were after each frame."""
    container, codec = KINDS[kind]
    return container, *live_container((numbered(n) for n in range(frames)), fps, codec)
