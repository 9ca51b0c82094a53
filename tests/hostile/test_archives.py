"""Small zips with far more entries, or far larger tables, than a set of photos can need."""

import io
import struct
import zipfile

import numpy as np
import pytest
from PIL import Image

from gapray.capture.azimuth_table import MAX_TABLE_CELLS
from gapray.capture.capture_set import Reject
from gapray.capture.discover import discover, scan
from gapray.capture.storage import ArchiveLimits
from gapray.capture.tables import MAX_COLUMNS
from gapray.errors import InputError
from gapray.serve.settings import Limits

ALLOWED_MIB = 64
ONE_REQUEST = """
from gapray.capture.azimuths import AzimuthOptions
from gapray.capture.settings import DecodeSettings
from gapray.serve.settings import Limits
from gapray.serve.incoming import IncomingPhoto
from gapray.serve.uploads import prepare_upload
def come(data):
    sent = [IncomingPhoto(data=data)]
    prepare_upload(sent, azimuths=None, options=AzimuthOptions(), limits=Limits(), decode=DecodeSettings())
"""
ONE_SOURCE = """
from gapray.capture.capture_set import Reject
from gapray.capture.discover import scan
from gapray.errors import InputError
def come(path):
    for found in scan(path):
        if isinstance(found, Reject):
            raise InputError(found.code, found.message)
"""


def picture(grey=100):
    sink = io.BytesIO()
    Image.fromarray(np.full((80, 80, 3), grey, np.uint8)).save(sink, "PNG")
    return sink.getvalue()


def write_zip(path, files, names=()):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
        for name in names:
            archive.writestr(name, b"")
    return path


