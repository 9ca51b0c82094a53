"""Same-product test: compare a product in any picture with the photos of its package.

The product is found by the packages' own mask network, cut out, centred and scaled by its bounding box, and compared with
every captured view; the nearest one counts. A score between 0 and 1 weighs the measurements by a logistic regression over
real photos (`benchmarks/identity.py`): photos of one product from angles between the captured ones, against photos of
other products. What never happens in photos of one product (another hue, lost detail, left and right exchanged) fails on
its own.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from importlib import resources
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from gapray.capture.angles import nearest_angle
from gapray.fidelity.lpips import Lpips
from gapray.fidelity.shown import Cut, NormalizedView, cut_out, normalize_view
from gapray.fidelity.trunks import load_backbone
from gapray.gap.package import GapPackage
from gapray.gap.settings import MaskSettings, PackagingSettings
from gapray.models.cards import WEIGHTLESS_REVISION
from gapray.models.identity import ColourGradient, IdentityModel
from gapray.models.load import load_mask, mask_revision
from gapray.models.mask import MaskModel
from gapray.settings import canonical_hash

SIZE = 128
"""Side of the compared cut-outs [pixels]."""
DETAIL_SIZE = 256
"""Side of the cut-outs whose detail is compared [pixels]."""
FEATURES = ("cosine", "lpips", "iou", "colour")
"""The measurements that the score weighs."""
MAX_COLOUR = 0.19
"""Larger colour differences (`Likeness.colour`) occur in no photo of one product: another hue, whatever else agrees."""
MAX_HUE = 0.56
"""The same limit for `Likeness.hue`: a product that is mostly black or white has little colour to differ in."""
MIN_DETAIL = -0.75
"""A label with less detail than this, relative to its photo, is lost: a little over half is left [log2]."""
GREY = 0.1
"""Mean chroma below which a product counts as grey [CIE Lab / 100]."""
MIN_MIRROR, MIN_MIRROR_UNPOSED = -0.01, -0.11
"""A picture whose `Likeness.mirror` is lower is mirrored: where it is known which view it shows, and where any view will do.
The second limit is looser because the mirror image of one view may look like another view."""


@dataclass(frozen=True)
class Likeness:
    """Comparison of a picture with the nearest view of a package."""

    azimuth_deg: float
    """Azimuth of that view."""
    cosine: float
    """Cosine of the 512 appearance features, -1 … 1."""
    lpips: float
    """LPIPS at `SIZE`, 0 = identical."""
    iou: float
    """Overlap of the silhouettes after alignment, 0 … 1."""
    colour: float
    """Mean difference of the product's blurred colours, CIE Lab / 100."""
    hue: float
    """Difference of colourfulness and hue relative to the colour that there is, 0 = none; 1 and above = other hues."""
    detail: float
    """Fine detail relative to the photo's [log2]; below 0 the picture is blurrier."""
    mirror: float
    """LPIPS to the mirrored view minus LPIPS to the view; below 0 the picture looks more like its own mirror image."""
    score: float
    """0 … 1, see the module."""
    same_percentile: float
    """Fraction of real photos of a product that score lower against their own package, 0 … 1."""
    other_percentile: float
    """Fraction of photos of other products that score lower, 0 … 1."""
    reasons: tuple[str, ...]
    """Why it is not the same product; empty if it is."""

    def as_dict(self) -> dict[str, Any]:
        """The fields as plain data, for rows and ``--json``."""
        return asdict(self) | {"reasons": list(self.reasons)}


def gate_failures(reasons: Sequence[str], same_percentile: float, min_same: float | None) -> list[str]:
    """Reasons why a picture fails the gate; empty if it passes.

    Args:
        reasons: `Likeness.reasons`, or what this function returned under another gate.
        same_percentile: `Likeness.same_percentile`.
        min_same: `StillSettings.min_same`.
    """
    below_gate = f"{1 - same_percentile:.0%} of real photos of a product are more alike"
    own = [reason for reason in reasons if reason != below_gate]
    return own if own or min_same is None or same_percentile >= min_same else [below_gate]


NOT_FOUND = Likeness(0.0, 0.0, 1.0, 0.0, 1.0, 1.0, -9.0, 0.0, 0.0, 0.0, 0.0, ("no product is found in the picture",))


@dataclass(frozen=True)
class PackageViews:
    """A package prepared for comparison."""

    normalized: tuple[NormalizedView, ...]
    """Cut-outs of the V views at `SIZE`."""
    mirrored: NDArray[np.uint8]
    """uint8 [V, S, S, 3]: the same, mirrored left to right."""
    detailed: tuple[NormalizedView, ...]
    """Cut-outs at `DETAIL_SIZE`."""
    features: NDArray[np.float32]
    """Appearance features, float32 [V, 512]."""


