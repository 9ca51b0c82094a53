"""From where was each photo taken? Asked of the photos alone: do all of them, arranged like this, show one product?

An arrangement gives each photo an azimuth, and says which way round they run and which are mirrored. It is worth what it
explains: the outlines of all photos but one must leave room for that one's product (silhouette coherence, see
`gapray.geometry.calibrate`), and a point of the product must have one colour in all photos that see it. Whole-number changes
(exchange two photos, mirror one, reverse all) are tried one by one; angles, camera and crops are then refined together, by
gradient, with a price on every angle that differs from what was said, so that a photo is moved only where it explains much.
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

from gapray.capture.azimuths import turned
from gapray.geometry.calibrate import SHIFT_PRICE, SIDE, UNITS, Fit, Silhouettes, bounds, calibrate, unpacked
from gapray.geometry.descend import minimize_lbfgs
from gapray.geometry.frame import lay_out, mask_box, to_frame
from gapray.resample import resized

LAID_SIDE = 192
"""Photos are laid out at this size before they are brought to `SIDE` [pixels]."""
COLOUR_BLUR = 1.5
"""Colours are compared after this blur, because the hull is not the product [pixels of `SIDE`]."""
MOST_DIFFERENT = 0.6
"""A larger difference of colour says no more than this one [1/100 CIE Lab, summed over its three axes]."""
TRY_PIXELS, TRY_DEPTHS = 100, 28
FIT_PIXELS, FIT_DEPTHS = 150, 32
"""Pixels of each photo and points on their rays, for the trials and for the refinement."""
PRICE = 0.008
"""Cost of moving all photos by ten degrees, in the unit of the cost."""
WORTH_MAKING = 0.9
"""A change is made when, refined, it leaves at most this share of the refined cost of what it would change."""
TELLING, LEAST_TELLING = 1.03, 0.022
"""A photo's angle can be told when 45 degrees more or less cost at least this much more: as a ratio, and in the cost's unit. On
real sets where exchanged photos are found 0.024 … 0.42, for most photos of plain cups, an apple, a pear and a tomato less."""
SURE = 1.02
"""A photo is said to stand elsewhere when its own angle costs at least so much more."""
LEAST_TOLD = 0.7
"""Share of the photos whose angle must be told, or the set is not observable."""
WORTH_TURNING = 0.97
"""The photos run the other way round when that leaves at most this share of the cost."""
EQUAL = 0.96
"""Costs whose ratio is nearer to 1 are taken for equal."""
HARM = 0.02
"""A photo that carves so much of all others' product away is left out on trial, one after the other…"""
WORTH_SCALING = 0.9
"""A scale a photo is believed when it leaves at most this share of the cost."""
WORTH_LEAVING = 0.8
"""…and for good when the others then cost at most this share."""
LEAST_PHOTOS = 5
"""Fewest photos of which some may be left out."""
CHANGES = 3
"""Most whole-number changes that are made."""
TRIED = {"order": (3, 0.97), "side": (1, 0.97), "angle": (2, 1.08)}
"""Kind of change -> how many are refined in each round, for each direction, and the largest share of the cost with which one is.
A moved photo is tried with the camera of its old angle, so that it may even cost more at first."""
RIVAL = 1.3
"""The other direction is given up when what is said costs so many times as much in it."""
MOVE_DEG = 22.0
"""A photo that stands between two angles is looked for so far from its own."""
STEPS_DEG = (-22.0, -11.0, 11.0, 22.0)
"""Each photo is tried so far from where it is said to be before angles are refined: the slope alone does not lead over a hill."""
STEP_GAIN = 0.985
"""A step is taken when it leaves at most this share of the cost."""
MOVE_UNIT_DEG, MOST_MOVED_DEG = 10.0, 45.0
"""Azimuths are searched in this unit and moved by at most so much."""


