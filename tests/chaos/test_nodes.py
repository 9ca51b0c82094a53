"""A head and three workers as Ray nodes of one machine; `gapray run` while nodes are killed, added and cut off, and the driver dies.

The nodes are hosts in network namespaces of their own, where a link is really taken down; where those need rights that are
lacking, they are those of `ray.cluster_utils.Cluster`, and one is cut off by stopping all its processes (nothing of it answers,
nothing reaches it). Afterwards every product must be there exactly once, with the content of an undisturbed run.
"""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from tests.chaos.common import ENVIRONMENT, Run, assert_same, content, kill_all, tree
from tests.conftest import REQUIRED
from tests.make import write_products

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(900)]

PRODUCTS = 8
CPUS = 2
"""Logical, of a worker. A stage needs two at most, one of them whole on one node."""
STORE_BYTES = 100 * 2**20
KINDS = ("kill a worker", "add two workers", "kill the node of the actors", "cut a node off", "kill the driver")
LOSSES = ("kill a worker", "kill the node of the actors", "cut a node off")
CUT_S = 60
CATALOGS = 3
"""Runs that may be begun until every kind has had its moment."""
HEALTH = {
    "health_check_initial_delay_ms": 1000,
    "health_check_period_ms": 1000,
    "health_check_timeout_ms": 2000,
    "health_check_failure_threshold": 8,
}
"""A node that is cut off is dead to the head after a quarter of a minute; Ray's own are three times that."""
SEED = int(os.environ.get("GAPRAY_CHAOS_SEED", "0")) or random.SystemRandom().randrange(1, 10**6)


class Local:
    """All nodes on this machine's own addresses."""

    prefix = ()

    def __init__(self, folder):
        from ray.cluster_utils import Cluster

        del folder
        head = {"num_cpus": 0, "object_store_memory": STORE_BYTES, "include_dashboard": False}
        self._cluster = Cluster(initialize_head=True, head_node_args=head | {"_system_config": HEALTH})
        self.address = self._cluster.address
        self.workers = []
        self._stopped = []

    def add(self):
        self.workers.append(self._cluster.add_node(num_cpus=CPUS, object_store_memory=STORE_BYTES))
        return self.workers[-1]

    def name(self, worker):
        return worker.node_id[:8]

    def processes(self, worker):
        return [one for info in worker.all_processes["raylet"] for one in tree(info.process.pid)]

    def kill(self, worker):
        self.workers.remove(worker)
        kill_all(self.processes(worker))
        self._cluster.remove_node(worker, allow_graceful=False)

    def cut(self, worker):
        self._stopped = self.processes(worker)
        for process in self._stopped:
            with suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGSTOP)

    def mend(self, worker):
        del worker
        for process in self._stopped:
            with suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGCONT)

    def gone(self, worker):
        return not worker.live_processes()

    def close(self):
        self.mend(None)
        self._cluster.shutdown()


