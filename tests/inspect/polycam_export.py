"""Raw exports in the layout that Polycam documents, from cameras at known positions.

Layout and fields: see `gapray.inspect.polycam`. The pictures are the sample captures, each camera showing the nearest angle, so
that what is picked can be looked at; they are no renderings of these cameras.
"""

import io
import json
import math
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from gapray.capture.storage import Entry
from gapray.inspect.polycam import Export, Keyframe

START_US = 1_442_008_525_605
SIZE = (256, 192)
DEPTH_SIZE = (64, 48)


@dataclass
class Camera:
    """True position and orientation of the phone."""

    azimuth: float
    elevation: float = 20.0
    distance: float = 0.8
    roll: float = 0.0
    """0, or 90 for an upright phone, whose sensor is then rotated."""
    aim: tuple[float, float] = (0.0, 0.0)
    """Degrees by which the camera is aimed to the right of and above the centre."""


def turn(count: int, *, start: float = 0.0, span: float = 360.0, clockwise: bool = False, **options) -> list[Camera]:
    """`count` cameras at even steps over `span` degrees."""
    sign = -1 if clockwise else 1
    return [Camera(start + sign * span * step / count, **options) for step in range(count)]


def shaken(cameras: list[Camera], seed: int, *, degrees: float = 1.0, aim: float = 3.0, share: float = 0.05):
    """Hand-held cameras: normal noise on azimuth, elevation, aim and distance."""
    rng = np.random.default_rng(seed)
    return [
        Camera(
            camera.azimuth + rng.normal(0, degrees) / 10,
            camera.elevation + rng.normal(0, degrees),
            camera.distance * (1 + rng.normal(0, share)),
            camera.roll,
            (rng.normal(0, aim), rng.normal(0, aim)),
        )
        for camera in cameras
    ]


def pose(camera: Camera, centre=(0.0, 0.0, 0.0), zero: float = 0.0) -> np.ndarray:
    """Camera-to-world matrix [3, 4] with the columns right, up, backward and position."""
    azimuth, elevation = math.radians(camera.azimuth + zero), math.radians(camera.elevation)
    outward = np.array(
        [math.sin(azimuth) * math.cos(elevation), math.sin(elevation), math.cos(azimuth) * math.cos(elevation)]
    )
    right = np.array([math.cos(azimuth), 0.0, -math.sin(azimuth)])
    rotation = np.stack([right, np.cross(outward, right), outward], axis=1)
    rotation = rotation @ about(1, -camera.aim[0]) @ about(0, camera.aim[1]) @ about(2, camera.roll)
    return np.concatenate([rotation, (np.asarray(centre) + camera.distance * outward)[:, None]], axis=1)


def about(axis: int, degrees: float) -> np.ndarray:
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    turned = np.eye(3)
    first, second = [(1, 2), (2, 0), (0, 1)][axis]
    turned[first, first], turned[second, second], turned[first, second], turned[second, first] = cos, cos, -sin, sin
    return turned


def camera_json(matrix: np.ndarray, size=SIZE, *, stamp: int = START_US, **changed) -> dict:
    """The 22 fields of a camera file."""
    width, height = size
    fields = {f"t_{row}{column}": float(matrix[row, column]) for row in range(3) for column in range(4)}
    fields |= {"fx": 0.75 * width, "fy": 0.75 * width, "cx": width / 2, "cy": height / 2}
    fields |= {"width": width, "height": height, "blur_score": 115.28, "manual_keyframe": False}
    return fields | {"neighbors": [1, 2], "timestamp": stamp} | changed


def exported(cameras: list[Camera], *, centre=(0.3, -0.4, -1.1), zero: float = 33.0) -> Export:
    """An export without any files, for tests of geometry."""
    nowhere = Entry("", "x.jpg", "", 0, "", True)
    width, height = SIZE
    return Export(
        "",
        tuple(
            Keyframe(
                str(START_US + index),
                START_US + index,
                pose(camera, centre, zero),
                (0.75 * width, 0.75 * width),
                (width / 2, height / 2),
                SIZE,
                nowhere,
                True,
                None,
                None,
            )
            for index, camera in enumerate(cameras)
        ),
    )