@dataclass(frozen=True)
class Arrangement:
    """What the photos say about where they were taken."""

    azimuths_deg: tuple[float, ...]
    """One a photo, in [0, 360); counted counter-clockwise even when the photos run clockwise."""
    direction: int
    """-1 when the photos run the other way round than they are named, else +1."""
    mirrored: tuple[bool, ...]
    """Photos in which left and right are exchanged."""
    told: tuple[bool, ...]
    """Photos whose angle can be told from the others at all."""
    sure: tuple[bool, ...]
    """Photos whose angle as it is said would explain clearly less than the one that was found."""
    fitting: tuple[bool, ...]
    """Photos whose outline fits the others' at some angle; the angle of one that does not is as it was said."""
    scales: tuple[float, ...]
    """How large the product is in each photo, against the median photo, perspective taken out."""
    cost: float
    """Cost of this arrangement; that of the azimuths as they were said is `said_cost`."""
    said_cost: float

    @property
    def observable(self) -> bool:
        """Whether enough photos say where they were taken."""
        return sum(self.told) >= LEAST_TOLD * len(self.told)


@dataclass(frozen=True)
class _Guess:
    """An arrangement that is being tried: `order[i]` is the place whose azimuth photo [i] gets."""

    fit: Fit
    order: tuple[int, ...]
    mirrored: tuple[bool, ...]
    moved_deg: tuple[float, ...]
    cost: float


@contextmanager
def _on_one_thread() -> Iterator[None]:
    """Torch on one thread: of many small steps, one after the other, sharing out costs more than it saves."""
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
    """Find the arrangement that explains the photos best, near the one that is said.

    Args:
        photos: uint8 [H, W, 3] a view, at least four; sizes may differ.
        masks: uint8 [H, W] a view, none empty, 128 and above = product.
        azimuths_deg: What is said of each.

    Returns:
        The arrangement; its zero is the median photo's.
    """
    kept = list(range(len(photos)))
    evidence = _Evidence(photos, masks, azimuths_deg)
    best, said_cost = _arranged(evidence)
    while len(kept) > LEAST_PHOTOS:
        harm = evidence.harm(best)
        worst = int(np.argmax(harm))
        if harm[worst] < HARM:
            break
        # A mask that lost a part carves it away for all. Without it the others must get on much better.
        fewer = kept[:worst] + kept[worst + 1 :]
        others = _Evidence(
            [photos[index] for index in fewer],
            [masks[index] for index in fewer],
            [azimuths_deg[index] for index in fewer],
        )
        better, its_said_cost = _arranged(others)
        if better.cost > WORTH_LEAVING * best.cost:
            break
        kept, evidence, best, said_cost = fewer, others, better, its_said_cost
    # What was found has a zero of its own: two exchanges may as well be a turn of all the others.
    said = np.array([azimuths_deg[index] for index in kept], np.float64)
    found = best.fit.direction * (said[list(best.order)] + np.array(best.moved_deg))
    shown, direction = laid_along(found, said)
    told, sure, scales = evidence.told(best), evidence.sure(best), evidence.scales(best)
    place = {index: at for at, index in enumerate(kept)}
    photos_at = [place.get(index) for index in range(len(photos))]
    return Arrangement(
        azimuths_deg=tuple(
            direction * azimuth % 360.0 if at is None else float(shown[at])
            for at, azimuth in zip(photos_at, azimuths_deg, strict=True)
        ),
        direction=direction,
        mirrored=tuple(at is not None and best.mirrored[at] for at in photos_at),
        told=tuple(at is not None and told[at] for at in photos_at),
        sure=tuple(at is not None and sure[at] for at in photos_at),
        fitting=tuple(at is not None for at in photos_at),
        scales=tuple(1.0 if at is None else scales[at] for at in photos_at),
        cost=best.cost,
        said_cost=said_cost,
    )


