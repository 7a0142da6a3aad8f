"""What GStreamer's muxers write, posted and streamed; and GStreamer reads what we draw."""

from __future__ import annotations

import io
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import pytest
from cameras import PACKAGES, SYSTEM_PYTHON, need_rtsp_server
from conftest import TESTS
from posting import conserved, post
from serving import Server
from ws_client import numbered, read_number, stream

from stmixer.media.annotated import write_annotated
from stmixer.media.decode import VideoReader
from stmixer.media.limits import Limits

WIDTH, HEIGHT, RATE, PICTURES = 320, 240, 30, 60


@dataclass(frozen=True)
class Muxer:
    """``pipeline``: from raw pictures to bytes. ``codec``: what the wire calls it, where it can be streamed.
    ``tick_us``: how exactly the container tells times."""

    pipeline: str
    codec: str | None = None
    tick_us: int = 1


H264 = "x264enc key-int-max=30 ! h264parse config-interval=-1"
MUXERS = {
    "mpegts": Muxer(f"{H264} ! mpegtsmux", "mpegts", 12),
    "mpegts, B-frames": Muxer("x264enc key-int-max=30 bframes=2 ! h264parse ! mpegtsmux alignment=7", "mpegts", 12),
    "mpegts, H.265": Muxer("x265enc key-int-max=30 ! h265parse config-interval=-1 ! mpegtsmux", "mpegts", 12),
    "matroska, VP8": Muxer("vp8enc deadline=1 ! matroskamux streamable=true", "webm", 1000),
    "matroska, H.264": Muxer("x264enc key-int-max=30 ! matroskamux", "webm", 1000),
    "webm, VP9": Muxer("vp9enc deadline=1 cpu-used=8 ! webmmux streamable=true", "webm", 1000),
    "mp4, fragmented": Muxer("x264enc key-int-max=30 ! mp4mux fragment-duration=500 streamable=true", "mp4"),
    "mp4, fragmented, B-frames": Muxer("x264enc bframes=2 key-int-max=30 ! mp4mux fragment-duration=500", "mp4"),
    "mp4": Muxer("x264enc bframes=2 ! mp4mux"),
    "quicktime": Muxer("jpegenc ! qtmux"),
    "flv": Muxer("x264enc ! flvmux streamable=true", None, 1000),
    "avi, MJPEG": Muxer("jpegenc ! avimux"),
    "avi, H.264": Muxer("x264enc ! avimux"),
    "ogg": Muxer("theoraenc ! oggmux"),
    "mpegps": Muxer(f"{H264} ! mpegpsmux", None, 12),
}


def run(pipeline: str) -> None:
    """To its end. GStreamer missing is a failure in CI, and a skip by name elsewhere."""
    need_rtsp_server()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    command = [SYSTEM_PYTHON, str(TESTS / "gst_pipeline.py"), pipeline]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert ran.returncode == 0, f"{ran.stderr} (packages: {PACKAGES})"


def muxed(muxer: Muxer, folder: Path) -> bytes:
    """Pictures that say which one they are, as this pipeline writes them."""
    raw, target = folder / "pictures.rgb", folder / "muxed"
    raw.write_bytes(b"".join(numbered(number, WIDTH, HEIGHT).tobytes() for number in range(PICTURES)))
    source = f"filesrc location={raw} ! rawvideoparse format=rgb width={WIDTH} height={HEIGHT} framerate={RATE}/1"
    run(f"{source} ! videoconvert ! video/x-raw,format=I420 ! {muxer.pipeline} ! filesink location={target}")
    return target.read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("name", MUXERS)
def test_what_it_muxes(server: Server, tmp_path: Path, name: str) -> None:
    """Every picture at its time, in all the ways in."""
    muxer = MUXERS[name]
    data = muxed(muxer, tmp_path)
    with VideoReader(io.BytesIO(data), limits=Limits()) as reader:
        seen = [(read_number(frame.rgb()), frame.pts_us) for frame in reader]
        assert (reader.info.width, reader.info.height) == (WIDTH, HEIGHT)
    assert [number for number, _ in seen] == list(range(PICTURES))
    assert [pts_us for _, pts_us in seen] == pytest.approx(
        [number * 1_000_000 / RATE for number in range(PICTURES)], abs=muxer.tick_us
    )
    answer = post(server, data, keyframe_hz=2)
    assert answer.status_code == 200, answer.text
    found = answer.json()
    conserved(found["summary"])
    assert (found["summary"]["received"], found["summary"]["dropped"]) == (PICTURES, {})
    assert [keyframe["pts_us"] for keyframe in found["keyframes"]] == [0, 500_000, 1_000_000, 1_500_000]
    if muxer.codec is None:
        return
    with stream(server, codec=muxer.codec, policy="all", keyframe_hz=2, deadline_ms=20_000) as client:
        for at in range(0, len(data), 1316):  # seven packets of MPEG-TS
            client.socket.send(data[at : at + 1316])
        summary = client.stop()
    assert (summary["received"], summary["dropped"]) == (PICTURES, {})
    assert [result["pts_us"] for result in client.of("result")] == [0, 500_000, 1_000_000, 1_500_000]


