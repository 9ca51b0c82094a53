"""Make training examples from seeds: a product, its photos, gapray's own scene of them, and the true frames in between.

The scene is built by `gapray.orbit.reconstruct.build_scene` from the degraded photos, so that camera, hull and morph are as
wrong as in production. It is given nothing that a shop's photos would not provide.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from numpy.typing import NDArray

from gapray.geometry.camera import OrbitCamera
from gapray.geometry.carve import NOTHING
from gapray.geometry.frame import Placement, lay_out, mask_box, to_frame
from gapray.orbit.reconstruct import Calibration, build_scene
from gapray.orbit.scene import OrbitScene, extended
from gapray.orbit.settings import OrbitSettings
from gapray.orbit.synthesis.inputs import frames_of
from training.phone import Session, cropped, cut_out, outlined, own_crop, photographed
from training.products import product
from training.render import SUPER, Shots, Studio, shoot

VIEWS = (8, 8, 8, 8, 8, 6, 10, 12)
"""Numbers of photos of a product, from which one is drawn."""
HOLE_FRACTION = 0.2
"""Fraction of the products with eight photos or more that lack one of them, as when fidelity is measured by leaving photos out."""
MAX_VIEWS = 12
PHOTO_SCALE = (1.1, 1.6)
"""Range of the photos' side, in sides of the frame."""
MIN_IOU = 0.75
"""A scene whose hull fits the masks less well teaches nothing."""
MIN_COVER = 0.008
"""Minimum fraction of a photo that a product covers."""


@dataclass(frozen=True)
class Recipe:
    """What is made from each seed."""

    size: int = 256
    """Side of the frames [pixels]."""
    skins: int = 3
    """Ways in which a shape is painted, lit and photographed. Reconstruction takes most of the time and sees outlines only."""
    targets: int = 6
    """In-between frames of each."""
    voxels: int = 144
    lattice: int = 144
    rays: int = SUPER
    """Rays along each side of a pixel; 1 means no anti-aliasing."""
    labels: bool = True
    """Whether products have labels with text, bar codes and pictures; otherwise only patterns."""
    faults: bool = True
    """Whether photos, masks and angles have a phone's faults."""
    renderer: str = "cpu"
    """Device on which products are rendered."""
    device: str = "cpu"
    """Device on which they are reconstructed."""


@dataclass(frozen=True)
class Example:
    """One product: V = `MAX_VIEWS` photos, of which the last may repeat the first, and T frames, S x S pixels."""

    photos: NDArray[np.uint8]
    """[V, 4, S, S]: colour, continued beyond the mask, and alpha."""
    fronts: NDArray[np.float16]
    """[V, S, S]: view z of the hull's front in each photo."""
    frames: NDArray[np.uint8]
    """[T, 10, S, S]: the morph, its visibility, the flow, its alpha, the hull's alpha, the truth's alpha."""
    view_z: NDArray[np.float16]
    """[T, 2, S, S]: view z of the hull's front and of the truth, `NOTHING` beside them."""
    truth: NDArray[np.uint8]
    """[T, 3, S, S]: multiplied by its alpha."""
    views: NDArray[np.int64]
    """[T, K]: `Frames.views`."""
    angles_deg: NDArray[np.float32]
    """[T, K]: `Frames.angles_deg`."""
    turns: NDArray[np.float32]
    """[T, K, 3, 3]: `Frames.turns`."""
    camera: NDArray[np.float32]
    """[T, 3]: `Frames.camera`."""
    name: str
    """Seed and skin."""
    kind: str
    """Kind of product."""
    facts: dict[str, float]
    """True and estimated camera, for people."""

    @property
    def nbytes(self) -> int:
        """Total size of all arrays."""
        return sum(int(getattr(getattr(self, field.name), "nbytes", 0)) for field in fields(self))


