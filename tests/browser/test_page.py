"""The page as a person meets it: a camera and its boxes, a video and what was found, an error in words."""

from __future__ import annotations

import json
import re
import urllib.request
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect
from posting import metric
from serving import running_server
from webpage import PATIENCE_MS, opened, show_everything, wait_for, write_video
from wire import Wire

pytestmark = pytest.mark.browser

# Counted in the canvas itself: what is not drawn is not there.
DRAWN_PIXELS = """() => {
  const canvas = document.getElementById("overlay");
  const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  return data.filter((value, index) => index % 4 === 3 && value > 0).length;
}"""


def test_header_tells_whether_the_weights_are_trained(page: Page, server) -> None:
    with urllib.request.urlopen(f"{server.url}/v1/models") as response:
        model = json.load(response)["models"][0]
    expect(page.locator("#model")).to_have_text(model["name"])
    expect(page.locator("#untrained")).to_be_visible(visible=not model["trained"])


def test_camera_draws_boxes_and_tells_their_age(page: Page) -> None:
    show_everything(page)
    page.get_by_role("button", name="Start camera").click()
    wait_for(page, "__stmixer.results.some((result) => result.actors.length)")
    wait_for(page, f"({DRAWN_PIXELS})() > 0")
    expect(page.locator("#status")).to_have_text(re.compile("Live"), timeout=PATIENCE_MS)
    assert int(page.locator("#age").inner_text().replace(",", "")) < PATIENCE_MS
    expect(page.locator("#rate")).to_have_text(re.compile(r"\d a second"), timeout=PATIENCE_MS)
    expect(page.locator("#people li").first).to_be_visible()


def test_camera_stops_with_a_summary_in_words(page: Page) -> None:
    page.get_by_role("button", name="Start camera").click()
    wait_for(page, "__stmixer.results.length > 0")
    page.get_by_role("button", name="Stop").click()
    expect(page.locator("#summary-head")).to_contain_text("with the camera", timeout=PATIENCE_MS)
    expect(page.locator("#summary-lines")).to_contain_text("due")  # for operators, in a panel that is closed
    expect(page.locator("#summary-lines")).to_be_hidden()
    assert page.evaluate("__stmixer.state") == "idle"


def test_camera_goes_on_at_another_rate(page: Page) -> None:
    page.get_by_role("button", name="Start camera").click()
    wait_for(page, "__stmixer.results.length > 0")
    page.get_by_role("button", name="Settings").click()
    page.get_by_label("Looks per second").fill("2")
    # A period of about half a second: models with cached features round it to their sampling grid.
    wait_for(
        page, "(({ seq, pts_us }) => seq > 0 && Math.abs(pts_us / seq - 500_000) < 100_000)(__stmixer.results.at(-1))"
    )
    expect(page.locator("#message")).to_be_hidden()


@pytest.mark.slow
def test_camera_comes_back_when_the_network_was_gone(
    chromium: Browser, tiny_weights: Path, request: pytest.FixtureRequest
) -> None:
    """It is the same stream: keyframes are numbered on, and the service counts one that came back."""
    with (
        running_server(weights=tiny_weights, resume_ttl_s=60) as server,
        Wire(int(server.url.rsplit(":", 1)[1])) as wire,
        opened(chromium, wire.url, request.node.name) as page,
    ):
        page.get_by_role("button", name="Start camera").click()
        wait_for(page, "__stmixer.results.at(-1)?.seq >= 2")
        before = page.evaluate("__stmixer.results.at(-1).seq")
        assert wire.cut() >= 1
        wait_for(page, "__stmixer.state === 'reconnecting'")
        wait_for(page, f"__stmixer.state === 'live' && __stmixer.results.at(-1).seq > {before + 1}")
        seqs = page.evaluate("__stmixer.results.map((result) => result.seq)")
        assert seqs == sorted(set(seqs))
        page.get_by_role("button", name="Stop").click()
        expect(page.locator("#summary-lines")).to_contain_text("due", timeout=PATIENCE_MS)
        # "evicted" where the browser was back before the service knew that it had gone
        assert sum(metric(server, "stream_reconnects_total", reason=r) for r in ("resumed", "evicted")) == 1


def test_camera_that_is_not_allowed_is_explained(page: Page) -> None:
    page.evaluate(
        """() => {
          navigator.mediaDevices.getUserMedia = () => Promise.reject(new DOMException("", "NotAllowedError"));
        }"""
    )
    page.get_by_role("button", name="Start camera").click()
    expect(page.get_by_role("alert")).to_contain_text("The camera was not allowed")
    page.get_by_role("button", name="Back").click()
    expect(page.get_by_role("button", name="Start camera")).to_be_focused()


