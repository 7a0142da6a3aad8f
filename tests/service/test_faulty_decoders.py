"""Decoders that break the protocol: each ends its stream in words, and nothing else. None makes anybody wait."""

from __future__ import annotations

import asyncio
import errno
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from faulty_decoder import FAULTS, PICTURES_FAULTS, module_of
from in_process import running_engine
from posting import conserved, made_video, post, problem
from serving import Server, running_server
from ws_client import jpeg, stream

from stmixer.service.errors import CapacityError, InputError
from stmixer.service.schemas import DetectOptions
from stmixer.service.sessions.session import Session
from stmixer.service.sources.container import ContainerSource
from stmixer.service.sources.pictures import PictureSource
from stmixer.service.sources.upload import UploadSource

UNTIL_IT_HANGS_S = 30


async def begin(session: Session, kind: str) -> None:
    """A source of this kind, with something in it."""
    match kind:
        case "upload":
            with tempfile.TemporaryFile() as file:
                await session.open(UploadSource(session.context, file.fileno()))
        case "pictures":
            pictures = PictureSource(session.context, stamped=False)
            await session.open(pictures)
            await pictures.take(jpeg(1))
        case "container":
            container = ContainerSource(session.context)
            await session.open(container)
            await container.take(b"\x1a\x45\xdf\xa3")


EVERYWHERE = ("frames before opened", "sample out of turn", "no message")
CASES = [("upload", fault) for fault in FAULTS]
CASES += [(kind, fault) for kind in ("pictures", "container") for fault in EVERYWHERE]
CASES += [("pictures", fault) for fault in PICTURES_FAULTS]


@pytest.mark.parametrize(("kind", "fault"), CASES)
def test_what_no_decoder_may_say_ends_its_stream_in_words(
    kind: str, fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    module = module_of(fault, tmp_path)

    async def talk() -> dict[str, Any]:
        async with running_engine(decoder_module=module) as running:
            async with running.session("all" if kind == "upload" else "latest", DetectOptions()) as session:
                await begin(session, kind)
                with pytest.raises(InputError, match="broke its decoder") as raised:
                    await asyncio.wait_for(anext(session.results()), UNTIL_IT_HANGS_S)
                assert raised.value.code == "unreadable"
                assert session.stream.finished
            assert not running.engine.streams
            return session.summary().model_dump()

    summary = asyncio.run(talk())
    assert summary["received"] == summary["sampled"] + summary["not_sampled"] + sum(summary["dropped"].values())
    assert summary["pending"] == summary["ok"] == 0
    assert summary["keyframes_due"] == summary["error"] + summary["cancelled"]


@pytest.mark.parametrize("kind", ["upload", "pictures", "container"])
def test_a_stream_for_which_there_is_no_memory_is_told_so(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Nor descriptor, nor room in a file: whatever the system says, it is no fault of ours."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def refused(_: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr("stmixer.service.engine.engine.create_ring", refused)

    async def talk() -> dict[str, Any]:
        async with running_engine(decoder_module=module_of("opens", tmp_path)) as running:
            async with running.session("all" if kind == "upload" else "latest", DetectOptions()) as session:
                await begin(session, kind)
                with pytest.raises(CapacityError, match=r"no memory for its frames .Too many open files") as raised:
                    await asyncio.wait_for(anext(session.results()), UNTIL_IT_HANGS_S)
                assert (raised.value.code, raised.value.status) == ("capacity", 503)
            assert not running.engine.streams
            return session.summary().model_dump()

    conserved(asyncio.run(talk()))
    (line,) = [record for record in caplog.records if record.name == "stmixer.source"]
    assert line.exc_info is None


@pytest.fixture(scope="module")
def hasty(tiny_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A service whose decoders tell of frames before they have opened anything."""
    folder = tmp_path_factory.mktemp("decoders")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        module = module_of("frames before opened", folder)
        with running_server(decoder_module=module, weights=tiny_weights) as server:
            yield server


def test_an_upload_is_answered_and_the_next_one_too(hasty: Server) -> None:
    for _ in range(3):
        answer = post(hasty, made_video(128, 96, 8), timeout=UNTIL_IT_HANGS_S)
        assert "broke its decoder" in problem(answer, 422, "unreadable")


def test_a_camera_is_told(hasty: Server) -> None:
    with stream(hasty) as client:
        client.first("ready")
        client.picture(jpeg(0))
        close, code, message = client.refused()
    assert (close, code) == (4400, "unreadable")
    assert "broke its decoder" in message
