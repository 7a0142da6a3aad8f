"""A decoder of a test's own: a module that is ready, takes its order, and then does as the test likes."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

_BEGINNING = """import os, time
from stmixer.service.ipc.channel import Channel
from stmixer.service.ipc.messages import TO_DECODER, DecoderReady, PictureWanted, SourceEnded

def prepare():
    pass

def run(connection, memory_bytes):
    channel = Channel(connection, TO_DECODER)
    channel.send(DecoderReady())
    channel.receive()
"""


def write_decoder(name: str, then: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The module ``name``, for processes started from here on; ``then`` knows ``channel``, ``os`` and ``time``."""
    (folder / f"{name}.py").write_text(_BEGINNING + textwrap.indent(textwrap.dedent(then), "    "))
    monkeypatch.syspath_prepend(str(folder))
