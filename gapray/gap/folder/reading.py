"""Reads a GAP folder, checks it, and names what differs from what was exported."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from gapray.capture.azimuths import AzimuthsBy
from gapray.capture.decode import decode_alpha, decode_grey, decode_photo
from gapray.errors import InputError
from gapray.gap.folder.layout import FILE_LIMITS, MANIFEST_NAME, parsed_json, product_id_in
from gapray.gap.folder.pixels import (
    MAX_DIFFERENCE,
    MAX_ROUNDING,
    depth_of_8_bits,
    depth_within,
    fitted_depth,
    grey_of_8_bits,
    hash_of_pixels,
    levels_differ,
    mask_levels,
    of_same_size,
)
from gapray.gap.folder.source import ViewSource, data_of, identity_in, unlisted_views, view_sources
from gapray.gap.identity import with_geometry
from gapray.gap.manifest import VIEW, agreed_azimuth, parse_degrees
from gapray.gap.package import DEPTH_MAX, GapPackage, GapView, PackageWarning, Quality, mask_share
from gapray.gap.settings import MaskSettings

_MAX_WARNINGS = 1000
_MASKS = MaskSettings()
_INVERTED_BORDER = 0.9
"""A mask that covers more than this fraction of the picture's border, but not its interior, is inverted."""
_MAX_EDGES = 0.7
"""Canny's edges are thin: maps in which more than this fraction of the product's pixels are edges are something else."""
_REFERENCE_CHANGED = "gap.reference_changed"
_CHANGES = {
    _REFERENCE_CHANGED: "the reference is not the picture that mask, depth and identity were made of. Package the photo again.",
    "gap.mask_changed": "the mask, which was read, has another outline than the depth. Depth and measurements were fitted to it: cut off, or "
    "continued from the nearest pixel; the features of the product's appearance are those of the old outline.",
    "gap.cutout_changed": "the cut-out (reference_no_bg) differs from the reference or the mask, which were read. Change those as well.",
    "gap.depth_changed": "the 8-bit depth differs from the 16-bit depth, which was read. Change both, or remove the one in 16 bits.",
    "gap.canny_changed": "nearly all of the product is edges in its canny map. Package the photo again.",
}
"""Code -> message of the warnings about one view."""


def read(folder: Path) -> GapPackage:
    """Read a package that gapray or the prototype wrote.

    The folder holds a manifest, or folders ``view_<degrees>``, or is the folder of a single view. The prototype's manifest
    contains paths relative to its working directory on any machine: each is resolved relative to the manifest, with leading parts
    removed until it exists. 8-bit depth maps, which the prototype scaled separately in each view, are spread over 16 bits inside
    the mask; as their scales are unknown, they have no model (`GapPackage.models`). If a view has no mask, the transparency of
    `reference_no_bg` is used. Masks of zeros and ones are read as 0 and 255; of a mask that is all of one colour the transparency is read.

    An inline manifest can stand alone: where a file is missing, the manifest's base64 is read. Where both are there, their pixels
    and values must agree, because the server reads only the base64. Beside a view that is wholly in the manifest and names no
    file, no file is looked for.

    The package's warnings tell of content that was changed by hand. `gap.reference_changed`: the reference differs from the
    exported one, or from its cut-out. `gap.mask_changed`: the mask has another outline than the depth, which is cut to it or continued.
    `gap.cutout_changed`: the cut-out differs from an export's reference and mask. `gap.depth_changed`: the 8-bit depth differs from the 16-bit depth, which is read.
    `gap.canny_changed`: a canny map is nearly all edges. `gap.unlisted_view`: the folder holds a view that the manifest does not
    list and that is left out. A canny map that is missing (and read as black) or changed has no model.

    Args:
        folder: A GAP folder, or the path of a manifest.

    Raises:
        InputError: `gap.invalid_folder` when a file is missing, is outside the folder or has invalid content, or when a view's
            azimuths, or its files and base64, contradict each other; `mask.too_small`, `mask.too_large` or `mask.inverted`; `image.*` when a picture
            cannot be decoded.
    """
    try:
        root = (folder.parent if folder.is_file() else folder).resolve()
        manifest, sources, by = view_sources(root, folder.name if folder.is_file() else MANIFEST_NAME)
        read_views = [_read_view(source) for source in sources]
        views = sorted((read.view for read in read_views), key=lambda view: view.azimuth_deg)
        for view, after in pairwise(views):
            if after.azimuth_deg - view.azimuth_deg < 1e-6:
                raise ValueError(f"two views stand at {view.azimuth_deg:g} degrees")
        models = {str(role): str(name) for role, name in (manifest.get("models") or {}).items()}
        if not all(read.has_edges for read in read_views):
            models.pop("canny", None)
        found = [warning for read in read_views for warning in read.warnings] + unlisted_views(root, sources)
        # The manifest's warnings do not apply to pictures that have been replaced since.
        replaced = any(warning.code == _REFERENCE_CHANGED for warning in found)
        earlier = None if replaced else _warnings(manifest.get("warnings"))
        key = str(manifest.get("key", ""))
        return GapPackage(
            product_id=product_id_in(
                manifest.get("asset_name"), *(read.product for read in read_views), _folder_name(root)
            ),
            key=key if re.fullmatch(r"[0-9A-Za-z]{1,128}", key) else "",
            views=tuple(views),
            depth_scale=_finite(manifest.get("depth_scale", 1.0)),
            depth_shift=_finite(manifest.get("depth_shift", 0.0)),
            models=models,
            azimuths_by=_azimuths_by(manifest.get("azimuths_by"), by),
            warnings=tuple(dict.fromkeys((*(earlier or ()), *found))) if found else earlier,
        )
    except (OSError, ValueError, AttributeError, TypeError, OverflowError, MemoryError, RecursionError) as error:
        raise InputError("gap.invalid_folder", f"{folder}: {error}") from error