def examples(seed: int, recipe: Recipe) -> list[Example]:
    """Make the examples of one shape; the same seed and recipe give the same ones, on the same devices with the same fonts.

    Returns:
        One for each skin, or only one if photos were cropped one by one, because their placement is then unknown. None if
        the product leaves the photo, or its scene cannot be built.
    """
    rng = np.random.default_rng(seed)
    side = int(recipe.size * rng.uniform(*PHOTO_SCALE) / 2) * 2
    print_px = side / 2 * SUPER * 0.75
    camera = OrbitCamera(_elevation(rng), rng.uniform(0.0, 0.33), rng.normal(0, 0.03), rng.normal(0, 0.03))
    session = Session.random(rng)
    if not recipe.faults:
        session = Session.studio()
    count, first = int(rng.choice(VIEWS)), float(rng.uniform(0, 360))
    stated = [(first + 360 * view / count) % 360 for view in range(count)]
    widths = [360 / count] * count
    if count >= 8 and rng.random() < HOLE_FRACTION:
        del stated[-1], widths[-1]
        widths[-1] *= 2
        count -= 1
    at = [azimuth + float(rng.uniform(-session.azimuth, session.azimuth)) for azimuth in stated]
    settings = OrbitSettings(
        size=recipe.size,
        voxels=recipe.voxels,
        framing="product" if rng.random() < 0.5 else "photo",
        engine="morph",  # no trials: examples must not depend on the network that learns from them
    )
    shape = int(rng.integers(2**62))
    made: list[Example] = []
    scene = calibration = place = masks = None
    for skin in range(recipe.skins):
        paint = np.random.default_rng([seed, skin])
        studio = Studio.random(paint)
        gaps = paint.permutation(np.resize(np.arange(count), recipe.targets))
        between = [
            stated[gap] + widths[gap] * float(paint.choice([1 / 3, 1 / 2, 2 / 3, paint.random()])) for gap in gaps
        ]
        thing = product(np.random.default_rng(shape), paint, print_px=print_px, labels=recipe.labels)
        azimuths = [*at, *between]
        shots = shoot(
            thing, camera, azimuths, studio, side, device=recipe.renderer, lattice=recipe.lattice, rays=recipe.rays
        )
        backdrop = _backdrop(paint, side, studio)
        photos = _photos(paint, shots, count, session, backdrop)
        if scene is None:
            if not _usable(shots):
                return []
            cut = masks = [cut_out(rng, alpha, session) for alpha in _bytes(shots.alpha[:count])]
            places = [own_crop(mask, rng) for mask in cut] if session.own_crops else None
            if places:
                grey = int(255 * np.mean(studio.backdrop))
                photos = [
                    cropped(image, placement, outside=grey) for image, placement in zip(photos, places, strict=True)
                ]
                masks = [cropped(image, placement, outside=0) for image, placement in zip(cut, places, strict=True)]
            try:
                scene, calibration = build_scene(photos, masks, stated, settings, device=recipe.device)
            except ValueError:
                return []
            if np.mean(calibration.reprojection_iou) < MIN_IOU:
                return []
            place = _frame_of(scene, calibration, cut, places, settings)
        elif session.own_crops or calibration is None or calibration.shifted or place is None:
            break
        else:
            scene = _repainted(scene, photos, place)
        truth = _as_cut(shots, count, session, backdrop)
        made.append(_packed(f"{seed}.{skin}", scene, between, truth, place, camera, thing.kind, calibration))
    return made


def _usable(shots: Shots) -> bool:
    """Whether the product is completely visible and large enough in every photo."""
    rim = torch.cat([shots.alpha[:, 0], shots.alpha[:, -1], shots.alpha[:, :, 0], shots.alpha[:, :, -1]], 1)
    return float(rim.max()) == 0 and float(shots.alpha.mean((1, 2)).min()) > MIN_COVER


def _repainted(scene: OrbitScene, photos: list[NDArray[np.uint8]], place: Placement) -> OrbitScene:
    """The same scene with other photos, placed in the same frame."""
    masks = _bytes(scene.alpha)
    framed = [to_frame(photo, place, scene.size) for photo in photos]
    colour = [extended(image, mask) for image, mask in zip(framed, masks, strict=True)]

    def planes(images: list[NDArray[np.uint8]]) -> torch.Tensor:
        return torch.tensor(np.stack(images), device=scene.alpha.device).permute(0, 3, 1, 2).float() / 255

    return replace(scene, photos=planes(framed), colour=planes(colour))


def _elevation(rng: np.random.Generator) -> float:
    return float(rng.uniform(3, 30) if rng.random() < 0.85 else rng.uniform(-3, 45))


def _bytes(alpha: torch.Tensor) -> NDArray[np.uint8]:
    return np.asarray((alpha * 255).round().byte().cpu().numpy())


def _backdrop(rng: np.random.Generator, side: int, studio: Studio) -> NDArray[np.float32]:
    """A backdrop, float32 [P, P, 3], 0 … 1: darker towards the edges, and perhaps towards the top."""
    y, x = np.mgrid[:side, :side] / side - 0.5
    fall = 1 - rng.uniform(0, 0.35) * (x**2 + y**2) - rng.uniform(-0.15, 0.15) * y
    return np.asarray(np.clip(fall[..., None] * np.array(studio.backdrop), 0, 1), np.float32)


def _photos(
    rng: np.random.Generator, shots: Shots, count: int, session: Session, backdrop: NDArray[np.float32]
) -> list[NDArray[np.uint8]]:
    """The first `count` shots as a phone would take them."""
    colour = shots.colour[:count].permute(0, 2, 3, 1).cpu().numpy()
    alpha = shots.alpha[:count].cpu().numpy()[..., None]
    return [
        photographed(rng, image + backdrop * (1 - cover), session) for image, cover in zip(colour, alpha, strict=True)
    ]


def _as_cut(shots: Shots, count: int, session: Session, backdrop: NDArray[np.float32]) -> Shots:
    """The shots after the first `count`, cut out like the photos: with the rim that their masks have in common."""
    behind = torch.from_numpy(backdrop).permute(2, 0, 1).to(shots.colour)
    cut = [outlined(alpha, session) for alpha in _bytes(shots.alpha[count:])]
    alpha = torch.from_numpy(np.stack(cut)).to(shots.alpha) / 255
    colour = (shots.colour[count:] + behind * (1 - shots.alpha[count:, None])) * alpha[:, None]
    return replace(shots, colour=colour, alpha=alpha, view_z=shots.view_z[count:])


