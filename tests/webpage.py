"""The service's page in Debian's Chromium with a fake camera, driven by Playwright. No browser is downloaded."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import av
import numpy as np
from playwright.sync_api import Browser, Page, expect, sync_playwright
from watching import need

PATIENCE_MS = 120_000
"""CI runs model, server, and browser on the same two cores. Whatever waits for the page waits so long."""

expect.set_options(timeout=PATIENCE_MS)

SERIOUS = ("serious", "critical")
OUT = Path(__file__).parents[1] / "out" / "browser"
ARGUMENTS = [
    "--no-sandbox",  # containers run as root
    "--use-fake-device-for-media-stream=device-count=2",
    "--use-fake-ui-for-media-stream",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
    "--disable-sync",
    "--disable-quic",
]

FOCUSED = """() => {
  const at = document.activeElement;
  if (at === document.body) return null;
  const box = at.getBoundingClientRect(), style = getComputedStyle(at);
  return {
    id: at.id || at.textContent.trim(),
    name: at.getAttribute("aria-label") || at.textContent.trim(),
    seen: box.width > 0 && box.height > 0,
    marked: style.outlineStyle !== "none" && parseFloat(style.outlineWidth) > 0 || style.boxShadow !== "none",
  };
}"""
"""What has the focus, what it is called, whether it is to be seen, and whether it is marked."""


@contextmanager
def launched() -> Iterator[Browser]:
    """A browser. Missing, it is a failure in CI and a skip by name elsewhere."""
    path = need("chromium", "chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield browser
        browser.close()


@contextmanager
def opened(chromium: Browser, url: str, name: str) -> Iterator[Page]:
    """The page at this address, loaded, in a context of its own. Leaves out/browser/{name}.png.

    A script error or a breach of the CSP fails the test. A refused request, or a socket that ends, also shows as a
    console error; those are not counted, since tests look for the words instead.
    """
    context = chromium.new_context(viewport={"width": 1280, "height": 800})
    context.set_default_timeout(PATIENCE_MS)
    page = context.new_page()
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on(
        "console",
        lambda message: (
            message.type == "error"
            and not any(words in message.text for words in ("Failed to load resource", "WebSocket connection to"))
            and errors.append(message.text)
        ),
    )
    try:
        page.goto(url)
        page.wait_for_selector("body[data-loaded]")
        yield page
    finally:
        OUT.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=OUT / f"{name.replace('[', '-').rstrip(']')}.png")
        context.close()
    assert errors == []


def wait_for(page: Page, condition: str) -> None:
    """Waits for a JavaScript expression to be true. Playwright's own wait needs eval, which the page's CSP forbids."""
    page.evaluate(
        f"""() => new Promise((resolve, reject) => {{
          const deadline = performance.now() + {PATIENCE_MS};
          const look = () => {{
            if ({condition}) resolve();
            else if (performance.now() > deadline) reject(new Error("not in time: " + {json.dumps(condition)}));
            else requestAnimationFrame(look);
          }};
          look();
        }})"""
    )


def show_everything(page: Page) -> None:
    """Thresholds to 0, by the sliders a user has: test weights are not sure of anything."""
    page.get_by_role("button", name="Settings").click()
    page.get_by_label("Person threshold").fill("0")
    page.get_by_label("Action threshold").fill("0")
    page.keyboard.press("Escape")
    expect(page.locator("#settings")).to_be_hidden()


def write_video(path: Path, codec: str, *, seconds: int = 3, fps: int = 30) -> Path:
    """A bright block that walks through a 320 × 240 picture."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=fps)
        stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p"
        for index in range(seconds * fps):
            picture = np.full((240, 320, 3), 60, dtype=np.uint8)
            picture[60:220, index : index + 60] = (220, 180, 150)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path


def faults(page: Page) -> list[str]:
    """What axe-core calls serious or worse, with where."""
    page.evaluate(resources.files("axe_playwright_python").joinpath("axe.min.js").read_text())
    found: dict[str, Any] = page.evaluate("axe.run()")
    assert len(found["passes"]) > 10
    return [
        f"{fault['id']}: {node['target']}: {node['failureSummary']}"
        for fault in found["violations"]
        if fault["impact"] in SERIOUS
        for node in fault["nodes"]
    ]


def walk(page: Page, steps: int = 300) -> list[dict[str, Any]]:
    """What Tab comes by, once around."""
    found: list[dict[str, Any]] = []
    for _ in range(steps):
        page.keyboard.press("Tab")
        at = page.evaluate(FOCUSED)
        if at is None or (found and at["id"] == found[0]["id"]):
            break
        found.append(at)
    return found


SCREENS = [("light", 1440, 900), ("dark", 390, 844), ("dark", 1440, 900), ("light", 390, 844)]


def looked_at(page: Page, name: str) -> None:
    """Pictures for people, out/browser/{name}-…, in both schemes and two sizes; nothing lies beside the screen, and axe
    finds nothing serious: in the first two, which have both schemes and both sizes."""
    before = page.viewport_size
    assert before is not None
    OUT.mkdir(parents=True, exist_ok=True)
    for number, (scheme, width, height) in enumerate(SCREENS):
        page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
        page.set_viewport_size({"width": width, "height": height})
        wait_for(page, f"innerWidth === {width}")
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        if number < 2 and find_spec("axe_playwright_python") is not None:
            assert (found := faults(page)) == [], (name, found)
        page.screenshot(path=OUT / f"{name}-{width}-{scheme}.png")
    page.set_viewport_size(before)
    page.emulate_media(color_scheme="light")
