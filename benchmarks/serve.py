"""Measure what the server itself costs: requests/s and latencies with the null engine, and the overhead of a real job.

python benchmarks/serve.py [--seconds 10] [--jobs 3]

Load comes from `wrk` on the loopback, which shares the machine's cores with Ray, the proxy and the replicas. It is bounded: a few
connections, a few thousand requests. Targets for 2 cores: status p50 <= 10 ms and >= 200/s, submission of 8 photos of 1 MB p50
<= 120 ms, refusals at 5 x overload < 50 ms with no accepted job lost, a whole job <= 0.5 s over the direct call.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import cv2
import numpy as np
import requests
import yaml

BOUNDARY = "gapray-benchmark"
SAMPLE = Path(__file__).resolve().parent.parent / "gapray" / "serve" / "page" / "sample"


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--seconds", type=int, default=10, help="duration of each load")
    options.add_argument("--jobs", type=int, default=3, help="number of real jobs, each way")
    options.add_argument("--haproxy", action="store_true", help="run Serve behind HAProxy")
    chosen = options.parse_args()
    rows: list[tuple[str, str]] = []
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        null = {
            "engine": "null",
            "limits": {"queued": 100_000, "queued_per_key": 100_000},
            "jobs": {"running": 8, "poll_s": 0.05},
        }
        with Server(folder / "null", null, haproxy=chosen.haproxy) as server:
            rows += status_and_submit(server, folder, chosen.seconds)
        full = {
            "engine": "null",
            "limits": {"queued": 10, "queued_per_key": 10},
            "jobs": {"running": 1, "poll_s": 0.05},
        }
        with Server(folder / "full", full, haproxy=chosen.haproxy) as server:
            rows += overload(server)
        if chosen.jobs:
            rows += real_jobs(folder, chosen.jobs)
    print(f"\n| {os.cpu_count()} cores, everything on them | |\n| --- | --- |")
    for name, value in rows:
        print(f"| {name} | {value} |")


class Server:
    """`gapray serve` with a key."""

    def __init__(self, folder: Path, settings: dict, *, haproxy: bool = False) -> None:
        folder.mkdir()
        (folder / "serve.yaml").write_text(yaml.safe_dump(settings))
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._folder = folder
        self._env = os.environ | {"GAPRAY_STATE": str(folder / "state"), "RAY_AUTH_MODE": "disabled"}
        if haproxy:
            self._env["RAY_SERVE_ENABLE_HA_PROXY"] = "1"

    def __enter__(self) -> Server:
        words = [sys.executable, "-m", "gapray"]
        made = subprocess.run(
            [*words, "keys", "create", "bench"], env=self._env, capture_output=True, text=True, check=True
        )
        self.key = made.stdout.strip()
        self.headers = {"authorization": f"Bearer {self.key}"}
        serve = [*words, "serve", "--config", str(self._folder / "serve.yaml"), "--port", str(self.port)]
        self._process = subprocess.Popen(serve, env=self._env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        end = time.monotonic() + 180
        while time.monotonic() < end:
            try:
                if requests.get(self.url + "/readyz", timeout=2).status_code == 200:
                    return self
            except requests.RequestException:
                pass
            time.sleep(0.3)
        raise SystemExit("the server did not become ready")

    def __exit__(self, *_: object) -> None:
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(60)

    def pids(self) -> list[int]:
        import psutil

        return [process.pid for process in psutil.Process(self._process.pid).children(recursive=True)]


def multipart(photos: dict[str, bytes]) -> bytes:
    parts = [
        f'--{BOUNDARY}\r\ncontent-disposition: form-data; name="input_reference[]"; filename="{name}"\r\n'
        f"content-type: image/png\r\n\r\n".encode()
        + data
        + b"\r\n"
        for name, data in photos.items()
    ]
    return b"".join(parts) + f"--{BOUNDARY}--\r\n".encode()


def noise(side: int, seed: int) -> bytes:
    """A photo that does not compress."""
    return cv2.imencode(".png", np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8))[1].tobytes()


def photos(side: int) -> dict[str, bytes]:
    return {f"p_{45 * step:03d}.png": noise(side, step) for step in range(8)}


def wrk(
    server: Server, folder: Path, seconds: int, connections: int, path: str, body: bytes | None = None
) -> dict[str, float]:
    """Requests/s and latencies [ms] by wrk; exits if any answer was not 200."""
    lua = [f'wrk.headers["authorization"] = "Bearer {server.key}"']
    if body is not None:
        (folder / "body").write_bytes(body)
        lua += [
            'wrk.method = "POST"',
            f'wrk.headers["content-type"] = "multipart/form-data; boundary={BOUNDARY}"',
            f'local file = io.open("{folder / "body"}", "rb")',
            'wrk.body = file:read("*a")',
        ]
    lua += [
        "done = function(summary, latency, requests)",
        '  io.write(string.format("R %f %f %f %f %d\\n", summary.requests / summary.duration * 1e6,',
        "    latency:percentile(50) / 1e3, latency:percentile(95) / 1e3, latency:percentile(99) / 1e3,",
        "    summary.errors.status + summary.errors.connect + summary.errors.read + summary.errors.timeout))",
        "end",
    ]
    (folder / "load.lua").write_text("\n".join(lua))
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "20s", "-s", str(folder / "load.lua")]
    out = subprocess.run([*command, server.url + path], capture_output=True, text=True, check=True).stdout
    match = re.search(r"^R (\S+) (\S+) (\S+) (\S+) (\d+)$", out, re.MULTILINE)
    assert match, out
    if int(match[5]):
        raise SystemExit(f"{match[5]} answers of {path} were errors:\n{out}")
    return dict(zip(("rate", "p50", "p95", "p99"), map(float, match.groups()[:4]), strict=True))


def as_text(load: dict[str, float]) -> str:
    return f"{load['rate']:.0f}/s, p50 {load['p50']:.1f}, p95 {load['p95']:.1f}, p99 {load['p99']:.1f} ms"


def status_and_submit(server: Server, folder: Path, seconds: int) -> list[tuple[str, str]]:
    small, large = multipart(photos(96)), multipart(photos(590))
    form = {"content-type": f"multipart/form-data; boundary={BOUNDARY}"} | server.headers
    video = requests.post(server.url + "/v1/videos", data=small, headers=form, timeout=20).json()["id"]
    time.sleep(3)
    wrk(server, folder, 3, 4, f"/v1/videos/{video}")  # warms up
    rows = [("GET /healthz, 1 connection", as_text(wrk(server, folder, seconds, 1, "/healthz")))]
    for connections in (1, 2, 4, 16):
        load = wrk(server, folder, seconds, connections, f"/v1/videos/{video}")
        rows.append((f"GET status, {connections} connections", as_text(load)))
    for name, body, connections in (("small photos", small, 4), (f"{len(large) / 2**20:.1f} MiB of photos", large, 1)):
        load = wrk(server, folder, seconds, connections, "/v1/videos", body)
        rows.append((f"POST video, {name}, {connections} connections", as_text(load)))
    return rows


def overload(server: Server) -> list[tuple[str, str]]:
    """Submit five times as many jobs as can be done, from threads; every accepted one must be completed."""
    body = multipart(photos(96))
    form = {"content-type": f"multipart/form-data; boundary={BOUNDARY}"} | server.headers
    accepted: list[str] = []
    refused: list[float] = []
    lock = threading.Lock()
    end = time.monotonic() + 10

    def ask() -> None:
        with requests.Session() as session:
            while time.monotonic() < end:
                began = time.monotonic()
                answer = session.post(server.url + "/v1/videos", data=body, headers=form, timeout=20)
                took = 1000 * (time.monotonic() - began)
                with lock:
                    if answer.status_code == 200:
                        accepted.append(answer.json()["id"])
                    else:
                        assert answer.status_code == 429 and answer.headers["retry-after"], answer.text
                        refused.append(took)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lost = 0
    patience = time.monotonic() + 60
    for video in accepted:
        while time.monotonic() < patience:
            state = requests.get(f"{server.url}/v1/videos/{video}", headers=server.headers, timeout=20).json()["status"]
            if state in ("completed", "failed"):
                break
            time.sleep(0.1)
        lost += state != "completed"
    middle, late = np.percentile(refused, [50, 99]) if refused else (float("nan"),) * 2
    asked = len(accepted) + len(refused)
    return [
        (
            "overload: asked / accepted / accepted but lost",
            f"{asked} / {len(accepted)} / {lost} ({asked / len(accepted):.1f} x)",
        ),
        ("overload: refusal p50, p99", f"{middle:.1f}, {late:.1f} ms"),
    ]


def real_jobs(folder: Path, jobs: int) -> list[tuple[str, str]]:
    """A whole `classic` job over HTTP, and the same steps called directly in this process, in turn."""
    from gapray.serve.jobs import GenerationParams, JobInput
    from gapray.serve.local import LocalWorkers
    from gapray.serve.runpod_handler import local_job
    from gapray.serve.settings import ServeSettings
    from gapray.serve.work import run_job

    files = [("input_reference[]", (path.name, path.read_bytes(), "image/jpeg")) for path in sorted(SAMPLE.iterdir())]
    overrides = ["orbit.size=256", "orbit.voxels=96", "fidelity.leave_out=1"]
    settings = ServeSettings(
        overrides=tuple(overrides), artifacts=str(folder / "direct"), jobs_url="sqlite://", webhook_secret="x"
    )
    workers = LocalWorkers(settings, device="cpu")

    async def silent(stage: str, percent: int) -> None:
        del stage, percent

    over, direct, inside = [], [], []
    with Server(folder / "real", {"overrides": overrides, "jobs": {"poll_s": 0.05}}) as server:
        for index in range(jobs + 1):
            began = time.monotonic()
            video = requests.post(server.url + "/v1/videos", files=files, headers=server.headers, timeout=20).json()[
                "id"
            ]
            while True:
                told = requests.get(f"{server.url}/v1/videos/{video}", headers=server.headers, timeout=20).json()
                if told["status"] in ("completed", "failed"):
                    break
                time.sleep(0.25)  # asking costs CPU too
            assert told["status"] == "completed", told
            took = time.monotonic() - began
            store = server_capture(server, video)
            job = local_job("0" * 32, GenerationParams(), JobInput(capture="capture.zip"))
            workers._packager._artifacts.put("capture.zip", store)
            began = time.monotonic()
            asyncio.run(run_job(job, workers, silent))
            if index:  # the first of each warms up
                over.append(took)
                direct.append(time.monotonic() - began)
                inside.append(took - sum(told["gap"]["seconds"].values()))
    return [
        (
            f"whole job over HTTP / direct, medians of {jobs}",
            f"{statistics.median(over):.2f} / {statistics.median(direct):.2f} s",
        ),
        ("… of it outside the stages (accept, queue, poll)", f"{statistics.median(inside):.2f} s"),
    ]


def server_capture(server: Server, video: str) -> bytes:
    name = video.removeprefix("video_")
    return (server._folder / "state" / "artifacts" / "uploads" / name / "capture.zip").read_bytes()


if __name__ == "__main__":
    main()
