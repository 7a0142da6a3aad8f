"""Which camera the page opens: a phone's front and back, one that has gone, one that another program has."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect
from serving import Server
from webpage import opened, wait_for

pytestmark = [pytest.mark.browser, pytest.mark.slow]

PHONE = """
  const devices = navigator.mediaDevices;
  const [opens, lists] = [devices.getUserMedia.bind(devices), devices.enumerateDevices.bind(devices)];
  const back = async () => (await lists()).filter(({ kind }) => kind === "videoinput")[1].deviceId;
  const labels = ["camera2 1, facing front", "camera2 0, facing back"];
  window.asked = [];
  window.fails = {}; // by the name of a camera's id, or of a facing mode
  devices.enumerateDevices = async () =>
    (await lists()).filter(({ kind }) => kind === "videoinput").map(({ kind, deviceId }, at) => ({
      kind, deviceId, label: labels[at],
      ...(LABELS_ALONE ? {} : { getCapabilities: () => ({ facingMode: [["user", "environment"][at]] }) }),
    }));
  devices.getUserMedia = async ({ video }) => {
    const { deviceId, facingMode } = video;
    window.asked.push(deviceId ? deviceId.exact : facingMode);
    const wrong = window.fails[deviceId ? deviceId.exact : facingMode];
    if (wrong) throw new DOMException("", wrong);
    const isBack = (deviceId ? deviceId.exact : facingMode) === (deviceId ? await back() : "environment");
    const list = (await lists()).filter(({ kind }) => kind === "videoinput");
    const media = await opens({ video: { deviceId: { exact: list[isBack ? 1 : 0].deviceId } } });
    const [track] = media.getVideoTracks();
    const settings = track.getSettings.bind(track);
    track.getSettings = () => ({ ...settings(), facingMode: isBack ? "environment" : "user" });
    return media;
  };
"""
"""A phone's two cameras, made of Chromium's fake ones, with what Android calls them; what is asked for is kept."""
ASKED = "window.asked.at(-1)"


@pytest.fixture
def labels_alone() -> bool:
    """Some browsers say where a camera looks, others have but its label."""
    return False


@pytest.fixture
def phone(chromium: Browser, server: Server, request: pytest.FixtureRequest, labels_alone: bool) -> Iterator[Page]:
    """The page on it."""
    with opened(chromium, server.url, request.node.name) as page:
        page.set_viewport_size({"width": 390, "height": 844})
        page.add_init_script(f"const LABELS_ALONE = {json.dumps(labels_alone)};{PHONE}")
        page.reload()
        page.wait_for_selector("body[data-loaded]")
        yield page


def started(page: Page) -> None:
    page.get_by_role("button", name="Start camera").click()
    wait_for(page, "__stmixer.state === 'live'")


def back_chosen(page: Page) -> Any:
    """The back camera, chosen while the front one is live; its id."""
    started(page)
    chooser = page.get_by_label("Camera", exact=True)
    expect(chooser.locator("option")).to_have_text(["Front camera", "Back camera"])
    chooser.select_option(label="Back camera")
    wait_for(page, f"{ASKED} !== 'user'")
    expect(page.locator("#video")).not_to_have_class("mirrored")
    return page.evaluate(ASKED)


@pytest.mark.parametrize("labels_alone", [False, True])
def test_a_phones_back_camera_is_chosen_kept_and_shown_as_it_is(phone: Page) -> None:
    started(phone)
    assert phone.evaluate("window.asked") == ["user"]
    expect(phone.locator("#video")).to_have_class("mirrored")
    said = "document.getElementById('status')"
    assert phone.evaluate(f"{said}.scrollWidth <= {said}.clientWidth"), "the list lies over what is said"
    phone.get_by_role("button", name="Stop").click()
    expect(phone.get_by_role("button", name="Start camera")).to_be_visible()

    back = back_chosen(phone)
    phone.reload()
    phone.wait_for_selector("body[data-loaded]")
    started(phone)
    assert phone.evaluate("window.asked") == [back]
    expect(phone.get_by_label("Camera", exact=True).locator("option:checked")).to_have_text("Back camera")


def test_what_does_not_open_any_more_gives_way_to_one_that_looks_the_same_way(phone: Page) -> None:
    """Browsers call a camera otherwise with every visit, another program has it; not where it is forbidden now."""
    back = back_chosen(phone)
    for why in ("OverconstrainedError", "NotReadableError"):
        phone.get_by_role("button", name="Stop").click()
        phone.evaluate(f"window.fails = {json.dumps({back: why})}")
        started(phone)
        assert phone.evaluate("window.asked.slice(-2)") == [back, "environment"]
        expect(phone.locator("#video")).not_to_have_class("mirrored")
    phone.get_by_role("button", name="Stop").click()
    phone.evaluate(f"window.fails = {json.dumps({back: 'NotAllowedError'})}")
    phone.get_by_role("button", name="Start camera").click()
    expect(phone.get_by_role("alert")).to_contain_text("The camera was not allowed")
    assert phone.evaluate(ASKED) == back


def test_a_camera_that_another_program_has_is_not_what_is_tried_for_ever(phone: Page) -> None:
    started(phone)
    chooser = phone.get_by_label("Camera", exact=True)
    expect(chooser.locator("option")).to_have_count(2)
    back = chooser.locator("option", has_text="Back camera").get_attribute("value")
    phone.evaluate(f"window.fails = {json.dumps({back: 'NotReadableError'})}")
    chooser.select_option(label="Back camera")
    expect(phone.get_by_role("alert")).to_contain_text("The camera is busy")
    phone.get_by_role("button", name="Try again").click()
    wait_for(phone, "__stmixer.state === 'live'")
    assert phone.evaluate("window.asked") == ["user", back, "user"]


def test_who_teaches_with_the_back_camera_sees_no_mirror_image(phone: Page) -> None:
    mirrored = phone.evaluate(
        """async () => {
          const { cameras, chooseCamera } = await import("./web/camera.js");
          const { Recorder } = await import("./web/recorder.js");
          chooseCamera((await cameras())[1]);
          const recorder = new Recorder(() => {});
          await recorder.open("wave", "wave");
          const { classList } = document.getElementById("record-picture");
          const shown = [...classList];
          recorder.close();
          return shown;
        }"""
    )
    assert mirrored == []