@pytest.mark.slow
def test_it_plays_what_we_draw(tmp_path: Path) -> None:
    """Every picture, at its time, in the order in which it was."""
    source, drawn, raw = tmp_path / "in.avi", tmp_path / "drawn.mp4", tmp_path / "pictures.rgb"
    with av.open(str(source), "w") as output:  # AVI's times are no milliseconds
        track = output.add_stream("ffv1", rate=RATE)
        track.width, track.height, track.pix_fmt = WIDTH, HEIGHT, "bgr0"
        for number in range(PICTURES):
            frame = av.VideoFrame.from_ndarray(numbered(number, WIDTH, HEIGHT), format="rgb24")
            output.mux(track.encode(frame.reformat(format="bgr0")))
        output.mux(track.encode(None))
    write_annotated(source, drawn, [], trained=True, limits=Limits())
    # videorate would leave out or double whatever is not at its time
    exact = f"videorate ! video/x-raw,framerate={RATE}/1 ! videoconvert ! video/x-raw,format=RGB"
    run(f"filesrc location={drawn} ! qtdemux ! h264parse ! openh264dec ! {exact} ! filesink location={raw}")
    pictures = np.frombuffer(raw.read_bytes(), np.uint8).reshape(-1, HEIGHT, WIDTH, 3)
    assert [read_number(picture) for picture in pictures] == list(range(PICTURES))


# -- as OBS sends it


def as_obs(seconds: int, starts_at_s: float) -> bytes:
    """MPEG-TS of x264 with two B-frames, a keyframe every two seconds and AAC beside it, whose clock began long ago."""
    target = io.BytesIO()
    with av.open(target, "w", format="mpegts", options={"output_ts_offset": str(starts_at_s)}) as output:
        track = output.add_stream("libx264", rate=RATE)
        track.width, track.height, track.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        track.options = {"preset": "veryfast", "bf": "2", "x264-params": "keyint=60:min-keyint=60:scenecut=0:b-adapt=0"}
        sound = output.add_stream("aac", rate=48_000)
        silence = np.zeros((1, 1600), np.float32)
        for number in range(seconds * RATE):
            picture = av.VideoFrame.from_ndarray(numbered(number, WIDTH, HEIGHT), format="rgb24")
            output.mux(track.encode(picture))
            samples = av.AudioFrame.from_ndarray(silence, format="fltp", layout="mono")
            samples.rate, samples.pts = 48_000, number * 1600
            output.mux(sound.encode(samples))
        output.mux(track.encode(None))
        output.mux(sound.encode(None))
    return target.getvalue()


@pytest.mark.parametrize("share", [0.0, 0.3])
def test_what_obs_sends(server: Server, share: float) -> None:
    """Over the 33-bit clock's wrap, from the beginning and joined within a group of pictures."""
    wrap_s = 2**33 / 90_000
    data = as_obs(6, wrap_s - 3)
    data = data[int(len(data) * share) :]
    with VideoReader(io.BytesIO(data), limits=Limits(), low_latency=True) as reader:
        seen = [(read_number(frame.rgb()), frame.pts_us) for frame in reader]
    first = 0 if share == 0 else 60
    assert [number for number, _ in seen] == list(range(first, 180))
    assert [pts_us for _, pts_us in seen] == pytest.approx(
        [number * 1_000_000 / RATE for number in range(180 - first)], abs=12
    )
    with stream(server, codec="mpegts", policy="all", keyframe_hz=2, deadline_ms=20_000) as client:
        for at in range(0, len(data), 1316):
            client.socket.send(data[at : at + 1316])
        summary = client.stop()
    assert (summary["received"], summary["dropped"]) == (180 - first, {})
    assert [result["pts_us"] for result in client.of("result")] == list(range(0, seen[-1][1] + 1, 500_000))
