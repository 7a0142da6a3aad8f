"""Events on the page: an area drawn on a camera's picture becomes a rule, what comes of it is seen, its clip kept."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import httpx
import pytest
from conftest import OWN_CLIPS
from playwright.sync_api import Browser, Page, expect
from serving import Server, running_server
from webpage import PATIENCE_MS, looked_at, opened, show_everything, wait_for, walk
from ws_client import poll

pytestmark = [pytest.mark.browser, pytest.mark.slow]


@pytest.fixture(scope="module")
def service(tiny_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    films, clips = tmp_path_factory.mktemp("films"), tmp_path_factory.mktemp("clips")
    as_vp9(OWN_CLIPS / "walk.mp4", films / "hall.webm")
    events = tmp_path_factory.mktemp("events") / "events.db"
    with running_server(weights=tiny_weights, allow_files=films, event_clips=clips, events_file=events) as server:
        yield server


def as_vp9(source: Path, target: Path) -> None:
    """What this browser plays: it has no H.264."""
    quick = {"deadline": "realtime", "cpu-used": "8", "lag-in-frames": "0", "g": "30"}
    with av.open(source) as film, av.open(target, "w", format="webm") as output:
        track = output.add_stream("libvpx-vp9", rate=film.streams.video[0].average_rate)
        track.width, track.height, track.pix_fmt, track.options = 320, 240, "yuv420p", quick
        for frame in film.decode(video=0):
            output.mux(track.encode(frame.reformat(320, 240, "yuv420p")))
        output.mux(track.encode(None))


def begin(service: Server) -> str:
    """A stream in which the test's weights see people everywhere; its number."""
    order = {"url": "file:hall.webm", "loop": True, "name": "hall", "score_threshold": 0, "keyframe_hz": 2}
    return httpx.post(service.url + "/v1/streams", json=order).raise_for_status().json()["id"]


def rules(service: Server, stream: str) -> list[dict[str, Any]]:
    return httpx.get(f"{service.url}/v1/streams/{stream}/rules").raise_for_status().json()["rules"]


def reached(page: Page) -> list[dict[str, Any]]:
    """What Tab comes by: all of it is to be seen, and its place marked."""
    way = walk(page)
    assert [at for at in way if not (at["seen"] and at["marked"])] == []
    return way


def test_a_zone_is_drawn_an_event_seen_and_its_clip_kept(
    chromium: Browser, service: Server, request: pytest.FixtureRequest
) -> None:
    stream = begin(service)
    with opened(chromium, service.url + "/#wall", request.node.name) as page:
        page.get_by_role("button", name="Open hall large").press("Enter")
        wait_for(page, "document.getElementById('large-picture').naturalWidth > 0")
        page.get_by_role("dialog").get_by_role("button", name="Rules").press("Enter")
        dialog = page.get_by_role("dialog", name="Rules of hall")
        expect(dialog).to_contain_text("No rule of its own yet.", timeout=PATIENCE_MS)
        wait_for(page, "document.getElementById('zone-picture').naturalWidth > 0")

        zone = dialog.get_by_role("application", name="Area in the picture")
        place = zone.bounding_box()
        assert place is not None
        for x, y in ((0.02, 0.04), (0.98, 0.04)):
            zone.click(position={"x": x * place["width"], "y": y * place["height"]})
        dialog.get_by_label("Name of the rule").fill("in-hall")
        dialog.get_by_role("button", name="Save rule").press("Enter")
        expect(dialog.locator("#rules-why")).to_contain_text("three corners")
        expect(zone).to_be_focused()
        for _ in range(50):
            zone.press("ArrowDown")
        zone.press("Enter")
        for _ in range(50):
            zone.press("ArrowLeft")
        zone.press("Enter")
        zone.press("Enter")
        zone.press("Backspace")
        expect(dialog.locator("#zone-said")).to_contain_text("4 corners; the cross is at 0 % across, 100 % down")
        looked_at(page, "events-zone")
        page.locator("#rules-close").focus()
        ids = [at["id"] for at in reached(page)]
        assert {"zone", "zone-back", "zone-clear", "rule-id", "rule-what", "rule-clip"} <= set(ids)

        dialog.get_by_label("What").select_option(label="somebody is there")
        dialog.get_by_label("For seconds").fill("0")
        dialog.get_by_label("Score at least").fill("0")
        dialog.get_by_role("button", name="Save rule").press("Enter")
        expect(dialog.locator("#rules-list")).to_contain_text(
            "in-hall somebody is there in the zone for 0 s, score 0 or more, with a clip"
        )
        (rule,) = rules(service, stream)
        assert rule["zone"] == [
            pytest.approx(corner, abs=0.01) for corner in ([0.02, 0.04], [0.98, 0.04], [0.98, 1], [0, 1])
        ]
        assert (rule["id"], rule["person"], rule["for_s"], rule["min_score"]) == ("in-hall", True, 0, 0)
        assert rule["clip"] is not None
        dialog.get_by_role("button", name="Close").press("Enter")
        page.keyboard.press("Escape")

        play = page.locator("#events").get_by_role("button", name="Play the clip of in-hall in hall")
        expect(play.first).to_be_visible(timeout=PATIENCE_MS)
        expect(page.locator("#events .event").first).to_contain_text("score ")
        looked_at(page, "events-list")
        assert any("in-hall" in at["name"] for at in reached(page))

        page.get_by_role("button", name="Open hall large").press("Enter")
        page.get_by_role("dialog").get_by_role("button", name="Rules").press("Enter")
        dialog.get_by_role("button", name="Remove the rule in-hall").press("Enter")
        expect(dialog).to_contain_text("No rule of its own yet.")
        assert rules(service, stream) == []
        dialog.get_by_role("button", name="Close").press("Enter")
        page.keyboard.press("Escape")

        def kept() -> list[str]:
            events = httpx.get(f"{service.url}/v1/events?limit=24").json()["events"]
            ids = [event["event_id"] for event in events]
            return [id for id in ids if httpx.head(f"{service.url}/v1/events/{id}/clip.mp4").status_code == 200]

        assert poll(kept, PATIENCE_MS / 1000)
        chosen = kept()[0]
        look = page.locator(f'#events [data-key="{chosen}"]')
        item = page.locator("#events .event", has=page.locator(f'[data-key="{chosen}"]'))
        expect(item).to_contain_text(", for ")  # the list is a few seconds behind
        look.press("Enter")
        clip = page.get_by_role("dialog", name="in-hall in hall")
        expect(clip.locator("#event-how")).to_contain_text(", for ")
        wait_for(page, "document.getElementById('event-clip').currentTime > 0")
        assert page.evaluate("document.getElementById('event-clip').src").startswith("blob:")
        page.evaluate("document.getElementById('event-clip').currentTime = 0.5")
        expect(clip.locator("#event-why")).to_have_text("")
        looked_at(page, "events-clip")
        clip.get_by_role("button", name="Close").press("Enter")
        expect(look).to_be_focused()
    httpx.delete(f"{service.url}/v1/streams/{stream}")


