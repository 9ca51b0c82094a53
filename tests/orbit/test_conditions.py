"""Whole orbits: of a drawn solid with known ground truth, and of the samples."""

import dataclasses

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gapray.errors import InputError
from gapray.gap.package import GapPackage
from gapray.geometry.camera import OrbitCamera
from gapray.orbit.conditions import FARTHEST, build_conditions
from gapray.orbit.settings import OrbitSettings
from tests import make
from tests.geometry import scenes

SMALL = OrbitSettings(size=128, voxels=64, framing="photo", engine="morph")


def solid_package(solid=scenes.letter, camera=OrbitCamera(18, 0.2, 0.03, 0.0), azimuths=scenes.EIGHT, size=128):
    masks, _, photos = scenes.shoot(solid, camera, azimuths, size)
    views = tuple(
        dataclasses.replace(make.view(azimuth), reference=photo, mask=mask, depth=np.zeros_like(mask, np.uint16))
        for azimuth, photo, mask in zip(azimuths, photos, masks, strict=True)
    )
    return GapPackage("solid", "k", views, 1.0, 0.0, {"mask": "m", "depth": "hull@1", "canny": "c", "identity": "i"})


@pytest.fixture(scope="module")
def conditions():
    return build_conditions(solid_package(), SMALL)


def test_shapes_types_and_ranges(conditions):
    assert conditions.depth.shape == conditions.silhouette.shape == conditions.visibility.shape == (24, 128, 128)
    assert conditions.initial.shape == (24, 128, 128, 3) and conditions.references.shape == (8, 128, 128, 3)
    assert conditions.depth.dtype == np.float32 and conditions.initial.dtype == np.uint8
    inside = conditions.depth > 0
    assert conditions.depth[inside].min() == pytest.approx(FARTHEST) and conditions.depth.max() == pytest.approx(1)
    assert (conditions.silhouette[inside] > 0).mean() > 0.99
    assert conditions.key_frames == tuple(range(0, 24, 3))


def test_captured_angles_show_the_photo_itself(conditions):
    for frame, view in enumerate(conditions.key_views):
        if view is not None:
            assert np.array_equal(conditions.initial[frame], conditions.references[view])


def test_frames_in_between_beat_the_nearest_photo(conditions):
    camera = OrbitCamera(18, 0.2, 0.03, 0.0)
    ours, nearest = [], []
    for frame, azimuth in enumerate(conditions.azimuths_deg):
        if conditions.key_views[frame] is not None:
            continue
        mask, _, photo = scenes.look(scenes.letter, camera, azimuth, 128)
        truth = np.where(mask[..., None] > 0, photo, 255).astype(float)
        near = int(np.argmax(conditions.weights[frame]))
        ours.append(np.abs(conditions.initial[frame] - truth).mean())
        nearest.append(np.abs(conditions.references[near] - truth).mean())
    assert len(ours) == 16
    assert np.mean(ours) < 0.45 * np.mean(nearest)
    assert all(a < b for a, b in zip(ours, nearest, strict=True))


def test_the_turn_is_even_and_its_loop_closes(conditions):
    frames = conditions.initial.astype(float)
    steps = np.array([np.abs(frames[(index + 1) % 24] - frames[index]).mean() for index in range(24)])
    assert steps[-1] < 1.5 * np.median(steps)
    assert steps.max() < 2.5 * np.median(steps) and steps.min() > 0


def test_the_calibration_is_reported(conditions):
    found = conditions.calibration
    assert found.direction == 1 and found.elevation_deg == pytest.approx(18, abs=4)
    assert min(found.reprojection_iou) > 0.95 and conditions.warnings == ()


def test_clockwise_photos_are_detected():
    package = solid_package(camera=OrbitCamera(18, 0.2, 0.0, 0.0, -1))
    found = build_conditions(package, SMALL)
    assert found.calibration.direction == -1
    assert "clockwise" in found.warnings[0]


def test_the_direction_of_a_round_product_is_found_by_its_colours():
    package = solid_package(scenes.cylinder, OrbitCamera(0, 0.0, 0.0, 0.0, -1))
    assert build_conditions(package, SMALL).calibration.direction == -1


