import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gapray.capture.discover import discover
from gapray.errors import InputError
from gapray.packaging.build import PackagingModels, build_package
from gapray.packaging.steps import content_key, depth_range, depth_to_16bit, quality, work_image
from gapray.profile import load_profile
from tests.make import write_product

NULL = ["mask.model=null-model", "depth.model=null-model", "identity.model=null-model"]


@given(st.integers(64, 1200), st.integers(64, 1200), st.sampled_from([126, 252, 518]))
def test_work_images_fit_the_networks(height, width, side):
    work = work_image(np.zeros((height, width, 3), np.uint8), np.zeros((height, width), np.uint8), side)
    assert work.shape[0] % 14 == 0 and work.shape[1] % 14 == 0
    assert max(work.shape[:2]) <= max(side, 14)
    # The aspect is kept to within the rounding.
    assert abs(work.shape[1] - work.shape[0] * width / height) <= 14 * (1 + width / height)


def test_one_depth_scale_for_the_whole_set():
    masks = [np.full((40, 40), 255, np.uint8)] * 2
    near, far = np.full((40, 40), 3.0, np.float32), np.full((40, 40), 1.0, np.float32)
    scale, shift = depth_range([near, far], masks)
    assert (scale, shift) == pytest.approx((2.0, 1.0))
    assert (depth_to_16bit(near, masks[0], scale, shift) == 65535).all()
    assert (depth_to_16bit(far, masks[1], scale, shift) == 1).all()
    outside = masks[0].copy()
    outside[:, :20] = 0
    stored = depth_to_16bit(near, outside, scale, shift)
    assert (stored[:, :20] == 0).all() and (stored[:, 20:] > 0).all()


def test_a_flat_or_empty_set_has_a_positive_scale():
    flat, mask = np.full((8, 8), 2.0, np.float32), np.full((8, 8), 255, np.uint8)
    assert depth_range([flat], [mask])[0] > 0
    assert depth_range([flat], [mask * 0]) == (1.0, 0.0)


def test_keys_follow_content_and_settings_only():
    views = [(0.0, "a"), (90.0, "b")]
    assert content_key(views, "s") == content_key(views[::-1], "s")
    assert len({content_key(views, "s"), content_key(views, "t"), content_key([(0.0, "a"), (91.0, "b")], "s")}) == 3


def test_settings_hash_follows_weights_and_every_setting():
    base = load_profile("classic", environment={}).packaging
    other = load_profile("classic", overrides=["canny.low_threshold=90"], environment={}).packaging
    hashes = {base.digest({"u2netp": "1"}), base.digest({"u2netp": "2"}), other.digest({"u2netp": "1"})}
    assert len(hashes) == 3
    assert base.digest({"u2netp": "1"}) in hashes


def test_quality_sees_blur_and_clipping():
    import cv2

    rng = np.random.default_rng(0)
    sharp = rng.integers(60, 200, (100, 100, 3), dtype=np.uint8)
    mask = np.full((100, 100), 255, np.uint8)
    assert quality(sharp, mask).sharpness > 5 * quality(cv2.GaussianBlur(sharp, (7, 7), 0), mask).sharpness
    half = sharp.copy()
    half[:50] = 255
    assert quality(half, mask).clipped_bright == pytest.approx(0.5)
    assert quality(half * 0, mask).clipped_dark == 1
    assert quality(sharp, mask * 0).sharpness == 0


def test_a_package_is_complete(tmp_path):
    write_product(tmp_path / "p", size=96)
    settings = load_profile("classic", overrides=NULL, environment={}).packaging
    models = PackagingModels.load(settings, device="cpu")
    [capture] = discover(str(tmp_path / "p"))
    package = build_package(capture, models, settings)
    assert [view.azimuth_deg for view in package.views] == [45.0 * step for step in range(8)]
    for view in package.views:
        assert view.reference.shape == (96, 96, 3)
        assert view.mask.shape == view.depth.shape == view.canny.shape == (96, 96)
        assert view.depth.dtype == np.uint16
        assert view.identity.shape == (517,)
    assert package.view(360.0).name == "p_000.png"
    with pytest.raises(KeyError):
        package.view(10)
    assert build_package(capture, models, settings).key == package.key


def test_duplicate_photos_are_rejected(tmp_path):
    folder = write_product(tmp_path / "p")
    (folder / "p_045.png").write_bytes((folder / "p_000.png").read_bytes())
    settings = load_profile("classic", overrides=NULL, environment={}).packaging
    models = PackagingModels.load(settings, device="cpu")
    with pytest.raises(InputError, match="same file") as error:
        build_package(discover(str(folder))[0], models, settings)
    assert error.value.code == "capture.duplicate_azimuth"
