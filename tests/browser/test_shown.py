"""What the page says to people: a sample, the model's card, who did what when, cameras to choose, tables and videos."""

from __future__ import annotations

import csv
import io
import json
import urllib.request
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import av
import pytest
from playwright.sync_api import Browser, Page, WebSocketRoute, expect
from posting import metric
from serving import Server, running_server
from webpage import PATIENCE_MS, faults, opened, show_everything, wait_for, write_video

pytestmark = pytest.mark.browser

SEEN = """async ([period, keyframes]) => {
  const { Seen, csv } = await import("./web/found.js");
  const seen = new Seen(period);
  for (const [seconds, ...people] of keyframes) {
    const actors = people.map(([track_id, person_score, ...actions]) => ({
      track_id, person_score, actions: actions.map(([name, score]) => ({ name, score })),
    }));
    seen.add(seconds, actors);
  }
  return { people: seen.people(), rows: seen.rows(), csv: csv(seen.rows()) };
}"""


def test_who_did_what_when(page: Page) -> None:
    """A pause of up to a second, or of a keyframe and a half, ends nothing."""
    walk, fall = ["walk", 0.8], ["fall", 0.9]
    keyframes = [
        [0, [1, 0.9, walk]], [0.5, [1, 0.7, walk], [2, 0.6]], [1.4, [1, 0.8, ["walk", 0.95]]],
        [2.6, [1, 0.8, walk, fall]], [3, [1, 0.8, fall]],
    ]  # fmt: skip
    found = page.evaluate(SEEN, [0.5, keyframes])
    assert found["people"] == [
        {"id": 1, "from": 0, "to": 3, "best": 0.9, "actions": [
            {"name": "walk", "best": 0.95, "spans": [{"from": 0, "to": 1.4}, {"from": 2.6, "to": 2.6}]},
            {"name": "fall", "best": 0.9, "spans": [{"from": 2.6, "to": 3}]},
        ]},
        {"id": 2, "from": 0.5, "to": 0.5, "best": 0.6, "actions": []},
    ]  # fmt: skip
    assert [(row["id"], row["action"], row["from"], row["to"]) for row in found["rows"]] == [
        (1, "walk", 0, 1.4), (2, "", 0.5, 0.5), (1, "walk", 2.6, 2.6), (1, "fall", 2.6, 3),
    ]  # fmt: skip
    slow = page.evaluate(SEEN, [1, [[0, [1, 0.9, walk]], [1.4, [1, 0.9, walk]]]])
    assert slow["people"][0]["actions"][0]["spans"] == [{"from": 0, "to": 1.4}]


SHOWN = """async ([actors, settings]) => (await import("./web/overlay.js")).shown(actors, settings)"""


def test_what_is_shown_of_somebody_is_what_they_have_been_doing(page: Page) -> None:
    """Chosen, ordered and told by `smoothed`; of results without it by `score`."""
    scores = {"a": (0.9, 0.55), "b": (0.4, 0.8), "c": (0.95, 0.3), "d": (0.6, None), "e": (0.7, 0.51)}
    actions = [{"name": name, "score": score, "smoothed": smoothed} for name, (score, smoothed) in scores.items()]
    actor = {"track_id": 1, "box": [0, 0, 1, 1], "person_score": 0.9, "actions": actions}
    settings = {"score_threshold": 0.6, "action_threshold": 0.5, "top_k": 3}
    (told,) = page.evaluate(SHOWN, [[actor, actor | {"person_score": 0.5}], settings])
    assert [(action["name"], action["score"]) for action in told["actions"]] == [("b", 0.8), ("d", 0.6), ("a", 0.55)]


def test_the_table_is_csv(page: Page) -> None:
    rows = [[0, [None, 0.9, ['say "hi", wave', 0.5]]]]
    text = page.evaluate(SEEN, [1, rows])["csv"]
    assert list(csv.reader(io.StringIO(text, newline=""))) == [
        ["person", "action", "from_s", "to_s", "score"],
        ["", 'say "hi", wave', "0.00", "0.00", "0.5000"],
    ]


