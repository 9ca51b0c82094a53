"""Turntable videos with known angles: samples re-projected by their true depth, and photo sets played as videos."""

import functools
import json
import math
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np

from tests.conftest import ROOT


@functools.cache
def sample_turn(product: str, size: int = 256) -> np.ndarray:
    """uint8 [360, size, size, 3]: a sample at each whole degree of azimuth, from the two nearest of 24 photos by true depth."""
    truth = json.loads((ROOT / "samples" / "truth" / product / "camera.json").read_text())
    # A small picture does not need every point of a large photo.
    clouds = [_cloud(product, azimuth, truth, every=2 if size <= 256 else 1) for azimuth in range(0, 360, 15)]
    backdrop = np.median(np.concatenate([_photo(product, 0)[:40].reshape(-1, 3)]), axis=0)
    frames = []
    for degrees in range(360):
        near, share = degrees // 15, degrees % 15 / 15
        total, weight = np.zeros((size, size, 3)), np.zeros((size, size, 1))
        for index, amount in ((near, 1 - share), ((near + 1) % 24, share)):
            if amount == 0:
                continue
            drawn, seen = _splat(*clouds[index], degrees, truth, size)
            total += amount * drawn * seen[..., None]
            weight += amount * seen[..., None]
        image = np.where(weight > 0, total / np.maximum(weight, 1e-6), backdrop)
        frames.append(np.clip(image, 0, 255).astype(np.uint8))
    return np.stack(frames)


def _photo(product: str, azimuth: int) -> np.ndarray:
    folder = "captures" if azimuth % 45 == 0 else "held_out"
    return cv2.imread(str(ROOT / "samples" / folder / product / f"{product}_{azimuth:03d}.jpg"))[..., ::-1]


