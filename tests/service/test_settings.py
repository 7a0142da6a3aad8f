"""Every setting can be found: in `serve --help`, and in one table of the manual."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from stmixer.service.settings import Settings

MANUAL = Path(__file__).parents[2] / "docs" / "operate.md"


def test_the_manual_has_them_all() -> None:
    rows = re.findall(r"^\| `STMIXER_(\w+)` \| (?:`(.*)`)? ?\| (.+) \|$", MANUAL.read_text(), re.MULTILINE)
    wanted = [
        (name.upper(), "" if setting.default in (None, "") else str(setting.default), setting.description)
        for name, setting in Settings.model_fields.items()
    ]
    assert rows == wanted


def test_the_help_has_them_all() -> None:
    command = [sys.executable, "-m", "stmixer.service.cli", "serve", "--help"]
    said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    for name in Settings.model_fields:
        assert f"--{name.replace('_', '-')}" in said or f"STMIXER_{name.upper()}" in said, name
    assert "STMIXER_MAX_WIDTH (3840): px of a picture" in said
