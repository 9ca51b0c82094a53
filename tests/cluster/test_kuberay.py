"""Kubernetes' manifests against Kubernetes' schemas and ours of ray.io/v1, all offline."""

import copy
import functools
import json
from pathlib import Path

import jsonschema
import kubernetes_validate
import pytest
import yaml

from tests.conftest import ROOT

FOLDER = ROOT / "cluster" / "kuberay"
SCHEMA = json.loads((Path(__file__).parent / "kuberay.schema.json").read_text())
DOCUMENTS = [
    (path.stem, document) for path in sorted(FOLDER.glob("*.yaml")) for document in yaml.safe_load_all(path.read_text())
]
RAY = {document["kind"]: document for _, document in DOCUMENTS if document["apiVersion"].startswith("ray.io")}
LATEST = kubernetes_validate.latest_version()


def check(document):
    """Raises jsonschema's ValidationError, of which kubernetes-validate's is one."""
    if not document["apiVersion"].startswith("ray.io"):
        kubernetes_validate.validate(document, LATEST, strict=True)
        return
    jsonschema.Draft202012Validator(SCHEMA).validate(document)
    for name, template in templates(document):
        assert set(template) <= {"metadata", "spec"}
        pod = {"apiVersion": "v1", "kind": "Pod", **template}
        pod["metadata"] = {"name": name, **template.get("metadata", {})}
        kubernetes_validate.validate(pod, LATEST, strict=True)
    for where, source in sources(document):
        probe = {"name": "probe", "image": "probe", "env": [{"name": where, "valueFrom": source}]}
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "probe"}, "spec": {"containers": [probe]}}
        kubernetes_validate.validate(pod, LATEST, strict=True)


def cluster_of(document):
    spec = document["spec"]
    return spec.get("rayClusterSpec") or spec.get("rayClusterConfig") or spec


def templates(document):
    """The pods of a custom resource: head, workers, submitter."""
    cluster = cluster_of(document)
    yield "head", cluster["headGroupSpec"]["template"]
    for group in cluster.get("workerGroupSpecs", []):
        yield group["groupName"], group["template"]
    if "submitterPodTemplate" in document["spec"]:
        yield "submitter", document["spec"]["submitterPodTemplate"]


def sources(document):
    """Where Redis' credentials come from."""
    for name, credential in cluster_of(document).get("gcsFaultToleranceOptions", {}).items():
        if isinstance(credential, dict) and "valueFrom" in credential:
            yield name, credential["valueFrom"]


def labels_of(document):
    """Each pod's name and labels, with those that KubeRay adds."""
    for name, template in templates(document):
        group = {"head": "headgroup", "submitter": None}.get(name, name)
        yield name, template["metadata"]["labels"] | ({"ray.io/group": group} if group else {})


def selected(selector, labels):
    assert set(selector) == {"matchLabels"}
    return selector["matchLabels"].items() <= labels.items()


@pytest.mark.parametrize(("stem", "document"), DOCUMENTS, ids=[f"{s}-{d['kind']}" for s, d in DOCUMENTS])
def test_each_manifest_fits_its_schema(stem, document):
    check(document)


def test_the_schema_is_one_and_names_its_source():
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert "ray-project/kuberay" in SCHEMA["$comment"] and "Apache-2.0" in SCHEMA["$comment"]
    for name, definition in SCHEMA["$defs"].items():
        assert definition["additionalProperties"] is False, name


def at(document, path):
    return functools.reduce(lambda found, key: found[key], path, document)


def drop(*path):
    return lambda document: at(document, path[:-1]).pop(path[-1])


def put(value, *path):
    return lambda document: at(document, path[:-1]).__setitem__(path[-1], value)


def rename(new, *path):
    def damage(document):
        holder = at(document, path[:-1])
        holder[new] = holder.pop(path[-1])

    return damage