def _frame_of(
    scene: OrbitScene,
    calibration: Calibration,
    cut: list[NDArray[np.uint8]],
    places: list[Placement] | None,
    settings: OrbitSettings,
) -> Placement:
    """The square of the true photos that corresponds to the scene's frame.

    Photos that keep their camera's frame are placed by `lay_out`, all in the same way. Where each photo was moved on its
    own, the boxes of the masks before and after tell how far, and the mean over the views is the frame.
    """
    if places is None and not calibration.shifted:
        return lay_out([mask >= 128 for mask in cut], framing=settings.framing, margin=settings.margin).placements[0]
    squares = []
    for before, after in zip(cut, scene.alpha.cpu().numpy(), strict=True):
        left, right, upper, lower = mask_box(before >= 128)
        left2, right2, upper2, lower2 = mask_box(after >= 0.5)
        scale = math.sqrt((right - left) * (lower - upper) / ((right2 - left2) * (lower2 - upper2)))
        middle = settings.size / 2
        x = (left + right) / 2 + (middle - (left2 + right2) / 2) * scale
        y = (upper + lower) / 2 + (middle - (upper2 + lower2) / 2) * scale
        squares.append((x, y, middle * scale))
    return Placement(*(float(value) for value in np.mean(squares, 0)))


def _packed(
    name: str,
    scene: OrbitScene,
    between: list[float],
    shots: Shots,
    place: Placement,
    camera: OrbitCamera,
    kind: str,
    calibration: Calibration,
) -> Example:
    with torch.no_grad():
        frames = frames_of(scene, between)
    size, repeat = scene.size, np.arange(MAX_VIEWS) % len(scene.azimuths_deg)
    truth, alpha, depth = _truth(shots, place, camera, scene)
    planes = torch.cat([frames.morph, frames.visibility, frames.flow, frames.flow_alpha, frames.alpha], 1)
    return Example(
        photos=_bytes(torch.cat([scene.colour, scene.alpha[:, None]], 1))[repeat],
        fronts=scene.view_z.cpu().numpy().astype(np.float16)[repeat],
        frames=np.concatenate([_bytes(planes), alpha[:, None]], 1),
        view_z=np.concatenate([frames.view_z.cpu().numpy(), depth.reshape(-1, 1, size, size)], 1).astype(np.float16),
        truth=truth,
        views=frames.views.cpu().numpy(),
        angles_deg=frames.angles_deg.cpu().numpy().astype(np.float32),
        turns=frames.turns.cpu().numpy().astype(np.float32),
        camera=frames.camera.cpu().numpy().astype(np.float32),
        name=name,
        kind=kind,
        facts={
            "elevation_deg": camera.elevation_deg,
            "found_elevation_deg": calibration.elevation_deg,
            "inverse_distance": camera.inverse_distance,
            "found_inverse_distance": calibration.inverse_distance,
            "direction": calibration.direction,
            "shifted": float(calibration.shifted),
            "iou": float(np.mean(calibration.reprojection_iou)),
        },
    )


def _truth(
    shots: Shots, place: Placement, camera: OrbitCamera, scene: OrbitScene
) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.float32]]:
    """The in-between frames in the scene's frame: colour times alpha [T, 3, S, S], alpha [T, S, S], view z [T, S, S].

    View z is measured from the scene's own origin in the scene's own unit of length, as far as the true camera determines it.
    """
    side, size = shots.alpha.shape[-1], scene.size
    colour = (shots.colour.permute(0, 2, 3, 1) * 255).round().byte().cpu().numpy()
    framed = np.stack([to_frame(image, place, size) for image in colour]).transpose(0, 3, 1, 2)
    alpha = np.stack([to_frame(image, place, size) for image in _bytes(shots.alpha)])
    unit = place.half / (side / 2)
    origin_v = (place.y / side * 2 - 1) + unit * scene.camera.axis_y
    height = (camera.axis_y - origin_v) / math.cos(math.radians(camera.elevation_deg))
    shift = height * math.sin(math.radians(camera.elevation_deg))
    near = shots.view_z.cpu().numpy()
    shown = near > NOTHING / 2
    depth = _nearest_pixels(np.where(shown, (near - shift) / unit, NOTHING).astype(np.float32), place, size)
    return framed, alpha, depth


def _nearest_pixels(maps: NDArray[np.float32], place: Placement, size: int) -> NDArray[np.float32]:
    """Sample maps [T, H, W] in the scene's frame, [T, size, size]; depths are never mixed, and `NOTHING` beyond the edge."""
    left, _, upper, _ = place.box
    steps = (np.arange(size) + 0.5) * 2 * place.half / size
    columns, rows = (np.floor(start + steps).astype(int) for start in (left, upper))
    height, width = maps.shape[1:]
    inside = ((rows >= 0) & (rows < height))[:, None] & ((columns >= 0) & (columns < width))
    sampled = maps[:, rows.clip(0, height - 1)][:, :, columns.clip(0, width - 1)]
    return np.where(inside, sampled, NOTHING).astype(np.float32)
