"""How a video moves: flicker, and whether the turn closes. Steadiness alone proves nothing: a frozen video is steady too."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

CONSISTENT_PX = 1.0
"""Pixels whose forward and backward flow differ by more are occluded, and no warp explains them [pixels]."""


def flicker(frames: NDArray[np.uint8], masks: NDArray[np.uint8]) -> float:
    """Flow-warp error (Lai et al. 2018, "Learning blind video temporal consistency"), lower is better.

    The mean absolute difference between each frame and the next one warped onto it, where both show the product and the
    flow is consistent both ways; optical flow by DIS.

    Args:
        frames: uint8 [F, S, S, 3], F >= 2; the first follows the last.
        masks: uint8 [F, S, S], 128 and above = product.

    Returns:
        0 … 1 (grey levels over 255).
    """
    solver = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames]
    errors = []
    for current in range(len(frames)):
        following = (current + 1) % len(frames)
        forward = solver.calc(grey[current], grey[following], None)
        backward = solver.calc(grey[following], grey[current], None)
        at = _grid(frames.shape[1:3]) + forward
        returned = cv2.remap(backward, at, None, cv2.INTER_LINEAR)
        seen = cv2.remap(masks[following], at, None, cv2.INTER_LINEAR) >= 128
        consistent = np.linalg.norm(forward + returned, axis=-1) < CONSISTENT_PX
        visible = (masks[current] >= 128) & seen & consistent
        warped = cv2.remap(frames[following], at, None, cv2.INTER_LINEAR)
        if visible.any():
            errors.append(np.abs(warped.astype(float) - frames[current])[visible].mean() / 255)
    return float(np.mean(errors)) if errors else 0.0


def turn_steps(frames: NDArray[np.uint8]) -> list[tuple[NDArray[np.uint8], NDArray[np.uint8]]]:
    """Pairs of successive frames of a turn, uint8 [S, S, 3] each; the first follows the last."""
    return list(zip(frames, np.roll(frames, -1, axis=0), strict=True))


def loop_gap(steps: Sequence[float]) -> float:
    """LPIPS from the last frame to the first, over the mean LPIPS of all other steps.

    About 1 means that the turn closes; above 2 viewers see the seam. 0 for a video that does not move.

    Args:
        steps: LPIPS of each pair of `turn_steps`, at least two.
    """
    mean = float(np.mean(steps[:-1]))
    return float(steps[-1]) / mean if mean > 1e-6 else 0.0


def _grid(shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Pixel coordinates x, y of an [H, W] image, float32 [H, W, 2]."""
    y, x = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
    return np.stack([x, y], -1)
