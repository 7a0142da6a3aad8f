"""`webm` and `mpegts` over the WebSocket: results before the end, in any chunking, garbage answered in words."""

from __future__ import annotations

import io
import random
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import av
import pytest
from drills import answer_within
from live_video import KINDS, piece, video
from serving import Server
from ws_client import Client, jpeg, metric, numbered, poll, stream


def send(client: Client, data: bytes, chance: random.Random) -> None:
    """In chunks of arbitrary sizes."""
    at = 0
    while at < len(data):
        size = chance.choice([1, 50, 1000, 20_000])
        client.socket.send(data[at : at + size])
        at += size


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("policy", ["latest", "all"])
def test_results_flow_before_the_end(server: Server, kind: str, policy: str) -> None:
    codec, data, ends = video(kind, 90)
    chance = random.Random(1)
    with stream(server, codec=codec, policy=policy, keyframe_hz=2, score_threshold=0, deadline_ms=20_000) as client:
        send(client, data[: ends[59]], chance)
        first = client.wait(lambda: client.of("result"))[0]
        assert first["frame"] == {"width": 320, "height": 240}
        send(client, data[ends[59] :], chance)
        summary = client.stop()
    assert summary["received"] == 90
    assert summary["dropped"] == {}
    assert summary["keyframes_due"] == 6  # at 0, 0.5 … 2.5 s of 2.97
    assert summary["ok"] + summary["superseded"] == 6
    assert policy == "latest" or [r["pts_us"] for r in client.of("result")] == [k * 500_000 for k in range(6)]
    assert summary["sampled"] == pytest.approx(45, abs=1)


def fragmented_mp4(frames: int) -> bytes:
    """Of 30 fps, a fragment for each second."""
    target = io.BytesIO()
    layout = {"movflags": "frag_keyframe+empty_moov+default_base_moof"}
    with av.open(target, "w", format="mp4", options=layout) as output:
        track = output.add_stream("libx264", rate=30)
        track.width, track.height, track.pix_fmt = 320, 240, "yuv420p"
        track.codec_context.gop_size, track.codec_context.max_b_frames = 30, 0
        for number in range(frames):
            output.mux(track.encode(av.VideoFrame.from_ndarray(numbered(number), format="rgb24")))
        output.mux(track.encode(None))
    return target.getvalue()