def _arranged(evidence: _Evidence) -> tuple[_Guess, float]:
    """The best arrangement, and what the one that is said costs."""
    plain = [evidence.plain(fit) for fit in evidence.fits()]
    said = [evidence.refined(one.fit, one.order, one.mirrored) for one in plain]
    # The order that is said is believed until another one explains much more.
    best = min(said, key=lambda one: one.cost * (1.0 if one.fit.direction > 0 else 1 / WORTH_TURNING))
    # Changes are looked for from where nothing was moved yet: a refined camera is bent to suit what is wrong.
    least = min(one.cost for one in said)
    starts = [start for start, one in zip(plain, said, strict=True) if one.cost <= RIVAL * least]
    for _ in range(CHANGES):
        # An exchange can make the wrong direction look right, so both are looked at until a change is made.
        found = [better for start in starts for better in evidence.better(start)]
        cheapest = min((one.cost for one in found), default=math.inf)
        if cheapest > WORTH_MAKING * best.cost:
            break
        # Of changes that explain as much, the one that leaves the photos' order as it is said.
        equal = [one for one in found if one.cost <= cheapest / EQUAL and one.cost <= WORTH_MAKING * best.cost]
        best = max(equal, key=lambda one: (one.fit.direction, -one.cost))
        starts = [best]
    return best, said[0].cost


def laid_along(found_deg: NDArray[np.float64], said_deg: NDArray[np.float64]) -> tuple[NDArray[np.float64], int]:
    """Angles of an unknown zero, turned to where they differ least from what is said, most photos counting alike.

    Args:
        found_deg: [V], counter-clockwise.
        said_deg: [V], counter-clockwise, or clockwise throughout.

    Returns:
        The found angles in [0, 360), counter-clockwise, and +1, or -1 when what is said runs clockwise.
    """
    best: tuple[float, int, NDArray[np.float64]] | None = None
    for direction in (1, -1):
        expected = direction * said_deg
        for offset in turned(found_deg, expected):
            off = turned(found_deg - offset, expected)
            cost = float(np.minimum(np.abs(off), 30.0).sum())
            if best is None or cost < best[0] - 1e-6:
                near = off[np.abs(off) < 15.0]
                best = cost, direction, (found_deg - offset - float(np.median(near))) % 360.0
    assert best is not None
    return best[2], best[1]


