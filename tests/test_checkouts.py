"""`bench.checkouts`: what is compared is what was named."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.checkouts import OURS, in_turns

SCRIPT = "import json, pathlib, stmixer; print(json.dumps({'depth': len(pathlib.Path(stmixer.__file__).parts)}))"


def test_each_side_imports_its_own(tmp_path: Path) -> None:
    (tmp_path / "stmixer").mkdir()
    (tmp_path / "stmixer/__init__.py").touch()
    other, ours = in_turns(SCRIPT, [], tmp_path, 2)
    assert other == [{"depth": len(tmp_path.parts) + 2}] * 2
    assert ours == [{"depth": len(OURS.parts) + 2}] * 2
    assert len(tmp_path.parts) != len(OURS.parts)


def test_a_version_from_before_the_package_is_not_replaced_by_ours(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"stmixer/__init__.py is not there: the version is older"):
        in_turns(SCRIPT, [], tmp_path, 1)
