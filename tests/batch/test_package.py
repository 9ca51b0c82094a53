"""`gapray.package` on a real Ray, with real models."""

import json
import os
import shutil

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

import gapray
import gapray.batch.package as package_module
from gapray.capture.azimuths import AzimuthOptions
from gapray.capture.discover import DiscoverOptions, discover, scan
from gapray.capture.manifest import write_manifest
from gapray.cli.main import app
from gapray.errors import CatalogError, ConfigError
from gapray.packaging.build import PackagingModels, build_package
from gapray.profile import load_profile
from gapray.report.site import write_report
from tests.conftest import ONE_THREAD
from tests.make import write_product, write_products

NULL = [word for role in ("mask", "depth", "identity") for word in ("--set", f"{role}.model=null-model")]
LOCAL = ["--set", "run.executor=local"]
"""For what is decided by the source and the catalogue, whichever executor does the work: a run on Ray takes ten times as long."""
pytestmark = pytest.mark.usefixtures("ray_cluster")


@pytest.fixture
def null():
    overrides = [value for value in NULL if value != "--set"]
    return load_profile("classic", overrides=[*overrides, "run.products_per_part=2"], environment=ONE_THREAD)


@pytest.fixture
def local(null):
    return null.model_copy(update={"run": null.run.model_copy(update={"executor": "local"})})


@pytest.mark.long
def test_batch_equals_one_process_to_the_bit(samples, tmp_path, classic_weights):
    summary = gapray.package(samples / "captures", out=tmp_path / "catalog")
    assert (summary.packaged, summary.rejected, summary.views) == (2, 0, 16)
    catalog = gapray.open_catalog(str(tmp_path / "catalog"))
    settings = load_profile("classic", environment=ONE_THREAD).packaging
    models = PackagingModels.load(settings, device="cpu", threads=2)
    [capture] = [capture for capture in discover(str(samples / "captures")) if capture.product_id == "mug"]
    ours, theirs = build_package(capture, models, settings), catalog.package("mug")
    assert (ours.key, dict(ours.models)) == (theirs.key, dict(theirs.models))
    for view, other in zip(ours.views, theirs.views, strict=True):
        assert np.array_equal(view.reference, other.reference)
        assert np.array_equal(view.mask, other.mask)
        assert np.array_equal(view.canny, other.canny)
        assert np.array_equal(view.identity[:512], other.identity[:512])
        # Nearness travels as half floats between stages: one part in 2048.
        assert np.abs(view.depth.astype(int) - other.depth).max() <= 65535 / 1024


@pytest.mark.long
def test_resume_skips_finished_products_and_touched_photos_run_no_model(tmp_path, null):
    write_products(tmp_path / "shoot", 5)
    seen = []
    first = gapray.package(
        tmp_path / "shoot", out=tmp_path / "c", profile=null, on_progress=lambda s: seen.append(s.done)
    )
    assert (first.products, first.packaged, first.finished) == (5, 5, 0)
    assert seen[0] == 0 and seen[-1] == 5
    assert gapray.open_catalog(str(tmp_path / "c")).products()["azimuths_by"].to_pylist() == ["degrees"] * 5
    os.utime(tmp_path / "shoot" / "sku-0002" / "sku-0002_045.png", ns=(5, 5))
    third = gapray.package(tmp_path / "shoot", out=tmp_path / "c", profile=null)
    assert (third.packaged, third.unchanged, third.finished) == (0, 1, 4)
    fourth = gapray.package(tmp_path / "shoot", out=tmp_path / "c", profile=null, verify="content")
    assert (fourth.packaged, fourth.unchanged) == (0, 5)
    write_product(tmp_path / "shoot" / "sku-0002", seed=77)
    fifth = gapray.package(tmp_path / "shoot", out=tmp_path / "c", profile=null)
    assert (fifth.packaged, fifth.finished) == (1, 4)
    catalog = gapray.open_catalog(str(tmp_path / "c"))
    assert catalog.products().num_rows == 5
    assert catalog.views().num_rows == 40
    for product in catalog.products()["product_id"].to_pylist():
        assert len(catalog.package(product).views) == 8


