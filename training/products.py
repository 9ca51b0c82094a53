"""Procedural products: a few dozen kinds of solids, materials and prints that resemble what shops sell.

A product is a union of two kinds of solids. A *loft* is a rounded rectangle whose width, depth and position change along its
own vertical axis: bottles, boxes, gables, shoes, legs, bent wires. An *arc* is part of a torus: handles. Lofts marked as
cuts are subtracted: the inside of a mug. Lengths are in half frames after `normalised`; +y is up.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from training.prints import Print, paint, surface

SAMPLES = 33
"""Samples of a loft's profiles, from its lower end to its upper."""
FILL = (0.5, 0.84)
"""Range of the largest extent of a normalised product [half frames]."""
MAX_LOFTS, MAX_ARCS = 24, 8

Vector = NDArray[np.float64]
Curve = NDArray[np.float64]


@dataclass(frozen=True)
class Finish:
    """Appearance of a solid's surface."""

    colour: tuple[float, float, float]
    """sRGB, 0 … 1, where there is no print."""
    print: int | None = None
    """Index into `Product.prints`."""
    faces: bool = False
    """Whether the print's quarters are the four sides of a box; otherwise it wraps around."""
    gloss: float = 0.1
    """Strength of reflections, 0 … 1."""
    roughness: float = 0.4
    """Width of highlights, 0 … 1."""
    metal: float = 0.0
    """Fraction of the reflection that is tinted by the colour, 0 … 1."""
    clear: float = 0.0
    """Fraction of the light that is transmitted, 0 … 1."""


@dataclass(frozen=True)
class Loft:
    """A rounded rectangle swept along a vertical axis."""

    centre: Vector
    """[3]."""
    rotation: Vector
    """[3, 3]: columns are the loft's own axes in the world."""
    half_height: float
    profile: Curve
    """[SAMPLES, 4]: half width, half depth, shift along the width, shift along the depth."""
    corner: float
    """Radius of the corners as a fraction of the shorter half side; 1 with equal sides is round."""
    finish: Finish
    cut: bool = False
    """Whether the solid is subtracted."""


@dataclass(frozen=True)
class Arc:
    """Part of a torus in a vertical plane, open downwards in its own axes."""

    centre: Vector
    """[3]."""
    rotation: Vector
    """[3, 3]: columns are the arc's own axes in the world."""
    radius: float
    thickness: float
    half_angle: float
    """Half the angle that the arc spans [radians], measured from its top; pi is a whole ring."""
    flat: float
    """Its width across the plane, in thicknesses."""
    finish: Finish


@dataclass(frozen=True)
class Product:
    """A product to photograph."""

    kind: str
    lofts: tuple[Loft, ...]
    arcs: tuple[Arc, ...] = ()
    prints: tuple[NDArray[np.uint8], ...] = ()
    """uint8 [h, w, 3] each."""
    blend: float = 0.0
    """Distance over which solids blend into each other [half frames]."""
    bounds: Vector = field(default_factory=lambda: np.ones(3))
    """Half extents of a box around the origin that contains everything, [3]."""


class Shop:
    """Draws random numbers and materials for one product, and collects its prints.

    Args:
        rng: Random numbers of shapes.
        paint: Random numbers of colours and prints, so that one shape can be painted in many ways.
        print_px: Pixels of a print for each half frame of surface.
        labels: Whether prints are mostly labels; otherwise patterns.
    """

    def __init__(self, rng: np.random.Generator, paint: np.random.Generator, print_px: float, labels: bool) -> None:
        self.rng, self.paint, self.print_px, self.labels = rng, paint, print_px, labels
        self.prints: list[NDArray[np.uint8]] = []

    def between(self, low: float, high: float) -> float:
        """A uniformly distributed number."""
        return float(self.rng.uniform(low, high))

    def maybe(self, probability: float) -> bool:
        """True with this probability."""
        return bool(self.rng.random() < probability)

    def colour(self) -> tuple[float, float, float]:
        """A random colour, sRGB, 0 … 1; white, grey and black are as common as other colours."""
        draw = self.paint.uniform
        if self.paint.random() < 0.45:
            grey, warm = draw(0.03, 0.95), draw(-0.04, 0.04)
            return grey + warm, grey, grey - warm
        hue, saturation, value = draw(0, 1), draw(0.15, 0.9), draw(0.2, 0.98)
        shades = [value * (1 - saturation * max(0.0, min(1.0, abs((hue * 6 + k) % 6 - 3) - 1))) for k in (5, 3, 1)]
        return shades[0], shades[1], shades[2]

    def finish(self, **fixed: float) -> Finish:
        """A matt, satin, glossy or metallic finish, with some fields fixed."""
        draw = self.paint.uniform
        style = int(self.paint.choice(4, p=[0.35, 0.3, 0.25, 0.1]))
        gloss = draw(*((0, 0.05), (0.05, 0.25), (0.25, 0.7), (0.4, 0.9))[style])
        rough = draw(*((0.6, 0.6), (0.3, 0.5), (0.05, 0.25), (0.1, 0.35))[style])
        finish = Finish(self.colour(), gloss=gloss, roughness=rough, metal=float(style == 3))
        return replace(finish, **fixed)  # type: ignore[arg-type]  # floats only

    def printed(self, across: float, up: float, *, faces: bool = False) -> Finish:
        """A finish with a print for a wrap of this length and height [half frames, before normalising]."""
        width, height = (int(np.clip(round(side * self.print_px), 16, 1600)) for side in (across, up))
        base = self.finish()
        kind: Print | None = None if self.labels else "pattern"
        self.prints.append(paint(self.paint, width, height, panels=4 if faces else 1, kind=kind))
        return replace(base, print=len(self.prints) - 1, faces=faces, metal=0.0, gloss=min(base.gloss, 0.5))

    def grained(self, across: float, up: float, *, faces: bool = False) -> Finish:
        """A textured material of this length and height: wood, cloth, stone, brushed metal."""
        width, height = (int(np.clip(round(side * self.print_px), 16, 1200)) for side in (across, up))
        self.prints.append(surface(self.paint, width, height))
        gloss = self.paint.uniform(0, 0.2)
        return replace(self.finish(), print=len(self.prints) - 1, faces=faces, gloss=gloss, metal=0.0)


