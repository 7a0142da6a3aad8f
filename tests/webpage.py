"""The service's page in a browser."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, Page

OUT = Path(__file__).parents[1] / "out" / "browser"


@contextmanager
def opened(chromium: Browser, url: str, name: str) -> Iterator[Page]:
    """The page at this address, loaded, in a context of its own. Leaves out/browser/{name}.png.

    A script error or a breach of the CSP fails the test. A refused request, or a socket that ends, also shows as a
    console error; those are not counted, since tests look for the words instead.
    """
    context = chromium.new_context(viewport={"width": 1280, "height": 800})
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