def test_a_bad_mask_is_named():
    package = solid_package()
    wrong = package.views[3].mask.copy()
    wrong[:64] = 0
    views = list(package.views)
    views[3] = dataclasses.replace(views[3], mask=wrong, name="third.jpg")
    found = build_conditions(dataclasses.replace(package, views=tuple(views)), SMALL)
    assert any("third.jpg" in warning for warning in found.warnings)


def test_missing_views_widen_the_gap_but_do_not_stop():
    package = solid_package(azimuths=[0.0, 45.0, 90.0, 180.0, 225.0, 270.0, 315.0])
    found = build_conditions(package, SMALL)
    assert found.key_views[9] is None  # 135 degrees
    assert np.allclose(found.weights[9, [2, 3]], 0.5)


def test_custom_background():
    found = build_conditions(solid_package(), SMALL.model_copy(update={"background": "#102030", "frames": 3}))
    assert (found.initial[1][0, 0] == (16, 32, 48)).all()


def test_too_few_views_are_refused():
    package = solid_package()
    with pytest.raises(InputError) as error:
        build_conditions(dataclasses.replace(package, views=package.views[:2]), SMALL)
    assert error.value.code == "orbit.too_few_views"
    empty = dataclasses.replace(package.views[0], mask=np.zeros_like(package.views[0].mask))
    with pytest.raises(InputError) as error:
        build_conditions(dataclasses.replace(package, views=(empty, *package.views[1:])), SMALL)
    assert error.value.code == "mask.too_small"


@pytest.mark.parametrize("product", ["mug"])
def test_samples_are_rendered_near_their_hidden_photos(samples, product):
    """With exact masks, and with exact depth: the best that a depth network could give."""
    exact = samples / "truth" / product
    views, depths = [], []
    for azimuth in scenes.EIGHT:
        name = f"{product}_{azimuth:03.0f}.jpg"
        photo = cv2.imread(str(samples / "captures" / product / name))[..., ::-1]
        mask = cv2.imread(str(exact / f"mask_{azimuth:03.0f}.png"), cv2.IMREAD_GRAYSCALE)
        depths.append(cv2.imread(str(exact / f"depth_{azimuth:03.0f}.png"), cv2.IMREAD_UNCHANGED))
        views.append(dataclasses.replace(make.view(azimuth), reference=np.ascontiguousarray(photo), mask=mask))
    low = min(depth[depth > 0].min() for depth in depths)
    high = max(depth.max() for depth in depths)
    errors = {}
    for model in ("hull@1", "exact@1"):
        near = [np.where(depth > 0, 1 + (high - depth.astype(float)) / (high - low) * 65534, 0) for depth in depths]
        made = tuple(
            dataclasses.replace(view, depth=depth.astype(np.uint16)) for view, depth in zip(views, near, strict=True)
        )
        package = GapPackage(product, "k", made, 1, 0, {"mask": "m", "depth": model, "canny": "c", "identity": "i"})
        azimuths = [15.0, 105.0, 210.0, 330.0]
        settings = OrbitSettings(size=160, voxels=80, framing="photo", engine="morph")
        found = build_conditions(package, settings, azimuths_deg=azimuths)
        wrong = []
        for frame, azimuth in enumerate(azimuths):
            photo = cv2.imread(str(samples / "held_out" / product / f"{product}_{azimuth:03.0f}.jpg"))[..., ::-1]
            mask = cv2.imread(str(exact / f"mask_{azimuth:03.0f}.png"), cv2.IMREAD_GRAYSCALE)
            truth = cv2.resize(np.where(mask[..., None] > 0, photo, 255).astype(np.uint8), (160, 160), interpolation=3)
            wrong.append(np.abs(found.initial[frame].astype(float) - truth).mean())
            ious = (found.silhouette[frame] > 127) & (cv2.resize(mask, (160, 160)) > 127)
            assert ious.sum() / ((found.silhouette[frame] > 127) | (cv2.resize(mask, (160, 160)) > 127)).sum() > 0.94
        errors[model] = np.mean(wrong)
    assert errors["hull@1"] < 6
    assert errors["exact@1"] < errors["hull@1"]


