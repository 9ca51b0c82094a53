"""Textures of products: labels with text, bar codes and pictures; wood, cloth, stone, skin."""

from __future__ import annotations

import functools
from collections.abc import Callable
from importlib.metadata import entry_points
from itertools import pairwise
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

Print = Literal["label", "pattern", "picture"]
Colour = tuple[int, int, int]

WORDS = [
    "organic",
    "fresh",
    "natural",
    "original",
    "classic",
    "premium",
    "tomato",
    "soup",
    "milk",
    "orange",
    "juice",
    "coffee",
    "dark",
    "roast",
    "green",
    "tea",
    "whole",
    "grain",
    "sugar",
    "free",
    "vitamin",
    "C",
    "net",
    "weight",
    "ingredients",
    "water",
    "salt",
    "wheat",
    "flour",
    "cocoa",
    "butter",
    "may",
    "contain",
    "traces",
    "of",
    "nuts",
    "best",
    "before",
    "keep",
    "cool",
    "and",
    "dry",
    "shake",
    "well",
    "before",
    "use",
    "made",
    "in",
    "serving",
    "size",
    "per",
    "100",
    "g",
    "energy",
    "protein",
    "fat",
    "carbohydrate",
    "fibre",
    "sodium",
    "extra",
    "virgin",
    "olive",
    "oil",
    "shampoo",
    "soft",
    "clean",
    "repair",
    "500",
    "ml",
    "1.5",
    "l",
    "250",
    "g",
    "12",
    "oz",
    "33",
    "cl",
    "new",
    "recipe",
    "family",
    "pack",
    "light",
    "zero",
    "sparkling",
    "mineral",
    "spring",
    "forest",
    "mountain",
    "summer",
    "deluxe",
    "professional",
    "model",
    "no.",
    "series",
    "220",
    "V",
    "60",
    "Hz",
    "warranty",
    "recycle",
]
MIN_FONT_PX = 5


@functools.lru_cache
def font_files() -> tuple[str, ...]:
    """TrueType files on this machine: packages with the entry point `fonts_ttf`, Matplotlib's, the system's DejaVu."""
    packaged = [point.load() for point in entry_points(group="fonts_ttf")]
    paths = [path for files in packaged for path in (files.values() if isinstance(files, dict) else [files])]
    folders = [Path("/usr/share/fonts/truetype/dejavu")]
    try:
        import matplotlib  # type: ignore[import-not-found, unused-ignore]

        folders.append(Path(matplotlib.get_data_path()) / "fonts" / "ttf")
    except ImportError:
        pass
    for folder in folders:
        paths += sorted(str(path) for path in folder.glob("DejaVu*.ttf") if "Display" not in path.name)
    by_name = {Path(path).name: path for path in paths}
    return tuple(by_name[name] for name in sorted(by_name))


