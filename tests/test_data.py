"""gapray's stages as processors of a caller's own datasets."""

import json

import pytest
import ray.data
import ray.exceptions

import gapray
import gapray.data
from gapray.capture.decode import decode_photo
from gapray.profile import load_profile
from tests.conftest import ONE_THREAD
from tests.make import write_product

NULL = ["mask.model=null-model", "depth.model=null-model", "identity.model=null-model"]
SMALL = ["orbit.size=64", "orbit.voxels=32", "orbit.frames=16", "orbit.refine_camera=false", "orbit.engine=morph"]
SCORING = ["fidelity.leave_out=1", "fidelity.baselines=false", "stills.megapixels=0.05"]
EIGHT = range(0, 360, 45)
USABLE = ("mug", "box", "jar")
pytestmark = [pytest.mark.usefixtures("ray_cluster", "lpips_alex"), pytest.mark.timeout(500)]


@pytest.fixture(scope="module")
def profile():
    return load_profile("classic", overrides=[*NULL, *SMALL, *SCORING], environment=ONE_THREAD)


@pytest.fixture(scope="module")
def shoot(tmp_path_factory):
    """Photos of three products that can be used and of one that cannot."""
    folder = tmp_path_factory.mktemp("data") / "shoot"
    for name in (*USABLE, "torn"):
        write_product(folder / name, seed=len(name) + ord(name[0]))
    (folder / "torn" / "torn_090.png").write_bytes(b"")
    return folder


@pytest.fixture(scope="module")
def photos(shoot):
    """Rows with a price, and with a column that has the name of one that gapray uses between stages."""

    def listed(name, azimuths=EIGHT):
        return [
            {"uri": f"{shoot}/{name}/{name}_{azimuth:03d}.png", "azimuth_deg": float(azimuth)} for azimuth in azimuths
        ]

    given = {name: listed(name) for name in (*USABLE, "torn")} | {"few": listed("mug", (0, 90))}
    given["mug"] = given["mug"][::-1]
    return [
        {"product_id": name, "photos": given[name], "price": price, "key": f"key of {name}"}
        for price, name in enumerate(given)
    ]


@pytest.fixture(scope="module")
def packages(ray_cluster, photos, profile):
    dataset = ray.data.from_items(photos, override_num_blocks=2)
    return gapray.data.package_processor(profile)(dataset).materialize()


@pytest.fixture(scope="module")
def turntables(packages, profile):
    return gapray.data.turntable_processor(profile, preset="webp")(packages).materialize()


def rows_of(dataset):
    return {row["product_id"]: row for row in dataset.take_all()}


def codes_of(rows):
    return {name: row["reject"] and row["reject"]["code"] for name, row in rows.items()}


def test_photos_of_a_dataset_become_packages_and_turntables(turntables, photos, shoot, profile, tmp_path):
    rows = rows_of(turntables)
    for given in photos:
        row = rows[given["product_id"]]
        assert (row["price"], row["key"]) == (given["price"], given["key"])
    failed = {"torn": "image.empty", "few": "capture.missing_views"}
    assert codes_of(rows) == dict.fromkeys(USABLE) | failed
    for name in USABLE:
        row = rows[name]
        assert len(row["views"]) == row["product"]["views"] == 8 and row["video"]["frames"] == 16
        files = {file["name"]: file["data"] for file in row["files"]}
        assert sorted(files) == sorted(row["video"]["files"]) and "provenance.json" in files
        assert row["video"]["bytes"] == sum(map(len, files.values()))
    assert all(rows[name]["video"] is None and not rows[name]["files"] for name in failed)
    # The same photos through the command's own pipeline.
    gapray.package(shoot, out=tmp_path / "catalog", profile=profile)
    known = {
        row["product_id"]: row["key"] for row in gapray.open_catalog(str(tmp_path / "catalog")).products().to_pylist()
    }
    assert known == {name: rows[name]["product"]["key"] for name in USABLE}


def test_turntables_are_scored_against_photos_or_left_out_views(turntables, photos, profile):
    """mug has a photo at an angle that its package lacks, that of box cannot be read, jar has none."""
    truths = {
        "mug": [{"uri": photos[0]["photos"][0]["uri"], "azimuth_deg": 22.5}],
        "box": [{"uri": "nowhere.png", "azimuth_deg": 22.5}],
    }

    def with_truths(row):
        return {**row, "truths": truths.get(row["product_id"])}

    rows = rows_of(gapray.data.score_processor(profile)(turntables.map(with_truths)))
    failed = {"torn": "image.empty", "few": "capture.missing_views", "box": "image.unreadable"}
    assert codes_of(rows) == dict.fromkeys(USABLE) | failed
    assert {name: row["price"] for name, row in rows.items()} == {row["product_id"]: row["price"] for row in photos}
    for name, truth in (("mug", "held-out"), ("jar", "leave-one-out")):
        row = rows[name]
        protocol = json.loads(row["scores"][0]["protocol"])
        assert protocol["truth"] == truth and protocol["conditions_deg"] == list(EIGHT)
        assert len([score for score in row["scores"] if score["kind"] == "in-between"]) == 1
        assert [verdict["video_key"] for verdict in row["verdicts"]] == [row["video"]["key"]]
    assert all(rows[name]["scores"] == [] for name in failed)
    assert rows["box"]["reject"]["stage"] == "score" and rows["box"]["files"] and rows["torn"]["video"] is None


def test_packages_are_drawn_into_scenes(packages, profile):
    some = packages.filter(expr="product_id in ['mug', 'few']")
    stills = gapray.data.stills_processor(profile, scenes=["white-studio", "wooden-desk"], per_scene=2)(some)
    rows = {(row["product_id"], row["scene"]): row for row in stills.take_all()}
    assert sorted(rows) == [(name, scene) for name in ("few", "mug") for scene in ("white-studio", "wooden-desk")]
    for (name, scene), row in rows.items():
        assert row["key"] == f"key of {name}"
        if name == "few":
            assert row["reject"]["code"] == "capture.missing_views" and not row["stills"]
            continue
        assert row["reject"] is None and [still["seed"] for still in row["stills"]] == [0, 1]
        for still in row["stills"]:
            assert still["scene"] == scene and still["bytes"] == len(still["data"])
            assert decode_photo(still["data"]).shape[:2] == (still["height"], still["width"])


def test_columns_that_are_missing_or_would_be_there_twice_have_a_code(photos, packages, profile):
    package, stills = gapray.data.package_processor(profile), gapray.data.stills_processor(profile)
    for processor, dataset, code in (
        (package, ray.data.from_items([{"product_id": "a"}]), "data.missing_column"),
        (package, ray.data.from_items([{**photos[0], "views": 8}]), "data.reserved_column"),
        (stills, packages.add_column("scene", lambda table: ["mine"] * len(table)), "data.reserved_column"),
    ):
        # Of the caller's dataset: the error is wrapped as Ray Data wraps those of any function.
        with pytest.raises(ray.exceptions.RayTaskError, match=code):
            processor(dataset).take_all()
