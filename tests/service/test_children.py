"""Child processes take nothing from the folder in which the service was started."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from stmixer.service.engine.worker import WeightsSource, worker_options
from stmixer.service.ipc.child import Child
from stmixer.service.ipc.messages import FROM_NURSERY, NurseryReady, RaiseDecoders
from stmixer.service.places import Place
from stmixer.service.settings import Settings
from stmixer.service.sources.decoder_pool import DECODER_MODULE
from stmixer.service.sources.nursery import NURSERY_MODULE


@pytest.mark.parametrize("name", ["resource", "bisect", "stmixer"])
def test_a_file_that_lies_there_is_no_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'taken')!r}, 'w')\n")
    monkeypatch.chdir(tmp_path)

    async def start() -> str:
        child = await Child.spawn(NURSERY_MODULE, FROM_NURSERY)
        try:
            await child.channel.send(RaiseDecoders(DECODER_MODULE, 2**30))
            received = await child.channel.receive()
            assert received is not None
            assert isinstance(received.message, NurseryReady)
            return os.readlink(f"/proc/{child.pid}/cwd")
        finally:
            await child.kill()

    assert asyncio.run(start()) == "/"
    assert not (tmp_path / "taken").exists()


def test_a_workers_file_is_named_from_the_root(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    options = worker_options(Settings(), WeightsSource(None, Path("x.safetensors")), Place("auto"))
    assert options.weights == str(tmp_path / "x.safetensors")
