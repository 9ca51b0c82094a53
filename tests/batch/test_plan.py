import shutil
from contextlib import suppress
from dataclasses import replace
from types import SimpleNamespace

import pandas
import polars
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gapray.batch.package import package_pipeline
from gapray.batch.plan import write_pending
from gapray.batch.render import render_pipeline
from gapray.batch.render_stages import Draw, VideoFacts
from gapray.batch.resources import GpuShare, RenderWorkers, check_resources, plan_render, plan_score, plan_stages
from gapray.batch.rows import PLANNED, fail, process_live_rows
from gapray.batch.score import score_pipeline
from gapray.batch.score_stages import DrawLeftOut, Judge, ScoreFacts
from gapray.batch.stages import Describe
from gapray.batch.stills_stages import DrawStills, StillFacts
from gapray.capture.discover import discover, scan
from gapray.capture.manifest import MANIFEST, WRITTEN_MANIFEST, manifest_row, write_manifest
from gapray.catalog.parts import commit
from gapray.catalog.reader import Catalog
from gapray.catalog.rows import RunFacts, product_row, utc_now
from gapray.catalog.storage import Folder
from gapray.errors import InputError, ResourceError
from gapray.profile import load_profile
from tests.catalog.test_catalog import FACTS
from tests.make import write_product, write_products


def plan(tmp_path, catalog, settings="settings", verify="source"):
    manifest, target = tmp_path / "m.parquet", tmp_path / "pending.parquet"
    write_manifest(scan(str(tmp_path / "shoot")), str(manifest))
    pending = write_pending(manifest, catalog, settings, verify, target)
    table = pq.read_table(target)
    assert [(field.name, field.type) for field in table.schema] == [(field.name, field.type) for field in PLANNED]
    return pending, {row["product_id"]: row["known_key"] for row in table.to_pylist()}


def finish(folder, capture, key="k"):
    azimuths = [photo.azimuth_deg for photo in capture.photos]
    row = product_row(
        product_id=capture.product_id,
        key=key,
        source=capture.source,
        uri=capture.uri,
        azimuths_deg=azimuths,
        depth_scale=1.0,
        depth_shift=0.0,
        facts=FACTS,
        now=utc_now(),
    )
    commit(folder, {"products": [row]})


def test_finished_products_are_skipped(tmp_path):
    write_products(tmp_path / "shoot", 3)
    write_product(tmp_path / "shoot" / "bad", azimuths=[0, 45])
    folder = Folder.at(str(tmp_path / "catalog"))
    captures = [capture for capture in scan(str(tmp_path / "shoot")) if capture.product_id == "sku-0001"]
    finish(folder, captures[0])
    catalog = Catalog(folder)
    pending, rows = plan(tmp_path, catalog)
    assert (pending.products, pending.finished) == (4, 1)
    assert rows == {"sku-0000": None, "sku-0002": None, "bad": None}
    assert plan(tmp_path, catalog, settings="other")[0].finished == 0
    again, rows = plan(tmp_path, catalog, verify="content")
    assert again.finished == 0
    assert rows["sku-0001"] == "k"


def test_a_touched_photo_makes_a_product_pending_with_its_known_key(tmp_path):
    import os

    write_products(tmp_path / "shoot", 1)
    folder = Folder.at(str(tmp_path / "catalog"))
    finish(folder, discover(str(tmp_path / "shoot"))[0])
    file = next((tmp_path / "shoot" / "sku-0000").iterdir())
    os.utime(file, ns=(1, 1))
    pending, rows = plan(tmp_path, Catalog(folder))
    assert pending.finished == 0
    assert rows == {"sku-0000": "k"}


def refused_of(tmp_path, table):
    manifest, target = tmp_path / "m.parquet", tmp_path / "pending.parquet"
    pq.write_table(table, manifest)
    write_pending(manifest, Catalog(Folder.at(str(tmp_path / "none"))), "settings", "source", target)
    return pq.read_table(target).to_pylist()


