"""Render the two sample products of `samples/` with exact masks, depths and cameras.

Run once by hand: ``uv run --with mitsuba==3.9.1 --with pillow --with numpy tools/render_samples.py samples``.
Mitsuba 3's `llvm_ad_rgb` variant needs a libLLVM on the machine (16 or newer; LLVM 15 fails to compile the path tracer).

Scene units are decimetres. World axes: +y up, +z towards the camera at azimuth 0, +x to its right. The camera at
azimuth a stands at ``d * (sin a * cos e, sin e, cos a * cos e)`` with elevation e: it walks counter-clockwise seen
from above. As on a real turntable the camera is fixed and the product turns by -a, so light and backdrop stay put.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import mitsuba as mi
import numpy as np
from PIL import Image, ImageDraw, ImageFont

mi.set_variant("llvm_ad_rgb")

SIZE = 768
"""Side of the rendered photos in pixels."""
STEP_DEG = 15
CAPTURED_STEP_DEG = 45
DEPTH_UNIT = 1e-4
"""One step of the 16-bit truth depth, in scene units (decimetres)."""
SAMPLES_PER_PIXEL = 64


@dataclass(frozen=True)
class Product:
    """One product: parts in its own frame, and how it is photographed."""

    name: str
    build: Callable[[Path], dict[str, dict]]
    elevation_deg: float
    distance: float
    fov_deg: float
    target_y: float


def write_obj(path: Path, vertices: np.ndarray, uvs: np.ndarray, faces: np.ndarray) -> Path:
    """Write one smooth mesh; vertices [N, 3], uvs [N, 2], faces [M, 3] (0-based)."""
    lines = [f"v {x:.6f} {y:.6f} {z:.6f}" for x, y, z in vertices]
    lines += [f"vt {u:.6f} {v:.6f}" for u, v in uvs]
    lines += [f"f {a}/{a} {b}/{b} {c}/{c}" for a, b, c in faces + 1]
    path.write_text("\n".join(lines) + "\n")
    return path


def grid_faces(rows: int, columns: int) -> np.ndarray:
    """Two triangles for each cell of a [rows, columns] vertex grid."""
    first = (np.arange(rows - 1)[:, None] * columns + np.arange(columns - 1)).ravel()
    return np.concatenate(
        [
            np.stack([first, first + 1, first + columns], 1),
            np.stack([first + 1, first + columns + 1, first + columns], 1),
        ]
    )


def revolve(
    path: Path, profile: list[tuple[float, float]], segments: int = 256, section: tuple[float, float] = (1.0, 1.0)
) -> Path:
    """Turn a (radius, height) profile about the y axis; u = .5 faces +z, v grows along the profile.

    `section` stretches the circle along x and z, for bottles that are not round.
    """
    radius, height = np.array(profile, dtype=float).T
    u = np.linspace(0, 1, segments + 1)
    angle = (u - 0.5) * 2 * math.pi
    vertices = np.stack(
        [
            section[0] * radius[:, None] * np.sin(angle),
            np.repeat(height[:, None], segments + 1, 1),
            section[1] * radius[:, None] * np.cos(angle),
        ],
        -1,
    )
    v = np.linspace(0, 1, len(profile))
    uvs = np.stack(np.broadcast_arrays(u[None, :], v[:, None]), -1)
    return write_obj(path, vertices.reshape(-1, 3), uvs.reshape(-1, 2), grid_faces(len(profile), segments + 1))


def sweep(path: Path, curve: np.ndarray, radii: tuple[float, float], sides: int = 48) -> Path:
    """A tube of elliptic section along a curve [N, 2] in the x-y plane; radii = (in plane, along z)."""
    tangent = np.gradient(curve, axis=0)
    tangent /= np.linalg.norm(tangent, axis=1, keepdims=True)
    normal = np.stack([-tangent[:, 1], tangent[:, 0]], 1)
    angle = np.linspace(0, 2 * math.pi, sides + 1)
    in_plane = curve[:, None] + radii[0] * np.cos(angle)[None, :, None] * normal[:, None]
    z = np.broadcast_to(radii[1] * np.sin(angle), (len(curve), sides + 1))
    vertices = np.concatenate([in_plane, z[..., None]], -1)
    u, v = np.meshgrid(np.linspace(0, 1, sides + 1), np.linspace(0, 1, len(curve)))
    return write_obj(
        path, vertices.reshape(-1, 3), np.stack([u, v], -1).reshape(-1, 2), grid_faces(len(curve), sides + 1)
    )


def arc(centre: tuple[float, float], radius: float, start_deg: float, stop_deg: float, count: int = 12) -> list:
    """Points of a circular arc in a (radius, height) profile."""
    angles = np.radians(np.linspace(start_deg, stop_deg, count))
    return [(centre[0] + radius * math.cos(a), centre[1] + radius * math.sin(a)) for a in angles]


def text(draw: ImageDraw.ImageDraw, xy: tuple[float, float], words: str, size: int, fill: str, anchor: str = "mm"):
    """Draw with the font that Pillow itself carries, so that no font file is needed."""
    draw.text(xy, words, font=ImageFont.load_default(size), fill=fill, anchor=anchor)


def supplement_label(path: Path) -> Path:
    """A wrap-around label, 3072 x 900 px; the front panel is in the middle."""
    width, height = 3072, 900
    image = Image.new("RGB", (width, height), "#f4efe2")
    draw = ImageDraw.Draw(image)
    draw.rectangle([0, 0, width, 70], fill="#1f5f4a")
    draw.rectangle([0, height - 110, width, height], fill="#1f5f4a")
    draw.rectangle([1080, 70, 1992, height - 110], fill="#2f8f6b")
    for k in range(7):  # leaves behind the name
        x = 1150 + 130 * k
        draw.ellipse([x - 46, 560, x + 46, 740], fill=("#f2b134", "#e8743b", "#c9d94a")[k % 3])
        draw.line([x, 545, x, 760], fill="#1f5f4a", width=7)
    text(draw, (1536, 200), "VERDANT", 170, "#ffffff")
    text(draw, (1536, 340), "DAILY GREENS", 92, "#fdf3c8")
    text(draw, (1536, 450), "60 capsules  -  500 mg", 62, "#ffffff")
    text(draw, (1536, height - 52), "DIETARY SUPPLEMENT", 58, "#ffffff")

    draw.rectangle([2090, 110, 2640, height - 150], outline="#111111", width=7, fill="#ffffff")
    text(draw, (2110, 155), "Supplement Facts", 60, "#111111", "lm")
    draw.line([2090, 200, 2640, 200], fill="#111111", width=12)
    rows = ["Vitamin C   90 mg  100%", "Vitamin D3  20 ug  100%", "Zinc  11 mg  100%", "Iron  8 mg  44%"]
    rows += ["Spirulina  250 mg  *", "Chlorella  150 mg  *", "Green tea  100 mg  *"]
    for k, row in enumerate(rows):
        text(draw, (2110, 250 + 66 * k), row, 42, "#111111", "lm")
        draw.line([2090, 283 + 66 * k, 2640, 283 + 66 * k], fill="#111111", width=3)

    text(draw, (720, 150), "HOW TO USE", 70, "#1f5f4a")
    for k, row in enumerate(
        ["Take two capsules daily", "with food and water.", "Keep in a cool, dry place.", "Lot 2417-C"]
    ):
        text(draw, (720, 250 + 70 * k), row, 48, "#333333")
    draw.rounded_rectangle([470, 560, 970, 740], 40, fill="#e8743b")
    text(draw, (720, 650), "VEGAN", 110, "#ffffff")

    draw.rectangle([0, 70, 440, height - 110], fill="#274690")
    draw.polygon([(2672, 70), (3072, 70), (3072, height - 110), (2672, height - 110)], fill="#f6c453")
    for k in range(6):
        draw.polygon([(2672, 90 + 120 * k), (2740, 150 + 120 * k), (2672, 210 + 120 * k)], fill="#c7362f")
        draw.polygon([(1050, 90 + 120 * k), (985, 150 + 120 * k), (1050, 210 + 120 * k)], fill="#c7362f")
    for k in range(5):
        draw.ellipse([60 + 70 * k, 120 + 60 * k, 190 + 70 * k, 250 + 60 * k], fill=("#e8743b", "#f6f1d1")[k % 2])

    bars = np.random.default_rng(7).integers(4, 15, 44)
    x = 60.0
    draw.rectangle([30, 480, 400, 760], fill="#ffffff")
    for k, bar in enumerate(bars):
        if k % 2 == 0 and x + bar < 380:
            draw.rectangle([x, 500, x + int(bar), 700], fill="#111111")
        x += int(bar)
    text(draw, (215, 728), "4 012345 678901", 34, "#111111")
    text(draw, (2860, 260), "VERDANT", 84, "#1f5f4a")
    text(draw, (2860, 360), "since 1998", 52, "#555555")
    draw.ellipse([2730, 450, 2990, 710], outline="#e8743b", width=22)
    text(draw, (2860, 580), "GMP", 92, "#e8743b")
    image.save(path)
    return path


def mug_print(path: Path) -> Path:
    """A wrap-around print for the mug's outer wall, 3072 x 1024 px; the handle hides u = .75."""
    width, height = 3072, 1024
    image = Image.new("RGB", (width, height), "#f7f3ea")
    draw = ImageDraw.Draw(image)
    rng = np.random.default_rng(11)
    draw.rectangle([0, height - 150, width, height], fill="#22577a")
    draw.rectangle([0, height - 190, width, height - 160], fill="#f2b134")
    for k in range(9):  # a ridge of mountains that is different on every side
        x, peak, half = 170 + 340 * k, int(rng.integers(250, 520)), int(rng.integers(190, 300))
        colour = ("#38a3a5", "#57cc99", "#c7553b", "#80608c", "#22577a")[k % 5]
        draw.polygon([(x - half, height - 190), (x, peak), (x + half, height - 190)], fill=colour)
        cap = (height - 190 - peak) // 4
        slope = half / (height - 190 - peak)
        draw.polygon([(x - slope * cap, peak + cap), (x, peak), (x + slope * cap, peak + cap)], fill="#ffffff")
    draw.ellipse([1890, 90, 2130, 330], fill="#f2b134")
    draw.ellipse([420, 120, 560, 260], fill="#c7553b")
    for _ in range(60):
        x, y, r = int(rng.integers(0, width)), int(rng.integers(30, 330)), int(rng.integers(5, 13))
        draw.ellipse([x - r, y - r, x + r, y + r], fill="#22577a")
    text(draw, (1536, 160), "SUMMIT", 190, "#22577a")
    text(draw, (1536, height - 78), "enamel & co. 0.35 L", 90, "#ffffff")
    text(draw, (200, height - 78), "made by hand", 80, "#f2b134")
    text(draw, (2800, 150), "No. 14", 120, "#c7553b")
    image.save(path)
    return path