def _azimuths_by(stated: Any, derived: AzimuthsBy) -> AzimuthsBy:
    """Where azimuths come from: as stated in the manifest if that is valid, else as derived from its views."""
    return next((by for by in get_args(AzimuthsBy) if by == stated), derived)


def _warnings(value: Any) -> tuple[PackageWarning, ...] | None:
    """The warnings in a manifest; None if it has none, or in a form that gapray does not write."""
    if not isinstance(value, list) or len(value) > _MAX_WARNINGS:
        return None
    pairs = [(item.get("code"), item.get("message")) for item in value if isinstance(item, dict)]
    texts = [(code, message) for code, message in pairs if isinstance(code, str) and isinstance(message, str)]
    return tuple(PackageWarning(code, message) for code, message in texts) if len(texts) == len(value) else None


@dataclass(frozen=True)
class _ReadView:
    """A view with further results of reading it."""

    view: GapView
    product: str
    """Product name in the view's metadata; may be empty."""
    warnings: tuple[PackageWarning, ...]
    """What was changed since the view was written."""
    has_edges: bool
    """Whether its canny map can be the edge detector's."""


def _read_view(source: ViewSource) -> _ReadView:
    metadata = _metadata(source)
    reference = decode_photo(data_of(source, "reference"), FILE_LIMITS)
    size = reference.shape[:2]
    mask = of_same_size(_mask(source, required=metadata.get("has_mask") is not False), size)
    _refuse_no_silhouette(mask, f"view {source.azimuth_deg:g}")
    exported_hash = metadata.get("reference_sha256")
    depth, outline, depth_changed = _depth(source, size, exported=bool(exported_hash))
    mask_changed = outline is not None and not np.array_equal(outline, mask >= 128)
    depth = fitted_depth(depth, mask >= 128) if outline is not None else depth_within(np.maximum(depth, 1), mask >= 128)
    identity = _identity(source)
    reference_changed = _is_changed(source, reference, exported_hash)
    canny_data = source.data("canny")
    canny = np.zeros(size, np.uint8) if canny_data is None else of_same_size(grey_of_8_bits(canny_data), size)
    canny_changed = float((canny[mask >= 128] >= 128).mean()) > _MAX_EDGES
    name = str(metadata.get("name") or f"view_{source.azimuth_deg:03g}")
    view = GapView(
        name=name,
        azimuth_deg=_azimuth(source, metadata.get("azimuth_deg")),
        uri=str(metadata.get("uri") or metadata.get("source") or ""),
        sha256=str(metadata.get("sha256", "")),
        reference=reference,
        mask=mask,
        depth=depth,
        canny=canny,
        identity=with_geometry(identity, depth, mask) if mask_changed else identity,
        quality=Quality(
            *(_finite(metadata.get(name, 0.0)) for name in ("sharpness", "clipped_dark", "clipped_bright"))
        ),
    )
    changes = {
        _REFERENCE_CHANGED: reference_changed,
        "gap.mask_changed": mask_changed,
        "gap.cutout_changed": bool(exported_hash)
        and _cut_out_is_changed(source, None if reference_changed else reference, mask >= 128, outline),
        "gap.depth_changed": depth_changed,
        "gap.canny_changed": canny_changed,
    }
    warnings = tuple(PackageWarning(code, f"{name}: {_CHANGES[code]}") for code, changed in changes.items() if changed)
    has_edges = canny_data is not None and not canny_changed
    return _ReadView(view, str(metadata.get("object_name") or ""), warnings, has_edges)


def _azimuth(source: ViewSource, exact: Any) -> float:
    """The azimuth of a view [degrees], preferably from `metadata.json`, the prototype's only file with fractions of a degree.

    Raises:
        ValueError: The manifest or the folder's name states another azimuth.
    """
    if exact is None:
        return source.azimuth_deg
    stated = {"metadata.json": parse_degrees(exact)}
    if source.stated:
        stated["its manifest or folder"] = source.azimuth_deg
    try:
        return agreed_azimuth(stated) or 0.0
    except ValueError as error:
        raise ValueError(f"the azimuth of view {source.azimuth_deg:g}: {error}") from None