@dataclass
class Make:
    """Options for writing an export."""

    samples: Path
    blurred: frozenset[int] = frozenset()
    """Indices whose pictures are blurred."""
    uncorrected: frozenset[int] = frozenset()
    """Indices without corrected files."""
    corrected: bool = True
    depth: bool = True
    centre: tuple[float, float, float] = (0.3, -0.4, -1.1)
    zero: float = 33.0
    pictures: dict = field(default_factory=dict)

    def photo(self, azimuth: float) -> Image.Image:
        nearest = round(azimuth % 360 / 45) % 8 * 45
        if nearest not in self.pictures:
            file = self.samples / "captures" / "mug" / f"mug_{nearest:03d}.jpg"
            self.pictures[nearest] = Image.open(file).resize((SIZE[1], SIZE[1]))
        return self.pictures[nearest]

    def picture(self, camera: Camera, blurred: bool, border: bool) -> bytes:
        """The photo, centred where the camera sees the centre."""
        image = Image.new("RGB", SIZE if not camera.roll else SIZE[::-1], (238, 238, 238))
        right, up = (math.tan(math.radians(degrees)) * 0.75 * SIZE[0] for degrees in camera.aim)
        left, top = (image.width - SIZE[1]) / 2 - right, (image.height - SIZE[1]) / 2 + up
        image.paste(self.photo(camera.azimuth), (round(left), round(top)))
        if camera.roll:
            # The sensor is rotated counter-clockwise, so its picture is rotated clockwise.
            image = image.transpose(Image.Transpose.ROTATE_270)
        if blurred:
            image = image.filter(ImageFilter.GaussianBlur(3))
        if border:
            black = Image.new("RGB", image.size)
            black.paste(image.crop((8, 8, image.width - 8, image.height - 8)), (8, 8))
            image = black
        file = io.BytesIO()
        image.save(file, "JPEG", quality=90)
        return file.getvalue()

    def write(self, folder: Path, cameras: list[Camera]) -> Path:
        """Write ``folder/keyframes/…`` and the files next to it."""
        keyframes = folder / "keyframes"
        for name in ("images", "cameras", "depth", "confidence"):
            (keyframes / name).mkdir(parents=True)
        if self.corrected:
            (keyframes / "corrected_images").mkdir()
            (keyframes / "corrected_cameras").mkdir()
        (folder / "mesh_info.json").write_text('{"alignmentTransform": []}')
        depth, confidence = depth_maps()
        for index, camera in enumerate(cameras):
            stamp = START_US + 250_000 * index
            fields = json.dumps(camera_json(pose(camera, self.centre, self.zero), stamp=stamp), indent=1)
            blurred = index in self.blurred
            (keyframes / "images" / f"{stamp}.jpg").write_bytes(self.picture(camera, blurred, False))
            (keyframes / "cameras" / f"{stamp}.json").write_text(fields)
            if self.corrected and index not in self.uncorrected:
                (keyframes / "corrected_images" / f"{stamp}.jpg").write_bytes(self.picture(camera, blurred, True))
                (keyframes / "corrected_cameras" / f"{stamp}.json").write_text(fields)
            if self.depth:
                (keyframes / "depth" / f"{stamp}.png").write_bytes(depth)
                (keyframes / "confidence" / f"{stamp}.png").write_bytes(confidence)
        return folder


def depth_maps() -> tuple[bytes, bytes]:
    """Depth [mm] that increases to the right, 6 m in the last row; low confidence in the left half."""
    width, height = DEPTH_SIZE
    depth = np.tile(np.arange(1000, 1000 + width, dtype=np.uint16), (height, 1))
    depth[-8:] = 6000
    confidence = np.full((height, width), 255, np.uint8)
    confidence[:, : width // 2] = 0
    return png(depth), png(confidence)


def png(image: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


def zipped(folder: Path) -> Path:
    """The folder as a zip file with one outer folder, as shared by a phone."""
    return Path(shutil.make_archive(str(folder), "zip", folder.parent, folder.name))
