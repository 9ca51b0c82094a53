"""Run records: whole, newest first, and honest about runs that were killed."""

from datetime import UTC, datetime, timedelta

import pytest

from gapray.catalog.runs import LOST_AFTER_S, StageCost, run_named, runs, stage_costs, write_run
from gapray.catalog.storage import Folder
from gapray.errors import CatalogError

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture(params=["local", "memory"])
def folder(request, tmp_path):
    return Folder.at(str(tmp_path) if request.param == "local" else f"memory://runs-{tmp_path.name}")


def record(run_id, *, state="finished", at=NOW, stages=None):
    return {"run_id": run_id, "state": state, "updated_at": at, "stages": stages or {}}


def test_records_are_sorted_newest_first_and_found_by_prefix(folder):
    assert runs(folder) == []
    for run_id in ("20260101T000000-aa", "20260102T000000-bb", "20260102T000000-cc"):
        write_run(folder, record(run_id))
    assert [record["run_id"][-2:] for record in runs(folder)] == ["cc", "bb", "aa"]
    assert [record["run_id"][-2:] for record in runs(folder, limit=1)] == ["cc"]
    assert run_named(folder, "last")["run_id"].endswith("cc")
    assert run_named(folder, "20260101")["run_id"].endswith("aa")
    for wrong in ("20260102", "1999"):
        with pytest.raises(CatalogError) as error:
            run_named(folder, wrong)
        assert error.value.code == "catalog.run_not_found"


def test_a_run_that_stopped_writing_is_lost(folder):
    write_run(folder, record("a", state="running"))
    soon, late = (NOW + timedelta(seconds=LOST_AFTER_S + off) for off in (-1, 1))
    assert run_named(folder, "a", now=soon)["state"] == "running"
    assert run_named(folder, "a", now=late)["state"] == "lost"
    write_run(folder, record("a", state="failed"))
    assert run_named(folder, "a", now=late)["state"] == "failed"


def test_costs_are_means_over_runs():
    first = {"package.mask": {"products": 2, "seconds": 4.0, "gpu_seconds": 0.0}}
    second = {
        "package.mask": {"products": 2, "seconds": 8.0, "gpu_seconds": 0.0},
        "render.draw": {"products": 1, "seconds": 10.0, "gpu_seconds": 2.5},
    }
    found = stage_costs([record("a", stages=first), record("b", stages=second)])
    assert found == {"package.mask": StageCost(3.0, 1.0, 0.0), "render.draw": StageCost(10.0, 1.0, 0.25)}
