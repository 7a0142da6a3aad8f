"""Clients that vanish, decoders and workers that die: what is freed, and what goes on."""

from __future__ import annotations

import contextlib
import signal
import time

import posting
import pytest
from live_video import video
from posting import busy_decoder, descriptors
from serving import Server
from websockets.exceptions import ConnectionClosed
from ws_client import Client, Message, jpeg, metric, paced, plain_socket, poll, stream

FRAME_US = 33_333


def vanish(client: Client) -> None:
    """No close frame, no farewell."""
    client.socket.socket.close()


def at_rest(server: Server) -> tuple[int, int]:
    """Descriptors of the server, and its children; once nothing is going on."""
    return posting.at_rest(server).descriptors, len(server.children)


STAGES = ["connected", "started", "first picture", "in the middle", "flooding all", "stopped", "container"]


@pytest.mark.parametrize("stage", STAGES)
def test_a_vanished_client_leaves_nothing(server: Server, stage: str) -> None:
    with stream(server) as client:  # whatever is made once is made
        client.stop()
    fds, children = at_rest(server)
    with plain_socket(server) as socket:
        client = Client(socket)
        if stage != "connected":
            policy = "all" if stage in ("flooding all", "stopped") else "latest"
            codec = "webm" if stage == "container" else "jpeg"
            client.say("start", policy=policy, codec=codec, keyframe_hz=10, score_threshold=0)
            client.first("ready")
        if stage == "container":
            client.socket.send(b"\x1a\x45\xdf\xa3")
        for n in range({"first picture": 1, "in the middle": 60, "flooding all": 200, "stopped": 90}.get(stage, 0)):
            client.picture(jpeg(n % 50))
        if stage == "stopped":
            client.say("stop")
        vanish(client)
    assert poll(lambda: descriptors(server) <= fds), stage
    assert at_rest(server)[1] == children
    with stream(server, policy="all", timestamps="prefix", score_threshold=1) as client:
        for n in range(40):
            client.picture(jpeg(n), n * FRAME_US)
        assert client.stop()["ok"] == 2


def kill_the_decoder(server: Server) -> None:
    decoder = busy_decoder(server)
    decoder.kill()
    decoder.wait(5)


def test_a_killed_decoder_costs_a_camera_some_pictures_and_a_warning(server: Server) -> None:
    with stream(server, score_threshold=1, keyframe_hz=4, lookahead_ms=0) as client:
        client.first("ready")
        seen = None
        for n in paced(30, 20):
            client.picture(jpeg(n % 100))
            if n == 30:
                kill_the_decoder(server)
                seen = len(client.of("result"))
            if seen is not None and len(client.of("result")) >= seen + 6:
                break
        summary = client.stop()
    warning = client.first("warning")
    assert warning["code"] == "decoder_lost"
    assert "SIGKILL" in warning["message"]
    assert len(client.of("warning")) == 1
    assert summary["warnings"] == [warning["message"]]
    assert summary["received"] - summary["dropped"].get("mailbox", 0) > 0
    assert set(summary["dropped"]) <= {"mailbox", "decoder"}
    assert summary["error"] == summary["worker_lost"] == summary["cancelled"] == 0
    at_rest(server)


def test_pictures_that_kill_decoders_end_their_stream_in_words(server: Server) -> None:
    with stream(server, score_threshold=1, keyframe_hz=2, lookahead_ms=0) as client:
        client.first("ready")
        kills = 0
        with contextlib.suppress(ConnectionClosed):
            for n in paced(30, 30):
                client.picture(jpeg(n % 100))
                if n % 30 == 15 and kills < 3:
                    kill_the_decoder(server)
                    kills += 1
        close, code, message = client.refused()
    assert kills == 3
    assert (close, code) == (4400, "unreadable")
    assert "crashed the decoder" in message
    assert client.first("error")["retryable"] is True
    check_frames(client.first("summary"))
    at_rest(server)


def test_a_container_whose_decoder_is_killed_ends_in_words(server: Server) -> None:
    codec, data, _ = video("h264", 60)
    with stream(server, codec=codec, score_threshold=1) as client:
        client.first("ready")
        client.socket.send(data[: len(data) // 2])
        kill_the_decoder(server)
        close, code, message = client.refused()
    assert (close, code) == (4400, "unreadable")
    assert "crashed the decoder" in message
    check_frames(client.first("summary"))
    at_rest(server)


def check_frames(summary: Message) -> None:
    assert summary["received"] == summary["sampled"] + summary["not_sampled"] + sum(summary["dropped"].values())


@pytest.mark.slow
def test_two_live_streams_outlive_their_worker(server: Server) -> None:
    restarts = metric(server, "worker_restarts_total", worker="0", reason="exit")
    options = {"keyframe_hz": 4, "score_threshold": 1}
    with stream(server, **options) as one, stream(server, **options) as two:
        clients = (one, two)
        for client in clients:
            client.first("ready")
        killed_at = resumed = 0.0
        for n in paced(15, 40):
            for client in clients:
                client.picture(jpeg(n % 50))
            if n == 30:
                server.children_of("stmixer.service.worker.process")[0].send_signal(signal.SIGKILL)
                killed_at = time.monotonic()
            late = [[r for r in c.of("result") if killed_at and r["at"] > killed_at + 0.5] for c in clients]
            if all(len(results) >= 4 for results in late):
                resumed = min(results[0]["at"] for results in late) - killed_at
                break
        assert resumed, "no results after the worker's death"
        summaries = [client.stop() for client in clients]
    print(f"results resumed {resumed:.1f} s after SIGKILL: {summaries[0]}")
    assert metric(server, "worker_restarts_total", worker="0", reason="exit") == restarts + 1
    for summary in summaries:
        assert summary["deadline"] + summary["superseded"] + summary["worker_lost"] > 0  # what could not run meanwhile
        assert summary["ok"] >= 4
    at_rest(server)