def turn_about(axis: int, angle: float) -> Vector:
    """Rotation matrix about x, y or z (0, 1, 2)."""
    cos, sin = math.cos(angle), math.sin(angle)
    first, second = (axis + 1) % 3, (axis + 2) % 3
    matrix = np.eye(3)
    matrix[first, first] = matrix[second, second] = cos
    matrix[first, second], matrix[second, first] = -sin, sin
    return matrix


def curve(points: list[tuple[float, float]], smooth: int = 0) -> Curve:
    """A curve [SAMPLES] through points (position 0 … 1, value), with corners smoothed over `smooth` samples."""
    at, values = zip(*points, strict=True)
    line = np.interp(np.linspace(0, 1, SAMPLES), at, values)
    for _ in range(smooth):
        line = np.convolve(np.pad(line, 1, mode="edge"), [0.25, 0.5, 0.25], mode="valid")
    return np.asarray(line)


def profile(
    width: Curve | float, depth: Curve | float | None = None, x: Curve | float = 0, z: Curve | float = 0
) -> Curve:
    """The profile of a loft, [SAMPLES, 4]; the depth equals the width unless it is given."""
    columns = [width, width if depth is None else depth, x, z]
    return np.stack([np.broadcast_to(np.asarray(column, float), (SAMPLES,)) for column in columns], 1)


def loft(
    centre: tuple[float, float, float],
    half_height: float,
    sides: Curve,
    finish: Finish,
    *,
    corner: float = 1.0,
    rotation: Vector | None = None,
    cut: bool = False,
) -> Loft:
    """Make a loft from plain tuples."""
    return Loft(np.array(centre), np.eye(3) if rotation is None else rotation, half_height, sides, corner, finish, cut)


def block(
    centre: tuple[float, float, float], half: tuple[float, float, float], finish: Finish, corner: float = 0.05
) -> Loft:
    """Make a box."""
    return loft(centre, half[1], profile(half[0], half[2]), finish, corner=corner)


def rod(begin: Vector, end: Vector, radius: float, finish: Finish, *, bend: float = 0.0) -> Loft:
    """Make a round bar or wire from one point to another, bent sideways by `bend` in its middle."""
    up = (end - begin) / np.linalg.norm(end - begin)
    side = np.cross(up, [0.3, 0.2, 1.0])
    side /= np.linalg.norm(side)
    axes = np.stack([side, up, np.cross(side, up)], 1)
    arch = bend * np.sin(np.linspace(0, math.pi, SAMPLES))
    half = float(np.linalg.norm(end - begin)) / 2
    return Loft((begin + end) / 2, axes, half + radius, profile(radius, radius, arch), 1.0, finish)


def hollowed(shell: Loft, wall: float, floor: float) -> Loft:
    """The inside of a vessel, to be cut out of its shell."""
    inner = shell.profile.copy()
    inner[:, :2] = np.maximum(inner[:, :2] - wall, 0.004)
    return replace(shell, centre=shell.centre + np.array([0, floor, 0]), profile=inner, cut=True)


def handle(shop: Shop, at: float, y: float, radius: float, finish: Finish, angle: float, *, level: bool = False) -> Arc:
    """A ring that sticks out sideways at distance `at` from the axis; `level` lays it flat, like a pot's ears."""
    turn = turn_about(1, angle)
    axes = turn @ turn_about(2, -math.pi / 2) @ (turn_about(1, math.pi / 2) if level else np.eye(3))
    return Arc(
        turn @ np.array([at, y, 0.0]),
        axes,
        radius,
        radius * shop.between(0.1, 0.2),
        math.pi * 0.62,
        shop.between(1, 2),
        finish,
    )


