"""Photos that are rotated against the others of their set, or show another product."""

import numpy as np
import pytest

from gapray.gap.package import GapPackage
from gapray.inspect.doubts import with_warnings
from gapray.inspect.odd import find_outliers
from tests import make

ANGLES = range(0, 360, 45)
NAMES = [f"mug_{angle:03d}.png" for angle in ANGLES]


def drawn(angle, seed=0):
    """A slab whose upper third has another colour, and its mask."""
    photo = make.photo(angle, seed=seed).copy()
    mask = ((np.abs(photo.astype(int) - 235).max(-1) > 20) * 255).astype(np.uint8)
    top = np.zeros(mask.shape, bool)
    top[: photo.shape[0] * 2 // 5] = True
    photo[top & (mask > 0)] = np.random.default_rng(seed + 99).integers(20, 200, 3)
    return photo, mask


def set_of(**changed):
    """Eight views, of which `changed` replaces some, by index as text."""
    views = [drawn(angle) for angle in ANGLES]
    for index, view in changed.items():
        views[int(index[1:])] = view
    return views


def turned(view, turns):
    return tuple(np.ascontiguousarray(np.rot90(image, turns)) for image in view)


def found(views):
    return [(item.code, *item.files) for item in find_outliers(NAMES[: len(views)], *zip(*views, strict=True))]


@pytest.mark.parametrize("seed", range(3))
def test_photos_as_they_are(seed):
    assert found([drawn(angle, seed) for angle in ANGLES]) == []
    assert found([drawn(angle, seed) for angle in range(0, 360, 90)]) == []


@pytest.mark.parametrize("index", range(8))
@pytest.mark.parametrize("turns", [1, 2, 3])
def test_a_turned_photo_is_named(index, turns):
    assert found(set_of(**{f"_{index}": turned(drawn(45 * index), turns)})) == [("photo.turned", NAMES[index])]


def test_the_rotation_is_reported():
    says = {1: "counter-clockwise", 2: "upside down", 3: "quarter turn clockwise"}
    for turns, words in says.items():
        [item] = find_outliers(NAMES, *zip(*set_of(_3=turned(drawn(135), turns)), strict=True))
        assert words in item.message and "upright" in item.instruction


@pytest.mark.parametrize("index", range(8))
def test_a_photo_of_another_product_is_named(index):
    assert found(set_of(**{f"_{index}": drawn(45 * index, seed=5)})) == [("photo.other_product", NAMES[index])]


def test_three_photos_give_no_findings():
    assert found([drawn(0), drawn(90), turned(drawn(180), 2)]) == []


def packaged(views):
    blank = make.package("mug").views
    size = views[0][1].shape
    return GapPackage(
        "mug", "k", tuple(
            make.GapView(
                name, 45.0 * step, "", "", photo, mask, (mask > 0).astype(np.uint16), np.zeros(size, np.uint8),
                blank[step].identity, blank[step].quality,
            )
            for step, (name, (photo, mask)) in enumerate(zip(NAMES, views, strict=True))
        ), 1.0, 0.0, {},
    )  # fmt: skip


def test_a_package_is_inspected():
    """`gapray package`, `render` and responses to requests give one line per photo, with an instruction."""

    def warnings(views):
        return list(with_warnings(packaged(views)).messages)

    assert warnings(set_of()) == []
    [line] = warnings(set_of(_3=turned(drawn(135), 2)))
    assert line.startswith("mug_135.png: ") and "upside down" in line and "upright" in line
    [line] = warnings(set_of(_6=drawn(270, seed=5)))
    assert line.startswith("mug_270.png: ") and "another product" in line
    same = [
        tuple(np.clip(image.astype(int) + (step % 2), 0, 255).astype(np.uint8) for image in drawn(0))
        for step in range(8)
    ]
    copies = warnings(same)
    assert len(copies) == 7 and all("both files show one picture" in line for line in copies)
    assert {warning.code for warning in with_warnings(packaged(same)).warnings} == {"azimuth.duplicate"}


def test_a_package_is_inspected_only_once():
    seen = with_warnings(packaged(set_of(_3=turned(drawn(135), 2))))
    assert with_warnings(seen) is seen
    empty = packaged([(photo, mask * (step > 0)) for step, (photo, mask) in enumerate(set_of())])
    assert with_warnings(empty) is empty, "what draws it says that the mask is empty"
