"""Splitting a card of photos at slates."""

import csv
import json

import cv2
import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from gapray.capture.capture_set import Reject
from gapray.capture.discover import discover
from gapray.cli.main import app
from gapray.errors import InputError
from gapray.inspect.shoot_day import product_id_of, slate_text, split
from tests.make import photo

EAN = "4006381333931"


def qr(text, side=640, angle=12.0):
    """A QR code on paper, photographed at a slight angle."""
    code = cv2.QRCodeEncoder.create().encode(text)
    code = cv2.copyMakeBorder(code, 4, 4, 4, 4, cv2.BORDER_CONSTANT, value=255)
    code = cv2.resize(code, (side // 2, side // 2), interpolation=cv2.INTER_NEAREST)
    paper = np.full((side, side), 190, np.uint8)
    paper[side // 4 : side // 4 + side // 2, side // 4 : side // 4 + side // 2] = code
    matrix = cv2.getRotationMatrix2D((side / 2, side / 2), angle, 0.9)
    return cv2.cvtColor(cv2.warpAffine(paper, matrix, (side, side), borderValue=120), cv2.COLOR_GRAY2RGB)


def ean13(digits):
    """The bars of an EAN-13 code (GS1 General Specifications, 5.2.1)."""
    left = [
        "0001101",
        "0011001",
        "0010011",
        "0111101",
        "0100011",
        "0110001",
        "0101111",
        "0111011",
        "0110111",
        "0001011",
    ]
    right = ["".join("10"[int(bit)] for bit in code) for code in left]
    even = [code[::-1] for code in right]
    parity = ["LLLLLL", "LLGLGG", "LLGGLG", "LLGGGL", "LGLLGG", "LGGLLG", "LGGGLL", "LGLGLG", "LGLGGL", "LGGLGL"][
        int(digits[0])
    ]
    bars = "101" + "".join((left if p == "L" else even)[int(d)] for p, d in zip(parity, digits[1:7], strict=True))
    bars += "01010" + "".join(right[int(d)] for d in digits[7:]) + "101"
    row = np.array([0 if bit == "1" else 255 for bit in bars], np.uint8).repeat(4)
    code = np.pad(np.tile(row, (160, 1)), 60, constant_values=255)
    return cv2.cvtColor(cv2.GaussianBlur(code, (0, 0), 0.8), cv2.COLOR_GRAY2RGB)


def save(path, image, taken=None):
    exif = Image.Exif()
    if taken:
        exif.get_ifd(0x8769)[0x9003] = taken
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path, exif=exif, quality=92)


def photos(count):
    return [photo(45.0 * index) for index in range(count)]


def test_codes_are_read():
    assert slate_text(qr("SKU-17")) == "SKU-17"
    assert slate_text(ean13(EAN)) == EAN
    assert slate_text(photos(1)[0]) is None


def test_a_slate_names_its_product():
    assert product_id_of("SKU-17") == "SKU-17"
    assert product_id_of("https://shop.example/p/red-mug/") == "red-mug"
    assert product_id_of("red mug, large") == "red-mug-large"
    for rest in ("", "/10/LOT7?17=271231", "?17=271231", "/22/2A"):
        assert product_id_of(f"https://id.gs1.org/01/09506000134352{rest}") == "09506000134352"
    assert product_id_of("https://shop.example/01/2024/red-mug") == "red-mug"
    assert product_id_of("///") == product_id_of("Чашка") == ""


def test_a_card_becomes_products(tmp_path):
    card = tmp_path / "DCIM" / "100CANON"
    shots = [photos(1)[0], qr("mug"), *photos(8), ean13(EAN), *photos(9)[:8], qr("empty"), qr("few"), *photos(2)]
    for index, shot in enumerate(shots):
        save(card / f"IMG_{index + 1}.jpg", shot)  # IMG_10 must come after IMG_9
    done = split(tmp_path / "DCIM", tmp_path / "shoot")
    assert [item.name if not isinstance(item, Reject) else (item.product_id, item.code) for item in done] == [
        "mug",
        EAN,
        ("empty", "capture.no_photos"),
        ("few", "capture.missing_views"),
    ]
    [mug] = discover(str(tmp_path / "shoot" / "mug"))
    assert [(photo.name, photo.azimuth_deg) for photo in mug.photos] == [
        (f"mug_{a:03d}.jpg", float(a)) for a in range(0, 360, 45)
    ]
    with (tmp_path / "shoot" / "mug" / "capture.csv").open() as file:
        assert [row["original"] for row in csv.DictReader(file)] == [f"IMG_{index}.jpg" for index in range(3, 11)]
    assert (tmp_path / "shoot" / "mug" / "mug_045.jpg").read_bytes() == (card / "IMG_4.jpg").read_bytes()


def test_a_card_whose_photos_have_not_all_arrived_is_refused(tmp_path):
    """The photos that follow a slate are counted, so that a missing one turns all others."""
    for index, shot in enumerate([qr("mug"), *photos(9)]):
        save(tmp_path / "card" / f"IMG_{index + 1}.jpg", shot)
    (tmp_path / "card" / "IMG_5.jpg").rename(tmp_path / "card" / "IMG_5.jpg.part")
    with pytest.raises(InputError) as error:
        split(tmp_path / "card", tmp_path / "shoot")
    assert error.value.code == "capture.unfinished" and "IMG_5.jpg.part" in error.value.message
    save(tmp_path / "card" / "IMG_5.jpg", photos(9)[3])
    assert len(split(tmp_path / "card", tmp_path / "shoot")) == 1


@pytest.mark.parametrize(
    ("first", "second", "code"),
    [
        ("mug", "mug", "slate.again"),
        ("https://shop.example/mug/label", "https://shop.example/bottle/label", "slate.same_id"),
        ("SKU 12/3", "SKU-12-3", "slate.same_id"),
        ("Mug", "mug", "slate.same_id"),
        ("Чашка", "Чашка", "slate.no_id"),
    ],
)
def test_slates_that_are_not_one_product_s_merge_nothing(tmp_path, first, second, code):
    shots = [qr(first), *photos(4), qr("lamp"), *photos(4), qr(second), *photos(4)]
    for index, shot in enumerate(shots):
        save(tmp_path / "card" / f"IMG_{index:02d}.jpg", shot)
    refused, lamp = split(tmp_path / "card", tmp_path / "shoot")
    assert isinstance(refused, Reject) and refused.code == code
    assert "IMG_00.jpg" in refused.message and "IMG_10.jpg" in refused.message
    assert lamp == tmp_path / "shoot" / "lamp" and [path.name for path in (tmp_path / "shoot").iterdir()] == ["lamp"]


def test_a_slate_photographed_twice_in_a_row_is_one(tmp_path):
    for index, shot in enumerate([qr("mug"), qr("mug", angle=-5.0), *photos(4)]):
        save(tmp_path / "card" / f"IMG_{index:02d}.jpg", shot)
    [folder] = split(tmp_path / "card", tmp_path / "shoot")
    assert folder == tmp_path / "shoot" / "mug"


def test_the_clock_of_the_camera_comes_before_names(tmp_path):
    order = [("z.jpg", qr("mug")), *((f"{chr(121 - index)}.jpg", shot) for index, shot in enumerate(photos(4)))]
    for index, (name, shot) in enumerate(order):
        save(tmp_path / "card" / name, shot, taken=f"2026:01:05 10:00:{index:02d}")
    [folder] = split(tmp_path / "card", tmp_path / "shoot")
    with (folder / "capture.csv").open() as file:
        assert [row["original"] for row in csv.DictReader(file)] == ["y.jpg", "x.jpg", "w.jpg", "v.jpg"]


def test_a_card_without_slates(tmp_path):
    save(tmp_path / "card" / "a.jpg", photos(1)[0])
    with pytest.raises(InputError) as error:
        split(tmp_path / "card", tmp_path / "shoot")
    assert error.value.code == "slate.none"


def test_the_command(tmp_path):
    for index, shot in enumerate([qr("mug"), *photos(8), qr("none")]):
        save(tmp_path / "card" / f"{index}.jpg", shot)
    done = CliRunner().invoke(app, ["capture", "day", str(tmp_path / "card"), "--out", str(tmp_path / "shoot")])
    assert done.exit_code == 3 and "capture.no_photos" in done.output, done.output
    assert len(list((tmp_path / "shoot" / "mug").glob("*.jpg"))) == 8


def test_the_command_names_what_it_leaves_out(tmp_path):
    for index, shot in enumerate([photos(1)[0], qr("mug"), *photos(8)]):
        save(tmp_path / "card" / "DCIM" / f"{index}.jpg", shot)
    for name in ("DCIM/2.AAE", "DCIM/2.CR3", "Thumbs.db", ".Trashes/3.jpg", "DCIM/.hidden.jpg"):
        (tmp_path / "card" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "card" / name).write_bytes(b"x")
    command = ["capture", "day", str(tmp_path / "card"), "--out"]
    done = CliRunner().invoke(app, [*command, str(tmp_path / "shoot")])
    assert "1 photos before the first slate are in no product: 0.jpg" in done.output
    assert "ignored: 5 (2 system, 1 .AAE, 1 .CR3, 1 hidden)" in done.output, done.output
    output = json.loads(CliRunner().invoke(app, [*command, str(tmp_path / "again"), "--json"]).stdout)
    assert output["before_first_slate"] == ["0.jpg"] and sum(output["ignored"].values()) == 5
