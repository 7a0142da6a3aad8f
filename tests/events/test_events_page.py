"""What docs/events.md says of streams and signatures is so."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from blocks import blocks

from stmixer.service.events.rules import check_rules
from stmixer.service.events.webhook import signature
from stmixer.service.streams_file import read_streams


def _block(kind: str) -> str:
    (text,) = (text for found, text in blocks("docs/events.md") if found == kind)
    return text


def test_its_file_of_streams_is_one(tmp_path: Path) -> None:
    (tmp_path / "streams.yaml").write_text(_block("yaml"))
    (rule,) = read_streams(tmp_path / "streams.yaml")["hall"].rules
    assert (rule.label, rule.for_s, rule.clear_s) == ("fall", 2, 30)
    check_rules([rule], ["fall"])


def test_its_receiver_knows_what_is_ours() -> None:
    names: dict[str, Any] = {}
    exec(_block("python"), names)
    now, is_ours = int(time.time()), names["is_ours"]
    assert is_ours(b"hunter2", signature(b"hunter2", now, "{}"), b"{}")
    assert not is_ours(b"hunter2", signature(b"hunter2", now, "{}"), b"{} ")
    assert not is_ours(b"hunter3", signature(b"hunter2", now, "{}"), b"{}")
    assert not is_ours(b"hunter2", signature(b"hunter2", now - 3600, "{}"), b"{}")
