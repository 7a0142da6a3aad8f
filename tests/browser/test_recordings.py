"""What MediaRecorder of a real Chromium makes: posted, and streamed in the chunks that it hands out. And the way back:
what we draw, played by Chromium.

What Chromium itself leaves out or doubles is not ours: how many pictures there are, and when, is what plain FFmpeg
finds.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import httpx
import numpy as np
import pytest
from playwright.sync_api import Browser, Page
from posting import conserved, post
from recorder import TYPES, Recording, after, every, need, record
from serving import Server
from webpage import opened
from ws_client import check_conservation, read_number, stream

from stmixer.media.annotated import write_annotated
from stmixer.media.decode import VideoReader
from stmixer.media.limits import Limits

pytestmark = [pytest.mark.browser, pytest.mark.slow]

HZ, PERIOD_US = 2, 500_000
UNITS_MS = 900
"""Times that stray this far from when their pictures were drawn, in some 2 s, have another unit or run at another pace;
less is a page under load."""


@pytest.fixture
def blank(chromium: Browser) -> Iterator[Page]:
    """A page with nothing on it."""
    page = chromium.new_page()
    yield page
    page.close()


@dataclass(frozen=True)
class Seen:
    """A picture: which one, when, and its pixels across and down."""

    number: int
    pts_us: int
    size: tuple[int, int]


def by_ffmpeg(data: bytes) -> list[Seen]:
    """The pictures and their stamps as plain FFmpeg has them, from the first one on, but for those not later than the
    one before."""
    found: list[Seen] = []
    with av.open(io.BytesIO(data)) as container:
        track = container.streams.video[0]
        first: int | None = None
        for frame in container.decode(track):
            assert frame.pts is not None
            assert track.time_base is not None
            first = frame.pts if first is None else first
            pts_us = round((frame.pts - first) * track.time_base * 1_000_000)
            if not found or pts_us > found[-1].pts_us:
                number = read_number(frame.to_ndarray(format="rgb24"))
                found.append(Seen(number, pts_us, (frame.width, frame.height)))
    return found


def by_us(data: bytes) -> tuple[list[Seen], list[str]]:
    """As our reader has them, and what it warns of."""
    with VideoReader(io.BytesIO(data), limits=Limits()) as reader:
        found = [Seen(read_number(frame.rgb()), frame.pts_us, (frame.width, frame.height)) for frame in reader]
        return found, reader.warnings


def as_drawn(recording: Recording, seen: list[Seen]) -> None:
    """Each picture is where it was drawn in time."""
    numbers = [picture.number for picture in seen]
    assert numbers == sorted(numbers)
    assert numbers[0] == 0
    assert len(set(numbers)) >= len(recording.drawn_ms) / 3  # Chromium leaves out what its encoder is too slow for
    off = [picture.pts_us / 1000 - recording.drawn_ms[picture.number] for picture in seen]
    assert max(off) - min(off) < UNITS_MS, off


def streamed(server: Server, recording: Recording) -> tuple[list[dict[str, Any]], dict[str, Any], list[str]]:
    """Results, summary, and codes of warnings of a live stream of its chunks, one message each."""
    with stream(server, codec=recording.codec, policy="all", keyframe_hz=HZ, deadline_ms=20_000) as client:
        for chunk in recording.chunks:
            client.socket.send(chunk)
        summary = client.stop()
    return client.of("result"), summary, [warning["code"] for warning in client.of("warning")]


def told(recording: Recording, server: Server) -> dict[str, Any]:
    """The answer to a POST, checked."""
    answer = post(server, recording.data, keyframe_hz=HZ)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    conserved(found["summary"])
    return found


@pytest.mark.parametrize("type", TYPES)
def test_a_recording(server: Server, blank: Page, type: str) -> None:
    recording = record(blank, type, every(33, 60))
    expected = by_ffmpeg(recording.data)
    seen, _ = by_us(recording.data)
    assert seen == expected
    as_drawn(recording, seen)
    assert {picture.size for picture in seen} == {(320, 240)}
    keyframes = list(range(0, expected[-1].pts_us + 1, PERIOD_US))

    posted = told(recording, server)
    assert posted["frame"] == {"width": 320, "height": 240}
    assert posted["summary"]["received"] == len(expected) + sum(posted["summary"]["dropped"].values())
    results, summary, _ = streamed(server, recording)
    assert summary["received"] == posted["summary"]["received"]
    for found in (posted["keyframes"], results):
        assert {(result["frame"]["width"], result["frame"]["height"]) for result in found} == {(320, 240)}
        assert {result["pts_us"] for result in found} <= set(keyframes)
        assert (found[0]["pts_us"], found[-1]["pts_us"]) == (keyframes[0], keyframes[-1])
    assert [result["pts_us"] for result in results] == [result["pts_us"] for result in posted["keyframes"]]


@pytest.mark.parametrize("type", TYPES)
def test_a_phone_that_is_turned(server: Server, blank: Page, type: str) -> None:
    """Chromium turns no picture by a tag: a camera that is turned gives pictures of another size from then on."""
    recording = record(blank, type, after(every(33, 40), 33, every(33, 40, 240, 320)))
    posted = told(recording, server)
    results, summary, codes = streamed(server, recording)
    assert [result["pts_us"] for result in results] == [result["pts_us"] for result in posted["keyframes"]]
    assert summary["received"] == posted["summary"]["received"]
    spoilt = any("damaged" in warning or "could not be decoded" in warning for warning in posted["warnings"])
    if type == "video/mp4;codecs=avc1" and spoilt:
        return  # the new pictures' parameters stand nowhere in what Chromium writes: nobody can decode them
    seen, warnings = by_us(recording.data)
    as_drawn(recording, seen)
    sizes = [(240, 320) if picture.number >= 40 else (320, 240) for picture in seen]
    assert [picture.size for picture in seen] == sizes
    assert warnings == posted["warnings"]
    assert "changes of the picture size: 1" in warnings
    assert codes.count("picture_size") == 1
    for found in (posted["keyframes"], results):
        for result in found:
            shown = max((p for p in seen if p.pts_us <= result["pts_us"] + 16_667), key=lambda p: p.pts_us)
            assert (result["frame"]["width"], result["frame"]["height"]) == shown.size
        assert {result["frame"]["width"] for result in found} == {240, 320}


@pytest.mark.parametrize("type", ["video/webm;codecs=vp8", "video/webm;codecs=av1", "video/mp4;codecs=avc1"])
def test_a_tab_in_the_background(server: Server, blank: Page, type: str) -> None:
    """Its timers run once a second; headless Chromium has no background, so the page keeps that time by itself."""
    recording = record(blank, type, after(after(every(33, 40), 1000, every(1000, 3)), 1000, every(33, 40)))
    expected = by_ffmpeg(recording.data)
    seen, _ = by_us(recording.data)
    assert seen == expected
    as_drawn(recording, seen)
    gaps = [(a.pts_us, b.pts_us) for a, b in pairwise(seen) if b.pts_us - a.pts_us > 500_000]
    assert len(gaps) == 4
    posted = told(recording, server)
    results, _, _ = streamed(server, recording)
    assert [result["pts_us"] for result in results] == [result["pts_us"] for result in posted["keyframes"]]
    assert {result["pts_us"] % PERIOD_US for result in results} == {0}
    assert results[-1]["pts_us"] == expected[-1].pts_us // PERIOD_US * PERIOD_US
    after_gap = [result for result in results if gaps[0][1] <= result["pts_us"] <= gaps[-1][1]]
    assert after_gap
    assert all(result["warming"] for result in after_gap)


_LIVE = """async ({type, hz}) => {
  const camera = await navigator.mediaDevices.getUserMedia({video: {width: 640, height: 480}});
  const socket = new WebSocket(location.origin.replace("http", "ws") + "/v1/streams/ws", "stmixer.v1");
  const messages = [], sent = [];
  let ready, summed, looked;
  const isReady = new Promise((resolve) => (ready = resolve));
  const isLooked = new Promise((resolve) => (looked = resolve));
  const isSummed = new Promise((resolve, reject) => { summed = resolve; socket.onclose = reject; });
  socket.onmessage = ({data}) => {
    const message = JSON.parse(data);
    messages.push(message);
    if (message.type === "ready") ready();
    if (message.type === "result" && message.seq >= 2) looked();
    if (message.type === "summary") summed();
  };
  await new Promise((resolve) => (socket.onopen = resolve));
  const codec = type.startsWith("video/mp4") ? "mp4" : "webm";
  socket.send(JSON.stringify({type: "start", codec, keyframe_hz: hz, policy: "all", deadline_ms: 60_000}));
  await isReady;
  const options = {mimeType: type, videoKeyFrameIntervalDuration: 500};
  const recorder = new MediaRecorder(camera, options);
  let last = Promise.resolve();
  recorder.ondataavailable = ({data}) => {
    last = last.then(async () => {
      const bytes = await data.arrayBuffer();
      sent.push(new Uint8Array(bytes));
      socket.send(bytes);
    });
  };
  const ended = new Promise((resolve) => (recorder.onstop = resolve));
  recorder.start(100);
  await isLooked;
  recorder.stop();
  await ended;
  await last;
  socket.send(JSON.stringify({type: "stop"}));
  await isSummed;
  camera.getTracks().forEach((track) => track.stop());
  const text = (bytes) => btoa(Array.from(bytes, (byte) => String.fromCharCode(byte)).join(""));
  return {messages, sent: sent.map(text)};
}"""


@pytest.mark.parametrize("type", ["video/webm;codecs=vp8", "video/webm;codecs=h264", "video/mp4;codecs=avc1"])
def test_a_page_streams_its_camera_as_it_records(
    chromium: Browser, server: Server, type: str, request: pytest.FixtureRequest
) -> None:
    """The first results are there before the recording ends: the page waits for them."""
    with opened(chromium, server.url, request.node.name.replace("/", "-")) as page:
        need(page, type)
        found = page.evaluate(_LIVE, {"type": type, "hz": HZ})
    data = b"".join(base64.b64decode(chunk) for chunk in found["sent"])
    expected = by_ffmpeg(data)
    results = [message for message in found["messages"] if message["type"] == "result"]
    (summary,) = [message for message in found["messages"] if message["type"] == "summary"]
    check_conservation(summary)
    assert {(result["frame"]["width"], result["frame"]["height"]) for result in results} == {(640, 480)}
    assert summary["received"] == len(expected) + summary["dropped"].get("out_of_order", 0)
    assert {result["pts_us"] % PERIOD_US for result in results} == {0}
    assert results[-1]["pts_us"] == expected[-1].pts_us // PERIOD_US * PERIOD_US


def test_a_recording_comes_back_drawn(server: Server, blank: Page) -> None:
    """The pictures of the drawn mp4, and their times, are the recording's."""
    recording = record(blank, "video/webm;codecs=vp8", every(33, 60))
    nobody = post(server, recording.data, accept="application/x-ndjson", score_threshold=1).content
    files = {"results": nobody, "file": ("clip.webm", recording.data)}
    drawn = httpx.post(server.url + "/v1/draw", files=files, timeout=120)
    assert drawn.status_code == 200
    assert by_ffmpeg(drawn.content) == by_ffmpeg(recording.data)


