"""What stands under an azimuth's label is the frame of that azimuth."""

import numpy as np
import pytest
from typer.testing import CliRunner

from gapray.catalog.reader import open_catalog
from gapray.catalog.storage import Folder
from gapray.cli.main import app
from gapray.errors import CatalogError
from gapray.report.frame_strip import SHOWN, SIDE, frame_indices, frame_strip
from gapray.video.presets import presets
from tests.report.test_site import add


@pytest.mark.parametrize("preset", presets())
def test_each_label_is_below_its_frame(tmp_path, preset):
    """`add` draws frame i of 24 in the i-th of 24 shades; the strip shows every third, every other one moved on by one."""
    folder = Folder.at(str(tmp_path / "catalog"))
    add(folder, "alpha", lpips=0.1, gate="pass", preset=preset)
    strip = np.asarray(frame_strip(open_catalog(folder.path)))
    shades = np.linspace(40, 220, 24)
    seen = [float(strip[SIDE // 2, SIDE * index + SIDE // 2].mean()) for index in range(SHOWN)]
    found = [int(np.abs(shades - shade).argmin()) for shade in seen]
    assert found == [3 * index + index % 2 for index in range(SHOWN)]


@pytest.mark.parametrize("count", [1, 2, 5, 7, 8, 9, 12, 15, 16, 24, 36, 120, 360])
def test_no_frame_is_shown_twice(count):
    found = frame_indices(count)
    assert found == sorted(set(found)) and len(found) == min(SHOWN, count) and max(found) < count
    if count <= SHOWN:
        assert found == list(range(count))


@pytest.mark.parametrize("count", [3, 8])
def test_all_frames_of_a_short_turn_are_shown(tmp_path, count):
    folder = Folder.at(str(tmp_path / "catalog"))
    add(folder, "alpha", lpips=0.1, gate="pass", frames=count)
    strip = np.asarray(frame_strip(open_catalog(folder.path)))
    shades = [*np.linspace(40, 220, count), *[255] * (SHOWN - count)]
    seen = [float(strip[SIDE // 2, SIDE * index + SIDE // 2].mean()) for index in range(SHOWN)]
    assert np.allclose(seen, shades, atol=4)


def test_a_catalogue_without_videos(tmp_path):
    folder = Folder.at(str(tmp_path / "catalog"))
    add(folder, "alpha", lpips=0.1, gate="pass")
    with pytest.raises(CatalogError) as error:
        frame_strip(open_catalog(folder.path), ["beta"])
    assert error.value.code == "catalog.product_not_found"


def test_named_products_are_all_drawn_or_named(tmp_path):
    folder = Folder.at(str(tmp_path / "catalog"))
    names = ["alpha", "beta", "gamma", "delta", "epsilon"]
    for name in names:
        add(folder, name, lpips=0.1, gate="pass")
    catalog, where = open_catalog(folder.path), ["catalog", "strip", folder.path, "--to", str(tmp_path / "strip.png")]
    assert frame_strip(catalog, names).height == 5 * frame_strip(catalog, names[:1]).height
    assert frame_strip(catalog).height == 4 * frame_strip(catalog, names[:1]).height
    with pytest.raises(CatalogError, match="no video of zeta") as error:
        frame_strip(catalog, ["alpha", "zeta"])
    assert error.value.code == "catalog.product_not_found"
    assert "the first 4 of 5 products" in CliRunner().invoke(app, where).stderr
    assert CliRunner().invoke(app, [*where, "--product", "beta"]).stderr == ""
