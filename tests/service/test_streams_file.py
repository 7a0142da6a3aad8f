"""The file of streams: what it may say, SIGHUP, what finds no room, and that a killed service has them again."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import httpx
import pytest
import yaml
from blocks import blocks
from conftest import OWN_CLIPS
from posting import eventually
from serving import Server, running_server

from stmixer.service.api.service import Service
from stmixer.service.errors import CapacityError, InputError, StartError
from stmixer.service.key_file import Key, KeyFile, digest, write_keys
from stmixer.service.schemas import PullOrder
from stmixer.service.sessions import filed_streams
from stmixer.service.sessions.filed_streams import FiledStreams
from stmixer.service.sessions.pulled_stream import PulledStream, PulledStreams
from stmixer.service.settings import Settings
from stmixer.service.streams_file import read_streams

DOOR, YARD = "rtsp://me:hunter2@127.0.0.1:1/door", "rtsp://127.0.0.1:1/yard"
WALK = {"name": "walk", "url": "file:walk.mp4", "loop": True}


def write(path: Path, *streams: Mapping[str, object]) -> Path:
    path.write_text(yaml.safe_dump({"streams": [dict(stream) for stream in streams]}))
    return path


def test_the_documents_file_is_one(tmp_path: Path) -> None:
    (block,) = (text for kind, text in blocks("docs/cameras.md") if kind == "yaml")
    (tmp_path / "streams.yaml").write_text(block)
    orders = read_streams(tmp_path / "streams.yaml")
    assert {name: order.keyframe_hz for name, order in orders.items()} == {"door": 1.0, "yard": 2.0}
    assert orders["door"].url == "rtsp://user:password@192.168.1.20/stream1"


BROKEN = [
    ("streams: [", "line 1: this is no YAML"),
    ("", "file: Input should be"),
    ("cameras: []", "streams: Field required"),
    ("streams: [{url: 'rtsp://me:hunter2@x/'}]", "streams.0: each stream of the file has a name"),
    ("streams: [{name: a, url: 'rtsp://x'}, {name: a, url: 'rtsp://y'}]", "streams.1: the name stands there twice"),
    ("streams: [{name: a, url: 'rtsp://x', hunter: 2}]", "streams.0.hunter: Extra inputs are not permitted"),
    ("streams: [{name: a, url: 'rtsp://me:hunter2@x', keyframe_hz: 0}]", "streams.0.keyframe_hz: Input should be"),
    (
        "streams: [{name: a, url: 'rtsp://x', 'rtsp://me:hunter2@cam/1': 3}]",
        "streams.0.?: Extra inputs are not permitted",
    ),
    ("streams: [{name: 2026-13-01, url: 'rtsp://x'}]", "this is no YAML"),
    ("streams: [{name: !!timestamp hunter2, url: 'rtsp://x'}]", "this is no YAML"),
    ("streams: " + "[" * 3000, "this is no YAML"),
]


@pytest.mark.parametrize(("text", "says"), BROKEN)
def test_a_broken_file_is_told_of_without_what_it_holds(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "streams.yaml"
    path.write_text(text)
    with pytest.raises(StartError) as raised:
        read_streams(path)
    assert raised.value.code == "bad_streams"
    assert f"--streams {path}: {says}" in str(raised.value)
    assert "hunter2" not in str(raised.value)


def test_a_service_does_not_start_with_streams_that_can_never_be(tmp_path: Path) -> None:
    private = write(tmp_path / "streams.yaml", {"name": "door", "url": "rtsp://10.0.0.1/door"})
    for path, says in ((private, "door: 10.0.0.1 is a private address"), (tmp_path / "none.yaml", "No such file")):
        with pytest.raises(StartError, match=says):
            asyncio.run(Service(Settings(streams=path)).start())


def test_what_finds_no_room_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filed_streams, "AGAIN_S", 0.01)
    path = write(tmp_path / "streams.yaml", {"name": "door", "url": DOOR}, {"name": "yard", "url": YARD})
    tried: list[str | None] = []

    async def run() -> None:
        begun = asyncio.Event()

        async def begin(order: PullOrder) -> PulledStream:
            tried.append(order.name)
            if order.name == "door" and tried.count("door") < 3:
                raise CapacityError("capacity", "full")
            if order.name == "door":
                begun.set()
            return cast(PulledStream, object())

        async def change(stream: PulledStream, order: PullOrder) -> None:
            raise AssertionError

        filed = FiledStreams(path, PulledStreams(), lambda order: None, begin, change)
        filed.start(filed.read())
        async with asyncio.timeout(60):
            await begun.wait()
        await filed.close()

    asyncio.run(run())
    assert tried == ["door", "yard", "door", "door"]


def test_other_rules_in_the_file_are_other_rules_of_the_stream_that_runs(tmp_path: Path) -> None:
    there: list[PulledStream] = []

    class There(PulledStreams):
        def all(self) -> list[PulledStream]:
            return list(there)

    async def run() -> list[tuple[bool, tuple[str, ...]]]:
        begun, changed, changes = asyncio.Event(), asyncio.Event(), []

        async def begin(order: PullOrder) -> PulledStream:
            there.append(cast(PulledStream, object()))
            begun.set()
            return there[-1]

        async def change(stream: PulledStream, order: PullOrder) -> None:
            changes.append((stream is there[0], tuple(rule.id for rule in order.rules)))
            changed.set()

        path = write(tmp_path / "streams.yaml", {"name": "door", "url": DOOR})
        filed = FiledStreams(path, There(), lambda order: None, begin, change)
        filed.start(filed.read())
        async with asyncio.timeout(60):
            await begun.wait()
            for name in ("here", "there"):
                write(path, {"name": "door", "url": DOOR, "rules": [{"id": name, "person": True}]})
                filed.read_again()
                await changed.wait()
                changed.clear()
        await filed.close()
        return changes

    assert asyncio.run(run()) == [(True, ("here",)), (True, ("there",))]
    assert len(there) == 1


def test_rules_that_a_stream_refuses_keep_no_other_from_beginning(tmp_path: Path) -> None:
    """They are tried again with the next signal, and what did not end well holds up nobody either."""
    there: list[PulledStream] = []

    class There(PulledStreams):
        def all(self) -> list[PulledStream]:
            return list(there)

        async def remove(self, stream: PulledStream) -> None:
            there.remove(stream)
            raise OSError("it did not end well")

    async def run() -> tuple[list[str | None], int]:
        begun: list[str | None] = []
        path = tmp_path / "streams.yaml"
        refusals, asked = 0, asyncio.Event()

        async def begin(order: PullOrder) -> PulledStream:
            begun.append(order.name)
            there.append(cast(PulledStream, object()))
            asked.set()
            return there[-1]

        async def change(stream: PulledStream, order: PullOrder) -> None:
            nonlocal refusals
            refusals += 1
            asked.set()
            raise InputError("bad_rule", "no label of this model", 422)

        async def until(done: Callable[[], bool]) -> None:
            async with asyncio.timeout(60):
                while not done():
                    await asked.wait()
                    asked.clear()

        write(path, {"name": "door", "url": DOOR}, {"name": "gone", "url": YARD})
        filed = FiledStreams(path, There(), lambda order: None, begin, change)
        filed.start(filed.read())
        await until(lambda: len(begun) == 2)
        others = {"name": "door", "url": DOOR, "rules": [{"id": "here", "person": True}]}, {"name": "yard", "url": YARD}
        write(path, *others)
        filed.read_again()
        await until(lambda: len(begun) == 3)
        filed.read_again()
        await until(lambda: refusals == 2)
        await filed.close()
        return begun, refusals

    assert asyncio.run(run()) == (["door", "gone", "yard"], 2)


def named(server: Server, **headers: str) -> dict[str, dict[str, Any]]:
    """The pulled streams, by their names."""
    answer = httpx.get(server.url + "/v1/streams", headers=headers)
    assert answer.status_code == 200, answer.text
    return {stream["pulled"]["name"]: stream for stream in answer.json()["streams"]}


def bearer(secret: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {secret}"}


def read_anew(server: Server, says: str) -> str:
    """Have it read its file; the line that says how that went."""
    before = len(server.log)
    server.process.send_signal(signal.SIGHUP)
    found: str = eventually(lambda: next((line for line in server.log[before:] if says in line), ""))
    return found


@pytest.mark.slow
def test_the_file_is_read_anew_and_only_what_changed_is_touched(tiny_weights: Path, tmp_path: Path) -> None:
    path = write(tmp_path / "streams.yaml", WALK, {"name": "door", "url": DOOR}, {"name": "gone", "url": YARD})
    with running_server(
        weights=tiny_weights, streams=path, allow_networks="127.0.0.1", allow_files=OWN_CLIPS
    ) as server:
        first = eventually(lambda: named(server), lambda seen: set(seen) == {"walk", "door", "gone"})
        eventually(lambda: named(server)["walk"]["pulled"]["state"], lambda state: state == "live", 60)
        path.write_text("streams: 7")
        assert "the streams of before stay" in read_anew(server, "streams: Input should be")
        assert {name: stream["id"] for name, stream in named(server).items()} == {n: s["id"] for n, s in first.items()}
        write(path, WALK, {"name": "door", "url": DOOR, "keyframe_hz": 2}, {"name": "yard", "url": YARD})
        assert "2 streams begun, 2 ended, 1 as before" in read_anew(server, "as before")
        second = named(server)
        assert set(second) == {"walk", "door", "yard"}
        assert second["walk"]["id"] == first["walk"]["id"]
        assert second["walk"]["pulled"]["attempts"] >= first["walk"]["pulled"]["attempts"]
        assert (second["door"]["keyframe_hz"], first["door"]["keyframe_hz"]) == (2, 1)
        assert second["door"]["id"] != first["door"]["id"]
        assert httpx.delete(f"{server.url}/v1/streams/{second['yard']['id']}").status_code == 204
        assert "1 streams begun, 0 ended, 2 as before" in read_anew(server, "as before")
        assert set(named(server)) == {"walk", "door", "yard"}
        assert "hunter2" not in "\n".join(server.log)


@pytest.mark.slow
def test_a_killed_service_has_its_streams_again(tiny_weights: Path, tmp_path: Path) -> None:
    """They are nobody's: a key sees them with scope admin alone."""
    path = write(tmp_path / "streams.yaml", WALK, {"name": "door", "url": DOOR})
    keys = tmp_path / "keys.json"
    listed = [("boss", ("admin",)), ("other", ("stream",))]
    write_keys(keys, KeyFile(keys=tuple(Key(name=n, sha256=digest(n), scopes=s) for n, s in listed)))
    settings = {
        "weights": tiny_weights, "streams": path, "keys": keys, "allow_networks": "127.0.0.1", "allow_files": OWN_CLIPS
    }  # fmt: skip
    processes = []
    for _ in range(2):
        with running_server(**settings) as server:
            eventually(lambda: named(server, **bearer("boss")), lambda seen: set(seen) == {"walk", "door"})
            eventually(lambda: named(server, **bearer("boss"))["walk"]["pulled"]["state"], lambda s: s == "live", 60)
            assert named(server, **bearer("other")) == {}
            processes.append(server.process.pid)
            os.kill(server.process.pid, signal.SIGKILL)
            server.process.wait(10)
            server.process.returncode = 0  # running_server expects a service that ends by itself
    assert processes[0] != processes[1]