def plastic(colour: tuple[float, float, float] | Path, alpha: float = 0.15) -> dict:
    """A rough plastic surface of one sRGB-linear colour or of a texture file."""
    if isinstance(colour, Path):
        reflectance: dict = {"type": "bitmap", "filename": str(colour)}
    else:
        reflectance = {"type": "rgb", "value": list(colour)}
    return {
        "type": "twosided",
        "bsdf": {"type": "roughplastic", "alpha": alpha, "diffuse_reflectance": reflectance},
    }


def part(obj: Path, bsdf: dict) -> dict:
    """One mesh of a product."""
    return {"type": "obj", "filename": str(obj), "bsdf": bsdf}


def supplement(folder: Path) -> dict[str, dict]:
    """A capsule bottle, 1.27 dm high: oval amber body, paper label, ribbed white cap."""
    oval = (1.28, 0.82)
    body = [(0.0, 0.0), (0.32, 0.0), *arc((0.32, 0.05), 0.05, -90, 0), (0.37, 0.82), *arc((0.27, 0.86), 0.10, 0, 70)]
    body += [(0.235, 0.98)]
    neck = [(0.245, 0.93), (0.235, 0.99), (0.235, 1.03)]
    cap = [(0.275, 1.02), (0.285, 1.03), (0.285, 1.24), *arc((0.265, 1.25), 0.02, 0, 90), (0.0, 1.27)]
    ribs = []
    for k in range(40):
        angle = 2 * math.pi * k / 40
        ribs.append((0.285 * math.sin(angle), 0.285 * math.cos(angle)))
    parts = {
        "body": part(revolve(folder / "body.obj", body, section=oval), plastic((0.24, 0.075, 0.02), 0.08)),
        "neck": part(revolve(folder / "neck.obj", neck), plastic((0.24, 0.075, 0.02), 0.08)),
        "label": part(
            revolve(folder / "label.obj", [(0.3735, 0.10), (0.3735, 0.80)], section=oval),
            plastic(supplement_label(folder / "label.png"), 0.3),
        ),
        "cap": part(revolve(folder / "cap.obj", cap), plastic((0.80, 0.80, 0.78), 0.2)),
    }
    for k, (x, z) in enumerate(ribs):
        parts[f"rib{k}"] = {
            "type": "cylinder",
            "p0": [x, 1.04, z],
            "p1": [x, 1.22, z],
            "radius": 0.011,
            "bsdf": plastic((0.80, 0.80, 0.78), 0.2),
        }
    return parts