def photos():
    return {f"mug_{angle:03d}.png": picture(angle // 2) for angle in range(0, 360, 45)}


WIDE = b"file,azimuth," + b",".join(b"%03x" % column for column in range(260_000))
TABLES = {
    "many columns": ("capture.csv", WIDE),
    "many columns in an old encoding": ("capture.csv", WIDE + b",\xe9"),
    "many columns behind semicolons": ("capture.csv", WIDE.replace(b",", b";")),
    "many columns behind a separator of its own": ("capture.csv", b"sep=x\n" + WIDE.replace(b",", b"x")),
    "many columns below a title": ("capture.csv", b"a title\n" * 10 + WIDE),
    "many rows": ("capture.csv", b"file,azimuth\n" + b"a,1\n" * 250_000),
    "rows of nothing": ("capture.csv", b"file,azimuth\n" + b"\n" * 1_000_000),
    "old line ends": ("capture.csv", b"file,azimuth\r" + b"\r" * 1_000_000),
    "JSON of empty lists": ("capture.json", b"[" + b"[]," * 1_300_000 + b"[]]"),
    "JSON of many files": ("views.json", b"{" + b",".join(b'"%x":1' % at for at in range(300_000)) + b"}"),
}


@pytest.mark.parametrize("attack", TABLES)
@pytest.mark.parametrize("way", ["request", "batch"])
def test_a_table_is_measured_before_it_is_parsed(tmp_path, cost, attack, way):
    name, table = TABLES[attack]
    path = write_zip(tmp_path / "mug.zip", {**photos(), name: table})
    if way == "request":
        code, message, grown = cost(ONE_REQUEST, "come(Path(sys.argv[1]).read_bytes())", path)
    else:
        code, message, grown = cost(ONE_SOURCE, "come(sys.argv[1])", path)
    assert code == "capture.table_too_large", message
    assert any(str(limit) in message for limit in (MAX_TABLE_CELLS, MAX_COLUMNS, 2**20)), message
    assert grown < ALLOWED_MIB


def test_the_other_products_of_a_batch_are_used(tmp_path):
    for product in ("good", "wide"):
        (tmp_path / product).mkdir()
        for name, data in photos().items():
            (tmp_path / product / name).write_bytes(data)
    (tmp_path / "wide" / "capture.csv").write_bytes(WIDE)
    good, wide = scan(str(tmp_path))
    assert len(good.photos) == 8
    assert isinstance(wide, Reject) and wide.code == "capture.table_too_large"


def test_a_spreadsheet_with_empty_columns_and_rows_is_a_table(tmp_path):
    rows = [f"{name},{name[4:7]}" + "," * 200 for name in photos()] + ["," * 201] * 500
    path = write_zip(tmp_path / "mug.zip", {**photos(), "capture.csv": "\n".join(["file,azimuth" + "," * 200, *rows])})
    [found] = discover(str(path))
    assert [photo.azimuth_deg for photo in found.photos] == [45.0 * step for step in range(8)]


NAMES = {
    "one name in 30,000 folders": ["a/" * 30_000 + "b.png"],
    "backslashes": ["a\\" * 30_000 + "b.png"],
    "long names": [f"{at}/" + "n" * 60_000 for at in range(20)],
    "many files": [f"{at}.png" for at in range(Limits().entries)],
    "many folders": [f"{at}/b/c/d/e/f/g/h/i/j.png" for at in range(Limits().entries // 5)],
}


@pytest.mark.parametrize("attack", NAMES)
def test_an_archive_is_measured_before_its_directory_is_loaded(tmp_path, cost, attack):
    path = write_zip(tmp_path / "mug.zip", photos(), NAMES[attack])
    code, message, grown = cost(ONE_REQUEST, "come(Path(sys.argv[1]).read_bytes())", path)
    assert code == "capture.archive_too_large", message
    assert grown < ALLOWED_MIB


@pytest.mark.parametrize("attack", list(NAMES)[:3])
def test_an_archive_of_many_products_is_measured_too(tmp_path, cost, attack):
    path = write_zip(tmp_path / "mug.zip", photos(), NAMES[attack])
    code, message, grown = cost(ONE_SOURCE, "come(sys.argv[1])", path)
    assert code == "capture.archive_too_large" and str(ArchiveLimits().depth) in message
    assert grown < ALLOWED_MIB


def directory_of(entries):
    """Return a zip whose directory has only empty names, 46 bytes each (APPNOTE.TXT, 4.3.12)."""
    directory = struct.pack("<4s6H3I5H2I", b"PK\x01\x02", *[0] * 16) * entries
    end = struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, 0, 0, len(directory), 4, 0)
    return b"PK\x03\x04" + directory + end


def test_a_directory_of_a_million_entries_is_not_read(tmp_path, cost):
    """48 MB would become a gigabyte of entries, whatever number the end-of-directory record states."""
    path = tmp_path / "mug.zip"
    path.write_bytes(directory_of(1_000_000))
    code, message, grown = cost(ONE_REQUEST, "come(Path(sys.argv[1]).read_bytes())", path)
    assert code == "capture.archive_too_large" and str(256 * Limits().entries) in message
    assert grown < 100 + ALLOWED_MIB, "the upload itself is 46 MB, and once more a file"


def test_photos_that_unpack_to_too_many_bytes_are_not_unpacked(tmp_path, cost):
    packed = {name: data + bytes(30 * 2**20) for name, data in photos().items()}
    path = write_zip(tmp_path / "mug.zip", packed)
    assert path.stat().st_size < 2**20
    code, message, grown = cost(ONE_REQUEST, "come(Path(sys.argv[1]).read_bytes())", path)
    assert code == "request.too_large" and str(Limits().photo_bytes) in message
    assert grown < ALLOWED_MIB


def test_the_pixels_of_all_photos_are_counted():
    from gapray.capture.azimuths import AzimuthOptions
    from gapray.capture.settings import DecodeSettings
    from gapray.serve.incoming import IncomingPhoto
    from gapray.serve.uploads import prepare_upload

    sent = [IncomingPhoto(name=name, data=data) for name, data in photos().items()]
    given = {"azimuths": None, "options": AzimuthOptions(), "decode": DecodeSettings()}
    prepare_upload(sent, limits=Limits(photo_pixels=8 * 6400), **given)
    with pytest.raises(InputError, match="51199") as error:
        prepare_upload(sent, limits=Limits(photo_pixels=8 * 6400 - 1), **given)
    assert error.value.code == "request.too_large"