_PLAY = """async ({source, at, points}) => {
  const video = document.createElement("video");
  video.muted = true;
  const happens = (name) => new Promise((resolve, reject) => {
    video.addEventListener(name, resolve, {once: true});
    video.onerror = () => reject(new Error(video.error.message));
  });
  const loaded = happens("loadeddata");
  video.src = source;
  await loaded;
  const found = [];
  for (const seconds of at) {
    const sought = happens("seeked");
    video.currentTime = seconds;
    await sought;
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [video.videoWidth, video.videoHeight];
    const context = canvas.getContext("2d");
    context.drawImage(video, 0, 0);
    found.push(points.map(([x, y]) => [...context.getImageData(x, y, 1, 1).data].slice(0, 3)));
  }
  return {duration: video.duration, width: video.videoWidth, height: video.videoHeight, found};
}"""
COLOURS = ((220, 30, 30), (30, 200, 30), (200, 60, 140), (235, 235, 235))
"""No blue one: where no GPU does it, Chromium (libyuv) takes 2.0 for BT.709's 2.112 and shows 210 for 220."""


def bars(first: int, width: int, height: int) -> np.ndarray:
    """Four upright bars, those of ``COLOURS`` from the one of that number on."""
    order = [COLOURS[(first + bar) % 4] for bar in range(4)]
    return np.ascontiguousarray(np.repeat(np.repeat(np.array([order], np.uint8), width // 4, 1), height, 0))


@pytest.mark.parametrize(("width", "height"), [(320, 240), (1280, 720)])
def test_chromium_plays_what_we_draw(blank: Page, tmp_path: Path, width: int, height: int) -> None:
    """Duration, size, and colours of SD and of HD (BT.601 and BT.709), at three moments."""
    source, target = tmp_path / "in.mkv", tmp_path / "drawn.mp4"
    with av.open(str(source), "w") as output:
        track = output.add_stream("ffv1", rate=30)
        track.width, track.height, track.pix_fmt = width, height, "bgr0"
        for number in range(90):
            frame = av.VideoFrame.from_ndarray(bars(number // 30, width, height), format="rgb24")
            output.mux(track.encode(frame.reformat(format="bgr0")))
        output.mux(track.encode(None))
    write_annotated(source, target, [], trained=True, limits=Limits())
    address = "data:video/mp4;base64," + base64.b64encode(target.read_bytes()).decode()
    points = [[bar * width // 4 + width // 8, height // 2] for bar in range(4)]
    played = blank.evaluate(_PLAY, {"source": address, "at": [0.5, 1.5, 2.5], "points": points})
    assert (played["width"], played["height"]) == (width, height)
    assert played["duration"] == pytest.approx(3, abs=0.04)
    for second, colours in enumerate(played["found"]):
        wanted = np.array([COLOURS[(second + bar) % 4] for bar in range(4)])
        assert np.abs(np.array(colours) - wanted).max() <= 6, (second, colours)