def mug(folder: Path) -> dict[str, dict]:
    """An enamel mug, .95 dm high: open at the top, with a handle on its right side (+x) and a printed wall."""
    handle_angle = np.linspace(math.radians(-91), math.radians(91), 64)
    handle = np.stack([0.40 + 0.30 * np.cos(handle_angle), 0.47 + 0.29 * np.sin(handle_angle)], 1)
    rim = [(0.42, 0.93), *arc((0.405, 0.93), 0.015, 0, 180), (0.39, 0.92)]
    inside = [(0.39, 0.92), (0.375, 0.12), *arc((0.315, 0.12), 0.06, 0, -90), (0.0, 0.06)]
    foot = [(0.0, 0.0), (0.36, 0.0), *arc((0.36, 0.03), 0.03, -90, 0), (0.395, 0.06)]
    red = plastic((0.55, 0.06, 0.03), 0.08)
    return {
        "wall": part(
            revolve(folder / "wall.obj", [(0.395, 0.06), (0.40, 0.2), (0.41, 0.55), (0.42, 0.93)]),
            plastic(mug_print(folder / "print.png"), 0.1),
        ),
        "rim": part(revolve(folder / "rim.obj", rim), red),
        "inside": part(revolve(folder / "inside.obj", inside), plastic((0.75, 0.70, 0.60), 0.1)),
        "foot": part(revolve(folder / "foot.obj", foot), plastic((0.02, 0.09, 0.19), 0.1)),
        "handle": part(sweep(folder / "handle.obj", handle, (0.045, 0.075)), red),
    }


