"""The wall: streams added, named, looked at, opened large and removed; what is wrong with one; sixteen; and keys."""

from __future__ import annotations

import re
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import httpx
import pytest
from cameras import running_camera
from conftest import OWN_CLIPS
from playwright.sync_api import Browser, Locator, Page, expect
from serving import Server, running_server
from webpage import OUT, PATIENCE_MS, looked_at, opened, show_everything, wait_for, walk

from stmixer.media.decode import VideoReader
from stmixer.media.limits import Limits
from stmixer.service.key_file import Key, KeyFile, digest, write_keys

pytestmark = pytest.mark.browser

NEVER = "rtsp://me:hunter2@127.0.0.1:1/cam"
PICTURES = "[...document.querySelectorAll('.tile img')].filter((picture) => picture.naturalWidth).length"


@pytest.fixture(scope="module")
def service(tiny_weights: Path) -> Iterator[Server]:
    with running_server(weights=tiny_weights, allow_files=OWN_CLIPS, allow_networks="127.0.0.1") as server:
        yield server


@pytest.fixture
def wall(chromium: Browser, service: Server, request: pytest.FixtureRequest) -> Iterator[Page]:
    """The wall of a service without a stream."""
    with opened(chromium, service.url + "/#wall", request.node.name) as page:
        yield page
    for stream in httpx.get(service.url + "/v1/streams").json()["streams"]:
        httpx.delete(f"{service.url}/v1/streams/{stream['id']}")


def pull(service: Server, name: str, key: str = "", **order: object) -> None:
    order = {"url": "file:walk.mp4", "loop": True, "name": name, "score_threshold": 0, "top_k": 2, **order}
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    assert httpx.post(service.url + "/v1/streams", json=order, headers=headers).status_code == 201


def tile(page: Page, name: str) -> Locator:
    return page.locator(".tile").filter(has=page.get_by_role("heading", name=name, exact=True))


def test_a_stream_is_added_by_its_address_and_removed_again(wall: Page, service: Server) -> None:
    expect(wall.locator("#wall-none")).to_be_visible(timeout=PATIENCE_MS)
    wall.get_by_label("Address").fill("rtsp://10.0.0.1/cam")
    wall.get_by_role("button", name="Add camera").click()
    expect(wall.locator("#wall-add-said")).to_contain_text("10.0.0.1 is a private address", timeout=PATIENCE_MS)
    wall.get_by_label("Address").fill(NEVER)
    wall.get_by_label("Name", exact=True).fill("front door")
    wall.get_by_label("Name", exact=True).press("Enter")
    door = tile(wall, "front door")
    expect(door).to_contain_text("Not there yet, trying again", timeout=PATIENCE_MS)
    expect(door).to_contain_text("127.0.0.1:1 refuses the connection: nothing listens there.")
    expect(wall.locator("#wall-add-said")).to_be_empty()
    expect(wall.locator("#wall-count")).to_have_text("1 stream, 0 live")
    assert "hunter2" not in wall.content()
    wall.get_by_role("button", name="Remove front door").press("Enter")
    wall.get_by_role("button", name="Really remove front door?").press("Enter")
    expect(door).to_have_count(0, timeout=PATIENCE_MS)
    assert httpx.get(service.url + "/v1/streams").json()["streams"] == []
    expect(wall.get_by_label("Address")).to_be_focused()


def test_a_stream_shows_its_picture_its_people_and_how_old_that_is_and_opens_large(wall: Page, service: Server) -> None:
    show_everything(wall)
    pull(service, "hall")
    hall = tile(wall, "hall")
    expect(hall.locator(".how")).to_have_text(re.compile(r"^Live[\d.]+ s behind$"), timeout=PATIENCE_MS)
    expect(hall.locator(".in-picture li").first).to_contain_text("person ", timeout=PATIENCE_MS)
    wait_for(wall, f"{PICTURES} === 1")
    before = hall.locator("img").get_attribute("src")
    expect(hall.locator("img")).not_to_have_attribute("src", str(before), timeout=PATIENCE_MS)
    wall.get_by_role("button", name="Open hall large").press("Enter")
    large = wall.get_by_role("dialog")
    expect(large.get_by_role("heading")).to_have_text("hall")
    expect(large.locator("#large-people li").first).to_contain_text("person ")
    expect(large.locator("img")).to_have_attribute("src", re.compile(r"/preview\.mjpg$"))
    wait_for(wall, "document.getElementById('large-picture').naturalWidth > 0")
    wall.keyboard.press("Escape")
    expect(large).to_be_hidden()
    wait_for(wall, "!document.getElementById('large-picture').hasAttribute('src')")
    wall.route("**/preview.mjpg", lambda route: route.abort(), times=1)
    wall.get_by_role("button", name="Open hall large").press("Enter")
    expect(large.locator("img")).to_have_attribute("src", re.compile(r"/preview\.mjpg\?again="))
    wait_for(wall, "document.getElementById('large-picture').naturalWidth > 0")
    large.get_by_role("button", name="Close").click()
    wall.get_by_role("button", name="Back").click()
    expect(wall.get_by_role("button", name="Start camera")).to_be_visible()
    wall.get_by_role("link", name="All cameras").click()
    expect(hall).to_be_visible(timeout=PATIENCE_MS)