def test_the_model_is_one_click_away(page: Page, server: Server) -> None:
    def asked(path: str) -> dict:
        with urllib.request.urlopen(server.url + path) as response:
            return json.load(response)

    model = asked("/v1/models")["models"][0]
    labels = sorted(label["name"] for label in asked("/v1/labels")["labels"])
    page.get_by_role("button", name=model["name"]).press("Enter")
    card = page.locator("#card")
    expect(card.locator("#card-actions li")).to_have_count(len(labels))
    assert sorted(card.locator("#card-actions li").all_inner_texts()) == labels
    expect(card.locator("#card-facts")).to_contain_text(model["source"])
    assert "/v1/draw" in asked("/" + str(card.get_by_role("link", name="OpenAPI").get_attribute("href")))["paths"]
    with page.context.expect_page() as opened_page:
        card.get_by_role("link", name="The API, to read").click()
    manual = opened_page.value
    expect(manual.get_by_role("heading", name="POST /v1/draw")).to_be_visible()
    assert find_spec("axe_playwright_python") is None or faults(manual) == []
    manual.close()
    page.keyboard.press("Escape")
    expect(card).to_be_hidden()
    expect(page.get_by_role("button", name=model["name"])).to_be_focused()


def test_another_camera_goes_on_in_the_same_stream(page: Page) -> None:
    page.get_by_role("button", name="Start camera").press("Enter")
    wait_for(page, "__stmixer.results.length > 0")
    expect(page.get_by_role("button", name="Stop")).to_be_focused()
    chooser = page.get_by_label("Camera", exact=True)
    expect(chooser.locator("option")).to_have_count(2, timeout=PATIENCE_MS)
    label = "document.getElementById('video').srcObject.getVideoTracks()[0].label"
    used = page.evaluate(label)
    assert chooser.locator("option:checked").inner_text() == used
    (other,) = {*chooser.locator("option").all_inner_texts()} - {used}
    before = page.evaluate("__stmixer.results.at(-1).seq")
    chooser.select_option(label=other)
    wait_for(page, f"{label} === {json.dumps(other)}")
    wait_for(page, f"__stmixer.results.at(-1).seq > {before + 2}")
    expect(chooser.locator("option:checked")).to_have_text(other)


def test_another_rate_while_another_camera_opens_ends_neither(page: Page) -> None:
    page.get_by_role("button", name="Start camera").click()
    wait_for(page, "__stmixer.results.length > 0")
    chooser = page.get_by_label("Camera", exact=True)
    expect(chooser.locator("option")).to_have_count(2, timeout=PATIENCE_MS)
    page.evaluate(
        """() => {
          const opens = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
          const allowed = new Promise((resolve) => (window.allow = resolve));
          navigator.mediaDevices.getUserMedia = async (wanted) => {
            await allowed;
            return opens(wanted);
          };
          const Before = WebSocket;
          window.WebSocket = class extends Before {
            constructor(...given) {
              super(...given);
              window.connectedAgain = true;
            }
          };
        }"""
    )
    chooser.select_option(label=chooser.locator("option:not(:checked)").inner_text())
    page.get_by_role("button", name="Settings").click()
    page.get_by_label("Looks per second").fill("2")
    wait_for(page, "window.connectedAgain")
    page.evaluate("() => { __stmixer.results.length = 0; window.allow(); }")
    wait_for(page, "__stmixer.results.length > 0 && __stmixer.state === 'live'")
    assert page.evaluate("document.getElementById('video').srcObject.getVideoTracks()[0].readyState") == "live"


def test_a_rate_that_changes_takes_what_people_do_apart_no_more_than_before(page: Page) -> None:
    spans = page.evaluate(
        """async () => {
          const { Seen } = await import("./web/found.js");
          const seen = new Seen(0.25);
          const walks = [{ track_id: 1, person_score: 0.9, actions: [{ name: "walk", score: 0.8 }] }];
          const ends = () => seen.people()[0].actions[0].spans.map(({ from, to }) => [from, to]);
          seen.add(0, walks);
          seen.period(2);
          seen.add(2, walks);
          seen.add(4.5, walks);
          seen.period(0.25);
          seen.add(6, walks);
          return ends();
        }"""
    )
    assert spans == [[0, 4.5], [6, 6]]