class _Evidence:
    """The photos of one product, and what an arrangement of them costs."""

    def __init__(
        self, photos: Sequence[NDArray[np.uint8]], masks: Sequence[NDArray[np.uint8]], azimuths_deg: Sequence[float]
    ) -> None:
        layout = lay_out([mask >= 128 for mask in masks], framing="product", margin=0.05)
        laid = [to_frame(mask, at, LAID_SIDE) for mask, at in zip(masks, layout.placements, strict=True)]
        colours = [
            _blurred(to_frame(photo, at, LAID_SIDE), mask)
            for photo, at, mask in zip(photos, layout.placements, laid, strict=True)
        ]
        self.alpha = torch.from_numpy(np.stack(laid)).float() / 255
        self.colours = torch.from_numpy(np.stack(colours)).permute(0, 3, 1, 2)
        self.own_crops = layout.own_crops
        self.said_deg = [float(azimuth) for azimuth in azimuths_deg]
        self.axis_y = float(np.mean([sum(mask_box(mask >= 128)[2:]) / len(mask) - 1 for mask in laid]))
        self.outlines = Silhouettes(self.alpha, self.said_deg, self.axis_y)
        self.views = len(masks)
        self.own_order = tuple(range(self.views))
        self.unmirrored = (False,) * self.views
        self._few, self._many = (self.outlines.pixels(count, seed=0) for count in (TRY_PIXELS, FIT_PIXELS))
        self._few_colours, self._many_colours = (self._at(pixels) for pixels in (self._few, self._many))

    def fits(self) -> list[Fit]:
        """The camera for each direction, for the photos as they are said to be."""
        return self._calibrated(self.said_deg, self.unmirrored)

    def plain(self, fit: Fit) -> _Guess:
        """What is said, with a camera as it was calibrated."""
        guess = _Guess(fit, self.own_order, self.unmirrored, (0.0,) * self.views, 0.0)
        return replace(guess, cost=self.cost(guess))

    def refitted(self, guess: _Guess) -> Fit:
        """The camera for another arrangement, starting anew: the old one was bent to suit the old arrangement."""
        azimuths = [self.said_deg[place] + moved for place, moved in zip(guess.order, guess.moved_deg, strict=True)]
        fits = self._calibrated(azimuths, guess.mirrored)
        return next(fit for fit in fits if fit.direction == guess.fit.direction)

    def _calibrated(self, azimuths_deg: list[float], mirrored: Sequence[bool]) -> list[Fit]:
        alpha = torch.stack([one.flip(-1) if is_one else one for one, is_one in zip(self.alpha, mirrored, strict=True)])
        return calibrate(alpha, azimuths_deg, axis_y=self.axis_y, own_crops=self.own_crops, quick=True)

    def changes(self, guess: _Guess) -> list[tuple[str, _Guess]]:
        """Every exchange of two photos, every mirrored and every moved photo, with its kind and its cost."""
        found = []
        for a, b in combinations(range(self.views), 2):
            order = list(guess.order)
            order[a], order[b] = order[b], order[a]
            # What was moved to make up for a wrong place goes back to its angle first.
            moved = [0.0 if place in (a, b) else one for place, one in enumerate(guess.moved_deg)]
            found.append(("order", self._tried(_unbent(guess, a, b), tuple(order), guess.mirrored, moved)))
        for index in range(self.views):
            mirrored = tuple(one != (place == index) for place, one in enumerate(guess.mirrored))
            moved = [0.0 if place == index else one for place, one in enumerate(guess.moved_deg)]
            found.append(("side", self._tried(_unbent(guess, index), guess.order, mirrored, moved)))
            for step in (-MOVE_DEG, MOVE_DEG):
                moved = [one + step * (place == index) for place, one in enumerate(guess.moved_deg)]
                found.append(("angle", self._tried(_unbent(guess, index), guess.order, guess.mirrored, moved)))
        return found

    def better(self, guess: _Guess) -> list[_Guess]:
        """The most promising changes, each with a camera of its own, refined."""
        own = self.cost(guess)
        trials = self.changes(guess)
        chosen: list[_Guess] = []
        for kind, (most, worth) in TRIED.items():
            mine = sorted((one for named, one in trials if named == kind), key=lambda one: one.cost)[:most]
            chosen += [one for one in mine if one.cost < worth * own]
        return [self.refined(self.refitted(one), one.order, one.mirrored, one.moved_deg) for one in chosen]

    def cost(self, guess: _Guess) -> float:
        """Cost of a guess, counted as `changes` counts."""
        return self._tried(guess, guess.order, guess.mirrored).cost

    def told(self, guess: _Guess) -> list[bool]:
        """Whether each photo's angle can be told: a wrong one must cost more."""
        own = self.cost(guess)
        result = []
        for index in range(self.views):
            costs = []
            for step in (-45.0, 45.0):
                moved = list(guess.moved_deg)
                moved[index] += step
                costs.append(self._tried(guess, guess.order, guess.mirrored, moved).cost)
            result.append(min(costs) > max(TELLING * own, own + LEAST_TELLING))
        return result

    def sure(self, guess: _Guess) -> list[bool]:
        """Whether each photo's move is worth it: back at its place it must cost clearly more."""
        own = self.cost(guess)
        result = []
        for index in range(self.views):
            back = [0.0 if place == index else one for place, one in enumerate(guess.moved_deg)]
            cost = self._tried(guess, guess.order, guess.mirrored, back).cost
            result.append(guess.order[index] != index or cost > SURE * own)
        return result

    @torch.no_grad()
    def _tried(
        self,
        guess: _Guess,
        order: tuple[int, ...],
        mirrored: tuple[bool, ...],
        moved_deg: Sequence[float] | None = None,
    ) -> _Guess:
        moved = tuple(guess.moved_deg if moved_deg is None else moved_deg)
        tried = _Guess(guess.fit, order, mirrored, moved, 0.0)
        camera, shifts, azimuths, sides = self._world(tried)
        direction = guess.fit.direction
        cost = self._cost(self._few, self._few_colours, TRY_DEPTHS, camera, direction, shifts, azimuths, sides)
        return replace(tried, cost=float(cost))

    @torch.no_grad()
    def harm(self, guess: _Guess) -> list[float]:
        """What the other photos would gain, as a mean share of their pixels, if a photo's outline did not count."""
        camera, shifts, azimuths, sides = self._world(guess)
        rays = self.outlines.rays(self._few, TRY_DEPTHS, camera, guess.fit.direction, shifts, azimuths, sides)
        own = self.outlines.inside(rays).amax(-1).mean(-1)
        gains = []
        for index in range(self.views):
            seen = rays.seen.clone()
            seen[index] = 1.0
            without = self.outlines.inside(replace(rays, seen=seen)).amax(-1).mean(-1)
            gain = without - own
            gains.append(float((gain.sum() - gain[index]) / (self.views - 1)))
        return gains

    def scales(self, guess: _Guess) -> list[float]:
        """How large the product is in each photo: a scale and a shift a photo are set free."""
        if self.own_crops:
            return [1.0] * self.views
        free = self.refined(replace(guess.fit, shifted=True), guess.order, guess.mirrored, guess.moved_deg)
        if free.cost > WORTH_SCALING * guess.cost:
            return [1.0] * self.views
        logs = free.fit.shifts[:, 2]
        return [float(one) for one in np.exp(logs - np.median(logs))]

    def _world(self, guess: _Guess) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Camera, shifts, azimuths and sides, as `Silhouettes.rays` takes them."""
        fit = guess.fit
        camera = torch.tensor([math.radians(fit.elevation_deg), fit.inverse_distance, fit.axis_x])
        azimuths = self._azimuths(guess.order) + torch.deg2rad(torch.tensor(guess.moved_deg))
        sides = torch.tensor([-1.0 if one else 1.0 for one in guess.mirrored])
        return camera, torch.from_numpy(fit.shifts).float(), azimuths, sides

    def _stepped(
        self, fit: Fit, order: tuple[int, ...], mirrored: tuple[bool, ...], begin: Sequence[float]
    ) -> list[float]:
        """Where each photo costs least, one after the other, the others staying [degrees]."""
        moved = list(begin)
        guess = self._tried(_Guess(fit, order, mirrored, tuple(moved), 0.0), order, mirrored)
        for _ in range(2):
            trials = []
            for index in range(self.views):
                for step in STEPS_DEG:
                    other = [one + step * (place == index) for place, one in enumerate(moved)]
                    trials.append(self._tried(guess, order, mirrored, other))
            best = min(trials, key=lambda one: one.cost)
            if best.cost > STEP_GAIN * guess.cost:
                break
            guess, moved = best, list(best.moved_deg)
        return moved

    def _azimuths(self, order: Sequence[int]) -> Tensor:
        return torch.deg2rad(torch.tensor([self.said_deg[place] for place in order]))

    def _at(self, pixels: tuple[Tensor, Tensor]) -> Tensor:
        """Colours of pixels in their own photos, [V, n, 3]."""
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
        """What the photos leave unexplained: share of their pixels that no hull covers, plus the difference of colours."""
        rays = self.outlines.rays(pixels, depths, camera, direction, shifts, azimuths, sides)
        inside = self.outlines.inside(rays)
        sure = inside.amax(-1)
        with torch.no_grad():
            # The nearest point that is as good as sure is the surface.
            surface = inside >= torch.minimum(torch.full_like(sure, 0.5), 0.9 * sure)[..., None]
            at = depths - 1 - surface.flip(-1).float().argmax(-1)  # [i, n]
            there = at[:, None, :, None].expand(self.views, self.views, at.shape[1], 1)
            facing = _angle(rays.x.gather(-1, at[..., None]), rays.back.gather(-1, at[..., None]))
            facing_there = _angle(rays.x_there.gather(-1, there), rays.back_there.gather(-1, there))
            facing_there = facing_there + 9 * torch.eye(self.views)[..., None]  # no photo is compared with itself
            # Points that both photos see from the front count most. For a convex product that is where they face.
            seen = facing_there.clamp(max=math.pi / 2).cos() ** 2 * (facing_there < 1.4)
            weight = seen * (facing.clamp(max=math.pi / 2).cos()[:, None] + 0.05)
        where = torch.stack([rays.u.gather(-1, there)[..., 0], rays.v.gather(-1, there)[..., 0]], -1).transpose(0, 1)
        colours = functional.grid_sample(self.colours, where, align_corners=False).permute(2, 0, 3, 1)  # [i, j, n, 3]
        different = (colours - own[:, None]).abs().sum(-1).clamp(max=MOST_DIFFERENT)
        return 1 - sure.mean() + (different * weight).sum() / weight.sum().clamp(min=1e-6)

    def refined(
        self, fit: Fit, order: tuple[int, ...], mirrored: tuple[bool, ...], moved_deg: Sequence[float] | None = None
    ) -> _Guess:
        """Angles, camera and crops together, by quasi-Newton steps from a camera; photos move at a price."""
        base, views = self._azimuths(order), self.views
        moved_deg = [0.0] * views if moved_deg is None else moved_deg
        crops = 3 * views if fit.shifted else 0
        sides = torch.tensor([-1.0 if one else 1.0 for one in mirrored])

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

        def priced(values: Tensor) -> Tensor:
            _, shifts, moved = world(values)
            price = PRICE * torch.sqrt((moved / 10.0) ** 2 + 0.01).mean()
            return cost_of(values) + price + SHIFT_PRICE * ((shifts / UNITS[3]) ** 2).sum()

        start = np.concatenate(
            [
                [fit.elevation_deg / UNITS[0], fit.inverse_distance / UNITS[1], fit.axis_x / UNITS[2]],
                fit.shifts.ravel() / UNITS[3] if crops else [],
                np.asarray(self._stepped(fit, order, mirrored, moved_deg)) / MOVE_UNIT_DEG,
            ]
        )
        low, high = bounds(crops)
        most = np.full(views, MOST_MOVED_DEG / MOVE_UNIT_DEG)
        found = minimize_lbfgs(priced, start, np.concatenate([low, -most]), np.concatenate([high, most]), iterations=40)
        with torch.no_grad():
            values = torch.tensor(found, dtype=torch.float32)
            camera, shifts, moved = world(values)
            cost = float(cost_of(values))
        better = Fit(
            math.degrees(float(camera[0])),
            float(camera[1]),
            float(camera[2]),
            self.axis_y,
            fit.direction,
            shifts.double().numpy(),
            fit.shifted,
            fit.coverage,
        )
        return _Guess(better, order, mirrored, tuple(moved.tolist()), cost)


def _unbent(guess: _Guess, *photos: int) -> _Guess:
    """Without the shifts and scales that made up for what is wrong with some photos."""
    shifts = guess.fit.shifts.copy()
    shifts[list(photos)] = 0.0
    return replace(guess, fit=replace(guess.fit, shifts=shifts))


def _angle(x: Tensor, back: Tensor) -> Tensor:
    """How far a point on a product is turned away from a camera, [..., 1] -> [...], radians."""
    return torch.atan2(x[..., 0], back[..., 0]).abs()


def _blurred(photo: NDArray[np.uint8], mask: NDArray[np.uint8]) -> NDArray[np.float32]:
    """CIE Lab / 100 of the product alone, float32 [SIDE, SIDE, 3]: what lies behind it does not come in by the blur."""
    weight = (mask >= 250).astype(np.float32)
    if weight.sum() < 0.3 * (mask >= 128).sum():
        weight = (mask >= 128).astype(np.float32)
    size, wide = (SIDE, SIDE), 4 * COLOUR_BLUR
    light = np.asarray(photo / np.float32(255) * weight[..., None], np.float32)
    light, weight = resized(light, size), resized(weight, size)
    near, near_weight = (cv2.GaussianBlur(one, (0, 0), COLOUR_BLUR) for one in (light, weight))
    far, far_weight = (cv2.GaussianBlur(one, (0, 0), wide) for one in (light, weight))
    mean = light.sum((0, 1)) / max(float(weight.sum()), 1e-6)
    # Beyond the rim the colour goes on: from near by, from farther, at last the mean.
    filled = (near + 1e-2 * far + 1e-5 * mean) / (near_weight + 1e-2 * far_weight + 1e-5)[..., None]
    return np.asarray(cv2.cvtColor(np.clip(filled, 0, 1).astype(np.float32), cv2.COLOR_RGB2LAB) / 100, np.float32)