@pytest.mark.slow
def test_the_wall_is_for_everybody(wall: Page, service: Server) -> None:
    """axe finds nothing serious, on the wall and with a stream large, and Tab comes by all that there is to press."""
    show_everything(wall)
    expect(wall.locator("#wall-none")).to_be_visible(timeout=PATIENCE_MS)
    looked_at(wall, "wall-empty")
    pull(service, "hall")
    pull(service, "gate", url=NEVER, loop=False)
    expect(tile(wall, "hall").locator(".in-picture li").first).to_contain_text("person ", timeout=PATIENCE_MS)
    expect(tile(wall, "gate")).to_contain_text("trying again", timeout=PATIENCE_MS)
    wait_for(wall, f"{PICTURES} === 1")
    looked_at(wall, "wall-two")
    wall.locator("#model").focus()
    way = walk(wall)
    assert [at for at in way if not (at["seen"] and at["marked"])] == []
    names = [at["name"] for at in way]
    buttons = [f"{what} {name}{end}" for name in ("hall", "gate") for what, end in (("Open", " large"), ("Remove", ""))]
    assert {"Add camera", "Back", *buttons} <= set(names)
    assert {"wall-url", "wall-name"} <= {at["id"] for at in way}
    wall.get_by_role("button", name="Open hall large").press("Enter")
    wait_for(wall, "document.getElementById('large-picture').naturalWidth > 0")
    looked_at(wall, "wall-large")
    wall.locator("#large-rules").focus()
    assert [at["id"] for at in walk(wall)] == ["large-close"]
    wall.keyboard.press("Escape")
    expect(wall.get_by_role("button", name="Open hall large")).to_be_focused()


def street(path: Path) -> Path:
    """Twenty minutes of somebody who walks, five pictures a second, the same six seconds again and again."""
    with VideoReader(OWN_CLIPS / "walk.mp4", limits=Limits.unlimited()) as reader:
        pictures = [frame.resized(320, 180) for number, frame in enumerate(reader) if number % 6 == 0]
    with av.open(str(path), "w") as film:
        track = film.add_stream("libx264", rate=5, options={"preset": "ultrafast", "g": "5"})
        track.width, track.height, track.pix_fmt = 320, 180, "yuv420p"
        frames = [av.VideoFrame.from_ndarray(picture, format="rgb24") for picture in pictures]
        once = [packet for frame in (*frames, None) for packet in track.encode(frame)]
        for number in range(6000):
            packet = av.Packet(bytes(once[number % len(once)]))
            packet.pts = packet.dts = number
            packet.time_base, packet.stream = Fraction(1, 5), track
            packet.is_keyframe = once[number % len(once)].is_keyframe
            film.mux(packet)
    return path


@pytest.mark.slow
def test_sixteen_streams_fit_on_the_wall(wall: Page, service: Server, tmp_path: Path) -> None:
    """Cameras over RTSP, of which one does not take its password and two are not there."""
    show_everything(wall)
    with running_camera(street(tmp_path / "street.mov"), "h264", "digest", "me", "hunter2") as camera:
        for number in range(13):
            pull(service, f"camera {number + 1}", url=camera.url("me:hunter2"), loop=False, keyframe_hz=0.5)
        pull(service, "garage", url=camera.url("me:hunter3"), loop=False)
        for name in ("garden gate", "yard"):
            pull(service, name, url=NEVER, loop=False)
        wall.set_viewport_size({"width": 1440, "height": 900})
        expect(wall.locator("#wall-count")).to_have_text("16 streams, 13 live", timeout=4 * PATIENCE_MS)
        expect(wall.locator(".tile")).to_have_count(16)
        expect(tile(wall, "garage")).to_contain_text("does not take this user and password", timeout=PATIENCE_MS)
        wait_for(wall, f"{PICTURES} >= 10")
        photographed(wall)
        assert "hunter" not in wall.content()


def photographed(wall: Page) -> None:
    """Nothing of it stands out at the side of a screen, or of a telephone; leaves pictures of both, to be looked at."""
    OUT.mkdir(parents=True, exist_ok=True)
    for width, height in ((1440, 900), (390, 844)):
        wall.set_viewport_size({"width": width, "height": height})
        wait_for(wall, f"innerWidth === {width}")
        assert wall.evaluate("document.documentElement.scrollWidth <= innerWidth")
        wall.screenshot(path=OUT / f"wall-{width}.png")


@pytest.mark.slow
def test_a_key_is_asked_for_and_shows_its_own_streams(
    chromium: Browser, tiny_weights: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    names = ("mine", "theirs")
    write_keys(
        tmp_path / "keys.json", KeyFile(keys=tuple(Key(name=n, sha256=digest(n), scopes=("stream",)) for n in names))
    )
    with (
        running_server(weights=tiny_weights, allow_files=OWN_CLIPS, keys=tmp_path / "keys.json") as server,
        opened(chromium, server.url + "/#wall", request.node.name) as page,
    ):
        for name in names:
            pull(server, name, key=name)
        expect(page.locator("#wall-said")).to_contain_text("This server asks for a key", timeout=PATIENCE_MS)
        page.locator("#wall-key").fill("mine")
        page.locator("#wall-key").press("Enter")
        expect(page.locator(".tile")).to_have_count(1, timeout=PATIENCE_MS)
        expect(tile(page, "mine")).to_be_visible()
        expect(page.locator("#wall-said")).to_be_hidden()
        wait_for(page, f"{PICTURES} === 1")
        page.get_by_role("button", name="Open mine large").click()
        picture = page.locator("#large-picture")
        expect(picture).to_have_attribute("src", re.compile(r"/preview\.mjpg$"), timeout=PATIENCE_MS)
        wait_for(page, "document.getElementById('large-picture').naturalWidth > 0")
        (cookie,) = page.context.cookies()
        assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Strict")
        assert re.fullmatch(r"/v1/streams/\d+/preview\.mjpg", cookie["path"])
        assert page.evaluate("document.cookie") == ""