def bottle(shop: Shop) -> Product:
    """A bottle with shoulder, neck, cap and label; round, oval or square; sometimes a jug with a handle."""
    r, h = shop.between(0.16, 0.34), shop.between(0.5, 0.9)
    shoulder, neck = shop.between(0.55, 0.8), shop.between(0.25, 0.5)
    waist = shop.between(0.85, 1.05)
    body = curve([(0, 0.93), (0.03, 1), (shoulder * 0.5, waist), (shoulder, 1), (shoulder + 0.15, neck), (1, neck)], 2)
    oval, corner = shop.between(0.5, 1) if shop.maybe(0.4) else 1.0, 1.0 if shop.maybe(0.7) else shop.between(0.2, 0.6)
    clear = shop.between(0.4, 0.85) if shop.maybe(0.35) else 0.0
    skin = shop.finish(clear=clear, gloss=shop.between(0.2, 0.7) if clear else shop.between(0, 0.6))
    parts = [loft((0, 0, 0), h, profile(r * body, r * body * oval), skin, corner=corner)]
    low, high = sorted((shop.between(0.05, 0.3), shop.between(0.35, 0.62)))
    label = profile(r * 1.006 * np.interp(np.linspace(low, high, SAMPLES), np.linspace(0, 1, SAMPLES), body))
    label[:, 1] *= oval
    middle, half = (low + high - 1) * h, (high - low) * h
    parts.append(loft((0, middle, 0), half, label, shop.printed(2 * math.pi * r, 2 * half), corner=corner))
    cap, cap_h = neck * r * shop.between(1.02, 1.4), shop.between(0.03, 0.14)
    parts.append(loft((0, h + cap_h * 0.5, 0), cap_h, profile(cap), shop.finish()))
    if shop.maybe(0.25):  # a spray head
        parts.append(block((cap * 0.8, h + cap_h * 1.8, 0), (cap * 1.8, cap_h * 0.5, cap * 0.7), shop.finish(), 0.4))
    arcs = (
        (handle(shop, r * 0.9, shop.between(0, 0.3) * h, shop.between(0.1, 0.22), skin, 0.0),)
        if shop.maybe(0.3)
        else ()
    )
    return Product("bottle", tuple(parts), arcs, tuple(shop.prints))


def can(shop: Shop) -> Product:
    """A can, a jar or a tub: a printed cylinder with rims or a lid."""
    r, h = shop.between(0.25, 0.5), shop.between(0.2, 0.7)
    taper = shop.between(0.82, 1.1) if shop.maybe(0.4) else 1.0
    wall = curve([(0, taper), (1, 1)])
    parts = [loft((0, 0, 0), h, profile(r * wall), shop.printed(2 * math.pi * r, 2 * h))]
    rim = shop.finish(metal=1.0, gloss=0.6) if shop.maybe(0.5) else shop.finish()
    thick = shop.between(0.01, 0.1) * h
    parts.append(loft((0, h + thick, 0), thick, profile(r * shop.between(0.93, 1.06)), rim))
    parts.append(loft((0, -h - 0.01, 0), 0.015, profile(r * taper * shop.between(0.92, 1.03)), rim))
    return Product("can", tuple(parts), (), tuple(shop.prints))


def box(shop: Shop) -> Product:
    """A printed box, sometimes thin, sometimes with a band or a lid."""
    w, h, d = shop.between(0.15, 0.6), shop.between(0.08, 0.7), shop.between(0.05, 0.5)
    skin = shop.printed(4 * (w + d), 2 * h, faces=True)
    parts = [block((0, 0, 0), (w, h, d), skin, shop.between(0.01, 0.12))]
    if shop.maybe(0.25):
        parts.append(block((0, h * 0.8, 0), (w + 0.012, h * 0.22, d + 0.012), shop.finish(), 0.05))
    return Product("box", tuple(parts), (), tuple(shop.prints))


def carton(shop: Shop) -> Product:
    """A drink carton with a gable and a screw cap."""
    w, h = shop.between(0.2, 0.35), shop.between(0.35, 0.6)
    d = w * shop.between(0.7, 1)
    skin = shop.printed(4 * (w + d), 2 * h, faces=True)
    roof_h = shop.between(0.4, 0.7) * d
    roof = profile(w, curve([(0, d), (1, 0.012)]))
    parts = [block((0, 0, 0), (w, h, d), skin, 0.03)]
    parts.append(loft((0, h + roof_h, 0), roof_h, roof, replace(skin, print=None), corner=0.03))
    parts.append(block((0, h + 2 * roof_h + 0.04, 0), (w, 0.05, 0.014), replace(skin, print=None), 0.2))
    if shop.maybe(0.6):
        tilt = turn_about(0, math.atan2(d, 2 * roof_h))
        parts.append(loft((0, h + roof_h, d * 0.55), 0.05, profile(w * 0.3), shop.finish(), rotation=tilt))
    return Product("carton", tuple(parts), (), tuple(shop.prints))


