"""The page's streams do not come back all at once: the page's own classes in node, with what chance gives them."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from watching import need

from bench.placed_streams import PAGE_BACKOFF_S, PAGE_BUSY_S, PAGE_JITTER

HERE = Path(__file__).parent
FOLLOWER_S = (1, 2, 4, 8, 15)


def said_by(folder: Path, script: str, argument: str) -> Any:
    """The JSON of a script beside the page's own files."""
    (folder / "package.json").write_text('{"type": "module"}')
    for path in (*(HERE.parents[1] / "service" / "web").glob("*.js"), *HERE.glob("*.mjs")):
        shutil.copy(path, folder)
    command = [need("node", "nodejs"), script, argument]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=True)
    return json.loads(done.stdout)


def pauses(folder: Path, draw: float) -> dict[str, list[float]]:
    """Seconds by what ended the line."""
    found = said_by(folder, "backoff.mjs", str(draw))
    return {name: [ms / 1000 for ms in of_name] for name, of_name in found.items()}


@pytest.mark.parametrize("draw", [0.0, 0.5, 1.0])
def test_those_who_lost_it_together_come_back_apart(tmp_path: Path, draw: float) -> None:
    """And `bench.fleet` has the page's own waits."""
    found, earlier, later = pauses(tmp_path, draw), 1 - PAGE_JITTER * draw, 1 + PAGE_JITTER * draw
    assert found["restarts"] == pytest.approx([earlier * s for s in (*PAGE_BACKOFF_S, PAGE_BACKOFF_S[-1])])
    assert found["follower"] == pytest.approx([earlier * s for s in (*FOLLOWER_S, FOLLOWER_S[-1])])
    assert found["busy"] == pytest.approx([later * PAGE_BUSY_S] * 2), "no sooner than was asked for"


def test_what_the_service_means_to_have_again_comes_back(tmp_path: Path) -> None:
    """4400 is no breach of the protocol where its error may be tried again: a decoder that died, a client too slow."""
    cases = [
        [4400, {"code": "decoder", "retryable": True}], [4400, {"code": "slow_client", "retryable": True}],
        [4400, {"code": "bad_message", "retryable": False}], [4400, None], [1006, None],
        [1006, {"code": "x", "retryable": False}],
    ]  # fmt: skip
    found = said_by(tmp_path, "close_words.mjs", json.dumps(cases))
    assert found == ["retry", "retry", "never", "never", "retry", "never"]
