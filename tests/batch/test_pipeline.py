"""The same pipeline by both executors: in this process, and on Ray Data."""

import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest

import gapray
from gapray.batch.local import run_locally
from gapray.batch.pipeline import Pipeline, Stage
from gapray.catalog.runs import runs
from gapray.errors import ModelError
from gapray.profile import load_profile
from tests.conftest import ONE_THREAD, ROOT
from tests.make import write_product, write_products

NULL = ["mask.model=null-model", "depth.model=null-model", "identity.model=null-model"]
SMALL = ["orbit.size=64", "orbit.voxels=32", "orbit.frames=4", "orbit.refine_camera=false", "orbit.engine=morph"]
TIMES = {"run_id", "created_at", "seconds"}


TOY = pa.schema([("product_id", pa.string()), ("value", pa.int64())])


def plus(table, *, amount):
    return pa.table({"product_id": table["product_id"], "value": np.asarray(table["value"]) + amount})


class Doubles:
    def __init__(self, *, seen):
        seen.append("made")

    def __call__(self, table):
        return pa.table({"product_id": table["product_id"], "value": np.asarray(table["value"]) * 2})


def sink(table, *, parts):
    parts.append(table["value"].to_pylist())
    return table


def test_rows_are_processed_in_blocks_and_committed_in_parts():
    seen, parts = [], []
    pipeline = Pipeline(
        (Stage("toy.plus", plus, TOY, TOY, {"amount": 1}), Stage("toy.doubles", Doubles, TOY, TOY, {"seen": seen}, 3)),
        Stage("toy.sink", sink, TOY, TOY, {"parts": parts}),
        rows_per_block=2,
        rows_per_part=4,
    )
    table = pa.table({"product_id": [str(row) for row in range(7)], "value": range(7)})
    receipts = [part.num_rows for part in run_locally(pipeline, iter([table]), device_gb=80)]
    assert receipts == [4, 3] and parts == [[2, 4, 6, 8], [10, 12, 14]]
    assert seen == ["made"], "one worker does it all"


def test_columns_that_a_stage_does_not_read_are_passed_through():
    def shown(table):
        assert table.column_names == ["product_id", "value"]
        return table

    stage = Stage("toy.shown", shown, TOY, TOY)
    table = pa.table({"price": [3, 4], "product_id": ["a", "b"], "value": [1, 2]})
    assert stage.worker()(table).to_pylist() == table.to_pylist()


def test_a_stage_that_loses_a_row_or_a_column_raises_type_error():
    table = pa.table({"product_id": ["a", "b"], "value": [1, 2]})
    for wrong in (lambda rows: rows.slice(0, 1), lambda rows: rows.drop_columns("value")):
        with pytest.raises(TypeError, match="toy.wrong"):
            Stage("toy.wrong", wrong, TOY, TOY).worker()(table)


def test_an_error_in_a_stage_ends_the_run():
    def refuse(table):
        raise ModelError("model.failed", "of a worker")

    pipeline = Pipeline(
        (Stage("toy.refuse", refuse, TOY, TOY),), Stage("toy.sink", sink, TOY, TOY, {"parts": []}), 1, 1
    )
    with pytest.raises(ModelError, match="of a worker"):
        list(run_locally(pipeline, iter([pa.table({"product_id": ["a"], "value": [1]})]), device_gb=80))


@pytest.mark.timeout(500)
def test_both_executors_write_the_same_catalogue(ray_cluster, tmp_path):
    write_products(tmp_path / "shoot", 3)
    (write_product(tmp_path / "shoot" / "broken") / "broken_090.png").write_bytes(b"")
    made = {}
    for executor in ("ray_data", "local"):
        profile = load_profile("classic", overrides=[*NULL, *SMALL, f"run.executor={executor}"], environment=ONE_THREAD)
        target = tmp_path / executor
        packed = gapray.package(tmp_path / "shoot", out=target, profile=profile)
        drawn = gapray.render(target, profile=profile, preset="webp")
        assert (packed.packaged, packed.rejected, drawn.rendered) == (3, 1, 3)
        catalog = gapray.open_catalog(str(target))
        made[executor] = {
            name: catalog.table(name).drop_columns(sorted(TIMES & set(catalog.table(name).column_names))).to_pylist()
            for name in ("products", "views", "videos")
        }
        [rendering, packaging] = runs(catalog.folder)
        assert list(packaging["stages"]) == [
            f"package.{step}" for step in ("decode", "mask", "describe", "encode", "write")
        ]
        assert rendering["stages"]["render.draw"]["products"] == 3
        assert packaging["rejects_by_code"] == {"image.empty": 1}
        assert gapray.package(tmp_path / "shoot", out=target, profile=profile).finished == 3
    assert made["local"] == made["ray_data"]


LOCAL = """
import sys
import gapray, ray
from gapray.profile import load_profile
profile = load_profile("classic", overrides=sys.argv[3:])
summary = gapray.package(sys.argv[1], out=sys.argv[2], profile=profile)
assert not ray.is_initialized() and summary.packaged == 2, summary
"""


def test_the_local_executor_does_not_start_ray(tmp_path):
    write_products(tmp_path / "shoot", 2)
    words = [str(tmp_path / "shoot"), str(tmp_path / "c"), *NULL, "run.executor=local"]
    subprocess.run([sys.executable, "-c", LOCAL, *words], cwd=ROOT, check=True, timeout=120)


def test_an_unknown_executor_is_rejected():
    with pytest.raises(gapray.errors.ConfigError, match="executor"):
        load_profile("classic", overrides=["run.executor=spark"], environment={})
