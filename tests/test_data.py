"""gapray's stages over a caller's own datasets."""

import json

import pytest
import ray.data
import ray.exceptions

import gapray
import gapray.data
from gapray.capture.decode import decode_photo
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
        return [{"uri": f"{tmp_path}/shoot/{name}/{name}_{one:03d}.png", "azimuth_deg": float(one)} for one in azimuths]

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


@pytest.fixture(scope="module")
def scoring(profile):
    overrides = [*NULL, *SMALL, "fidelity.leave_out=1", "fidelity.baselines=false", "stills.megapixels=0.05"]
    return load_profile("classic", overrides=overrides, environment={})


def test_turntables_are_scored_against_photos_or_left_out_views(ray_cluster, lpips_alex, photos, scoring, tmp_path):
    truths = [{"uri": photos[0]["photos"][0]["uri"], "azimuth_deg": 22.5}]  # any photo at an angle that no package has
    rows = [{**row, "truths": truths if row["product_id"] == "mug" else None} for row in photos[:3]]
    packages = gapray.data.package_processor(scoring)(ray.data.from_items(rows))
    turns = gapray.data.turntable_processor(scoring, preset="webp")(packages)
    found = {row["product_id"]: row for row in gapray.data.score_processor(scoring)(turns).take_all()}
    assert {name: (row["price"], row["reject"] and row["reject"]["code"]) for name, row in found.items()} == {
        "mug": (4, None),
        "box": (5, None),
        "torn": (6, "image.empty"),
    }
    for name, truth in (("mug", "held-out"), ("box", "leave-one-out")):
        row = found[name]
        protocol = json.loads(row["scores"][0]["protocol"])
        assert protocol["truth"] == truth and protocol["conditions_deg"] == list(EIGHT)
        assert len([score for score in row["scores"] if score["kind"] == "in-between"]) == 1
        assert [verdict["video_key"] for verdict in row["verdicts"]] == [row["video"]["key"]] and len(row["files"]) > 1
    assert found["torn"]["scores"] == [] and found["torn"]["video"] is None


def test_a_video_that_cannot_be_scored_keeps_its_files(ray_cluster, lpips_alex, photos, scoring):
    packages = gapray.data.package_processor(scoring)(ray.data.from_items(photos[:1]))
    turns = gapray.data.turntable_processor(scoring, preset="webp")(packages)
    far = [{"uri": "nowhere.jpg", "azimuth_deg": 22.5}]
    [row] = gapray.data.score_processor(scoring)(
        turns.add_column("truths", lambda table: [far] * len(table))
    ).take_all()
    assert row["reject"]["stage"] == "score" and row["files"] and not row["scores"]


def test_packages_are_drawn_into_scenes(ray_cluster, lpips_alex, photos, scoring):
    rows = [{**row, "scene_of_mine": "x"} for row in (photos[0], photos[3])]
    packages = gapray.data.package_processor(scoring)(ray.data.from_items(rows))
    stills = gapray.data.stills_processor(scoring, scenes=["white-studio", "wooden-desk"], per_scene=2)(packages)
    found = {(row["product_id"], row["scene"]): row for row in stills.take_all()}
    assert sorted(found) == [(name, scene) for name in ("few", "mug") for scene in ("white-studio", "wooden-desk")]
    for (name, scene), row in found.items():
        assert row["scene_of_mine"] == "x"
        if name == "few":
            assert row["reject"]["code"] == "capture.missing_views" and not row["stills"]
            continue
        assert row["reject"] is None and [still["seed"] for still in row["stills"]] == [0, 1]
        for still in row["stills"]:
            assert still["scene"] == scene and still["bytes"] == len(still["data"])
            assert decode_photo(still["data"]).shape[:2] == (still["height"], still["width"])


def test_columns_that_are_missing_or_would_be_there_twice_have_a_code(ray_cluster, photos, profile):
    processor = gapray.data.package_processor(profile)
    for rows, code in (
        ([{"product_id": "a"}], "data.missing_column"),
        ([{**photos[0], "views": 8}], "data.reserved_column"),
    ):
        # Of the caller's dataset: the error is wrapped as Ray Data wraps those of any function.
        with pytest.raises(ray.exceptions.RayTaskError, match=code):
            processor(ray.data.from_items(rows)).take_all()
