"""A key's part of the capacity: no more of it than was given, and always one stream."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from stmixer.model.labels import AVA_LABELS
from stmixer.model.zoo import variant
from stmixer.service.access import Access, Caller
from stmixer.service.api.service import Service
from stmixer.service.cli import app
from stmixer.service.engine.model_info import ModelInfo
from stmixer.service.errors import CapacityError, InputError
from stmixer.service.key_file import Key, read_keys
from stmixer.service.schemas import DetectOptions
from stmixer.service.settings import Settings


def held_by(name: str, digit: str, percent: int | None) -> Caller:
    key = Key(name=name, sha256=digit * 64, scopes=("detect", "stream"), capacity_percent=percent)
    return Caller(key)


def with_room_for(streams: int) -> Service:
    """A service that has not begun, but for its model."""
    service = Service(Settings(max_streams=streams))
    service.engine.seats[0].model = ModelInfo(variant("tiny"), AVA_LABELS, False, None, None, None, None, "cpu")
    return service


def refused_of(error: pytest.ExceptionInfo[CapacityError]) -> tuple[str, int, str]:
    return error.value.code, error.value.status, str(error.value)


def test_a_key_takes_no_more_than_its_share() -> None:
    half, all_of_it = held_by("half", "0", 50), held_by("all", "1", None)
    service, options = with_room_for(4), DetectOptions()

    async def use() -> None:
        mine = [await service.session(half, "ws", "latest", options) for _ in range(2)]
        for begins in (lambda: service.session(half, "ws", "latest", options), lambda: uploads(half)):
            with pytest.raises(CapacityError) as refused:
                await begins()
            assert refused_of(refused) == (
                "over_limit", 429, "this key may have 50 % of the capacity at a time; try again later",
            )  # fmt: skip
        others = [await service.session(all_of_it, "ws", "latest", options) for _ in range(2)]
        with pytest.raises(CapacityError, match="all 4 streams"):
            await service.session(all_of_it, "ws", "latest", options)
        await mine[0].close()
        mine[0] = await service.session(half, "ws", "latest", options)
        for session in (*mine, *others):
            await session.close()
        assert not service.engine.streams
        rejected = service.metrics.registry.get_sample_value("stmixer_streams_rejected_total", {"reason": "key_limit"})
        assert rejected == 2

    async def uploads(caller: Caller) -> None:
        """Refused before its body is read."""
        service.check_room(caller, "all", options)

    asyncio.run(use())


def test_one_that_nobody_is_connected_to_gives_way_to_the_next_of_its_key() -> None:
    small, other = held_by("small", "0", 25), held_by("other", "1", None)
    service, options = with_room_for(4), DetectOptions()

    async def use() -> None:
        theirs = service.resumable.add(await service.session(other, "ws", "latest", options), ("jpeg",))
        mine = service.resumable.add(await service.session(small, "ws", "latest", options), ("jpeg",))
        for stream in (theirs, mine):
            await service.resumable.let_go(stream, keep=True, error=None)
        service.check_room(small, "all", options)
        began = await service.session(small, "ws", "latest", options)
        assert set(service.engine.streams) == {theirs.session.stream.id, began.stream.id}
        await began.close()
        await service.resumable.close()

    asyncio.run(use())


def test_a_share_is_a_keys(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"

    def keys(*arguments: str) -> Result:
        return CliRunner().invoke(app, ["keys", *arguments, "--keys", str(path)])

    made = [keys("add", name, *share).stdout.split()[0] for name, share in (("half", ("--share", "50")), ("all", ()))]
    assert [key.capacity_percent for key in read_keys(path).keys] == [50, None]
    assert [Access(path).caller(secret).percent for secret in made] == [50, 100]
    assert "50 % of the capacity" in keys("list").output
    for none in ("0", "101"):
        assert isinstance(keys("add", "none", "--share", none).exception, InputError)