@dataclass(frozen=True)
class ScoreCalibration:
    """Scores of real photos of the same and of different products."""

    weights: Mapping[str, float]
    """Weight of each of `FEATURES`, and `bias`."""
    threshold: float
    """Lower scores mean another product; one in twenty photos of the same product scores lower."""
    same: tuple[float, ...]
    """Quantiles of the scores of the same product, 0 … 100 %."""
    other: tuple[float, ...]
    """Quantiles of the scores of other products, 0 … 100 %."""

    def score(self, numbers: Mapping[str, float]) -> float:
        """Logistic regression over `FEATURES`, 0 … 1."""
        total = self.weights["bias"] + sum(self.weights[name] * numbers[name] for name in FEATURES)
        return float(1 / (1 + np.exp(-np.clip(total, -50, 50))))

    def percentile(self, score: float, quantiles: Sequence[float]) -> float:
        """Fraction of a distribution, given by its quantiles, that lies below `score`, 0 … 1."""
        if quantiles[-1] <= quantiles[0]:
            return float(score > quantiles[0])
        return float(np.interp(score, quantiles, np.linspace(0, 1, len(quantiles))))


@cache
def calibration() -> ScoreCalibration:
    """The calibration that `benchmarks/identity.py` wrote, for LPIPS alex and the weight-free appearance features."""
    data = json.loads((resources.files("gapray.fidelity") / "same_product.json").read_text())
    return ScoreCalibration(data["weights"], data["threshold"], tuple(data["same"]), tuple(data["other"]))


class SameProduct:
    """Compares pictures with packages.

    Args:
        metric: LPIPS alex.
        identity: `ColourGradient`, for which the scores were calibrated.
        network: The packages' mask network.
        settings: The packages' mask settings.
    """

    def __init__(self, metric: Lpips, identity: IdentityModel, network: MaskModel, settings: MaskSettings) -> None:
        self._metric, self._identity, self._network, self._settings = metric, identity, network, settings

    def views(self, package: GapPackage) -> PackageViews:
        """Prepare a package for comparison."""
        return self.views_of([Cut(view.azimuth_deg, view.reference, view.mask) for view in package.views])

    def views_of(self, cuts: Sequence[Cut]) -> PackageViews:
        """Prepare cut-out photos for comparison."""
        small = tuple(normalize_view(cut, SIZE, framing="boxes") for cut in cuts)
        detailed = tuple(normalize_view(cut, DETAIL_SIZE, framing="boxes") for cut in cuts)
        features = self._identity.predict([np.dstack([cut.image, cut.mask]) for cut in cuts])
        return PackageViews(small, np.stack([view.image[:, ::-1] for view in small]), detailed, features)

    def cut(self, image: NDArray[np.uint8], near: NDArray[np.uint8] | None = None) -> Cut | None:
        """Cut the product out of a picture; None if no product is found.

        Args:
            image: uint8 [H, W, 3].
            near: uint8 [H, W], where the product should be; anything found far away from there is something else.
        """
        searched = image
        if near is not None and (near >= 128).any():
            # The network looks at the whole picture, so the scene around the product is cropped away.
            rows, columns = np.nonzero(near >= 128)
            pad = round(0.12 * max(np.ptp(rows), np.ptp(columns)))
            top, left = max(0, rows.min() - pad), max(0, columns.min() - pad)
            searched = image[top : rows.max() + pad + 1, left : columns.max() + pad + 1]
        [cut] = cut_out([searched], [0.0], self._network, self._settings)
        return cut if (cut.mask >= 128).any() else None

    def likeness(self, cut: Cut | None, views: PackageViews, azimuth_deg: float | None = None) -> Likeness:
        """Compare a cut-out picture with a package.

        Args:
            cut: The picture's cut-out, from `cut`; None fails.
            views: The package, from `views`.
            azimuth_deg: Azimuth of the view that the picture should show, if known.
        """
        if cut is None:
            return NOT_FOUND
        numbers = self.numbers(cut, views, azimuth_deg)
        min_mirror = MIN_MIRROR_UNPOSED if azimuth_deg is None else MIN_MIRROR
        known = calibration()
        score = known.score(numbers)
        reasons = [
            *(["it scores as another product does"] if score < known.threshold else []),
            *(["its colours are others"] if numbers["colour"] > MAX_COLOUR or numbers["hue"] > MAX_HUE else []),
            *(["its detail is lost"] if numbers["detail"] < MIN_DETAIL else []),
            *(["left and right are exchanged"] if numbers["mirror"] < min_mirror else []),
        ]
        same, other = (known.percentile(score, quantiles) for quantiles in (known.same, known.other))
        return Likeness(**numbers, score=score, same_percentile=same, other_percentile=other, reasons=tuple(reasons))

    def of_pictures(
        self, package: GapPackage, pictures: Sequence[tuple[NDArray[np.uint8], NDArray[np.uint8]]], azimuth_deg: float
    ) -> list[Likeness]:
        """Compare pictures that should show one view of a package.

        Args:
            package: The package to compare with.
            pictures: Image and expected position of the product for each, as in `cut`.
            azimuth_deg: Azimuth of the view.
        """
        views = self.views(package)
        return [self.likeness(self.cut(image, placed), views, azimuth_deg) for image, placed in pictures]

    def numbers(self, cut: Cut, views: PackageViews, azimuth_deg: float | None = None) -> dict[str, float]:
        """The measured fields of `Likeness`."""
        small = normalize_view(cut, SIZE, framing="boxes")
        detailed = normalize_view(cut, DETAIL_SIZE, framing="boxes")
        photos = np.stack([view.image for view in views.normalized])
        distances = self._metric.all_pairs(small.image[None], photos)[0]
        mirrored = self._metric.all_pairs(small.image[None], views.mirrored)[0]
        best = int(distances.argmin())
        mirror = float(mirrored.min() - distances[best])
        if azimuth_deg is not None:
            azimuths = [view.azimuth_deg for view in views.normalized]
            expected = nearest_angle(azimuths, azimuth_deg)
            mirror = float(mirrored[expected] - distances[expected])
        nearest = views.normalized[best]
        [features] = self._identity.predict([np.dstack([cut.image, cut.mask])])
        mask, nearest_mask = small.mask >= 128, nearest.mask >= 128
        colour, hue = _colour_difference(small, nearest)
        return {
            "azimuth_deg": nearest.azimuth_deg,
            "cosine": float((views.features @ features).max()),
            "lpips": float(distances[best]),
            "iou": float((mask & nearest_mask).sum() / max(1, (mask | nearest_mask).sum())),
            "colour": colour,
            "hue": hue,
            "detail": float(np.log2((_detail(detailed) + 0.05) / (_detail(views.detailed[best]) + 0.05))),
            "mirror": mirror,
        }


