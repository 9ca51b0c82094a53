"""The hard memory cap: work that exceeds it fails with a code, and its worker and other jobs survive."""

import io

import pytest
import requests
from PIL import Image

from gapray.errors import InputError, as_gapray_error, is_out_of_memory
from gapray.serve.http.context import Context
from gapray.serve.jobs import GenerationParams, JobInput, NewJob
from tests.chaos.test_serve import Server
from tests.hostile.test_videos import grey_mp4
from tests.serve.conftest import TINY, running, settings_in
from tests.serve.test_deletion import until

CAP_MIB = 100
CAPPED = f"""
import cv2, torch
import numpy as np
from gapray.capture.decode import decode_photo
from gapray.capture.settings import DecodeSettings
from gapray.errors import as_gapray_error, is_out_of_memory
from gapray.serve.memory import cap_memory
from gapray.video.decode import read_frames
def capped(work, *given):
    small = Path(sys.argv[2]).read_bytes()
    decode_photo(small)
    assert cap_memory({CAP_MIB} * 2**20)
    try:
        work(*given)
    except Exception as error:
        decode_photo(small)  # the process is still usable
        raise as_gapray_error(MemoryError() if is_out_of_memory(error) else error)
    return "all was done"
"""
WORK = {
    "a photo": "decode_photo, Path(sys.argv[1]).read_bytes()",
    "a video": "lambda: read_frames(Path(sys.argv[1]), max_frames=96, side=1024)",
    "bytes": "bytes, 2**28",
    "an array": "np.ones, 2**28, np.uint8",
    "a tensor": "lambda: torch.ones(2**28, dtype=torch.uint8)",
    "OpenCV": "cv2.resize, np.zeros((9, 9, 3), np.uint8), (16384, 16384)",
}


def picture(side):
    sink = io.BytesIO()
    Image.new("RGB", (side, side), "grey").save(sink, "PNG")
    return sink.getvalue()


@pytest.mark.parametrize("what", WORK)
def test_work_beyond_the_cap_fails_with_a_code_and_the_process_survives(tmp_path, cost, what):
    (tmp_path / "small.png").write_bytes(picture(96))
    large = tmp_path / "large"
    if what == "a video":
        grey_mp4(tmp_path / "a.mp4", 4096, 2304, 40).rename(large)
    elif what == "a photo":
        large.write_bytes(picture(7700))
        assert large.stat().st_size < 2**20
    code, message, grown = cost(CAPPED, f"capped({WORK[what]})", large, tmp_path / "small.png")
    assert code == "job.out_of_memory", message
    assert grown < 2 * CAP_MIB, grown  # the cap, and libraries that are loaded before it


def test_other_errors_keep_their_code():
    assert not is_out_of_memory(ValueError("no photo")) and not is_out_of_memory(None)
    assert not is_out_of_memory(InputError("request.invalid", "the product id 'bad_alloc' is none"))
    wrapped = InputError("image.truncated", "the pixels cannot be decoded")
    wrapped.__cause__ = MemoryError()
    assert is_out_of_memory(wrapped) and as_gapray_error(wrapped) is wrapped


def test_an_out_of_memory_job_is_retried_and_then_fails_with_its_code(tmp_path):
    """Another job in the same worker may have used the memory."""
    context = Context.of(settings_in(tmp_path, jobs={"poll_s": 0.02, "lease_s": 2, "attempts": 3}))
    tried = []

    async def do(job, report):
        tried.append((job.id, job.attempt))
        if job.id == greedy.id or job.attempt == 1:
            raise as_gapray_error(MemoryError())
        return {"files": {}}

    greedy, neighbour = (
        context.store.submit(
            NewJob(owner=owner, api="native", kind="package", making=GenerationParams(), input=JobInput()),
            max_queued=9,
            keep_s=60,
        )
        for owner in ("greedy", "neighbour")
    )
    with running(context, do):
        until(lambda: all(context.store.get(job.id, None).final for job in (greedy, neighbour)), 60)
    failed, done = (context.store.get(job.id, None) for job in (greedy, neighbour))
    assert (failed.status, failed.error_code) == ("failed", "job.out_of_memory") and done.status == "completed"
    assert [attempt for job_id, attempt in tried if job_id == greedy.id] == [1, 2, 3]
    assert [attempt for job_id, attempt in tried if job_id == neighbour.id] == [1, 2]


@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_worker_survives_a_job_that_exceeds_the_cap(tmp_path, photos):
    settings = {
        "overrides": [*TINY, "decode.max_pixels=200000000"],  # a limit that is too high
        "packager": {"ongoing": 2, "memory_bytes": 300 * 2**20},
        "stylist": None,
        "jobs": {"attempts": 2},
    }
    server = Server(tmp_path / "server", settings=settings)
    keys = {name: {"authorization": f"Bearer {server.key(name)}"} for name in ("greedy", "neighbour")}
    server.start()
    try:
        until(lambda: server.pids(":packager"))
        [worker] = server.pids(":packager")

        def package(who, views):
            form = [("input_reference[]", (name, data, "image/png")) for name, data in views.items()]
            asked = requests.post(f"{server.url}/v1/packages?wait=200", files=form, headers=keys[who], timeout=220)
            return asked.json()

        large = picture(13_000)  # 484 MiB decoded
        greedy = package("greedy", dict.fromkeys(photos, large))
        assert (greedy["status"], greedy["error"]["code"]) == ("failed", "job.out_of_memory"), greedy
        done = package("neighbour", photos)
        assert done["status"] == "completed", done
        assert server.pids(":packager") == [worker]
    finally:
        server.stop()
