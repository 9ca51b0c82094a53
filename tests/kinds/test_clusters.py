"""Connecting a run to Ray and ending it: addresses, `uv run`, signals."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import psutil
import pytest

from gapray.errors import REMEDIES
from tests.conftest import ROOT
from tests.make import write_products

JOIN = """
import json, sys, time
from gapray.ray_session import connected
from gapray.errors import GaprayError
result = {}
for address in json.loads(sys.argv[1]):
    started = time.monotonic()
    try:
        with connected(address):
            result[address] = ["joined", "", 0.0]
    except GaprayError as error:
        result[address] = [error.code, error.message, time.monotonic() - started]
print("result " + json.dumps(result))
"""
SCHEMES = ["http://127.0.0.1:8265", "https://cluster.example", "redis://127.0.0.1:6379", "HTTP://127.0.0.1:8265"]
FORMS = ["127.0.0.1", "127.0.0.1:ray", ":6379", "ray://", "ray://127.0.0.1", "[::1]", "nobody.invalid:6379"]


def outside(command, tmp_path, **more):
    """Run code in a separate Python that knows no cluster on this machine."""
    environment = os.environ | {"RAY_TMPDIR": str(tmp_path), "PYTHONPATH": str(ROOT)} | more
    return subprocess.run(
        [sys.executable, *command], env=environment, capture_output=True, text=True, check=False, cwd=tmp_path
    )


def test_an_address_that_leads_to_no_cluster_has_a_code(tmp_path):
    """Wrong schemes, malformed addresses, no cluster on this machine, a head that is gone."""
    with socket.socket() as gone:
        gone.bind(("127.0.0.1", 0))
        port = gone.getsockname()[1]
    addresses = [*SCHEMES, *FORMS, f"127.0.0.1:{port}", f"ray://127.0.0.1:{port}"]
    if not any(process.name() == "gcs_server" for process in psutil.process_iter()):
        addresses.append("auto")  # Ray looks for a cluster among the processes of the machine
    done = outside(["-c", JOIN, json.dumps(addresses)], tmp_path)
    [line] = [line for line in done.stdout.splitlines() if line.startswith("result ")]
    result = json.loads(line.removeprefix("result "))
    assert {address: code for address, (code, _, _) in result.items()} == dict.fromkeys(
        addresses, "cluster.unreachable"
    )
    assert all(address in message for address, (_, message, _) in result.items())
    assert "Traceback" not in done.stderr
    assert "gapray submit" in REMEDIES["cluster.unreachable"] and "RAY_ADDRESS" in REMEDIES["cluster.unreachable"]


def test_a_head_that_takes_connections_and_never_answers_has_a_code(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as mute:
        address = f"127.0.0.1:{mute.getsockname()[1]}"
        done = outside(["-c", JOIN, json.dumps([address])], tmp_path)
    [line] = [line for line in done.stdout.splitlines() if line.startswith("result ")]
    assert json.loads(line.removeprefix("result "))[address][0] == "cluster.unreachable"


HOMELESS = """
import os, ray
from gapray.ray_session import connected
with connected(None):
    print("result", ray.get(ray.remote(lambda: 7).remote()), "RAY_AUTH_TOKEN" in os.environ)
"""


def test_a_user_without_a_home_has_a_cluster_with_a_token_of_its_own():
    """As in containers on OpenShift: Ray would store its token in the home folder."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")}
    environment = kept | {"PYTHONPATH": str(ROOT), "HOME": "/proc/none"}
    done = subprocess.run(
        [sys.executable, "-c", HOMELESS], env=environment, capture_output=True, text=True, check=False
    )
    assert "result 7 False" in done.stdout, (done.stdout, done.stderr)


BELOW_UV = """
import sys, subprocess
raise SystemExit(subprocess.run([sys.argv[2], *sys.argv[3:]]).returncode)
"""
RUNTIME = """
import json, ray, signal
from gapray.ray_session import connected
def mine(number, frame): pass
signal.signal(signal.SIGTERM, mine)
with connected(None):
    kept = signal.getsignal(signal.SIGTERM) is mine
    print("result " + json.dumps({"kept": kept, "env": dict(ray.get_runtime_context().runtime_env)}))
"""


def test_below_uv_run_workers_are_the_driver_s_own(tmp_path):
    """Ray detects `uv run` by the command lines of its parent processes; here one claims to be it, and is a Python."""
    (tmp_path / "run").write_text(BELOW_UV)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    environment.pop("RAY_ENABLE_UV_RUN_RUNTIME_ENV", None)
    command = ["uv", "run", "--no-project", sys.executable, "-c", RUNTIME]
    done = subprocess.run(command, executable=sys.executable, env=environment, capture_output=True, text=True, check=False, cwd=tmp_path)  # fmt: skip
    [line] = [line for line in done.stdout.splitlines() if line.startswith("result ")] or [""]
    assert line, done.stderr
    result = json.loads(line.removeprefix("result "))
    assert "working_dir" not in result["env"] and "py_executable" not in result["env"]
    assert result["kept"], "a caller's handler of SIGTERM outlives `ray.init`"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_terminated_run_says_so_and_stops_ray(tmp_path, number, code):
    write_products(tmp_path / "shoot", 40)
    command = [sys.executable, "-m", "gapray", "package", str(tmp_path / "shoot"), "--out", str(tmp_path / "c")]
    for role in ("mask", "depth", "identity"):
        command += ["--set", f"{role}.model=null-model"]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"} | {
        "PYTHONPATH": str(ROOT)
    }
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as run:
        mine = psutil.Process(run.pid)
        children: list[psutil.Process] = []
        while run.poll() is None and not any("raylet" in process.name() for process in children):
            time.sleep(0.1)
            children = mine.children(recursive=True)
        time.sleep(1.0)
        children = mine.children(recursive=True)
        run.send_signal(number)
        _, err = run.communicate(timeout=120)
    assert run.returncode == code, err
    assert "stopped; run the same command again" in err and "Traceback" not in err
    gone, alive = psutil.wait_procs(children, timeout=100)
    assert len(gone) >= 3 and not alive
    [record] = [json.loads(path.read_text()) for path in (tmp_path / "c" / "runs").glob("*.json")]
    assert (record["state"], record["error"]["code"]) == ("failed", "stopped")
