"""The printed sheet, rendered for a camera at a known position."""

import json

import cv2
import numpy as np
import pypdfium2
import pytest
from typer.testing import CliRunner

from gapray.capture.discover import discover
from gapray.cli.main import app
from gapray.errors import ConfigError, InputError
from gapray.inspect.sheet import PAGE_MM, RING_MM, write_sheet
from gapray.inspect.sheet_cameras import locate_cameras, place_photos

DPI = 300
MM = DPI / 25.4


@pytest.fixture(scope="module")
def printed(tmp_path_factory):
    """The PDF as a raster image, and the position of the ring's centre on the paper [mm]."""
    path = write_sheet(tmp_path_factory.mktemp("sheet") / "sheet.pdf")
    [page] = pypdfium2.PdfDocument(str(path))
    width, height = page.get_size()
    assert (width / 72 * 25.4, height / 72 * 25.4) == pytest.approx(PAGE_MM["a4"], abs=0.1)
    return np.asarray(page.render(scale=DPI / 72).to_pil().convert("L"))


def photographed(
    printed, azimuth, elevation, *, distance=600.0, fov=35.0, size=(1536, 2048), blur=0.7, noise=2.0, box=True
):
    """A perspective view, uint8 [H, W], of the sheet on a table with a box of 70 x 70 x 120 mm in its circle."""
    height, width = size
    focal = width / 2 / np.tan(np.radians(fov) / 2)
    a, e = np.radians(azimuth), np.radians(elevation)
    toward = np.array([np.sin(a) * np.cos(e), np.sin(e), np.cos(a) * np.cos(e)])
    right = np.array([np.cos(a), 0, -np.sin(a)])
    up = np.cross(toward, right)

    def seen(x, y, z):
        ray = np.array([x, y, z]) - distance * toward
        return [width / 2 + focal * (ray @ right) / -(ray @ toward), height / 2 - focal * (ray @ up) / -(ray @ toward)]

    middle = np.array([PAGE_MM["a4"][0] / 2, 4 + RING_MM + 10 + 8])
    corners = [(-90, -90), (90, -90), (90, 90), (-90, 90)]
    paper = np.float32([(middle + np.array(corner)) * MM for corner in corners])
    table = np.float32([seen(x, 0, z) for x, z in corners])
    image = cv2.warpPerspective(
        printed, cv2.getPerspectiveTransform(paper, table), (width, height), flags=cv2.INTER_AREA, borderValue=150
    )
    if box:
        points = [seen(x, y, z) for x in (-35, 35) for z in (-35, 35) for y in (0, 120)]
        cv2.fillConvexPoly(image, cv2.convexHull(np.int32(points)), 90)
    rng = np.random.default_rng(int(azimuth * 10) + int(elevation))
    soft = cv2.GaussianBlur(image, (0, 0), blur) + rng.normal(0, noise, image.shape)
    return np.clip(soft, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("elevation", [15, 20, 25, 30, 35])
@pytest.mark.parametrize(("size", "blur", "noise"), [((1536, 2048), 0.7, 2.0), ((900, 1200), 1.0, 4.0)])
def test_azimuths_within_one_degree(printed, elevation, size, blur, noise):
    azimuths = (np.arange(8) * 45 + np.random.default_rng(elevation).uniform(-20, 20, 8)) % 360
    photos = [photographed(printed, azimuth, elevation, size=size, blur=blur, noise=noise) for azimuth in azimuths]
    found = locate_cameras(photos)
    for pose, azimuth in zip(found, azimuths, strict=True):
        assert pose is not None and pose.markers >= 4
        assert abs((pose.azimuth_deg - azimuth + 180) % 360 - 180) < 1
        assert pose.elevation_deg == pytest.approx(elevation, abs=1)
        assert pose.distance_mm == pytest.approx(600, rel=0.04)


def test_other_lenses_and_distances(printed):
    for fov, distance in ((20, 1000), (60, 450)):
        [found] = locate_cameras([photographed(printed, 77, 25, fov=fov, distance=distance)])
        assert found is not None and abs(found.azimuth_deg - 77) < 1


def test_a_photo_without_the_sheet_is_not_placed(printed, samples):
    mug = cv2.imread(str(samples / "captures" / "mug" / "mug_000.jpg"))[..., ::-1]
    assert locate_cameras([mug, photographed(printed, 10, 20)])[0] is None
    assert locate_cameras([]) == []


def test_a_mirrored_photo_has_no_markers(printed):
    mirrored = np.ascontiguousarray(photographed(printed, 10, 20)[:, ::-1])
    assert locate_cameras([mirrored]) == [None]


def test_photos_of_any_name_become_a_product(printed, tmp_path):
    (tmp_path / "card").mkdir()
    for number, azimuth in enumerate((180, 0, 270, 95, 45, 315, 135, 225)):
        photo = photographed(printed, azimuth, 25, size=(900, 1200))
        cv2.imwrite(str(tmp_path / "card" / f"IMG_{number:04d}.jpg"), photo)
    cv2.imwrite(str(tmp_path / "card" / "IMG_9999.jpg"), np.full((900, 1200), 120, np.uint8))
    words = ["capture", str(tmp_path / "card"), "--out", str(tmp_path / "box"), "--json"]
    run = CliRunner().invoke(app, words)
    assert run.exit_code == 0, run.output
    output = json.loads(run.stdout)
    assert list(output["rejected"]) == ["IMG_9999.jpg"]
    [product] = discover(str(tmp_path / "box"))
    assert [photo.azimuth_deg for photo in product.photos] == pytest.approx(
        [0, 45, 95, 135, 180, 225, 270, 315], abs=1
    ) or (product.photos[-1].azimuth_deg > 359)
    for photo in product.photos:
        assert (tmp_path / "box" / photo.name).read_bytes() == (tmp_path / "card" / photo.name).read_bytes()


def test_what_cannot_be_placed_has_a_code(printed, tmp_path, samples):
    with pytest.raises(InputError) as error:
        place_photos(samples / "captures" / "mug", tmp_path / "mug")
    assert error.value.code == "sheet.not_seen" and not (tmp_path / "mug").exists()
    (tmp_path / "card").mkdir()
    for number, azimuth in enumerate((0, 45, 90, 91, 180)):
        cv2.imwrite(str(tmp_path / "card" / f"{number}.jpg"), photographed(printed, azimuth, 25, size=(900, 1200)))
    with pytest.raises(InputError) as error:
        place_photos(tmp_path / "card", tmp_path / "box")
    assert error.value.code == "capture.duplicate_azimuth"
    with pytest.raises(InputError) as error:
        place_photos(tmp_path / "nothing", tmp_path / "box")
    assert error.value.code == "capture.not_found"


def test_the_command_draws_pdf_and_svg(tmp_path):
    for name in ("sheet.pdf", "sheet.svg"):
        run = CliRunner().invoke(app, ["capture", "sheet", "--out", str(tmp_path / name)])
        assert run.exit_code == 0, run.output
        assert (tmp_path / name).stat().st_size > 10_000
    assert (tmp_path / "sheet.svg").read_text().count("<polygon") > 100
    with pytest.raises(ConfigError):
        write_sheet(tmp_path / "sheet.png")