def _is_changed(source: ViewSource, reference: NDArray[np.uint8], exported_hash: Any) -> bool:
    """Whether a view's reference differs from the exported one or, if its hash is unknown, from its cut-out."""
    if exported_hash:
        return str(exported_hash) != hash_of_pixels(reference)
    try:
        data = source.data("reference_no_bg")
        if data is None:
            return False
        cut_out, opaque = decode_photo(data, FILE_LIMITS), decode_alpha(data, FILE_LIMITS) >= 250
    except InputError:
        return False  # the cut-out is optional
    if cut_out.shape != reference.shape or not opaque.any():
        return False
    difference = np.abs(cut_out[opaque].astype(np.float32) - reference[opaque])
    return float(difference.mean()) > MAX_DIFFERENCE


def _cut_out_is_changed(
    source: ViewSource,
    reference: NDArray[np.uint8] | None,
    inside: NDArray[np.bool_],
    outline: NDArray[np.bool_] | None,
) -> bool:
    """Whether an export's cut-out shows another outline than the mask's and the depth's, or other colours than the reference.

    Args:
        source: The view.
        reference: None if it differs from the exported one, so that nothing says what the cut-out's colours were.
        inside: Where the mask shows the product, [H, W].
        outline: Where the depth does, [H, W]; None if unknown.
    """
    data = source.data("reference_no_bg")
    if data is None:
        return False
    try:
        cut_out, alpha = decode_photo(data, FILE_LIMITS), decode_alpha(data, FILE_LIMITS)
    except InputError:
        return True  # flattened, or no picture any more
    if cut_out.shape[:2] != inside.shape:
        return True
    if not any(np.array_equal(alpha >= 128, known) for known in (inside, outline) if known is not None):
        return True
    opaque = alpha == 255
    if reference is None or not opaque.any():
        return False
    return int(np.abs(cut_out[opaque].astype(np.int16) - reference[opaque]).max()) > MAX_ROUNDING


def _metadata(source: ViewSource) -> Mapping[str, Any]:
    inline = source.members.get("metadata")
    if isinstance(inline, Mapping):
        return inline
    data = source.data("metadata")
    metadata = parsed_json(data) if data is not None else {}
    if not isinstance(metadata, Mapping):
        raise ValueError(f"metadata of view {source.azimuth_deg:g} is not an object")
    return metadata


def _mask(source: ViewSource, *, required: bool) -> NDArray[np.uint8]:
    """The view's mask, else the transparency of its cut-out; `required`: a mask that the manifest names must exist."""
    data = source.data("mask", required=required)
    return decode_alpha(data_of(source, "reference_no_bg"), FILE_LIMITS) if data is None else mask_levels(data)


def _refuse_no_silhouette(mask: NDArray[np.uint8], where: str) -> None:
    """Refuse a mask that shows no product, by the same limits as for masks that gapray makes.

    Raises:
        InputError: `mask.too_small`, `mask.too_large` or `mask.inverted`.
    """
    fraction = mask_share(mask)
    coverage = f"the mask of {where} covers {fraction:.2%} of the picture"
    if fraction < _MASKS.min_share:
        hint = f": its brightest pixel is {mask.max()}, and 128 and above is product" if 0 < mask.max() < 128 else ""
        raise InputError("mask.too_small", coverage + hint)
    inside = mask >= 128
    border = np.concatenate([inside[0], inside[-1], inside[:, 0], inside[:, -1]])
    if border.mean() > _INVERTED_BORDER and 1 - fraction >= _MASKS.min_share:
        message = f"the mask of {where} is white all along the picture's border and black further in"
        raise InputError("mask.inverted", message)
    if fraction > _MASKS.max_share:
        raise InputError("mask.too_large", coverage)


def _depth(
    source: ViewSource, size: tuple[int, ...], *, exported: bool
) -> tuple[NDArray[np.uint16], NDArray[np.bool_] | None, bool]:
    """The view's depth as its file has it, 8 bits spread over 16; where it shows the product; whether its 8-bit copy differs from it.

    Only gapray's depth has an outline: that of others, of 8 bits or under the name of the 8-bit file, may cover the whole picture.
    """
    exact = source.data("depth16")
    image = decode_grey(data_of(source, "depth") if exact is None else exact, FILE_LIMITS)
    depth = of_same_size(image.astype(np.uint16), size)
    if image.dtype != np.uint16:
        depth = depth * np.uint16(DEPTH_MAX // 255)
    rounded = None if exact is None else source.data("depth", required=False)
    differs = rounded is not None and levels_differ(grey_of_8_bits(rounded), depth_of_8_bits(depth))
    return depth, depth > 0 if exported or exact is not None else None, differs


def _identity(source: ViewSource) -> NDArray[np.float32]:
    data = source.data("identity")
    if data is None:
        raise ValueError(f"view {source.azimuth_deg:g} has no identity embedding")
    return identity_in(data)


def _folder_name(root: Path) -> str:
    """Name of the package's folder, which is the parent of a single view's folder."""
    return root.parent.name if VIEW.fullmatch(root.name) else root.name


def _finite(value: Any) -> float:
    number = float(value)
    if not np.isfinite(number):
        raise ValueError(f"{number} is not a finite number")
    return number