@pytest.mark.parametrize("change", ["azimuth_deg", "uri", "left out"])
def test_conflicting_rows_of_one_product_are_rejected(tmp_path, change):
    write_products(tmp_path / "shoot", 2)
    rows = [manifest_row(capture) for capture in scan(str(tmp_path / "shoot"))]
    other = {**rows[0], "photos": [dict(photo) for photo in rows[0]["photos"]]}
    if change == "azimuth_deg":
        other["photos"] = [{**photo, "azimuth_deg": -photo["azimuth_deg"] % 360} for photo in other["photos"]]
    elif change == "uri":
        other["photos"][3]["uri"] = rows[1]["photos"][3]["uri"]
    else:
        del other["photos"][3]
    found = refused_of(tmp_path, pa.Table.from_pylist([*rows, other], schema=MANIFEST))
    assert [row["error_code"] for row in found] == ["capture.same_id", None, "capture.same_id"]
    assert "2 times with other photos or angles" in found[0]["error_message"]
    again = refused_of(tmp_path, pa.Table.from_pylist([*rows, rows[0]], schema=MANIFEST))
    assert [row["error_code"] for row in again] == [None] * 3


def by_pandas(path):
    pandas.read_parquet(path).to_parquet(path)


def by_pandas_with_categories(path):
    frame = pandas.read_parquet(path)
    frame.astype(dict.fromkeys(("product_id", "azimuths_by", "source"), "category")).to_parquet(path)


def by_polars(path):
    polars.read_parquet(path).write_parquet(path)


@pytest.mark.parametrize(
    "rewrite",
    [by_pandas, by_pandas_with_categories, by_polars],
    ids=lambda function: function.__name__,
)
def test_a_manifest_rewritten_by_another_library_is_read(tmp_path, rewrite):
    write_products(tmp_path / "shoot", 2)
    manifest = tmp_path / "m.parquet"
    write_manifest(scan(str(tmp_path / "shoot")), str(manifest))
    rows = pq.read_table(manifest).drop_columns("ignored").to_pylist()
    rewrite(manifest)
    assert pq.read_schema(manifest).remove_metadata() != WRITTEN_MANIFEST.remove_metadata()
    for table in (pq.read_table(manifest), pa.concat_tables([pq.read_table(manifest).slice(0, 1)] * 2)):
        found = refused_of(tmp_path, table)
        assert {row["product_id"] for row in found} <= {"sku-0000", "sku-0001"}
        assert [{name: row[name] for name in MANIFEST.names} for row in found] == (
            rows if len({row["product_id"] for row in found}) == 2 else [rows[0]] * 2
        )


def test_a_manifest_with_wrong_column_types_is_rejected(tmp_path):
    for name, kind in (("product_id", pa.int64()), ("uri", pa.null()), ("photos", pa.list_(pa.string()))):
        schema = MANIFEST.set(MANIFEST.get_field_index(name), pa.field(name, kind))
        with pytest.raises(InputError, match=f"column {name!r} is") as error:
            refused_of(tmp_path, schema.empty_table())
        assert error.value.code == "capture.invalid_manifest"


def packaging(profile, cluster):
    facts = RunFacts("run", "settings", profile.name, {})
    return package_pipeline(cluster, profile=profile, facts=facts, catalog="catalog")


def rendering(profile, cluster):
    return render_pipeline(cluster, facts=VideoFacts("run", "catalog", profile, "web", {}))


def scoring(profile, cluster, *, draws):
    facts = ScoreFacts("run", "catalog", profile, "mask", "identity", "trunk")
    return score_pipeline(cluster, facts=facts, vram_gb=None, draws=draws)


def test_stages_fit_two_cores_and_not_one():
    profile = load_profile("classic", environment={})
    for cores in (2, 4, 16, 64):
        check_resources(packaging(profile, {"CPU": cores}).needs(), {"CPU": cores})
    with pytest.raises(ResourceError, match="CPU needed") as error:
        check_resources(packaging(profile, {"CPU": 1}).needs(), {"CPU": 1})
    assert error.value.code == "resource.insufficient"


def test_networks_request_a_fraction_of_a_gpu():
    profile = load_profile("sd15", environment={})
    plan = plan_stages(profile, {"CPU": 16, "GPU": 1})
    assert plan.describe_gpu == GpuShare(16.0, 80.0, processes_per_device=2)
    assert plan.describe_workers == 2
    assert packaging(profile, {"CPU": 16, "GPU": 1}).needs()["GPU"] == pytest.approx(1)
    assert plan_stages(profile, {"CPU": 16}).describe_gpu is None
    two = load_profile("sd15", overrides=["run.describe_workers=6"], environment={})
    with pytest.raises(ResourceError, match="GPU needed"):
        check_resources(packaging(two, {"CPU": 64, "GPU": 1}).needs(), {"CPU": 64, "GPU": 1})


