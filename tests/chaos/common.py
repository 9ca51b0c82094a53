"""What the tests of whole clusters share: a tiny source, `gapray run` on it, and what the catalogue then holds."""

import hashlib
import json
import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil

from gapray.catalog.reader import Catalog
from gapray.catalog.storage import Folder
from gapray.video.decode import read_frames
from tests.conftest import ROOT

GIVEN, FRAMES = 4, 8
"""Photos of eight that the generator sees; the other four are the truth, so that scoring draws nothing anew."""
SETTINGS = (
    "mask.model=null-model",
    "depth.model=null-model",
    "identity.model=null-model",
    "orbit.size=96",
    "orbit.voxels=32",
    "orbit.flow=false",
    "orbit.refine_camera=false",
    "orbit.engine=morph",
    "fidelity.size=64",
    "fidelity.native=false",
    "fidelity.baselines=false",
    "run.products_per_part=1",
    "run.products_per_block=1",
    "run.videos_per_part=1",
    "run.mask_workers=1",
    "run.describe_workers=1",
    "run.encode_workers=1",
    "run.render_workers=2",
)
SMALL = ("--frames", str(FRAMES), "--given", str(GIVEN), *(f"--set={setting}" for setting in SETTINGS))
"""Flags of `gapray run`: small pictures, no networks but LPIPS, a part a product, few actors (each imports for seconds)."""
ENVIRONMENT = {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0", "OMP_WAIT_POLICY": "passive"}
"""Threads of many processes on few cores sleep while they wait, instead of keeping the others from working."""


class Run:
    """`gapray run` in a process of its own."""

    def __init__(self, source: Path, catalog: Path, address: str, *more: str, prefix: tuple[str, ...] = ()):
        self.log = catalog.with_suffix(".log")
        command = [*prefix, sys.executable, "-m", "gapray", "run", str(source), "--out", str(catalog)]
        with self.log.open("ab") as sink:
            self.process = subprocess.Popen(
                [*command, "--address", address, "--json", *SMALL, *more],
                cwd=ROOT,
                env=os.environ | ENVIRONMENT,
                stdout=subprocess.PIPE,
                stderr=sink,
                start_new_session=True,
            )
        self.began = time.monotonic()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.began

    @property
    def going(self) -> bool:
        return self.process.poll() is None

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate(timeout=30)

    def finish(self, limit_s: float = 500) -> dict:
        """Its summary; a run that fails or stands still is an error with what it said."""
        try:
            out, _ = self.process.communicate(timeout=limit_s)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"stands still after {limit_s} s: {self.said}") from None
        assert self.process.returncode == 0, f"exit code {self.process.returncode}: {out.decode()[-2000:]} {self.said}"
        return json.loads(out)

    @property
    def said(self) -> str:
        return self.log.read_text(errors="replace")[-4000:]


def content(catalog: Path) -> dict[str, tuple[str, str, dict[float, float]]]:
    """Product -> hash of its decoded package, hash of its decoded video, LPIPS by angle; and that all is there once."""
    opened = Catalog(Folder.at(str(catalog)))
    names = opened.products()["product_id"].to_pylist()
    assert names == sorted(set(names))
    assert not opened.rejects().num_rows
    # Parts hold one product here: work done twice replaces its own file, so that nothing is there twice on the disk either.
    for table in ("products", "videos", "verdicts"):
        assert sorted(opened.dataset(table).to_table(columns=["product_id"])["product_id"].to_pylist()) == names, table
    assert opened.dataset("views").count_rows() == GIVEN * len(names)
    found = {}
    for name in names:
        package = opened.package(name)
        views = hashlib.sha256(package.key.encode())
        for view in package.views:
            views.update(str(view.azimuth_deg).encode())
            for image in (view.reference, view.mask, view.depth, view.canny, view.identity):
                views.update(image.tobytes())
        [video] = opened.videos(name).to_pylist()
        [mp4] = [file for file in video["files"] if file.endswith(".mp4")]
        frames = hashlib.sha256()
        for frame in read_frames(catalog / mp4):
            frames.update(frame.tobytes())
        scores = opened.scores(name).to_pylist()
        lpips = {row["azimuth_deg"]: row["lpips"] for row in scores}
        assert len(lpips) == len(scores)
        found[name] = (views.hexdigest(), frames.hexdigest(), lpips)
    return found


def assert_same(found: dict, expected: dict) -> None:
    assert set(found) == set(expected)
    for name, (views, frames, lpips) in expected.items():
        assert found[name][:2] == (views, frames), name
        assert set(found[name][2]) == set(lpips), name
        for angle, value in lpips.items():
            assert abs(found[name][2][angle] - value) <= 1e-6, (name, angle)


def tree(pid: int) -> list[psutil.Process]:
    """A process and all below it that live."""
    with suppress(psutil.NoSuchProcess):
        top = psutil.Process(pid)
        return [top, *top.children(recursive=True)]
    return []


def kill_all(processes: list[psutil.Process]) -> None:
    """At once, as a machine that loses its power."""
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(processes, timeout=20)
