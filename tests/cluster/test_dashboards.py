"""Rules and dashboard ask only for metrics and labels that somebody exports."""

import json
import re
import shutil
import subprocess
from importlib import resources

import promql_parser as promql
import pytest
import yaml

from gapray.batch.metrics import METRICS
from tests.conftest import ROOT

RULES_FILE = ROOT / "cluster" / "prometheus" / "gapray-rules.yaml"
PROMETHEUS = ROOT / "cluster" / "prometheus" / "prometheus.yml"
DASHBOARD = json.loads((ROOT / "cluster" / "grafana" / "gapray.json").read_text())
RULES = [rule for group in yaml.safe_load(RULES_FILE.read_text())["groups"] for rule in group["rules"]]
ALERTS = [rule for rule in RULES if "alert" in rule]
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
TARGETS = [(panel["title"], target) for panel in PANELS for target in panel["targets"]]

SCRAPED = {"instance", "job"}
FROM_WORKERS = SCRAPED | {"Component", "NodeAddress", "SessionName", "Version", "WorkerId"}
FROM_AGENTS = SCRAPED | {"ip", "Version", "SessionName", "IsHeadNode", "RayNodeType"}
GPUS = FROM_AGENTS | {"GpuDeviceName", "GpuIndex", "GpuUuid"}
RAYS_OWN = {
    "ray_memory_manager_worker_eviction_total": FROM_WORKERS | {"Name", "Type"},
    "ray_node_cpu_utilization": FROM_AGENTS,
    "ray_node_gpus_available": GPUS,
    "ray_node_gpus_utilization": GPUS,
    "ray_node_gram_used": GPUS,
    "ray_node_manager_unexpected_worker_failure_total": FROM_WORKERS | {"Name", "Type"},
    "ray_node_mem_total": FROM_AGENTS,
    "ray_node_mem_used": FROM_AGENTS,
    "ray_object_store_memory": FROM_WORKERS | {"Location", "ObjectState"},
    "ray_resources": FROM_WORKERS | {"Name", "State"},
}
"""Those that we use, with the labels that a node of Ray 2.60 exposes."""


def series(kind, name, labels):
    """The names under which Prometheus holds a metric."""
    if kind != "histogram":
        return {name: labels}
    return {f"{name}_bucket": labels | {"le"}, f"{name}_sum": labels, f"{name}_count": labels}


def servers_own():
    """Of gapray serve, as its registry describes them."""
    from gapray.serve.http.native import Metrics

    found = {}
    kept = Metrics()
    for metric, held in ((vars(kept)[name], name) for name in vars(kept) if name != "registry"):
        [family] = metric.describe()
        name = f"{family.name}_total" if family.type == "counter" else family.name
        found |= series(family.type, name, SCRAPED | set(metric._labelnames))
        assert held in {"requests", "seconds", "jobs"}
    return found


def known():
    found = {"up": SCRAPED} | RAYS_OWN | servers_own()
    for name, metric in METRICS.items():
        found |= series(metric.kind, f"ray_{name}", FROM_WORKERS | set(metric.tags))
    return found


KNOWN = known()


def labels_of(expression, names):
    """The labels of an expression's result; AssertionError where it asks for metrics or labels that are not."""
    match type(expression).__name__:
        case "VectorSelector":
            assert expression.name in names, f"nobody exports {expression.name}"
            labels = names[expression.name]
            asked = {matcher.name for matcher in expression.matchers.matchers}
            assert asked <= labels, f"{expression.name} has no {asked - labels}"
            return labels
        case "MatrixSelector":
            return labels_of(expression.vector_selector, names)
        case "NumberLiteral" | "StringLiteral":
            return None
        case "ParenExpr" | "UnaryExpr" | "SubqueryExpr":
            return labels_of(expression.expr, names)
        case "Call":
            inner = [labels_of(argument, names) for argument in expression.args]
            [labels] = [found for found in inner if found is not None]
            if expression.func.name == "histogram_quantile":
                assert "le" in labels, "a quantile needs le"
                return labels - {"le"}
            return labels
        case "AggregateExpr":
            labels = labels_of(expression.expr, names)
            if expression.modifier is None:
                return set()
            asked = set(expression.modifier.labels)
            assert asked <= labels, f"no {asked - labels} to group by"
            return asked if "By" in str(expression.modifier.type) else labels - asked
        case "BinaryExpr":
            left, right = labels_of(expression.lhs, names), labels_of(expression.rhs, names)
            matching = expression.modifier and expression.modifier.matching
            if left is None or right is None:
                return left if right is None else right
            if matching:
                asked = set(matching.labels)
                assert asked <= left and asked <= right, f"no {asked} on both sides"
            else:
                assert left - SCRAPED == right - SCRAPED or left == right, f"{left} never meet {right}"
            return left
    raise AssertionError(type(expression).__name__)


