"""gapray's stages over a caller's own datasets."""

import pytest
import ray.data
import ray.exceptions

import gapray
import gapray.data
from gapray.config import load_profile
from tests.make import write_product

NULL = ["mask.model=null-model", "depth.model=null-model", "identity.model=null-model"]
SMALL = ["orbit.size=64", "orbit.voxels=32", "orbit.frames=4", "orbit.refine_camera=false", "orbit.engine=morph"]
EIGHT = range(0, 360, 45)
pytestmark = pytest.mark.timeout(500)


@pytest.fixture(scope="module")
def profile():
    return load_profile("classic", overrides=[*NULL, *SMALL], environment={})


@pytest.fixture
def photos(tmp_path):
    """Two products that can be used and two that cannot, with a price and a column that gapray uses within."""
    for name in ("mug", "box", "torn"):
        write_product(tmp_path / "shoot" / name, seed=len(name))
    (tmp_path / "shoot" / "torn" / "torn_090.png").write_bytes(b"")

    def listed(name, azimuths=EIGHT):
        return [
            {"uri": f"{tmp_path}/shoot/{name}/{name}_{azimuth:03d}.png", "azimuth_deg": float(azimuth)}
            for azimuth in azimuths
        ]

    rows = [
        {"product_id": "mug", "photos": listed("mug")[::-1], "price": 4, "key": "a"},
        {"product_id": "box", "photos": listed("box"), "price": 5, "key": "b"},
        {"product_id": "torn", "photos": listed("torn"), "price": 6, "key": "c"},
        {"product_id": "few", "photos": listed("mug", (0, 90)), "price": 7, "key": "d"},
    ]
    return rows


def test_photos_of_a_dataset_become_packages_and_turntables(ray_cluster, photos, profile, tmp_path):
    packages = gapray.data.package_processor(profile)(ray.data.from_items(photos, override_num_blocks=2))
    turns = gapray.data.turntable_processor(profile, preset="webp")(packages)
    rows = {row["product_id"]: row for row in turns.take_all()}
    assert {name: (row["price"], row["key"]) for name, row in rows.items()} == {
        "mug": (4, "a"),
        "box": (5, "b"),
        "torn": (6, "c"),
        "few": (7, "d"),
    }
    codes = {name: row["reject"] and row["reject"]["code"] for name, row in rows.items()}
    assert codes == {"mug": None, "box": None, "torn": "image.empty", "few": "capture.missing_views"}
    for name in ("mug", "box"):
        row = rows[name]
        assert len(row["views"]) == row["product"]["views"] == 8 and row["video"]["frames"] == 4
        files = {file["name"]: file["data"] for file in row["files"]}
        assert sorted(files) == sorted(row["video"]["files"]) and "provenance.json" in files
        assert row["video"]["bytes"] == sum(map(len, files.values()))
    assert rows["few"]["video"] is None and not rows["few"]["files"]
    # The same photos through the command's own pipeline.
    gapray.package(tmp_path / "shoot", out=tmp_path / "catalog", profile=profile)
    known = {
        row["product_id"]: row["key"] for row in gapray.open_catalog(str(tmp_path / "catalog")).products().to_pylist()
    }
    assert known == {name: rows[name]["product"]["key"] for name in ("mug", "box")}


def test_missing_and_reserved_columns_raise(ray_cluster, photos, profile):
    processor = gapray.data.package_processor(profile)
    for rows, code in (
        ([{"product_id": "a"}], "data.missing_column"),
        ([{**photos[0], "views": 8}], "data.reserved_column"),
    ):
        # Of the caller's dataset: the error is wrapped as Ray Data wraps those of any function.
        with pytest.raises(ray.exceptions.RayTaskError, match=code):
            processor(ray.data.from_items(rows)).take_all()
