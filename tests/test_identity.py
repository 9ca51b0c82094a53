"""The identity test that the original plan names: 517 floats that tell products apart and views together."""

import itertools

import numpy as np
import pytest

from gapray.capture.discover import discover
from gapray.gap.identity import FEATURES, IDENTITY_SIZE, identity_cosine, identity_embedding
from gapray.packaging.build import PackagingModels, build_package
from gapray.profile import load_profile


def test_layout():
    mask = np.zeros((10, 10), np.uint8)
    mask[:5, :4] = 255
    depth = np.zeros((10, 10), np.uint16)
    depth[:5, :4] = 65535
    depth[0, 0] = 13107
    embedding = identity_embedding(np.arange(512, dtype=np.float32), depth, mask)
    assert embedding.shape == (IDENTITY_SIZE,)
    assert embedding.dtype == np.float32
    assert np.linalg.norm(embedding[:FEATURES]) == pytest.approx(1, abs=1e-6)
    inside = depth[:5, :4].ravel() / 65535
    expected = [inside.mean(), inside.std(), 0.2, 1.0, 0.2]
    assert embedding[FEATURES:] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("features", [np.zeros(511, np.float32), np.full(512, np.nan, np.float32)])
def test_refused(features):
    with pytest.raises(ValueError, match="512"):
        identity_embedding(features, np.zeros((2, 2), np.uint16), np.zeros((2, 2), np.uint8))


def test_views_of_one_product_are_more_alike_than_products(samples, classic_weights):
    settings = load_profile("classic", environment={}).packaging
    models = PackagingModels.load(settings, device="cpu", threads=2)
    mug, bottle = (
        [view.identity for view in build_package(capture, models, settings).views]
        for capture in discover(str(samples / "captures"))
    )
    same = [identity_cosine(a, b) for views in (mug, bottle) for a, b in itertools.pairwise(views)]
    other = [identity_cosine(a, b) for a, b in zip(mug, bottle, strict=True)]
    assert min(same) > max(other) + 0.05