def mug(shop: Shop) -> Product:
    """A mug or a cup with a handle and a real inside."""
    r, h = shop.between(0.28, 0.45), shop.between(0.28, 0.5)
    wall = curve([(0, shop.between(0.7, 1)), (0.1, shop.between(0.85, 1)), (1, 1)], 2) * r
    outside = shop.printed(2 * math.pi * r, 2 * h) if shop.maybe(0.7) else shop.grained(2 * math.pi * r, 2 * h)
    shell = loft((0, 0, 0), h, profile(wall), outside)
    inside = replace(hollowed(shell, shop.between(0.02, 0.04), 0.05), finish=shop.finish())
    ring = handle(
        shop, r * 0.95, shop.between(-0.1, 0.15) * h, shop.between(0.5, 0.7) * h, replace(shop.finish(), metal=0.0), 0.0
    )
    parts: tuple[Loft, ...] = (shell, inside)
    if shop.maybe(0.15):  # a saucer
        parts += (loft((0, -h - 0.02, 0), 0.03, profile(curve([(0, 0.8), (1, 1.5)]) * r), shop.finish()),)
    return Product("mug", parts, (ring,), tuple(shop.prints))


def bowl(shop: Shop) -> Product:
    """A bowl, a colander-like basin or a plate."""
    r, h = shop.between(0.4, 0.6), shop.between(0.06, 0.35)
    foot = shop.between(0.3, 0.7)
    wall = curve([(0, foot), (0.12, foot), (0.5, (1 + foot) / 2 + 0.1), (1, 1)], 2) * r
    skin = shop.grained(2 * math.pi * r, 2 * h) if shop.maybe(0.5) else shop.finish()
    shell = loft((0, 0, 0), h, profile(wall), skin)
    parts = (shell, replace(hollowed(shell, 0.025, 0.04), finish=shop.finish()))
    arcs: tuple[Arc, ...] = ()
    if shop.maybe(0.4):
        ears = shop.between(0.08, 0.14)
        arcs = tuple(handle(shop, r * 0.95, h * 0.6, ears, skin, angle, level=True) for angle in (0.0, math.pi))
    return Product("bowl", parts, arcs, tuple(shop.prints))


def pan(shop: Shop) -> Product:
    """A frying pan or a pot with a long handle or two ears, sometimes with a lid and a knob."""
    r, h = shop.between(0.3, 0.45), shop.between(0.05, 0.28)
    shell = loft((0, 0, 0), h, profile(curve([(0, shop.between(0.75, 1)), (1, 1)]) * r), shop.finish())
    parts = [shell]
    if shop.maybe(0.6):
        parts.append(replace(hollowed(shell, 0.02, 0.03), finish=shop.finish()))
    else:
        lid = shop.finish(clear=shop.between(0.3, 0.6)) if shop.maybe(0.4) else shell.finish
        parts.append(loft((0, h + 0.05, 0), 0.06, profile(curve([(0, 1), (0.5, 0.8), (1, 0.1)], 3) * r), lid))
        parts.append(loft((0, h + 0.14, 0), 0.04, profile(0.05), shop.finish()))
    grip = shop.finish()
    if shop.maybe(0.6):
        begin = np.array([r * 0.95, h * 0.5, 0])
        parts.append(
            rod(
                begin,
                begin + np.array([shop.between(0.4, 0.8), shop.between(0, 0.15), 0]),
                shop.between(0.025, 0.05),
                grip,
            )
        )
        return Product("pan", tuple(parts), (), tuple(shop.prints))
    size = shop.between(0.07, 0.13)
    ears = tuple(handle(shop, r * 0.95, h * 0.4, size, grip, angle, level=True) for angle in (0.0, math.pi))
    return Product("pan", tuple(parts), ears, tuple(shop.prints))


def kettle(shop: Shop) -> Product:
    """A kettle or teapot: belly, spout, lid, handle above or behind."""
    r, h = shop.between(0.28, 0.42), shop.between(0.25, 0.45)
    belly = curve([(0, 0.7), (0.3, 1), (0.7, 0.9), (1, 0.45)], 3) * r
    skin = shop.grained(2 * math.pi * r, 2 * h) if shop.maybe(0.4) else shop.finish()
    tip = np.array([r + shop.between(0.12, 0.3), h * shop.between(0.5, 1.0), 0])
    parts = [
        loft((0, 0, 0), h, profile(belly), skin),
        rod(np.array([r * 0.7, -0.1 * h, 0]), tip, shop.between(0.03, 0.06), skin),
    ]
    parts.append(loft((0, h + 0.03, 0), 0.04, profile(curve([(0, 0.45), (1, 0.12)]) * r), shop.finish()))
    parts.append(loft((0, h + 0.1, 0), 0.035, profile(0.035), shop.finish()))
    grip = shop.finish()
    if shop.maybe(0.5):
        ring = handle(shop, r * 0.9, 0.05, h * 0.7, grip, math.pi)
    else:
        ring = Arc(np.array([0, h * 0.5, 0]), np.eye(3), r * 1.0, shop.between(0.015, 0.035), math.pi * 0.5, 1.5, grip)
    return Product("kettle", tuple(parts), (ring,), tuple(shop.prints))


