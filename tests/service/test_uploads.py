"""Who waits takes nothing: uploads on their way, cameras that are gone, and who gives way to whom."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from conftest import OWN_CLIPS
from faulty_worker import MODULE, slowly
from posting import connected, eventually, frees_everything, made_video, metric, post, problem, read_until, request_head
from serving import Server, running_server
from websockets.sync.client import ClientConnection
from wire import Wire
from ws_client import Client, jpeg, plain_socket

from stmixer.service.access import Caller
from stmixer.service.api.uploads import GRACE_S, SLOW_BYTES_PER_S, WaitingUploads
from stmixer.service.errors import CapacityError, InputError
from stmixer.service.metrics import Metrics

CLIP = OWN_CLIPS / "fall.mp4"


@pytest.fixture(scope="module")
def small(tiny_weights: Path) -> Iterator[Server]:
    """Two streams at a time, 300 ms for every keyframe; a camera may come back for a minute; eight uploads may wait."""
    with running_server(
        weights=tiny_weights, worker_module=MODULE, environment=slowly(300), max_batch=1, max_streams=2,
        resume_ttl_s=60, max_waiting_uploads=8, upload_wait_s=60,
    ) as server:  # fmt: skip
        yield server


FORM = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.mp4"\r\n\r\n'
BEGUN = {
    "raw": lambda server, clip: request_head(server, len(clip)) + clip[:1000],
    "form": lambda server, clip: (
        request_head(server, len(clip), **{"Content-Type": "multipart/form-data; boundary=b"}) + FORM + clip[:1000]
    ),
    "chunked": lambda server, clip: request_head(server, None) + b"3e8\r\n" + clip[:1000] + b"\r\n",
    "head alone": lambda server, clip: request_head(server, len(clip)),
}


@pytest.mark.parametrize("kind", BEGUN)
def test_uploads_on_their_way_shut_nobody_out(small: Server, kind: str) -> None:
    clip = CLIP.read_bytes()
    with frees_everything(small), ExitStack() as stack:
        for _ in range(4):
            stack.enter_context(connected(small)).sendall(BEGUN[kind](small, clip))
        eventually(lambda: metric(small, "uploads_waiting"), lambda n: n == 4)
        assert metric(small, "streams_active", source="upload") == 0
        with plain_socket(small) as socket:
            camera = Client(socket)
            camera.say("start", keyframe_hz=1)
            camera.first("ready")
            assert post(small, made_video(128, 96, 8)).status_code == 200
            camera.stop()


def test_who_is_here_waits_for_a_place(small: Server) -> None:
    """Five clips at once, two places: all are answered, as none was refused when it began."""
    clip = CLIP.read_bytes()
    with frees_everything(small), ExitStack() as stack, ThreadPoolExecutor(5) as pool:
        begun = [stack.enter_context(connected(small)) for _ in range(5)]
        for connection in begun:
            connection.sendall(request_head(small, len(clip), "/v1/detect?keyframe_hz=0.5") + clip[:-1])
        eventually(lambda: metric(small, "uploads_waiting"), lambda n: n == 5)
        for connection in begun:
            connection.sendall(clip[-1:])
        heads = list(pool.map(lambda connection: read_until(connection, b"\r\n\r\n"), begun))
        assert [head.split(b" ")[1] for head in heads] == [b"200"] * 5


def test_no_more_than_so_many_wait(small: Server) -> None:
    clip = CLIP.read_bytes()
    with frees_everything(small), ExitStack() as stack:
        for _ in range(8):
            stack.enter_context(connected(small)).sendall(request_head(small, len(clip)) + clip[:-1])
        eventually(lambda: metric(small, "uploads_waiting"), lambda n: n == 8)
        answer = post(small, clip)
        assert "8 uploads" in problem(answer, 503, "capacity")
        assert int(answer.headers["retry-after"]) > 0
        assert metric(small, "streams_rejected_total", reason="uploads") >= 1


def test_the_slowest_gives_way_where_there_is_no_room() -> None:
    """Of three, one sends a byte now and then, one has just begun, one is quick."""
    now = 0.0

    async def use() -> list[str]:
        nonlocal now
        waiting, ends, taken = WaitingUploads(3, 10**6, Metrics(), lambda: now), [], asyncio.Event()

        async def upload(name: str, count: int) -> None:
            try:
                with waiting.one_more(Caller(None)) as one:
                    waiting.take(one, count)
                    await taken.wait()
                    ends.append(f"{name} goes on")
            except (InputError, CapacityError) as error:
                ends.append(f"{name} {error.status}")

        tasks = []
        for name, at, count in (("slow", 0, 5), ("quick", 0, 20 * SLOW_BYTES_PER_S), ("new", 10, 1), ("next", 12, 1)):
            now = at
            tasks.append(asyncio.create_task(upload(name, count)))
            await asyncio.sleep(0)
        assert now - 10 < GRACE_S
        tasks.append(asyncio.create_task(upload("too many", 1)))
        await asyncio.sleep(0)
        now = 20
        tasks.append(asyncio.create_task(upload("large", 10**6 - 20 * SLOW_BYTES_PER_S)))
        await asyncio.sleep(0)
        taken.set()
        await asyncio.gather(*tasks)
        assert waiting.empty.is_set()
        return ends

    ends = asyncio.run(use())
    # at 12 s the slow one gave way, then nobody was slow for long enough; at 20 s the new one did, and for its bytes
    # the next one
    assert ends == ["slow 408", "too many 503", "new 408", "next 408", "quick goes on", "large goes on"]


# -- cameras that are gone


@contextmanager
def left_alone(server: Server, count: int) -> Iterator[None]:
    """Cameras that filmed, and whose lines were cut."""
    with ExitStack() as stack, Wire(int(server.url.rpartition(":")[2])) as wire:
        for _ in range(count):
            socket = stack.enter_context(plain_socket(Server(wire.url, server.process)))
            client = Client(socket)
            client.say("start", keyframe_hz=1)
            client.first("ready")
            client.picture(jpeg(0))
        assert wire.cut() == count
        yield


def begin(server: Server, socket: ClientConnection) -> Client | None:
    """A stream on a socket; None where there is no room."""
    client = Client(socket)
    client.say("start", keyframe_hz=1)
    client.wait(lambda: client.of("ready") or client.of("error"))
    return client if client.of("ready") else None


@pytest.mark.parametrize("comes", ["camera", "clip"])
def test_a_stream_that_nobody_is_connected_to_gives_way(small: Server, comes: str) -> None:
    """A camera's program that was started three times over does not shut itself out."""

    def arrives() -> bool:
        if comes == "clip":
            return post(small, made_video(128, 96, 8)).status_code == 200
        with plain_socket(small) as socket:
            client = begin(small, socket)
            return client is not None and client.stop()["type"] == "summary"

    with frees_everything(small):
        with left_alone(small, 2):
            assert metric(small, "streams_active", source="ws") == 2
            eventually(arrives)  # once the service has seen that the lines are cut
            # an answer is whole a moment before its stream has gone
            eventually(lambda: metric(small, "streams_active", source="upload"), lambda n: n == 0)
        with plain_socket(small) as one, plain_socket(small) as two:  # who is there stays
            both = [begin(small, one), begin(small, two)]
            problem(post(small, made_video(128, 96, 8)), 503, "capacity")
            for client in both:
                assert client is not None
                assert client.stop()["type"] == "summary"


def test_the_first_one_left_gives_way_and_who_comes_back_begins_anew(small: Server) -> None:
    with frees_everything(small), left_alone(small, 1), plain_socket(small) as there:
        client = begin(small, there)
        assert client is not None
        eventually(lambda: post(small, made_video(128, 96, 8)).status_code, lambda status: status == 200)
        client.picture(jpeg(1))
        assert client.stop()["received"] == 1
