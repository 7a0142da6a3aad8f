"""What the service has loaded by its start costs it nothing later."""

from __future__ import annotations

import asyncio
import gc
import socket
from types import SimpleNamespace
from typing import Any, cast

import pytest

from stmixer.service.api import server
from stmixer.service.api.service import Service
from stmixer.service.settings import Settings


def test_a_full_collection_while_it_serves_looks_at_nothing_of_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    looked_at: list[int] = []

    class Serves:
        def __init__(self, *_: object) -> None:
            pass

        async def serve(self, **_: object) -> None:
            looked_at.append(len(gc.get_objects()))

    async def nothing() -> None:
        pass

    settings: dict[str, Any] = {"allow_anonymous": True}
    service = cast(Service, SimpleNamespace(settings=Settings(**settings), start=nothing, stop=nothing, filed=None))
    monkeypatch.setattr(server, "create_app", lambda *_: None)
    monkeypatch.setattr(server, "Server", Serves)
    before = len(gc.get_objects())
    with socket.create_server(("127.0.0.1", 0)) as listening:
        try:
            asyncio.run(server.serve(service, listening, 1024))
        finally:
            gc.unfreeze()
    assert before > 50_000
    assert looked_at[0] < before / 20
