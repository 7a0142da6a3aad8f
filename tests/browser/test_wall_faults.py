"""The wall when answers break off, sockets end, and somebody leaves: the page's own files in node, in our time."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from watching import need

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "service" / "web"
CASES = re.findall(r'^  "(.+?)": ', (HERE / "wall_faults.mjs").read_text(), re.MULTILINE)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of the page's files and ours, which node takes for modules."""
    folder = tmp_path_factory.mktemp("page")
    (folder / "package.json").write_text('{"type": "module"}')
    for path in (*PAGE.glob("*.js"), *HERE.glob("*.mjs")):
        shutil.copy(path, folder)
    return folder


@pytest.mark.parametrize("case", CASES)
def test_the_wall_goes_on_when(case: str, page: Path) -> None:
    command = [need("node", "nodejs"), "wall_faults.mjs", case]
    done = subprocess.run(command, cwd=page, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr[-2000:]
