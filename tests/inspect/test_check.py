"""`gapray capture check`: findings for a folder of photos, and the page that shows them."""

import json
import shutil

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from gapray.capture.discover import discover
from gapray.cli.main import app
from gapray.inspect.findings import INSTRUCTIONS, SERIOUS
from tests.conftest import ROOT

pytestmark = [pytest.mark.timeout(400), pytest.mark.usefixtures("classic_weights")]


def copied(samples, folder, names):
    """Photos of the sample mug at half their size with other angles; `names` maps the named angle to the visible one."""
    folder.mkdir()
    for named, shown in names.items():
        kind = "captures" if shown % 45 == 0 else "held_out"
        photo = cv2.imread(str(samples / kind / "mug" / f"mug_{shown:03d}.jpg"))
        cv2.imwrite(str(folder / f"mug_{named:03d}.jpg"), cv2.resize(photo, (480, 480), interpolation=cv2.INTER_AREA))
    return folder


def checked(*arguments):
    done = CliRunner().invoke(app, ["capture", "check", *map(str, arguments), "--json"])
    return done.exit_code, json.loads(done.stdout)


def codes(found):
    return {(item["code"], *item["files"]) for item in found["findings"]}


@pytest.mark.long
def test_good_photos_and_their_page(samples, tmp_path, chromium):
    folder = copied(samples, tmp_path / "mug", {angle: angle for angle in range(0, 360, 45)})
    (folder / "notes.txt").write_text("lamp moved after the fourth")
    page = tmp_path / "page" / "check.html"
    code, found = checked(folder, "--page", page)
    assert code == 0 and found["good"] and found["findings"] == []
    assert [photo["state"] for photo in found["photos"]] == ["good"] * 8 and found["ignored"] == {".txt": 1}
    tab = chromium.new_page()
    tab.goto(page.as_uri())
    assert tab.locator("svg image").count() == 8 and tab.get_by_text("Nothing to do").count() == 1
    assert tab.get_by_text("ignored: 1 (1 .txt)").count() == 1
    tab.close()


@pytest.mark.long
def test_problems_are_reported_and_fixed(samples, tmp_path):
    shown = {0: 0, 45: 135, 90: 90, 135: 45, 180: 180, 225: 225, 270: 270, 315: 315}
    folder = copied(samples, tmp_path / "mug", shown)
    soft = cv2.imread(str(folder / "mug_180.jpg"))
    cv2.imwrite(str(folder / "mug_180.jpg"), cv2.GaussianBlur(soft, (0, 0), 3))
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    code, found = checked(folder, "--page", tmp_path / "check.html", "--fix", "--out", tmp_path / "mended" / "mug")
    assert code == 3 and not found["good"]
    assert codes(found) == {
        ("azimuth.swapped", "mug_045.jpg", "mug_135.jpg"),
        ("photo.blurred", "mug_180.jpg"),
    }
    assert all(item["instruction"] for item in found["findings"])
    [mended] = discover(str(tmp_path / "mended" / "mug"))
    angles = {photo.name: photo.azimuth_deg for photo in mended.photos}
    for named, true in shown.items():
        assert abs((angles[f"mug_{named:03d}.jpg"] - true + 180) % 360 - 180) < 6
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before, "nothing is overwritten"


@pytest.mark.long
def test_photos_that_cannot_be_used_are_named(samples, tmp_path):
    folder = copied(samples, tmp_path / "mug", {angle: angle for angle in range(0, 315, 45)})
    shutil.copy(folder / "mug_045.jpg", folder / "mug_225.jpg")
    (folder / "mug_090.jpg").write_bytes(b"no photo")
    cv2.imwrite(str(folder / "mug_135.jpg"), np.full((480, 480, 3), 200, np.uint8))
    code, found = checked(folder, "--page", tmp_path / "check.html")
    reported = codes(found)
    assert code == 3 and ("azimuth.duplicate", "mug_045.jpg", "mug_225.jpg") in reported
    assert ("photo.unreadable", "mug_090.jpg") in reported
    assert any(item[0].startswith("photo.") and "mug_135.jpg" in item for item in reported)
    assert found["missing_deg"] == [315.0] and "front left" in (tmp_path / "check.html").read_text()
    states = {photo["name"]: photo["state"] for photo in found["photos"]}
    assert states["mug_045.jpg"] == "good" and states["mug_225.jpg"] == "again"


def test_a_folder_without_angles_is_an_error(tmp_path):
    cv2.imwrite(str(tmp_path / "IMG.jpg"), np.zeros((64, 64, 3), np.uint8))
    done = CliRunner().invoke(app, ["capture", "check", str(tmp_path), "--json"])
    assert done.exit_code == 4 and json.loads(done.stdout)["error"]["code"].startswith("capture.")
    assert CliRunner().invoke(app, ["capture", "check", str(tmp_path), "--fix"]).exit_code == 2


def test_every_finding_is_in_the_docs():
    text = (ROOT / "docs" / "capture.md").read_text()
    assert [code for code in INSTRUCTIONS if f"`{code}`" not in text] == []
    assert set(INSTRUCTIONS) > SERIOUS
