"""What a run leaves behind: its record, its traces, its logs and its metrics, on a real Ray."""

import json
import subprocess
import time
import urllib.request
from pathlib import Path

import pyarrow as pa
import pytest

import gapray
from gapray.batch.metrics import METRICS
from gapray.batch.pipeline import Stage
from gapray.batch.record import recorded, revision
from gapray.batch.runs import PackageSummary
from gapray.batch.trace import COLUMN, TRACE, with_empty_traces
from gapray.catalog.runs import run_named, runs
from gapray.catalog.storage import Folder
from gapray.errors import InputError
from gapray.profile import load_profile
from tests.conftest import ONE_THREAD, ROOT
from tests.make import write_product, write_products

NULL = ["mask.model=null-model", "depth.model=null-model", "identity.model=null-model", "run.products_per_part=2"]


TAKEN = pa.schema([("product_id", pa.string())])
GIVEN = pa.schema([("product_id", pa.string()), ("value", pa.int64())])


def test_a_stage_appends_its_time_to_the_traces():
    def work(table, *, factor):
        assert COLUMN not in table.column_names
        time.sleep(0.02)
        return pa.table({"product_id": table["product_id"], "value": [factor] * table.num_rows})

    first, second = (Stage("package.decode", work, TAKEN, GIVEN, {"factor": factor}).worker() for factor in (2, 3))
    table = with_empty_traces(pa.table({"product_id": ["a", "b"]}), "run-1")
    [a, b] = second(first(table))[COLUMN].to_pylist()
    assert a["run_id"] == "run-1" and [span["stage"] for span in a["spans"]] == ["package.decode"] * 2
    assert 0.01 <= a["spans"][0]["seconds"] < 0.2 and a["spans"] == b["spans"]
    assert a["spans"][0]["attempt"] == 0 and a["spans"][0]["gpu_seconds"] == 0.0
    assert first(pa.table({"product_id": ["a"]})).column_names == ["product_id", "value"]
    assert (
        with_empty_traces(pa.table({"product_id": pa.array([], pa.string())}), "r").schema.field(COLUMN).type == TRACE
    )


def test_a_failed_run_is_recorded_as_failed(tmp_path):
    folder, profile = Folder.at(str(tmp_path)), load_profile("classic", environment=ONE_THREAD)
    summary = PackageSummary("run-x", str(tmp_path), products=3)
    shared = {"profile": profile, "models": {"m": "1"}, "source": "shoot", "on_progress": None}
    with pytest.raises(InputError), recorded(summary, folder, **shared):
        assert run_named(folder, "run-x")["state"] == "running"
        raise InputError("capture.no_photos", "nothing there")
    record = run_named(folder, "run-x")
    assert record["state"] == "failed" and record["error"] == {"code": "capture.no_photos", "message": "nothing there"}
    with pytest.raises(KeyboardInterrupt), recorded(summary, folder, **shared):
        raise KeyboardInterrupt
    assert run_named(folder, "run-x")["error"]["code"] == "stopped"


def test_the_revision_is_that_of_the_checkout():
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    if head.returncode:
        pytest.skip("not a git checkout")
    assert head.stdout.startswith(str(revision()).rstrip("+"))


@pytest.mark.usefixtures("ray_cluster")
def test_records_logs_and_metrics_of_a_real_run(tmp_path, ray_cluster):
    write_products(tmp_path / "shoot", 3)
    (write_product(tmp_path / "shoot" / "broken") / "broken_090.png").write_bytes(b"")
    profile = load_profile("classic", overrides=[*NULL, "run.cpu_hour_price=3600"], environment=ONE_THREAD)
    summary = gapray.package(tmp_path / "shoot", out=tmp_path / "c", profile=profile)
    folder = Folder.at(str(tmp_path / "c"))
    [record] = runs(folder)
    assert record["run_id"] == summary.run_id and record["state"] == "finished" and record["kind"] == "package"
    assert record["counts"]["packaged"] == 3 and record["rejects_by_code"] == {"image.empty": 1}
    assert record["pieces"] == {"unit": "views", "count": 24} and record["done"] == 4
    assert list(record["stages"]) == [f"package.{name}" for name in ("decode", "mask", "describe", "encode", "write")]
    assert all(stage["products"] == 4 and stage["seconds"] > 0 for stage in record["stages"].values())
    assert record["cluster"]["CPU"] == 2 and record["held"]["cpu_hours"] == pytest.approx(
        2 * record["seconds"] / 3600, rel=0.3
    )
    assert record["spilled_bytes"] == 0
    assert record["cost"] == pytest.approx(record["held"]["cpu_hours"] * 3600)
    assert record["profile"]["packaging"]["mask"]["model"] == "null-model" and record["code"]["version"]
    again = gapray.package(tmp_path / "shoot", out=tmp_path / "c", profile=profile)
    assert [record["run_id"] for record in runs(folder)] == [again.run_id, summary.run_id]
    assert not list((tmp_path / "c" / "manifests").iterdir()), "manifests go with their runs"
    logs = json_lines(Path(ray_cluster._private.worker._global_node.get_logs_dir_path()), summary.run_id)
    ends = {line["product_id"]: line for line in logs if line["message"].startswith("product")}
    assert {line["outcome"] for line in ends.values()} == {"packaged", "rejected"} and len(ends) == 4
    assert ends["broken"]["code"] == "image.empty" and ends["broken"]["level"] == "warning"
    for line in ends.values():
        assert {"time", "run_id", "product_id", "stage", "attempt", "node", "seconds"} <= set(line)
        assert set(line["seconds"]) >= {"package.decode", "package.write"}
    families = scraped(ray_cluster, {"gapray_products_total", "gapray_stage_seconds", "gapray_rejects_total"})
    assert families <= set(METRICS), "nothing is exported that is not declared"


def json_lines(folder, run_id):
    lines = [line for file in folder.glob("worker-*.err") for line in file.read_text(errors="replace").splitlines()]
    return [json.loads(line) for line in lines if line.startswith("{") and run_id in line]


def scraped(ray, wanted, seconds=40):
    """Families named gapray_… that the node's exporter shows, once all that are wanted are among them."""
    [node] = ray.nodes()
    url = f"http://127.0.0.1:{node['MetricsExportPort']}/metrics"
    end, names = time.monotonic() + seconds, set()
    while time.monotonic() < end:
        with urllib.request.urlopen(url, timeout=10) as answer:
            text = answer.read().decode()
        names = {
            line.split()[2].removeprefix("ray_") for line in text.splitlines() if line.startswith("# TYPE ray_gapray")
        }
        if wanted <= names:
            return names
        time.sleep(1)
    raise AssertionError(f"exported: {sorted(names)}")