def parsed(text):
    """Grafana's own variables stand for durations."""
    return promql.parse(re.sub(r"\$__\w+", "5m", text))


def recorded():
    """What rules record, each seen with the ones before it."""
    names = dict(KNOWN)
    for rule in RULES:
        if "record" in rule:
            names[rule["record"]] = labels_of(parsed(rule["expr"]), names)
    return names


NAMES = recorded()


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.get("alert") or rule["record"])
def test_rules_ask_for_what_there_is(rule):
    labels = labels_of(parsed(rule["expr"]), NAMES)
    annotations = " ".join(rule.get("annotations", {}).values())
    assert set(re.findall(r"\$labels\.(\w+)", annotations)) <= labels


@pytest.mark.parametrize(("title", "target"), TARGETS, ids=[f"{title}-{t['refId']}" for title, t in TARGETS])
def test_panels_ask_for_what_there_is(title, target):
    labels = labels_of(parsed(target["expr"]), NAMES)
    assert set(re.findall(r"{{\s*(\w+)\s*}}", target["legendFormat"])) <= labels


@pytest.mark.parametrize(
    "text",
    [
        "ray_gapray_products",
        "gapray_products_total",
        'ray_gapray_queue_depth{stage="package.mask"}',
        "sum by (code) (rate(ray_gapray_products_total[5m]))",
        "histogram_quantile(0.9, sum by (stage) (rate(ray_gapray_stage_seconds_bucket[5m])))",
        "sum by (kind) (ray_gapray_queue_depth) / on (stage) sum by (kind) (ray_gapray_views_total)",
        "gapray:queue_depth:sum / gapray:gpu_busy:share10m",
        "rate(gapray_http_request_seconds[5m])",
        "ray_node_mem_usage",
    ],
)
def test_the_check_can_fail(text):
    with pytest.raises(AssertionError):
        labels_of(parsed(text), NAMES)


def test_every_metric_of_a_run_and_of_the_server_is_shown():
    text = RULES_FILE.read_text() + json.dumps(DASHBOARD)
    for name in [f"ray_{name}" for name in METRICS] + [
        "gapray_jobs",
        "gapray_http_requests",
        "gapray_http_request_seconds",
    ]:
        assert name in text, name


def test_ray_s_own_metrics_are_in_its_wheel():
    """Named by the agent that exports them, or by Ray's own dashboards."""
    from ray.dashboard.modules.reporter.reporter_agent import METRICS_GAUGES

    panels = resources.files("ray.dashboard.modules.metrics.dashboards") / "default_dashboard_panels.py"
    shown = set(re.findall(r"\bray_\w+", panels.read_text()))
    for name in RAYS_OWN:
        assert name.removeprefix("ray_") in METRICS_GAUGES or name in shown, name


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"])
def test_an_alert_says_what_to_do(alert):
    assert alert["labels"]["severity"] in {"warning", "critical"}
    assert set(alert["annotations"]) == {"summary", "description"}
    assert len(alert["annotations"]["summary"]) > 20 and len(alert["annotations"]["description"]) > 60
    for path in re.findall(r"\b(?:docs|cluster|serve_configs)/[\w./-]*\w", alert["annotations"]["description"]):
        assert (ROOT / path).exists(), path


def test_names_are_unique():
    for kind in ("alert", "record"):
        names = [rule[kind] for rule in RULES if kind in rule]
        assert len(names) == len(set(names))
    budget = (ROOT / "cluster" / "kuberay" / "poddisruptionbudget.yaml").read_text()
    for text in (budget, json.dumps(DASHBOARD), RULES_FILE.read_text()):
        for name in re.findall(r"\b(?:Gapray|Ray(?!Cluster|Job|Service))[A-Z]\w+", text):
            assert name in {alert["alert"] for alert in ALERTS} | {"RayNodeType"}, name


def test_prometheus_scrapes_ray_and_the_server():
    config = yaml.safe_load(PROMETHEUS.read_text())
    jobs = {job["job_name"]: job for job in config["scrape_configs"]}
    assert config["rule_files"] == [RULES_FILE.name]
    assert jobs["ray"]["file_sd_configs"] == [{"files": ["/tmp/ray/prom_metrics_service_discovery.json"]}]
    assert jobs["gapray-serve"]["metrics_path"] == "/metrics"
    assert "credentials_file" in jobs["gapray-serve"]["authorization"], (
        "/metrics asks for a key; no secret in a file of ours"
    )
    for rule in ALERTS:
        for job in re.findall(r'job="([^"]+)"', rule["expr"]):
            assert job in jobs