class Namespaces:
    """Each node is a host of its own: a network namespace, behind a bridge that is in another one."""

    def __init__(self, folder):
        self._folder, self._mark, self._count = folder, f"gapray-{os.getpid()}", 0
        self.workers, self._all, self._started = [], [], []
        self._hub = self._namespace("hub")
        self._ip("-n", self._hub, "link", "add", "hub", "type", "bridge")
        self._ip("-n", self._hub, "link", "set", "hub", "up")
        self._head = self._host()
        self.prefix = ("ip", "netns", "exec", self._head)
        self.address = "10.77.0.1:6379"
        self._start(self._head, "--head", "--port=6379", "--num-cpus=0", "--include-dashboard=False")

    def _ip(self, *words):
        subprocess.run(["ip", *words], check=True, capture_output=True, timeout=20)

    def _namespace(self, name):
        self._all.append(f"{self._mark}-{name}")
        self._ip("netns", "add", self._all[-1])
        self._ip("-n", self._all[-1], "link", "set", "lo", "up")
        return self._all[-1]

    def _host(self):
        self._count += 1
        host = self._namespace(str(self._count))
        plug = f"host{self._count}"
        self._ip("-n", self._hub, "link", "add", plug, "type", "veth", "peer", "name", "eth0", "netns", host)
        self._ip("-n", self._hub, "link", "set", plug, "master", "hub", "up")
        self._ip("-n", host, "address", "add", f"10.77.0.{self._count}/24", "dev", "eth0")
        self._ip("-n", host, "link", "set", "eth0", "up")
        return host

    def _start(self, host, *words):
        """`ray start --block` with a folder of its own, until the host is one of the cluster's.

        Ray gives a node 30 s to join, and a busy machine may need more: then it is started again, as a service would.
        """
        number = host.rpartition("-")[2]
        command = ["ip", "netns", "exec", host, str(Path(sys.executable).with_name("ray")), "start", "--block", *words]
        command += [f"--node-ip-address=10.77.0.{number}", f"--object-store-memory={STORE_BYTES}"]
        command += [f"--temp-dir=/tmp/{host}", "--disable-usage-stats"]
        environment = os.environ | ENVIRONMENT | {f"RAY_{name}": str(value) for name, value in HEALTH.items()}
        log = self._folder / f"{host}.log"
        for _ in range(3):
            with log.open("wb") as sink:
                process = subprocess.Popen(command, env=environment, stdout=sink, stderr=sink, start_new_session=True)
            self._started.append(process)
            end = time.monotonic() + 90
            while process.poll() is None and time.monotonic() < end:
                if "Ray runtime started" in log.read_text():
                    return
                time.sleep(0.2)
            kill_all(self.processes(host))
        raise AssertionError(log.read_text()[-3000:])

    def add(self):
        host = self._host()
        self._start(host, f"--address={self.address}", f"--num-cpus={CPUS}")
        self.workers.append(host)
        return host

    def name(self, worker):
        return worker

    def processes(self, worker):
        found = subprocess.run(["ip", "netns", "pids", worker], capture_output=True, text=True, timeout=20, check=True)
        processes = []
        for pid in found.stdout.split():
            with suppress(psutil.NoSuchProcess):
                processes.append(psutil.Process(int(pid)))
        return processes

    def kill(self, worker):
        if worker in self.workers:
            self.workers.remove(worker)
        kill_all(self.processes(worker))

    def _link(self, worker, state):
        self._ip("-n", self._hub, "link", "set", f"host{worker.rpartition('-')[2]}", state)

    def cut(self, worker):
        self._link(worker, "down")

    def mend(self, worker):
        self._link(worker, "up")

    def gone(self, worker):
        return not any("raylet" in process.name() for process in self.processes(worker))

    def close(self):
        for host in reversed(self._all):
            with suppress(subprocess.CalledProcessError):
                self.kill(host)
                self._ip("netns", "delete", host)
            shutil.rmtree(f"/tmp/{host}", ignore_errors=True)
        for process in self._started:
            process.wait(20)


@pytest.fixture(scope="module")
def source(tmp_path_factory, lpips_alex):
    del lpips_alex
    return write_products(tmp_path_factory.mktemp("nodes") / "shoot", PRODUCTS)


@pytest.fixture
def nodes(tmp_path):
    able = os.geteuid() == 0 and shutil.which("ip") is not None and _may_make_namespaces()
    assert able or "netns" not in REQUIRED, "network namespaces need root and iproute2"
    kind = Namespaces if able else Local
    before = dict(os.environ)
    os.environ.update(ENVIRONMENT)
    found = None
    try:
        found = object.__new__(kind)
        found.workers = []
        found.__init__(tmp_path)
        for _ in range(3):
            found.add()
        yield found
    finally:
        if found is not None:
            found.close()
        os.environ.clear()
        os.environ.update(before)


def _may_make_namespaces():
    name = f"gapray-{os.getpid()}-try"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, timeout=20, check=False).returncode == 0
    if made:
        subprocess.run(["ip", "netns", "delete", name], capture_output=True, timeout=20, check=True)
    return made