def test_fragmented_mp4_flows_too(server: Server) -> None:
    data = fragmented_mp4(90)
    with stream(server, codec="mp4", policy="all", keyframe_hz=2, score_threshold=0, deadline_ms=20_000) as client:
        send(client, data[: len(data) * 3 // 4], random.Random(1))
        assert client.wait(lambda: client.of("result"))[0]["frame"] == {"width": 320, "height": 240}
        send(client, data[len(data) * 3 // 4 :], random.Random(2))
        summary = client.stop()
    assert summary["received"] == 90
    assert [r["pts_us"] for r in client.of("result")] == [k * 500_000 for k in range(6)]


def test_another_video_that_takes_over_is_told_at_once_and_followed(server: Server) -> None:
    """H.264 gives way to H.265 of another PID in the middle of a stream."""
    before, after = piece(0, 75), piece(75, 75, "libx265", 0x200)
    with stream(server, codec="mpegts", policy="all", score_threshold=1, deadline_ms=20_000) as client:
        send(client, before, random.Random(1))
        assert not client.of("warning")
        send(client, after, random.Random(2))
        warning = client.first("warning")
        assert (warning["code"], "H.265, PID 512" in warning["message"]) == ("takeover", True)
        summary = client.stop()
    assert (summary["received"], summary["dropped"]) == (150, {})
    assert [r["pts_us"] for r in client.of("result")] == [k * 1_000_000 for k in range(6)]
    assert summary["warnings"] == ["times that another video took over: 1; it was read from there on"]


def test_an_mp4_that_lacks_its_beginning_fails_for_now(server: Server) -> None:
    """Joined without its ``moov`` box it cannot be read; whoever sends it may try again from its beginning."""
    data = fragmented_mp4(90)
    with stream(server, codec="mp4") as client:
        client.socket.send(data[data.index(b"mdat") + 1000 :])
        client.say("stop")
        close, code, message = client.refused(30)
    assert (close, code) == (4400, "unreadable")
    assert "lacks its beginning" in message
    assert client.of("error")[0]["retryable"] is True


def test_an_mp4_joined_in_its_middle_is_read_from_its_next_beginning(server: Server) -> None:
    """A sender that begins anew: until then there is nothing to decode, and nothing is refused."""
    data = fragmented_mp4(90)
    with stream(server, codec="mp4", policy="all", keyframe_hz=2, score_threshold=1, deadline_ms=20_000) as client:
        send(client, data[data.index(b"mdat") + 1000 :], random.Random(1))
        send(client, data, random.Random(2))
        summary = client.stop()
    assert (summary["received"], summary["dropped"], summary["warnings"]) == (90, {}, [])
    assert [r["pts_us"] for r in client.of("result")] == [k * 500_000 for k in range(6)]


@pytest.mark.parametrize("codec", ["webm", "mpegts", "mp4"])
def test_pictures_instead_of_a_container_are_told_how_to_begin(server: Server, codec: str) -> None:
    """FFmpeg would read them as raw MJPEG, 25 a second whenever they come."""
    with stream(server, codec=codec) as client:
        client.picture(jpeg(0))
        close, code, message = client.refused()
    assert (close, code) == (4400, "bad_message")
    assert f'this is a JPEG, and "codec" was "{codec}"; begin the stream with "codec": "jpeg"' in message


@pytest.mark.parametrize("codec", ["webm", "mpegts", "mp4"])
def test_garbage_is_refused_in_words(server: Server, codec: str) -> None:
    with stream(server, codec=codec) as client:
        client.first("ready")
        client.socket.send(random.Random(2).randbytes(300_000))
        client.say("stop")
        close, code, message = client.refused(30)
    assert close == 4400
    assert code in ("unreadable", "no_video", "no_frames", "unsupported_codec")
    assert message
    assert "\n" not in message
    assert poll(lambda: metric(server, "ring_bytes") == 0)


@pytest.mark.parametrize("kind", ["vp8", "h264"])
def test_garbage_in_the_middle_ends_or_recovers(server: Server, kind: str) -> None:
    codec, data, ends = video(kind, 90)
    with stream(server, codec=codec, policy="all", score_threshold=1, keyframe_hz=2) as client:
        client.socket.send(data[: ends[50]])
        client.wait(lambda: client.of("result"))
        client.socket.send(random.Random(2).randbytes(20_000))
        client.socket.send(data[ends[50] :])
        client.say("stop")
        summary = client.first("summary")
        assert client.closed() in (1000, 4400)
    assert summary["ok"] >= 1
    assert summary["received"] == summary["sampled"] + summary["not_sampled"] + sum(summary["dropped"].values())
    if summary["received"] < 90:
        assert summary["warnings"] or client.of("error")


def test_a_stopped_decoder_is_4429_and_leaves_nothing(server: Server) -> None:
    """Bytes that are not decoded fill 4 MiB; a live stream then waits 5 s and gives up."""
    codec, data, _ = video("h264", 60)
    with stream(server, codec=codec) as client:
        client.first("ready")
        client.socket.send(data[: len(data) // 2])
        assert poll(lambda: metric(server, "ring_bytes") > 0)
        decoders = server.children_of("stmixer.service.decoder.process")
        for decoder in decoders:
            decoder.send_signal(signal.SIGSTOP)
        try:
            began = time.monotonic()
            for _ in range(6):
                client.socket.send(bytes(2**20))
            with ThreadPoolExecutor(1) as pool:
                close, code, _ = answer_within(pool.submit(client.refused), server, 12)
            assert time.monotonic() - began > 4
        finally:
            for decoder in decoders:
                if decoder.is_running():
                    decoder.send_signal(signal.SIGCONT)
    assert (close, code) == (4429, "overloaded")
    assert poll(lambda: metric(server, "streams_active", source="ws") == 0)
    assert poll(lambda: metric(server, "ring_bytes") == 0)