def shoe(shop: Shop) -> Product:
    """A shoe-like blob: sole, upper, opening, laces."""
    length, width = shop.between(0.5, 0.65), shop.between(0.16, 0.24)
    # The loft's own axis runs from heel to toe.
    axes = np.stack([[0, 1.0, 0], [1.0, 0, 0], [0, 0, -1.0]], 1)
    toe = shop.between(0.08, 0.16)
    high = curve([(0, 0.26), (0.25, 0.3), (0.45, 0.24), (0.8, toe), (1, 0.05)], 3)
    wide = curve([(0, 0.6), (0.15, 0.85), (0.45, 0.8), (0.75, 1), (0.93, 0.8), (1, 0.3)], 2) * width
    cloth = shop.grained(2 * length, 1.0) if shop.maybe(0.7) else shop.printed(1.2, 2 * length)
    upper = loft((0, 0, 0), length, profile(high, wide, high - 0.1), cloth, corner=0.8, rotation=axes)
    sole_h = shop.between(0.03, 0.07)
    sole = loft((0, -0.1, 0), length * 1.02, profile(sole_h, wide * 1.08, 0), shop.finish(), corner=0.5, rotation=axes)
    top = shop.between(0.3, 0.5)
    parts = [upper, sole]
    parts.append(
        loft((-length * 0.52, top, 0), 0.32, profile(length * 0.32, width * 0.55), shop.finish(), corner=0.9, cut=True)
    )
    lace = shop.finish()
    for step in range(int(shop.rng.integers(0, 5))):
        x = -0.12 * length + step * 0.13 * length
        y = float(np.interp((x / length + 1) / 2, np.linspace(0, 1, SAMPLES), 2 * high - 0.1))
        parts.append(
            rod(np.array([x, y - 0.03, -width * 0.6]), np.array([x, y - 0.03, width * 0.6]), 0.014, lace, bend=0.03)
        )
    return Product("shoe", tuple(parts), (), tuple(shop.prints), blend=0.012)


def blob(shop: Shop) -> Product:
    """Rounded bodies blending into one another: toys, fruit, figures, animals."""
    cloth = [shop.grained(1.2, 0.8) if shop.maybe(0.5) else shop.finish() for _ in range(3)]
    parts = []
    for _ in range(int(shop.rng.integers(2, 8))):
        r, h = shop.between(0.07, 0.26), shop.between(0.07, 0.35)
        round_ = np.sqrt(np.maximum(1 - np.linspace(-0.98, 0.98, SAMPLES) ** 2, 0.02))
        turn = turn_about(1, shop.between(0, 6.3)) @ turn_about(0, shop.between(-1.2, 1.2))
        centre = tuple(float(x) for x in shop.rng.uniform([-0.3, -0.4, -0.3], [0.3, 0.4, 0.3]))
        skin = cloth[int(shop.rng.integers(3))]
        parts.append(loft((centre[0], centre[1], centre[2]), h, profile(r * round_), skin, rotation=turn))
    return Product("blob", tuple(parts), (), tuple(shop.prints), blend=shop.between(0.01, 0.06))


def fruit(shop: Shop) -> Product:
    """A single nearly round object, often bent, with a stem."""
    h = shop.between(0.3, 0.6)
    t = np.linspace(-1, 1, SAMPLES)
    belly = np.sqrt(np.maximum(1 - t**2, 0.01)) * (1 + shop.between(-0.35, 0.35) * t) * shop.between(0.25, 0.5)
    bend = shop.between(0, 0.3) * (t**2) if shop.maybe(0.5) else np.zeros(SAMPLES)
    turn = turn_about(2, shop.between(-1.4, 1.4)) if shop.maybe(0.4) else np.eye(3)
    body = loft(
        (0, 0, 0), h, profile(belly, belly * shop.between(0.75, 1), bend), shop.grained(2.0, 1.0), rotation=turn
    )
    stem = rod(np.array([0, h * 0.9, 0]), np.array([0.05, h * 0.9 + shop.between(0.08, 0.2), 0]), 0.015, shop.finish())
    return Product("fruit", (body, stem), (), tuple(shop.prints))


