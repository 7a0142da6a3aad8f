"""What the page makes of a clip's file name is a scene that the server takes: the page's own function in node."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from watching import need

from stmixer.service.teaching.names import scene_of

HERE = Path(__file__).parent
SCENES = {
    "kitchen__1.mp4": "kitchen",
    "day 2 (hall)__1__2.mp4": "day 2 (hall)",
    "VID.2024__1.mp4": "VID-2024",
    "20240101_120000.5__1.mp4": "20240101_120000-5",
    "küche, oben#1__1.mp4": "küche- oben-1",
    "ku\u0308che__1.mp4": "küche",
    "廊下__1.mp4": "廊下",
    ".hidden__1.mp4": "hidden",
    "_a___1.mp4": "a",
    "a?/__1.mp4": "a--",
    f"{'廊' * 100}__1.mp4": "廊" * 45,
    f"{'𠀀' * 100}__1.mp4": "𠀀" * 45,
    "...__1.mp4": "",
    "__1.mp4": "",
    "kitchen_1.mp4": "",
    "": "",
}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("page")
    (folder / "package.json").write_text('{"type": "module"}')
    for path in (*(HERE.parents[1] / "service" / "web").glob("*.js"), *HERE.glob("*.mjs")):
        shutil.copy(path, folder)
    command = [need("node", "nodejs"), "scenes.mjs", json.dumps([*SCENES])]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=True)
    return dict(zip(SCENES, json.loads(done.stdout), strict=True))


@pytest.mark.parametrize("name", SCENES)
def test_a_files_name_gives_a_scene_that_is_taken(found: dict[str, str], name: str) -> None:
    assert found[name] == SCENES[name]
    if found[name]:
        assert scene_of(found[name]) == found[name]
