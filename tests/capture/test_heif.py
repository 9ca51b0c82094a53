import io
import struct

import pillow_heif
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from gapray.capture.heif import MAX_EXIF_BYTES, read_primary_image
from gapray.errors import InputError

pillow_heif.register_heif_opener()


def saved(kind):
    exif = Image.Exif()
    exif[0x010F] = "a maker"
    exif[0x0112] = 6
    sink = io.BytesIO()
    Image.new("RGB", (64, 48), "red").save(sink, kind, exif=exif.tobytes())
    return sink.getvalue()


FILES = {kind: saved(kind) for kind in ("HEIF", "AVIF")}


@pytest.mark.parametrize("kind", FILES)
def test_properties_and_exif_of_the_primary_picture(kind):
    primary = read_primary_image(FILES[kind])
    properties = dict(primary.properties)
    assert {b"ispe", b"irot", b"colr"} <= set(properties) and properties[b"colr"][:4] == b"nclx"
    exif = Image.Exif()
    exif.load(b"Exif\0\0" + primary.exif)
    assert exif[0x010F] == "a maker"


@pytest.mark.parametrize("kind", FILES)
@given(data=st.data())
def test_damaged_files_raise_nothing_else(kind, data):
    """A table may say, when it is damaged, that the file has more of something than any photo has."""
    file = bytearray(FILES[kind])
    for _ in range(data.draw(st.integers(1, 8))):
        file[data.draw(st.integers(0, min(len(file), 700) - 1))] = data.draw(st.integers(0, 255))
    try:
        read_primary_image(bytes(file[: data.draw(st.integers(0, len(file)))]))
    except InputError as error:
        assert error.code == "image.unsupported"


def box(kind, content, *, full=True):
    return struct.pack(">I4s", len(content) + (12 if full else 8), kind) + bytes(4 if full else 0) + content


def with_items(sizes, entries):
    """A file whose item 2 is Exif; `sizes` are the first two bytes of ``iloc``, `entries` its (item, extents) pairs."""
    item = box(b"infe", struct.pack(">HH4sx", 2, 0, b"Exif"))
    item = item[:8] + b"\2" + item[9:]
    located = b"".join(struct.pack(">HHH", owner, 0, len(extents)) + b"".join(extents) for owner, extents in entries)
    parts = box(b"pitm", b"\0\1") + box(b"iprp", box(b"ipco", b"", full=False) + box(b"ipma", bytes(4)), full=False)
    parts += box(b"iinf", b"\0\1" + item) + box(b"iloc", sizes + struct.pack(">H", len(entries)) + located)
    return box(b"ftyp", b"heic", full=False) + box(b"meta", parts)


@pytest.mark.parametrize(
    ("what", "file"),
    [
        ("extents", with_items(b"\0\0", [(1, [b""] * 60_000)] * 2_000)),
        ("Exif", with_items(b"\x44\0", [(2, [struct.pack(">II", 0, MAX_EXIF_BYTES // 2)] * 3)])),
        ("metadata", box(b"ftyp", b"heic", full=False) + box(b"meta", bytes(2**20))),
        ("boxes", box(b"ftyp", b"heic", full=False) + box(b"free", b"", full=False) * 5_000),
    ],
)
def test_tables_that_no_photo_has_are_refused(what, file):
    """Extents of no bytes could be as many as 2^16 for each of 2^16 items, and any number of extents may be the whole file."""
    with pytest.raises(InputError, match=what) as error:
        read_primary_image(file)
    assert error.value.code == "image.unsupported"