@pytest.mark.parametrize(
    ("codec", "name"), [("libvpx", "vp8.webm"), ("libvpx-vp9", "vp9.webm"), ("libx264", "h264.mp4")]
)
def test_upload_draws_what_was_found(page: Page, tmp_path: Path, codec: str, name: str) -> None:
    show_everything(page)
    page.locator("#file").set_input_files(write_video(tmp_path / name, codec))
    wait_for(page, "__stmixer.state === 'done'")
    assert page.evaluate("__stmixer.results.length") >= 3
    expect(page.locator("#found li").first).to_be_visible()
    expect(page.get_by_role("button", name="Download JSON")).to_be_visible()
    if page.evaluate("document.getElementById('video').error !== null"):
        assert name.endswith(".mp4"), "every Chromium plays WebM"
        expect(page.get_by_role("alert")).to_contain_text("cannot play this format")
        return
    wait_for(page, f"({DRAWN_PIXELS})() > 0")

    timeline = page.get_by_role("slider", name="Who did what when")
    timeline.press("End")
    wait_for(page, "document.getElementById('video').currentTime > 2")
    wait_for(page, f"({DRAWN_PIXELS})() > 0")


def test_upload_gives_its_results_as_json(page: Page, tmp_path: Path) -> None:
    page.locator("#file").set_input_files(write_video(tmp_path / "clip.webm", "libvpx"))
    wait_for(page, "__stmixer.state === 'done'")
    with page.expect_download() as download:
        page.get_by_role("button", name="Download JSON").click()
    assert download.value.suggested_filename == "clip.json"
    answer = json.loads(Path(download.value.path()).read_text())
    assert {"model", "trained", "frame", "keyframes", "summary", "warnings"} == set(answer)
    assert len(answer["keyframes"]) == page.evaluate("__stmixer.results.length")


def test_upload_that_is_no_video_is_explained(page: Page, tmp_path: Path) -> None:
    path = tmp_path / "shopping.txt"
    path.write_text("milk, bread, apples\n" * 50)
    page.locator("#file").set_input_files(path)
    alert = page.get_by_role("alert")
    expect(alert).to_contain_text(re.compile("could not be read as a video|not supported"), timeout=PATIENCE_MS)
    expect(alert.get_by_role("button", name="Try again")).to_be_visible()


def test_narrow_screen_needs_no_sideways_scrolling(page: Page) -> None:
    page.set_viewport_size({"width": 360, "height": 740})
    page.get_by_role("button", name="Start camera").click()
    wait_for(page, "__stmixer.results.length > 0")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360


def test_the_header_is_one_line_on_a_phone(page: Page) -> None:
    """Beside it what the untrained weights of tests are said to be, which the bundled model is not."""
    page.set_viewport_size({"width": 390, "height": 844})
    page.evaluate("document.getElementById('model').textContent = 'stmixer-rt'")
    tops = "['.top h1', '#model', '#to-wall', '#settings-toggle'].map((at) => document.querySelector(at))"
    middles = page.evaluate(f"{tops}.map((at) => at.getBoundingClientRect()).map((box) => (box.top + box.bottom) / 2)")
    assert max(middles) - min(middles) < 8


def test_boxes_move_between_keyframes(page: Page) -> None:
    """The rule of drawn videos (`media.annotated.Moments`), in the page's own words."""
    script = """async ([first, second, share]) => {
        const { between } = await import("./web/overlay.js");
        const people = (boxes) => boxes.map(([track_id, ...box]) => ({ box, track_id, actions: [] }));
        const found = between(people(first), people(second), share);
        return found.map(({ track_id, box }) => [track_id, ...box.map((side) => Math.round(side * 1e4) / 1e4)]);
    }"""
    walker, later, other = [1, 0.1, 0.2, 0.2, 0.6], [1, 0.2, 0.2, 0.3, 0.6], [2, 0.15, 0.2, 0.25, 0.6]
    assert page.evaluate(script, [[walker], [later], 0.25]) == [[1, 0.125, 0.2, 0.225, 0.6]]
    assert page.evaluate(script, [[walker], [later], 0.75]) == [[1, 0.175, 0.2, 0.275, 0.6]]
    assert page.evaluate(script, [[walker, other], [later], 0.5]) == [[1, 0.15, 0.2, 0.25, 0.6], other]
    assert page.evaluate(script, [[walker], [other], 0.4]) == [walker]
    assert page.evaluate(script, [[walker], [other], 0.6]) == [other]
    unknown = [None, *walker[1:]]
    assert page.evaluate(script, [[unknown], [[None, *later[1:]]], 0.25]) == [unknown]
    assert page.evaluate(script, [[walker], [], 0.6]) == []