@pytest.mark.long
def test_bad_products_become_rejects_and_good_ones_are_packaged(tmp_path, null):
    write_products(tmp_path / "shoot", 2)
    broken = write_product(tmp_path / "shoot" / "broken")
    (broken / "broken_090.png").write_bytes(b"")
    write_product(tmp_path / "shoot" / "few", azimuths=[0, 45])
    summary = gapray.package(tmp_path / "shoot", out=tmp_path / "c", profile=null)
    assert (summary.packaged, summary.rejected) == (2, 2)
    assert summary.rejects_by_code == {"image.empty": 1, "capture.missing_views": 1}
    catalog = gapray.open_catalog(str(tmp_path / "c"))
    codes = dict(zip(*catalog.rejects().select(["product_id", "code"]).to_pydict().values(), strict=True))
    assert codes == {"broken": "image.empty", "few": "capture.missing_views"}
    shutil.rmtree(broken)
    write_product(broken)
    assert gapray.package(tmp_path / "shoot", out=tmp_path / "c", profile=null).packaged == 1
    assert gapray.open_catalog(str(tmp_path / "c")).rejects()["product_id"].to_pylist() == ["few"]


@pytest.mark.long
def test_a_manifest_is_a_source(tmp_path, local):
    write_products(tmp_path / "shoot", 3)
    write_manifest(scan(str(tmp_path / "shoot")), str(tmp_path / "m.parquet"))
    summary = gapray.package(tmp_path / "m.parquet", out=tmp_path / "c", profile=local)
    assert summary.packaged == 3
    assert gapray.package(tmp_path / "shoot", out=tmp_path / "c", profile=local).finished == 3


@pytest.mark.parametrize(
    "options",
    [
        DiscoverOptions(AzimuthOptions(direction="cw")),
        DiscoverOptions(AzimuthOptions(names="order", front=3)),
        DiscoverOptions(layout="product"),
        DiscoverOptions(given=4),
    ],
)
def test_options_that_a_manifest_makes_useless_are_refused(tmp_path, null, options):
    write_products(tmp_path / "shoot", 1)
    write_manifest(scan(str(tmp_path / "shoot")), str(tmp_path / "m.parquet"))
    with pytest.raises(ConfigError, match="states the azimuths already") as error:
        gapray.package(tmp_path / "m.parquet", out=tmp_path / "c", profile=null, options=options)
    assert all(name in error.value.message for name in options.changed())


@pytest.mark.parametrize("table", ["views", "manifests"])
def test_an_unwritable_catalogue_fails_the_run_with_a_code(tmp_path, null, table):
    write_products(tmp_path / "shoot", 1)
    (tmp_path / "catalog").mkdir()
    (tmp_path / "catalog" / table).write_bytes(b"a file where a folder belongs")
    with pytest.raises(CatalogError) as error:
        gapray.package(tmp_path / "shoot", out=tmp_path / "catalog", profile=null)
    assert error.value.code == "catalog.write_failed"


def test_products_gone_from_the_source_are_reported(tmp_path, local):
    write_products(tmp_path / "shoot", 2)
    out = str(tmp_path / "c")
    assert gapray.package(tmp_path / "shoot", out=out, profile=local).gone == 0
    shutil.rmtree(tmp_path / "shoot" / "sku-0001")
    done = CliRunner().invoke(app, ["package", str(tmp_path / "shoot"), "--out", out, *NULL, *LOCAL])
    line = "no longer in the source: 1 (sku-0001); the catalogue keeps what was packaged"
    assert done.exit_code == 0 and line in done.output
    assert f"last packaging: {line}" in CliRunner().invoke(app, ["status", out]).output
    summary = json.loads(
        CliRunner().invoke(app, ["package", str(tmp_path / "shoot"), "--out", out, *NULL, *LOCAL, "--json"]).stdout
    )
    assert (summary["gone"], summary["gone_products"], summary["finished"]) == (1, ["sku-0001"], 1)
    assert json.loads(CliRunner().invoke(app, ["status", out, "--json"]).stdout)["rows"]["products"] == 2
    report = write_report(gapray.open_catalog(out), tmp_path / "site").parent
    line = f"No longer in {tmp_path / 'shoot'}"
    assert f"{line}: 1 of the products here." in (report / "index.html").read_text()
    pages = {name: (report / "products" / f"{name}.html").read_text() for name in ("sku-0000", "sku-0001")}
    assert line in pages["sku-0001"] and line not in pages["sku-0000"]
    rows = json.loads((report / "data.js").read_text().partition(" = ")[2].rstrip(";\n"))
    assert [line in row["reason"] for row in rows] == [False, True]
    write_product(tmp_path / "elsewhere" / "sku-0001", seed=1)
    gapray.package(tmp_path / "elsewhere", out=out, profile=local)
    report = write_report(gapray.open_catalog(out), tmp_path / "site").parent
    assert line not in (report / "index.html").read_text() + (report / "products" / "sku-0001.html").read_text()


