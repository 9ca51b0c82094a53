"""Parsing of cluster files: node groups with their CPUs, GPUs, maximum number of nodes and price."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from gapray.errors import ConfigError

PRICE_LABEL = "gapray.io/hour-price"
"""Label of a node type or worker group with the price of one node per hour, in any currency."""


@dataclass(frozen=True)
class NodeGroup:
    """A group of identical nodes."""

    name: str
    cpus: float
    gpus: float
    max_nodes: int
    """Maximum number of nodes of this group."""
    hour_price: float | None


def node_groups(path: Path) -> list[NodeGroup]:
    """Return the worker groups of a `ray up` file or of a RayCluster, RayJob or RayService manifest, without the head.

    If a `ray up` file allows fewer workers in total than its node types together, the first types take precedence.

    Raises:
        ConfigError: `config.invalid` if the file is neither, or has no workers.
    """
    try:
        document = yaml.safe_load(path.read_text())
        groups = _up_groups(document) if "available_node_types" in document else _kuberay_groups(document["spec"])
    except (OSError, yaml.YAMLError, LookupError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise ConfigError(
            "config.invalid", f"{path} is no cluster file that can be read: {type(error).__name__}: {error}"
        ) from error
    groups = [group for group in groups if group.max_nodes and (group.cpus or group.gpus)]
    if not groups:
        raise ConfigError("config.invalid", f"{path} has no worker with a CPU or GPU")
    return groups


def _up_groups(document: dict[str, Any]) -> list[NodeGroup]:
    groups = []
    remaining = int(document.get("max_workers", 2))  # 2 is Ray's default
    for name, node in document["available_node_types"].items():
        if name == document["head_node_type"]:
            continue
        resources = node.get("resources", {})
        max_nodes = min(int(node.get("max_workers", 0)), remaining)
        remaining -= max_nodes
        price = node.get("labels", {}).get(PRICE_LABEL)
        groups.append(NodeGroup(name, resources.get("CPU", 0), resources.get("GPU", 0), max_nodes, _price(price)))
    return groups


def _kuberay_groups(spec: dict[str, Any]) -> list[NodeGroup]:
    cluster = spec.get("rayClusterSpec") or spec.get("rayClusterConfig") or spec
    groups = []
    for group in cluster["workerGroupSpecs"]:
        pod = group["template"]
        requests = pod["spec"]["containers"][0]["resources"]["requests"]
        labels = {**pod.get("metadata", {}).get("labels", {}), **pod.get("metadata", {}).get("annotations", {})}
        cpus, gpus = _quantity(requests.get("cpu", 0)), _quantity(requests.get("nvidia.com/gpu", 0))
        groups.append(
            NodeGroup(group["groupName"], cpus, gpus, int(group["maxReplicas"]), _price(labels.get(PRICE_LABEL)))
        )
    return groups


def _quantity(value: Any) -> float:
    """Parse a Kubernetes quantity such as "16" or "250m"."""
    text = str(value)
    return float(text[:-1]) / 1000 if text.endswith("m") else float(text)


def _price(text: Any) -> float | None:
    return None if text is None else float(text)
