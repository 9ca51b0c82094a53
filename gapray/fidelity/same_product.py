"""Is it still the same product? A product in any picture against the photos of its package.

The product is found in the picture by the packages' own mask network, cut out, centred and scaled by its box, and compared with
every captured view: what counts is the nearest one. A score between 0 and 1 weighs the numbers as a logistic regression over
real photos does (`benchmarks/identity.py`): photos of one product from angles between the captured ones against photos of
other products. What no photo of a product does at all (another hue, lost detail, left for right) fails by itself.
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

from gapray.capture.azimuths import turned
from gapray.config import MaskSettings, PackagingSettings, canonical_hash
from gapray.fidelity.lpips import Lpips
from gapray.fidelity.shown import Cut, Shown, cut_out, shown
from gapray.fidelity.trunks import load_trunk
from gapray.gap.package import GapPackage
from gapray.models.cards import WEIGHTLESS_REVISION
from gapray.models.identity import ColourGradient, IdentityModel
from gapray.models.load import load_mask, mask_revision
from gapray.models.mask import MaskModel

SIZE = 128
"""Cut-outs are compared at this size [pixels]."""
DETAIL_SIZE = 256
"""…and their detail at this one."""
FEATURES = ("cosine", "lpips", "iou", "colour")
"""What the score weighs."""
MOST_COLOUR = 0.19
"""Colours farther apart than in any photo of one product, as `Likeness.colour`: another hue, whatever else agrees."""
MOST_HUE = 0.56
"""…and the same for hues alone, as `Likeness.hue`: a product that is mostly black or white has little colour to differ in."""
LEAST_DETAIL = -0.75
"""A label with less than half the detail of its photo is lost [log2]."""
GREY = 0.1
"""Mean chroma below which a product counts as grey [CIE Lab / 100]."""
LEAST_MIRROR, LEAST_MIRROR_UNPOSED = -0.01, -0.11
"""A picture that looks more like the mirrored product by this much LPIPS is mirrored: where it is known which view it shows, and
where any view will do, because the mirror image of one view may look like another."""


@dataclass(frozen=True)
class Likeness:
    """A picture against the nearest view of a package."""

    azimuth_deg: float
    """Azimuth of that view."""
    cosine: float
    """Cosine of the 512 appearance features, -1 … 1."""
    lpips: float
    """At `SIZE`, 0 = identical."""
    iou: float
    """Overlap of the silhouettes after alignment, 0 … 1."""
    colour: float
    """Mean difference of blurred colours on the product, CIE Lab / 100."""
    hue: float
    """Difference of its colourfulness and hue against what colour there is, 0 = none … 1 and more = other hues."""
    detail: float
    """Fine detail against the photo's [log2]; below 0 it is blurred."""
    mirror: float
    """LPIPS from the mirrored view less LPIPS from the view: below 0 it looks more like its own mirror image."""
    score: float
    """0 … 1, see the module."""
    same_percentile: float
    """Share of real photos of a product that score less against its package, 0 … 1."""
    other_percentile: float
    """Share of photos of other products that score less, 0 … 1."""
    reasons: tuple[str, ...]
    """Why it is not the same product; empty when it is."""

    def as_dict(self) -> dict[str, Any]:
        """For rows and ``--json``."""
        return asdict(self) | {"reasons": list(self.reasons)}


def failings(reasons: Sequence[str], same_percentile: float, least_same: float | None) -> list[str]:
    """Why a picture does not pass; empty when it does.

    Args:
        reasons: Of its `Likeness`, or what this function said of it under another gate.
        same_percentile: Of its `Likeness`.
        least_same: `StillSettings.min_same`.
    """
    unlike = f"{1 - same_percentile:.0%} of real photos of a product are more alike"
    own = [reason for reason in reasons if reason != unlike]
    return own if own or least_same is None or same_percentile >= least_same else [unlike]


NOT_FOUND = Likeness(0.0, 0.0, 1.0, 0.0, 1.0, 1.0, -9.0, 0.0, 0.0, 0.0, 0.0, ("no product is found in the picture",))


@dataclass(frozen=True)
class Views:
    """A package as it is compared with: cut-outs, mirrored cut-outs, appearance features."""

    shown: tuple[Shown, ...]
    mirrored: NDArray[np.uint8]
    """[V, S, S, 3]."""
    fine: tuple[Shown, ...]
    features: NDArray[np.float32]
    """[V, 512]."""


