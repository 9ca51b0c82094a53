"""Estimation of the azimuth of each photo from the photos alone: the arrangement in which all of them show one product.

An arrangement gives each photo an azimuth, the direction of the turn, and which photos are mirrored. Its cost measures what it
leaves unexplained: the outlines of all other photos must leave room for the product in each photo (silhouette coherence, see
`gapray.geometry.calibrate`), and a point on the product must have one colour in all photos that see it. Discrete changes (exchange
two photos, mirror one, reverse all) are tried one by one; angles, camera and crops are then refined jointly by gradient descent,
with a penalty on every angle that differs from its name, so that a photo is moved only if that explains much.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import combinations

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from gapray.capture.angles import angle_difference
from gapray.geometry.calibrate import SHIFT_PRICE, SIDE, UNITS, Fit, Silhouettes, bounds, calibrate, unpacked
from gapray.geometry.descend import minimize_lbfgs
from gapray.geometry.frame import lay_out, mask_box, to_frame
from gapray.resample import resized

LAYOUT_SIDE = 192
"""Side of the layout in which photos are placed before they are shrunk to `SIDE` [pixels]."""
COLOUR_BLUR = 1.5
"""Sigma of the blur before colours are compared, because the hull only approximates the product [pixels of `SIDE`]."""
MAX_COLOUR_DIFFERENCE = 0.6
"""Larger colour differences are clipped to this one [1/100 CIE Lab, summed over its three axes]."""
TRY_PIXELS, TRY_DEPTHS = 100, 28
"""Pixels of each photo and points on their rays for trying changes."""
FIT_PIXELS, FIT_DEPTHS = 150, 32
"""Pixels of each photo and points on their rays for the refinement."""
MOVE_PENALTY = 0.008
"""Penalty for moving all photos by ten degrees, in the unit of the cost."""
MAX_CHANGE_COST = 0.9
"""A change is accepted if its refined cost is at most this many times the present refined cost."""
DETERMINED_RATIO, DETERMINED_COST = 1.03, 0.022
"""A photo's angle is determined if 45 degrees more or less cost more by this factor and by this difference. On real sets in which
exchanged photos are found the difference is 0.024 … 0.42; for most photos of plain cups, an apple, a pear and a tomato it is less."""
CONFIDENT_RATIO = 1.02
"""A photo is reported as misplaced if its named angle costs at least this many times as much."""
MIN_DETERMINED_FRACTION = 0.7
"""Fraction of the photos whose angle must be determined for the set to be observable."""
MAX_REVERSAL_COST = 0.97
"""The photos run in the opposite direction if that costs at most this many times as much."""
EQUAL_RATIO = 0.96
"""Costs whose ratio is closer to 1 count as equal."""
MIN_HARM = 0.02
"""A photo that carves away at least this fraction of all others' product is left out on trial, one after the other…"""
MAX_REMAINING_COST = 0.8
"""…and permanently if the others then cost at most this many times as much."""
MAX_SCALING_COST = 0.9
"""Scales of single photos are accepted if the cost with them is at most this many times as much."""
MIN_PHOTOS = 5
"""Minimum number of photos that are always kept."""
MAX_CHANGES = 3
"""Maximum number of discrete changes."""
CHANGE_KINDS = {"order": (3, 0.97), "side": (1, 0.97), "angle": (2, 1.08)}
"""Kind of change -> maximum number that are refined per round and direction, and their maximum cost relative to the present one. A
moved photo is tried with the camera fitted to its old angle, and may therefore cost more at first."""
MAX_RIVAL_COST = 1.3
"""The costlier direction is given up if the photos as named cost more than this many times as much in it."""
MOVE_DEG = 22.0
"""Distance from its angle at which a photo between two angles is tried."""
STEPS_DEG = (-22.0, -11.0, 11.0, 22.0)
"""Offsets at which each photo is tried before angles are refined, because gradient descent alone stops in local minima."""
STEP_GAIN = 0.985
"""A step is taken if it reduces the cost to at most this fraction."""
MOVE_UNIT_DEG, MAX_MOVE_DEG = 10.0, 45.0
"""Unit in which moves are optimised, and the largest move."""


