import shutil

import pytest

from gapray.batch.truth import read_truth
from gapray.capture.azimuths import AzimuthOptions
from gapray.capture.discover import DiscoverOptions
from gapray.errors import InputError
from tests.make import write_product

OPTIONS = DiscoverOptions(AzimuthOptions(allow_missing=True))


@pytest.fixture
def source(tmp_path):
    for name in ("cup", "mug", "torn"):
        write_product(tmp_path / name)
    photos = sorted((tmp_path / "torn").iterdir())
    shutil.copy(photos[0], tmp_path / "torn" / f"again_{photos[0].name}")  # two photos of one angle
    (tmp_path / "cup" / "notes.txt").write_text("as shot")
    (tmp_path / "day.xmp").write_text("<x/>")
    return tmp_path


def test_unused_truth_is_reported(source):
    found = read_truth(str(source), OPTIONS)
    assert set(found.photos) == {"cup", "mug"} and len(found.photos["mug"]) == 8
    reject, strange, ignored = found.unused(["mug", "torn"])
    assert reject.startswith(f"truth of torn not used: [{found.rejects['torn'].code}]: ")
    assert strange == "truth of products without a video: cup"
    assert ignored == "truth, ignored: 2 (1 .txt, 1 .xmp)"
    assert len(found.unused(["mug", "cup"])) == 2


def test_photos_without_a_frame_to_compare_are_counted(source):
    found = read_truth(str(source), OPTIONS)
    frames = {"mug": [0.0, 44.0, 90.0, 180.0], "cup": [45.0 * step for step in range(8)]}
    lines = found.unmatched({"mug": [0.2, 180.0], "cup": [359.9]}, frames, 2.0)
    assert lines == [
        "truth photos not compared: 3 at angles that the packages show (cup, mug)",
        "truth photos not compared: 4 farther than 2 degrees from every frame (mug)",
    ]
    assert found.unmatched({}, frames, 2.0) == found.unmatched({"mug": [0.0]}, {}, 2.0) == []


def test_only_the_first_of_many_products_are_named(tmp_path):
    for at in range(12):
        write_product(tmp_path / f"p{at:02d}")
    [line] = read_truth(str(tmp_path), OPTIONS).unused([])
    assert line.endswith("p08, p09 and 2 more")


def test_truth_of_a_missing_product_raises(source):
    found = read_truth(str(source), OPTIONS)
    assert len(found.of("mug")) == 8
    with pytest.raises(InputError) as missing:
        found.of("bottle")
    assert missing.value.code == "capture.no_photos" and "cup, mug" in missing.value.message
    with pytest.raises(InputError) as torn:
        found.of("torn")
    assert torn.value.code == found.rejects["torn"].code


def test_no_source_gives_no_truth():
    found = read_truth(None, OPTIONS)
    assert found.photos == {} and found.unused(["mug"]) == []