@dataclass(frozen=True)
class Calibration:
    """What real photos of same and of different products score."""

    weights: Mapping[str, float]
    """Weight of each of `FEATURES`, and `bias`."""
    threshold: float
    """Scores below it are another product: one of twenty photos of the same one is."""
    same: tuple[float, ...]
    """Quantiles of scores of the same product, 0 … 100 %."""
    other: tuple[float, ...]

    def score(self, numbers: Mapping[str, float]) -> float:
        """0 … 1."""
        total = self.weights["bias"] + sum(self.weights[name] * numbers[name] for name in FEATURES)
        return float(1 / (1 + np.exp(-np.clip(total, -50, 50))))

    def percentile(self, score: float, of: Sequence[float]) -> float:
        """Share of the quantiles `of` below `score`, 0 … 1."""
        return float(np.interp(score, of, np.linspace(0, 1, len(of)))) if of[-1] > of[0] else float(score > of[0])


@cache
def calibration() -> Calibration:
    """As `benchmarks/identity.py` wrote it, for LPIPS alex and the weight-free appearance features."""
    data = json.loads((resources.files("gapray.fidelity") / "same_product.json").read_text())
    return Calibration(data["weights"], data["threshold"], tuple(data["same"]), tuple(data["other"]))


class SameProduct:
    """Compares pictures with packages.

    Args:
        metric: LPIPS alex.
        identity: `ColourGradient`, which the calibration is of.
        network: Of the packages.
        settings: Of the packages.
    """

    def __init__(self, metric: Lpips, identity: IdentityModel, network: MaskModel, settings: MaskSettings) -> None:
        self._metric, self._identity, self._network, self._settings = metric, identity, network, settings

    def views(self, package: GapPackage) -> Views:
        """A package, ready to be compared with."""
        return self.views_of([Cut(view.azimuth_deg, view.reference, view.mask) for view in package.views])

    def views_of(self, cuts: Sequence[Cut]) -> Views:
        """Cut-out photos, ready to be compared with."""
        small = tuple(shown(cut, SIZE, framing="boxes") for cut in cuts)
        fine = tuple(shown(cut, DETAIL_SIZE, framing="boxes") for cut in cuts)
        features = self._identity.predict([np.dstack([cut.image, cut.mask]) for cut in cuts])
        return Views(small, np.stack([one.image[:, ::-1] for one in small]), fine, features)

    def cut(self, image: NDArray[np.uint8], near: NDArray[np.uint8] | None = None) -> Cut | None:
        """The product in a picture, or None.

        Args:
            image: uint8 [H, W, 3].
            near: uint8 [H, W], where it should stand: what is found far from there is something else.
        """
        found = image
        if near is not None and (near >= 128).any():
            # The network looks at the whole picture; the scene round the product is left out.
            rows, columns = np.nonzero(near >= 128)
            pad = round(0.12 * max(np.ptp(rows), np.ptp(columns)))
            top, left = max(0, rows.min() - pad), max(0, columns.min() - pad)
            found = image[top : rows.max() + pad + 1, left : columns.max() + pad + 1]
        [one] = cut_out([found], [0.0], self._network, self._settings)
        return one if (one.mask >= 128).any() else None

    def likeness(self, cut: Cut | None, views: Views, azimuth_deg: float | None = None) -> Likeness:
        """Compare a cut-out picture with a package.

        Args:
            cut: From `cut`.
            views: From `views`.
            azimuth_deg: Of the view that it should show, where that is known.
        """
        if cut is None:
            return NOT_FOUND
        numbers = self.numbers(cut, views, azimuth_deg)
        least_mirror = LEAST_MIRROR_UNPOSED if azimuth_deg is None else LEAST_MIRROR
        known = calibration()
        score = known.score(numbers)
        reasons = [
            *(["it scores as another product does"] if score < known.threshold else []),
            *(["its colours are others"] if numbers["colour"] > MOST_COLOUR or numbers["hue"] > MOST_HUE else []),
            *(["its detail is lost"] if numbers["detail"] < LEAST_DETAIL else []),
            *(["left and right are exchanged"] if numbers["mirror"] < least_mirror else []),
        ]
        same, other = (known.percentile(score, of) for of in (known.same, known.other))
        return Likeness(**numbers, score=score, same_percentile=same, other_percentile=other, reasons=tuple(reasons))

    def of_pictures(
        self, package: GapPackage, pictures: Sequence[tuple[NDArray[np.uint8], NDArray[np.uint8]]], azimuth_deg: float
    ) -> list[Likeness]:
        """Pictures that should show one view of a package.

        Args:
            package: What they are compared with.
            pictures: Each with where the product should stand, as in `cut`.
            azimuth_deg: Of the view.
        """
        known = self.views(package)
        return [self.likeness(self.cut(image, placed), known, azimuth_deg) for image, placed in pictures]

    def numbers(self, cut: Cut, views: Views, azimuth_deg: float | None = None) -> dict[str, float]:
        """The measured fields of `Likeness`."""
        mine, fine = shown(cut, SIZE, framing="boxes"), shown(cut, DETAIL_SIZE, framing="boxes")
        distances = self._metric.all_pairs(mine.image[None], np.stack([one.image for one in views.shown]))[0]
        mirrored = self._metric.all_pairs(mine.image[None], views.mirrored)[0]
        at = int(distances.argmin())
        mirror = float(mirrored.min() - distances[at])
        if azimuth_deg is not None:
            shows = min(range(len(distances)), key=lambda i: abs(turned(views.shown[i].azimuth_deg, azimuth_deg)))
            mirror = float(mirrored[shows] - distances[shows])
        nearest = views.shown[at]
        [features] = self._identity.predict([np.dstack([cut.image, cut.mask])])
        one, other = mine.mask >= 128, nearest.mask >= 128
        colour, hue = _colour_difference(mine, nearest)
        return {
            "azimuth_deg": nearest.azimuth_deg,
            "cosine": float((views.features @ features).max()),
            "lpips": float(distances[at]),
            "iou": float((one & other).sum() / max(1, (one | other).sum())),
            "colour": colour,
            "hue": hue,
            "detail": float(np.log2((_detail(fine) + 0.05) / (_detail(views.fine[at]) + 0.05))),
            "mirror": mirror,
        }


