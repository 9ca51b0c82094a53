"""`gapray plan`: cluster files read, work spread so that all stages keep one pace."""

import json

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from gapray.catalog.parts import commit
from gapray.catalog.rows import reject_row
from gapray.catalog.runs import StageCost
from gapray.catalog.storage import Folder
from gapray.cli.main import app
from gapray.cluster.plan import plan_run
from gapray.cluster.shape import PRICE_LABEL, NodeGroup, node_groups
from gapray.errors import ConfigError, GaprayError, ResourceError
from gapray.profile import load_profile
from tests.catalog.test_catalog import FACTS, START
from tests.conftest import ROOT
from tests.make import write_product

CPU = NodeGroup("cpu", 16, 0, 4, 0.5)
GPU = NodeGroup("gpu", 8, 1, 2, 7.0)


@pytest.mark.parametrize("name", ["aws.yaml", "gcp.yaml", "kuberay/raycluster.yaml", "kuberay/rayjob.yaml"])
def test_our_own_cluster_files_are_read(name):
    groups = node_groups(ROOT / "cluster" / name)
    assert any(group.gpus for group in groups) and any(group.cpus >= 12 for group in groups)
    assert all(group.max_nodes > 0 for group in groups) and "head" not in {group.name for group in groups}


def test_the_whole_cluster_s_limit_and_prices_are_kept(tmp_path):
    types = {
        "head": {"resources": {"CPU": 0}},
        "a": {"resources": {"CPU": 8}, "max_workers": 6, "labels": {PRICE_LABEL: "0.4"}},
        "b": {"resources": {"CPU": 4, "GPU": 1}, "max_workers": 6},
    }
    path = tmp_path / "up.yaml"
    path.write_text(yaml.safe_dump({"max_workers": 8, "head_node_type": "head", "available_node_types": types}))
    assert node_groups(path) == [NodeGroup("a", 8, 0, 6, 0.4), NodeGroup("b", 4, 1, 2, None)]


@pytest.mark.parametrize("text", ["[]", "a: 1", "spec: {}", ": :", "available_node_types: {}\nhead_node_type: h"])
def test_invalid_cluster_files_are_rejected(tmp_path, text):
    path = tmp_path / "x.yaml"
    path.write_text(text)
    for wrong in (path, tmp_path / "none.yaml"):
        with pytest.raises(ConfigError) as error:
            node_groups(wrong)
        assert error.value.code == "config.invalid"


def test_throughput_bottleneck_hours_and_cost():
    costs = {
        "package.decode": StageCost(0.5, 1.0, 0.0),
        "package.mask": StageCost(2.0, 1.75, 0.0),
        "render.draw": StageCost(6.0, 1.0, 1.0),
    }
    plan = plan_run(costs, 7200, [CPU, GPU], measured="here")
    # 80 cores over 4 core-seconds a product; 2 GPUs over 6 GPU-seconds a product.
    assert plan.hours_by_kind == pytest.approx({"package": 7200 / 20 / 3600, "render": 7200 / (2 / 6) / 3600})
    assert plan.bottleneck == "render.draw"
    assert plan.cost == pytest.approx(plan.hours * (4 * 0.5 + 2 * 7.0))
    assert {stage.stage: stage.workers for stage in plan.stages} == {
        "package.decode": 10,
        "package.mask": 40,
        "render.draw": 2,
    }
    json.dumps(plan.as_dict())
    assert plan_run(costs, 1, [CPU, NodeGroup("g", 1, 1, 1, None)], measured="").cost is None


def test_a_generator_without_a_gpu_raises():
    with pytest.raises(ResourceError) as error:
        plan_run({"render.draw": StageCost(6.0, 1.0, 1.0)}, 10, [CPU], measured="here")
    assert error.value.code == "resource.insufficient"


@pytest.mark.parametrize(
    ("costs", "groups", "code"),
    [
        ({}, [CPU], "catalog.run_not_found"),
        ({"package.mask": StageCost(2.0, 1.0, 0.0)}, [NodeGroup("g", 0, 1, 2, None)], "resource.insufficient"),
    ],
)
def test_planning_without_costs_raises(costs, groups, code):
    with pytest.raises(GaprayError) as error:
        plan_run(costs, 10, groups, measured="here")
    assert error.value.code == code


def test_stages_that_take_no_time_are_no_bottleneck():
    idle = {"render.draw": StageCost(0.0, 1.0, 1.0), "score.gather": StageCost(0.0, 1.0, 0.0)}
    plan = plan_run(idle, 10, [CPU, GPU], measured="here")
    assert plan.hours == 0 and len(plan.stages) == 2


def test_planning_from_a_catalogue_without_runs_raises(tmp_path):
    write_product(tmp_path / "shoot" / "p")
    command = ["plan", str(tmp_path / "shoot"), "--cluster", str(ROOT / "cluster" / "aws.yaml")]
    reject = reject_row(product_id="p", source="s", uri="u", code="mask.empty", message="", facts=FACTS, now=START)
    commit(Folder.at(str(tmp_path / "c")), {"rejects": [reject]})
    for place, code in (("c", "catalog.run_not_found"), ("none", "catalog.not_found")):
        result = CliRunner().invoke(app, [*command, "--from-run", str(tmp_path / place), "--json"])
        assert json.loads(result.stdout)["error"]["code"] == code


@given(
    st.lists(st.tuples(st.floats(0.01, 30), st.floats(0.2, 4)), min_size=1, max_size=4),
    st.integers(1, 32),
    st.integers(1, 20),
)
def test_all_stages_keep_up_and_no_core_is_assigned_twice(costs, cpus, nodes):
    named = {
        f"package.{name}": StageCost(seconds, cores, 0.0)
        for name, (seconds, cores) in zip(("decode", "mask", "describe", "encode"), costs, strict=False)
    }
    plan = plan_run(named, 100, [NodeGroup("cpu", cpus, 0, nodes, 1.0)], measured="")
    pace = 100 / plan.hours / 3600
    for stage in plan.stages:
        # Workers are whole: half of one more or less than the pace asks for, and never fewer than one.
        assert abs(stage.workers - max(1.0, pace * stage.seconds)) <= 0.5 + 1e-6


def test_the_written_settings_are_valid(tmp_path):
    costs = {"package.mask": StageCost(2.0, 1.0, 0.0), "render.draw": StageCost(6.0, 1.0, 1.0)}
    file = tmp_path / "balanced.yaml"
    file.write_text(yaml.safe_dump(plan_run(costs, 10, [CPU, GPU], measured="").settings()))
    run = load_profile("classic", config_file=file, environment={}).run
    assert (run.mask_workers, run.render_workers, run.max_cpus, run.max_gpus) == (80, 2, 80, 2)