GROUP = ("spec", "workerGroupSpecs", 0)
POD = (*GROUP, "template", "spec")
DAMAGES = {
    "a misspelt field of the cluster": (
        "RayCluster",
        rename("enableInTreeAutoscalling", "spec", "enableInTreeAutoscaling"),
    ),
    "a misspelt field of a group": ("RayCluster", rename("minReplica", *GROUP, "minReplicas")),
    "a field in the wrong place": ("RayCluster", put(600, "spec", "idleTimeoutSeconds")),
    "no groupName": ("RayCluster", drop(*GROUP, "groupName")),
    "no head": ("RayCluster", drop("spec", "headGroupSpec")),
    "no template": ("RayCluster", drop(*GROUP, "template")),
    "a number as a string": ("RayCluster", put("16", *GROUP, "maxReplicas")),
    "a start parameter as a number": ("RayCluster", put(0, "spec", "headGroupSpec", "rayStartParams", "num-cpus")),
    "a string as a number": ("RayCluster", put(2.6, "spec", "rayVersion")),
    "an unknown upscaling mode": ("RayCluster", put("Eager", "spec", "autoscalerOptions", "upscalingMode")),
    "an unknown autoscaler": ("RayCluster", put("v3", "spec", "autoscalerOptions", "version")),
    "an unknown kind of login": ("RayCluster", put("password", "spec", "authOptions", "mode")),
    "a Redis without an address": ("RayCluster", drop("spec", "gcsFaultToleranceOptions", "redisAddress")),
    "a password as it is": ("RayCluster", put("secret", "spec", "gcsFaultToleranceOptions", "redisPassword")),
    "a misspelt secret reference": (
        "RayCluster",
        rename("secretRef", "spec", "gcsFaultToleranceOptions", "redisPassword", "valueFrom", "secretKeyRef"),
    ),
    "a misspelt field of a container": ("RayCluster", rename("volumeMount", *POD, "containers", 0, "volumeMounts")),
    "a misspelt field of a pod": ("RayCluster", rename("volume", *POD, "volumes")),
    "a misspelt field of a volume": ("RayCluster", rename("empty", *POD, "volumes", 0, "emptyDir")),
    "a container without a name": ("RayCluster", drop(*POD, "containers", 0, "name")),
    "a wrong port": (
        "RayCluster",
        put("gcs", "spec", "headGroupSpec", "template", "spec", "containers", 0, "ports", 0, "containerPort"),
    ),
    "a job without an entrypoint": ("RayJob", drop("spec", "entrypoint")),
    "a negative limit": ("RayJob", put(-1, "spec", "backoffLimit")),
    "an unknown way to submit": ("RayJob", put("Mail", "spec", "submissionMode")),
    "a misspelt limit": ("RayJob", rename("backOffLimit", "spec", "backoffLimit")),
    "a misspelt field of the submitter": (
        "RayJob",
        rename("imagePolicy", "spec", "submitterPodTemplate", "spec", "containers", 0, "image"),
    ),
    "a service with a job's cluster": ("RayService", rename("rayClusterSpec", "spec", "rayClusterConfig")),
    "an unknown upgrade": ("RayService", put({"type": "Rolling"}, "spec", "upgradeStrategy")),
    "another version of the interface": ("RayService", put("ray.io/v1alpha1", "apiVersion")),
}
OTHERS = {
    "a policy's misspelt selector": ("NetworkPolicy", rename("podSelectors", "spec", "podSelector")),
    "a policy's wrong port": ("NetworkPolicy", put([{"port": [8000]}], "spec", "ingress", 0, "ports")),
    "a budget's misspelt field": ("PodDisruptionBudget", rename("minAvailabel", "spec", "minAvailable")),
    "a service's wrong port": ("Service", put([{"port": "6379"}], "spec", "ports")),
    "a set without a selector": ("StatefulSet", drop("spec", "selector")),
    "a set's misspelt claim": ("StatefulSet", rename("volumeClaimTemplate", "spec", "volumeClaimTemplates")),
}


@pytest.mark.parametrize("name", DAMAGES | OTHERS)
def test_damaged_manifests_do_not_pass(name):
    kind, damage = (DAMAGES | OTHERS)[name]
    document = copy.deepcopy(next(document for _, document in DOCUMENTS if document["kind"] == kind))
    check(document)
    damage(document)
    with pytest.raises(jsonschema.ValidationError):
        check(document)


def test_all_that_is_asked_for_is_there():
    kinds = {document["kind"] for _, document in DOCUMENTS}
    assert kinds == {
        "RayCluster", "RayJob", "RayService", "StatefulSet", "Service", "NetworkPolicy", "PodDisruptionBudget",
    }  # fmt: skip
    for kind in ("RayCluster", "RayJob"):
        cluster = cluster_of(RAY[kind])
        assert cluster["enableInTreeAutoscaling"] and cluster["autoscalerOptions"]["version"] == "v2"
        cpu, gpu = cluster["workerGroupSpecs"]
        assert gpu["minReplicas"] == 0 < gpu["maxReplicas"], "GPUs cost nothing while nothing waits"
        assert "nvidia.com/gpu" not in json.dumps(cpu) and "nvidia.com/gpu" in json.dumps(gpu)
    redis = RAY["RayCluster"]["spec"]["gcsFaultToleranceOptions"]["redisAddress"]
    [service] = [document for _, document in DOCUMENTS if document["kind"] == "Service"]
    assert redis == f"redis://{service['metadata']['name']}:{service['spec']['ports'][0]['port']}"


