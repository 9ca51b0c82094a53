"""Mask IoU on the ETH-80 objects, of the network alone and after each step of clean-up.

python benchmarks/masks.py SPINS_FOLDER [MASK_CARD]
"""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import numpy as np

from gapray.capture.decode import decode_photo
from gapray.gap.settings import MaskSettings
from gapray.models.load import load_mask
from gapray.packaging.silhouette import apply_backdrop_key, clean_up, silhouette
from gapray.profile import load_profile


def iou(mask: np.ndarray, truth: np.ndarray) -> float:
    """Intersection over union of the mask, thresholded at half, and the truth."""
    inside = mask >= 128
    return float((inside & truth).sum() / (inside | truth).sum())


def main() -> None:
    root, card = Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else "u2netp"
    network = load_mask(load_profile("classic", overrides=[f"mask.model={card}"]).packaging, threads=2)
    settings = MaskSettings()
    print(f"{'object':16s} {'views':>5s} {'network':>8s} {'cleaned':>8s} {'keyed':>8s} {'all':>8s} {'worst':>8s}")
    everything = []
    for folder in sorted(root.glob("eth80_*")):
        scores = []
        for file in sorted(folder.glob("*.png"))[::2]:
            photo = decode_photo(file.read_bytes())
            truth = cv2.imread(str(folder / "masks" / file.name), 0) > 127
            [soft] = network.predict([photo])
            final = silhouette(photo, soft, settings)
            steps = [soft, clean_up(soft, settings.max_hole_share), apply_backdrop_key(photo, soft), final]
            scores.append([iou(mask, truth) for mask in steps])
        mean, worst = np.mean(scores, 0), np.min(scores, 0)[-1]
        everything += scores
        print(f"{folder.name:16s} {len(scores):5d} " + " ".join(f"{value:8.3f}" for value in [*mean, worst]))
    print(f"{'mean':16s} {len(everything):5d} " + " ".join(f"{value:8.4f}" for value in np.mean(everything, 0)))


if __name__ == "__main__":
    main()
