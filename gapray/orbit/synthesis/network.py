"""The network: it decides where each photo is read, then which photo each pixel shows.

1. *Search*: starting at the hull's front, a recurrent look-up of the photos' features at slightly nearer and farther
   surfaces corrects the surface and, for what a wrong camera leaves, a small shift of each photo (as in Lipson et al. 2021,
   "RAFT-Stereo", but around the current estimate instead of over all depths).
2. *Read*: the photos themselves are sampled there, bicubically and only once, so print stays as sharp as in the photo.
3. *Choose*: a U-Net at half resolution weighs the sampled photos, the view morph, the photos warped by optical flow and a
   filled-in colour, and corrects shade and outline; two convolutions at full resolution refine both.

The decisions form a `DrawingPlan`, which is valid at any size: the photos may then be sampled at a larger one.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from gapray.geometry.carve import NOTHING
from gapray.orbit.synthesis.inputs import NEAREST, Frames, Photos
from gapray.orbit.synthesis.sampling import filled_in, located, read

STEPS = (0.03, 0.016, 0.008, 0.004)
"""Distances between the surfaces compared in each round of the search [half frames]."""
SIDES = 4
"""Surfaces compared on each side of the current one."""
FEATURES, GROUPS = 24, 4
"""Channels of a photo's features, and groups in which they are compared."""
HIDDEN = 64
"""Channels of the search's hidden state."""
SHIFT = 0.02
"""Largest correction of a photo's position in one round [half frames]."""
WIDTHS = (64, 96, 128, 160)
"""Channels of the U-Net that chooses, from half the frame's resolution downwards."""
SHARPNESS = 3.0
"""Logits are multiplied by this, so that one candidate wins and print is not averaged."""
MORPH_BIAS = 0.7
"""Initial logit of the morph, which an untrained network shows; flow and the filled-in colour start at its negative."""
FOLLOW_BIAS = -3.0
"""Initial logit of following the flow's outline: an untrained network shows the hull's."""
SHADE = 0.25
"""Largest correction of shade."""
SEEN_WITHIN = 0.05
"""A photo sees a surface point if its own hull front is within this distance [half frames]."""
FINE = 16
"""Channels of the last correction, at the frame's own resolution."""
BAND_PX = 6
"""The outline may move outwards by this much [pixels at a size of 256]."""


@dataclass(frozen=True)
class RenderedFrames:
    """B frames that the network drew, S x S pixels."""

    colour: Tensor
    """[B, 3, S, S], 0 … 1, not multiplied by alpha."""
    alpha: Tensor
    """[B, 1, S, S], 0 … 1."""
    view_z: Tensor
    """[B, 1, S, S]: view z of the corrected surface [half frames], filled in beyond the outline."""
    where: Tensor
    """[B, K, S, S, 2]: u and v at which each photo was sampled."""
    weights: Tensor
    """[B, K + 3, S, S]: weights of the photos, the morph, the flow and the filled-in colour; they sum to 1."""
    moved: Tensor
    """[B, K, 3, S, S]: the sampled photos."""
    seen: Tensor
    """[B, K, S, S], 0 … 1: whether the hull's front there is the nearest thing that the photo shows."""
    surfaces: tuple[Tensor, ...]
    """View z of the surface after each round of the search, [B, 1, S / 4, S / 4]."""


