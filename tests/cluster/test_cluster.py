"""The service on a Ray cluster: one head and two more nodes in processes of this machine, three replicas.

What is told to a client here goes through Serve's own proxy and router; replicas die by SIGKILL.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from conftest import OWN_CLIPS
from ray_cluster import BACK_S, CAMERA, Cluster, back_at, begin, cameras, report, results_of, running_cluster, seconds
from websockets.sync.client import connect
from ws_client import Client, check_conservation, jpeg, poll

from stmixer.service import client as ours

pytestmark = pytest.mark.drill  # a cluster of three nodes takes minutes to begin on two cores

REPLICAS = 3


@pytest.fixture(scope="module")
def cluster(tiny_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with running_cluster(tiny_weights, tmp_path_factory.mktemp("ray"), REPLICAS) as found:
        yield found


def test_sockets_that_open_together_spread_and_a_thousand_frames_are_seen_whole(cluster: Cluster) -> None:
    frames, hz = 1000, 30
    with ExitStack() as stack:
        sockets = [
            stack.enter_context(connect(cluster.ws_url, subprotocols=["stmixer.v1"], max_size=None, compression=None))
            for _ in range(6)
        ]
        clients = [Client(socket) for socket in sockets]
        for client in clients:
            client.say("start", codec="jpeg", timestamps="prefix", policy="all", keyframe_hz=1)
        homes = Counter(client.first("ready", 60)["resume_token"].partition(".")[0] for client in clients)
        assert sorted(homes.values()) == [2, 2, 2]
        numbered, *others = clients
        with ThreadPoolExecutor(len(others)) as pool:  # a socket without pictures is closed after 10 s
            ends = [pool.submit(ended_after_one, client) for client in others]
            for number in range(frames):
                numbered.picture(jpeg(number), round(number * 1e6 / hz))
            summary = numbered.stop(120)
            for end in ends:
                check_conservation(end.result())
        assert (summary["received"], summary["ok"]) == (frames, 1 + (frames - 1) // hz)
        assert [result["seq"] for result in numbered.of("result")] == list(range(summary["ok"]))


def ended_after_one(client: Client) -> dict[str, Any]:
    """The summary of a stream of one picture."""
    client.picture(jpeg(0), 0)
    return client.stop(60)


def test_it_is_the_same_api(cluster: Cluster) -> None:
    assert httpx.get(f"{cluster.url}/readyz").json() == {"status": "ready"}
    assert "<html" in httpx.get(f"{cluster.url}/").text
    with ours.Client(cluster.url) as client:
        response = client.detect(OWN_CLIPS / "walk.mp4")
    assert len(response.keyframes) == 7
    assert httpx.post(f"{cluster.url}/v1/models", json={"weights": "stmixer-rt"}).json()["code"] == "models_fixed"
    assert httpx.get(f"{cluster.url}/v1/streams/77").status_code == 404
    assert len(poll(lambda: len(cluster.replicas()) == REPLICAS and cluster.replicas(), 30)) == REPLICAS


def test_a_token_brings_a_client_back_to_its_stream(cluster: Cluster) -> None:
    with ours.Client(cluster.url) as client:
        with client.stream(**CAMERA) as first:
            first.send(jpeg(0), 0)
            token, session = first.ready.resume_token, first.ready.session_id
            first._socket.socket.close()  # the line is cut
        for _ in range(3):  # it is no luck
            with client.stream(**CAMERA, resume_token=token) as again:
                assert (again.ready.resume_token, again.ready.session_id) == (token, session)
                again._socket.socket.close()


def test_a_replica_that_dies_takes_nothing_with_it(cluster: Cluster) -> None:
    with cameras(cluster, 6) as filming:
        numbers = [begin(cluster, f"film {number}") for number in range(4)]
        assert len(set(numbers)) == 4
        assert poll(lambda: all(results_of(cluster, number) > 0 for number in numbers), BACK_S)
        homes, before = {camera.home for camera in filming}, {camera: len(camera.readies) for camera in filming}
        with ThreadPoolExecutor(6) as pool:
            killed = threading.Event()
            uploads = [pool.submit(upload, cluster, OWN_CLIPS / "walk.mp4", killed) for _ in range(6)]
            assert poll(lambda: sum(cluster.uploads().values()) == len(uploads), BACK_S)
            at_it, dead = max((count, replica) for replica, count in cluster.uploads().items() if replica in homes)
            hit = [camera for camera in filming if camera.home == dead]
            assert (at_it, len(hit)) > (0, 0)
            died_at = time.monotonic()
            cluster.do("kill", dead)
            killed.set()
            assert poll(lambda: all(back_at(camera, before[camera]) for camera in hit), BACK_S)
            assert poll(lambda: all(results_of(cluster, number) > 0 for number in numbers), BACK_S)
            results_at = time.monotonic()
            statuses = Counter(upload.result() for upload in uploads)
        codes = Counter(camera.closes[-1][1] for camera in hit)
        report(
            "drill_replica_loss", replicas=REPLICAS, cameras=6, pulled_streams=4, cameras_at_it=len(hit),
            cameras_have_results_after_s=seconds([back_at(camera, before[camera])[0] for camera in hit], died_at),
            all_pulled_streams_have_results_within_s=round(results_at - died_at, 1), closed_with=dict(codes),
            uploads={"at_it": at_it, "answers": dict(statuses)},
        )  # fmt: skip
        for camera in hit:
            assert back_at(camera, before[camera])[1], "the window begins anew"
            assert camera.home != dead
        assert set(codes) <= {1012, 1013}
        for camera in set(filming) - set(hit):
            assert len(camera.readies) == before[camera], "the others notice nothing"
        assert statuses == {200: len(uploads) - at_it, 503: at_it}, "those on their way to it may be sent again"
        running = [stream["pulled"]["name"] for stream in cluster.streams() if stream["pulled"] is not None]
        assert sorted(running) == [f"film {number}" for number in range(4)], "none is served twice"
        for number in numbers:
            assert httpx.delete(f"{cluster.url}/v1/streams/{number}", timeout=60).status_code == 204
            assert httpx.get(f"{cluster.url}/v1/streams/{number}", timeout=60).status_code == 404


def upload(cluster: Cluster, clip: Path, go_on: threading.Event) -> int:
    """The status of an answer, which where it is 503 says when to try again; the other half goes when it may."""
    data = clip.read_bytes()

    def body() -> Iterator[bytes]:
        yield data[: len(data) // 2]
        assert go_on.wait(BACK_S)
        yield data[len(data) // 2 :]

    answer = httpx.post(f"{cluster.url}/v1/detect", content=body(), timeout=120)
    if answer.status_code == 503:
        assert int(answer.headers["retry-after"]) >= 1
    return answer.status_code


def test_a_rolling_upgrade_closes_nothing_without_a_word(cluster: Cluster) -> None:
    assert poll(lambda: len(cluster.replicas()) == REPLICAS, 300)
    old = cluster.replicas()
    with cameras(cluster, 6) as filming:
        number = begin(cluster, "film")
        cluster.do("deploy", cluster.arguments | {"max_streams": 31})
        assert poll(lambda: not cluster.replicas() & old and len(cluster.replicas()) == REPLICAS, 300)
        assert poll(lambda: all(camera.home not in old for camera in filming), 60)
        for camera in filming:
            assert camera.closes, "it had to move"
            assert {(code, told) for _, code, told in camera.closes} == {(1000, True)}
        assert poll(lambda: results_of(cluster, number) > 0, 30)
        assert [s["id"] for s in cluster.streams() if s["pulled"] is not None].count(number) == 1
