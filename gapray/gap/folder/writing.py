"""Writes a package as a GAP folder."""

from __future__ import annotations

import base64
import io
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gapray.errors import InputError
from gapray.gap.folder.layout import (
    DEFAULT_FILES,
    INLINE,
    LAYOUT_VERSION,
    MANIFEST_NAME,
    MAX_MANIFEST_BYTES,
    file_bytes,
    is_view_folder,
    product_id_in,
)
from gapray.gap.folder.pixels import depth_of_8_bits, hash_of_pixels
from gapray.gap.identity import IDENTITY_SIZE
from gapray.gap.images import encode_png
from gapray.gap.package import GapPackage, GapView, view_facts


def write(package: GapPackage, to: Path, *, inline: bool = False) -> Path:
    """Write a package.

    Args:
        package: The package to write.
        to: A folder, which is created if missing; an earlier export of the same product in it is replaced with all its views.
            With `inline` also a path that ends with ``.json``: then only that file is written, without any paths in it.
        inline: Embed the files of `INLINE` in the manifest in base64, so that it is complete by itself.

    Returns:
        The manifest's path.

    Raises:
        InputError: `gap.invalid_folder` when two views round to the same degree, `gap.other_product` when the folder holds
            anything but an earlier export of this product, or `gap.write_failed`. In the first two cases nothing is written.
    """
    manifest_only = inline and to.suffix.lower() == ".json"
    path = to if manifest_only else to / MANIFEST_NAME
    angles = [f"{round(view.azimuth_deg) % 360:03d}" for view in package.views]
    for angle in angles:
        if angles.count(angle) > 1:
            raise InputError("gap.invalid_folder", f"two views round to {angle} degrees; the layout holds one")
    views: dict[str, dict[str, Any]] = {}
    try:
        old_views = _earlier_views(path, package.product_id, manifest_only=manifest_only)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)  # without a manifest, an interrupted export is not taken for a package
        for angle, view in zip(angles, package.views, strict=True):
            views[angle] = {"azimuth_deg": view.azimuth_deg}
            files = _files_of(view, package.product_id)
            if not manifest_only:
                for role, (name, data) in files.items():
                    file = to / f"view_{angle}" / name
                    file.parent.mkdir(parents=True, exist_ok=True)
                    file.write_bytes(data)
                    views[angle][role] = f"view_{angle}/{name}"
            if inline:
                views[angle] |= {f"{role}_b64": base64.b64encode(files[role][1]).decode() for role in INLINE}
        manifest = {
            "asset_name": package.product_id,
            "views": views,
            "key": package.key,
            "depth_scale": package.depth_scale,
            "depth_shift": package.depth_shift,
            "models": dict(package.models),
            "azimuths_by": package.azimuths_by,
            "warnings": None if package.warnings is None else [vars(warning) for warning in package.warnings],
        }
        path.write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
        for folder in old_views:
            if folder.name.removeprefix("view_") not in angles:
                _remove(folder)
    except OSError as error:
        raise InputError("gap.write_failed", f"{to}: {error}") from error
    return path


def _earlier_views(manifest: Path, product_id: str, *, manifest_only: bool) -> list[Path]:
    """Folders of the views next to a manifest's path, which must belong to this product.

    Raises:
        InputError: `gap.other_product`.
    """
    folder = manifest.parent
    views = (
        []
        if manifest_only or not folder.is_dir()
        else sorted(path for path in folder.iterdir() if is_view_folder(path))
    )
    sources = [*([(manifest, "asset_name")] if manifest.is_file() else [])]
    sources += [(view / "metadata.json", "object_name") for view in views if not sources]
    for path, member in sources:
        try:
            name = product_id_in(json.loads(file_bytes(path, MAX_MANIFEST_BYTES).decode("utf-8-sig")).get(member))
        except (ValueError, AttributeError, RecursionError, InputError, FileNotFoundError):
            name = ""
        if name != product_id:
            existing = f"an export of {name}" if name else "not an export of gapray's"
            raise InputError("gap.other_product", f"{path} is {existing}, and {product_id} would be mixed with it")
    return views


def _remove(view: Path) -> None:
    """Remove the files that an earlier export wrote for one view, and its folder unless it holds anything else."""
    for pattern in DEFAULT_FILES.values():
        for path in view.glob(pattern):
            path.unlink()
    for folder in (view / "canonical", view / "geometry", view):
        with suppress(OSError):  # it does not exist or is not empty
            folder.rmdir()


def _files_of(view: GapView, product_id: str) -> dict[str, tuple[str, bytes]]:
    """Role -> path relative to the view's folder, and content."""
    height, width = view.mask.shape
    metadata = {
        "object_name": product_id,
        "version": LAYOUT_VERSION,
        "source": view.uri,
        "identity_embedding_shape": [IDENTITY_SIZE],
        "has_depth": True,
        "has_mask": True,
        "image_size": [width, height],
        "name": view.name,
        "azimuth_deg": view.azimuth_deg,
        "uri": view.uri,
        "sha256": view.sha256,
        "reference_sha256": hash_of_pixels(view.reference),
    }
    return {
        "reference": ("canonical/reference.png", encode_png(view.reference)),
        "reference_no_bg": ("canonical/reference_no_bg.png", encode_png(np.dstack([view.reference, view.mask]))),
        "depth": ("geometry/depth_000.png", encode_png(depth_of_8_bits(view.depth))),
        "mask": ("geometry/mask_000.png", encode_png(view.mask)),
        "identity": ("identity_embedding.pt", _torch_bytes(view.identity)),
        "metadata": ("metadata.json", f"{json.dumps(metadata | view_facts(view), indent=2)}\n".encode()),
        "depth16": ("geometry/depth16_000.png", encode_png(view.depth)),
        "canny": ("geometry/canny_000.png", encode_png(view.canny)),
    }


def _torch_bytes(identity: NDArray[np.float32]) -> bytes:
    import torch

    sink = io.BytesIO()
    torch.save(torch.tensor(identity), sink)
    return sink.getvalue()