@dataclass(frozen=True)
class Arrangement:
    """Estimated azimuths of a set of photos; all tuples have one value per photo."""

    azimuths_deg: tuple[float, ...]
    """In [0, 360), counter-clockwise even if the photos run clockwise."""
    direction: int
    """-1 if the photos run in the opposite direction to their names, else +1."""
    mirrored: tuple[bool, ...]
    """Whether left and right are exchanged."""
    determined: tuple[bool, ...]
    """Whether the azimuth can be determined from the other photos at all."""
    confident: tuple[bool, ...]
    """Whether the named azimuth explains the photos clearly worse than the estimated one."""
    fitting: tuple[bool, ...]
    """Whether the outline fits the others at any azimuth; if it does not, the azimuth is the named one."""
    scales: tuple[float, ...]
    """Size of the product relative to the median photo, corrected for perspective."""
    cost: float
    """Cost of this arrangement."""
    named_cost: float
    """Cost of the azimuths as named."""

    @property
    def observable(self) -> bool:
        """Whether the azimuths of enough photos are determined."""
        return sum(self.determined) >= MIN_DETERMINED_FRACTION * len(self.determined)


@dataclass(frozen=True)
class _Hypothesis:
    """An arrangement that is being tried."""

    fit: Fit
    order: tuple[int, ...]
    """Photo i gets the named azimuth of photo `order[i]`."""
    mirrored: tuple[bool, ...]
    moved_deg: tuple[float, ...]
    """Offset of each photo from that azimuth."""
    cost: float