@dataclass(frozen=True)
class DrawingPlan:
    """The network's decisions about B frames, s x s pixels, which need not be the frames' own size."""

    offset: Tensor
    """[B, 1, s, s]: the surface's view z minus that of the hull's front [half frames]."""
    shift: Tensor
    """[B, K, s, s, 2]: added to the position at which each photo is sampled [half frames]."""
    logits: Tensor
    """[B, K + 3, s, s]: logits of the photos, the morph, the flow and the filled-in colour."""
    outline: Tensor
    """[B, 1, s, s]: how far the outline moves, as a change of alpha's logit."""
    follow: Tensor
    """[B, 1, s, s], 0 … 1: how far the outline follows the warped masks instead of the hull."""
    shade: Tensor
    """[B, 3, s, s]: added to the colour."""
    surfaces: tuple[Tensor, ...]
    """View z of the surface after each round of the search, [B, 1, S / 4, S / 4]."""

    def resized(self, size: int) -> DrawingPlan:
        """The plan at `size` x `size` pixels."""
        return DrawingPlan(
            offset=_enlarged(self.offset, size),
            shift=_places(_enlarged(_planes(self.shift), size)),
            logits=_enlarged(self.logits, size),
            outline=_enlarged(self.outline, size),
            follow=_enlarged(self.follow, size),
            shade=_enlarged(self.shade, size),
            surfaces=self.surfaces,
        )


@dataclass(frozen=True)
class PhotoSamples:
    """The photos sampled at a surface, S x S pixels."""

    surface: Tensor
    """[B, 1, S, S]: view z of the surface [half frames], filled in beyond the outline."""
    where: Tensor
    """[B, K, S, S, 2]: u and v at which each photo was sampled."""
    colour: Tensor
    """[B, K, 3, S, S], 0 … 1."""
    alpha: Tensor
    """[B, K, S, S], 0 … 1."""
    seen: Tensor
    """[B, K, S, S], 0 … 1: whether the hull's front there is the nearest thing that the photo shows."""
    fill: Tensor
    """[B, 3, S, S]: mean of the photos that see a pixel, filled in from its surroundings where none does."""


class Block(nn.Module):
    """Two convolutions with a residual connection."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.second = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.norm = nn.GroupNorm(8, outputs)
        self.short = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, s, s] -> [B, outputs, s, s]."""
        inner = self.second(functional.silu(self.norm(self.first(x))))
        return torch.as_tensor(self.short(x) + inner)