def test_a_camera_at_a_slower_rate_has_a_row_for_what_goes_on(page: Page) -> None:
    """Keyframes are more than a second apart then: what the service rounds it to. The service is made up."""
    show_everything(page)
    started: list[float] = []
    page.route_web_socket("**/v1/streams/ws", lambda socket: one_who_walks(socket, started))
    page.get_by_role("button", name="Start camera").click()
    wait_for(page, "__stmixer.results.length >= 3")
    page.get_by_role("button", name="Settings").click()
    page.get_by_label("Looks per second").fill("1")
    wait_for(page, "__stmixer.results.filter((result) => result.slow).length >= 3")
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Stop").click()
    rows = page.locator("#seen tbody tr")
    expect(rows.first).to_be_visible(timeout=PATIENCE_MS)
    # one for each stream's person; a busy page may have begun a further stream
    assert 2 <= rows.count() <= len(started)


def one_who_walks(socket: WebSocketRoute, started: list[float]) -> None:
    """A service that answers the first picture with three keyframes of somebody who walks, a period apart.

    Not `start`: the page places results in time from its first picture on.
    ``started``: the rate of each stream that was begun.
    """
    waits: list[float] = []  # the rate of a stream without a picture so far

    def answer(message: str | bytes) -> None:
        if isinstance(message, bytes):
            if waits:
                hz = waits.pop()
                for seq in range(3):
                    socket.send(json.dumps(walking(seq, hz)))
            return
        told = json.loads(message)
        if told["type"] == "stop":
            socket.send(json.dumps({"type": "summary", "summary": {}}))
        if told["type"] == "start":
            waits.append(hz := told["keyframe_hz"] * 15 / 16)
            started.append(hz)
            socket.send(json.dumps({"type": "ready", "session_id": f"at {hz}", "keyframe_hz": hz, "model": "tiny"}))

    socket.on_message(answer)


def walking(seq: int, hz: float) -> dict[str, Any]:
    actor = {"track_id": 1, "box": [0, 0, 1, 1], "person_score": 1, "actions": [{"name": "walk", "score": 1}]}
    pts_us = round(seq * 1e6 / hz) + 10**12  # after all that the page's clock says
    return {"type": "result", "seq": seq, "pts_us": pts_us, "slow": hz < 1, "actors": [actor]}


def test_a_camera_session_ends_with_who_did_what(page: Page) -> None:
    show_everything(page)
    page.get_by_role("button", name="Start camera").click()
    wait_for(page, "__stmixer.results.some((result) => result.actors.length)")
    page.get_by_role("button", name="Stop").click()
    expect(page.locator("#summary-head")).to_contain_text("seen", timeout=PATIENCE_MS)
    rows = page.locator("#seen tbody tr")
    expect(rows.first).to_contain_text("person ")
    with page.expect_download() as download:
        page.get_by_role("button", name="Download table").click()
    assert download.value.suggested_filename == "seen.csv"
    with open(download.value.path(), newline="") as file:
        table = list(csv.reader(file))
    assert table[0] == ["person", "action", "from_s", "to_s", "score"]
    assert min(len(table) - 1, 100) == rows.count()


def test_the_video_with_boxes_is_drawn_from_what_was_found(page: Page, server: Server, tmp_path: Path) -> None:
    show_everything(page)
    page.locator("#file").set_input_files(write_video(tmp_path / "clip.webm", "libvpx"))
    wait_for(page, "__stmixer.state === 'done'")
    inferences = metric(server, "inferences_total")
    with page.expect_download(timeout=PATIENCE_MS) as download:
        page.get_by_role("button", name="Download video with boxes").press("Enter")
    assert download.value.suggested_filename == "clip.boxes.mp4"
    with av.open(str(download.value.path())) as video:
        assert sum(1 for _ in video.decode(video=0)) == 90
    assert metric(server, "inferences_total") == inferences
    wait_for(page, "__stmixer.state === 'done'")


def found_in(page: Page, tmp_path: Path) -> None:
    show_everything(page)
    page.locator("#file").set_input_files(write_video(tmp_path / "clip.webm", "libvpx"))
    wait_for(page, "__stmixer.state === 'done'")


