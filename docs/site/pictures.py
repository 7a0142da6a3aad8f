"""The pictures and the clip of docs/tour.md, taken of the page itself, on clips that anybody may pass on.

    python docs/site/pictures.py          # with the extra dev and Debian's chromium; writes docs/images/
    python docs/site/pictures.py wall     # those of the wall alone, best on a machine that does nothing else

Made anew whenever the page or the bundled weights change in what they show.
"""

from __future__ import annotations

import io
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import av
import httpx
from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

ROOT = Path(__file__).resolve().parents[2]
IMAGES = ROOT / "docs" / "images"
CLIPS = ROOT / "tests" / "clips"
DESK, PHONE = (1440, 900), (390, 844)
CLIP_SIZE, CLIP_FPS = (960, 600), 8
PATIENCE_S = 120
PARTS = ("drawn", "explained", "page", "film", "wall")
SHOWN_S = 4.6
"""Of the sample: he lies on the floor."""
HALL = [[0.03, 0.35], [0.97, 0.35], [0.97, 0.97], [0.03, 0.97]]


@contextmanager
def service(folder: Path) -> Iterator[str]:
    """One with the bundled weights, which may play the repository's clips and keeps events."""
    command = [Path(sys.executable).with_name("stmixer"), "serve", "--port", "0", "--allow-files", CLIPS]
    command += ["--events-file", folder / "events.db", "--event-clips", folder / "clips"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            said: list[str] = []
            for line in process.stderr:
                said.append(line)
                if found := re.search(r"ready: (http://[^\s\"]+)", line):
                    break
            else:
                raise SystemExit(f"the service did not start\n{''.join(said)}")
            yield found[1]
        finally:
            process.terminate()


def until(holds: Callable[[], object]) -> None:
    """Wait for something to be true."""
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        if time.monotonic() > deadline:
            raise SystemExit("nothing came in two minutes")
        time.sleep(0.2)


@contextmanager
def opened(browser: Browser, url: str, size: tuple[int, int], scheme: str) -> Iterator[Page]:
    """The page in a window of that size, light or dark."""
    viewport = {"width": size[0], "height": size[1]}
    context = browser.new_context(viewport=viewport, color_scheme=scheme, reduced_motion="reduce")  # type: ignore[arg-type]
    page = context.new_page()
    page.goto(url)
    page.wait_for_selector("body[data-loaded]")
    yield page
    context.close()


def at(page: Page, seconds: float) -> None:
    """The page's video stands there, boxes drawn."""
    page.evaluate(
        """(seconds) => new Promise((resolve) => {
          const video = document.getElementById("video");
          video.pause();
          const drawn = () => requestAnimationFrame(() => requestAnimationFrame(resolve));
          video.addEventListener("seeked", drawn, { once: true });
          video.currentTime = seconds;
        })""",
        seconds,
    )


def sampled(page: Page) -> float:
    """The sample is looked at; its length, seconds."""
    page.get_by_role("button", name="Try a sample").click()
    until(lambda: page.evaluate("__stmixer.state") == "done")
    until(lambda: page.evaluate("document.getElementById('video').readyState >= 2"))
    return float(page.evaluate("document.getElementById('video').duration"))


def keep(page: Page, name: str) -> None:
    """What is to be seen, as a picture of the documents."""
    page.screenshot(path=IMAGES / name, type="jpeg", quality=82)


def page_of(browser: Browser, url: str) -> None:
    """The sample looked at, on a desk and on a phone."""
    for name, size, scheme in (("page.jpg", DESK, "light"), ("page-phone.jpg", PHONE, "dark")):
        with opened(browser, url, size, scheme) as page:
            sampled(page)
            at(page, SHOWN_S)
            keep(page, name)


def clip_of(page: Page) -> None:
    """The sample from its beginning to its end, as the page plays it: a film, and a picture that moves."""
    frames = []
    for number in range(int(sampled(page) * CLIP_FPS)):
        at(page, number / CLIP_FPS)
        frames.append(Image.open(io.BytesIO(page.screenshot())).convert("RGB"))
    with av.open(str(IMAGES / "page.webm"), "w") as film:
        track = film.add_stream("libvpx-vp9", rate=CLIP_FPS, options={"crf": "34", "b": "0", "row-mt": "1"})
        (track.width, track.height), track.pix_fmt = CLIP_SIZE, "yuv420p"
        for frame in frames:
            film.mux(track.encode(av.VideoFrame.from_image(frame)))
        film.mux(track.encode(None))
    small = [frame.resize((720, 450), Image.Resampling.LANCZOS) for frame in frames]
    rest = {"save_all": True, "append_images": small[1:], "duration": 1000 // CLIP_FPS, "loop": 0}
    small[0].save(IMAGES / "page.webp", quality=60, method=6, **rest)


def wall_of(browser: Browser, url: str) -> None:
    """Two cameras, a rule drawn for one of them, and what has come of it."""
    for name, file in {"hall": "walk.mp4", "living room": "fall.mp4"}.items():
        label = "walk" if name == "hall" else "fall"
        rule = {"id": f"{label}-in-{name.replace(' ', '-')}", "label": label, "for_s": 0.5, "clear_s": 1}
        order = {"url": f"file:{file}", "name": name, "loop": True, "keyframe_hz": 2, "score_threshold": 0.5}
        order["rules"] = [rule | {"clip": {"pre_s": 1, "post_s": 1}}]
        httpx.post(f"{url}/v1/streams", json=order).raise_for_status()
    until(lambda: len(httpx.get(f"{url}/v1/events").json()["events"]) >= 4)
    for name, size, scheme in (("wall.jpg", DESK, "light"), ("wall-phone.jpg", PHONE, "dark")):
        with opened(browser, f"{url}/#wall", size, scheme) as page:
            until(lambda page=page: page.locator(".tile img:not([hidden])").count() == 2)
            until(lambda page=page: page.locator(".event").count() >= 4)
            until(lambda page=page: page.locator(".tile .in-picture li").count() >= 2)
            keep(page, name)
            if size == DESK:
                zone_of(page)


def zone_of(page: Page) -> None:
    """An area, drawn by its corners."""
    page.get_by_role("button", name="Open hall large").click()
    page.get_by_role("dialog").get_by_role("button", name="Rules").click()
    until(lambda: page.evaluate("document.getElementById('zone-picture').naturalWidth > 0"))
    zone = page.locator("#zone")
    place = zone.bounding_box()
    assert place is not None
    for x, y in HALL:
        zone.click(position={"x": x * place["width"], "y": y * place["height"]})
    keep(page, "zone.jpg")


def explained(folder: Path) -> None:
    """Where each stage of the decoder looks, of the keyframe in the walk's third second (PyTorch)."""
    command = [Path(sys.executable).with_name("stmixer"), "detect", CLIPS / "walk.mp4", "-o", folder / "out.json"]
    subprocess.run([*command, "--explain", folder / "explained"], check=True)
    with Image.open(folder / "explained" / "keyframe_00003.png") as picture:
        picture.thumbnail((1600, 1600))
        picture.convert("RGB").save(IMAGES / "explained.jpg", quality=82)


def drawn(folder: Path) -> None:
    """The frame of README: `stmixer detect` draws the walk, here at 0.5 s."""
    command = [Path(sys.executable).with_name("stmixer"), "detect", CLIPS / "walk.mp4", "--keyframe-hz", "2"]
    subprocess.run([*command, "-o", folder / "out.mp4"], check=True)
    with av.open(str(folder / "out.mp4")) as film:
        frame = next(frame for frame in film.decode(video=0) if frame.time >= 0.5)
        frame.to_image().save(IMAGES / "walk.jpg", quality=88)


def main() -> None:
    """Those of the parts that are named, or all of them."""
    parts = sys.argv[1:] or PARTS
    if unknown := set(parts) - set(PARTS):
        raise SystemExit(f"{', '.join(sorted(unknown))}: the parts are {', '.join(PARTS)}")
    with tempfile.TemporaryDirectory() as kept, sync_playwright() as playwright:
        folder = Path(kept)
        if "drawn" in parts:
            drawn(folder)
        if "explained" in parts:
            explained(folder)
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        with service(folder) as url:
            if "page" in parts:
                page_of(browser, url)
            if "film" in parts:
                with opened(browser, url, CLIP_SIZE, "light") as page:
                    clip_of(page)
            if "wall" in parts:
                wall_of(browser, url)
        browser.close()


if __name__ == "__main__":
    main()
