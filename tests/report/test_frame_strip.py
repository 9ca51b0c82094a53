"""What stands under an azimuth's label is the frame of that azimuth."""

import numpy as np
import pytest

from gapray.catalog.reader import open_catalog
from gapray.catalog.storage import Folder
from gapray.errors import CatalogError
from gapray.report.frame_strip import SHOWN, SIDE, frame_strip
from gapray.video.presets import presets
from tests.report.test_site import add


@pytest.mark.parametrize("preset", presets())
def test_each_label_stands_under_its_own_frame(tmp_path, preset):
    """`add` draws frame i of 24 in the i-th of 24 shades; the strip shows every third, every other one moved on by one."""
    folder = Folder.at(str(tmp_path / "catalog"))
    add(folder, "alpha", lpips=0.1, gate="pass", preset=preset)
    strip = np.asarray(frame_strip(open_catalog(folder.path)))
    shades = np.linspace(40, 220, 24)
    seen = [float(strip[SIDE // 2, SIDE * index + SIDE // 2].mean()) for index in range(SHOWN)]
    found = [int(np.abs(shades - shade).argmin()) for shade in seen]
    assert found == [3 * index + index % 2 for index in range(SHOWN)]


def test_a_catalogue_without_videos(tmp_path):
    folder = Folder.at(str(tmp_path / "catalog"))
    add(folder, "alpha", lpips=0.1, gate="pass")
    with pytest.raises(CatalogError) as error:
        frame_strip(open_catalog(folder.path), ["beta"])
    assert error.value.code == "catalog.product_not_found"