@functools.lru_cache(maxsize=512)
def font(index: int, px: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """One of the fonts, by index modulo their number; Pillow's own if there are none."""
    files = font_files()
    return ImageFont.truetype(files[index % len(files)], px) if files else ImageFont.load_default(px)


def paint(
    rng: np.random.Generator, width: int, height: int, *, panels: int = 1, kind: Print | None = None
) -> NDArray[np.uint8]:
    """Make a print, uint8 [height, width, 3].

    Args:
        rng: The same state gives the same print if the same fonts are installed.
        width: In pixels; the right edge continues at the left.
        height: In pixels.
        panels: Panels designed side by side; 4 for the sides of a box.
        kind: Default: mostly labels.
    """
    chosen = kind or rng.choice(["label", "pattern", "picture"], p=[0.78, 0.12, 0.1])
    if chosen == "picture":
        return picture(rng, width, height)
    if chosen == "pattern":
        return surface(rng, width, height)
    palette = _palette(rng)
    canvas = Image.new("RGB", (width, height), palette[0])
    edges = np.linspace(0, width, panels + 1).round().astype(int) if panels > 1 else _uneven(rng, width)
    similar = rng.random() < 0.5
    fixed = int(rng.integers(2**31))
    for index, (left, right) in enumerate(pairwise(edges)):
        own = np.random.default_rng(fixed + index % 2 if similar else int(rng.integers(2**31)))
        if right - left >= 12 and height >= 12:
            canvas.paste(_panel(own, int(right - left), height, palette), (int(left), 0))
    return np.asarray(canvas)


def _uneven(rng: np.random.Generator, width: int) -> NDArray[np.int64]:
    cuts = np.cumsum(rng.uniform(0.5, 1.5, int(rng.integers(2, 5))))
    return np.asarray(np.concatenate([[0], cuts / cuts[-1]]) * width).round().astype(np.int64)


def _palette(rng: np.random.Generator) -> list[Colour]:
    """A background, a band and contrasting inks."""
    base = rng.integers(0, 256, 3) if rng.random() < 0.65 else np.full(3, int(rng.integers(225, 256)))
    ink = np.full(3, 15) if base.mean() > 120 else np.full(3, 245)
    others = [rng.integers(0, 256, 3) for _ in range(3)]
    return [(int(c[0]), int(c[1]), int(c[2])) for c in (base, ink, *others)]


def _panel(rng: np.random.Generator, width: int, height: int, palette: list[Colour]) -> Image.Image:
    panel = Image.new("RGB", (width, height), palette[0])
    pen = ImageDraw.Draw(panel)
    for _ in range(int(rng.integers(0, 3))):  # bands
        top = int(rng.integers(0, height))
        pen.rectangle([0, top, width, top + int(rng.integers(2, max(3, height // 4)))], fill=_ink(rng, palette))
    if rng.random() < 0.45:
        w, h = int(width * rng.uniform(0.3, 0.95)), int(height * rng.uniform(0.15, 0.5))
        if min(w, h) >= 8:
            x, y = int(rng.integers(0, width - w + 1)), int(rng.integers(0, height - h + 1))
            panel.paste(Image.fromarray(picture(rng, w, h)), (x, y))
    for _ in range(int(rng.integers(0, 4))):
        _logo(rng, pen, width, height, palette)
    if rng.random() < 0.85:
        _title(rng, pen, width, height, palette)
    for _ in range(int(rng.integers(0, 4))):
        _paragraph(rng, pen, width, height, palette)
    if rng.random() < 0.3:
        _bar_code(rng, pen, width, height)
    return panel


def _ink(rng: np.random.Generator, palette: list[Colour]) -> Colour:
    return palette[int(rng.integers(1, len(palette)))]


def _words(rng: np.random.Generator, count: int) -> str:
    text = " ".join(str(word) for word in rng.choice(WORDS, count))
    style = rng.random()
    return text.upper() if style < 0.35 else text.title() if style < 0.7 else text


def _title(rng: np.random.Generator, pen: ImageDraw.ImageDraw, width: int, height: int, palette: list[Colour]) -> None:
    face = int(rng.integers(2**16))
    y = int(height * rng.uniform(0.03, 0.5))
    for _ in range(int(rng.integers(1, 4))):
        text = _words(rng, int(rng.integers(1, 3)))
        px = int(
            np.clip(1.7 * width * rng.uniform(0.5, 1.0) / max(len(text), 3), MIN_FONT_PX, height * 0.4 + MIN_FONT_PX)
        )
        x = int(width * rng.uniform(0.02, 0.15))
        outline = max(1, px // 14) if rng.random() < 0.2 else 0
        pen.text(
            (x, y), text, fill=_ink(rng, palette), font=font(face, px), stroke_width=outline, stroke_fill=palette[0]
        )
        y += int(px * 1.15)


def _paragraph(
    rng: np.random.Generator, pen: ImageDraw.ImageDraw, width: int, height: int, palette: list[Colour]
) -> None:
    px = int(rng.integers(MIN_FONT_PX, max(MIN_FONT_PX + 1, min(18, height // 5 + MIN_FONT_PX + 1))))
    face, fill = font(int(rng.integers(2**16)), px), palette[1]
    x, y = int(width * rng.uniform(0, 0.6)), int(height * rng.uniform(0, 0.9))
    lines, table = int(rng.integers(2, 9)), rng.random() < 0.3
    per_line = max(1, int((width - x) / (px * 3.2)))
    if rng.random() < 0.3:
        pen.rectangle([x - 2, y - 2, width, y + lines * px * 1.25], fill=(255, 255, 255))
        fill = (10, 10, 10)
    for line in range(lines):
        top = y + int(line * px * 1.25)
        pen.text((x, top), _words(rng, per_line), fill=fill, font=face)
        if table:
            pen.line([x, top + px * 1.2, width, top + px * 1.2], fill=fill)


def _bar_code(rng: np.random.Generator, pen: ImageDraw.ImageDraw, width: int, height: int) -> None:
    """95 modules as in EAN-13, of widths 1 to 4, on white, with digits below."""
    module = max(1, int(min(width, 260) * rng.uniform(0.4, 0.9) / 105))
    tall = int(np.clip(module * 55, 8, height * 0.4))
    x0, y0 = int(rng.integers(0, max(1, width - 105 * module))), int(rng.integers(0, max(1, height - tall - 12)))
    pen.rectangle([x0, y0, x0 + 105 * module, y0 + tall + 10], fill=(255, 255, 255))
    x, dark = x0 + 5 * module, True
    while x < x0 + 100 * module:
        run = int(rng.integers(1, 5)) * module
        if dark:
            pen.rectangle([x, y0 + 3, x + run - 1, y0 + tall], fill=(8, 8, 8))
        x, dark = x + run, not dark
    digits = "".join(str(digit) for digit in rng.integers(0, 10, 13))
    pen.text((x0 + 5 * module, y0 + tall), digits, fill=(8, 8, 8), font=font(0, max(MIN_FONT_PX, 7 * module)))


def _logo(rng: np.random.Generator, pen: ImageDraw.ImageDraw, width: int, height: int, palette: list[Colour]) -> None:
    r = min(width, height) * rng.uniform(0.05, 0.3)
    x, y = rng.uniform(0, width), rng.uniform(0, height)
    fill = _ink(rng, palette)
    if rng.random() < 0.4:
        pen.ellipse([x - r, y - r * 0.8, x + r, y + r * 0.8], fill=fill, outline=palette[1], width=max(1, int(r / 12)))
        return
    corners = int(rng.integers(3, 9))
    turns = np.sort(rng.uniform(0, 2 * np.pi, corners))
    radii = r * rng.uniform(0.4, 1, corners)
    pen.polygon([(x + a * np.cos(t), y + a * np.sin(t)) for a, t in zip(radii, turns, strict=True)], fill=fill)


def clouds(
    rng: np.random.Generator, width: int, height: int, *, roughness: float = 1.0, stretch: float = 1.0
) -> NDArray[np.float32]:
    """Fractal noise, about 0 … 1, float32 [height, width]; `stretch` above 1 elongates it vertically."""
    total = np.zeros((height, width), np.float32)
    weight, cells = 0.0, 2
    while cells < max(width, height):
        across, up = max(2, min(cells, width)), max(2, min(int(cells / stretch), height))
        coarse = rng.random((up, across), dtype=np.float32)
        amplitude = cells**-roughness
        total += cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC) * amplitude
        weight, cells = weight + amplitude, cells * 2
    spread = (total / weight - 0.5) * 2.2 + 0.5
    return np.asarray(np.clip(spread, 0, 1), np.float32)


def picture(rng: np.random.Generator, width: int, height: int) -> NDArray[np.uint8]:
    """Something like a photo: flowing colours, soft and hard shapes, light and grain, uint8 [height, width, 3]."""
    ramp = rng.random((5, 3)).astype(np.float32)
    field = clouds(rng, width, height, roughness=rng.uniform(0.7, 1.6))
    image = np.stack([np.interp(field, np.linspace(0, 1, 5), ramp[:, channel]) for channel in range(3)], -1)
    y, x = np.mgrid[:height, :width].astype(np.float32)
    for _ in range(int(rng.integers(1, 9))):  # lit round objects
        r = min(width, height) * rng.uniform(0.06, 0.35)
        cx, cy, flat = rng.uniform(0, width), rng.uniform(0, height), rng.uniform(0.6, 1.4)
        inside = 1 - ((x - cx) ** 2 + ((y - cy) * flat) ** 2) / r**2
        light = np.clip(0.45 + 0.55 * np.sqrt(np.clip(inside, 0, 1)) - 0.25 * (x - cx + y - cy) / (2 * r), 0, 1.1)
        cover = np.clip(inside * r, 0, 1)[..., None]
        image = image * (1 - cover) + cover * light[..., None] * rng.random(3)
    grain = rng.normal(0, rng.uniform(0, 0.04), (height, width, 1))
    return np.asarray((np.clip(image + grain, 0, 1) * 255).round(), np.uint8)


def surface(rng: np.random.Generator, width: int, height: int) -> NDArray[np.uint8]:
    """A random material, uint8 [height, width, 3]."""
    maker: Callable[[np.random.Generator, int, int], NDArray[np.float32]] = MATERIALS[int(rng.integers(len(MATERIALS)))]
    image = maker(rng, width, height)
    return np.asarray((np.clip(image, 0, 1) * 255).round(), np.uint8)


def _between(rng: np.random.Generator, fraction: NDArray[np.float32], contrast: float = 1.0) -> NDArray[np.float32]:
    """Interpolate between two random colours, float32 [H, W, 3]; `fraction` [H, W] is the weight of the second, 0 … 1."""
    first = rng.random(3)
    second = np.clip(first + (rng.random(3) - first) * contrast, 0, 1)
    return np.asarray(first + fraction[..., None] * (second - first), np.float32)


def _wood(rng: np.random.Generator, width: int, height: int) -> NDArray[np.float32]:
    grain = clouds(rng, width, height, roughness=0.9, stretch=rng.uniform(8, 24))
    rings = 0.5 + 0.5 * np.sin(grain * rng.uniform(10, 50))
    base = np.array([0.55, 0.36, 0.2]) * rng.uniform(0.4, 1.6) + rng.normal(0, 0.03, 3)
    shade = 0.75 + 0.25 * rings + 0.2 * (clouds(rng, width, height, roughness=0.4, stretch=6) - 0.5)
    return np.asarray(base * shade[..., None], np.float32)


def _plaid(rng: np.random.Generator, width: int, height: int) -> NDArray[np.float32]:
    """Crossing stripes: checks, tartans, ticking."""
    cell = max(4, int(rng.uniform(0.03, 0.2) * max(width, height)))
    count = int(rng.integers(2, 6))
    stops, colours = np.sort(rng.random(count)), rng.random((count, 3))

    def stripes(length: int) -> NDArray[np.float64]:
        at = np.searchsorted(stops, (np.arange(length) % cell) / cell) % count
        return np.asarray(colours[at])

    across, up = stripes(width)[None], stripes(height)[:, None]
    mixed = (across + up) / 2 if rng.random() < 0.7 else np.broadcast_to(across, (height, width, 3))
    return np.asarray(mixed + (rng.random((height, width, 1)) - 0.5) * 0.08, np.float32)


def _knit(rng: np.random.Generator, width: int, height: int) -> NDArray[np.float32]:
    y, x = np.mgrid[:height, :width].astype(np.float32)
    period = rng.uniform(3, 9)
    weave = (
        0.5
        + 0.25 * np.sin(2 * np.pi * x / period) * np.sin(2 * np.pi * y / period)
        + 0.2 * (rng.random((height, width)) - 0.5)
    )
    return _between(rng, np.asarray(weave, np.float32), 0.5)


def _stone(rng: np.random.Generator, width: int, height: int) -> NDArray[np.float32]:
    image = _between(rng, clouds(rng, width, height, roughness=rng.uniform(0.3, 1.3)), rng.uniform(0.1, 0.8))
    spots = (rng.random((height, width)) < rng.uniform(0, 0.02)).astype(np.float32)
    size = int(rng.integers(1, 5))
    spots = cv2.dilate(spots, np.ones((size, size), np.uint8))[..., None]
    return np.asarray(image * (1 - spots) + spots * rng.random(3), np.float32)


def _brushed(rng: np.random.Generator, width: int, height: int) -> NDArray[np.float32]:
    lines = rng.random((height, 1), dtype=np.float32) * np.ones((1, width), np.float32)
    fraction = 0.5 + 0.5 * (cv2.GaussianBlur(lines, (0, 0), 1) - 0.5) + 0.3 * (clouds(rng, width, height) - 0.5)
    return _between(rng, np.asarray(fraction, np.float32), 0.25)


def _skin(rng: np.random.Generator, width: int, height: int) -> NDArray[np.float32]:
    """Fruit and ceramics: one colour blending into another, with faint mottling."""
    slope = np.linspace(0, 1, height, dtype=np.float32)[:, None] * np.ones((1, width), np.float32)
    fraction = np.clip(slope + 0.7 * (clouds(rng, width, height, roughness=1.2) - 0.5), 0, 1)
    return _between(rng, np.asarray(fraction, np.float32), rng.uniform(0.2, 1))


def _dots(rng: np.random.Generator, width: int, height: int) -> NDArray[np.float32]:
    y, x = np.mgrid[:height, :width].astype(np.float32)
    cell = rng.uniform(8, 40)
    odd = np.floor(y / cell) % 2 * cell / 2
    near = ((x + odd) % cell - cell / 2) ** 2 + (y % cell - cell / 2) ** 2
    return _between(rng, np.asarray(np.clip(cell * rng.uniform(0.2, 0.4) - np.sqrt(near), 0, 1), np.float32))


MATERIALS = (_wood, _plaid, _knit, _stone, _brushed, _skin, _dots, _skin, _wood)
