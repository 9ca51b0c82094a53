"""Backend `composite`: the photo's own product on a drawn surface, with its shadow. No weights, no relighting.

The product's pixels are the photo's; only its edge is blended and the light's colour laid over it. Labels therefore survive
letter for letter, and no pose is shown that the camera did not capture.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from gapray.gap.package import GapPackage, GapView
from gapray.geometry.frame import mask_box
from gapray.resample import cropped, resized
from gapray.stills.scene import Scene, Surface
from gapray.stills.settings import StillSettings
from gapray.stills.still import Still, still_size

HORIZON = 0.56
"""Where the surface ends, as a fraction of the picture's height from the top."""
FEET = 0.86
"""Where the product stands, likewise."""
MAX_EXTENT = 0.58
"""Maximum height and width of the product, as a fraction of the picture's."""
TINT = 0.12
"""How strongly the product takes on the light's colour, 0 … 1."""
OCTAVES = 6

_Floats = NDArray[np.float32]


class Composite:
    """Pastes the product into a drawn scene."""

    name = "composite"
    licence = "Apache-2.0"
    generative = False

    def generate(
        self, package: GapPackage, view: GapView, scene: Scene, settings: StillSettings, *, seeds: Sequence[int]
    ) -> list[Still]:
        """Draw the scene with the product in it, as described in `StillBackend.generate`."""
        scene.prompt_for(package.product_id)  # refuse here, too, a scene that no model could draw
        size = still_size(view.mask.shape[0], view.mask.shape[1], settings.megapixels)
        product = _placed(view, size)
        return [_drawn(product, scene, size, np.random.default_rng(seed)) for seed in seeds]


@dataclass(frozen=True)
class _Product:
    """The product placed in the picture's frame."""

    colour: _Floats
    """float32 [H, W, 3], 0 … 1."""
    alpha: _Floats
    """float32 [H, W], 0 … 1."""
    feet: float
    """Row of its lowest point."""
    middle: float
    """Column of its middle."""
    height: float
    """Height [pixels]."""


def _placed(view: GapView, size: tuple[int, int]) -> _Product:
    height, width = size
    left, right, upper, lower = mask_box(view.mask >= 128)
    scale = min(MAX_EXTENT * height / (lower - upper), MAX_EXTENT * width / (right - left))
    middle, across = (left + right) / 2, width / scale
    box = middle - across / 2, middle + across / 2, lower - FEET * height / scale, lower + (1 - FEET) * height / scale
    # Just outside the mask is backdrop, which must not shine through at the product's edge.
    clean = cv2.inpaint(view.reference, ((view.mask < 230) & (view.mask > 0)).astype(np.uint8), 3, cv2.INPAINT_TELEA)
    return _Product(
        np.asarray(cropped(clean, box, size, outside=None) / np.float32(255), np.float32),
        np.asarray(cropped(view.mask, box, size) / np.float32(255), np.float32),
        FEET * height,
        width / 2,
        scale * (lower - upper),
    )


def _drawn(product: _Product, scene: Scene, size: tuple[int, int], rng: np.random.Generator) -> Still:
    backdrop = _backdrop(scene, size, rng)
    light = scene.light
    shade = np.maximum(_cast_shadow(product, scene, size), _contact_shadow(product, size)) * light.shadow
    floor = backdrop * (1 - shade[..., None] * (1 - 0.15 * _rgb(light.colour)))
    tint = 1 + TINT * (_rgb(light.colour) / max(float(_rgb(light.colour).mean()), 1e-3) - 1)
    alpha = product.alpha[..., None]
    image = product.colour * tint * alpha + floor * (1 - alpha)
    grain = rng.normal(0, 0.006, (*size, 1)).astype(np.float32) * (1 - alpha)
    picture = np.rint(np.clip(image + grain, 0, 1) * 255).astype(np.uint8)
    return Still(picture, np.rint(product.alpha * 255).astype(np.uint8), pasted=True)


def _backdrop(scene: Scene, size: tuple[int, int], rng: np.random.Generator) -> _Floats:
    height, width = size
    rows = (np.arange(height, dtype=np.float32) + 0.5) / height
    columns = (np.arange(width, dtype=np.float32) + 0.5) / width - 0.5
    horizon = HORIZON + rng.uniform(-0.02, 0.02)
    up = np.clip(rows / horizon, 0, 1)[:, None, None]
    wall = _rgb(scene.wall.top) * (1 - up) + _rgb(scene.wall.bottom) * up + np.zeros((height, width, 3), np.float32)
    blobs = cv2.GaussianBlur(_noise(256, rng, roughness=0.5), (0, 0), 7)
    blobs = resized(blobs, size)
    wall = wall * (1 + 0.25 * (blobs - blobs.mean())[..., None])
    # A point of the surface at depth z is seen at horizon + h / z below the top.
    below = np.maximum(rows - horizon, 1e-3)
    depth = np.repeat((0.35 / below)[:, None], width, 1)
    across = columns[None] * depth * (width / height)
    x, z = (np.asarray(coordinate * 2 + rng.uniform(0, 50), np.float32) for coordinate in (across, depth))
    pattern = _pattern(scene.surface, x, z, rng)
    first, second = (_rgb(colour) for colour in scene.surface.colours)
    surface = first * (1 - pattern[..., None]) + second * pattern[..., None]
    # Light falls off with distance from its source.
    side = math.sin(math.radians(scene.light.azimuth_deg))
    glow = 1 + 0.22 * (1 - scene.light.softness) * side * columns[None, :, None] * 2
    far = np.clip(1 - (rows - horizon) / 0.5, 0, 1)[:, None, None]
    surface = surface * (1 - 0.12 * far)
    edge = np.clip((rows - horizon) / 0.012 + 0.5, 0, 1)[:, None, None]
    full = (wall * (1 - edge) + surface * edge) * glow
    # The far half of the surface is out of focus like the wall.
    soft = cv2.GaussianBlur(full, (0, 0), height / 90)
    sharp = np.clip((rows - horizon) / 0.18, 0, 1)[:, None, None]
    light = 0.5 + 0.5 * _rgb(scene.light.colour)
    return np.asarray((soft * (1 - sharp) + full * sharp) * light, np.float32)