def masked(boxes, size=64):
    """A package of views whose masks are boxes: top, bottom, left, right [pixels] by azimuth."""
    views = []
    for azimuth, (top, bottom, left, right) in boxes.items():
        mask = np.zeros((size, size), np.uint8)
        mask[top:bottom, left:right] = 255
        views.append(dataclasses.replace(make.view(azimuth, size=size), mask=mask))
    return GapPackage("boxes", "k", tuple(views), 1.0, 0.0, {})


@pytest.mark.parametrize(
    ("boxes", "framing", "code"),
    [
        # No part of the product is in all of these.
        ([(19, 25, 42, 43), (14, 64, 2, 52), (36, 38, 6, 56), (1, 51, 10, 11)] * 2, "photo", "orbit.empty_hull"),
        # One pixel, far from where the others put the product.
        ([(5, 6, 26, 27), (8, 58, 20, 23), (58, 61, 2, 22), (9, 59, 10, 60)], "product", "mask.too_small"),
    ],
)
def test_masks_that_leave_nothing_have_an_error_code(boxes, framing, code):
    azimuths = [360 * step / len(boxes) for step in range(len(boxes))]
    with pytest.raises(InputError) as error:
        build_conditions(
            masked(dict(zip(azimuths, boxes, strict=True))),
            OrbitSettings(size=64, voxels=32, framing=framing, engine="morph"),
        )
    assert error.value.code == code


@given(st.lists(st.tuples(*[st.integers(0, 63), st.sampled_from([1, 3, 20])] * 2), min_size=3, max_size=5))
@settings(max_examples=15, deadline=None)
def test_any_masks_give_an_orbit_or_an_error_code(boxes):
    edges = [(top, top + height, left, left + width) for top, height, left, width in boxes]
    package = masked({360 * step / len(edges): box for step, box in enumerate(edges)})
    try:
        found = build_conditions(package, OrbitSettings(size=64, voxels=32, engine="morph"), azimuths_deg=[10])
        assert (found.depth > 0).any()
    except InputError as error:
        assert error.code in ("orbit.empty_hull", "mask.too_small")


def test_depth_without_a_model_name_is_not_trusted():
    package = solid_package()
    views = tuple(
        dataclasses.replace(view, depth=np.where(view.mask > 127, 40000, 0).astype(np.uint16)) for view in package.views
    )
    unnamed = dataclasses.replace(package, views=views, models={})
    found, plain = build_conditions(unnamed, SMALL), build_conditions(package, SMALL)
    assert np.array_equal(found.depth, plain.depth)


def padded(package, sides):
    """The package with photos padded around their middles to `sides` (height, width), one for each view."""

    def grown(image, side, value):
        down, right = ((new - old) // 2 for new, old in zip(side, image.shape, strict=False))
        return cv2.copyMakeBorder(image, down, down, right, right, cv2.BORDER_CONSTANT, value=value)

    views = tuple(
        dataclasses.replace(
            view,
            reference=grown(view.reference, side, (255, 255, 255)),
            mask=grown(view.mask, side, 0),
            depth=grown(view.depth, side, 0),
        )
        for view, side in zip(package.views, sides, strict=True)
    )
    return dataclasses.replace(package, views=views)


@pytest.mark.parametrize("framing", ["photo", "product"])
def test_a_phone_held_both_ways_is_one_camera(framing):
    """Upright and lying photos of one size share their middle and scale: frames are those of photos cut to squares."""
    package, chosen = solid_package(), SMALL.model_copy(update={"framing": framing, "frames": 8})
    both_ways = padded(package, [(160, 128) if view % 2 else (128, 160) for view in range(8)])
    squares = padded(package, [(160, 160)] * 8)
    turned, plain = (build_conditions(each, chosen) for each in (both_ways, squares))
    assert np.abs(turned.initial.astype(int) - plain.initial).max() <= 2
    assert turned.calibration.elevation_deg == pytest.approx(plain.calibration.elevation_deg, abs=0.01)