def packaged(words):
    """`gapray package … --json`, as the object that it prints."""
    done = CliRunner().invoke(app, ["package", *map(str, words), *NULL, *LOCAL, "--json"])
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_a_different_product_with_the_same_id_is_reported(tmp_path):
    out, size = tmp_path / "c", ["--set", "depth.work_side=98"]
    for source, seed in (("first", 1), ("second", 2)):
        write_product(tmp_path / source / "mug", seed=seed)
    shutil.copytree(tmp_path / "first", tmp_path / "moved", copy_function=shutil.copyfile)
    shutil.copytree(tmp_path / "first", tmp_path / "again", copy_function=shutil.copyfile)
    summaries = [packaged([tmp_path / "first", "--out", out])]
    summaries += [packaged([tmp_path / "moved", "--out", out]), packaged([tmp_path / "again", "--out", out, *size])]
    assert [(summary["packaged"], summary["unchanged"]) for summary in summaries] == [(1, 0), (0, 1), (1, 0)]
    assert [summary["warnings"] for summary in summaries] == [[], [], []], "the photos are the same wherever they lie"
    replaced = packaged([tmp_path / "second", "--out", out])
    [warning] = replaced["warnings"]
    assert (warning["product_id"], warning["code"], replaced["warned"]) == ("mug", "product.source_changed", 1)
    assert str(tmp_path / "second" / "mug") in warning["message"] and "--out" in warning["message"]
    assert str(tmp_path / "again" / "mug") in warning["message"]
    [row] = gapray.open_catalog(str(out)).products().to_pylist()
    assert row["warnings"] == [{name: warning[name] for name in ("code", "message")}]
    line = f"warning mug: {warning['message']} [product.source_changed]"
    for words in (["status", str(out)], ["runs", "show", str(out)]):
        assert CliRunner().invoke(app, words).output.count(line) == 1, words
    write_product(tmp_path / "second" / "mug", seed=3)
    assert packaged([tmp_path / "second", "--out", out])["warnings"] == [], "taken again, in its own place"
    assert json.loads(CliRunner().invoke(app, ["status", str(out), "--json"]).stdout)["warnings"] == []


def test_packaging_warns_about_photos_that_look_wrong(tmp_path):
    out, mug = tmp_path / "c", write_product(tmp_path / "shoot" / "mug")
    write_product(tmp_path / "shoot" / "pan", seed=4)
    cv2.imwrite(str(mug / "mug_090.png"), cv2.imread(str(mug / "mug_045.png")) ^ 1)
    done = CliRunner().invoke(app, ["package", str(tmp_path / "shoot"), "--out", str(out), *NULL, *LOCAL])
    assert done.exit_code == 0
    line = "warning mug: mug_045.png, mug_090.png: both files show one picture"
    assert line in done.output and "[azimuth.duplicate]" in done.output and "warning pan" not in done.output
    assert line in CliRunner().invoke(app, ["status", str(out)]).output
    catalog = gapray.open_catalog(str(out))
    assert [warning["product_id"] for warning in catalog.warnings()] == ["mug"]
    assert [warning.code for warning in catalog.package("mug").warnings] == ["azimuth.duplicate"]
    assert catalog.package("pan").warnings == (), "looked at, and nothing found"
    os.utime(mug / "mug_000.png", ns=(5, 5))
    assert packaged([tmp_path / "shoot", "--out", out])["unchanged"] == 1
    assert [warning["product_id"] for warning in catalog.warnings()] == ["mug"], "a touched file takes no warning away"
    [page] = [write_report(catalog, tmp_path / "site").parent / "products" / "mug.html"]
    assert "both files show one picture" in page.read_text()


def test_another_run_at_the_same_time_is_noticed(tmp_path, local, monkeypatch):
    """Both compare with the catalogue before they begin, so neither sees the other's products then."""
    write_product(tmp_path / "a" / "mug", seed=1)
    write_product(tmp_path / "b" / "mug", seed=2)
    write_product(tmp_path / "b" / "jar", seed=3)
    run_pipeline, others = package_module.run_pipeline, []

    def while_another_runs(*arguments, **options):
        if not others:
            others.append(None)
            others[0] = gapray.package(tmp_path / "b", out=tmp_path / "catalog", profile=local)
        return run_pipeline(*arguments, **options)

    monkeypatch.setattr(package_module, "run_pipeline", while_another_runs)
    summary = gapray.package(tmp_path / "a", out=tmp_path / "catalog", profile=local)
    assert (summary.packaged, others[0].packaged, others[0].warned) == (1, 2, 0)
    [warning] = summary.warnings
    assert (warning["product_id"], warning["code"]) == ("mug", "product.source_changed")
    assert "b/mug was packaged by another run at the same time" in warning["message"]
    assert gapray.package(tmp_path / "a", out=tmp_path / "catalog", profile=local).warnings == []