class UNet(nn.Module):
    """An encoder and a decoder with skip connections; each level has half the resolution of the one above."""

    def __init__(self, inputs: int, widths: tuple[int, ...]) -> None:
        super().__init__()
        self.enter = nn.Conv2d(inputs, widths[0], 3, padding=1)
        self.down = nn.ModuleList(Block(widths[max(level - 1, 0)], width) for level, width in enumerate(widths))
        self.middle = Block(widths[-1], widths[-1])
        self.up = nn.ModuleList(Block(width + widths[level + 1], width) for level, width in enumerate(widths[:-1]))

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, s, s] -> [B, widths[0], s, s]; s divisible by 2 ** (levels - 1)."""
        x, skips = self.enter(x), []
        for level, block in enumerate(self.down):
            x = block(functional.avg_pool2d(x, 2) if level else x)
            skips.append(x)
        x = self.middle(x)
        for block, skip in zip(reversed(self.up), reversed(skips[:-1]), strict=True):
            x = block(torch.cat([functional.interpolate(x, scale_factor=2.0), skip], 1))
        return functional.silu(x)


class Search(nn.Module):
    """Finds the surface and a shift of each photo, at a quarter of the frame's resolution."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.PixelUnshuffle(2),
            nn.Conv2d(16, 32, 3, padding=1),
            Block(32, 32),
            Block(32, 32),
            nn.Conv2d(32, FEATURES, 1),
        )
        self.begin = nn.Sequential(nn.Conv2d(6, HIDDEN, 3, padding=1), Block(HIDDEN, HIDDEN), Block(HIDDEN, 2 * HIDDEN))
        costs = (2 * SIDES + 1) * 2 * GROUPS
        self.look = nn.Sequential(nn.Conv2d(costs + 3 + 2 * NEAREST, HIDDEN, 1), nn.SiLU())
        self.gate = nn.Conv2d(3 * HIDDEN, 2 * HIDDEN, 3, padding=1)
        self.candidate = nn.Conv2d(3 * HIDDEN, HIDDEN, 3, padding=1)
        self.smooth = nn.Sequential(
            nn.Conv2d(HIDDEN, HIDDEN, 3, padding=2, dilation=2),
            nn.SiLU(),
            nn.Conv2d(HIDDEN, HIDDEN, 3, padding=4, dilation=4),
        )
        self.step = nn.Conv2d(HIDDEN, 1 + 2 * NEAREST, 3, padding=1)
        nn.init.zeros_(self.step.weight)
        nn.init.zeros_(torch.as_tensor(self.step.bias))

    def forward(self, frames: Frames, photos: Photos, hull: Tensor) -> tuple[list[Tensor], Tensor, Tensor]:
        """Correct the surface.

        Args:
            frames: B frames.
            photos: [B, K, …].
            hull: [B, 1, s, s]: view z of the hull's front, filled in.

        Returns:
            The surface after each round, [B, 1, s, s]; the photos' shifts, [B, K, s, s, 2]; the hidden state,
            [B, HIDDEN, s, s].
        """
        batch, side = len(hull), hull.shape[-1]
        maps = self.features(torch.cat([photos.colour, photos.alpha], 2).flatten(0, 1))
        maps = functional.normalize(maps.float(), dim=1).reshape(batch, NEAREST, *maps.shape[1:])
        given = [frames.morph, frames.alpha, frames.visibility]
        small = torch.cat([functional.adaptive_avg_pool2d(image, side) for image in given], 1)
        memory, context = self.begin(torch.cat([small, hull], 1)).split(HIDDEN, 1)
        memory, context = memory.tanh(), functional.silu(context)
        surface, shifts = hull, hull.new_zeros(batch, NEAREST, side, side, 2)
        surfaces = []
        around = torch.arange(-SIDES, SIDES + 1, device=hull.device)[None, :, None, None]
        for spacing in STEPS:
            surface, shifts = surface.detach(), shifts.detach()
            where, _ = located(frames, surface + around * spacing)
            sampled = read(maps, where + shifts[:, :, None])
            inputs = [_agreement(sampled), (surface - hull) / 0.1, small[:, 3:5], _planes(shifts) / SHIFT]
            seen = self.look(torch.cat(inputs, 1))
            whole = torch.cat([memory, context, seen], 1)
            reset, update = self.gate(whole).sigmoid().split(HIDDEN, 1)
            fresh = self.candidate(torch.cat([memory * reset, context, seen], 1)).tanh()
            memory = torch.lerp(memory, fresh, update)
            memory = memory + self.smooth(memory)
            step = self.step(memory).float().tanh()
            surface = surface + step[:, :1] * spacing * SIDES
            shifts = shifts + _places(step[:, 1:]) * SHIFT
            surfaces.append(surface)
        return surfaces, shifts, memory


def _planes(shifts: Tensor) -> Tensor:
    """[B, K, s, s, 2] -> [B, 2 K, s, s]."""
    return shifts.permute(0, 1, 4, 2, 3).flatten(1, 2)


def _places(planes: Tensor) -> Tensor:
    """[B, 2 K, s, s] -> [B, K, s, s, 2]."""
    return planes.reshape(len(planes), -1, 2, *planes.shape[2:]).permute(0, 1, 3, 4, 2)


def _agreement(features: Tensor) -> Tensor:
    """How well the photos' features agree on each surface: products of the two nearest, and variances of all, by groups.

    Args:
        features: [B, K, FEATURES, D, s, s].

    Returns:
        [B, 2 GROUPS D, s, s].
    """
    product = features[:, 0] * features[:, 1]
    # The variance of four values; PyTorch's `var` would take half of the whole network's time on a CPU.
    spread = (features - features.mean(1, keepdim=True)).square().mean(1)
    grouped = [
        costs.reshape(len(costs), GROUPS, -1, *costs.shape[2:]).sum(2) * FEATURES / GROUPS
        for costs in (product, spread)
    ]
    return torch.cat(grouped, 1).flatten(1, 2)