@given(cores=st.integers(2, 4096), gpus=st.integers(0, 64), draws=st.booleans())
def test_default_plans_fit_any_cluster_and_fill_it(cores, gpus, draws):
    """What is left free would bring no node of an autoscaling cluster, and overload the first ones."""
    gpus = min(gpus, cores // 4)
    profile, cluster = load_profile("classic", environment={}), {"CPU": float(cores), "GPU": float(gpus)}
    pipelines = [packaging(profile, cluster), rendering(profile, cluster), scoring(profile, cluster, draws=draws)]
    for pipeline in pipelines:
        check_resources(pipeline.needs(), cluster)
        check_resources(pipeline.smallest().needs(), {"CPU": 4.0, "GPU": min(2.0, gpus)})
    assert pipelines[0].needs()["CPU"] > 0.85 * cores
    assert plan_stages(profile, cluster).mask_cpus <= 2


def test_describe_workers_of_two_gpus_cannot_share_one():
    profile, cluster = load_profile("sd15", environment={}), {"CPU": 32, "GPU": 2}
    plan = plan_stages(profile, cluster)
    assert plan.describe_workers == 4 and packaging(profile, cluster).needs()["GPU"] == pytest.approx(2)
    assert plan.describe_gpu.num_gpus * 3 > 1 and plan.describe_gpu.gb == 16


def test_generators_get_whole_gpus_and_the_morph_gets_cores():
    morph = load_profile("classic", environment={})
    assert plan_render(morph, None, {"CPU": 2}) == RenderWorkers(1, 2, 0.625, None)
    assert plan_render(morph, None, {"CPU": 8}) == RenderWorkers(4, 2, 1.625, None)
    check_resources(rendering(morph, {"CPU": 2}).needs(), {"CPU": 2})
    shared = plan_render(morph, None, {"CPU": 16, "GPU": 2})
    assert shared.render_workers == 8 and rendering(morph, {"CPU": 16, "GPU": 2}).needs()["GPU"] == pytest.approx(2)
    whole = plan_render(load_profile("sd15", environment={}), 30.0, {"CPU": 16, "GPU": 2})
    assert whole.render_workers == 2 and whole.gpu.num_gpus == 1
    with pytest.raises(ResourceError, match="needs a GPU"):
        plan_render(load_profile("sd15", environment={}), 30.0, {"CPU": 16})


def test_scores_of_a_generators_videos_are_planned_with_and_without_a_gpu():
    """Without one those videos are rejects, not the run."""
    profile = load_profile("classic", environment={})
    assert plan_score(profile, 30.0, {"CPU": 16}, draws=True).draw.gpu is None
    assert plan_score(profile, 30.0, {"CPU": 16, "GPU": 1}, draws=True).draw.gpu.num_gpus == pytest.approx(0.95)
    trial = load_profile("sd15", overrides=["run.generators_on_cpu=true"], environment={})
    assert plan_render(trial, 30.0, {"CPU": 2}) == RenderWorkers(1, 2, 0.625, None)


@pytest.fixture
def shares(monkeypatch):
    """What processes ask torch for, on a card of 80 GB that is not there."""
    asked = []
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(total_memory=80e9))
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", asked.append)
    return asked


def test_every_stage_that_may_use_a_gpu_keeps_to_its_share(shares):
    profile = load_profile("classic", environment={})
    packages = replace(FACTS, models={"depth": "hull@2", "identity": "null-model@2"})
    videos = VideoFacts("run", "memory://", profile, "web", {})
    scores = ScoreFacts("run", "memory://", profile, "mask@1", "identity@1", "trunk")
    stills = StillFacts("run", "memory://", profile, {}, "judge")
    share = GpuShare(20.0, 80.0)
    stages = [
        lambda: Describe(settings=profile.packaging, facts=packages, batch=1, gpu=share),
        lambda: Draw(facts=videos, gpu=share, threads=1),
        lambda: DrawLeftOut(facts=scores, gpu=share, threads=1),
        lambda: Judge(facts=scores, gpu=share, threads=1),
        lambda: DrawStills(facts=stills, gpu=share, threads=1),
    ]
    for count, stage in enumerate(stages, 1):
        with suppress(AssertionError, RuntimeError):  # torch finds no card to load a network to
            stage()
        assert shares == [0.25] * count
    GpuShare(80.0, 80.0).cap_this_process()
    assert shares[-1] == 1


