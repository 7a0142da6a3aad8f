"""MediaRecorder of a real Chromium: recordings of pictures that say which one they are, drawn at known times."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass

import pytest
from playwright.sync_api import Page

TYPES = (
    "video/webm;codecs=vp8",
    "video/webm;codecs=vp9",
    "video/webm;codecs=av1",
    "video/webm;codecs=h264",
    "video/x-matroska;codecs=avc1",
    "video/mp4;codecs=avc1",
    "video/mp4;codecs=avc3.42E01E",
    "video/mp4;codecs=vp9",
    "video/mp4;codecs=av01.0.04M.08",
)
"""All that Debian's Chromium 156 offers for video; another one may lack some."""

_RECORD = """async ({type, drawings, slice}) => {
  const canvas = document.createElement("canvas");
  const context = canvas.getContext("2d");
  const draw = (number, width, height) => {
    if (canvas.width !== width || canvas.height !== height) [canvas.width, canvas.height] = [width, height];
    for (let field = 0; field < 12; field++) {
      context.fillStyle = (number >> field) & 1 ? "white" : "black";
      const [x, y] = [((field % 4) * width) / 4, (Math.floor(field / 4) * height) / 3];
      context.fillRect(x, y, width / 4, height / 3);
    }
  };
  draw(0, drawings[0][1], drawings[0][2]);
  const stream = canvas.captureStream(0);
  const recorder = new MediaRecorder(stream, {mimeType: type, videoBitsPerSecond: 2_000_000});
  const chunks = [], drawn = [];
  recorder.ondataavailable = ({data}) => data.size && chunks.push(data);
  const ended = new Promise((resolve, reject) => {
    recorder.onstop = resolve;
    recorder.onerror = ({error}) => reject(error);
  });
  recorder.start(slice);
  const began = performance.now();
  for (const [number, [due, width, height]] of drawings.entries()) {
    await new Promise((resolve) => setTimeout(resolve, began + due - performance.now()));
    draw(number, width, height);
    drawn.push(performance.now() - began);
    stream.getVideoTracks()[0].requestFrame();
  }
  await new Promise((resolve) => setTimeout(resolve, 200));
  recorder.stop();
  await ended;
  const told = [];
  for (const chunk of chunks) {
    const bytes = new Uint8Array(await chunk.arrayBuffer());
    told.push(btoa(Array.from(bytes, (byte) => String.fromCharCode(byte)).join("")));
  }
  return {type: recorder.mimeType, chunks: told, drawn};
}"""


@dataclass(frozen=True)
class Recording:
    """``chunks`` as MediaRecorder handed them out; ``drawn_ms``: when each picture, by its number, was drawn."""

    type: str
    chunks: tuple[bytes, ...]
    drawn_ms: tuple[float, ...]

    @property
    def data(self) -> bytes:
        """The whole."""
        return b"".join(self.chunks)

    @property
    def codec(self) -> str:
        """What the wire calls its container."""
        return "mp4" if self.type.startswith("video/mp4") else "webm"


@dataclass(frozen=True)
class Drawing:
    """A picture, of a number that counts them: milliseconds after the start, and its pixels."""

    due_ms: float
    width: int = 320
    height: int = 240


def every(period_ms: float, pictures: int, width: int = 320, height: int = 240) -> list[Drawing]:
    """Pictures one after the other."""
    return [Drawing(number * period_ms, width, height) for number in range(pictures)]


def after(first: Sequence[Drawing], period_ms: float, then: Sequence[Drawing]) -> list[Drawing]:
    """``then`` begins a period after the last of ``first``."""
    begins = first[-1].due_ms + period_ms
    return [*first, *(Drawing(begins + drawing.due_ms, drawing.width, drawing.height) for drawing in then)]


def need(page: Page, type: str) -> None:
    """Skips by name where this Chromium does not record it."""
    if not page.evaluate("(type) => MediaRecorder.isTypeSupported(type)", type):
        pytest.skip(f"this Chromium does not record {type}")


def record(page: Page, type: str, drawings: Sequence[Drawing], slice_ms: int = 250) -> Recording:
    """What Chromium makes of them; a chunk about each ``slice_ms``."""
    need(page, type)
    wanted = [[drawing.due_ms, drawing.width, drawing.height] for drawing in drawings]
    told = page.evaluate(_RECORD, {"type": type, "drawings": wanted, "slice": slice_ms})
    chunks = tuple(base64.b64decode(chunk) for chunk in told["chunks"])
    return Recording(told["type"], chunks, tuple(told["drawn"]))