def test_panels_are_whole():
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(ids) == len(set(ids))
    titles = [panel["title"] for panel in DASHBOARD["panels"]]
    assert len(titles) == len(set(titles)) and all(titles)
    assert titles[0] == "Batch" and [p["title"] for p in DASHBOARD["panels"] if p["type"] == "row"] == [
        "Batch", "Stages", "Fidelity", "Server", "Ray",
    ]  # fmt: skip
    for panel in PANELS:
        assert panel["fieldConfig"]["defaults"]["unit"] and len(panel["description"]) > 15, panel["title"]
        assert panel["targets"] and all(target["expr"].strip() for target in panel["targets"]), panel["title"]
        refs = [target["refId"] for target in panel["targets"]]
        assert len(refs) == len(set(refs))


def test_panels_do_not_lie_on_each_other():
    taken = {}
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24 and place["w"] > 0 < place["h"]
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                assert (x, y) not in taken, f"{panel['title']} lies on {taken[x, y]}"
                taken[x, y] = panel["title"]


def test_the_data_source_is_chosen_by_whoever_imports_the_dashboard():
    [variable] = DASHBOARD["templating"]["list"]
    assert (variable["name"], variable["type"], variable["query"]) == ("datasource", "datasource", "prometheus")
    assert set(re.findall(r'"uid": "([^"]*)"', json.dumps(DASHBOARD))) == {"${datasource}"}
    assert "id" not in DASHBOARD and "uid" not in DASHBOARD


CASES = """
rule_files: [{rules}]
evaluation_interval: 1m
tests:
  - interval: 1m
    input_series:
      - {{series: 'ray_gapray_queue_depth{{kind="package", WorkerId="a"}}', values: '100x60'}}
      - {{series: 'ray_gapray_products_total{{kind="package", state="finished", WorkerId="a"}}', values: '5+1x20 25x40'}}
      - {{series: 'ray_gapray_queue_depth{{kind="render", WorkerId="b"}}', values: '100x60'}}
      - {{series: 'ray_gapray_products_total{{kind="render", state="finished", WorkerId="b"}}', values: '_x30 8x30'}}
      - {{series: 'ray_gapray_model_load_seconds_bucket{{stage="render.load", WorkerId="b", le="100"}}', values: '0x60'}}
      - {{series: 'ray_gapray_model_load_seconds_bucket{{stage="render.load", WorkerId="b", le="300"}}', values: '1x60'}}
      - {{series: 'ray_gapray_model_load_seconds_bucket{{stage="render.load", WorkerId="b", le="+Inf"}}', values: '1x60'}}
      - {{series: 'ray_memory_manager_worker_eviction_total{{instance="n1", Name="f"}}', values: '_x40 1x20'}}
    promql_expr_test:
      - {{expr: 'count(ALERTS{{alertname="GaprayRunStalled", kind="package", alertstate="firing"}})', eval_time: 30m}}
      - expr: 'count(ALERTS{{alertname="GaprayRunStalled", kind="package", alertstate="firing"}})'
        eval_time: 40m
        exp_samples: [{{value: 1}}]
      - expr: 'count(ALERTS{{alertname="GaprayRunStalled", kind="render", alertstate="firing"}})'
        eval_time: 25m
        exp_samples: [{{value: 1}}]
      - {{expr: 'count(ALERTS{{alertname="GaprayRunStalled", kind="render", alertstate="firing"}})', eval_time: 40m}}
      - expr: 'count(ALERTS{{alertname="GaprayModelLoadSlow", alertstate="firing"}})'
        eval_time: 20m
        exp_samples: [{{value: 1}}]
      - {{expr: 'count(ALERTS{{alertname="RayWorkersKilledForMemory"}})', eval_time: 39m}}
      - expr: 'count(ALERTS{{alertname="RayWorkersKilledForMemory", alertstate="firing"}})'
        eval_time: 45m
        exp_samples: [{{value: 1}}]
      - {{expr: 'count(ALERTS{{alertname="RayWorkersKilledForMemory"}})', eval_time: 58m}}
"""
"""A run that stops after 20 minutes; one whose first products come after half an hour; a slow load; a worker that is killed."""


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool (Debian: prometheus) is not here")
def test_promtool_finds_nothing_and_alerts_ring_when_they_should(tmp_path):
    (tmp_path / "cases.yaml").write_text(CASES.format(rules=RULES_FILE))
    for command in (
        ["check", "rules", str(RULES_FILE)],
        ["check", "config", "--syntax-only", str(PROMETHEUS)],
        ["test", "rules", str(tmp_path / "cases.yaml")],
    ):
        done = subprocess.run(["promtool", *command], capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
