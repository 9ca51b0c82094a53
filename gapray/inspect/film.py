"""A turntable video -> its sharpest frames at even angles, as the folder of one product."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gapray.capture.azimuths import turned
from gapray.capture.video import frames_of
from gapray.errors import ConfigError, InputError
from gapray.gap.images import encode_jpeg
from gapray.inspect.folder import new_folder, write_table
from gapray.inspect.sharpness import halvings, sharpness
from gapray.inspect.turn import Turn, find_turn
from gapray.resample import at_most

MAX_FRAMES = 5400
"""90 seconds at 60 frames a second."""
SIDE = 320
"""Side of the pictures in which the turn is looked for [pixels]."""
SHARP_SIDE = 960
"""Side of the pictures whose sharpness is compared [pixels]: a blur that a phone's screen shows is seen at this size."""
WINDOW_DEG = 3.0
"""A sharper frame may lie so far from the wanted angle."""
BLUR_DEG = 2.0
"""What half the sharpness of the sharpest neighbour costs, in degrees of azimuth."""
TOLERANCE_DEG = 20.0
"""An angle without a free frame this near cannot be had."""
QUALITY = 95


@dataclass(frozen=True)
class Film:
    """What one pass over a video leaves."""

    path: Path
    times: NDArray[np.float64]
    """[F], seconds."""
    sharpness: NDArray[np.float64]
    """[F], see `gapray.inspect.sharpness`."""
    turn: Turn


@dataclass(frozen=True)
class Still:
    """One chosen frame."""

    frame: int
    seconds: float
    nominal_deg: float
    """The angle it was chosen for."""
    azimuth_deg: float
    """The angle it shows, in [0, 360), 0 = front."""
    sharpness: float


def read_film(path: str | Path) -> Film:
    """Find the turn in a video.

    Raises:
        InputError: `video.unreadable`, `turn.too_long`, or what `find_turn` raises.
    """
    times: list[float] = []
    small: list[NDArray[np.uint8]] = []
    sharp: list[float] = []
    for seconds, frame in frames_of(path, grey=True, side=SHARP_SIDE):
        if len(times) >= MAX_FRAMES:
            raise InputError("turn.too_long", f"{path} has more than {MAX_FRAMES} frames")
        times.append(seconds)
        sharp.append(sharpness(frame))
        small.append(at_most(frame, SIDE))
    if len({one.shape for one in small}) > 1:
        raise InputError("video.unreadable", f"{path} changes its size")
    return Film(Path(path), np.array(times), np.array(sharp), find_turn(small, np.array(times)))


def pick_frames(film: Film, views: int = 8, *, front_s: float = 0.0) -> list[Still]:
    """Choose one frame for each of `views` even steps from the front: near its angle, sharp, and with no hand in it.

    Args:
        film: Of `read_film`.
        views: 4 … 72.
        front_s: When the front is seen [seconds]; the video's first frame by default.

    Raises:
        ConfigError: `config.invalid`.
        InputError: `turn.covered`, with the angle and the time.
    """
    if not 4 <= views <= 72:
        raise ConfigError("config.invalid", f"{views} views; 4 to 72 can be had")
    zero = float(np.interp(front_s, film.times, film.turn.azimuth_deg))
    azimuths = (film.turn.azimuth_deg - zero) % 360.0
    free = ~film.turn.covered
    return [_best(film, azimuths, free, 360.0 * step / views) for step in range(views)]


def _best(film: Film, azimuths: NDArray[np.float64], free: NDArray[np.bool_], nominal: float) -> Still:
    off = np.abs(turned(azimuths, nominal))
    nearest = float(off[free].min()) if free.any() else np.inf
    if nearest > TOLERANCE_DEG:
        when = film.times[int(np.argmin(off))]
        raise InputError(
            "turn.covered", f"something is before the product at {nominal:g}°, {when:.1f} s into the video"
        )
    near = np.flatnonzero(free & (off <= nearest + WINDOW_DEG))
    best = float(film.sharpness[near].max())
    costs = [off[frame] + BLUR_DEG * halvings(film.sharpness[frame], best) for frame in near]
    frame = int(near[np.argmin(costs)])
    return Still(frame, float(film.times[frame]), nominal, float(azimuths[frame]) % 360.0, float(film.sharpness[frame]))


def write_stills(film: Film, stills: Sequence[Still], out_folder: str | Path) -> Path:
    """Write the chosen frames as the folder of one product: ``<name>_<nominal angle>.jpg`` and ``capture.csv``.

    Args:
        film: Where they come from; decoded once more.
        stills: Of `pick_frames`.
        out_folder: A new or empty folder, whose name is the product's.

    Returns:
        The folder.

    Raises:
        InputError: `capture.out_not_empty`, `capture.write_failed`, `capture.invalid_product_id`, `video.unreadable`.
    """
    out = Path(out_folder).absolute()
    wanted = {one.frame: f"{out.name}_{one.nominal_deg:03.0f}.jpg" for one in stills}
    with new_folder(out) as partial:
        for index, (_, frame) in zip(sorted(wanted), frames_of(film.path, only=wanted), strict=True):
            (partial / wanted[index]).write_bytes(encode_jpeg(frame, QUALITY))
        rows = [(wanted[one.frame], f"{one.azimuth_deg:.3f}", f"{one.seconds:.3f}") for one in stills]
        write_table(partial, rows, "seconds")
    return out