def row(name, **fields):
    return {
        "product_id": name,
        "error_code": None,
        "error_message": None,
        "known_key": None,
        "key": "k",
        "views": [],
    } | fields


def test_only_the_faulty_row_fails():
    rows = [row("a"), row("b"), row("c", error_code="image.empty"), row("d", known_key="k")]
    seen = []

    def work(live):
        if any(live_row["product_id"] == "b" for live_row in live):
            raise InputError("mask.too_small", "b is small")
        seen.extend(live_row["product_id"] for live_row in live)

    process_live_rows(rows, work)
    assert seen == ["a"]
    assert [each_row["error_code"] for each_row in rows] == [None, "mask.too_small", "image.empty", None]


def test_an_unexpected_error_gets_a_code():
    failed = row("a")
    fail(failed, ZeroDivisionError("oops"))
    assert failed["error_code"] == "internal.error"
    assert "ZeroDivisionError: oops" in failed["error_message"]


def test_products_that_are_gone_from_their_source_are_named(tmp_path):
    write_products(tmp_path / "shoot", 3)
    write_product(tmp_path / "other" / "elsewhere")
    folder = Folder.at(str(tmp_path / "catalog"))
    for source in ("shoot", "other"):
        for capture in scan(str(tmp_path / source)):
            finish(folder, capture)
    shutil.rmtree(tmp_path / "shoot" / "sku-0001")
    (tmp_path / "shoot" / "sku-0002" / "sku-0002_045.png").unlink()  # refused, but there
    manifest, root = tmp_path / "m.parquet", str(tmp_path / "shoot")
    write_manifest(scan(root), str(manifest))
    for below, gone in ((root, ("sku-0001",)), (f"{root}/", ("sku-0001",)), (None, ()), (str(tmp_path / "sho"), ())):
        pending = write_pending(manifest, Catalog(folder), "settings", "source", tmp_path / "p.parquet", root=below)
        assert (pending.gone, pending.products) == (gone, 2), below


def test_different_rows_with_one_id_are_rejected(tmp_path):
    """Two sources' manifests in one table: the product that is written last would hide the other."""
    for source, seed in (("a", 1), ("b", 2)):
        write_product(tmp_path / source / "mug", seed=seed)
        write_manifest(scan(str(tmp_path / source)), str(tmp_path / f"{source}.parquet"))
    write_product(tmp_path / "a" / "pan")
    write_manifest(scan(str(tmp_path / "a")), str(tmp_path / "a.parquet"))
    some, others = (pq.read_table(tmp_path / f"{source}.parquet") for source in "ab")
    target, catalog = tmp_path / "pending.parquet", Catalog(Folder.at(str(tmp_path / "catalog")))
    for tables, refused in (([some, others], ["mug", "mug"]), ([some, some], [])):
        pq.write_table(pa.concat_tables(tables), tmp_path / "m.parquet")
        write_pending(tmp_path / "m.parquet", catalog, "settings", "source", target)
        wrong = [row for row in pq.read_table(target).to_pylist() if row["error_code"]]
        assert [row["product_id"] for row in wrong] == refused
        for row in wrong:
            assert row["error_code"] == "capture.same_id"
            assert (
                str(tmp_path / "a" / "mug") in row["error_message"]
                and str(tmp_path / "b" / "mug") in row["error_message"]
            )


def test_products_of_other_commands_are_not_reported_as_gone(tmp_path):
    """`gapray run` makes products of films too; `gapray package` of the same folder leaves them out."""
    write_products(tmp_path / "shoot", 1)
    folder, [capture] = Folder.at(str(tmp_path / "catalog")), discover(str(tmp_path / "shoot"))
    (tmp_path / "shoot" / "toy.mp4").write_bytes(b"a film")
    for name in ("toy", "lost"):
        finish(folder, replace(capture, product_id=name, uri=str(tmp_path / "shoot" / f"{name}.mp4")))
    write_manifest(scan(str(tmp_path / "shoot")), str(tmp_path / "m.parquet"))
    found = write_pending(
        tmp_path / "m.parquet",
        Catalog(folder),
        "settings",
        "source",
        tmp_path / "p.parquet",
        root=str(tmp_path / "shoot"),
    )
    assert found.gone == ("lost",)
