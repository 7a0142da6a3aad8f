"""Every code block of the documents is run by a test, or stands in one list with the reason why not."""

from __future__ import annotations

import json

import pytest
from blocks import NO_CODE, NOT_RUN, PAGES, ROOT, RUN_BY, blocks, not_run


@pytest.mark.parametrize("page", PAGES)
def test_every_block_is_run_or_says_why_not(page: str) -> None:
    for kind, text in blocks(page):
        if kind == "console":
            assert text.startswith(not_run(page)), f"{page}: nothing says why this is not run:\n{text}"
        elif kind not in NO_CODE:
            assert (page, kind) in RUN_BY, f"{page}: nothing runs this block of {kind}:\n{text}"


@pytest.mark.parametrize("page", PAGES)
def test_every_fence_is_seen(page: str) -> None:
    """One that is indented, or that has more than a kind, would go unseen."""
    fences = [line for line in (ROOT / page).read_text().splitlines() if line.lstrip().startswith("```")]
    assert len(fences) == 2 * len(blocks(page))


@pytest.mark.parametrize(("page", "kind"), RUN_BY)
def test_what_runs_a_block_is_there_and_reads_its_page(page: str, kind: str) -> None:
    assert kind in {kind for kind, _ in blocks(page)}
    name = page.rpartition("/")[2]
    assert f'"{page}"' in (text := (ROOT / RUN_BY[page, kind]).read_text()) or f'"{name}"' in text


@pytest.mark.parametrize(("page", "start"), NOT_RUN)
def test_what_is_not_run_is_there_once_and_has_a_reason(page: str, start: str) -> None:
    lines = [line for kind, text in blocks(page) for line in text.splitlines() if kind not in NO_CODE]
    assert sum(line.startswith(start) for line in lines) == 1
    assert len(NOT_RUN[page, start].split()) > 4


def test_a_line_of_the_log_is_what_it_shows() -> None:
    (line,) = [text for kind, text in blocks("docs/operate.md") if kind == "json"]
    shown = json.loads(line)
    assert list(shown)[:4] == ["time", "level", "logger", "message"]
    assert shown["message"] == "stream ended"
