"""Calibrate `gapray.fidelity.same_product` on real photos: what distinguishes a product from others?

    python benchmarks/identity.py SPINS [--write]
    python benchmarks/identity.py SPINS --changes      how the stored gate judges hue-shifted, blurred and mirrored photos

Same: photos half way between the eight captured angles of a set, against those eight. Different: the same photos against every
other set, including the ETH-80 cars against each other. Weights are fitted with each product left out in turn, so that no product
is judged by weights that saw it; --write fits them on all products and stores them with the quantiles and the plot.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from check import Photos, interval
from scipy.optimize import minimize

from gapray.fidelity.lpips import Lpips
from gapray.fidelity.same_product import (
    FEATURES,
    MAX_COLOUR,
    MAX_HUE,
    MIN_DETAIL,
    MIN_MIRROR,
    SameProduct,
    ScoreCalibration,
)
from gapray.fidelity.shown import Cut
from gapray.models.identity import ColourGradient
from gapray.models.load import load_mask
from gapray.profile import load_profile

ROOT = Path(__file__).resolve().parent.parent
PROFILE = load_profile("classic")
FALSE_REJECTS = 0.05


def fitted(x: np.ndarray, same: np.ndarray) -> dict[str, float]:
    """Logistic regression with a small ridge; both classes weigh alike."""
    weight = np.where(same, 0.5 / same.sum(), 0.5 / (~same).sum())

    def loss(w: np.ndarray) -> float:
        margin = np.where(same, 1, -1) * (x @ w[:-1] + w[-1])
        return float((weight * np.logaddexp(0, -margin)).sum() + 1e-4 * (w[:-1] ** 2).sum())

    w = minimize(loss, np.zeros(x.shape[1] + 1), method="BFGS").x
    return dict(zip((*FEATURES, "bias"), (float(value) for value in w), strict=True))


def hue(photo: np.ndarray, mask: np.ndarray) -> np.ndarray:
    hsv = cv2.cvtColor(photo, cv2.COLOR_RGB2HSV)
    hsv[..., 0] = (hsv[..., 0].astype(int) + 30) % 180  # 60 degrees
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)


def blurred(photo: np.ndarray, mask: np.ndarray) -> np.ndarray:
    rows, columns = np.nonzero(mask >= 128)
    return cv2.GaussianBlur(photo, (0, 0), max(np.ptp(rows), np.ptp(columns)) / 512 * 6)


def main() -> None:
    spins = Path(sys.argv[1])
    network = load_mask(PROFILE.packaging, threads=2)
    judge = SameProduct(Lpips("alex"), ColourGradient(), network, PROFILE.packaging.mask)
    sets = [Photos(folder, network) for folder in sorted(spins.iterdir()) if (folder / "views.json").exists()]
    if "--changes" in sys.argv:
        changed_photos(judge, sets)
        return
    given = [[Cut(float(photos.azimuths[at]), *photos[at]) for at in photos.eight()] for photos in sets]
    asked = [[Cut(float(photos.azimuths[at]), *photos[at]) for at in photos.eight(22.5)] for photos in sets]
    views = [judge.views_of(cuts) for cuts in given]
    rows, owners, against = [], [], []
    for mine, cuts in enumerate(asked):
        for cut in cuts:
            for other, package in enumerate(views):
                rows.append(judge.numbers(cut, package))
                owners.append(mine)
                against.append(other)
        print(sets[mine].name, file=sys.stderr, flush=True)
    x = np.array([[row[name] for name in FEATURES] for row in rows])
    owner, other = np.array(owners), np.array(against)
    same = owner == other
    scores = np.zeros(len(x))
    for product in range(len(sets)):
        touched = (owner == product) | (other == product)
        known = ScoreCalibration(fitted(x[~touched], same[~touched]), 0, (0, 1), (0, 1))
        for index in np.flatnonzero(owner == product):
            scores[index] = known.score(rows[index])
    threshold = float(np.quantile(scores[same], FALSE_REJECTS))
    print(f"pairs: {same.sum()} same, {(~same).sum()} different; each product judged by weights that never saw it")
    print(f"threshold {threshold:.3f}: false rejects {interval(list(scores[same] < threshold))}")
    print(f"                 false accepts {interval(list(scores[~same] >= threshold))}")
    cars = [index for index, photos in enumerate(sets) if "car" in photos.name]
    among = ~same & np.isin(owner, cars) & np.isin(other, cars)
    print(f"                 … of the five cars among themselves {interval(list(scores[among] >= threshold))}")
    worst = sorted(zip(scores[~same], owner[~same], other[~same], strict=True), reverse=True)[:8]
    print("nearest strangers:", ", ".join(f"{sets[a].name} as {sets[b].name} {s:.2f}" for s, a, b in worst))
    for name in ("colour", "hue", "detail", "mirror"):
        values = np.array([row[name] for row in rows])[same]
        print(
            f"{name} of the same product: {np.quantile(values, [0, 0.01, 0.05, 0.5, 0.95, 0.99, 1]).round(3).tolist()}"
        )
    hard = [
        row["colour"] > MAX_COLOUR or row["hue"] > MAX_HUE or row["detail"] < MIN_DETAIL or row["mirror"] < MIN_MIRROR
        for row in rows
    ]
    refused = (scores < threshold) | np.array(hard)
    print(
        f"with the hard limits: false rejects {interval(list(refused[same]))}, false accepts {interval(list(~refused[~same]))}"
    )
    everything = fitted(x, same)
    quantiles = [np.quantile(scores[which], np.linspace(0, 1, 101)).round(5).tolist() for which in (same, ~same)]
    if "--write" in sys.argv:
        data = {
            "of": "lpips-alex, colour-gradient-512, u2netp; benchmarks/identity.py",
            "weights": everything,
            "threshold": threshold,
            "same": quantiles[0],
            "other": quantiles[1],
        }
        (ROOT / "gapray" / "fidelity" / "same_product.json").write_text(json.dumps(data, indent=1) + "\n")
        (ROOT / "docs" / "same_product.svg").write_text(plot(scores[same], scores[~same], threshold))


def changed_photos(judge: SameProduct, sets: list[Photos]) -> None:
    """Print how the gate judges captured photos that were changed, given the view that they show, as for a still."""
    given = [[Cut(float(photos.azimuths[at]), *photos[at]) for at in photos.eight()] for photos in sets]
    views = [judge.views_of(cuts) for cuts in given]
    changes: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
        "hue + 60 degrees": hue,
        "blurred by 6 px of 512": blurred,
    }
    for what, change in [*changes.items(), ("mirrored", None), ("as it is", None)]:
        failed, seen = [], []
        for package, cuts in zip(views, given, strict=True):
            for cut in cuts:
                changed = Cut(0.0, change(cut.image, cut.mask), cut.mask) if change else cut
                if what == "mirrored":
                    changed = Cut(
                        0.0, np.ascontiguousarray(cut.image[:, ::-1]), np.ascontiguousarray(cut.mask[:, ::-1])
                    )
                likeness = judge.likeness(changed, package, cut.azimuth_deg)
                row = likeness.as_dict()
                seen.append([row[name] for name in ("colour", "hue", "detail", "mirror")])
                failed.append(bool(likeness.reasons))
        print(
            f"captured photos {what}: refused {interval(failed)}; by set {dict(zip([photos.name for photos in sets], np.array(failed).reshape(len(sets), -1).sum(1).tolist(), strict=True))}"
        )
        for name, values in zip(("colour", "hue", "detail", "mirror"), np.array(seen).T, strict=True):
            print(f"    {name}: {np.quantile(values, [0, 0.01, 0.05, 0.5, 0.95, 0.99, 1]).round(3).tolist()}")


def plot(same: np.ndarray, other: np.ndarray, threshold: float) -> str:
    """Both distributions of scores as an SVG."""
    bins = np.linspace(0, 1, 41)
    bars = [np.histogram(scores, bins)[0] / len(scores) for scores in (same, other)]
    top = max(float(bar.max()) for bar in bars)
    width, height, left, low = 560, 240, 46, 200
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height + 30}" font-family="system-ui, sans-serif" font-size="12"><rect width="100%" height="100%" fill="#fff"/>'
    ]
    for colour, heights, label, x in (
        ("#c2571a", bars[1], f"other products ({len(other)})", 60),
        ("#0b62c4", bars[0], f"the same product ({len(same)})", 240),
    ):
        for index, frequency in enumerate(heights):
            tall = 180 * float(frequency) / top
            parts.append(
                f'<rect x="{left + index * 12:.0f}" y="{low - tall:.1f}" width="11" height="{tall:.1f}" fill="{colour}" fill-opacity="0.6"/>'
            )
        parts.append(
            f'<rect x="{x}" y="{height + 8}" width="10" height="10" fill="{colour}"/><text x="{x + 16}" y="{height + 17}">{label}</text>'
        )
    at = left + threshold * 480
    parts.append(
        f'<line x1="{at:.1f}" y1="14" x2="{at:.1f}" y2="{low}" stroke="#111" stroke-dasharray="5 3"/><text x="{at + 5:.1f}" y="24">gate {threshold:.2f}</text>'
    )
    parts += [
        f'<text x="{left + step * 96}" y="{low + 18}" text-anchor="middle">{step / 5:g}</text>' for step in range(6)
    ]
    parts.append(f'<text x="{left + 240}" y="{low + 36}" text-anchor="middle">score</text></svg>')
    return "".join(parts) + "\n"


if __name__ == "__main__":
    main()
