"""The hard memory cap: work that exceeds it fails with a code, and its worker and other jobs survive."""

import io
import struct
import zipfile

import pytest
import requests
from PIL import Image

from gapray.capture.decode import decode_photo
from gapray.capture.orientation import pending_transpose
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


PHOTOS = """
from gapray.capture.azimuths import AzimuthOptions
from gapray.capture.decode import check_photo
from gapray.capture.settings import DecodeSettings
from gapray.errors import as_gapray_error
from gapray.serve.memory import cap_memory
from gapray.serve.settings import Limits
from gapray.serve.incoming import IncomingPhoto
from gapray.serve.uploads import prepare_upload
def come(data):
    assert cap_memory(500 * 2**20)
    sent = [IncomingPhoto(data=data)]
    try:
        prepare_upload(sent, azimuths=None, options=AzimuthOptions(), limits=Limits(), decode=DecodeSettings())
    except Exception as error:
        raise as_gapray_error(error)
"""


def test_a_zip_whose_dictionary_exceeds_the_memory_is_not_called_unreadable(tmp_path, cost):
    """An LZMA member states the size of its decoder's dictionary (APPNOTE.TXT, 5.8.8), here 4 GiB."""
    path = tmp_path / "photos.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as archive:
        for angle in range(0, 360, 45):
            archive.writestr(f"mug_{angle:03d}.png", picture(96 + angle))
    data = bytearray(path.read_bytes())
    at = 0
    while (at := data.find(b"PK\3\4", at)) >= 0:
        name, extra = struct.unpack_from("<HH", data, at + 26)
        at += 30 + name + extra
        data[at + 5 : at + 9] = b"\xff" * 4  # after the version and the size of the properties
    path.write_bytes(data)
    code, message, grown = cost(PHOTOS, "come(Path(sys.argv[1]).read_bytes())", path)
    assert code == "job.out_of_memory", message
    assert grown < 64


@pytest.mark.parametrize("kind", ["strips", "pages", "exif"])
def test_a_photo_of_many_parts_takes_no_memory(tmp_path, cost, kind):
    """Pillow makes up to a kilobyte of objects for each part."""
    (tmp_path / "a").write_bytes({"strips": many_strips, "pages": many_pages, "exif": many_segments}[kind]())
    code, _, grown = cost(PHOTOS, "check_photo(Path(sys.argv[1]).read_bytes())", tmp_path / "a")
    assert code in ("image.unsupported", "image.too_many_frames")
    assert grown < 48, grown


def many_strips(count=1_500_000):
    tags = [(256, 4, 1, 128), (257, 4, 1, 128), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1), (273, 4, count, 128)]
    tags += [(277, 3, 1, 1), (278, 4, 1, 1), (279, 4, count, 128 + 4 * count)]
    body = b"II*\0" + struct.pack("<IH", 8, len(tags)) + b"".join(struct.pack("<HHII", *tag) for tag in tags)
    return body.ljust(128, b"\0") + bytes(8 * count)


def many_pages(count=100_000):
    page = [(256, 4, 1, 128), (257, 4, 1, 128), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1), (273, 4, 1, 8)]
    body = struct.pack("<H", len(page)) + b"".join(struct.pack("<HHII", *tag) for tag in page)
    size = len(body) + 4
    return b"II*\0" + struct.pack("<I", 8) + b"".join(body + struct.pack("<I", 8 + size * n) for n in range(1, count))


def many_segments(count=100_000):
    sink = io.BytesIO()
    Image.new("RGB", (96, 96)).save(sink, "JPEG")
    exif = b"\xff\xe1\0\x09Exif\0\0M"
    return sink.getvalue()[:2] + exif * count + sink.getvalue()[2:]


def test_a_decoder_s_lack_of_memory_is_not_called_damage(monkeypatch):
    def fail(_):
        raise OSError("out of memory when reading image file")  # of Pillow's decoders

    data = picture(96)
    monkeypatch.setattr(Image.Image, "load", fail)
    with pytest.raises(MemoryError):
        decode_photo(data)


def test_orientation_is_not_guessed_without_memory(monkeypatch):
    def fail(_):
        raise MemoryError

    monkeypatch.setattr(Image.Image, "getexif", fail)
    with pytest.raises(MemoryError):
        pending_transpose(Image.new("RGB", (96, 96)), b"")


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
