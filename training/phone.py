"""Simulates what phones, mask networks and people do to photos of a product."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from gapray.geometry.frame import Placement, mask_box, to_frame

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Session:
    """The quality of one product's photos: drawn once, so that faults are correlated as they are in practice."""

    exposure: float
    """Standard deviation of each photo's exposure [stops]."""
    balance: float
    """Standard deviation of each photo's white balance, relative."""
    noise: float
    """Standard deviation of a pixel's grain, 0 … 1."""
    blur: float
    """Maximum standard deviation of the Gaussian blur [pixels]."""
    quality: tuple[int, int]
    """Range of JPEG quality."""
    azimuth: float
    """Maximum error of each photo's azimuth [degrees]."""
    mask: float
    """How wrong outlines are, 0 … 1; 0 = exact."""
    rim: float
    """Standard deviation of the Gaussian by which the mask network softens all outlines of this product [pixels of 256]."""
    level: float
    """Level at which the softened outline is then cut, 0 … 1; below 0.5 a rim of the backdrop is included."""
    own_crops: bool
    """Whether each photo was cropped to its product."""

    @staticmethod
    def studio() -> Session:
        """A session without faults: exact masks and angles, no grain, hardly any compression."""
        return Session(0.0, 0.0, 0.0, 0.0, (95, 96), 0.0, 0.0, 0.0, 0.5, own_crops=False)

    @staticmethod
    def random(rng: np.random.Generator) -> Session:
        """A random session, from rendered turntables to hurried phone photos."""
        careful = rng.random()
        bad = 0.0 if careful < 0.2 else rng.uniform(0.1, 1.0)
        mask = 0.0 if rng.random() < 0.25 else bad
        return Session(
            exposure=0.12 * bad * rng.random(),
            balance=0.04 * bad * rng.random(),
            noise=0.025 * bad * rng.random(),
            blur=0.9 * bad * rng.random(),
            quality=(int(95 - 30 * bad), 96),
            azimuth=0.0 if rng.random() < 0.35 else 2.0 * bad,
            mask=mask,
            rim=rng.uniform(0.3, 0.4 + 2.2 * mask),
            level=float(np.clip(0.5 + rng.normal(0, 0.15 * mask), 0.2, 0.8)),
            own_crops=bool(rng.random() < 0.1),
        )


def photographed(rng: np.random.Generator, colour: NDArray[np.float32], session: Session) -> Pixels:
    """Degrade an image to the photo that a file would hold.

    Args:
        rng: Random numbers of this photo.
        colour: float32 [P, P, 3], 0 … 1, with its backdrop.
        session: Quality of the product's photos.
    """
    gain = 2 ** rng.normal(0, session.exposure) * (1 + rng.normal(0, session.balance, 3))
    image = np.clip(colour, 0, 1) ** 2.2 * gain
    image = np.clip(image, 0, 1) ** (1 / 2.2)
    deviation = session.blur * rng.random()
    if deviation > 0.2:
        image = cv2.GaussianBlur(image, (0, 0), deviation)
        if rng.random() < 0.5:  # phones sharpen again
            image = image + rng.uniform(0.2, 0.8) * (image - cv2.GaussianBlur(image, (0, 0), 1.2))
    image = image + rng.normal(0, 1, image.shape) * session.noise * rng.random()
    pixels = (np.clip(image, 0, 1) * 255).round().astype(np.uint8)
    quality = int(rng.integers(*session.quality))
    _, packed = cv2.imencode(".jpg", pixels[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    return np.asarray(cv2.imdecode(packed, cv2.IMREAD_COLOR), np.uint8)[..., ::-1].copy()


def cut_out(rng: np.random.Generator, alpha: Pixels, session: Session) -> Pixels:
    """A mask such as a network makes of one photo: `outlined`, and sometimes lost thin parts, closed holes, a shadow.

    Args:
        rng: Random numbers of this photo.
        alpha: uint8 [P, P], the truth, not empty.
        session: Quality of the product's photos.

    Returns:
        uint8 [P, P]; the truth if less than 60 % of it would be left.
    """
    wrong = session.mask
    if wrong == 0:
        return alpha
    unit = alpha.shape[0] / 256
    # Networks treat all photos of a product nearly alike.
    rim = session.rim * float(np.exp(rng.normal(0, 0.15)))
    mask = _softened(alpha, rim, float(np.clip(session.level + rng.normal(0, 0.04 * wrong), 0.2, 0.8)))
    if rng.random() < 0.15 * wrong:  # holes are closed
        side = 2 * int(rng.uniform(2, 9) * unit) + 1
        mask = cv2.morphologyEx(mask, cv2.MORPH_CLOSE, np.ones((side, side), np.uint8))
    if rng.random() < 0.15 * wrong:  # thin parts are lost
        side = 2 * int(rng.uniform(0.5, 3) * unit) + 1
        mask = cv2.morphologyEx(mask, cv2.MORPH_OPEN, np.ones((side, side), np.uint8))
    if rng.random() < 0.15 * wrong:  # a shadow is mistaken for product, or a bright spot for backdrop
        rows, columns = np.nonzero((mask > 0.2) & (mask < 0.8))
        if len(rows):
            at = int(rng.integers(len(rows)))
            radii = (int(rng.uniform(2, 12) * unit), int(rng.uniform(2, 6) * unit))
            centre = (int(columns[at]), int(rows[at]))
            cv2.ellipse(mask, centre, radii, 0, 0, 360, float(rng.random() < 0.5), -1)
    return _unless_lost(mask, alpha)


def outlined(alpha: Pixels, session: Session) -> Pixels:
    """The outline that the product's masks have in common: softened corners, a rim too wide or too narrow.

    In-between frames should have it too, otherwise the outline of a turn alternates between photos and frames.

    Args:
        alpha: uint8 [P, P], the truth, not empty.
        session: Quality of the product's photos.

    Returns:
        uint8 [P, P]; the truth if less than 60 % of it would be left.
    """
    if session.mask == 0:
        return alpha
    return _unless_lost(_softened(alpha, session.rim, session.level), alpha)


def _softened(alpha: Pixels, rim: float, level: float) -> NDArray[np.float32]:
    """A softened mask, float32 [P, P], 0 … 1; its slope matches the blur, but always reaches both 0 and 1."""
    soft = cv2.GaussianBlur(alpha.astype(np.float32) / 255, (0, 0), rim * alpha.shape[0] / 256)
    slope = max(2.5 * rim, 0.5 / min(level, 1 - level))
    return np.asarray(np.clip((soft - level) * slope + 0.5, 0, 1), np.float32)


def _unless_lost(mask: NDArray[np.float32], alpha: Pixels) -> Pixels:
    """The mask as uint8, or the truth if too little of it would be left."""
    pixels = (mask * 255).round().astype(np.uint8)
    true, kept = int((alpha >= 128).sum()), int(((alpha >= 128) & (pixels >= 128)).sum())
    return pixels if kept > 0.6 * true else alpha


def own_crop(mask: Pixels, rng: np.random.Generator) -> Placement:
    """A square around the product, as in photos that were cropped one by one."""
    left, right, upper, lower = mask_box(mask >= 128)
    half = max(right - left, lower - upper) / 2 * (1.12 + rng.normal(0, 0.01))
    return Placement((left + right) / 2, (upper + lower) / 2, half)


def cropped(image: Pixels, placement: Placement, *, outside: int) -> Pixels:
    """Resample another square of a photo at the photo's own number of pixels."""
    return np.asarray(to_frame(image, placement, image.shape[0], outside=outside), np.uint8)
