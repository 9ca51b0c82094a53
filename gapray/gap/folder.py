"""GAP folders: the prototype's layout on disk, written and read.

::

    view_000/canonical/reference.png            RGB
    view_000/canonical/reference_no_bg.png      RGBA
    view_000/geometry/depth_000.png             16-bit grey
    view_000/geometry/mask_000.png              8-bit grey
    view_000/geometry/canny_000.png             8-bit grey (gapray's own; optional when read)
    view_000/identity_embedding.npy             float32 [517]
    view_000/metadata.json
    multiview_manifest.json

The prototype knew whole degrees only. Azimuths between them go into `metadata.json`; the folder's number is rounded.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from gapray.capture.decode import decode_grey, decode_photo
from gapray.capture.storage import read_bytes
from gapray.config import DecodeSettings
from gapray.errors import InputError
from gapray.gap.identity import IDENTITY_SIZE
from gapray.gap.images import encode_png
from gapray.gap.package import DEPTH_MAX, GapPackage, GapView, Quality, view_facts

MANIFEST_NAME = "multiview_manifest.json"
_MAX_FILE_BYTES = 64 * 2**20
_LIMITS = DecodeSettings(min_side=16, reference_side=4096, max_pixels=4096 * 4096)
_Pixel = TypeVar("_Pixel", np.uint8, np.uint16)


def write(package: GapPackage, folder: Path) -> Path:
    """Write one package.

    Args:
        package: What to write.
        folder: Made when missing; files of the same names in it are replaced.

    Returns:
        The path of `multiview_manifest.json`.
    """
    views: dict[str, dict[str, str]] = {}
    for view in package.views:
        angle = f"{round(view.azimuth_deg) % 360:03d}"
        if angle in views:
            raise InputError("gap.invalid_folder", f"two views round to {angle} degrees; the layout holds one")
        root = folder / f"view_{angle}"
        (root / "canonical").mkdir(parents=True, exist_ok=True)
        (root / "geometry").mkdir(exist_ok=True)
        files = {
            "reference": root / "canonical" / "reference.png",
            "reference_no_bg": root / "canonical" / "reference_no_bg.png",
            "depth": root / "geometry" / f"depth_{angle}.png",
            "mask": root / "geometry" / f"mask_{angle}.png",
            "canny": root / "geometry" / f"canny_{angle}.png",
            "identity": root / "identity_embedding.npy",
            "metadata": root / "metadata.json",
        }
        files["reference"].write_bytes(encode_png(view.reference))
        files["reference_no_bg"].write_bytes(encode_png(np.dstack([view.reference, view.mask])))
        files["depth"].write_bytes(encode_png(view.depth))
        files["mask"].write_bytes(encode_png(view.mask))
        files["canny"].write_bytes(encode_png(view.canny))
        np.save(files["identity"], view.identity, allow_pickle=False)
        facts = {"name": view.name, "azimuth_deg": view.azimuth_deg, "uri": view.uri, "sha256": view.sha256}
        files["metadata"].write_text(json.dumps(facts | view_facts(view), indent=2) + "\n")
        views[angle] = {role: str(path.relative_to(folder)) for role, path in files.items()}
    manifest = {
        "asset_name": package.product_id,
        "views": views,
        "key": package.key,
        "depth_scale": package.depth_scale,
        "depth_shift": package.depth_shift,
        "models": dict(package.models),
    }
    path = folder / MANIFEST_NAME
    path.write_text(json.dumps(manifest, indent=2) + "\n")
    return path


def read(folder: Path) -> GapPackage:
    """Read one package that gapray or the prototype wrote.

    8-bit depth maps, which the prototype wrote, are taken as they are and spread over 16 bits.

    Raises:
        InputError: `gap.invalid_folder` when a file is missing, lies outside the folder or holds something else;
            `image.*` when a picture cannot be decoded.
    """
    try:
        manifest = json.loads((folder / MANIFEST_NAME).read_text())
        listed = manifest["views"].items()
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise InputError("gap.invalid_folder", f"{folder / MANIFEST_NAME}: {type(error).__name__}: {error}") from error
    views = sorted((_read_view(folder, angle, files) for angle, files in listed), key=lambda view: view.azimuth_deg)
    if not views:
        raise InputError("gap.invalid_folder", f"{folder} holds no view")
    return GapPackage(
        product_id=str(manifest.get("asset_name") or folder.name),
        key=str(manifest.get("key", "")),
        views=tuple(views),
        depth_scale=float(manifest.get("depth_scale", 1.0)),
        depth_shift=float(manifest.get("depth_shift", 0.0)),
        models={str(role): str(name) for role, name in manifest.get("models", {}).items()},
    )


def _read_view(folder: Path, angle: str, files: Mapping[str, str]) -> GapView:
    def data(role: str) -> bytes:
        path = _inside(folder, files, role)
        return read_bytes(str(path), _MAX_FILE_BYTES)

    try:
        metadata: dict[str, Any] = json.loads(data("metadata")) if files.get("metadata") else {}
        reference = decode_photo(data("reference"), _LIMITS)
        size = reference.shape[:2]
        mask = _same_size(_grey8(data("mask")), size)
        depth = _same_size(_depth16(data("depth")), size)
        canny = _grey8(data("canny")) if files.get("canny") else np.zeros(size, np.uint8)
        identity = _identity(_inside(folder, files, "identity"))
        azimuth = float(metadata.get("azimuth_deg", angle)) % 360.0
    except (ValueError, TypeError, KeyError, OSError) as error:
        raise InputError("gap.invalid_folder", f"{folder}, view {angle}: {error}") from error
    return GapView(
        name=str(metadata.get("name", f"view_{angle}")),
        azimuth_deg=azimuth,
        uri=str(metadata.get("uri", "")),
        sha256=str(metadata.get("sha256", "")),
        reference=reference,
        mask=mask,
        depth=depth,
        canny=_same_size(canny, size),
        identity=identity,
        quality=Quality(
            float(metadata.get("sharpness", 0.0)),
            float(metadata.get("clipped_dark", 0.0)),
            float(metadata.get("clipped_bright", 0.0)),
        ),
    )


def _inside(folder: Path, files: Mapping[str, str], role: str) -> Path:
    """The file of one role; a manifest is untrusted, so nothing outside its folder is opened."""
    if not files.get(role):
        raise KeyError(f"no {role}")
    path = (folder / str(files[role])).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise ValueError(f"{role} lies outside the folder")
    return path


def _identity(path: Path) -> NDArray[np.float32]:
    if path.suffix == ".json":
        values = np.asarray(json.loads(path.read_text()), np.float32)
    else:
        values = np.load(path, allow_pickle=False).astype(np.float32)
    if values.shape != (IDENTITY_SIZE,):
        raise ValueError(f"the identity embedding has shape {values.shape}, not ({IDENTITY_SIZE},)")
    return values


def _grey8(data: bytes) -> NDArray[np.uint8]:
    image = decode_grey(data, _LIMITS)
    return image.astype(np.uint8) if image.dtype == np.uint8 else (image >> 8).astype(np.uint8)


def _depth16(data: bytes) -> NDArray[np.uint16]:
    image = decode_grey(data, _LIMITS)
    return image.astype(np.uint16) * (DEPTH_MAX // 255 if image.dtype == np.uint8 else 1)


def _same_size(image: NDArray[_Pixel], size: tuple[int, ...]) -> NDArray[_Pixel]:
    if image.shape != size:
        raise ValueError(f"an image is {image.shape}, the reference {size}")
    return image
