import json

import cv2
import numpy as np
import pytest

from gapray.errors import InputError
from gapray.gap import folder
from tests.make import package


def same(a, b):
    assert a.product_id == b.product_id
    assert [view.azimuth_deg for view in a.views] == [view.azimuth_deg for view in b.views]
    for one, other in zip(a.views, b.views, strict=True):
        for field in ("reference", "mask", "depth", "canny", "identity"):
            assert np.array_equal(getattr(one, field), getattr(other, field)), field
        assert (one.name, one.uri, one.sha256, one.quality) == (other.name, other.uri, other.sha256, other.quality)


def test_round_trip(tmp_path):
    original = package(views=16)
    manifest = folder.write(original, tmp_path / "gap")
    same(original, folder.read(tmp_path / "gap"))
    read = folder.read(tmp_path / "gap")
    assert (read.key, read.depth_scale, read.depth_shift, dict(read.models)) == (
        original.key,
        original.depth_scale,
        original.depth_shift,
        dict(original.models),
    )
    data = json.loads(manifest.read_text())
    assert data["asset_name"] == "sku"
    assert data["views"]["000"]["depth"] == "view_000/geometry/depth_000.png"
    assert data["views"]["000"]["reference"] == "view_000/canonical/reference.png"


def test_reads_what_the_prototype_wrote(tmp_path):
    """8-bit depth, no canny, identity as JSON, and no gapray fields in the manifest."""
    views = {}
    for angle in ("000", "090", "180", "270"):
        root = tmp_path / f"view_{angle}"
        (root / "canonical").mkdir(parents=True)
        (root / "geometry").mkdir()
        cv2.imwrite(str(root / "canonical" / "reference.png"), np.full((64, 64, 3), 90, np.uint8))
        cv2.imwrite(str(root / "geometry" / f"depth_{angle}.png"), np.full((64, 64), 128, np.uint8))
        cv2.imwrite(str(root / "geometry" / f"mask_{angle}.png"), np.full((64, 64), 255, np.uint8))
        (root / "identity_embedding.json").write_text(json.dumps([0.5] * 517))
        (root / "metadata.json").write_text("{}")
        views[angle] = {
            "reference": f"view_{angle}/canonical/reference.png",
            "depth": f"view_{angle}/geometry/depth_{angle}.png",
            "mask": f"view_{angle}/geometry/mask_{angle}.png",
            "identity": f"view_{angle}/identity_embedding.json",
            "metadata": f"view_{angle}/metadata.json",
        }
    (tmp_path / "multiview_manifest.json").write_text(json.dumps({"asset_name": "old", "views": views}))
    read = folder.read(tmp_path)
    assert [view.azimuth_deg for view in read.views] == [0, 90, 180, 270]
    assert read.views[0].depth.max() == 128 * 257


@pytest.mark.parametrize("change", ["gone", "outside", "size", "identity", "text", "empty"])
def test_refused(tmp_path, change):
    path = folder.write(package(), tmp_path / "gap")
    data = json.loads(path.read_text())
    view = data["views"]["090"]
    if change == "gone":
        (tmp_path / "gap" / view["mask"]).unlink()
    elif change == "outside":
        (tmp_path / "mask.png").write_bytes((tmp_path / "gap" / view["mask"]).read_bytes())
        view["mask"] = "../mask.png"
    elif change == "size":
        cv2.imwrite(str(tmp_path / "gap" / view["mask"]), np.zeros((20, 20), np.uint8))
    elif change == "identity":
        np.save(tmp_path / "gap" / view["identity"], np.zeros(516, np.float32))
    elif change == "text":
        data = []
    elif change == "empty":
        data["views"] = {}
    path.write_text(json.dumps(data))
    with pytest.raises(InputError) as error:
        folder.read(tmp_path / "gap")
    assert error.value.code in {"gap.invalid_folder", "image.unreadable"}