def _pattern(surface: Surface, x: _Floats, z: _Floats, rng: np.random.Generator) -> _Floats:
    """Amount of the second colour at points of the surface, 0 … 1."""
    noise = _noise(512, rng, roughness=0.55)

    def at(scale_x: float, scale_z: float) -> _Floats:
        u, v = (
            np.asarray((coordinate * scale * 64) % 512, np.float32)
            for coordinate, scale in ((x, scale_x), (z, scale_z))
        )
        return np.asarray(cv2.remap(noise, u, v, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP), np.float32)

    def marble() -> _Floats:
        veins = np.abs(np.sin(2.2 * (x + z) + 7 * at(0.8, 0.8)))
        return np.asarray(np.clip(1 - veins * 6, 0, 1) * 0.9 + 0.25 * at(1.5, 1.5), np.float32)

    def wood() -> _Floats:
        grain = 0.5 + 0.5 * np.sin(18 * (z * 0.35 + 0.5 * at(0.12, 0.5)) * math.pi)
        seam = np.abs((z * 1.1) % 1.0 - 0.5) > 0.485
        return np.asarray(0.55 * grain + 0.45 * at(0.25, 4.0) + 0.5 * seam, np.float32)

    def tile() -> _Floats:
        joint = np.maximum(np.abs(x % 1.0 - 0.5), np.abs(z % 1.0 - 0.5)) > 0.475
        return np.asarray(joint + 0.15 * at(0.7, 0.7), np.float32)

    drawn: dict[str, Callable[[], _Floats]] = {
        "plain": lambda: 0.3 * at(0.3, 0.3),
        "marble": marble,
        "wood": wood,
        "speckle": lambda: 1.6 * at(7.0, 7.0) - 0.3 + 0.4 * at(0.6, 0.6),
        "weave": lambda: np.float32(0.175) * (2 + np.sin(70 * x) + np.sin(70 * z)) + 0.3 * at(3.0, 3.0),
        "tile": tile,
        "brushed": lambda: at(0.06, 9.0),
    }
    return np.clip(drawn[surface.kind](), 0, 1).astype(np.float32)


def _noise(side: int, rng: np.random.Generator, *, roughness: float) -> _Floats:
    """Fractal noise that tiles seamlessly, float32 [side, side], 0 … 1."""
    total = np.zeros((side, side), np.float32)
    for octave in range(OCTAVES):
        cells = 4 << octave
        grid = np.pad(rng.random((cells, cells), np.float32), 2, mode="wrap")
        scale = side // cells
        fine = resized(grid, (scale * len(grid),) * 2)
        total += roughness**octave * fine[2 * scale : 2 * scale + side, 2 * scale : 2 * scale + side]
    total -= total.min()
    return np.asarray(total / max(float(total.max()), 1e-6), np.float32)


def _cast_shadow(product: _Product, scene: Scene, size: tuple[int, int]) -> _Floats:
    """The silhouette cast on the surface, away from the light, softer with distance; float32 [H, W], 0 … 1."""
    height, width = size
    light = scene.light
    length = min(1.2, 0.5 / math.tan(math.radians(light.elevation_deg)))
    lean = -math.sin(math.radians(light.azimuth_deg)) * length
    flat = min(-0.05, -0.35 * length * math.cos(math.radians(light.azimuth_deg)))
    # A point above the feet is moved aside, and towards the horizon, in proportion to its height.
    aside = np.array([[1.0, -lean, (product.feet - 0.5) * lean], [0.0, 1.0, 0.0]])
    leaning = cv2.warpAffine(product.alpha, aside, (width, height))  # rows slide and keep their size
    upper, lower = (product.feet + (edge - product.feet) / -flat for edge in (0, height))
    laid = cropped(leaning, (0, width, upper, lower), size)
    near = cv2.GaussianBlur(laid, (0, 0), height * (0.003 + 0.02 * light.softness))
    wide = cv2.GaussianBlur(laid, (0, 0), height * (0.012 + 0.06 * light.softness))
    away = np.clip((product.feet - np.arange(height, dtype=np.float32)) / max(product.height * 0.35 * length, 1), 0, 1)
    shadow = near * (1 - away[:, None]) + wide * away[:, None]
    return np.asarray(shadow * (1 - 0.55 * light.softness) * (1 - 0.5 * away[:, None]), np.float32)


def _contact_shadow(product: _Product, size: tuple[int, int]) -> _Floats:
    """The dark area where the product touches the surface and no light gets in; float32 [H, W], 0 … 1."""
    height, _ = size
    rows = np.arange(height, dtype=np.float32)
    lowest = product.alpha * (rows > product.feet - 0.06 * product.height)[:, None]
    drop = np.roll(lowest, round(0.01 * height), 0)
    tight = cv2.GaussianBlur(drop, (0, 0), height * 0.006)
    wide = cv2.GaussianBlur(drop, (0, 0), height * 0.022)
    return np.asarray(np.clip(0.75 * tight + 0.7 * wide, 0, 1), np.float32)


def _rgb(colour: str) -> _Floats:
    return np.asarray(np.array(list(bytes.fromhex(colour[1:]))) / 255, np.float32)
