"""`gapray doctor`: checks this machine and reports what is missing or will not work."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass

from gapray.errors import ModelError
from gapray.models.cards import cards_of
from gapray.models.store import cache_root, locate
from gapray.profile import load_profile

MIN_FREE_GB = 10.0
PORTS = {6379: "Ray head", 8265: "Ray dashboard", 8000: "Ray Serve"}


@dataclass(frozen=True)
class CheckResult:
    """Result of one check."""

    check: str
    state: str
    """ok, note or bad."""
    finding: str


def examine() -> list[CheckResult]:
    """Run all checks, none of which changes anything."""
    checks: list[Callable[[], CheckResult]] = [
        _python,
        _torch,
        _gpu,
        _onnxruntime,
        _ray,
        _memory,
        _disk,
        _models,
        _ports,
    ]
    findings = []
    for check in checks:
        try:
            findings.append(check())
        except Exception as error:
            # A broken installation must not stop the other checks: an error is a finding.
            findings.append(CheckResult(check.__name__.strip("_"), "bad", f"{type(error).__name__}: {error}"))
    return findings


def _python() -> CheckResult:
    version = ".".join(map(str, sys.version_info[:3]))
    good = (3, 11) <= sys.version_info[:2] < (3, 14)
    return CheckResult("python", "ok" if good else "bad", f"{version}; 3.11 to 3.13 are supported")


def _torch() -> CheckResult:
    import torch
    import torchvision

    try:
        torch.ops.torchvision.nms  # noqa: B018 - the look-up itself is the check
    except (AttributeError, RuntimeError):
        return CheckResult(
            "torch", "bad", f"torch {torch.__version__} and torchvision {torchvision.__version__} do not match"
        )
    return CheckResult("torch", "ok", f"torch {torch.__version__}, torchvision {torchvision.__version__}")


def _gpu() -> CheckResult:
    import torch

    if not torch.cuda.is_available():
        return CheckResult("gpu", "note", "none; profile classic needs none")
    devices = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    listed = ", ".join(f"{device.name} {device.total_memory / 1e9:.0f} GB" for device in devices)
    return CheckResult("gpu", "ok", listed)


def _onnxruntime() -> CheckResult:
    import onnxruntime

    installed = {name for name in ("onnxruntime", "onnxruntime-gpu") if _version(name)}
    if len(installed) == 2:
        return CheckResult("onnxruntime", "bad", "onnxruntime and onnxruntime-gpu are both installed: keep one")
    return CheckResult(
        "onnxruntime", "ok", f"{onnxruntime.__version__}, {', '.join(onnxruntime.get_available_providers())}"
    )


def _ray() -> CheckResult:
    address = os.environ.get("RAY_ADDRESS")
    return CheckResult(
        "ray", "ok", f"ray {_version('ray')}, " + (f"RAY_ADDRESS={address}" if address else "local cluster")
    )


def _memory() -> CheckResult:
    import psutil

    free, shm = psutil.virtual_memory().available / 1e9, shutil.disk_usage("/dev/shm").free / 1e9  # noqa: S108
    state = "ok" if free >= 4 and shm >= 1 else "note"
    return CheckResult("memory", state, f"{free:.1f} GB free, {os.cpu_count()} cores, /dev/shm {shm:.1f} GB")


def _disk() -> CheckResult:
    root = cache_root()
    existing = next(folder for folder in (root, *root.parents) if folder.exists())
    if not os.access(existing, os.W_OK):
        return CheckResult("disk", "bad", f"{existing} cannot be written to: set GAPRAY_CACHE to a folder for weights")
    free = shutil.disk_usage(existing).free / 1e9
    return CheckResult("disk", "ok" if free >= MIN_FREE_GB else "note", f"{free:.0f} GB free for weights at {root}")


def _models() -> CheckResult:
    try:
        located = [locate(card, fetch=False) for card in cards_of(load_profile("classic").packaging)]
    except ModelError as error:
        return CheckResult("models", "note", f"{error.message}; `gapray models pull classic`")
    return CheckResult(
        "models", "ok", "classic: " + ", ".join(str(path) for card in located for path in card.files.values())
    )


def _ports() -> CheckResult:
    taken = []
    for port, use in PORTS.items():
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                taken.append(f"{port} ({use})")
    return CheckResult(
        "ports", "note" if taken else "ok", "in use: " + ", ".join(taken) if taken else "6379, 8265, 8000 free"
    )


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None
