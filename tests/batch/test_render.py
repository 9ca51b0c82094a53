"""`gapray.render` on a real Ray: resume, rejects, files and rows."""

import dataclasses
import json
import os
import subprocess

import numpy as np
import pytest

import gapray
from gapray.batch.render import estimate
from gapray.catalog.import_package import import_package
from gapray.catalog.storage import Folder
from gapray.errors import CatalogError, ConfigError
from gapray.gap.package import GapPackage
from gapray.profile import load_profile
from gapray.video.decode import read_frames
from tests import make
from tests.conftest import ONE_THREAD
from tests.orbit.test_conditions import solid_package

pytestmark = pytest.mark.usefixtures("ray_cluster")


@pytest.fixture
def small():
    overrides = [
        "orbit.size=64",
        "orbit.voxels=40",
        "orbit.frames=8",
        "orbit.flow=false",
        "orbit.refine_camera=false",
        "orbit.engine=morph",
    ]
    return load_profile("classic", overrides=overrides, environment=ONE_THREAD)


def catalog_of(path, *packages: GapPackage) -> str:
    for package in packages:
        import_package(Folder.at(str(path)), package, uri="memory://", allow_missing=True)
    return str(path)


def product(name, **options):
    return dataclasses.replace(solid_package(size=96, **options), product_id=name, key=name.ljust(64, "0"))


def test_videos_rows_and_files(tmp_path, small):
    bad = product("bad")
    empty = dataclasses.replace(bad.views[0], mask=np.zeros_like(bad.views[0].mask))
    bad = dataclasses.replace(bad, views=(empty, *bad.views[1:]))
    few = dataclasses.replace(product("few"), views=product("few").views[:2])
    catalog = catalog_of(tmp_path / "c", product("one"), bad, few, product("two"))
    seen = []
    summary = gapray.render(catalog, profile=small, on_progress=lambda state: seen.append(state.done))
    assert (summary.products, summary.rendered, summary.rejected, summary.frames) == (4, 2, 2, 16)
    assert summary.rejects_by_code == {"mask.too_small": 1, "orbit.too_few_views": 1}
    assert seen[0] == 0 and seen[-1] == 4
    opened = gapray.open_catalog(catalog)
    rows = {row["product_id"]: row for row in opened.videos().to_pylist()}
    assert set(rows) == {"one", "two"}
    row = rows["one"]
    assert (row["backend"], row["frames"], row["size"], row["seed"]) == ("morph", 8, 64, 0)
    assert row["bytes"] == sum(os.path.getsize(f"{catalog}/{name}") for name in row["files"])
    [mp4] = [name for name in row["files"] if name.endswith(".mp4")]
    assert mp4.startswith("files/videos/one/")
    assert len(read_frames(tmp_path / "c" / mp4)) == 8
    sidecar = json.loads(opened.folder.read(mp4.replace("turntable.mp4", "provenance.json")))
    assert sidecar["product_key"] == row["product_key"] and len(sidecar["photos"]) == 8
    assert {(reject["product_id"], reject["stage"]) for reject in opened.rejects().to_pylist()} == {
        ("bad", "render"),
        ("few", "render"),
    }
    again = gapray.render(catalog, profile=small)
    assert (again.finished, again.rendered, again.rejected) == (2, 0, 2)
    # A package made anew makes the old video stale, and a success clears the reject.
    mended = dataclasses.replace(product("bad"), key="bad-two".ljust(64, "0"))
    catalog_of(tmp_path / "c", mended)
    third = gapray.render(catalog, profile=small, products=["one", "bad"])
    assert (third.finished, third.rendered) == (1, 1)
    opened = gapray.open_catalog(catalog)
    assert [reject["product_id"] for reject in opened.rejects().to_pylist()] == ["few"]
    assert opened.videos().num_rows == 3


@pytest.mark.long
def test_seeds_and_presets_make_separate_videos_and_limits_apply(tmp_path, small):
    catalog = catalog_of(tmp_path / "c", product("one"), product("two"))
    first = gapray.render(catalog, profile=small, limit=1, seeds=2)
    assert (first.products, first.rendered) == (2, 2)
    spin = gapray.render(catalog, profile=small, limit=1, preset="spin")
    assert spin.rendered == 1
    opened = gapray.open_catalog(catalog)
    rows = opened.videos().to_pylist()
    assert [(row["seed"], row["preset"]) for row in rows] == [(0, "spin"), (0, "web"), (1, "web")]
    assert any(name.endswith("viewer.html") for name in rows[0]["files"])
    # Presets that alternate leave each other's videos alone.
    for preset in ("web", "spin"):
        assert gapray.render(catalog, profile=small, limit=1, preset=preset).finished == 1


def test_a_run_that_cannot_start_raises_with_a_code(tmp_path, small):
    with pytest.raises(CatalogError) as error:
        gapray.render(tmp_path / "nothing", profile=small)
    assert error.value.code == "catalog.not_found"
    catalog = catalog_of(tmp_path / "c", make.package("one"))
    with pytest.raises(CatalogError) as error:
        gapray.render(catalog, profile=small, products=["other"])
    assert error.value.code == "catalog.product_not_found"
    with pytest.raises(ConfigError) as error:
        gapray.render(catalog, profile=small, preset="betamax")
    assert error.value.code == "video.unknown_preset"


@pytest.mark.long
def test_an_estimate_writes_nothing(tmp_path, small):
    catalog = catalog_of(tmp_path / "c", *(product(f"p{index}") for index in range(4)))
    found = estimate(catalog, profile=small, workers=2, price_an_hour=3.6)
    assert (found.videos, found.measured) == (4, 2) and found.seconds_a_video > 0
    assert found.hours == pytest.approx(found.seconds_a_video * 4 / 3600 / 2)
    assert found.cost == pytest.approx(found.seconds_a_video * 4 * 3.6 / 3600)
    assert gapray.open_catalog(catalog).videos().num_rows == 0
    assert not (tmp_path / "c" / "videos").exists()


@pytest.mark.long
def test_a_full_disk_is_reported_and_leaves_no_partial_files(tmp_path, small):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=900k", "tmpfs", str(disk)], check=False)
    if mounted.returncode:
        pytest.skip("mounting a small disk needs root")
    try:
        catalog = catalog_of(disk / "c", product("one"), product("two"))
        filler = disk / "filler"
        free = os.statvfs(disk)
        filler.write_bytes(b"x" * (free.f_bavail * free.f_frsize - 40_000))
        roomy = small.model_copy(update={"orbit": small.orbit.model_copy(update={"size": 256})})
        summary = gapray.render(catalog, profile=roomy, preset="spin")
        assert summary.rendered == 0 and summary.rejects_by_code == {"video.write_failed": 2}
        filler.unlink()
        assert gapray.render(catalog, profile=roomy, preset="spin").rendered == 2
        assert gapray.open_catalog(catalog).rejects().num_rows == 0
    finally:
        subprocess.run(["umount", str(disk)], check=True)
