"""Picking the sharpest frames of a turntable video at even angles, and writing them as a product's folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gapray.capture.angles import angle_difference
from gapray.capture.video import frames_of
from gapray.errors import ConfigError, InputError
from gapray.gap.images import encode_jpeg
from gapray.inspect.folder import new_folder, write_table
from gapray.inspect.sharpness import halvings, sharpness
from gapray.inspect.turn import TurntableMotion, find_turn
from gapray.resample import at_most

MAX_FRAMES = 5400
"""Maximum length of a video: 90 seconds at 60 frames a second."""
SIDE = 320
"""Longer side of the pictures in which motion is measured [pixels]."""
SHARP_SIDE = 960
"""Longer side of the pictures whose sharpness is compared [pixels]; blur that is visible on a phone is measurable at this size."""
WINDOW_DEG = 3.0
"""A sharper frame may be this much farther from the nominal angle than the nearest one."""
BLUR_DEG = 2.0
"""Cost of each halving of sharpness relative to the sharpest candidate, in degrees of azimuth."""
TOLERANCE_DEG = 20.0
"""Largest distance of an unobstructed frame from its nominal angle."""
QUALITY = 95
"""JPEG quality of the written frames."""


@dataclass(frozen=True)
class TurntableVideo:
    """Measurements from one pass over a turntable video of F frames."""

    path: Path
    times: NDArray[np.float64]
    """[F], seconds."""
    sharpness: NDArray[np.float64]
    """[F], as `gapray.inspect.sharpness.sharpness` measures it [grey levels squared]."""
    turn: TurntableMotion


@dataclass(frozen=True)
class PickedFrame:
    """A frame chosen for one angle."""

    frame: int
    """Index in the video."""
    seconds: float
    """Time in the video."""
    nominal_deg: float
    """The angle it was chosen for."""
    azimuth_deg: float
    """The angle it shows, in [0, 360), 0 = front."""
    sharpness: float
    """Sharpness of the frame [grey levels squared]."""


def read_turntable(path: str | Path) -> TurntableVideo:
    """Measure times, sharpness and rotation in a turntable video.

    Raises:
        InputError: `video.unreadable`, `turn.too_long`, or what `find_turn` raises.
    """
    times: list[float] = []
    small: list[NDArray[np.uint8]] = []
    sharpnesses: list[float] = []
    for seconds, frame in frames_of(path, grey=True, side=SHARP_SIDE):
        if len(times) >= MAX_FRAMES:
            raise InputError("turn.too_long", f"{path} has more than {MAX_FRAMES} frames")
        times.append(seconds)
        sharpnesses.append(sharpness(frame))
        small.append(at_most(frame, SIDE))
    if len({frame.shape for frame in small}) > 1:
        raise InputError("video.unreadable", f"{path} changes its frame size")
    return TurntableVideo(Path(path), np.array(times), np.array(sharpnesses), find_turn(small, np.array(times)))


def pick_frames(video: TurntableVideo, views: int = 8, *, front_s: float = 0.0) -> list[PickedFrame]:
    """Choose one frame for each of `views` even steps from the front: near its angle, sharp and without a hand in it.

    Args:
        video: Result of `read_turntable`.
        views: Number of views, 4 … 72.
        front_s: Time at which the front is seen [seconds]; the video's first frame by default.

    Raises:
        ConfigError: `config.invalid`.
        InputError: `turn.covered`, with the angle and the time.
    """
    if not 4 <= views <= 72:
        raise ConfigError("config.invalid", f"{views} views; 4 to 72 are possible")
    zero = float(np.interp(front_s, video.times, video.turn.azimuth_deg))
    azimuths = (video.turn.azimuth_deg - zero) % 360.0
    free = ~video.turn.covered
    return [_best(video, azimuths, free, 360.0 * step / views) for step in range(views)]


def _best(video: TurntableVideo, azimuths: NDArray[np.float64], free: NDArray[np.bool_], nominal: float) -> PickedFrame:
    off = np.abs(angle_difference(azimuths, nominal))
    nearest = float(off[free].min()) if free.any() else np.inf
    if nearest > TOLERANCE_DEG:
        when = video.times[int(np.argmin(off))]
        raise InputError("turn.covered", f"something covers the product at {nominal:g}°, {when:.1f} s into the video")
    near = np.flatnonzero(free & (off <= nearest + WINDOW_DEG))
    best = float(video.sharpness[near].max())
    costs = [off[frame] + BLUR_DEG * halvings(video.sharpness[frame], best) for frame in near]
    frame = int(near[np.argmin(costs)])
    return PickedFrame(
        frame, float(video.times[frame]), nominal, float(azimuths[frame]) % 360.0, float(video.sharpness[frame])
    )


def write_frames(video: TurntableVideo, picked: Sequence[PickedFrame], out_folder: str | Path) -> Path:
    """Write the chosen frames as the folder of one product: ``<name>_<nominal angle>.jpg`` and ``capture.csv``.

    Args:
        video: The video that the frames come from; it is decoded again.
        picked: Result of `pick_frames`.
        out_folder: A new or empty folder; its name is the product's id.

    Returns:
        The folder.

    Raises:
        InputError: `capture.out_not_empty`, `capture.write_failed`, `capture.invalid_product_id`, `video.unreadable`.
    """
    out = Path(out_folder).absolute()
    names = {pick.frame: f"{out.name}_{pick.nominal_deg:03.0f}.jpg" for pick in picked}
    with new_folder(out) as partial:
        for index, (_, frame) in zip(sorted(names), frames_of(video.path, only=names), strict=True):
            (partial / names[index]).write_bytes(encode_jpeg(frame, QUALITY))
        rows = [(names[pick.frame], f"{pick.azimuth_deg:.3f}", f"{pick.seconds:.3f}") for pick in picked]
        write_table(partial, rows, "seconds")
    return out
