"""What a cluster file promises: node groups with their CPUs, GPUs, largest number and price."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from gapray.errors import ConfigError

PRICE_LABEL = "gapray.io/hour-price"
"""Label of a node type or worker group: what one node costs an hour, in whatever currency the reader thinks in."""


@dataclass(frozen=True)
class NodeGroup:
    """Nodes of one kind."""

    name: str
    cpus: float
    gpus: float
    most: int
    """Nodes of this group at most."""
    hour_price: float | None


def node_groups(path: Path) -> list[NodeGroup]:
    """Worker groups of a `ray up` file or of a RayCluster, RayJob or RayService manifest; the head is none.

    Where a `ray up` file allows fewer workers in all than its types together, the types that stand first get theirs.

    Raises:
        ConfigError: `config.invalid` when the file is neither, or promises no worker.
    """
    try:
        document = yaml.safe_load(path.read_text())
        groups = _up_groups(document) if "available_node_types" in document else _kuberay_groups(document["spec"])
    except (OSError, yaml.YAMLError, LookupError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise ConfigError(
            "config.invalid", f"{path} is no cluster file that can be read: {type(error).__name__}: {error}"
        ) from error
    groups = [group for group in groups if group.most and (group.cpus or group.gpus)]
    if not groups:
        raise ConfigError("config.invalid", f"{path} has no worker with a CPU or GPU")
    return groups


def _up_groups(document: dict[str, Any]) -> list[NodeGroup]:
    found = []
    left = int(document.get("max_workers", 2))  # Ray's own default
    for name, node in document["available_node_types"].items():
        if name == document["head_node_type"]:
            continue
        resources = node.get("resources", {})
        most = min(int(node.get("max_workers", 0)), left)
        left -= most
        price = node.get("labels", {}).get(PRICE_LABEL)
        found.append(NodeGroup(name, resources.get("CPU", 0), resources.get("GPU", 0), most, _price(price)))
    return found


def _kuberay_groups(spec: dict[str, Any]) -> list[NodeGroup]:
    cluster = spec.get("rayClusterSpec") or spec.get("rayClusterConfig") or spec
    found = []
    for group in cluster["workerGroupSpecs"]:
        pod = group["template"]
        asked = pod["spec"]["containers"][0]["resources"]["requests"]
        labels = {**pod.get("metadata", {}).get("labels", {}), **pod.get("metadata", {}).get("annotations", {})}
        cpus, gpus = _quantity(asked.get("cpu", 0)), _quantity(asked.get("nvidia.com/gpu", 0))
        found.append(
            NodeGroup(group["groupName"], cpus, gpus, int(group["maxReplicas"]), _price(labels.get(PRICE_LABEL)))
        )
    return found


def _quantity(text: Any) -> float:
    """A Kubernetes quantity of CPUs: "16" or "250m"."""
    written = str(text)
    return float(written[:-1]) / 1000 if written.endswith("m") else float(written)


def _price(text: Any) -> float | None:
    return None if text is None else float(text)
