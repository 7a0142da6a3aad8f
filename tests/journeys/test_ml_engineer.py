"""An ML engineer, by docs/train.md, Five minutes: twenty clips; has a model of her own served, and its report open.

The commands are the page's, in its words: the rehearsal, which is the lesson at a length that a test can wait for.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from conftest import OWN_CLIPS
from packaged import ROOT
from playwright.sync_api import Browser, expect
from serving import running_server
from training import cut_clip
from webpage import launched, opened

pytestmark = [pytest.mark.slow, pytest.mark.browser, pytest.mark.timeout(900)]

PAGE = (ROOT / "docs" / "train.md").read_text().partition("\n## Your own boxes\n")[0]
LABELS = {"stroll": ("walk.mp4", 0.3, 8), "enter": ("fall.mp4", 0.15, 8), "none": ("walk.mp4", 0.3, 4)}
"""Of each folder: what its clips are cut from, how far apart they begin, and how many there are."""


@dataclass(frozen=True)
class Lesson:
    """Her folder, what the command said in it, and the weights that it named."""

    folder: Path
    said: str
    weights: Path

    @property
    def work(self) -> Path:
        """What lies beside the weights."""
        return self.weights.with_suffix(".teach")


@pytest.fixture(scope="module")
def lesson(tmp_path_factory: pytest.TempPathFactory) -> Lesson:
    """Twenty clips, and the command of the page."""
    folder = tmp_path_factory.mktemp("hers")
    for label, (source, apart_s, count) in LABELS.items():
        for number in range(count):
            place = folder / "my_actions" / label / f"{number}.mp4"
            cut_clip(OWN_CLIPS / source, place, (3.0 if label == "none" else 0.0) + apart_s * number, 1.2)
    (whole,) = re.findall(r"^```console\n(stmixer teach .*)\n```$", PAGE, re.MULTILINE)
    (rehearsal,) = re.findall(rf"`({re.escape(whole)} [^`]+)`", PAGE)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    kept = {name: value for name, value in os.environ.items() if not name.startswith("STMIXER_")}
    done = subprocess.run(
        ["bash", "-euc", rehearsal], cwd=folder, env=kept | {"PATH": path}, capture_output=True, text=True,
        timeout=800, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    *serve, weights = shlex.split(done.stdout.splitlines()[-1])
    assert serve == ["stmixer", "serve", "--weights"]
    return Lesson(folder, done.stdout, folder / weights)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with launched() as browser:
        yield browser


def test_she_is_told_each_phase_of_the_page(lesson: Lesson) -> None:
    told = [line.split()[0] for line in lesson.said.splitlines() if line and not line.startswith(" ")]
    phases = re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE)
    assert list(dict.fromkeys(told[:-1])) == phases
    assert "16 clips of enter, stroll and 4 of none of them" in lesson.said


def test_her_model_is_served(lesson: Lesson, chromium: Browser, request: pytest.FixtureRequest) -> None:
    with running_server(weights=lesson.weights) as server:
        clip = (OWN_CLIPS / "fall.mp4").read_bytes()
        answer = httpx.post(f"{server.url}/v1/detect", content=clip, timeout=300).raise_for_status().json()
        assert (answer["model"], answer["trained"]) == (lesson.weights.stem, True)
        people = [actor for keyframe in answer["keyframes"] for actor in keyframe["actors"]]
        assert people
        assert {action["name"] for actor in people for action in actor["actions"]} == {"enter", "stroll"}
        with opened(chromium, server.url, request.node.name) as page:
            page.get_by_role("button", name=lesson.weights.stem).click()
            actions = page.locator("#card-actions li")
            expect(actions).to_have_count(2)
            assert sorted(actions.all_inner_texts()) == ["enter", "stroll"]


def test_her_report_is_open(lesson: Lesson, chromium: Browser) -> None:
    """Both pages that the lesson's lines and docs/train.md name: figures by label, and pictures that show."""
    page = chromium.new_page()
    page.goto((lesson.work / "report" / "taught.html").as_uri())
    expect(page.get_by_role("heading", level=1)).to_contain_text("mAP")
    expect(page.get_by_role("heading", name="People found")).to_be_visible()
    assert {"enter", "stroll"} <= {cell.strip() for cell in page.locator("td:first-child").all_inner_texts()}
    page.goto((lesson.work / "draft.html").as_uri())
    expect(page.locator("figure")).to_have_count(20)
    assert page.evaluate("[...document.images].every((picture) => picture.naturalWidth > 0)")
    page.close()
