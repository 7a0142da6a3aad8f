"""A web developer: a fresh clone, `make run`, the page; has who did what when, the video, its JSON, a camera live."""

from __future__ import annotations

import json
import os
import queue
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import av
import pytest
from packaged import ROOT
from playwright.sync_api import Page, expect
from webpage import launched, opened, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.browser]

START_S = 1800
MOST_MS = 300_000


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """What `make run` says in a clone of this checkout as it is, on a port that is free."""
    clone = tmp_path_factory.mktemp("clone") / "stmixer"
    subprocess.run(["git", "clone", "--quiet", "--no-hardlinks", ROOT, clone], check=True)
    changed = subprocess.run(["git", "diff", "--binary", "HEAD"], cwd=ROOT, capture_output=True, check=True).stdout
    if changed:
        subprocess.run(["git", "apply", "--index"], cwd=clone, input=changed, check=True)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("STMIXER_", "PYTHON", "MAKE"))}
    process = subprocess.Popen(
        ["make", "run", f"PYTHON={sys.executable}", "ARGS=--port 0"], cwd=clone, env=kept, text=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    said: list[str] = []
    found: queue.Queue[str | None] = queue.Queue()

    def read() -> None:
        assert process.stderr is not None
        with process.stderr:
            for line in process.stderr:
                said.append(line)
                if match := re.search(r"ready: (https?://[^\s\"]+)", line):
                    found.put(match[1])
        found.put(None)

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        try:
            url = found.get(timeout=START_S)
        except queue.Empty:
            url = None
        assert url is not None, "".join(said)
        yield url
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(60)
        reader.join(10)


@pytest.fixture
def page(address: str, request: pytest.FixtureRequest) -> Iterator[Page]:
    with launched() as chromium, opened(chromium, address, request.node.name) as page:
        page.set_default_timeout(MOST_MS)
        yield page


def test_a_clip_by_name_and_time_its_video_and_its_json(page: Page, tmp_path: Path) -> None:
    page.get_by_role("button", name="Try a sample").click()
    wait_for(page, "__stmixer.state === 'done'")
    (person,) = page.locator("#found > li").all()
    assert "person 1" in person.locator(".who").inner_text()
    told = [text.split("\n") for text in person.locator("li").all_inner_texts()]
    assert {"walk", "fall"} <= {words[0].split()[0] for words in told}
    assert all(re.search(r"\d:\d\d", " ".join(words)) for words in told)
    with page.expect_download() as download:
        page.get_by_role("button", name="Download JSON").click()
    download.value.save_as(tmp_path / "found.json")
    found = json.loads((tmp_path / "found.json").read_text())
    assert {actor["track_id"] for keyframe in found["keyframes"] for actor in keyframe["actors"]} == {1}
    with page.expect_download() as download:
        page.get_by_role("button", name="Download video with boxes").click()
    download.value.save_as(tmp_path / "boxes.mp4")
    with av.open(str(tmp_path / "boxes.mp4")) as video:
        assert (video.streams.video[0].width, video.streams.video[0].height) == (480, 360)


def test_a_camera_live(page: Page) -> None:
    page.get_by_role("button", name="Start camera").click()
    wait_for(page, "__stmixer.results.length > 2")
    expect(page.locator("#status")).to_have_text(re.compile("Live"))
    page.get_by_role("button", name="Stop").click()
    expect(page.locator("#summary-head")).to_contain_text("with the camera")
