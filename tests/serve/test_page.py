"""The web page in a real browser: upload, progress, viewer, scores, downloads; by keyboard, on a phone, with a key."""

import json
from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.conftest import ROOT
from tests.serve.conftest import served

PHONE = {"width": 390, "height": 844}


@pytest.fixture
def page(chromium):
    context = chromium.new_context(viewport={"width": 1100, "height": 1200}, reduced_motion="reduce")
    found = context.new_page()
    found.wrong = []
    found.on("pageerror", lambda error: found.wrong.append(str(error)))
    found.on("console", lambda message: found.wrong.append(message.text) if message.type == "error" else None)
    yield found
    context.close()


@pytest.fixture
def files(photos, tmp_path):
    paths = []
    for name, data in photos.items():
        (tmp_path / name).write_bytes(data)
        paths.append(str(tmp_path / name))
    return paths[::-1]


def test_photos_become_a_turntable(page, real_server, files):
    page.goto(real_server.url)
    page.set_input_files("#files", files)
    page.wait_for_selector("#result:not([hidden])", timeout=60_000)
    assert page.locator("#views li").count() == 8
    assert page.locator("#views .name").all_text_contents() == [f"{45 * step}°" for step in range(8)]
    alts = page.locator("#views img").evaluate_all("all => all.map(one => one.alt)")
    assert alts == [f"cut out at {45 * step}°" for step in range(8)]
    page.click("[data-picture=depth]")
    expect(page.locator("#views img[alt^=depth]")).to_have_count(8)
    assert "LPIPS 0." in page.text_content("#verdict") and "nearest view" in page.text_content("#verdict")
    assert page.locator("#polar circle.key").count() == 8 and page.locator("#polar circle.between").count() == 1
    assert not page.wrong, page.wrong


def test_the_viewer_turns_by_keys_drag_and_button(page, real_server, files):
    page.goto(real_server.url)
    page.set_input_files("#files", files)
    page.wait_for_selector("#result:not([hidden])", timeout=60_000)
    assert page.text_content("#play") == "Play", "it does not move by itself for those who asked for less motion"
    page.focus("#viewer")
    seen = []
    for key in ("ArrowRight", "ArrowRight", "ArrowLeft", "End", "Home"):
        page.keyboard.press(key)
        seen.append(page.text_content("#angle"))
    assert seen == ["45°", "90°", "45°", "315°", "0°"]
    assert page.get_attribute("#viewer", "aria-valuenow") == "0"
    box = page.locator("#viewer").bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 50)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 4, box["y"] + 50)
    page.mouse.up()
    assert page.text_content("#angle") == "90°"
    page.click("#play")
    expect(page.locator("#angle")).not_to_have_text("90°")
    page.keyboard.press("Enter")
    assert page.text_content("#play") == "Play"
    with page.expect_download() as download:
        page.click("#downloads a >> nth=0")
    assert Path(download.value.path()).read_bytes()[4:8] == b"ftyp"
    with page.expect_download() as download:
        page.click("#downloads a >> nth=1")
    assert json.loads(Path(download.value.path()).read_text())["scores"]["lpips"] > 0
    page.click("#cancel")
    page.wait_for_selector("#work", state="hidden")
    assert not page.wrong, page.wrong


def test_errors_are_shown_with_their_remedy(page, real_server, files):
    page.goto(real_server.url)
    page.set_input_files("#files", files[:2])
    page.wait_for_selector("#error:not([hidden])")
    assert "at least 4 angles" in page.text_content("#error") and "Take the missing photos" in page.text_content(
        "#error"
    )
    assert page.get_attribute("#error", "role") == "alert"


def test_the_order_of_names_can_be_used_instead_of_angles(page, real_server, files, tmp_path):
    camera = []
    for number, file in enumerate(sorted(files), start=1204):
        camera.append(str(Path(file).rename(tmp_path / f"IMG_{number}.png")))
    page.goto(real_server.url)
    page.set_input_files("#files", camera[::-1])
    page.wait_for_selector("#error:not([hidden])")
    assert "IMG_1204.png" in page.text_content("#error")
    page.check("#in-order")
    page.set_input_files("#files", [])
    page.set_input_files("#files", camera[::-1])
    page.wait_for_selector("#result:not([hidden])", timeout=60_000)
    assert "in the order in which they came" in page.text_content("#warnings")
    assert page.locator("#views .name").all_text_contents() == [f"{45 * step}°" for step in range(8)]


def test_a_key_is_asked_for_and_stays_in_the_tab(page, guarded_server, files):
    page.goto(guarded_server.url)
    page.set_input_files("#files", files)
    page.wait_for_selector("#key-form:not([hidden])")
    page.fill("#key", guarded_server.secrets["writer"])
    page.keyboard.press("Enter")
    page.set_input_files("#files", [])
    page.set_input_files("#files", files)
    expect(page.locator("#stage")).to_have_text("completed", timeout=30_000)
    assert page.evaluate("localStorage.length") == 0
    assert all("401" in message for message in page.wrong), page.wrong


def test_it_fits_a_phone(page, real_server):
    page.set_viewport_size(PHONE)
    page.goto(real_server.url)
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    heights = page.locator("button:visible").evaluate_all("all => all.map(one => one.getBoundingClientRect().height)")
    assert min(heights) >= 40, "fingers are wide"


def test_it_loads_nothing_from_elsewhere(page, real_server):
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(real_server.url)
    assert asked and all(url.startswith(real_server.url) for url in asked)


@pytest.mark.night
@pytest.mark.long
def test_the_sample_at_full_size(page, tmp_path, classic_weights, lpips_alex):
    """The page as a new visitor sees it; its screenshot is in the README."""
    del classic_weights, lpips_alex
    with served(tmp_path, worker="pipeline", overrides=[]) as server:
        page.goto(server.url)
        page.click("#sample")
        page.wait_for_selector("#result:not([hidden])", timeout=240_000)
        for _ in range(5):
            page.keyboard.press("Tab")
        page.focus("#viewer")
        for _ in range(3):
            page.keyboard.press("ArrowRight")
        page.evaluate("document.activeElement.blur()")
        target = ROOT / "build" / "page.png"
        target.parent.mkdir(exist_ok=True)
        page.screenshot(path=target, full_page=True)
        assert float(page.text_content("#verdict").split()[1]) < 0.2
    assert not page.wrong, page.wrong
