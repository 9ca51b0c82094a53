"""Render photos of procedural products, in plain PyTorch on any device.

The solids' signed distances are sampled once on a lattice, through which all rays of a photo march with one look-up for each
step, whatever the product consists of; hits are then refined, shaded and textured by the solids themselves. Each pixel is the
mean of `SUPER` x `SUPER` rays. Light and camera are fixed while the product turns.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from gapray.geometry.camera import OrbitCamera, frame_grid
from gapray.geometry.carve import NOTHING
from training.products import SAMPLES, Finish, Loft, Product

SUPER = 2
"""Rays along each side of a pixel."""
LATTICE = 144
"""Samples of the distance along each side of the product's box."""
MARCHES, ROUND = 72, 8
"""Maximum number of steps, and steps between two removals of rays that have ended."""
CAUTION = 0.8
"""Fraction of a distance that each step covers, because distances to lofts are estimates."""
CLOSE = 4e-3
"""A ray has hit when the solids themselves are within this distance [half frames]."""
EPS = 1.5e-3
"""Half the step of the finite differences that give normals."""
CHUNK = 1 << 18
"""Points whose distances to the solids are computed at once."""
RAYS = 3 << 20
"""Rays that march together: as many whole photos as fit, because small batches leave a GPU idle."""


@dataclass(frozen=True)
class Studio:
    """Light and backdrop, in the camera's axes (right, up, towards the camera)."""

    key: tuple[float, float, float]
    """Direction towards the main light."""
    ambient: float
    """Strength of the ambient light, relative."""
    warmth: float
    """Colour of the main light relative to the ambient, -1 … 1."""
    boxes: tuple[tuple[float, float, float, float], ...]
    """Soft boxes that are seen in reflections: azimuth, elevation, half width, half height [radians]."""
    backdrop: tuple[float, float, float]
    """sRGB, 0 … 1."""
    shadows: bool
    """Whether the main light casts shadows."""

    @staticmethod
    def random(rng: np.random.Generator) -> Studio:
        """A random studio: a window, a lamp or a light tent."""
        away, up = rng.uniform(-1.3, 1.3), rng.uniform(0.2, 1.2)
        boxes = tuple(
            (rng.uniform(-1.8, 1.8), rng.uniform(-0.2, 1.2), rng.uniform(0.08, 0.6), rng.uniform(0.1, 0.7))
            for _ in range(int(rng.integers(1, 4)))
        )
        grey = rng.uniform(0.6, 1.0) if rng.random() < 0.8 else rng.uniform(0.05, 0.6)
        tint = rng.normal(0, 0.03, 3)
        backdrop = np.clip(grey + tint, 0, 1)
        key = (math.sin(away) * math.cos(up), math.sin(up), math.cos(away) * math.cos(up))
        return Studio(
            key,
            rng.uniform(0.35, 0.85),
            rng.uniform(-0.12, 0.12),
            boxes,
            (float(backdrop[0]), float(backdrop[1]), float(backdrop[2])),
            bool(rng.random() < 0.7),
        )


@dataclass(frozen=True)
class Shots:
    """V photos, P x P pixels, before the camera's faults."""

    colour: Tensor
    """[V, 3, P, P], 0 … 1, sRGB, multiplied by alpha."""
    alpha: Tensor
    """[V, P, P], 0 … 1."""
    view_z: Tensor
    """[V, P, P]: mean view z over the part of a pixel that shows the product, `NOTHING` beside it."""