def table(shop: Shop) -> Product:
    """A table, a stool or a chair: a top on three or four legs, stretchers, a back."""
    w, d, h = shop.between(0.3, 0.55), shop.between(0.25, 0.5), shop.between(0.25, 0.5)
    wood = shop.grained(4 * (w + d), 0.5, faces=True)
    leg_r, splay = shop.between(0.015, 0.05), shop.between(0.8, 1.15)
    thick = shop.between(0.02, 0.06)
    seat = profile(w) if shop.maybe(0.25) else profile(w, d)
    parts = [loft((0, h, 0), thick, seat, wood, corner=1.0 if np.ptp(seat[:, :2]) == 0 else 0.08)]
    corners = [(x, z) for x in (-1, 1) for z in (-1, 1)]
    square = shop.maybe(0.5)
    for x, z in corners:
        top = np.array([x * (w - 2 * leg_r) * 0.85, h, z * (d - 2 * leg_r) * 0.85])
        foot = np.array([top[0] * splay, -h, top[2] * splay])
        leg = rod(top, foot, leg_r, replace(wood, print=None) if shop.maybe(0.3) else wood)
        parts.append(replace(leg, corner=0.1) if square else leg)
    if shop.maybe(0.5):
        y, r = shop.between(-0.7, 0.2) * h, leg_r * 0.7
        parts += [
            rod(np.array([-w * 0.8, y, z * d * 0.8]), np.array([w * 0.8, y, z * d * 0.8]), r, wood) for z in (-1, 1)
        ]
    if shop.maybe(0.4):  # a chair's back
        back = shop.between(0.25, 0.5)
        parts += [
            rod(np.array([x * w * 0.9, h, -d * 0.9]), np.array([x * w * 0.9, h + 2 * back, -d]), leg_r, wood)
            for x in (-1, 1)
        ]
        for step in range(int(shop.rng.integers(1, 4))):
            y = h + back * (0.6 + 0.5 * step)
            parts.append(block((0, y, -d * 0.95), (w * 0.9, 0.05, 0.015), wood))
    return Product("table", tuple(parts), (), tuple(shop.prints))


def cabinet(shop: Shop) -> Product:
    """A dresser, a shelf or a bedside table: boards, drawers with knobs, feet."""
    w, h, d = shop.between(0.3, 0.6), shop.between(0.25, 0.6), shop.between(0.18, 0.35)
    wood = shop.grained(4 * (w + d), 2 * h, faces=True)
    front = shop.grained(4 * (w + d), 2 * h, faces=True) if shop.maybe(0.4) else wood
    knob = shop.finish(metal=1.0) if shop.maybe(0.5) else shop.finish()
    parts = [block((0, 0, 0), (w, h, d), wood, 0.02), block((0, h + 0.015, 0), (w + 0.02, 0.02, d + 0.02), wood)]
    rows, open_ = int(shop.rng.integers(1, 4)), shop.maybe(0.35)
    for row in range(rows):
        y = h * (2 * (row + 0.5) / rows - 1)
        half = h / rows - 0.02
        if open_:
            parts.append(replace(block((0, y, d * 0.25), (w - 0.03, half, d), front), cut=True))
        else:
            parts.append(block((0, y, d), (w - 0.03, half, 0.015), front, 0.1))
            places = (-0.5, 0.5) if shop.maybe(0.6) else (0.0,)
            outwards = turn_about(0, math.pi / 2)
            parts += [loft((x * w, y, d + 0.03), 0.025, profile(0.022), knob, rotation=outwards) for x in places]
    foot = shop.between(0.03, 0.15)
    parts += [
        block((x * w * 0.85, -h - foot, z * d * 0.85), (0.03, foot, 0.03), wood) for x in (-1, 1) for z in (-1, 1)
    ]
    return Product("cabinet", tuple(parts), (), tuple(shop.prints))


def lamp(shop: Shop) -> Product:
    """Thin objects such as a lamp, a wine glass or an umbrella stand: a foot, a thin stem, something on top."""
    r, h = shop.between(0.15, 0.3), shop.between(0.35, 0.6)
    metal = shop.finish(metal=float(shop.maybe(0.5)))
    stem = shop.between(0.012, 0.04)
    parts = [loft((0, -h, 0), 0.025, profile(curve([(0, 1), (1, 0.7)]) * r), metal)]
    parts.append(rod(np.array([0, -h, 0]), np.array([0, h * 0.4, 0]), stem, metal, bend=shop.between(-0.15, 0.15)))
    top_h = shop.between(0.12, 0.28)
    shade = shop.finish(clear=shop.between(0.5, 0.85)) if shop.maybe(0.4) else shop.grained(2 * math.pi * r, 2 * top_h)
    cup = loft(
        (0, h * 0.4 + top_h, 0),
        top_h,
        profile(curve([(0, shop.between(0.2, 1.3)), (1, shop.between(0.5, 1.2))], 1) * r),
        shade,
    )
    parts += [cup, replace(hollowed(cup, 0.015, 0.03), finish=shade)] if shop.maybe(0.6) else [cup]
    return Product("lamp", tuple(parts), (), tuple(shop.prints))