@pytest.mark.parametrize("kind", RAY)
def test_each_node_keeps_its_caches_on_a_volume(kind):
    for name, template in templates(RAY[kind]):
        if name != "submitter":
            [container] = template["spec"]["containers"]
            assert {"name": "cache", "mountPath": "/cache"} in container["volumeMounts"], name
            assert "cache" in [volume["name"] for volume in template["spec"]["volumes"]], name


def test_the_server_s_workers_are_probed_without_wget():
    """KubeRay probes them by wget, even where Ray's own health endpoint serves for all other pods (Ray >= 2.53)."""
    for group in cluster_of(RAY["RayService"])["workerGroupSpecs"]:
        [container] = group["template"]["spec"]["containers"]
        assert container["readinessProbe"]["httpGet"] == {"path": "/-/healthz", "port": 8000}
    for document in RAY.values():
        assert tuple(map(int, cluster_of(document)["rayVersion"].split(".")[:2])) >= (2, 53)


def test_a_budget_never_blocks_a_drain_for_ever():
    """RayCluster has no scale subresource, so only a whole `minAvailable` counts; and each group can fall below it."""
    budgets = [document["spec"] for _, document in DOCUMENTS if document["kind"] == "PodDisruptionBudget"]
    covered = set()
    for budget in budgets:
        assert "maxUnavailable" not in budget and type(budget["minAvailable"]) is int
        assert budget["unhealthyPodEvictionPolicy"] == "AlwaysAllow", "a worker that never gets ready holds nothing"
        for kind, document in RAY.items():
            groups = {group["groupName"]: group for group in cluster_of(document)["workerGroupSpecs"]}
            for name, labels in labels_of(document):
                if selected(budget["selector"], labels):
                    assert kind != "RayService" and name in groups, "single pods: heads, submitter, the server's worker"
                    covered.add((kind, name))
                    assert groups[name]["maxReplicas"] > budget["minAvailable"], "another can take its place"
                    ends = "activeDeadlineSeconds" in document["spec"] and document["spec"]["shutdownAfterJobFinishes"]
                    assert groups[name]["minReplicas"] < budget["minAvailable"] or ends, (
                        "it goes when idle, or in the end"
                    )
    assert covered == {(kind, name) for kind in ("RayCluster", "RayJob") for name in ("cpu", "gpu-80gb")}


def test_no_port_is_public_and_calls_out_are_allowed():
    policies = {d["metadata"]["name"]: d["spec"] for _, d in DOCUMENTS if d["kind"] == "NetworkPolicy"}
    for policy in policies.values():
        assert "Ingress" in policy["policyTypes"]
        for rule in policy["ingress"]:
            assert rule["from"], "a rule without a sender is for everybody"
            for sender in rule["from"]:
                assert "ipBlock" not in sender and all(sender.values()), "no addresses, no empty selector"
                assert "podSelector" in sender or rule["ports"], "other namespaces reach named ports only"
    assert policies["gapray"]["egress"] == [{}] and "Egress" in policies["gapray"]["policyTypes"]
    for kind, document in RAY.items():
        for name, labels in labels_of(document):
            assert selected(policies["gapray"]["podSelector"], labels), f"{kind}: {name}"
            assert selected(policies["gapray-server"]["podSelector"], labels) == (kind == "RayService")
        text = json.dumps(document)
        assert not any(
            word in text for word in ("hostNetwork", "hostPort", "NodePort", "LoadBalancer", "enableIngress")
        )
    for _, document in DOCUMENTS:
        if document["kind"] == "Service":
            assert document["spec"].get("type", "ClusterIP") == "ClusterIP"


def test_redis_is_for_gapray_alone():
    policies = {d["metadata"]["name"]: d["spec"] for _, d in DOCUMENTS if d["kind"] == "NetworkPolicy"}
    [redis] = [document for _, document in DOCUMENTS if document["kind"] == "StatefulSet"]
    labels = redis["spec"]["template"]["metadata"]["labels"]
    [policy] = [policy for policy in policies.values() if selected(policy["podSelector"], labels)]
    assert policy["ingress"] == [
        {"from": [{"podSelector": {"matchLabels": {"app": "gapray"}}}], "ports": [{"protocol": "TCP", "port": 6379}]}
    ]
    assert "--requirepass" in redis["spec"]["template"]["spec"]["containers"][0]["args"]
