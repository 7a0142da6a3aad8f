"""Teach on the page: clips are dropped, recorded and removed, a lesson is watched, tried, kept, discarded; what goes
wrong; keys, small screens, whoever has no mouse; and a real lesson from a dropped clip to its label in a picture."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import av
import httpx
import pytest
from conftest import OWN_CLIPS
from playwright.sync_api import Browser, Locator, Page, expect
from serving import Server, running_server
from webpage import OUT, faults, opened, show_everything, wait_for, write_video

from stmixer.service.key_file import Key, KeyFile, digest, write_keys

pytestmark = [pytest.mark.browser, pytest.mark.slow]

LESSON_MS = 20 * 60_000
LEARNED = "Learned; try it, then keep it or discard it"
DROP = """({selector, names, contents}) => {
  const data = new DataTransfer();
  names.forEach((name, at) => {
    const bytes = Uint8Array.from(atob(contents[at]), (sign) => sign.charCodeAt(0));
    data.items.add(new File([bytes], name, {type: "video/mp4"}));
  });
  const target = document.querySelector(selector);
  for (const kind of ["dragenter", "dragover", "drop"])
    target.dispatchEvent(new DragEvent(kind, {bubbles: true, cancelable: true, dataTransfer: data}));
}"""


@pytest.fixture(scope="module")
def service(tiny_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    terms = {"allow_teach": "true", "teach_dir": tmp_path_factory.mktemp("school")}
    with running_server(weights=tiny_weights, teacher_module="stand_in_teacher", **terms) as server:
        yield server


@pytest.fixture
def school(chromium: Browser, service: Server, request: pytest.FixtureRequest) -> Iterator[Page]:
    """The page of a service that has no clip yet."""
    with opened(chromium, service.url + "/#teach", request.node.name) as page:
        yield page
    httpx.delete(service.url + "/v1/teach", timeout=60).raise_for_status()


def card(page: Page, label: str) -> Locator:
    return page.locator(f'.lesson[data-label="{label}"]')


def drop(page: Page, selector: str, *files: Path) -> None:
    """As somebody lets go of files over an element."""
    contents = [base64.b64encode(file.read_bytes()).decode() for file in files]
    page.evaluate(DROP, {"selector": selector, "names": [file.name for file in files], "contents": contents})


def add_action(page: Page, label: str) -> None:
    page.get_by_label("An action to teach").fill(label)
    page.get_by_label("An action to teach").press("Enter")
    expect(card(page, label)).to_be_visible()


def choose(page: Page, label: str, *files: Path) -> None:
    card(page, label).locator("input[type=file]").set_input_files(files)
    count = f"{len(files)} clip" if len(files) == 1 else f"{len(files)} clips"
    expect(card(page, label).locator(".hint").first).to_have_text(re.compile(f"{count}\\.$"))


def learn(page: Page, name: str) -> None:
    page.get_by_label("Name of the model").fill(name)
    page.get_by_role("button", name="Learn from these clips").click()


def looked_at(page: Page, name: str) -> None:
    """Nothing serious for axe, nothing beside the screen, and a picture for people: both schemes, two sizes."""
    OUT.mkdir(parents=True, exist_ok=True)
    for scheme, width, height in (("light", 1280, 900), ("dark", 390, 844)):
        page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
        page.set_viewport_size({"width": width, "height": height})
        wait_for(page, f"innerWidth === {width}")
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        if find_spec("axe_playwright_python") is not None:
            assert faults(page) == [], name
        page.screenshot(path=OUT / f"teach-{name}-{width}.png", full_page=True)
    page.set_viewport_size({"width": 1280, "height": 800})


def test_a_lesson_from_a_dropped_clip_to_a_kept_model(school: Page, service: Server, tmp_path: Path) -> None:
    film = write_video(tmp_path / "a.webm", "libvpx", seconds=1)
    add_action(school, "aller à pied")
    drop(school, '.lesson[data-label="aller à pied"]', film, film)
    expect(card(school, "aller à pied")).to_contain_text("2 clips.")
    choose(school, "none", film)
    card(school, "none").get_by_role("button", name=re.compile(r"Remove clip \d+ of Something else")).click()
    expect(card(school, "none")).to_contain_text("No clip yet.")
    learn(school, "mine")
    expect(school.locator("#teach-count")).to_have_text(LEARNED)
    expect(school.locator("#teach-phases li")).to_have_text(
        ["look3 clips", "draftsomebody in 3 of 3 clips", "learnthe best is kept"]
    )
    expect(school.locator("#teach-notes")).to_have_text("clips/wave/9.mp4 is left out: nobody was found in it")
    expect(school.locator("#teach-figures")).to_contain_text("It found 95 % of the people, and 0.10 a picture who")
    expect(school.locator("#teach-figures")).to_contain_text("mAP 0.93")
    school.locator("#teach-pictures summary").click()
    expect(school.locator("#teach-actors img")).to_have_attribute("alt", "wave/1.mp4: one person")
    wait_for(school, "document.querySelector('#teach-actors img').naturalWidth === 240")
    looked_at(school, "learned")
    school.get_by_role("button", name="Keep it").click()
    kept = school.locator("#teach-kept-list")
    expect(kept.locator("code")).to_have_text(re.compile(r"^stmixer serve --weights /.*/kept/mine\.safetensors$"))
    expect(school.locator("#teach-result")).to_be_hidden()
    learn(school, "mine")
    expect(school.locator("#teach-said")).to_contain_text("A model of this name was kept already")


def test_what_was_learned_is_tried_on_camera_and_on_a_video(school: Page, service: Server) -> None:
    add_action(school, "wave")
    choose(school, "wave", OWN_CLIPS / "fall.mp4")
    learn(school, "tried")
    expect(school.locator("#teach-count")).to_have_text(LEARNED)
    school.get_by_role("button", name="Try it").click()
    expect(school.locator("#trial")).to_be_visible()
    expect(school.locator("#trial")).to_contain_text("A trial of what was just taught")
    expect(school.locator("#model")).to_have_text("stmixer-rt")
    show_everything(school)
    school.locator("#file").set_input_files(OWN_CLIPS / "walk.mp4")
    wait_for(school, "__stmixer.state === 'done'")
    expect(school.locator("#found")).to_contain_text("walk")
    if find_spec("axe_playwright_python") is not None:
        assert faults(school) == []
    school.get_by_role("button", name="Close").last.click()
    school.get_by_role("button", name="Start camera").click()
    wait_for(school, "__stmixer.state === 'live' && __stmixer.results.at(-1)?.seq >= 2")
    expect(school.get_by_role("button", name="Stop")).to_be_visible()
    expect(school.get_by_role("button", name="Rules")).to_have_count(0)  # they would be another stream's
    assert httpx.get(service.url + "/v1/models").json()["models"][0]["name"] == "tiny"
    school.reload()
    expect(school.locator("#model")).to_have_text("stmixer-rt")
    school.get_by_role("button", name="End the trial").click()
    expect(school.get_by_role("button", name="Keep it")).to_be_visible()
    expect(school.locator("#trial")).to_be_hidden()
    expect(school.locator("#model")).to_have_text("tiny")
    assert httpx.get(service.url + "/v1/teach").json()["trial"]["state"] == "off"


def test_a_lesson_outlives_the_page_and_is_stopped(school: Page, service: Server) -> None:
    add_action(school, "wave")
    choose(school, "wave", OWN_CLIPS / "fall.mp4")
    learn(school, "waits")
    running = school.locator("#teach-phases .runs")
    expect(running).to_contain_text("about 70 seconds left")
    expect(school.get_by_role("progressbar", name="How far learn has come")).to_have_js_property("value", 3)
    school.reload()
    expect(running).to_contain_text("learning from them")
    expect(school.get_by_role("button", name="Choose clips of wave")).to_be_disabled()
    looked_at(school, "learning")
    school.get_by_role("button", name="Stop learning").click()
    expect(school.locator("#teach-count")).to_have_text(
        "Stopped during learn; what is done is kept, and goes on when it is begun again."
    )
    school.get_by_role("button", name="Discard").click()
    school.get_by_role("button", name="Really delete all clips and what was learned?").click()
    expect(card(school, "none")).to_contain_text("No clip yet.")
    expect(card(school, "wave")).to_have_count(0)
    expect(school.locator("#teach-discard")).to_be_hidden()
    assert httpx.get(service.url + "/v1/teach").json()["clips"] == []


def test_a_lesson_that_fails_says_why(school: Page) -> None:
    add_action(school, "wave")
    choose(school, "wave", OWN_CLIPS / "fall.mp4")
    learn(school, "fails")
    expect(school.locator("#teach-count")).to_have_text(
        "It could not learn: wave has one clip; add another one to clips/wave"
    )
    learn(school, "dies")
    expect(school.locator("#teach-count")).to_have_text("It could not learn: the process that learns ended by SIGKILL")


def test_clips_are_recorded_from_the_camera(school: Page, service: Server) -> None:
    add_action(school, "wave")
    school.get_by_role("button", name="Record clips of wave").click()
    dialog = school.get_by_role("dialog")
    expect(dialog.get_by_role("heading")).to_have_text("Record: wave")
    start = dialog.get_by_role("button", name="Record a clip")
    expect(start).to_be_focused()
    looked_at(school, "recording")
    start.click()
    expect(dialog.locator("#record-said")).to_contain_text("s left")
    expect(dialog.locator("#record-said")).to_contain_text("One clip recorded")
    dialog.get_by_role("button", name="Close").click()
    expect(card(school, "wave")).to_contain_text("1 clip.")
    (clip,) = httpx.get(service.url + "/v1/teach").json()["clips"]
    film = httpx.get(f"{service.url}/v1/teach/clips/{clip['clip_id']}").content
    (Path(OUT) / "recorded.mp4").write_bytes(film)
    with av.open(str(Path(OUT) / "recorded.mp4")) as recorded:
        times = [float(frame.time or 0) for frame in recorded.decode(video=0)]
    assert len(times) > 4
    wait_for(school, "document.getElementById('record-picture').srcObject === null")


def test_what_cannot_be_learned_from_is_explained_where_it_was_dropped(school: Page, tmp_path: Path) -> None:
    (tmp_path / "shopping.txt").write_text("milk, bread\n" * 50)
    add_action(school, "wave")
    drop(school, '.lesson[data-label="wave"]', tmp_path / "shopping.txt")
    expect(card(school, "wave").get_by_role("alert")).to_have_text(
        re.compile("^shopping.txt: This file could not be read as a video")
    )
    drop(school, "#teach-learn", OWN_CLIPS / "fall.mp4")
    expect(school.locator("#teach-said")).to_contain_text("Let go of a clip over the action that it shows")
    add_action(school, "../etc")
    card(school, "../etc").locator("input[type=file]").set_input_files(OWN_CLIPS / "fall.mp4")
    expect(card(school, "../etc").get_by_role("alert")).to_contain_text("An action cannot be called that")


def test_keys_reach_all_of_it(school: Page) -> None:
    looked_at(school, "empty")
    add_action(school, "wave")
    expect(school.get_by_role("button", name="Choose clips of wave")).to_be_focused()
    choose(school, "wave", OWN_CLIPS / "fall.mp4")
    seen = []
    school.locator("#teach-back").focus()
    for _ in range(20):
        school.keyboard.press("Tab")
        seen.append(school.evaluate("document.activeElement.ariaLabel ?? document.activeElement.id"))
    wanted = [
        "teach-label", "teach-add-button", "Choose clips of wave", "Record clips of wave", "Remove clip 1 of wave",
        "Choose clips of Something else", "Record clips of Something else", "teach-name", "teach-learn-button",
        "teach-discard",
    ]  # fmt: skip
    wanted[4] = next(name for name in seen if str(name).startswith("Remove clip"))
    assert [name for name in seen if name in wanted][: len(wanted)] == wanted
    school.get_by_role("button", name="Back").press("Enter")
    expect(school.get_by_role("button", name="Start camera")).to_be_visible()
    school.get_by_role("link", name="Teach").press("Enter")
    expect(card(school, "wave")).to_contain_text("1 clip.")


def test_there_is_no_teaching_where_it_is_not_allowed(page: Page) -> None:
    expect(page.locator("#model")).to_be_visible()
    expect(page.locator("#to-teach")).to_be_hidden()
    page.goto(page.url.partition("#")[0] + "#teach")
    expect(page.locator("#teach-said")).to_have_text(
        "This server takes no lessons. Its owner starts it with --allow-teach."
    )
    expect(page.locator("#teach-body")).to_be_hidden()


def test_a_key_is_asked_for(
    chromium: Browser, tiny_weights: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    scopes = {"mine": ("detect", "stream"), "boss": ("admin",)}
    keys = tuple(Key(name=n, sha256=digest(n), scopes=s) for n, s in scopes.items())  # type: ignore[arg-type]
    write_keys(tmp_path / "keys.json", KeyFile(keys=keys))
    terms = {"allow_teach": "true", "teach_dir": tmp_path / "school", "keys": tmp_path / "keys.json"}
    with (
        running_server(weights=tiny_weights, teacher_module="stand_in_teacher", **terms) as server,
        opened(chromium, server.url + "/#teach", request.node.name) as page,
    ):
        expect(page.locator("#teach-said")).to_contain_text("This server asks for a key")
        page.locator("#teach-key").fill("mine")
        page.locator("#teach-key").press("Enter")
        expect(page.locator("#teach-said")).to_contain_text("The server does not allow this")
        page.locator("#teach-key").fill("boss")
        page.locator("#teach-key").press("Enter")
        add_action(page, "wave")
        choose(page, "wave", OWN_CLIPS / "fall.mp4")


@pytest.mark.timeout(1800)
def test_a_clip_dropped_in_and_its_label_live_on_the_page(
    chromium: Browser, tiny_weights: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """A real lesson, if a short one: two labels that the bundled model does not know by these names."""
    films = {
        label: [part(OWN_CLIPS / source, tmp_path / f"{label} {at}.mp4", at, 1.4) for at in starts]
        for label, source, starts in (
            ("stroll", "walk.mp4", (0.0, 1.2, 2.4, 3.6)), ("topple", "fall.mp4", (0.2, 0.6, 1.0, 1.3)),
        )
    }  # fmt: skip
    terms = {"allow_teach": "true", "teach_dir": tmp_path / "school"}
    with (
        running_server(weights=tiny_weights, teacher_module="short_lesson", **terms) as server,
        opened(chromium, server.url + "/#teach", request.node.name) as page,
    ):
        for label, parts in films.items():
            add_action(page, label)
            drop(page, f'.lesson[data-label="{label}"]', *parts)
            expect(card(page, label)).to_contain_text("4 clips.")
        learn(page, "mine")
        expect(page.locator("#teach-count")).to_have_text(LEARNED, timeout=LESSON_MS)
        phases = page.locator("#teach-phases b").all_text_contents()
        assert phases == ["look", "draft", "features", "learn", "calibrate", "evaluate", "write"]
        expect(page.locator("#teach-actors img")).to_have_count(8)
        page.screenshot(path=OUT / "teach-real-learned.png", full_page=True)
        page.get_by_role("button", name="Try it").click()
        expect(page.locator("#model")).to_have_text("mine")
        page.get_by_role("button", name="Settings").click()
        page.get_by_label("Action threshold").fill("0.3")
        page.keyboard.press("Escape")
        page.locator("#file").set_input_files(OWN_CLIPS / "walk.mp4")
        wait_for(page, "__stmixer.state === 'done'")
        expect(page.locator("#found")).to_contain_text("stroll")
        results = json.loads(page.evaluate("JSON.stringify(__stmixer.results)"))
        first = [actor["actions"][0]["name"] for result in results for actor in result["actors"] if actor["actions"]]
        assert first.count("stroll") > first.count("topple")
        page.screenshot(path=OUT / "teach-real-trial.png")
        page.get_by_role("button", name="End the trial").click()
        page.get_by_role("button", name="Keep it").click()
        expect(page.locator("#teach-kept-list")).to_contain_text("mine")
    weights = tmp_path / "school" / "kept" / "mine.safetensors"
    with running_server(weights=weights) as served:
        names = {label["name"] for label in httpx.get(served.url + "/v1/labels").json()["labels"]}
    assert names == {"stroll", "topple"}


def part(source: Path, target: Path, first_s: float, seconds: float) -> Path:
    """Some of a clip."""
    with av.open(str(source)) as given, av.open(str(target), "w") as made:
        stream = given.streams.video[0]
        into = made.add_stream("libx264", rate=stream.average_rate, options={"crf": "23", "preset": "ultrafast"})
        into.width, into.height, into.pix_fmt = 480, 270, "yuv420p"
        for frame in given.decode(stream):
            if first_s <= frame.time < first_s + seconds:
                small = frame.reformat(480, 270, "yuv420p")
                small.pts = None
                made.mux(into.encode(small))
        made.mux(into.encode(None))
    return target
