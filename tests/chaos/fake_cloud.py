"""A Ray cluster on this machine whose autoscaler starts and ends nodes: raylets with the CPUs and GPUs that a test names.

`ray.cluster_utils.AutoscalingCluster` would do, but its configuration is missing in the wheel, and it runs `ray stop --force`,
which ends every Ray process of the machine. This one ends what it started and nothing else.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import psutil

HEAD = "ray.head.default"
STORE_BYTES = 160 * 2**20
MARK = "GAPRAY_FAKE_CLOUD"
MORTAL = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # a pytest that is killed takes its cloud along
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""


class FakeCloud:
    """A head, and node types that the autoscaler may start.

    Args:
        head: Resources of the head, such as ``{"CPU": 0}``.
        node_types: Name -> ``{"resources": {"CPU": 2}, "min_workers": 0, "max_workers": 3}``.
        idle_s: A node that idles longer is ended.
        autoscaler_v2: Which of Ray's two autoscalers.
        environment: Over this process's, for the head and all nodes.
    """

    def __init__(
        self,
        head: dict[str, float],
        node_types: dict[str, dict[str, Any]],
        *,
        idle_s: float = 6,
        autoscaler_v2: bool = True,
        environment: dict[str, str] | None = None,
    ) -> None:
        self._head, self._idle_s, self._v2 = dict(head), idle_s, autoscaler_v2
        self._types = {
            name: {"node_config": {}, "min_workers": 0, "max_workers": 1}
            | one
            | {"resources": one["resources"] | {"object_store_memory": STORE_BYTES}}
            for name, one in node_types.items()
        }
        self._environment = environment or {}
        self._mark = uuid.uuid4().hex
        self._process: subprocess.Popen[bytes] | None = None
        self.address = ""
        # Short, because sockets lie in it and their paths may have 107 characters.
        self.folder = Path(tempfile.mkdtemp(prefix="fc-", dir="/tmp"))

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def nodes(self) -> dict[str, int]:
        """Nodes that are alive, by type; the head is not counted."""
        from ray._raylet import GcsClient
        from ray.autoscaler.v2.sdk import get_cluster_resource_state
        from ray.core.generated.autoscaler_pb2 import NodeStatus

        found = Counter(dict.fromkeys(self._types, 0))
        for node in get_cluster_resource_state(GcsClient(self.address)).node_states:
            if node.status != NodeStatus.DEAD and node.ray_node_type_name in self._types:
                found[node.ray_node_type_name] += 1
        return dict(found)

    def wait_for(self, predicate: Callable[[dict[str, int]], bool], seconds: float) -> dict[str, int]:
        """The nodes, as soon as they are as wanted.

        Raises:
            AssertionError: They never were; with the end of the autoscaler's log.
        """
        end = time.monotonic() + seconds
        while True:
            now = self.nodes()
            if predicate(now):
                return now
            assert self._process is not None and self._process.poll() is None, f"the head ended\n{self.log()}"
            assert time.monotonic() < end, f"still {now} after {seconds} s\n{self.log()}"
            time.sleep(0.3)

    def log(self, lines: int = 40) -> str:
        """The end of the head's output and of the autoscaler's log."""
        files = [self.folder / "head.log", *self.folder.glob("ray/session_latest/logs/monitor.*")]
        return "\n".join(
            f"--- {file.name}\n"
            + "\n".join([line for line in _lines(file) if "Dropping the empty" not in line][-lines:])
            for file in files
            if file.exists()
        )

    def processes(self) -> list[psutil.Process]:
        """All that belongs to this cluster: descendants of the head, and what names its folder or carries its mark."""
        found: dict[int, psutil.Process] = {}
        if self._process is not None:
            with suppress(psutil.NoSuchProcess):
                head = psutil.Process(self._process.pid)
                found = {one.pid: one for one in [head, *head.children(recursive=True)]}
        for one in psutil.process_iter():
            # Workers write their titles over their environment; they are found as children.
            with suppress(psutil.Error):
                names_it = any(str(self.folder / "ray") in word for word in one.cmdline())
                if one.pid != os.getpid() and (names_it or one.environ().get(MARK) == self._mark):
                    found |= {each.pid: each for each in [one, *one.children(recursive=True)]}
        return list(found.values())

    def stop(self) -> None:
        """End this cluster's processes and remove its folder."""
        for _ in range(5):  # a monitor that is being ended may just have started another node
            alive = self.processes()
            if not alive:
                break
            for one in alive:
                with suppress(psutil.Error):
                    one.send_signal(signal.SIGKILL)
            if self._process is not None:
                self._process.wait(20)
            psutil.wait_procs(alive, timeout=10)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _start(self) -> None:
        from ray.autoscaler._private.fake_multi_node.node_provider import FAKE_HEAD_NODE_ID
        from ray.util import get_node_ip_address

        port, client, metrics = free_ports(3)
        ip = get_node_ip_address()
        self.address = f"{ip}:{port}"
        config = {
            "cluster_name": "fake-cloud",
            "max_workers": sum(one["max_workers"] for one in self._types.values()),
            "upscaling_speed": 10.0,
            "idle_timeout_minutes": self._idle_s / 60,
            "provider": {
                # By its module, not as "fake_multinode": for that name Ray reads the defaults that the wheel lacks.
                "type": "external",
                "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
                "gcs_address": self.address,
                "head_node_id": FAKE_HEAD_NODE_ID,
                "launch_multiple": self._v2,  # v1 counts twice what was launched at once, and goes over its maximum
                "use_node_id_as_ip": True,
                "disable_node_updaters": True,
                "disable_launch_config_check": True,
            },
            "available_node_types": self._types
            | {HEAD: {"resources": self._head, "node_config": {}, "max_workers": 0}},
            "head_node_type": HEAD,
            "auth": {},
            "docker": {},
            "file_mounts": {},
            "cluster_synced_files": [],
            "file_mounts_sync_continuously": False,
            "rsync_exclude": [],
            "rsync_filter": [],
            "initialization_commands": [],
            "setup_commands": [],
            "head_setup_commands": [],
            "worker_setup_commands": [],
            "head_start_ray_commands": [],
            "worker_start_ray_commands": [],
        }
        (self.folder / "cloud.json").write_text(json.dumps(config))
        command = [sys.executable, "-c", MORTAL, "-m", "ray.scripts.scripts", "start", "--head", "--block"]
        command += [f"--node-ip-address={ip}", f"--port={port}", f"--ray-client-server-port={client}"]
        command += [f"--temp-dir={self.folder / 'ray'}", f"--autoscaling-config={self.folder / 'cloud.json'}"]
        command += [f"--num-cpus={self._head.get('CPU', 0):g}", f"--num-gpus={self._head.get('GPU', 0):g}"]
        command += [f"--object-store-memory={STORE_BYTES}", "--include-dashboard=false", "--disable-usage-stats"]
        command += ["--min-worker-port=0", "--max-worker-port=0", "--dashboard-agent-listen-port=0"]
        environment = os.environ | {
            MARK: self._mark,
            "AUTOSCALER_METRIC_PORT": str(metrics),
            "AUTOSCALER_UPDATE_INTERVAL_S": "1",
            "RAY_AUTH_MODE": "disabled",
            "RAY_CLOUD_INSTANCE_ID": FAKE_HEAD_NODE_ID,
            "RAY_FAKE_CLUSTER": "1",
            "RAY_OVERRIDE_NODE_ID_FOR_TESTING": FAKE_HEAD_NODE_ID,
            "RAY_enable_autoscaler_v2": "1" if self._v2 else "0",
            "RAY_worker_niceness": "0",
        }
        environment.pop("RAY_ADDRESS", None)
        with (self.folder / "head.log").open("wb") as log:
            self._process = subprocess.Popen(
                command, env=environment | self._environment, stdout=log, stderr=log, start_new_session=True
            )
        end = time.monotonic() + 120
        while True:
            assert self._process.poll() is None and time.monotonic() < end, f"the head did not start\n{self.log()}"
            with suppress(Exception):
                from ray._raylet import GcsClient
                from ray.autoscaler.v2.sdk import get_cluster_resource_state

                with socket.create_connection((ip, port), timeout=1):
                    if get_cluster_resource_state(GcsClient(self.address)).node_states:
                        return
            time.sleep(0.3)


def _lines(file: Path) -> list[str]:
    return file.read_text(errors="replace").splitlines()


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on."""
    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            probe.bind(("", 0))
        return [probe.getsockname()[1] for probe in probes]
    finally:
        for probe in probes:
            probe.close()
