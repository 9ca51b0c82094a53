"""Does a product stay the same product in the three scenes of the prototype's test?

On CPU the product is pasted: its numbers show that the composite does no harm and that the judge's scale is right, and prove
nothing about diffusion. That a diffusion model's inputs all arrive is shown in tests/stills/test_sdxl.py on tiny weights.
"""

from dataclasses import replace

import cv2
import numpy as np
import pytest

from gapray.capture.decode import decode_photo
from gapray.capture.settings import DecodeSettings
from gapray.fidelity.same_product import SameProduct, calibration
from gapray.fidelity.shown import Cut
from gapray.gap.identity import identity_cosine
from gapray.gap.package import GapPackage
from gapray.models.identity import ColourGradient
from gapray.packaging.silhouette import silhouette
from gapray.profile import load_profile
from gapray.stills.composite import Composite
from gapray.stills.scene import load_scenes
from gapray.stills.settings import StillSettings
from gapray.stills.still import best_view
from tests.make import view

SCENES = ("marble-kitchen", "wooden-desk", "gym-studio")
PRODUCTS = ("mug", "supplement")
SETTINGS = load_profile("classic", environment={}).packaging


@pytest.fixture(scope="module")
def packages(samples, mask_network):
    found = {}
    for product in PRODUCTS:
        views = []
        for file in sorted((samples / "captures" / product).iterdir()):
            photo = decode_photo(file.read_bytes(), DecodeSettings(reference_side=512))
            [soft] = mask_network.predict([photo])
            mask = silhouette(photo, soft, SETTINGS.mask)
            views.append(replace(view(float(file.stem[-3:])), reference=photo, mask=mask))
        found[product] = GapPackage(product, "k" * 64, tuple(views), 1.0, 0.0, {})
    return found


@pytest.fixture(scope="module")
def judge(lpips_alex, mask_network):
    return SameProduct(lpips_alex, ColourGradient(), mask_network, SETTINGS.mask)


@pytest.fixture(scope="module")
def drawn(packages):
    """Product and scene -> still."""
    backend, settings = Composite(), StillSettings(megapixels=0.35)
    return {
        (name, scene.name): backend.generate(package, best_view(package, 0.0), scene, settings, seeds=[0])[0]
        for name, package in packages.items()
        for scene in load_scenes(list(SCENES))
    }


@pytest.mark.parametrize("scene", SCENES)
@pytest.mark.parametrize("product", PRODUCTS)
def test_the_product_stays_the_same_in_the_scene(product, scene, drawn, packages, judge):
    still = drawn[product, scene]
    assert still.pasted
    cut = judge.cut(still.image, still.placed)
    own = judge.likeness(cut, judge.views(packages[product]), 0.0)
    assert own.reasons == () and own.score > 0.97 and own.iou > 0.85 and own.mirror > 0, own
    [other] = [name for name in PRODUCTS if name != product]
    stranger = judge.likeness(cut, judge.views(packages[other]))
    assert stranger.score < calibration().threshold and stranger.reasons, stranger


def test_it_looks_alike_between_scenes(drawn, judge):
    features = {}
    for key, still in drawn.items():
        cut = judge.cut(still.image, still.placed)
        features[key] = ColourGradient().predict([np.dstack([cut.image, cut.mask])])[0]
    for product in PRODUCTS:
        mine = [features[product, scene] for scene in SCENES]
        [other] = [name for name in PRODUCTS if name != product]
        within = min(identity_cosine(a, b) for a in mine for b in mine)
        across = max(identity_cosine(a, features[other, scene]) for a in mine for scene in SCENES)
        assert within > across + 0.1


@pytest.mark.parametrize("product", PRODUCTS)
def test_what_is_no_longer_the_product_fails(product, packages, judge):
    package = packages[product]
    views = judge.views(package)
    captured = package.views[1]

    def likeness(image, mask=captured.mask):
        return judge.likeness(
            Cut(0.0, np.ascontiguousarray(image), np.ascontiguousarray(mask)), views, captured.azimuth_deg
        )

    assert likeness(captured.reference).reasons == ()
    hsv = cv2.cvtColor(captured.reference, cv2.COLOR_RGB2HSV)
    hsv[..., 0] = (hsv[..., 0].astype(int) + 45) % 180
    assert "its colours are others" in likeness(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)).reasons
    assert "its detail is lost" in likeness(cv2.GaussianBlur(captured.reference, (0, 0), 4)).reasons
    assert "left and right are exchanged" in likeness(captured.reference[:, ::-1], captured.mask[:, ::-1]).reasons
    assert judge.likeness(None, views).reasons and judge.cut(np.full((64, 64, 3), 200, np.uint8)) is None