def basket(shop: Shop) -> Product:
    """Wires and bars, such as a basket, a rack or a stand: rings joined by thin rods."""
    r, h = shop.between(0.3, 0.5), shop.between(0.2, 0.45)
    wire, metal = shop.between(0.012, 0.03), shop.finish(metal=float(shop.maybe(0.6)))
    level = turn_about(0, math.pi / 2)
    flare = shop.between(0.6, 1.0)
    rings = tuple(
        Arc(np.array([0, y * h, 0]), level, r * (flare + (1 - flare) * (y + 1) / 2), wire, math.pi, 1.0, metal)
        for y in (-1, 0, 1)
    )
    around = [2 * math.pi * step / 8 for step in range(8)]
    bars = [
        rod(
            np.array([math.cos(a) * r * flare, -h, math.sin(a) * r * flare]),
            np.array([math.cos(a) * r, h, math.sin(a) * r]),
            wire,
            metal,
        )
        for a in around
    ]
    bars.append(loft((0, -h, 0), 0.02, profile(r * flare), shop.finish()))
    if shop.maybe(0.5):
        bars.append(block((0, -h * 0.4, 0), (r * 0.4, h * 0.5, r * 0.35), shop.printed(3 * r, h, faces=True)))
    bow = (Arc(np.array([0, h, 0]), np.eye(3), r, wire, math.pi / 2, 1.5, metal),) if shop.maybe(0.5) else ()
    return Product("basket", tuple(bars), rings + bow, tuple(shop.prints))


def device(shop: Shop) -> Product:
    """A thin screen or a box with buttons on a stand: monitors, speakers, clocks, irons."""
    w, h, d = shop.between(0.3, 0.6), shop.between(0.2, 0.45), shop.between(0.03, 0.2)
    body = shop.finish()
    face = shop.printed(2 * w, 2 * h)
    parts = [block((0, 0, 0), (w, h, d), body, shop.between(0.1, 0.6))]
    parts.append(block((0, 0, d), (w * 0.92, h * 0.9, 0.012), replace(face, faces=True), 0.1))
    for _ in range(int(shop.rng.integers(0, 4))):
        x, y = shop.between(-0.8, 0.8) * w, shop.between(-0.8, 0.8) * h
        side = float(shop.rng.choice([-1, 1]))
        parts.append(
            loft((x, y, side * (d + 0.01)), 0.02, profile(0.03), shop.finish(), rotation=turn_about(0, math.pi / 2))
        )
    if shop.maybe(0.6):
        parts.append(rod(np.array([0, -h, 0]), np.array([0, -h - 0.25, 0]), shop.between(0.03, 0.06), body))
        parts.append(block((0, -h - 0.25, 0), (w * 0.5, 0.02, 0.18), body, 0.5))
    return Product("device", tuple(parts), (), tuple(shop.prints))


def bag(shop: Shop) -> Product:
    """A bag with one or two handles, a tube, a pouch: soft, bulging, printed."""
    w, h, d = shop.between(0.3, 0.5), shop.between(0.3, 0.5), shop.between(0.1, 0.22)
    pinch = shop.between(0.05, 0.9)
    wide = curve([(0, 0.9), (0.2, 1), (1, shop.between(0.8, 1.05))], 2) * w
    deep = curve([(0, 0.8), (0.3, 1), (1, pinch)], 3) * d
    skin = (
        shop.printed(4 * (w + d), 2 * h, faces=True)
        if shop.maybe(0.6)
        else shop.grained(4 * (w + d), 2 * h, faces=True)
    )
    parts = [loft((0, 0, 0), h, profile(wide, deep), skin, corner=shop.between(0.3, 0.9))]
    grip = shop.finish()
    bows = tuple(
        Arc(
            np.array([0, h, z * d * pinch * 0.7]), np.eye(3), w * 0.5, shop.between(0.012, 0.03), math.pi / 2, 2.0, grip
        )
        for z in ((-1, 1) if shop.maybe(0.6) else (0,))
    )
    return Product("bag", tuple(parts), bows if shop.maybe(0.8) else (), tuple(shop.prints))


def assembly(shop: Shop) -> Product:
    """Random boxes, cylinders and rings put together: shapes that nobody thought of."""
    parts = []
    for _ in range(int(shop.rng.integers(2, 7))):
        half = shop.rng.uniform(0.05, 0.35, 3)
        centre = tuple(float(x) for x in shop.rng.uniform(-0.3, 0.3, 3))
        corner = 1.0 if shop.maybe(0.4) else shop.between(0.02, 0.5)
        turn = turn_about(1, shop.between(0, 6.3)) @ turn_about(0, shop.between(-0.6, 0.6) if shop.maybe(0.4) else 0.0)
        wide = curve([(0, shop.between(0.4, 1.2)), (0.5, 1), (1, shop.between(0.4, 1.2))], 1)
        kind = shop.printed if shop.maybe(0.5) else shop.grained
        skin = kind(4 * (half[0] + half[2]), 2 * half[1], faces=corner < 0.3)
        parts.append(
            loft(
                (centre[0], centre[1], centre[2]),
                half[1],
                profile(wide * half[0], wide * half[2]),
                skin,
                corner=corner,
                rotation=turn,
            )
        )
    if shop.maybe(0.3):
        parts.append(replace(block((0, 0.2, 0.2), (0.1, 0.3, 0.2), shop.finish()), cut=True))
    rings = tuple(
        handle(
            shop,
            shop.between(0.1, 0.4),
            shop.between(-0.3, 0.3),
            shop.between(0.1, 0.25),
            shop.finish(),
            shop.between(0, 6.3),
        )
        for _ in range(int(shop.rng.integers(0, 3)))
    )
    return Product("assembly", tuple(parts), rings, tuple(shop.prints))


