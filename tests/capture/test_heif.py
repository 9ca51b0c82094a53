import io

import pillow_heif
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from gapray.capture.heif import read_primary_image

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
def test_damaged_files_raise_nothing(kind, data):
    file = bytearray(FILES[kind])
    for _ in range(data.draw(st.integers(1, 8))):
        file[data.draw(st.integers(0, min(len(file), 700) - 1))] = data.draw(st.integers(0, 255))
    read_primary_image(bytes(file[: data.draw(st.integers(0, len(file)))]))