def _colour_difference(one: Shown, other: Shown) -> tuple[float, float]:
    """`Likeness.colour` and `Likeness.hue`: blurred colours where both show product.

    Light and dark count half, because scenes have lights of their own; for the hue they do not count.
    """
    both = (one.mask >= 128) & (other.mask >= 128)
    if not both.any():
        return 1.0, 1.0
    a, b = (
        cv2.cvtColor(cv2.GaussianBlur(x.image, (0, 0), 4).astype(np.float32) / 255, cv2.COLOR_RGB2LAB)[both] / 100
        for x in (one, other)
    )
    apart = (a - b) * np.array([0.5, 1.0, 1.0])
    chroma = np.maximum(*(np.hypot(x[:, 1], x[:, 2]) for x in (a, b)))
    # Of grey there is no hue: what little colour it has may be the light's.
    hue = np.hypot(apart[:, 1], apart[:, 2]).sum() / max(float(chroma.sum()), GREY * len(chroma))
    return float(np.sqrt((apart**2).sum(1)).mean()), float(hue)


def _detail(one: Shown) -> float:
    """Energy of fine detail inside the product, in its own contrast."""
    grey = cv2.cvtColor(one.image, cv2.COLOR_RGB2GRAY).astype(np.float32)
    inside = cv2.erode((one.mask >= 200).astype(np.uint8), np.ones((9, 9), np.uint8)) > 0
    if not inside.any():
        return 0.0
    band = grey - cv2.GaussianBlur(grey, (0, 0), 1.5)
    return float(band[inside].std() / max(float(grey[inside].std()), 4.0))


def judge_digest(packaging: PackagingSettings) -> str:
    """Hash of what the judge's numbers depend on: its networks, the clean-up of masks, its calibration.

    Args:
        packaging: As for `load_judge`.

    Raises:
        ModelError: `model.*`.
    """
    networks = [mask_revision(packaging), load_trunk("alex").sha256, WEIGHTLESS_REVISION]
    return canonical_hash([networks, packaging.mask.results(), asdict(calibration())])


def load_judge(packaging: PackagingSettings, *, device: str, threads: int) -> SameProduct:
    """The judge as it was calibrated: whatever the packages' own embedding is, this one compares colours and gradients.

    Args:
        packaging: Names the mask network.
        device: Of LPIPS; masks are made on the CPU.
        threads: Of the mask network.

    Raises:
        ModelError: `model.*`.
    """
    network = load_mask(packaging, threads=threads)
    return SameProduct(Lpips("alex", device=device), ColourGradient(), network, packaging.mask)