def _rows(azimuth: float, elevation: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Right, up and backward axes of the camera, in a world with +Y up and azimuth 0 at +Z."""
    a, e = math.radians(azimuth), math.radians(elevation)
    toward = np.array([math.sin(a) * math.cos(e), math.sin(e), math.cos(a) * math.cos(e)])
    right = np.array([math.cos(a), 0.0, -math.sin(a)])
    return right, np.cross(toward, right), toward


def _cloud(product: str, azimuth: int, truth: dict, *, every: int) -> tuple[np.ndarray, np.ndarray]:
    """World points [N, 3] about the target, and colours [N, 3]."""
    depth = cv2.imread(str(ROOT / "samples" / "truth" / product / f"depth_{azimuth:03d}.png"), -1)
    depth = depth.astype(np.float64) * truth["depth_png_unit"]
    side = depth.shape[0]
    photo = cv2.resize(_photo(product, azimuth), (side, side), interpolation=cv2.INTER_AREA)
    # Edge pixels mix product and background, and would float in the air.
    inside = cv2.erode((depth > 0).astype(np.uint8), np.ones((3, 3), np.uint8))
    rows, columns = (every * places for places in np.nonzero(inside[::every, ::every]))
    focal = side / 2 / math.tan(math.radians(truth["horizontal_fov_deg"]) / 2)
    right, up, toward = _rows(azimuth, truth["elevation_deg"])
    z = depth[rows, columns]
    x, y = (columns + 0.5 - side / 2) / focal * z, (side / 2 - rows - 0.5) / focal * z
    points = x[:, None] * right + y[:, None] * up + (truth["distance"] - z)[:, None] * toward
    return points, photo[rows, columns].astype(np.float64)


def _splat(points: np.ndarray, colours: np.ndarray, azimuth: float, truth: dict, size: int):
    right, up, toward = _rows(azimuth, truth["elevation_deg"])
    z = truth["distance"] - points @ toward
    focal = size / 2 / math.tan(math.radians(truth["horizontal_fov_deg"]) / 2)
    columns = np.floor(points @ right / z * focal + size / 2).astype(int)
    rows = np.floor(size / 2 - points @ up / z * focal).astype(int)
    inside = (columns >= 0) & (columns < size) & (rows >= 0) & (rows < size)
    flat, z, colours = (rows * size + columns)[inside], z[inside], colours[inside]
    nearest = np.full(size * size, np.inf)
    np.minimum.at(nearest, flat, z)
    # Points slightly behind the nearest one belong to the same surface, so a pixel shows their mean.
    front = z < nearest[flat] + 0.03
    count = np.bincount(flat[front], minlength=size * size)
    drawn = np.stack([np.bincount(flat[front], colours[front, c], size * size) for c in range(3)], -1)
    drawn = (drawn / np.maximum(count, 1)[:, None]).reshape(size, size, 3)
    return drawn, (count > 0).reshape(size, size).astype(np.float64)


@dataclass(frozen=True)
class Shot:
    """How the video of a turn is made."""

    start_deg: float = 0.0
    turns: float = 1.15
    direction: int = 1
    """+1 if azimuths grow with time, as if the camera moved counter-clockwise."""
    fps: int = 30
    seconds: float = 8.0
    """Duration of one turn."""
    ripple: float = 0.2
    """Largest relative deviation of the speed from its mean."""
    cycles: float = 1.0
    """Number of periods of the ripple in one turn."""
    phase: float = 0.0
    crf: int = 23
    rotation: int = 0
    """Angle by which the stored frames are rotated; a tag rotates them back."""
    hand: float | None = None
    """Fraction of the video after which a hand enters for half a second."""
    jitter: float = 0.0
    """Maximum deviation of frame times, as a fraction of their spacing, for a variable frame rate."""
    seed: int = 0


def angles_of(shot: Shot) -> tuple[np.ndarray, np.ndarray]:
    """Times [s] and true azimuths [degrees, not wrapped] of the frames."""
    rng = np.random.default_rng(shot.seed)
    count = round(shot.turns * shot.seconds * shot.fps)
    times = np.arange(count) / shot.fps
    times = times + rng.uniform(0, shot.jitter, count) / shot.fps
    turned = times / shot.seconds  # of the turn, at even speed
    angle = 2 * np.pi * shot.cycles
    turned = turned + shot.ripple / angle * (np.sin(angle * turned + shot.phase) - np.sin(shot.phase))
    return times, shot.start_deg + shot.direction * 360 * turned


def seen(turn: np.ndarray, angle: float) -> np.ndarray:
    """A turn [360, H, W, 3] of whole degrees at any angle, by blending neighbours, which differ by about a pixel."""
    low = math.floor(angle)
    return cv2.addWeighted(turn[low % 360], low + 1 - angle, turn[(low + 1) % 360], angle - low, 0)


def film(path: Path, turn: np.ndarray, shot: Shot) -> np.ndarray:
    """Write a turn [360, H, W, 3] of whole degrees as a video.

    Returns:
        True azimuth of each frame [F], not wrapped.
    """
    times, angles = angles_of(shot)
    pictures = (seen(turn, angle) for angle in angles)
    if shot.hand is not None:
        pictures = _with_hand(pictures, times, shot.hand * times[-1])
    write_video(path, pictures, times, fps=shot.fps, crf=shot.crf, rotation=shot.rotation)
    return angles


def _with_hand(pictures, times: np.ndarray, begin: float):
    for picture, time in zip(pictures, times, strict=True):
        if not begin <= time < begin + 0.5:
            yield picture
            continue
        height, width = picture.shape[:2]
        covered = picture.copy()
        reach = math.sin(math.pi * (time - begin) / 0.5)
        tip = (int(width * (1 - 0.6 * reach)), int(height * 0.55))
        cv2.line(covered, (width + 20, int(height * 0.7)), tip, (196, 150, 120), int(height * 0.22))
        yield covered


def spin_turn(folder: Path, side: int = 480) -> tuple[np.ndarray, ...]:
    """The photos of a product spin in order, shrunk to one size with even sides."""
    names = [frame["file"] for frame in json.loads((folder / "views.json").read_text())["frames"]]
    photos = [cv2.imread(str(folder / name))[..., ::-1] for name in names]
    share = side / max(photos[0].shape[:2])
    size = tuple(round(length * share) // 2 * 2 for length in photos[0].shape[1::-1])
    return tuple(cv2.resize(photo, size, interpolation=cv2.INTER_AREA) for photo in photos)


def play(path: Path, photos: tuple[np.ndarray, ...], *, start: int, turns: float, direction: int, fps: int = 12):
    """Write photos as a video, and return their azimuths [F] in even steps from the first."""
    shown = start + direction * np.arange(round(turns * len(photos)))
    pictures = (photos[index % len(photos)] for index in shown)
    write_video(path, pictures, np.arange(len(shown)) / fps, fps=fps)
    return np.arange(len(shown)) * 360 / len(photos)


def pick_errors(stills, shown: np.ndarray) -> np.ndarray:
    """Differences [views] in degrees between the nominal angle of each pick and its frame's true azimuth relative to the first pick."""
    return np.array([abs((shown[pick.frame] - shown[0] - pick.nominal_deg + 180) % 360 - 180) for pick in stills])


def write_video(path: Path, pictures, times, *, fps: int, crf: int = 23, rotation: int = 0) -> None:
    with av.open(str(path), "w") as container:
        stream = None
        for picture, time in zip(pictures, times, strict=True):
            stored = np.ascontiguousarray(np.rot90(picture, -rotation // 90))
            if stream is None:
                stream = container.add_stream("libx264", rate=fps, options={"crf": str(crf), "preset": "veryfast"})
                stream.height, stream.width = (side // 2 * 2 for side in stored.shape[:2])
                stream.pix_fmt = "yuv420p"
                stream.codec_context.time_base = Fraction(1, 90000)
                if rotation:
                    stream.set_display_rotation(rotation)
            frame = av.VideoFrame.from_ndarray(stored[: stream.height, : stream.width], format="rgb24")
            frame.pts, frame.time_base = round(time * 90000), Fraction(1, 90000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