PRODUCTS = [
    Product("supplement", supplement, elevation_deg=12.0, distance=5.2, fov_deg=17.0, target_y=0.60),
    Product("mug", mug, elevation_deg=24.0, distance=5.2, fov_deg=17.0, target_y=0.45),
]


def backdrop(folder: Path) -> dict[str, dict]:
    """A light grey seamless sweep and three soft boxes."""
    curve = [(4.0, 0.0), (-2.0, 0.0)]
    curve += [(-2.0 + 1.5 * math.cos(a), 1.5 + 1.5 * math.sin(a)) for a in np.radians(np.linspace(270, 180, 24))]
    curve += [(-3.5, 9.0)]
    z, y = np.array(curve).T
    x = np.array([-9.0, 9.0])
    vertices = np.stack(np.broadcast_arrays(x[None, :], y[:, None], z[:, None]), -1)
    obj = write_obj(folder / "sweep.obj", vertices.reshape(-1, 3), np.zeros((len(z) * 2, 2)), grid_faces(len(z), 2))

    def soft_box(origin: list[float], size: float, radiance: float) -> dict:
        to_world = mi.ScalarTransform4f().look_at(origin=origin, target=[0, 0.5, 0], up=[0, 1, 0.01])
        return {
            "type": "rectangle",
            "to_world": to_world @ mi.ScalarTransform4f().scale(size),
            "emitter": {"type": "area", "radiance": {"type": "rgb", "value": [radiance] * 3}},
        }

    return {
        "sweep": {
            "type": "obj",
            "filename": str(obj),
            "bsdf": {"type": "twosided", "bsdf": {"type": "diffuse", "reflectance": {"type": "rgb", "value": 0.72}}},
        },
        "key": soft_box([-3.2, 4.2, 3.2], 1.5, 5.5),
        "fill": soft_box([3.8, 3.0, 2.6], 1.4, 2.6),
        "top": soft_box([0.0, 5.5, -0.5], 1.6, 3.2),
        "ambient": {"type": "constant", "radiance": {"type": "rgb", "value": 0.22}},
    }