KINDS: dict[str, tuple[Callable[[Shop], Product], float]] = {
    "bottle": (bottle, 3.0),
    "can": (can, 2.0),
    "box": (box, 3.0),
    "carton": (carton, 2.0),
    "mug": (mug, 3.0),
    "bowl": (bowl, 1.0),
    "pan": (pan, 1.5),
    "kettle": (kettle, 1.0),
    "shoe": (shoe, 2.5),
    "blob": (blob, 2.0),
    "fruit": (fruit, 1.0),
    "table": (table, 1.5),
    "cabinet": (cabinet, 1.5),
    "lamp": (lamp, 1.0),
    "basket": (basket, 1.0),
    "device": (device, 1.5),
    "bag": (bag, 1.5),
    "assembly": (assembly, 2.0),
}
"""Name -> function that makes the product, and its relative frequency."""


def product(
    rng: np.random.Generator,
    paint: np.random.Generator,
    *,
    print_px: float = 300,
    kind: str | None = None,
    labels: bool = True,
) -> Product:
    """Make a random product, turned and normalised.

    Args:
        rng: The same state gives the same shape.
        paint: The same state gives the same colours and prints, if the same fonts are installed.
        print_px: Pixels of a print for each half frame of surface.
        kind: One of `KINDS`; default: any.
        labels: Whether prints are mostly labels; otherwise patterns.
    """
    names = list(KINDS)
    frequencies = np.array([KINDS[name][1] for name in names])
    name = kind or str(rng.choice(names, p=frequencies / frequencies.sum()))
    made = KINDS[name][0](Shop(rng, paint, print_px, labels))
    if len(made.lofts) > MAX_LOFTS or len(made.arcs) > MAX_ARCS:
        raise ValueError(f"a {name} has {len(made.lofts)} lofts and {len(made.arcs)} arcs")
    off_axis = np.array([rng.normal(0, 0.02), 0, rng.normal(0, 0.02)])
    return normalised(made, float(rng.uniform(*FILL)), turn_about(1, float(rng.uniform(0, 2 * math.pi))), off_axis)


def normalised(made: Product, extent: float, turn: Vector, off_axis: Vector) -> Product:
    """Turn a product, scale it so that its largest half extent is `extent`, and centre it at `off_axis`."""
    lofts = [replace(solid, centre=turn @ solid.centre, rotation=turn @ solid.rotation) for solid in made.lofts]
    arcs = [replace(solid, centre=turn @ solid.centre, rotation=turn @ solid.rotation) for solid in made.arcs]
    outer = [_corners(solid) for solid in lofts if not solid.cut] + [_ring(solid) for solid in arcs]
    corners = np.concatenate(outer)
    low, high = corners.min(0), corners.max(0)
    radius = float(np.hypot(*(corners - (low + high) / 2)[:, [0, 2]].T).max())
    scale = extent / max(radius, float(high[1] - low[1]) / 2)
    shift = off_axis - (low + high) / 2 * scale
    return replace(
        made,
        lofts=tuple(
            replace(
                solid,
                centre=solid.centre * scale + shift,
                half_height=solid.half_height * scale,
                profile=solid.profile * scale,
            )
            for solid in lofts
        ),
        arcs=tuple(
            replace(
                solid,
                centre=solid.centre * scale + shift,
                radius=solid.radius * scale,
                thickness=solid.thickness * scale,
            )
            for solid in arcs
        ),
        blend=made.blend * scale,
        bounds=np.abs(np.stack([low, high]) * scale + shift).max(0) + 0.02,
    )


def _corners(solid: Loft) -> Vector:
    """Points that enclose a loft, [N, 3]."""
    along = np.linspace(-1, 1, SAMPLES) * solid.half_height
    half_x, half_z, x, z = solid.profile.T
    round_ = solid.corner > 0.99
    turns = np.linspace(0, 2 * math.pi, 17)
    ring = np.stack([np.cos(turns), np.sin(turns)], 1) if round_ else np.array([[-1, -1], [-1, 1], [1, -1], [1, 1]])
    points = [np.stack([x + half_x * u, along, z + half_z * v], 1) for u, v in ring]
    return np.concatenate(points) @ solid.rotation.T + solid.centre


def _ring(solid: Arc) -> Vector:
    """Points that enclose an arc, [N, 3]."""
    turns = np.linspace(-solid.half_angle, solid.half_angle, 24)
    reach = solid.radius + solid.thickness
    points = np.stack([np.sin(turns) * reach, np.cos(turns) * reach, np.zeros(24)], 1)
    wide = np.array([0, 0, solid.thickness * solid.flat])
    return np.concatenate([points - wide, points + wide]) @ solid.rotation.T + solid.centre
