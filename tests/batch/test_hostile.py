"""Hostile photos and folders: each gets its documented code, and the good products beside them are all there."""

import io
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

import gapray
import gapray.capture.decode  # registers HEIF with Pillow
from gapray.cli.main import app
from gapray.errors import REMEDIES
from gapray.profile import load_profile
from tests.make import photo, write_product, write_products

GOOD = 3


def png(image, **options):
    sink = io.BytesIO()
    Image.fromarray(image).save(sink, "PNG", **options)
    return sink.getvalue()


def encoded(kind, mode="RGB", size=(96, 96), **options):
    sink = io.BytesIO()
    Image.fromarray(photo(90, size=96)).resize(size).convert(mode).save(sink, kind, **options)
    return sink.getvalue()


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def bomb(width=30000, height=30000):
    """A few kilobytes that claim to be 900 megapixels."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = zlib.compress(bytes(100_000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def exif_jpeg(tag, kind, count, value):
    entry = struct.pack("<HHI", tag, kind, count) + value
    tiff = b"II*\x00\x08\x00\x00\x00" + struct.pack("<H", 1) + entry + b"\x00" * 4 + struct.pack("<II", 0, 0)
    data = encoded("JPEG")
    segment = b"Exif\x00\x00" + tiff
    return data[:2] + b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + data[2:]


ACCEPTED = None
JPEG, PNG = encoded("JPEG", quality=95), encoded("PNG")
PHOTOS = {
    # What one photo of an otherwise good product is replaced by, and the code that must come of it.
    "zero-bytes": (b"", "image.empty"),
    "one-byte": (b"\xff", "image.unsupported"),
    "truncated-jpeg": (JPEG[: len(JPEG) // 2], "image.truncated"),
    "truncated-png": (PNG[: len(PNG) // 2], "image.truncated"),
    "jpeg-header-only": (JPEG[:40], "image.truncated"),
    "png-header-only": (PNG[:33], "image.unsupported"),
    "png-bad-stream": (PNG[:60] + b"\xff" * 400 + PNG[460:], "image.truncated"),
    "truncated-webp": (encoded("WEBP")[:80], "image.truncated"),
    "truncated-heic": (encoded("HEIF")[:-400], "image.unsupported"),
    "bomb": (bomb(), "image.too_many_pixels"),
    "bomb-just-over": (bomb(8000, 7600), "image.too_many_pixels"),
    "claims-2-31": (bomb(2**31 - 1, 2**31 - 1), "image.too_many_pixels"),
    "text": (b"these are not the pixels you look for\n" * 50, "image.unsupported"),
    "pdf": (b"%PDF-1.7\n" + bytes(500), "image.unsupported"),
    "postscript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 99 99\n" * 9, "image.unsupported"),
    "svg": (b"<svg xmlns='http://www.w3.org/2000/svg' width='96' height='96'/>" * 3, "image.unsupported"),
    "html": (b"<!doctype html><title>404</title>" * 20, "image.unsupported"),
    "gzip": (zlib.compress(bytes(9000)), "image.unsupported"),
    "zip-inside": (b"PK\x03\x04" + bytes(400), "image.unsupported"),
    "random": (np.random.default_rng(0).bytes(5000), "image.unsupported"),
    "one-pixel": (encoded("PNG", size=(1, 1)), "image.too_small"),
    "20k-by-1": (png(np.zeros((1, 20000, 3), np.uint8)), "image.too_small"),
    "63-pixels": (encoded("PNG", size=(63, 63)), "image.too_small"),
    "animated-gif": (
        encoded("GIF", "P", save_all=True, append_images=[Image.new("P", (96, 96), 3)]),
        "image.too_many_frames",
    ),
    "animated-webp": (
        encoded("WEBP", save_all=True, append_images=[Image.new("RGB", (96, 96), "red")]),
        "image.too_many_frames",
    ),
    "animated-png": (
        encoded("PNG", save_all=True, append_images=[Image.new("RGB", (96, 96), "red")]),
        "image.too_many_frames",
    ),
    "two-page-tiff": (
        encoded("TIFF", save_all=True, append_images=[Image.new("RGB", (96, 96))]),
        "image.too_many_frames",
    ),
    "huge-icc": (encoded("JPEG", icc_profile=bytes(5 * 2**20)), "image.bad_profile"),
    "broken-icc": (encoded("PNG", icc_profile=b"no profile" * 30), "image.bad_profile"),
    "icc-bomb": (
        PNG[:33] + chunk(b"iCCP", b"x\x00\x00" + zlib.compress(bytes(200 * 2**20))) + PNG[33:],
        "image.truncated",
    ),
    "float-tiff": (encoded("TIFF", "F"), "image.unsupported"),
    "all-backdrop": (png(np.full((96, 96, 3), 235, np.uint8)), "image.blank"),
    "cmyk": (encoded("JPEG", "CMYK"), ACCEPTED),
    "16-bit": (png(np.arange(96 * 96, dtype=np.uint16).reshape(96, 96) * 7), ACCEPTED),
    "palette": (encoded("PNG", "P"), ACCEPTED),
    "bilevel": (encoded("PNG", "1"), "image.few_colours"),
    "alpha": (encoded("PNG", "RGBA"), ACCEPTED),
    "grey-alpha": (encoded("PNG", "LA"), ACCEPTED),
    "lab-tiff": (encoded("TIFF", "LAB"), ACCEPTED),
    "jpeg-called-png": (JPEG, ACCEPTED),
    "heic-called-png": (encoded("HEIF"), ACCEPTED),
    "nan-exif": (exif_jpeg(0x829A, 5, 1, struct.pack("<I", 26)), ACCEPTED),
    "orientation-99": (exif_jpeg(0x0112, 3, 1, struct.pack("<HH", 99, 0)), ACCEPTED),
    "orientation-text": (exif_jpeg(0x0112, 2, 4, b"up!\x00"), ACCEPTED),
    "trailing-junk": (PNG + bytes(1000), ACCEPTED),
}


def folders(root: Path, outside: Path) -> dict[str, str | None]:
    """Products whose folders are the trouble, and their codes."""
    write_product(root / "seven-of-eight", azimuths=[0, 45, 90, 135, 180, 225, 270])
    write_product(root / "two-views", azimuths=[0, 180])
    twice = write_product(root / "same-azimuth")
    (twice / "copy_045.png").write_bytes((twice / "same-azimuth_045.png").read_bytes() + b"x")
    same = write_product(root / "same-file")
    (same / "same-file_045.png").write_bytes((same / "same-file_090.png").read_bytes())
    linked = write_product(root / "link-out")
    (linked / "link-out_045.png").unlink()
    (linked / "link-out_045.png").symlink_to(outside)
    dangling = write_product(root / "link-to-nothing")
    (dangling / "link-to-nothing_045.png").unlink()
    (dangling / "link-to-nothing_045.png").symlink_to(root / "nowhere.png")
    climbing = write_product(root / "table-climbs")
    (climbing / "capture.csv").write_text("file,azimuth\n../../secret.png,0\n")
    lying = write_product(root / "table-lies")
    (lying / "capture.json").write_text('{"nothing.png": 0}')
    deep = write_product(root / "table-deep")
    (deep / "capture.json").write_text("[" * 100_000)
    (root / "no-photos").mkdir()
    (root / "no-photos" / "readme.txt").write_text("soon")
    write_product(root / "numbers-with-a-hole", azimuths=[0, 1, 2, 4, 5, 6])
    write_product(root / "naïve-ünïcode", name="x")
    write_product(root / "a space", name="x")
    write_product(root / ("n" * 129), name="x")
    unicode = write_product(root / "unicode-photos")
    for file in list(unicode.iterdir()):
        file.rename(file.with_name(file.name.replace("unicode-photos", "фото №1 ☕")))
    directory = write_product(root / "folder-as-photo")
    (directory / "folder-as-photo_045.png").unlink()
    (directory / "folder-as-photo_045.png").mkdir()
    return {
        "seven-of-eight": "capture.missing_views",
        "two-views": "capture.missing_views",
        "same-azimuth": "capture.duplicate_azimuth",
        "same-file": "capture.duplicate_azimuth",
        "link-out": "capture.unsafe_path",
        "link-to-nothing": "image.unreadable",
        "table-climbs": "capture.unsafe_path",
        "table-lies": "capture.invalid_table",
        "table-deep": "capture.invalid_table",
        "no-photos": "capture.no_photos",
        "numbers-with-a-hole": "capture.ambiguous_azimuths",
        "naïve-ünïcode": "capture.invalid_product_id",
        "a space": "capture.invalid_product_id",
        "n" * 129: "capture.invalid_product_id",
        "unicode-photos": ACCEPTED,
        "folder-as-photo": "capture.missing_views",
    }


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    base = tmp_path_factory.mktemp("hostile")
    root = base / "shoot"
    write_products(root, GOOD)
    (base / "secret.png").write_bytes(PNG)
    expected = {f"sku-{index:04d}": ACCEPTED for index in range(GOOD)}
    for name, (data, code) in PHOTOS.items():
        folder = write_product(root / f"photo-{name}")
        (folder / f"photo-{name}_090.png").write_bytes(data)
        expected[f"photo-{name}"] = code
    expected |= folders(root, base / "secret.png")
    return root, expected


def test_the_corpus_is_large_and_its_codes_are_documented(corpus):
    _, expected = corpus
    assert len(expected) - GOOD >= 40
    assert {code for code in expected.values() if code} <= set(REMEDIES)


@pytest.mark.usefixtures("ray_cluster")
def test_hostile_products_are_rejected_with_their_codes_and_exit_code_3(corpus, tmp_path):
    from typer.testing import CliRunner

    root, expected = corpus
    flags = ["--set", "mask.model=null-model", "--set", "depth.model=null-model", "--set", "identity.model=null-model"]
    result = CliRunner().invoke(app, ["package", str(root), "--out", str(tmp_path / "c"), "--json", *flags])
    assert result.exit_code == 3, result.output
    catalog = gapray.open_catalog(str(tmp_path / "c"))
    found = dict.fromkeys(catalog.products()["product_id"].to_pylist(), ACCEPTED)
    found |= {row["product_id"]: row["code"] for row in catalog.rejects().to_pylist()}
    wrong = {
        name: (found.get(name, "vanished"), code)
        for name, code in expected.items()
        if found.get(name, "vanished") != code
    }
    assert not wrong
    assert set(found) == set(expected)
    for row in catalog.rejects().to_pylist():
        assert row["message"]
    for index in range(GOOD):
        assert len(catalog.package(f"sku-{index:04d}").views) == 8


def test_an_image_without_a_product_is_rejected(tmp_path, classic_weights):
    """With the real network a bare backdrop is refused by its mask, not by chance."""
    from gapray.capture.discover import discover
    from gapray.errors import InputError
    from gapray.packaging.build import PackagingModels, build_package

    folder = tmp_path / "bare"
    folder.mkdir()
    for azimuth in range(0, 360, 45):
        ramp = np.linspace(190, 230, 128)[:, None, None] + azimuth / 45  # a studio's gradient: no plain colour
        cv2.imwrite(str(folder / f"bare_{azimuth:03d}.png"), np.broadcast_to(ramp, (128, 128, 3)).astype(np.uint8))
    settings = load_profile("classic", environment={}).packaging
    with pytest.raises(InputError) as error:
        build_package(discover(str(folder))[0], PackagingModels.load(settings, device="cpu"), settings)
    assert error.value.code.startswith("mask.")