def sensor(product: Product) -> dict:
    """The fixed camera of one product's turntable."""
    elevation = math.radians(product.elevation_deg)
    target = [0.0, product.target_y, 0.0]
    origin = [
        0.0,
        product.target_y + product.distance * math.sin(elevation),
        product.distance * math.cos(elevation),
    ]
    return {
        "type": "perspective",
        "fov": product.fov_deg,
        "to_world": mi.ScalarTransform4f().look_at(origin=origin, target=target, up=[0, 1, 0]),
        "film": {"type": "hdrfilm", "width": SIZE, "height": SIZE, "rfilter": {"type": "gaussian"}},
        "sampler": {"type": "independent", "sample_count": SAMPLES_PER_PIXEL},
    }


def turned(parts: dict[str, dict], azimuth_deg: float) -> dict[str, dict]:
    """The product's parts on the table turned by -azimuth."""
    turn = mi.ScalarTransform4f().rotate(axis=[0, 1, 0], angle=-azimuth_deg)
    return {name: {**one, "to_world": turn} for name, one in parts.items()}


def truth(scene: mi.Scene) -> tuple[np.ndarray, np.ndarray]:
    """Mask (bool) and depth along the optical axis (scene units, 0 = nothing), [SIZE, SIZE], at pixel centres."""
    y, x = np.meshgrid((np.arange(SIZE) + 0.5) / SIZE, (np.arange(SIZE) + 0.5) / SIZE, indexing="ij")
    camera = scene.sensors()[0]
    rays, _ = camera.sample_ray(0.0, 0.5, mi.Point2f(x.ravel(), y.ravel()), mi.Point2f(0.5))
    hit = scene.ray_intersect(rays)
    found = np.array(hit.is_valid()).reshape(SIZE, SIZE)
    axis = np.array(camera.world_transform().matrix).reshape(4, 4)[:3, 2]
    origin = np.array(camera.world_transform().matrix).reshape(4, 4)[:3, 3]
    points = np.array(hit.p).reshape(3, -1) if np.array(hit.p).shape[0] == 3 else np.array(hit.p).T
    depth = (axis @ (points - origin[:, None])).reshape(SIZE, SIZE)
    return found, np.where(found, depth, 0.0)


def render(product: Product, out: Path) -> None:
    """Render all azimuths of one product: 8 captures, 16 held-out photos, truth for all 24."""
    captures, held_out = out / "captures" / product.name, out / "held_out" / product.name
    exact = out / "truth" / product.name
    work = out / ".work" / product.name
    for folder in (captures, held_out, exact, work):
        folder.mkdir(parents=True, exist_ok=True)
    parts = product.build(work)
    stage = backdrop(work)
    camera = sensor(product)
    for azimuth in range(0, 360, STEP_DEG):
        scene = mi.load_dict(
            {"type": "scene", "integrator": {"type": "path", "max_depth": 6}, "sensor": camera}
            | stage
            | turned(parts, azimuth)
        )
        linear = mi.Bitmap(mi.render(scene, seed=azimuth))
        photo = np.array(linear.convert(mi.Bitmap.PixelFormat.RGB, mi.Struct.Type.UInt8, srgb_gamma=True))
        folder = captures if azimuth % CAPTURED_STEP_DEG == 0 else held_out
        Image.fromarray(photo).save(folder / f"{product.name}_{azimuth:03d}.jpg", quality=90, subsampling=0)
        bare = mi.load_dict({"type": "scene", "sensor": camera} | turned(parts, azimuth))
        mask, depth = truth(bare)
        Image.fromarray(mask.astype(np.uint8) * 255).save(exact / f"mask_{azimuth:03d}.png", optimize=True)
        Image.fromarray(np.rint(depth / DEPTH_UNIT).astype(np.uint16)).save(exact / f"depth_{azimuth:03d}.png")
        print(f"{product.name} {azimuth:3d} deg: mask {mask.mean():.3f}", flush=True)
    camera_facts = {
        "elevation_deg": product.elevation_deg,
        "distance": product.distance,
        "horizontal_fov_deg": product.fov_deg,
        "target": [0.0, product.target_y, 0.0],
        "size_px": [SIZE, SIZE],
        "unit": "decimetre",
        "depth_png_unit": DEPTH_UNIT,
        "depth": "distance along the optical axis; 0 = no product",
        "azimuths_deg": list(range(0, 360, STEP_DEG)),
    }
    (exact / "camera.json").write_text(json.dumps(camera_facts, indent=2) + "\n")


if __name__ == "__main__":
    target = Path(sys.argv[1])
    chosen = sys.argv[2:] or [product.name for product in PRODUCTS]
    for one in PRODUCTS:
        if one.name in chosen:
            render(one, target)
