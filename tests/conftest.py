"""What all tests share. `GAPRAY_REQUIRE=classic-weights,…` turns the skips of what is named into failures."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings

os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
# Two processes run tests on two cores (Makefile): more threads than cores only wait for each other.
ONE_THREAD = {"GAPRAY_SET_RUN__WORKER_THREADS": "1"}
os.environ.update(ONE_THREAD)
# What a mirror lacks is looked for on the hub, six times with pauses where there is no network; no test wants to reach it.
os.environ.setdefault("HF_HUB_OFFLINE", "1")

# How long an example takes says nothing on a machine that does other things as well.
settings.register_profile("gapray", deadline=None)
settings.load_profile("gapray")

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared"
REQUIRED = {name.strip() for name in os.environ.get("GAPRAY_REQUIRE", "").split(",") if name.strip()}


def need(name: str, there: bool, reason: str) -> None:
    """Skip a test for what this machine lacks, or fail where it was promised."""
    if there:
        return
    if name in REQUIRED:
        pytest.fail(f"{name} is required here: {reason}")
    pytest.skip(reason)


@pytest.fixture(scope="session")
def samples() -> Path:
    return ROOT / "samples"


@pytest.fixture(scope="session")
def spins() -> Path:
    folder = SHARED / "data" / "spins"
    need("spins", folder.is_dir(), "the photo sets are not on this machine")
    return folder


@pytest.fixture(scope="session")
def classic_weights() -> Path:
    from gapray.errors import ModelError
    from gapray.models.cards import card_named
    from gapray.models.store import locate

    try:
        located = locate(card_named("u2netp"), fetch=False)
    except ModelError as error:
        need("classic-weights", False, f"{error.message}; run `gapray models pull classic`")
        raise
    return located.files["u2netp.onnx"]


@pytest.fixture(scope="session")
def lpips_alex():
    """LPIPS with its real trunk."""
    from gapray.errors import ModelError
    from gapray.fidelity.lpips import Lpips

    try:
        return Lpips("alex")
    except ModelError as error:
        need("classic-weights", False, f"{error.message}; run `gapray models pull classic`")
        raise


@pytest.fixture(scope="session")
def mask_network(classic_weights):
    from gapray.models.load import load_mask
    from gapray.profile import load_profile

    return load_mask(load_profile("classic", environment={}).packaging, threads=2)


@pytest.fixture(scope="session")
def chromium():
    """A page of a real headless browser."""
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    need("chromium", found is not None, "no Chromium on this machine")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def ffmpeg():
    """Runs FFmpeg's own programs, another build than the library in PyAV: arguments -> what it prints."""
    need("ffmpeg", bool(shutil.which("ffmpeg") and shutil.which("ffprobe")), "no ffmpeg on this machine")

    def run(*command: object, given: bytes = b"") -> bytes:
        done = subprocess.run([str(part) for part in command], input=given, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout

    return run


@pytest.fixture(scope="session")
def ray_cluster():
    """One Ray for all tests that need one."""
    import ray

    if not ray.is_initialized():
        ray.init(
            num_cpus=2,
            object_store_memory=400 * 2**20,
            include_dashboard=False,
            log_to_driver=False,
            _temp_dir=tempfile.mkdtemp(prefix="ray-"),
        )
    yield ray
    folder = ray._private.worker._global_node.get_session_dir_path()
    ray.shutdown()
    shutil.rmtree(Path(folder).parent, ignore_errors=True)