def test_a_drawing_that_was_cancelled_is_heard_of_no_more(page: Page, tmp_path: Path) -> None:
    """The answer to how far it is comes after the drawing's end."""
    found_in(page, tmp_path)
    page.evaluate(
        """() => {
          const asks = window.fetch;
          const late = new Promise((resolve) => (window.answer = resolve));
          window.fetch = async (url, options) => {
            if (!String(url).includes("/v1/drawings/")) return asks(url, options);
            window.looked = true;
            await late;
            return new Response(JSON.stringify({ done_s: 1, duration_s: 3 }));
          };
        }"""
    )
    page.route("**/v1/draw", lambda route: None)  # it takes for ever
    page.get_by_role("button", name="Download video with boxes").click()
    wait_for(page, "window.looked")
    page.get_by_role("button", name="Cancel").click()
    wait_for(page, "__stmixer.state === 'done'")
    page.evaluate("() => { window.answer(); return new Promise((resolve) => setTimeout(resolve)); }")
    assert page.evaluate("__stmixer.state") == "done"
    expect(page.locator("#progress")).to_be_hidden()


@pytest.mark.parametrize(
    ("status", "code", "words"),
    [(413, "too_large", "There is too much to draw in this video"),
     (422, "bad_results", "The server could not draw these results")],
)  # fmt: skip
def test_results_that_are_not_taken_are_no_fault_of_the_video(
    page: Page, tmp_path: Path, status: int, code: str, words: str
) -> None:
    found_in(page, tmp_path)
    page.route("**/v1/draw", lambda route: route.fulfill(status=status, json={"code": code, "title": "no"}))
    page.get_by_role("button", name="Download video with boxes").click()
    expect(page.locator("#status")).to_contain_text(words, timeout=PATIENCE_MS)


def test_without_results_there_is_nothing_to_draw(page: Page, tmp_path: Path) -> None:
    end = {"summary": {"due": 0}, "warnings": [], "model": "tiny", "trained": False}
    page.route(
        "**/v1/detect?*",
        lambda route: route.fulfill(body=json.dumps(end) + "\n", content_type="application/x-ndjson"),
    )
    found_in(page, tmp_path)
    expect(page.get_by_role("button", name="Download JSON")).to_be_visible()
    expect(page.get_by_role("button", name="Download video with boxes")).to_be_hidden()


def test_a_list_that_is_written_anew_keeps_the_focus(page: Page, tmp_path: Path) -> None:
    show_everything(page)
    page.locator("#file").set_input_files(write_video(tmp_path / "clip.webm", "libvpx"))
    wait_for(page, "__stmixer.state === 'done'")
    held = page.evaluate(
        """() => {
          const before = document.querySelectorAll("#found button")[1];
          before.focus();
          document.getElementById("video").dispatchEvent(new Event("durationchange"));
          const after = document.activeElement;
          return [before.isConnected, after.dataset.key === before.dataset.key, after.isConnected];
        }"""
    )
    assert held == [False, True, True]


@pytest.mark.slow
def test_the_sample_shows_somebody_who_walks_and_falls(chromium: Browser, request: pytest.FixtureRequest) -> None:
    """With the bundled model, as a first-time user has it, by keyboard; one more action may be claimed, wrongly."""
    with running_server() as server, opened(chromium, server.url, request.node.name) as page:
        page.get_by_role("button", name="Try a sample").press("Enter")
        wait_for(page, "__stmixer.state === 'done'")
        expect(page.locator("#credit")).to_contain_text("MIT")
        people = page.locator("#found > li")
        expect(people).to_have_count(1)
        expect(people.locator(".who")).to_contain_text("person 1")
        told = [text.split()[0] for text in people.locator("li").all_inner_texts()]
        assert {"walk", "fall"} <= set(told)
        assert len(told) <= 3
        timeline = page.get_by_role("slider", name="Who did what when")
        page.evaluate("for (const video of document.querySelectorAll('video')) video.pause()")  # or it plays past it
        timeline.press("End")
        expect(timeline).to_have_attribute("aria-valuetext", "0:05, person 1 fall")