class Solids:
    """The solids of a product on a device, as a signed-distance function."""

    def __init__(self, product: Product, device: str | torch.device) -> None:
        def put(values: Sequence[object]) -> Tensor:
            return torch.tensor(np.array(values, np.float32), device=device)

        lofts, arcs = product.lofts, product.arcs
        self.product, self.blend = product, product.blend
        self.bounds = put([product.bounds])[0]
        self.cut = torch.tensor([solid.cut for solid in lofts], device=device)
        self.centres, self.rotations = put([solid.centre for solid in lofts]), put([solid.rotation for solid in lofts])
        self.heights, self.corners = put([solid.half_height for solid in lofts]), put([solid.corner for solid in lofts])
        self.tables = put([_table(solid) for solid in lofts])  # [L, SAMPLES, 5]
        self.arcs = len(arcs)
        if arcs:
            self.arc_centres, self.arc_rotations = (
                put([solid.centre for solid in arcs]),
                put([solid.rotation for solid in arcs]),
            )
            self.radii, self.thick = put([solid.radius for solid in arcs]), put([solid.thickness for solid in arcs])
            self.flat, self.ends = put([solid.flat for solid in arcs]), put([solid.half_angle for solid in arcs])
        self.finishes: list[Finish] = [solid.finish for solid in lofts] + [solid.finish for solid in arcs]

    def parts(self, points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Distance of each solid at points [N, 3].

        Returns:
            Distances [N, L + A]; positions in the lofts' own axes [N, L, 3]; the lofts' profiles there [N, L, 4].
        """
        own = torch.einsum("nlc,lcd->nld", points[:, None] - self.centres, self.rotations)
        along = ((own[..., 1] / self.heights).clamp(-1, 1) + 1) * ((SAMPLES - 1) / 2)
        index = along.floor().clamp(max=SAMPLES - 2).long()
        fraction = (along - index)[..., None]
        flat = self.tables.flatten(0, 1)
        index = index + torch.arange(len(self.heights), device=points.device) * SAMPLES
        profile = torch.lerp(flat[index], flat[index + 1], fraction)
        half_x, half_z, shift_x, shift_z, slope = profile.unbind(-1)
        corner = self.corners * torch.minimum(half_x, half_z)
        x = (own[..., 0] - shift_x).abs() - half_x + corner
        z = (own[..., 2] - shift_z).abs() - half_z + corner
        across = torch.hypot(x.clamp(min=0), z.clamp(min=0)) + torch.maximum(x, z).clamp(max=0) - corner
        across, up = across * slope, own[..., 1].abs() - self.heights
        distance = torch.maximum(across, up).clamp(max=0) + torch.hypot(across.clamp(min=0), up.clamp(min=0))
        if not self.arcs:
            return distance, own, profile[..., :4]
        at = torch.einsum("nlc,lcd->nld", points[:, None] - self.arc_centres, self.arc_rotations)
        # Quilez, "Distance functions": capped torus.
        x, y, z = at[..., 0].abs(), at[..., 1], at[..., 2] / self.flat
        sin, cos = self.ends.sin(), self.ends.cos()
        nearest = torch.where(cos * x > sin * y, x * sin + y * cos, torch.hypot(x, y))
        square = x * x + y * y + z * z + self.radii**2 - 2 * self.radii * nearest
        ring = square.clamp(min=1e-12).sqrt() - self.thick
        return torch.cat([distance, ring], 1), own, profile[..., :4]

    def joined(self, distances: Tensor) -> tuple[Tensor, Tensor]:
        """Distance to the whole product, [N], and index of the solid with the nearest surface, [N], from `parts`."""
        cut = functional.pad(self.cut, (0, self.arcs))
        added = torch.where(cut, torch.inf, distances)
        nearest, which = added.min(1)
        if self.blend > 0:
            nearest = -self.blend * torch.logsumexp(-added / self.blend, 1)
        if bool(self.cut.any()):
            away, by = torch.where(cut, -distances, -torch.inf).max(1)
            which = torch.where(away > nearest, by, which)
            nearest = torch.maximum(nearest, away)
        return nearest, which

    def distance(self, points: Tensor) -> Tensor:
        """Distance to the whole product, [N, 3] -> [N]."""
        return torch.cat([self.joined(self.parts(part)[0])[0] for part in torch.split(points, CHUNK)])

    def normals(self, points: Tensor) -> Tensor:
        """Unit normals at [N, 3], from differences on a tetrahedron."""
        corners = torch.tensor([[1.0, -1, -1], [-1, -1, 1], [-1, 1, -1], [1, 1, 1]], device=points.device)
        slopes = [corner * self.distance(points + corner * EPS)[:, None] for corner in corners]
        return functional.normalize(torch.stack(slopes).sum(0), dim=1)


def _table(solid: Loft) -> np.ndarray:
    """A loft's profile, with the factor by which its steepest slope shortens distances, [SAMPLES, 5]."""
    step = 2 * solid.half_height / (SAMPLES - 1)
    rise = np.abs(np.diff(solid.profile, axis=0)) / step
    slope = np.maximum(rise[:, 0] + rise[:, 2], rise[:, 1] + rise[:, 3])
    around = np.maximum(np.pad(slope, (1, 0), mode="edge"), np.pad(slope, (0, 1), mode="edge"))
    return np.concatenate([solid.profile, 1 / np.sqrt(1 + around**2)[:, None]], 1)


class Lattice:
    """The product's distance, sampled on a regular grid."""

    def __init__(self, solids: Solids, samples: int) -> None:
        device = solids.bounds.device
        side = torch.linspace(-1, 1, samples, device=device)
        z, y, x = torch.meshgrid(side, side, side, indexing="ij")
        self.half = solids.bounds
        points = torch.stack([x, y, z], -1).reshape(-1, 3) * self.half
        self.field = solids.distance(points).view(1, 1, samples, samples, samples)

    def at(self, points: Tensor) -> Tensor:
        """Interpolated distance, [N, 3] -> [N]."""
        grid = (points / self.half).view(1, -1, 1, 1, 3)
        return functional.grid_sample(self.field, grid, align_corners=True, padding_mode="border").flatten()

    def entered(self, origins: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
        """Distances at which rays enter and leave the box, [N] each; a ray misses it if the first is not less than the second."""
        safe = torch.where(directions.abs() < 1e-9, 1e-9, directions)
        first, second = (-self.half - origins) / safe, (self.half - origins) / safe
        return torch.minimum(first, second).amax(1).clamp(min=0), torch.maximum(first, second).amin(1)


def march(lattice: Lattice, origins: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
    """Find the rays that may hit, and their lengths.

    Args:
        lattice: Distances of the product.
        origins: [N, 3].
        directions: [N, 3], unit vectors.

    Returns:
        Indices of the rays, [M], and their lengths, [M].
    """
    near, far = lattice.entered(origins, directions)
    live = (near < far).nonzero()[:, 0]
    travelled, ends = near[live], far[live]
    hits, lengths = [], []
    for _ in range(MARCHES // ROUND):
        start, heading = origins[live], directions[live]
        distance = travelled
        for _ in range(ROUND):
            distance = lattice.at(start + heading * travelled[:, None])
            travelled = travelled + distance.clamp(min=-0.02) * CAUTION
        arrived = distance.abs() < CLOSE / 4
        hits.append(live[arrived])
        lengths.append(travelled[arrived])
        still = ~arrived & (travelled < ends)
        live, travelled, ends = live[still], travelled[still], ends[still]
    close = lattice.at(origins[live] + directions[live] * travelled[:, None]).abs() < 4 * CLOSE
    return torch.cat([*hits, live[close]]), torch.cat([*lengths, travelled[close]])


@torch.no_grad()
def shoot(
    product: Product,
    camera: OrbitCamera,
    azimuths_deg: Sequence[float],
    studio: Studio,
    size: int,
    *,
    device: str | torch.device = "cpu",
    lattice: int = LATTICE,
    rays: int = SUPER,
) -> Shots:
    """Photograph a product.

    Args:
        product: Normalised.
        camera: The true camera.
        azimuths_deg: One azimuth for each photo.
        studio: Light and backdrop.
        size: Side of the photos [pixels].
        device: Where to compute.
        lattice: Samples of the distance along each side.
        rays: Rays along each side of a pixel.
    """
    solids = Solids(product, device)
    field = Lattice(solids, lattice)
    prints = [torch.tensor(image, device=device).permute(2, 0, 1).float() / 255 for image in product.prints]
    together = max(1, RAYS // (size * rays) ** 2)
    parts = [azimuths_deg[begin : begin + together] for begin in range(0, len(azimuths_deg), together)]
    shots = [_shots(solids, field, prints, camera, part, studio, size, rays) for part in parts]
    return Shots(*(torch.cat(planes) for planes in zip(*shots, strict=True)))


def _shots(
    solids: Solids,
    field: Lattice,
    prints: list[Tensor],
    camera: OrbitCamera,
    azimuths: Sequence[float],
    studio: Studio,
    size: int,
    rays_a_side: int,
) -> tuple[Tensor, Tensor, Tensor]:
    device, side = solids.bounds.device, size * rays_a_side
    u, v = frame_grid(side, device)
    reach = float(solids.bounds.norm()) + 0.05
    begin, end = (
        torch.cat([camera.unproject(u, v, torch.full_like(u, near), azimuth).view(-1, 3) for azimuth in azimuths])
        for near in (reach, -reach)
    )
    directions = functional.normalize(end - begin, dim=1)
    rays, length = march(field, begin, directions)
    heading = directions[rays]
    points = begin[rays] + heading * length[:, None]
    for _ in range(3):
        points = points + heading * solids.distance(points)[:, None]
    hit = solids.distance(points).abs() < CLOSE
    rays, points, heading = rays[hit], points[hit], heading[hit]
    axes = torch.tensor(np.stack([camera.axes(azimuth) for azimuth in azimuths]), dtype=torch.float32, device=device)
    own = axes[rays // side**2]
    planes = torch.zeros(5, len(azimuths) * side**2, device=device)
    planes[:3, rays] = shade(solids, field, prints, points, heading, own, studio).T
    planes[3, rays] = 1.0
    planes[4, rays] = (points * own[:, 2]).sum(1)
    small = functional.avg_pool2d(planes.view(5, len(azimuths), side, side), rays_a_side)
    alpha = small[3]
    return small[:3].transpose(0, 1), alpha, torch.where(alpha > 0, small[4] / alpha.clamp(min=1e-6), NOTHING)


def shade(
    solids: Solids,
    field: Lattice,
    prints: list[Tensor],
    points: Tensor,
    heading: Tensor,
    axes: Tensor,
    studio: Studio,
    *,
    through: bool = True,
) -> Tensor:
    """Colour of surface points, sRGB [N, 3].

    Args:
        solids: The product.
        field: Its lattice.
        prints: [3, h, w] each.
        points: [N, 3].
        heading: Directions of the rays that hit them, [N, 3], unit vectors.
        axes: [N, 3, 3]: the axes, in the world, of the camera that sees each point.
        studio: Light, which is fixed to the camera.
        through: Whether to follow light through clear materials.
    """
    if not len(points):
        return points
    normals = solids.normals(points)
    normals = torch.where((normals * heading).sum(1, keepdim=True) > 0, -normals, normals)
    albedo, look = painted(solids, prints, points, normals)
    gloss, roughness, metal, clear = look.unbind(1)
    key = functional.normalize(torch.tensor(studio.key, device=points.device), dim=0) @ axes
    facing = (normals * key).sum(1).clamp(min=0)
    lit = facing * _unshadowed(field, points, normals, key) if studio.shadows else facing
    open_ = _open(field, points, normals)
    sky = 0.75 + 0.25 * normals[:, 1]
    warm = torch.tensor([1 + studio.warmth, 1.0, 1 - studio.warmth], device=points.device)
    light = (1.08 - studio.ambient) * lit[:, None] * warm + (studio.ambient * open_ * sky)[:, None]
    bounced = heading - 2 * (heading * normals).sum(1, keepdim=True) * normals
    shine = _surroundings((axes @ bounced[..., None])[..., 0], roughness, studio)
    grazing = (1 + (heading * normals).sum(1)).clamp(0, 1) ** 5
    strength = (gloss * (0.08 + 0.92 * grazing) * (1 - metal) + gloss * metal)[:, None]
    tint = torch.lerp(torch.ones_like(albedo), albedo, metal[:, None])
    matt = albedo * light * (1 - 0.7 * metal * gloss)[:, None]
    glassy = clear > 0
    if through and bool(glassy.any()):
        behind = _behind(solids, field, prints, points[glassy], heading[glassy], normals[glassy], axes[glassy], studio)
        fraction = clear[glassy, None] * (1 - grazing[glassy, None])
        matt[glassy] = torch.lerp(matt[glassy], behind * (0.35 + 0.65 * albedo[glassy]), fraction)
    return (matt + strength * tint * shine * (0.4 + 0.6 * open_[:, None])).clamp(0, 1)


def _behind(
    solids: Solids,
    field: Lattice,
    prints: list[Tensor],
    points: Tensor,
    heading: Tensor,
    normals: Tensor,
    axes: Tensor,
    studio: Studio,
) -> Tensor:
    """Colour seen through a clear surface: the far side of the same solid, and the backdrop."""
    bent = functional.normalize(heading - 0.15 * normals, dim=1)
    at = points + bent * 0.03
    for _ in range(24):
        at = at + bent * field.at(at).abs().clamp(0.003, 0.1)[:, None]
    for _ in range(3):
        at = at + bent * solids.distance(at).clamp(max=0.01).neg().clamp(min=0)[:, None]
    far = shade(solids, field, prints, at, bent, axes, studio, through=False)
    backdrop = torch.tensor(studio.backdrop, device=points.device)
    return 0.5 * far + 0.5 * backdrop * (0.75 + 0.25 * far)


def painted(solids: Solids, prints: list[Tensor], points: Tensor, normals: Tensor) -> tuple[Tensor, Tensor]:
    """Albedo of each point, [N, 3], and gloss, roughness, metal and clearness, [N, 4]."""
    distances, own, profile = solids.parts(points)
    _, which = solids.joined(distances)
    finishes = solids.finishes
    facts = [(*finish.colour, finish.gloss, finish.roughness, finish.metal, finish.clear) for finish in finishes]
    table = torch.tensor(facts, device=points.device)[which]
    albedo, look = table[:, :3].clamp(0, 1).clone(), table[:, 3:]
    for index, finish in enumerate(finishes[: len(solids.heights)]):
        if finish.print is None:
            continue
        at = (which == index).nonzero()[:, 0]
        if len(at):
            place = _unrolled(
                own[at, index],
                profile[at, index],
                solids.heights[index],
                normals[at] @ solids.rotations[index],
                finish.faces,
            )
            image = prints[finish.print][None]
            albedo[at] = functional.grid_sample(image, place[None, None], align_corners=False, padding_mode="border")[
                0, :, 0
            ].T
    return albedo, look


def _unrolled(own: Tensor, profile: Tensor, height: Tensor, normals: Tensor, faces: bool) -> Tensor:
    """Texture coordinates of a loft's points on its print, [N, 2] in -1 … 1."""
    x, z = (
        (own[:, 0] - profile[:, 2]) / profile[:, 0].clamp(min=1e-3),
        (own[:, 2] - profile[:, 3]) / profile[:, 1].clamp(min=1e-3),
    )
    v = -own[:, 1] / height
    if faces:
        sideways = normals[:, 0].abs() > normals[:, 2].abs()
        side = torch.where(sideways, torch.where(normals[:, 0] > 0, 1, 3), torch.where(normals[:, 2] > 0, 0, 2))
        across = torch.where(sideways, -z * normals[:, 0].sign(), x * normals[:, 2].sign())
        u = (side + (across.clamp(-0.998, 0.998) + 1) / 2) / 2 - 1
    else:
        u = torch.atan2(x, z) / math.pi
    lid = normals[:, 1].abs() > 0.8
    quarter = (x.clamp(-1, 1) + 1) / 4 - 1
    return torch.stack([torch.where(lid, quarter, u), torch.where(lid, z.clamp(-1, 1), v)], -1)


def _unshadowed(field: Lattice, points: Tensor, normals: Tensor, key: Tensor) -> Tensor:
    """Fraction of the main light that arrives, [N], by Quilez' soft shadows."""
    lit, along = torch.ones_like(points[:, 0]), torch.full_like(points[:, 0], 0.03)
    start = points + normals * 0.015
    for _ in range(14):
        at = start + key * along[:, None]
        outside = ((at / field.half).abs() > 1).any(1)
        distance = torch.where(outside, 1.0, field.at(at))
        lit = torch.minimum(lit, 10 * distance / along)
        along = along + distance.clamp(0.02, 0.2)
    return lit.clamp(0, 1)


def _open(field: Lattice, points: Tensor, normals: Tensor) -> Tensor:
    """Ambient occlusion: how much free space there is in front of a surface, [N], 0.3 … 1."""
    blocked = torch.zeros_like(points[:, 0])
    for step in (0.03, 0.07, 0.14):
        at = points + normals * step
        inside = ((at / field.half).abs() <= 1).all(1)
        blocked = blocked + torch.where(inside, (step - field.at(at)).clamp(min=0), 0) * (0.09 / step)
    return (1 - 2.6 * blocked).clamp(0.3, 1)


def _surroundings(directions: Tensor, roughness: Tensor, studio: Studio) -> Tensor:
    """Light from directions in the camera's axes, [N, 3]: soft boxes in a grey room."""
    azimuth = torch.atan2(directions[:, 0], directions[:, 2])
    elevation = directions[:, 1].clamp(-1, 1).asin()
    soft = 0.02 + 0.5 * roughness
    total = 0.25 + 0.2 * elevation
    for turn, up, half_width, half_height in studio.boxes:
        off = torch.remainder(azimuth - turn + math.pi, 2 * math.pi) - math.pi
        inside = torch.sigmoid((half_width - off.abs()) / soft * 3) * torch.sigmoid(
            (half_height - (elevation - up).abs()) / soft * 3
        )
        total = total + inside * 2.2 / (1 + 4 * roughness)
    return total[:, None].expand(-1, 3)