@contextmanager
def _on_one_thread() -> Iterator[None]:
    """Run torch on one thread: distributing many small sequential steps costs more than it saves."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@_on_one_thread()
def arrange(
    photos: Sequence[NDArray[np.uint8]], masks: Sequence[NDArray[np.uint8]], azimuths_deg: Sequence[float]
) -> Arrangement:
    """Find the arrangement that explains the photos best, starting from the named azimuths.

    Args:
        photos: uint8 [H, W, 3] each, at least four; sizes may differ.
        masks: uint8 [H, W] each, none empty, 128 and above = product.
        azimuths_deg: Named azimuth of each photo.

    Returns:
        The arrangement, rotated so that most photos are near their named azimuths.
    """
    kept = list(range(len(photos)))
    evidence = _Evidence(photos, masks, azimuths_deg)
    best, named_cost = _search(evidence)
    while len(kept) > MIN_PHOTOS:
        harm = evidence.harm(best)
        worst = int(np.argmax(harm))
        if harm[worst] < MIN_HARM:
            break
        # An incomplete mask carves the missing part away for all photos. Without it the others must fit much better.
        remaining = kept[:worst] + kept[worst + 1 :]
        without = _Evidence(
            [photos[index] for index in remaining],
            [masks[index] for index in remaining],
            [azimuths_deg[index] for index in remaining],
        )
        best_without, named_cost_without = _search(without)
        if best_without.cost > MAX_REMAINING_COST * best.cost:
            break
        kept, evidence, best, named_cost = remaining, without, best_without, named_cost_without
    # The zero of the estimate is arbitrary: exchanging two photos may be equivalent to rotating all others.
    named = np.array([azimuths_deg[index] for index in kept], np.float64)
    estimated = best.fit.direction * (named[list(best.order)] + np.array(best.moved_deg))
    aligned, direction = align_azimuths(estimated, named)
    determined, confident, scales = evidence.determined(best), evidence.confident(best), evidence.scales(best)
    kept_at = {index: at for at, index in enumerate(kept)}
    positions = [kept_at.get(index) for index in range(len(photos))]
    return Arrangement(
        azimuths_deg=tuple(
            direction * azimuth % 360.0 if at is None else float(aligned[at])
            for at, azimuth in zip(positions, azimuths_deg, strict=True)
        ),
        direction=direction,
        mirrored=tuple(at is not None and best.mirrored[at] for at in positions),
        determined=tuple(at is not None and determined[at] for at in positions),
        confident=tuple(at is not None and confident[at] for at in positions),
        fitting=tuple(at is not None for at in positions),
        scales=tuple(1.0 if at is None else scales[at] for at in positions),
        cost=best.cost,
        named_cost=named_cost,
    )


def _search(evidence: _Evidence) -> tuple[_Hypothesis, float]:
    """The best hypothesis, and the cost of the photos as named."""
    unrefined = [evidence.as_named(fit) for fit in evidence.fits()]
    named = [evidence.refined(start.fit, start.order, start.mirrored) for start in unrefined]
    # The named direction is kept unless the other one explains much more.
    best = min(
        named,
        key=lambda hypothesis: hypothesis.cost * (1.0 if hypothesis.fit.direction > 0 else 1 / MAX_REVERSAL_COST),
    )
    # Changes start from the unrefined hypotheses: a refined camera has been bent to compensate for what is wrong.
    least = min(hypothesis.cost for hypothesis in named)
    starts = [
        start for start, hypothesis in zip(unrefined, named, strict=True) if hypothesis.cost <= MAX_RIVAL_COST * least
    ]
    for _ in range(MAX_CHANGES):
        # An exchange can make the wrong direction look right, so both directions are tried until a change is accepted.
        improved = [hypothesis for start in starts for hypothesis in evidence.improved(start)]
        cheapest = min((hypothesis.cost for hypothesis in improved), default=math.inf)
        if cheapest > MAX_CHANGE_COST * best.cost:
            break
        # Of changes that explain equally much, the one that keeps the named direction.
        max_cost = min(cheapest / EQUAL_RATIO, MAX_CHANGE_COST * best.cost)
        equal = [hypothesis for hypothesis in improved if hypothesis.cost <= max_cost]
        best = max(equal, key=lambda hypothesis: (hypothesis.fit.direction, -hypothesis.cost))
        starts = [best]
    return best, named[0].cost


def align_azimuths(found_deg: NDArray[np.float64], named_deg: NDArray[np.float64]) -> tuple[NDArray[np.float64], int]:
    """Rotate azimuths with an arbitrary zero so that most of them are as close as possible to the named ones.

    Args:
        found_deg: [V], counter-clockwise.
        named_deg: [V], counter-clockwise, or clockwise throughout.

    Returns:
        The rotated azimuths in [0, 360), counter-clockwise, and +1, or -1 if the named ones run clockwise.
    """
    best: tuple[float, int, NDArray[np.float64]] | None = None
    for direction in (1, -1):
        expected = direction * named_deg
        for offset in angle_difference(found_deg, expected):
            off = angle_difference(found_deg - offset, expected)
            cost = float(np.minimum(np.abs(off), 30.0).sum())
            if best is None or cost < best[0] - 1e-6:
                near = off[np.abs(off) < 15.0]
                best = cost, direction, (found_deg - offset - float(np.median(near))) % 360.0
    assert best is not None
    return best[2], best[1]


class _Evidence:
    """The V photos of one product, and the costs of their arrangements."""

    def __init__(
        self, photos: Sequence[NDArray[np.uint8]], masks: Sequence[NDArray[np.uint8]], azimuths_deg: Sequence[float]
    ) -> None:
        layout = lay_out([mask >= 128 for mask in masks], framing="product", margin=0.05)
        laid_out = [to_frame(mask, at, LAYOUT_SIDE) for mask, at in zip(masks, layout.placements, strict=True)]
        colours = [
            _blurred(to_frame(photo, at, LAYOUT_SIDE), mask)
            for photo, at, mask in zip(photos, layout.placements, laid_out, strict=True)
        ]
        self.alpha = torch.from_numpy(np.stack(laid_out)).float() / 255
        self.colours = torch.from_numpy(np.stack(colours)).permute(0, 3, 1, 2)
        self.own_crops = layout.own_crops
        self.named_deg = [float(azimuth) for azimuth in azimuths_deg]
        self.axis_y = float(np.mean([sum(mask_box(mask >= 128)[2:]) / len(mask) - 1 for mask in laid_out]))
        self.outlines = Silhouettes(self.alpha, self.named_deg, self.axis_y)
        self.views = len(masks)
        self.own_order = tuple(range(self.views))
        self.unmirrored = (False,) * self.views
        self._few, self._many = (self.outlines.pixels(count, seed=0) for count in (TRY_PIXELS, FIT_PIXELS))
        self._few_colours, self._many_colours = (self._at(pixels) for pixels in (self._few, self._many))

    def fits(self) -> list[Fit]:
        """The camera fitted to the photos as named, for each direction."""
        return self._calibrated(self.named_deg, self.unmirrored)

    def as_named(self, fit: Fit) -> _Hypothesis:
        """The photos as named, with an unrefined camera."""
        hypothesis = _Hypothesis(fit, self.own_order, self.unmirrored, (0.0,) * self.views, 0.0)
        return replace(hypothesis, cost=self.cost(hypothesis))

    def refitted(self, hypothesis: _Hypothesis) -> Fit:
        """The camera fitted to a hypothesis from scratch, because the old one was bent to suit the old arrangement."""
        azimuths = [
            self.named_deg[place] + moved for place, moved in zip(hypothesis.order, hypothesis.moved_deg, strict=True)
        ]
        fits = self._calibrated(azimuths, hypothesis.mirrored)
        return next(fit for fit in fits if fit.direction == hypothesis.fit.direction)

    def _calibrated(self, azimuths_deg: list[float], mirrored: Sequence[bool]) -> list[Fit]:
        alpha = torch.stack(
            [mask.flip(-1) if is_mirrored else mask for mask, is_mirrored in zip(self.alpha, mirrored, strict=True)]
        )
        return calibrate(alpha, azimuths_deg, axis_y=self.axis_y, own_crops=self.own_crops, quick=True)

    def changes(self, hypothesis: _Hypothesis) -> list[tuple[str, _Hypothesis]]:
        """Every exchange of two photos, every mirrored and every moved photo: the kind of change and the new hypothesis."""
        changed = []
        for a, b in combinations(range(self.views), 2):
            order = list(hypothesis.order)
            order[a], order[b] = order[b], order[a]
            # A photo that was moved to compensate for a wrong position returns to its angle first.
            moved = [0.0 if place in (a, b) else offset for place, offset in enumerate(hypothesis.moved_deg)]
            changed.append(("order", self._tried(_unbent(hypothesis, a, b), tuple(order), hypothesis.mirrored, moved)))
        for index in range(self.views):
            start = _unbent(hypothesis, index)
            mirrored = tuple(flag != (place == index) for place, flag in enumerate(hypothesis.mirrored))
            moved = [0.0 if place == index else offset for place, offset in enumerate(hypothesis.moved_deg)]
            changed.append(("side", self._tried(start, hypothesis.order, mirrored, moved)))
            for step in (-MOVE_DEG, MOVE_DEG):
                moved = [offset + step * (place == index) for place, offset in enumerate(hypothesis.moved_deg)]
                changed.append(("angle", self._tried(start, hypothesis.order, hypothesis.mirrored, moved)))
        return changed

    def improved(self, hypothesis: _Hypothesis) -> list[_Hypothesis]:
        """The most promising changes, each refined from a newly fitted camera."""
        own = self.cost(hypothesis)
        changes = self.changes(hypothesis)
        chosen: list[_Hypothesis] = []
        for kind, (max_count, max_cost) in CHANGE_KINDS.items():
            of_kind = sorted((change for name, change in changes if name == kind), key=lambda change: change.cost)
            chosen += [change for change in of_kind[:max_count] if change.cost < max_cost * own]
        return [
            self.refined(self.refitted(change), change.order, change.mirrored, change.moved_deg) for change in chosen
        ]

    def cost(self, hypothesis: _Hypothesis) -> float:
        """Cost of a hypothesis, on the same pixels as the costs in `changes`."""
        return self._tried(hypothesis, hypothesis.order, hypothesis.mirrored).cost

    def determined(self, hypothesis: _Hypothesis) -> list[bool]:
        """Whether the azimuth of each photo is determined: a wrong one must cost more."""
        own = self.cost(hypothesis)
        result = []
        for index in range(self.views):
            costs = []
            for step in (-45.0, 45.0):
                moved = list(hypothesis.moved_deg)
                moved[index] += step
                costs.append(self._tried(hypothesis, hypothesis.order, hypothesis.mirrored, moved).cost)
            result.append(min(costs) > max(DETERMINED_RATIO * own, own + DETERMINED_COST))
        return result

    def confident(self, hypothesis: _Hypothesis) -> list[bool]:
        """Whether each photo is certainly not at its named azimuth: moving it back there must cost clearly more."""
        own = self.cost(hypothesis)
        result = []
        for index in range(self.views):
            moved_back = [0.0 if place == index else offset for place, offset in enumerate(hypothesis.moved_deg)]
            cost = self._tried(hypothesis, hypothesis.order, hypothesis.mirrored, moved_back).cost
            result.append(hypothesis.order[index] != index or cost > CONFIDENT_RATIO * own)
        return result

    @torch.no_grad()
    def _tried(
        self,
        hypothesis: _Hypothesis,
        order: tuple[int, ...],
        mirrored: tuple[bool, ...],
        moved_deg: Sequence[float] | None = None,
    ) -> _Hypothesis:
        moved = tuple(hypothesis.moved_deg if moved_deg is None else moved_deg)
        tried = _Hypothesis(hypothesis.fit, order, mirrored, moved, 0.0)
        camera, shifts, azimuths, sides = self._world(tried)
        direction = hypothesis.fit.direction
        cost = self._cost(self._few, self._few_colours, TRY_DEPTHS, camera, direction, shifts, azimuths, sides)
        return replace(tried, cost=float(cost))

    @torch.no_grad()
    def harm(self, hypothesis: _Hypothesis) -> list[float]:
        """Mean fraction of the other photos' pixels that each photo's outline carves away."""
        camera, shifts, azimuths, sides = self._world(hypothesis)
        rays = self.outlines.rays(self._few, TRY_DEPTHS, camera, hypothesis.fit.direction, shifts, azimuths, sides)
        own = self.outlines.inside(rays).amax(-1).mean(-1)
        gains = []
        for index in range(self.views):
            seen = rays.seen.clone()
            seen[index] = 1.0
            without = self.outlines.inside(replace(rays, seen=seen)).amax(-1).mean(-1)
            gain = without - own
            gains.append(float((gain.sum() - gain[index]) / (self.views - 1)))
        return gains

    def scales(self, hypothesis: _Hypothesis) -> list[float]:
        """Size of the product in each photo relative to the median, with a scale and a shift fitted to each photo."""
        if self.own_crops:
            return [1.0] * self.views
        free = self.refined(
            replace(hypothesis.fit, shifted=True), hypothesis.order, hypothesis.mirrored, hypothesis.moved_deg
        )
        if free.cost > MAX_SCALING_COST * hypothesis.cost:
            return [1.0] * self.views
        logs = free.fit.shifts[:, 2]
        return [float(scale) for scale in np.exp(logs - np.median(logs))]

    def _world(self, hypothesis: _Hypothesis) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Camera, shifts, azimuths and sides of a hypothesis, in the form that `Silhouettes.rays` expects."""
        fit = hypothesis.fit
        camera = torch.tensor([math.radians(fit.elevation_deg), fit.inverse_distance, fit.axis_x])
        azimuths = self._azimuths(hypothesis.order) + torch.deg2rad(torch.tensor(hypothesis.moved_deg))
        sides = torch.tensor([-1.0 if mirrored else 1.0 for mirrored in hypothesis.mirrored])
        return camera, torch.from_numpy(fit.shifts).float(), azimuths, sides

    def _stepped(
        self, fit: Fit, order: tuple[int, ...], mirrored: tuple[bool, ...], begin: Sequence[float]
    ) -> list[float]:
        """Offsets [degrees] of the photos after up to two steps, each of which moves the photo that reduces the cost most."""
        moved = list(begin)
        hypothesis = self._tried(_Hypothesis(fit, order, mirrored, tuple(moved), 0.0), order, mirrored)
        for _ in range(2):
            trials = []
            for index in range(self.views):
                for step in STEPS_DEG:
                    stepped = [offset + step * (place == index) for place, offset in enumerate(moved)]
                    trials.append(self._tried(hypothesis, order, mirrored, stepped))
            best = min(trials, key=lambda trial: trial.cost)
            if best.cost > STEP_GAIN * hypothesis.cost:
                break
            hypothesis, moved = best, list(best.moved_deg)
        return moved

    def _azimuths(self, order: Sequence[int]) -> Tensor:
        return torch.deg2rad(torch.tensor([self.named_deg[place] for place in order]))

    def _at(self, pixels: tuple[Tensor, Tensor]) -> Tensor:
        """Colours of n pixels in each photo, [V, n, 3], CIE Lab / 100."""
        grid = torch.stack(pixels, -1)[:, None]
        return functional.grid_sample(self.colours, grid, align_corners=False)[:, :, 0].permute(0, 2, 1)

    def _cost(
        self,
        pixels: tuple[Tensor, Tensor],
        own: Tensor,
        depths: int,
        camera: Tensor,
        direction: int,
        shifts: Tensor,
        azimuths: Tensor,
        sides: Tensor,
    ) -> Tensor:
        """Fraction of the photos' pixels that are not covered by the hull, plus the mean difference of colours."""
        rays = self.outlines.rays(pixels, depths, camera, direction, shifts, azimuths, sides)
        inside = self.outlines.inside(rays)
        sure = inside.amax(-1)
        with torch.no_grad():
            # The surface is the nearest point that is almost certainly inside.
            surface = inside >= torch.minimum(torch.full_like(sure, 0.5), 0.9 * sure)[..., None]
            at = depths - 1 - surface.flip(-1).float().argmax(-1)  # [i, n]
            there = at[:, None, :, None].expand(self.views, self.views, at.shape[1], 1)
            facing = _angle(rays.x.gather(-1, at[..., None]), rays.back.gather(-1, at[..., None]))
            facing_there = _angle(rays.x_there.gather(-1, there), rays.back_there.gather(-1, there))
            facing_there = facing_there + 9 * torch.eye(self.views)[..., None]  # no photo is compared with itself
            # Points that face both cameras count most; for a convex product both photos see those.
            seen = facing_there.clamp(max=math.pi / 2).cos() ** 2 * (facing_there < 1.4)
            weight = seen * (facing.clamp(max=math.pi / 2).cos()[:, None] + 0.05)
        where = torch.stack([rays.u.gather(-1, there)[..., 0], rays.v.gather(-1, there)[..., 0]], -1).transpose(0, 1)
        colours = functional.grid_sample(self.colours, where, align_corners=False).permute(2, 0, 3, 1)  # [i, j, n, 3]
        difference = (colours - own[:, None]).abs().sum(-1).clamp(max=MAX_COLOUR_DIFFERENCE)
        return 1 - sure.mean() + (difference * weight).sum() / weight.sum().clamp(min=1e-6)

    def refined(
        self, fit: Fit, order: tuple[int, ...], mirrored: tuple[bool, ...], moved_deg: Sequence[float] | None = None
    ) -> _Hypothesis:
        """Refine angles, camera and crops jointly by quasi-Newton steps, with a penalty on moved photos."""
        base, views = self._azimuths(order), self.views
        moved_deg = [0.0] * views if moved_deg is None else moved_deg
        crops = 3 * views if fit.shifted else 0
        sides = torch.tensor([-1.0 if flag else 1.0 for flag in mirrored])

        def world(values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            camera, shifts = unpacked(values[: 3 + crops], views)
            moved = values[3 + crops :]
            return camera, shifts, (moved - moved.median()) * MOVE_UNIT_DEG

        def cost_of(values: Tensor) -> Tensor:
            camera, shifts, moved = world(values)
            azimuths = base + torch.deg2rad(moved)
            return self._cost(
                self._many, self._many_colours, FIT_DEPTHS, camera, fit.direction, shifts, azimuths, sides
            )

        def penalised(values: Tensor) -> Tensor:
            _, shifts, moved = world(values)
            penalty = MOVE_PENALTY * torch.sqrt((moved / 10.0) ** 2 + 0.01).mean()
            return cost_of(values) + penalty + SHIFT_PRICE * ((shifts / UNITS[3]) ** 2).sum()

        start = np.concatenate(
            [
                [fit.elevation_deg / UNITS[0], fit.inverse_distance / UNITS[1], fit.axis_x / UNITS[2]],
                fit.shifts.ravel() / UNITS[3] if crops else [],
                np.asarray(self._stepped(fit, order, mirrored, moved_deg)) / MOVE_UNIT_DEG,
            ]
        )
        low, high = bounds(crops)
        max_move = np.full(views, MAX_MOVE_DEG / MOVE_UNIT_DEG)
        low, high = np.concatenate([low, -max_move]), np.concatenate([high, max_move])
        solution = minimize_lbfgs(penalised, start, low, high, iterations=40)
        with torch.no_grad():
            values = torch.tensor(solution, dtype=torch.float32)
            camera, shifts, moved = world(values)
            cost = float(cost_of(values))
        refined_fit = Fit(
            math.degrees(float(camera[0])),
            float(camera[1]),
            float(camera[2]),
            self.axis_y,
            fit.direction,
            shifts.double().numpy(),
            fit.shifted,
            fit.coverage,
        )
        return _Hypothesis(refined_fit, order, mirrored, tuple(moved.tolist()), cost)


def _unbent(hypothesis: _Hypothesis, *photos: int) -> _Hypothesis:
    """A hypothesis without the shifts and scales of some photos, which compensated for their errors."""
    shifts = hypothesis.fit.shifts.copy()
    shifts[list(photos)] = 0.0
    return replace(hypothesis, fit=replace(hypothesis.fit, shifts=shifts))


def _angle(x: Tensor, back: Tensor) -> Tensor:
    """Angle between a point on the product and a camera, about the axis: [..., 1] -> [...], 0 … pi radians."""
    return torch.atan2(x[..., 0], back[..., 0]).abs()


def _blurred(photo: NDArray[np.uint8], mask: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Blurred colours of the product, CIE Lab / 100, float32 [SIDE, SIDE, 3]; the background does not bleed in."""
    weight = (mask >= 250).astype(np.float32)
    if weight.sum() < 0.3 * (mask >= 128).sum():
        weight = (mask >= 128).astype(np.float32)
    size, wide = (SIDE, SIDE), 4 * COLOUR_BLUR
    light = np.asarray(photo / np.float32(255) * weight[..., None], np.float32)
    light, weight = resized(light, size), resized(weight, size)
    near, near_weight = (cv2.GaussianBlur(image, (0, 0), COLOUR_BLUR) for image in (light, weight))
    far, far_weight = (cv2.GaussianBlur(image, (0, 0), wide) for image in (light, weight))
    mean = light.sum((0, 1)) / max(float(weight.sum()), 1e-6)
    # Colours are extrapolated beyond the rim: from nearby, from farther away, and finally by the mean.
    filled = (near + 1e-2 * far + 1e-5 * mean) / (near_weight + 1e-2 * far_weight + 1e-5)[..., None]
    return np.asarray(cv2.cvtColor(np.clip(filled, 0, 1).astype(np.float32), cv2.COLOR_RGB2LAB) / 100, np.float32)