class Disturber:
    """Does one thing of each kind to the nodes, at random moments."""

    def __init__(self, nodes, calm_s):
        self.nodes, self.random = nodes, random.Random(SEED)
        self.todo = self._order()
        self.moments = sorted(self.random.uniform(0.1, 0.9) * calm_s for _ in self.todo)
        self._cut, self._mend_at = None, 0.0
        self.done = []

    def _order(self):
        """Any in which two workers are always left."""
        while True:
            order, left, least = list(KINDS), 3, 3
            self.random.shuffle(order)
            for kind in order:
                left += -1 if kind in LOSSES else 2 if kind == "add two workers" else 0
                least = min(least, left)
            if least >= 2:
                return order

    @property
    def over(self):
        return not self.todo and self._cut is None

    def next(self, run):
        """Do what is due at this time of a run. True: kill the driver, please."""
        if self._cut is not None and time.monotonic() >= self._mend_at:
            self._mend()
        if not self.todo or run.seconds < self.moments[0]:
            return False
        kind = self.todo[0]
        whole = [worker for worker in self.nodes.workers if worker is not self._cut]
        holder = self._holder(whole)
        if holder is None and kind == "kill the node of the actors":
            return False  # between two stages there are none
        self.todo.pop(0)
        self.moments.pop(0)
        chosen = None
        if kind in LOSSES:
            chosen = holder if kind == "kill the node of the actors" else self.random.choice(whole)
        self._say(run, kind, chosen)
        if kind == "add two workers":
            self.nodes.add()
            self.nodes.add()
        elif kind == "cut a node off":
            self.nodes.cut(chosen)
            self._cut, self._mend_at = chosen, time.monotonic() + CUT_S
        elif kind != "kill the driver":
            self.nodes.kill(chosen)
        return kind == "kill the driver"

    def _holder(self, workers):
        """The node with the most actors of a stage."""
        actors = dict.fromkeys(workers, 0)
        for worker in workers:
            for process in self.nodes.processes(worker):
                with suppress(psutil.NoSuchProcess):
                    actors[worker] += "ray::MapWorker" in " ".join(process.cmdline())
        most = max(actors.values())
        return self.random.choice([worker for worker in workers if actors[worker] == most]) if most else None

    def _mend(self):
        """The network is back. The head has taken the node for dead, so it ends itself, and an operator starts another."""
        self.nodes.mend(self._cut)
        end = time.monotonic() + 60
        while not self.nodes.gone(self._cut) and time.monotonic() < end:
            time.sleep(0.2)
        waited = 60 - (end - time.monotonic())
        ended = self.nodes.gone(self._cut)
        print(f"    network back; the node {'ended itself' if ended else 'is still there'} after {waited:.1f} s")
        self.nodes.kill(self._cut)
        self.nodes.add()
        self._cut = None

    def _say(self, run, kind, worker):
        self.done.append(kind)
        print(f"    {run.seconds:5.1f} s: {kind}{f' ({self.nodes.name(worker)})' if worker is not None else ''}")


def test_nodes_and_driver_come_and_go(nodes, source, tmp_path):
    print(f"\nchaos seed {SEED}: GAPRAY_CHAOS_SEED={SEED} repeats it")
    run = Run(source, tmp_path / "calm", nodes.address, prefix=nodes.prefix)
    summary = run.finish()
    assert summary["package"]["packaged"] == PRODUCTS
    expected, calm_s = content(tmp_path / "calm"), run.seconds
    assert len(expected) == PRODUCTS
    print(f"  undisturbed: {calm_s:.0f} s")
    disturber = Disturber(nodes, calm_s)
    lost = 0.0
    for number in range(CATALOGS):
        if disturber.over:
            break
        catalog = tmp_path / f"disturbed-{number}"
        run = Run(source, catalog, nodes.address, prefix=nodes.prefix)
        began, before = time.monotonic(), len(disturber.done)
        print(f"  run {number}")
        while run.going and run.seconds < 500:
            if disturber.next(run):
                run.kill()
                rest = run.seconds
                run = Run(source, catalog, nodes.address, prefix=nodes.prefix)
                run.began -= rest
            time.sleep(0.1)
        summary = run.finish(30)
        took = time.monotonic() - began
        assert all(one["rejected"] == 0 for name, one in summary.items() if name != "report")
        assert_same(content(catalog), expected)
        lost += took - calm_s
        print(f"  run {number}: {took:.0f} s, of which {took - calm_s:.0f} s lost to {disturber.done[before:]}")
        disturber.moments = [max(0.0, moment - calm_s) for moment in disturber.moments]
    assert not disturber.todo, f"never done: {disturber.todo}"
    print(
        f"seed {SEED}: {len(disturber.done)} disturbances, {lost:.0f} s lost; an undisturbed run takes {calm_s:.0f} s"
    )
