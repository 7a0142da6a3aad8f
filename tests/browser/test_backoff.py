"""The page's streams do not come back all at once: the page's own classes in node, with what chance gives them."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from watching import need

from bench.placed_streams import PAGE_BACKOFF_S, PAGE_BUSY_S, PAGE_JITTER

HERE = Path(__file__).parent
FOLLOWER_S = (1, 2, 4, 8, 15)


def pauses(folder: Path, draw: float) -> dict[str, list[float]]:
    """Seconds by what ended the line."""
    (folder / "package.json").write_text('{"type": "module"}')
    for path in (*(HERE.parents[1] / "service" / "web").glob("*.js"), *HERE.glob("*.mjs")):
        shutil.copy(path, folder)
    command = [need("node", "nodejs"), "backoff.mjs", str(draw)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=True)
    return {name: [ms / 1000 for ms in of_name] for name, of_name in json.loads(done.stdout).items()}


@pytest.mark.parametrize("draw", [0.0, 0.5, 1.0])
def test_those_who_lost_it_together_come_back_apart(tmp_path: Path, draw: float) -> None:
    """And `bench.fleet` has the page's own waits."""
    found, earlier, later = pauses(tmp_path, draw), 1 - PAGE_JITTER * draw, 1 + PAGE_JITTER * draw
    assert found["restarts"] == pytest.approx([earlier * s for s in (*PAGE_BACKOFF_S, PAGE_BACKOFF_S[-1])])
    assert found["follower"] == pytest.approx([earlier * s for s in (*FOLLOWER_S, FOLLOWER_S[-1])])
    assert found["busy"] == pytest.approx([later * PAGE_BUSY_S] * 2), "no sooner than was asked for"
