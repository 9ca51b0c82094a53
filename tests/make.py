"""Small capture sets, drawn here: a textured box and ball that turn on a plain backdrop."""

import math
from pathlib import Path

import cv2
import numpy as np

from gapray.gap.package import GapPackage, GapView, Quality


def photo(azimuth_deg: float, *, size: int = 96, seed: int = 0, backdrop: int = 235) -> np.ndarray:
    """uint8 [size, size, 3]: an upright slab whose width follows its angle, with stripes that wander."""
    rng = np.random.default_rng(seed)
    colours = rng.integers(20, 200, (4, 3))
    image = np.full((size, size, 3), backdrop, np.uint8)
    angle = math.radians(azimuth_deg)
    half = int(size * (0.16 + 0.14 * abs(math.cos(angle))))
    top, bottom, middle = int(size * 0.2), int(size * 0.85), size // 2
    image[top:bottom, middle - half : middle + half] = colours[0]
    for stripe in range(3):
        x = int(middle + (half - 3) * math.sin(angle + 2 * math.pi * stripe / 3))
        image[top:bottom, max(middle - half, x - 2) : min(middle + half, x + 3)] = colours[stripe + 1]
    noise = rng.integers(-3, 4, image.shape)
    return np.clip(image.astype(int) + noise + int(azimuth_deg) % 5, 0, 255).astype(np.uint8)


def write_product(
    folder: Path, *, azimuths=range(0, 360, 45), size: int = 96, seed: int = 0, name: str | None = None
) -> Path:
    """Write one product's photos as ``<name>_<degrees>.png``."""
    folder.mkdir(parents=True, exist_ok=True)
    for azimuth in azimuths:
        image = photo(azimuth, size=size, seed=seed)
        cv2.imwrite(str(folder / f"{name or folder.name}_{azimuth:03d}.png"), image[..., ::-1])
    return folder


def write_products(root: Path, count: int, **options) -> Path:
    for index in range(count):
        write_product(root / f"sku-{index:04d}", seed=index, **options)
    return root


def view(azimuth_deg: float = 0.0, *, size: int = 32, seed: int = 0) -> GapView:
    """A view with random content but the right types."""
    rng = np.random.default_rng(seed)
    mask = np.zeros((size, size), np.uint8)
    mask[size // 4 : -size // 4, size // 4 : -size // 4] = 255
    depth = np.where(mask > 0, rng.integers(1, 65536, (size, size)), 0).astype(np.uint16)
    return GapView(
        name=f"p_{azimuth_deg:g}.jpg",
        azimuth_deg=azimuth_deg,
        uri=f"memory://p_{azimuth_deg:g}.jpg",
        sha256="0" * 64,
        reference=rng.integers(0, 256, (size, size, 3), dtype=np.uint8),
        mask=mask,
        depth=depth,
        canny=np.where(rng.random((size, size)) > 0.8, 255, 0).astype(np.uint8),
        identity=rng.random(517).astype(np.float32),
        quality=Quality(12.5, 0.0, 0.25),
    )


def package(product_id: str = "sku", *, key: str = "k" * 64, views: int = 8) -> GapPackage:
    return GapPackage(
        product_id,
        key,
        tuple(view(360 * step / views, seed=step) for step in range(views)),
        1.5,
        -0.25,
        {"mask": "m@1", "depth": "d@1", "canny": "c", "identity": "i@1"},
    )