def own_camera(service: Server) -> dict[str, Any]:
    """The stream of the one page that sends its camera."""
    streams = httpx.get(service.url + "/v1/streams").raise_for_status().json()["streams"]
    return next((stream for stream in streams if stream["source"] == "ws"), {"id": None})


def test_of_ones_own_camera_too_and_the_rule_stays_when_another_stream_begins(
    chromium: Browser, service: Server, request: pytest.FixtureRequest
) -> None:
    """Shown as in a mirror; the zone lies in the picture that the service has."""
    with opened(chromium, service.url, request.node.name) as page:
        show_everything(page)
        page.get_by_role("button", name="Start camera").click()
        wait_for(page, "__stmixer.results.length > 0")
        page.get_by_role("button", name="Rules").click()
        dialog = page.get_by_role("dialog", name="Rules of this camera")
        expect(dialog).to_contain_text("No rule of its own yet.", timeout=PATIENCE_MS)
        wait_for(page, "document.getElementById('zone-picture').naturalWidth > 0")
        zone = dialog.get_by_role("application", name="Area in the picture")
        place = zone.bounding_box()
        assert place is not None
        for x, y in ((0.02, 0.04), (0.9, 0.04)):
            zone.click(position={"x": x * place["width"], "y": y * place["height"]})
        for _ in range(50):
            zone.press("ArrowDown")
        zone.press("ArrowRight")
        expect(dialog.locator("#zone-said")).to_contain_text("2 corners; the cross is at 92 % across, 100 % down")
        zone.press("Enter")
        for _ in range(50):
            zone.press("ArrowLeft")
        zone.press("Enter")
        looked_at(page, "own-zone")
        dialog.get_by_label("Name of the rule").fill("near")
        dialog.get_by_label("What").select_option(label="somebody is there")
        dialog.get_by_label("For seconds").fill("0")
        dialog.get_by_label("Score at least").fill("0")
        dialog.get_by_role("button", name="Save rule").press("Enter")
        expect(dialog.locator("#rules-list")).to_contain_text("near somebody is there in the zone")
        before = own_camera(service)
        (rule,) = rules(service, before["id"])
        corners = [[0.98, 0.04], [0.1, 0.04], [0.08, 1], [1, 1]]
        assert rule["zone"] == [pytest.approx(corner, abs=0.01) for corner in corners]
        dialog.get_by_role("button", name="Close").press("Enter")

        happened = page.locator("#camera-events .event")
        expect(happened.first).to_contain_text("near", timeout=PATIENCE_MS)
        expect(happened.first).to_contain_text("this camera")
        looked_at(page, "own-list")

        page.get_by_role("button", name="Settings").click()
        page.get_by_label("Looks per second").fill("2")
        page.keyboard.press("Escape")
        streams = f"{service.url}/v1/events?limit=1000&stream="
        assert poll(lambda: own_camera(service)["id"] not in (None, before["id"]), PATIENCE_MS / 1000)
        after = own_camera(service)["id"]
        assert rules(service, after) == [rule]
        assert poll(lambda: httpx.get(streams + after).json()["events"], PATIENCE_MS / 1000)
        page.get_by_role("button", name="Stop").click()
        expect(page.locator("#summary-head")).to_contain_text("with the camera", timeout=PATIENCE_MS)
        expect(happened).to_have_count(0)

    def film() -> bytes | None:
        found = [
            httpx.get(f"{service.url}/v1/events/{event['event_id']}/clip.mp4")
            for event in httpx.get(streams + before["id"]).json()["events"]
        ]
        return next((answer.content for answer in found if answer.status_code == 200), None)

    data = poll(film, PATIENCE_MS / 1000)
    with av.open(io.BytesIO(data)) as clip:
        assert sum(1 for _ in clip.decode(video=0)) > 5