class Synthesis(nn.Module):
    """The whole network: it decides on a `DrawingPlan` and draws by it."""

    def __init__(self) -> None:
        super().__init__()
        self.search = Search()
        given, decided = 6 * NEAREST + 12, NEAREST + 5
        self.choose = UNet(4 * given + HIDDEN + 1 + 3 * NEAREST, WIDTHS)
        self.head = nn.Conv2d(WIDTHS[0], 4 * decided + 3, 3, padding=1)
        nn.init.zeros_(self.head.weight)
        each = torch.tensor([0.0] * NEAREST + [MORPH_BIAS, -MORPH_BIAS, -MORPH_BIAS, 0.0, FOLLOW_BIAS])
        self.head.bias = nn.Parameter(torch.cat([each.repeat_interleave(4), torch.zeros(3)]))
        # The head decides on four pixels at once, which alone would give outlines steps of two pixels.
        self.refine = nn.Sequential(
            nn.Conv2d(decided + given, FINE, 3, padding=1), nn.SiLU(), nn.Conv2d(FINE, decided, 3, padding=1)
        )
        last = self.refine[-1]
        nn.init.zeros_(torch.as_tensor(last.weight))
        nn.init.zeros_(torch.as_tensor(last.bias))

    def forward(self, frames: Frames, photos: Photos) -> RenderedFrames:
        """Draw frames.

        Args:
            frames: B frames of S x S pixels, S divisible by 32.
            photos: The photos of each frame, [B, K, …], from `Photos.chosen`.
        """
        plan, samples = self._decided(frames, photos)
        return composed(frames, samples, plan)

    def plan(self, frames: Frames, photos: Photos) -> DrawingPlan:
        """Decide what to sample and what to show, as `forward` does, without drawing it."""
        return self._decided(frames, photos)[0]

    def _decided(self, frames: Frames, photos: Photos) -> tuple[DrawingPlan, PhotoSamples]:
        size = frames.morph.shape[-1]
        hull = _front(frames)
        coarse = functional.avg_pool2d(hull, 4)
        surfaces, shifts, memory = self.search(frames, photos, coarse)
        offset = _enlarged(surfaces[-1] - coarse, size)
        shift = _places(_enlarged(_planes(shifts), size))
        samples = read_at(frames, photos, hull, offset, shift)
        inputs = torch.cat(
            [
                samples.colour.flatten(1, 2),
                samples.alpha,
                samples.seen,
                (samples.colour - frames.morph[:, None]).abs().mean(2),
                frames.morph,
                samples.fill,
                frames.visibility,
                frames.alpha,
                frames.flow,
                frames.flow_alpha,
            ],
            1,
        )
        facts = torch.cat([_planes(shifts) / SHIFT, (surfaces[-1] - coarse) / 0.1], 1)
        near = torch.cat([memory.float(), facts], 1)
        angles = (frames.angles_deg / 45)[..., None, None].expand(-1, -1, size // 2, size // 2)
        x = torch.cat([functional.pixel_unshuffle(inputs, 2), _enlarged(near, size // 2), angles], 1)
        out = self.head(self.choose(x)).float()
        full = functional.pixel_shuffle(out[:, :-3], 2)
        full = full + self.refine(torch.cat([full, inputs], 1)).float()
        plan = DrawingPlan(
            offset=offset,
            shift=shift,
            logits=full[:, : NEAREST + 3],
            outline=full[:, NEAREST + 3 : NEAREST + 4],
            follow=full[:, NEAREST + 4 :].sigmoid(),
            shade=_enlarged(out[:, -3:].tanh(), size) * SHADE,
            surfaces=tuple(surfaces),
        )
        return plan, samples


def draw_plan(frames: Frames, photos: Photos, plan: DrawingPlan) -> RenderedFrames:
    """Draw by a plan that was made at another size.

    Args:
        frames: B frames of S x S pixels.
        photos: The photos of each frame, [B, K, …].
        plan: The plan of the same frames, at any size.
    """
    plan = plan.resized(frames.morph.shape[-1])
    return composed(frames, read_at(frames, photos, _front(frames), plan.offset, plan.shift), plan)


def read_at(frames: Frames, photos: Photos, hull: Tensor, offset: Tensor, shift: Tensor) -> PhotoSamples:
    """Sample the photos at the hull's filled-in front [B, 1, S, S], moved as described in `DrawingPlan`."""
    surface = hull + offset
    on_hull, toward = located(frames, hull)
    where = located(frames, surface)[0][:, :, 0] + shift
    images = torch.cat([photos.colour, photos.alpha], 2).float()
    sampled = read(images, where, mode="bicubic").clamp(0, 1)
    colour, alpha = sampled[:, :, :3], sampled[:, :, 3]
    seen = _seen(photos.fronts, on_hull[:, :, 0], toward[:, :, 0])
    return PhotoSamples(surface, where, colour, alpha, seen, filled_in(*_mean(colour, seen * alpha)))


def composed(frames: Frames, samples: PhotoSamples, plan: DrawingPlan) -> RenderedFrames:
    """Compose frames from the sampled photos; all three arguments are of one size."""
    weights = (plan.logits * SHARPNESS).softmax(1)
    candidates = torch.cat([samples.colour, torch.stack([frames.morph, frames.flow, samples.fill], 1)], 1)
    return RenderedFrames(
        colour=((candidates * weights[:, :, None]).sum(1) + plan.shade).clamp(0, 1),
        alpha=_outline(frames, plan),
        view_z=samples.surface,
        where=samples.where,
        weights=weights,
        moved=samples.colour,
        seen=samples.seen,
        surfaces=plan.surfaces,
    )


def _front(frames: Frames) -> Tensor:
    """View z of the hull's front, filled in beyond its outline, [B, 1, S, S]."""
    return filled_in(frames.view_z, (frames.view_z > NOTHING / 2).float())


def _enlarged(image: Tensor, size: int) -> Tensor:
    return functional.interpolate(image, (size, size), mode="bilinear", align_corners=False)


def _seen(fronts: Tensor, where: Tensor, toward: Tensor) -> Tensor:
    """Whether each photo sees the hull's front there, [B, K, S, S], 0 … 1; the test is that of `gapray.orbit.morph`."""
    around = functional.max_pool2d(fronts, 3, 1, 1)
    surfaces = read(torch.stack([fronts, around], 2), where)
    apart = (surfaces - toward[:, :, None]).abs().amin(2)
    inside = (where.abs() < 1).all(-1)
    return (2 - apart / SEEN_WITHIN).clamp(0, 1) * inside


def _mean(moved: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Mean colour of the photos that see a pixel, [B, 3, S, S], and whether any does, [B, 1, S, S], 0 … 1."""
    total = weight.sum(1, keepdim=True)
    return (moved * weight[:, :, None]).sum(1) / total.clamp(min=1e-6), total.clamp(max=1)


def _outline(frames: Frames, plan: DrawingPlan) -> Tensor:
    """The hull's outline or that of the warped masks, moved by any distance inwards, by a few pixels outwards."""
    hull, flow = (torch.logit(alpha.clamp(2e-3, 1 - 2e-3)) for alpha in (frames.alpha, frames.flow_alpha))
    reach = max(1, round(BAND_PX * frames.alpha.shape[-1] / 256))
    either = torch.maximum(frames.alpha, frames.flow_alpha)
    band = functional.max_pool2d((either > 0).float(), 2 * reach + 1, 1, reach)
    return torch.sigmoid(torch.lerp(hull, flow, plan.follow) + 10 * plan.outline) * band
