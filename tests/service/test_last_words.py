"""What a decoder writes to its stderr: no line of the service's log, little of it, and nobody waits for it."""

from __future__ import annotations

import asyncio
import logging
import os
from contextlib import suppress
from pathlib import Path

import pytest
from in_process import running_engine
from own_decoder import write_decoder

from stmixer.service.errors import InputError
from stmixer.service.ipc.last_words import MOST_TOLD, LastWords
from stmixer.service.logs import ConsoleFormatter
from stmixer.service.schemas import DetectOptions
from stmixer.service.sources.container import ContainerSource

FORGED = "2026-01-01 stmixer: key 'admin' was added\n"
TALKING = """
for _ in range(2000):
    try:
        os.write(2, {said!r})
    except BlockingIOError:
        pass
{then}
"""


def told(then: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> list[str]:
    """The lines of the log of a stream whose decoder says more than a pipe holds, and then ends so."""
    name = f"talking_decoder_{len(then)}"
    write_decoder(name, TALKING.format(said=FORGED.encode(), then=then), tmp_path, monkeypatch)

    async def talk() -> None:
        async with (
            running_engine(decoder_module=name) as running,
            asyncio.timeout(60),
            running.session("latest", DetectOptions()) as session,
        ):
            await session.open(ContainerSource(session.context))
            with suppress(InputError):
                async for _ in session.results():
                    pass

    with caplog.at_level(logging.DEBUG):
        asyncio.run(talk())
    form = ConsoleFormatter("%(message)s")
    return [form.format(record) for record in caplog.records if "said" in getattr(record, "fields", {})]


def test_a_decoder_forges_no_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    lines = told("channel.send(SourceEnded())", tmp_path, monkeypatch, caplog)
    assert FORGED.strip() not in capfd.readouterr().err
    (line,) = lines
    assert line.startswith("decoder ")
    assert "stream=" in line
    assert "\n" not in line
    assert "was added\\n2026-01-01" in line
    assert len(line) < 2 * MOST_TOLD


def test_one_that_crashes_says_why_in_its_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    lines = told("os.abort()", tmp_path, monkeypatch, caplog)
    assert FORGED.strip() not in capfd.readouterr().err
    (line,) = [line for line in lines if "reason=exit" in line]
    assert "ended by SIGABRT" in line
    assert "\n" not in line
    assert "was added" in line


def test_a_page_is_kept_and_no_more() -> None:
    words = LastWords()
    for number in range(10_000):
        try:
            os.write(words.writing, b"%d\n" % number)
        except BlockingIOError:
            break
    else:
        pytest.fail("it takes all of it")
    os.close(words.writing)
    said = words.take()
    assert len(said) <= MOST_TOLD
    assert said.splitlines()[-1] == str(number - 1)
    assert words.take() == said


def test_an_address_loses_its_password() -> None:
    words = LastWords()
    os.write(words.writing, b"av.error.TimeoutError: 'rtsp://me:pass@word@10.0.0.1/cam' and http://cam/a@b")
    os.close(words.writing)
    assert words.take() == "av.error.TimeoutError: 'rtsp://…@10.0.0.1/cam' and http://cam/a@b"
