"""What a Ray cluster comes back from: a machine, the coordinator, the head; and replicas that come and go with streams.

Whatever is killed is killed by SIGKILL. What is fetched is the test's own, so how often at a time is known there.
"""

from __future__ import annotations

import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from films import Films, running_films
from ray_cluster import BACK_S, Cluster, back_at, cameras, report, results_of, running_cluster, seconds
from ray_nodes import free_port
from ws_client import OUTCOMES, poll

pytestmark = pytest.mark.drill

FETCHED = 4


@pytest.fixture(scope="module")
def cluster(tiny_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with running_cluster(tiny_weights, tmp_path_factory.mktemp("ray"), 3) as found:
        yield found


@pytest.fixture
def films() -> Iterator[Films]:
    with running_films() as found:
        yield found


def asked_for(cluster: Cluster, films: Films, path: str) -> httpx.Response:
    """Have one of the films fetched."""
    order = {"url": films.url(path), "name": path, "lookahead_ms": 0}
    return httpx.post(f"{cluster.url}/v1/streams", json=order, timeout=90)


@contextmanager
def fetched(cluster: Cluster, films: Films) -> Iterator[dict[str, str]]:
    """Films that are fetched, by their paths: the numbers of their streams. No two fetch one, from here to the end."""
    numbers: dict[str, str] = {}
    for path in [f"/{number}" for number in range(FETCHED)]:
        answer = asked_for(cluster, films, path)
        assert answer.status_code == 201, answer.text
        numbers[path] = answer.json()["id"]
    assert poll(lambda: all(results_of(cluster, number) > 0 for number in numbers.values()), BACK_S)
    yield numbers
    assert films.doubled() == []
    for path, number in numbers.items():
        assert httpx.delete(f"{cluster.url}/v1/streams/{number}", timeout=60).status_code in (204, 404)
        assert poll(lambda path=path: not films.running(path), 30)


def running(cluster: Cluster) -> list[str]:
    """The names of what is fetched, once for each that has it."""
    return sorted(stream["pulled"]["name"] for stream in cluster.streams() if stream["pulled"] is not None)


def till_it_is(asked: Any, wanted: int, told: Counter[int], then: int | None = None) -> httpx.Response:
    """Ask until it is answered so; meanwhile nothing but 503, which says when to come again. ``then``: so it may be
    answered after that, where what was asked first was done after all."""
    deadline = time.monotonic() + BACK_S
    while True:
        answer: httpx.Response = asked()
        told[answer.status_code] += 1
        if answer.status_code == wanted or (told[503] and answer.status_code == then):
            return answer
        assert answer.status_code == 503, answer.text
        assert int(answer.headers["retry-after"]) >= 1
        assert time.monotonic() < deadline


def test_a_machine_that_is_lost_takes_nothing_with_it(cluster: Cluster, films: Films) -> None:
    with cameras(cluster, 6) as filming, fetched(cluster, films) as numbers:
        homes = Counter(camera.home for camera in filming)
        fetching = cluster.fetching()
        dead = max(cluster.asked("elsewhere"), key=lambda replica: (min(homes[replica], fetching[replica]), replica))
        hit = [camera for camera in filming if camera.home == dead]
        assert (len(hit) > 0, fetching[dead] > 0) == (True, True)
        before = {camera: len(camera.readies) for camera in filming}
        died_at = time.monotonic()
        cluster.do("lose", dead)
        assert poll(lambda: all(back_at(camera, before[camera]) for camera in hit), BACK_S)
        moved = [path for path in numbers if len(films.fetches[path]) > 1 or not films.running(path)]
        assert len(moved) == fetching[dead]
        assert poll(lambda: all(films.running(path) for path in numbers), BACK_S)
        assert poll(lambda: all(results_of(cluster, number) > 0 for number in numbers.values()), BACK_S)
        results_at = time.monotonic()
        backs = [back_at(camera, before[camera]) for camera in hit]
        codes = Counter(camera.closes[-1][1] for camera in hit)
        report(
            "drill_node_loss", replicas=3, cameras=6, pulled_streams=FETCHED, cameras_on_it=len(hit),
            pulled_streams_on_it=len(moved), cameras_have_results_after_s=seconds([back[0] for back in backs], died_at),
            pulled_streams_are_fetched_after_s=seconds([films.fetches[path][-1].began for path in moved], died_at),
            all_pulled_streams_have_results_after_s=round(results_at - died_at, 1), closed_with=dict(codes),
        )  # fmt: skip
        assert all(warming for _, warming in backs), "the window begins anew"
        assert not [camera for camera in hit if camera.home == dead]
        assert set(codes) <= {1012, 1013}
        for camera in set(filming) - set(hit):
            assert len(camera.readies) == before[camera], "the others notice nothing"
        assert all(len(films.fetches[path]) == 1 for path in numbers if path not in moved)
        assert running(cluster) == sorted(numbers)
        cluster.do("add")  # a machine in its place
        assert poll(lambda: len(cluster.replicas()) == 3, 300)
        assert all(camera.home != dead for camera in filming)


def test_streams_are_fetched_on_where_the_coordinator_dies(cluster: Cluster, films: Films) -> None:
    with fetched(cluster, films) as numbers, ThreadPoolExecutor(4) as pool:
        before = {path: results_of(cluster, number) for path, number in numbers.items()}
        old = cluster.asked("coordinator")
        cluster.do("kill coordinator")
        died_at = time.monotonic()
        told, ended, new = Counter[int](), Counter[int](), ["/new-1", "/new-2"]
        begins: list[Future[httpx.Response]] = [
            pool.submit(till_it_is, lambda path=path: asked_for(cluster, films, path), 201, told) for path in new
        ]
        (path, number) = numbers.popitem()
        address = f"{cluster.url}/v1/streams/{number}"
        ends = pool.submit(till_it_is, lambda: httpx.delete(address, timeout=60), 204, ended, 404)
        more = {path: begun.result().json()["id"] for path, begun in zip(new, begins, strict=True)}
        begun_at = time.monotonic()
        ends.result()
        assert poll(lambda: not films.running(path), BACK_S)
        assert cluster.asked("coordinator") not in (0, old)
        assert poll(lambda: all(results_of(cluster, number) > before[path] for path, number in numbers.items()), BACK_S)
        assert poll(lambda: all(results_of(cluster, number) > 0 for number in more.values()), BACK_S)
        summaries = {}
        for path, number in numbers.items():
            stream = httpx.get(f"{cluster.url}/v1/streams/{number}", timeout=60).json()
            assert (stream["pulled"]["attempts"], stream["pulled"]["reconnects"]) == (1, 0)
            summaries[path] = stream["summary"]
        report(
            "drill_coordinator_loss", replicas=3, pulled_streams=FETCHED,
            orders_meanwhile_are_running_after_s=round(begun_at - died_at, 1),
            answers={"POST": dict(told), "DELETE": dict(ended)},
            fetches_of_each=[len(films.fetches[path]) for path in numbers],
            keyframes={name: sum(summary[name] for summary in summaries.values()) for name in OUTCOMES},
        )  # fmt: skip
        assert {path: len(films.fetches[path]) for path in numbers} == dict.fromkeys(numbers, 1), "they ran on"
        assert running(cluster) == sorted([*numbers, *more])
        numbers |= more


def test_replicas_come_and_go_with_streams_and_with_the_age_of_keyframes(cluster: Cluster) -> None:
    few = {"replicas": 1, "max_replicas": 2, "max_streams": 4, "more_after_s": 0, "fewer_after_s": 5}

    def deployed(**changed: Any) -> None:
        old = cluster.replicas()
        cluster.do("deploy", cluster.arguments | few | changed)
        assert poll(lambda: not cluster.replicas() & old and len(cluster.replicas()) == 1, 300)

    def comes_to(count: int) -> float:
        since = time.monotonic()
        assert poll(lambda: len(cluster.replicas()) == count, 300)
        return round(time.monotonic() - since, 1)

    deployed(keyframe_age_s=3600)
    (first,) = cluster.replicas()
    with cameras(cluster, 1) as stays:
        with cameras(cluster, 3):
            by_streams = comes_to(2)
            with cameras(cluster, 1) as (another,):
                assert another.home != first, "there is room"
        fewer = comes_to(1)
        assert {(code, told) for _, code, told in stays[0].closes} <= {(1000, True)}, "or it stayed where it is"
    deployed(keyframe_age_s=0.001, max_streams=32)
    with cameras(cluster, 1):
        by_age = comes_to(2)
    none = comes_to(1)
    report(
        "drill_scaling", replicas=[1, 2], streams_of_each=4, filled=0.8, more_after_s=0, fewer_after_s=5,
        second_replica_serves_after_s={"of 4 streams of 4": by_streams, "of keyframes that are too old": by_age},
        one_is_left_after_s={"1 stream": fewer, "no stream": none},
    )  # fmt: skip


@contextmanager
def redis(folder: Path) -> Iterator[str]:
    """Debian's, for Ray's store; its address."""
    port = free_port()
    server = subprocess.Popen(
        ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder), "--appendonly", "yes"],
        stdout=subprocess.DEVNULL,
    )
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(30)