def _colour_difference(first: NormalizedView, second: NormalizedView) -> tuple[float, float]:
    """`Likeness.colour` and `Likeness.hue`, from blurred colours where both images show product.

    Lightness counts half, because scenes differ in lighting; the hue ignores it.
    """
    both = (first.mask >= 128) & (second.mask >= 128)
    if not both.any():
        return 1.0, 1.0
    a, b = (
        cv2.cvtColor(cv2.GaussianBlur(x.image, (0, 0), 4).astype(np.float32) / 255, cv2.COLOR_RGB2LAB)[both] / 100
        for x in (first, second)
    )
    apart = (a - b) * np.array([0.5, 1.0, 1.0])
    chroma = np.maximum(*(np.hypot(x[:, 1], x[:, 2]) for x in (a, b)))
    # Grey has no hue: what little colour there is may come from the light.
    hue = np.hypot(apart[:, 1], apart[:, 2]).sum() / max(float(chroma.sum()), GREY * len(chroma))
    return float(np.sqrt((apart**2).sum(1)).mean()), float(hue)


def _detail(view: NormalizedView) -> float:
    """Energy of fine detail inside the product, relative to its contrast."""
    grey = cv2.cvtColor(view.image, cv2.COLOR_RGB2GRAY).astype(np.float32)
    inside = cv2.erode((view.mask >= 200).astype(np.uint8), np.ones((9, 9), np.uint8)) > 0
    if not inside.any():
        return 0.0
    band = grey - cv2.GaussianBlur(grey, (0, 0), 1.5)
    return float(band[inside].std() / max(float(grey[inside].std()), 4.0))


def judge_digest(packaging: PackagingSettings) -> str:
    """Hash of everything that the judge's numbers depend on: its networks, the clean-up of masks, its calibration.

    Args:
        packaging: As for `load_judge`.

    Raises:
        ModelError: `model.*`.
    """
    networks = [mask_revision(packaging), load_backbone("alex").sha256, WEIGHTLESS_REVISION]
    return canonical_hash([networks, packaging.mask.results(), asdict(calibration())])


def load_judge(packaging: PackagingSettings, *, device: str, threads: int) -> SameProduct:
    """Load the judge in its calibrated form: it compares colours and gradients, whatever embedding the packages use.

    Args:
        packaging: Names the mask network.
        device: Device of LPIPS; masks are computed on the CPU.
        threads: CPU threads of the mask network.

    Raises:
        ModelError: `model.*`.
    """
    network = load_mask(packaging, threads=threads)
    return SameProduct(Lpips("alex", device=device), ColourGradient(), network, packaging.mask)