@pytest.mark.skipif(shutil.which("redis-server") is None, reason="wants redis-server (Debian's package of that name)")
def test_a_head_that_is_lost_comes_back_with_its_streams(
    tiny_weights: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, films: Films
) -> None:
    with (
        redis(tmp_path) as address,
        running_cluster(
            tiny_weights, tmp_path_factory.mktemp("ray"), 2, "EveryNode", 0, RAY_REDIS_ADDRESS=address,
            RAY_gcs_rpc_server_reconnect_timeout_s="600",  # of a machine that has much else to do
        ) as cluster,
    ):  # fmt: skip
        assert poll(lambda: cluster.asked("proxies") == 3, 300)
        _head_is_lost(cluster, films)


def _head_is_lost(cluster: Cluster, films: Films) -> None:
    with cameras(cluster, 4) as filming, fetched(cluster, films) as numbers:
        old = cluster.asked("coordinator")
        readies = {camera: len(camera.readies) for camera in filming}
        lost_at = time.monotonic()
        cluster.do("lose head")
        assert poll(lambda: not any(films.running(path) for path in numbers), BACK_S)
        ends = [films.fetches[path][-1].ended or 0.0 for path in numbers]
        before = {camera: len(camera.results) for camera in filming}
        assert poll(lambda: any(len(camera.results) > before[camera] + 3 for camera in filming), BACK_S)
        head_at = time.monotonic()
        cluster.do("new head")
        serves_at = time.monotonic()
        assert poll(lambda: all(films.running(path) for path in numbers), 2 * BACK_S)
        assert poll(lambda: all(results_of(cluster, number) > 0 for number in numbers.values()), BACK_S)
        results_at = time.monotonic()
        assert cluster.asked("coordinator") not in (0, old)
        now = {camera: len(camera.results) for camera in filming}
        assert poll(lambda: all(len(camera.results) > now[camera] for camera in filming), BACK_S)
        told = Counter[int]()
        answer = till_it_is(lambda: asked_for(cluster, films, "/new"), 201, told)
        number = answer.json()["id"]
        assert number not in numbers.values()
        assert poll(lambda: results_of(cluster, number) > 0, BACK_S)
        assert running(cluster) == sorted([*numbers, "/new"])
        report(
            "drill_head_loss", replicas=2, cameras=len(filming), pulled_streams=FETCHED,
            redis=subprocess.check_output(["redis-server", "--version"], text=True).split()[2],
            pulled_streams_end_after_s=seconds(ends, lost_at), head_away_s=round(head_at - lost_at, 1),
            head_starts_within_s=round(serves_at - head_at, 1),
            pulled_streams_are_fetched_after_s=seconds([films.fetches[p][-1].began for p in numbers], head_at),
            all_pulled_streams_have_results_after_s=round(results_at - head_at, 1), answers_after={"POST": dict(told)},
            cameras_that_were_cut=sum(len(camera.readies) > readies[camera] for camera in filming),
        )  # fmt: skip
        numbers["/new"] = number
