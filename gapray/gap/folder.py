"""Reading and writing GAP folders in the prototype's layout.

::

    multiview_manifest.json
    view_045/canonical/reference.png            RGB
    view_045/canonical/reference_no_bg.png      RGBA
    view_045/geometry/depth_000.png             8-bit grey
    view_045/geometry/mask_000.png              8-bit grey
    view_045/identity_embedding.pt              torch.save of a float32 tensor [517]
    view_045/metadata.json
    view_045/geometry/depth16_000.png           16-bit grey, `GapView.depth` itself
    view_045/geometry/canny_000.png             8-bit grey

Files are named ``…_000`` in the folder of every view, because the prototype's loader expects it. The last two files are specific to
gapray. The prototype scaled the 8-bit depth of each view separately; gapray writes it on the common scale of the set. The prototype
only knew whole degrees: exact azimuths are in the manifest and in `metadata.json`, and the folder's number is rounded.
"""

from __future__ import annotations

import base64
import codecs
import hashlib
import io
import json
import re
import zipfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar, get_args

import cv2
import numpy as np
from numpy.typing import NDArray

from gapray.capture.azimuths import AzimuthsBy
from gapray.capture.decode import decode_alpha, decode_grey, decode_photo
from gapray.capture.discover import PRODUCT_ID
from gapray.capture.settings import DecodeSettings
from gapray.capture.storage import read_bytes
from gapray.errors import InputError
from gapray.gap.identity import IDENTITY_SIZE, with_geometry
from gapray.gap.images import encode_png
from gapray.gap.manifest import MAX_PATH, VIEW, agreed_azimuth, manifest_views, parse_degrees
from gapray.gap.package import DEPTH_MAX, GapPackage, GapView, PackageWarning, Quality, mask_share, view_facts
from gapray.gap.settings import MaskSettings

MANIFEST_NAME = "multiview_manifest.json"
LAYOUT_VERSION = "1.0"
INLINE = ("reference", "depth", "mask", "depth16", "canny", "identity", "metadata")
"""Roles whose files an inline manifest holds as ``<role>_b64``. The prototype's handler reads the first three."""
_MAX_FILE_BYTES = 64 * 2**20
_MAX_MANIFEST_BYTES = 512 * 2**20
_MAX_WARNINGS = 1000
_LIMITS = DecodeSettings(min_side=16, reference_side=4096, max_pixels=4096 * 4096)
_MASKS = MaskSettings()
_INVERTED_BORDER = 0.9
"""A mask that covers more than this fraction of the picture's border, but not its interior, is inverted."""
_MAX_DIFFERENCE = 16.0
"""Maximum mean difference of the product's pixels between a reference and its cut-out; above it they are different pictures."""
_MAX_EDGES = 0.7
"""Canny's edges are thin: maps in which more than this fraction of the product's pixels are edges are something else."""
_MAX_ROUNDING = 8
"""Maximum difference of an opaque pixel of an export's cut-out from its reference that saving it again can cause [levels]."""
_REFERENCE_CHANGED = "gap.reference_changed"
_Pixel = TypeVar("_Pixel", np.uint8, np.uint16)

_DEFAULT_FILES = {
    "metadata": "metadata.json",
    "reference": "canonical/reference.*",
    "reference_no_bg": "canonical/reference_no_bg.*",
    "depth16": "geometry/depth16_*.*",
    "depth": "geometry/depth_*.*",
    "mask": "geometry/mask_*.*",
    "canny": "geometry/canny_*.*",
    "identity": "identity_embedding.*",
}
"""Role -> pattern of its file in a view's folder, unless the manifest names it."""
_OPTIONAL = ("reference_no_bg", "depth16", "canny")
_CHANGES = {
    _REFERENCE_CHANGED: "the reference is not the picture that mask, depth and identity were made of. Package the photo again.",
    "gap.mask_changed": "the mask, which was read, has another outline than the depth. Depth and measurements were fitted to it: cut off, or "
    "continued from the nearest pixel; the features of the product's appearance are those of the old outline.",
    "gap.cutout_changed": "the cut-out (reference_no_bg) differs from the reference or the mask, which were read. Change those as well.",
    "gap.depth_changed": "the 8-bit depth differs from the 16-bit depth, which was read. Change both, or remove the one in 16 bits.",
    "gap.canny_changed": "nearly all of the product is edges in its canny map. Package the photo again.",
}
"""Code -> message of the warnings about one view."""


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
    views = [] if manifest_only or not folder.is_dir() else sorted(path for path in folder.iterdir() if _is_view(path))
    sources = [*([(manifest, "asset_name")] if manifest.is_file() else [])]
    sources += [(view / "metadata.json", "object_name") for view in views if not sources]
    for path, member in sources:
        try:
            name = _product_id(json.loads(_bytes(path, _MAX_MANIFEST_BYTES).decode("utf-8-sig")).get(member))
        except (ValueError, AttributeError, RecursionError, InputError, FileNotFoundError):
            name = ""
        if name != product_id:
            existing = f"an export of {name}" if name else "not an export of gapray's"
            raise InputError("gap.other_product", f"{path} is {existing}, and {product_id} would be mixed with it")
    return views


def _is_view(path: Path) -> bool:
    return VIEW.fullmatch(path.name) is not None and path.is_dir() and not path.is_symlink()


def _remove(view: Path) -> None:
    """Remove the files that an earlier export wrote for one view, and its folder unless it holds anything else."""
    for pattern in _DEFAULT_FILES.values():
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
        "reference_sha256": _pixels_hash(view.reference),
    }
    return {
        "reference": ("canonical/reference.png", encode_png(view.reference)),
        "reference_no_bg": ("canonical/reference_no_bg.png", encode_png(np.dstack([view.reference, view.mask]))),
        "depth": ("geometry/depth_000.png", encode_png(_depth8(view.depth))),
        "mask": ("geometry/mask_000.png", encode_png(view.mask)),
        "identity": ("identity_embedding.pt", _torch_bytes(view.identity)),
        "metadata": ("metadata.json", f"{json.dumps(metadata | view_facts(view), indent=2)}\n".encode()),
        "depth16": ("geometry/depth16_000.png", encode_png(view.depth)),
        "canny": ("geometry/canny_000.png", encode_png(view.canny)),
    }


def _pixels_hash(reference: NDArray[np.uint8]) -> str:
    """sha256 of a picture's RGB pixels in row order, which does not depend on the (lossless) compression of the file."""
    return hashlib.sha256(np.ascontiguousarray(reference).tobytes()).hexdigest()


def _depth8(depth: NDArray[np.uint16]) -> NDArray[np.uint8]:
    """Depth on the same scale in 8 bits: 0 = no product, 1 = farthest … 255 = nearest point of the whole set."""
    rounded = (depth.astype(np.uint32) + 128) // 257
    return np.where(depth > 0, np.maximum(rounded, 1), 0).astype(np.uint8)


def _torch_bytes(identity: NDArray[np.float32]) -> bytes:
    import torch

    sink = io.BytesIO()
    torch.save(torch.tensor(identity), sink)
    return sink.getvalue()


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
        manifest, sources, by = _view_sources(root, folder.name if folder.is_file() else MANIFEST_NAME)
        read_views = [_read_view(source) for source in sources]
        views = sorted((read.view for read in read_views), key=lambda view: view.azimuth_deg)
        for view, after in pairwise(views):
            if after.azimuth_deg - view.azimuth_deg < 1e-6:
                raise ValueError(f"two views stand at {view.azimuth_deg:g} degrees")
        models = {str(role): str(name) for role, name in (manifest.get("models") or {}).items()}
        if not all(read.has_edges for read in read_views):
            models.pop("canny", None)
        found = [warning for read in read_views for warning in read.warnings] + _unlisted_views(root, sources)
        # The manifest's warnings do not apply to pictures that have been replaced since.
        replaced = any(warning.code == _REFERENCE_CHANGED for warning in found)
        earlier = None if replaced else _warnings(manifest.get("warnings"))
        key = str(manifest.get("key", ""))
        return GapPackage(
            product_id=_product_id(
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


@dataclass(frozen=True)
class _ViewSource:
    """Location of the files of one view."""

    root: Path
    """The package's folder with links resolved; nothing outside it is opened."""
    members: Mapping[str, Any]
    """The view's members in the manifest; `folder` is the view's whole folder."""
    azimuth_deg: float
    only: bool
    """Whether it is the only view of the package."""
    stated: bool = True
    """Whether the azimuth is stated anywhere, or only assumed."""

    def data(self, role: str, *, required: bool = True) -> bytes | None:
        """Content of one role: its file's, else that in the manifest; None if there is neither.

        Args:
            role: A role in `_DEFAULT_FILES`.
            required: A file that the manifest names must exist, unless its content is in the manifest.

        Raises:
            ValueError: A named file does not exist, the file is outside the package's folder, or its content is not the manifest's.
        """
        inline = self._inline(role)
        path = self.file(role, required=required and inline is None)
        if path is None:
            return inline
        data = _bytes(path)
        if inline is not None and inline != data and not _same_content(role, inline, data):
            where = f"{role}_b64 of view {self.azimuth_deg:g}"
            raise ValueError(f"{where} differs from {path.relative_to(self.root)}; remove the one that does not count")
        return data

    def _inline(self, role: str) -> bytes | None:
        """Content of one role in the manifest; None if it has none.

        Raises:
            ValueError: It is not base64, or too long.
        """
        text = self.members.get(f"{role}_b64") if role in INLINE else None
        if not text:
            return None
        try:
            # Line breaks and the start of a data URI are allowed.
            data = base64.b64decode("".join(text.rpartition(",")[2].split()), validate=True)
        except (ValueError, AttributeError) as error:
            raise ValueError(f"{role}_b64 of view {self.azimuth_deg:g} is not base64: {error}") from error
        if len(data) > _MAX_FILE_BYTES:
            raise ValueError(f"{role}_b64 of view {self.azimuth_deg:g} holds more than {_MAX_FILE_BYTES} bytes")
        return data

    def file(self, role: str, *, required: bool = True) -> Path | None:
        """The file of one role; None if there is none.

        Args:
            role: A role in `_DEFAULT_FILES`.
            required: A file that the manifest names must exist.

        Raises:
            ValueError: A named file does not exist, or the file is outside the package's folder.
        """
        named = self.members.get(role)
        if not named:
            if self._is_in_manifest():
                return None
            default = sorted(self.folder().glob(_DEFAULT_FILES[role]))
            return _inside(self.root, default[0]) if default else None
        path = self._resolve(named)
        if path is None and required and role not in _OPTIONAL:
            raise ValueError(f"{role} of view {self.azimuth_deg:g}, {str(named)[:200]!r}, is not in the folder")
        return path

    def _is_in_manifest(self) -> bool:
        """Whether the whole view is in the manifest, without the name of any file."""
        whole = all(self.members.get(f"{role}_b64") for role in INLINE)
        return whole and not any(self.members.get(name) for name in ("folder", *_DEFAULT_FILES))

    def folder(self) -> Path:
        """The view's own folder."""
        if self.members.get("folder"):
            folder = self._resolve(self.members["folder"])
            if folder is None:
                raise ValueError(f"the folder of view {self.azimuth_deg:g} is not there")
            return folder
        reference = self._resolve(self.members["reference"]) if self.members.get("reference") else None
        if reference is not None:
            return reference.parent.parent if reference.parent.name == "canonical" else reference.parent
        return _inside(self.root, self.root / f"view_{round(self.azimuth_deg) % 360:03d}")

    def _resolve(self, named: Any) -> Path | None:
        """Resolve a path relative to the manifest, with as few leading parts removed as needed; None if it does not exist."""
        if not isinstance(named, str) or len(named) > MAX_PATH:
            raise ValueError(f"{str(named)[:40]!r} is not a path")
        parts = [part for part in re.split(r"[/\\]+", named) if part not in ("", ".") and not part.endswith(":")]
        if not parts:
            return self.root
        if ".." in parts:
            parts = parts[len(parts) - parts[::-1].index("..") :]
        views = [index for index, part in enumerate(parts) if VIEW.fullmatch(part)]
        # A view's own folder is never removed from its path, so that no view is taken for another.
        last = views[-1] if views and not self.only else len(parts) - 1
        for start in range(last + 1):
            path = self.root.joinpath(*parts[start:])
            if path.exists():
                return _inside(self.root, path)
        return None


def _azimuths_by(stated: Any, derived: AzimuthsBy) -> AzimuthsBy:
    """Where azimuths come from: as stated in the manifest if that is valid, else as derived from its views."""
    return next((by for by in get_args(AzimuthsBy) if by == stated), derived)


def _same_content(role: str, first: bytes, second: bytes) -> bool:
    """Whether two encodings of one role have the same pixels or values."""
    if role == "metadata":
        return bool(_json(first) == _json(second))
    return np.array_equal(_pixels(role, first), _pixels(role, second))


def _pixels(role: str, data: bytes) -> NDArray[Any]:
    """Decode any role but `metadata` for comparison."""
    if role == "identity":
        return _identity_values(data)
    if role == "reference":
        return decode_photo(data, _LIMITS)
    return _mask_levels(data) if role == "mask" else decode_grey(data, _LIMITS)


def _unlisted_views(root: Path, sources: Sequence[_ViewSource]) -> list[PackageWarning]:
    """Warn of folders of views beside those that the package is read from; none when it is read from a manifest alone."""
    used = [path for source in sources if (path := source.file("reference", required=False)) is not None]
    folders = [path for path in root.iterdir() if _is_view(path) and any(path.glob(_DEFAULT_FILES["reference"]))]
    unused = [path.name for path in folders if not any(file.is_relative_to(path) for file in used)]
    message = "the manifest does not list this view, so it was left out. List it there, or remove the folder."
    return [PackageWarning("gap.unlisted_view", f"{name}: {message}") for name in sorted(unused)] if used else []


def _warnings(value: Any) -> tuple[PackageWarning, ...] | None:
    """The warnings in a manifest; None if it has none, or in a form that gapray does not write."""
    if not isinstance(value, list) or len(value) > _MAX_WARNINGS:
        return None
    pairs = [(item.get("code"), item.get("message")) for item in value if isinstance(item, dict)]
    texts = [(code, message) for code, message in pairs if isinstance(code, str) and isinstance(message, str)]
    return tuple(PackageWarning(code, message) for code, message in texts) if len(texts) == len(value) else None


def _inside(root: Path, path: Path) -> Path:
    """`path` with links resolved.

    Raises:
        ValueError: It leads out of `root`.
    """
    resolved = path.resolve()
    if not resolved.is_relative_to(root):
        raise ValueError(f"{path} is outside the folder")
    return resolved


def _view_sources(root: Path, manifest_name: str) -> tuple[dict[str, Any], list[_ViewSource], AzimuthsBy]:
    """The manifest (empty if there is none), the locations of the views, and where their azimuths come from.

    Raises:
        ValueError: The folder is not a GAP folder, or its manifest is invalid.
    """
    path = root / manifest_name
    if path.exists() or path.is_symlink():
        _inside(root, path)
        manifest = json.loads(_bytes(path, _MAX_MANIFEST_BYTES).decode("utf-8-sig"))
        views, by = manifest_views(manifest)
        only, stated = len(views) == 1, by != "order"
        return manifest, [_ViewSource(root, members, azimuth, only, stated) for azimuth, members in views], by
    folders = sorted(path.name for path in root.iterdir() if VIEW.fullmatch(path.name) and path.is_dir())
    if folders:
        return {}, [_ViewSource(root, {"folder": name}, parse_degrees(name), only=False) for name in folders], "degrees"
    if not (root / "canonical").is_dir():
        raise ValueError(f"there is no {MANIFEST_NAME}, no folder view_<degrees> and no folder canonical")
    named = VIEW.fullmatch(root.name) is not None
    source = _ViewSource(root, {"folder": "."}, parse_degrees(root.name) if named else 0.0, only=True, stated=named)
    return {}, [source], "degrees" if named else "order"


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


def _read_view(source: _ViewSource) -> _ReadView:
    metadata = _metadata(source)
    reference = decode_photo(_data(source, "reference"), _LIMITS)
    size = reference.shape[:2]
    mask = _same_size(_mask(source, required=metadata.get("has_mask") is not False), size)
    _refuse_no_silhouette(mask, f"view {source.azimuth_deg:g}")
    exported_hash = metadata.get("reference_sha256")
    depth, outline, depth_changed = _depth(source, size, exported=bool(exported_hash))
    mask_changed = outline is not None and not np.array_equal(outline, mask >= 128)
    depth = _fitted(depth, mask >= 128) if outline is not None else _within(np.maximum(depth, 1), mask >= 128)
    identity = _identity(source)
    reference_changed = _is_changed(source, reference, exported_hash)
    canny_data = source.data("canny")
    canny = np.zeros(size, np.uint8) if canny_data is None else _same_size(_grey8(canny_data), size)
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


def _azimuth(source: _ViewSource, exact: Any) -> float:
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


def _is_changed(source: _ViewSource, reference: NDArray[np.uint8], exported_hash: Any) -> bool:
    """Whether a view's reference differs from the exported one or, if its hash is unknown, from its cut-out."""
    if exported_hash:
        return str(exported_hash) != _pixels_hash(reference)
    try:
        data = source.data("reference_no_bg")
        if data is None:
            return False
        cut_out, opaque = decode_photo(data, _LIMITS), decode_alpha(data, _LIMITS) >= 250
    except InputError:
        return False  # the cut-out is optional
    if cut_out.shape != reference.shape or not opaque.any():
        return False
    difference = np.abs(cut_out[opaque].astype(np.float32) - reference[opaque])
    return float(difference.mean()) > _MAX_DIFFERENCE


def _cut_out_is_changed(
    source: _ViewSource,
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
        cut_out, alpha = decode_photo(data, _LIMITS), decode_alpha(data, _LIMITS)
    except InputError:
        return True  # flattened, or no picture any more
    if cut_out.shape[:2] != inside.shape:
        return True
    if not any(np.array_equal(alpha >= 128, known) for known in (inside, outline) if known is not None):
        return True
    opaque = alpha == 255
    if reference is None or not opaque.any():
        return False
    return int(np.abs(cut_out[opaque].astype(np.int16) - reference[opaque]).max()) > _MAX_ROUNDING


def _metadata(source: _ViewSource) -> Mapping[str, Any]:
    inline = source.members.get("metadata")
    if isinstance(inline, Mapping):
        return inline
    data = source.data("metadata")
    metadata = _json(data) if data is not None else {}
    if not isinstance(metadata, Mapping):
        raise ValueError(f"metadata of view {source.azimuth_deg:g} is not an object")
    return metadata


def _mask(source: _ViewSource, *, required: bool) -> NDArray[np.uint8]:
    """The view's mask, else the transparency of its cut-out; `required`: a mask that the manifest names must exist."""
    data = source.data("mask", required=required)
    return decode_alpha(_data(source, "reference_no_bg"), _LIMITS) if data is None else _mask_levels(data)


def _mask_levels(data: bytes) -> NDArray[np.uint8]:
    """Decode a mask, 0 … 255, also from zeros and ones, or from the transparency of a picture that is all of one colour."""
    image = decode_grey(data, _LIMITS)
    if image.min() == image.max():
        with suppress(InputError):  # it has no transparency
            image = decode_alpha(data, _LIMITS)
    return (image * 255).astype(np.uint8) if image.max() <= 1 else _of_8_bits(image)


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
    source: _ViewSource, size: tuple[int, ...], *, exported: bool
) -> tuple[NDArray[np.uint16], NDArray[np.bool_] | None, bool]:
    """The view's depth as its file has it, 8 bits spread over 16; where it shows the product; whether its 8-bit copy differs from it.

    Only gapray's depth has an outline: that of others, of 8 bits or under the name of the 8-bit file, may cover the whole picture.
    """
    exact = source.data("depth16")
    image = decode_grey(_data(source, "depth") if exact is None else exact, _LIMITS)
    depth = _same_size(image.astype(np.uint16), size)
    if image.dtype != np.uint16:
        depth = depth * np.uint16(DEPTH_MAX // 255)
    rounded = None if exact is None else source.data("depth", required=False)
    differs = rounded is not None and _differs(_grey8(rounded), _depth8(depth))
    return depth, depth > 0 if exported or exact is not None else None, differs


def _within(depth: NDArray[np.uint16], inside: NDArray[np.bool_]) -> NDArray[np.uint16]:
    return np.where(inside, depth, np.uint16(0))


def _fitted(depth: NDArray[np.uint16], inside: NDArray[np.bool_]) -> NDArray[np.uint16]:
    """Depth of the product's pixels `inside`, [H, W], 0 elsewhere; where there is none, that of the nearest pixel which has one."""
    known = inside & (depth > 0)
    if not known.any():
        known = depth > 0
    if not known.any():
        return inside.astype(np.uint16)
    if not (inside & ~known).any():
        return _within(depth, inside)
    _, nearest = cv2.distanceTransformWithLabels(
        (~known).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5, labelType=cv2.DIST_LABEL_PIXEL
    )
    values = np.zeros(int(nearest.max()) + 1, np.uint16)
    values[nearest[known]] = depth[known]
    return _within(values[nearest], inside)


def _differs(image: NDArray[np.uint8], expected: NDArray[np.uint8]) -> bool:
    """Whether two maps differ by more than rounding."""
    return image.shape != expected.shape or int(np.abs(image.astype(np.int16) - expected).max()) > 1


def _identity(source: _ViewSource) -> NDArray[np.float32]:
    data = source.data("identity")
    if data is None:
        raise ValueError(f"view {source.azimuth_deg:g} has no identity embedding")
    return _identity_values(data)


def _identity_values(data: bytes) -> NDArray[np.float32]:
    """Decode an identity embedding, [517], from JSON, NumPy's or torch's format."""
    if data.removeprefix(codecs.BOM_UTF8).lstrip().startswith(b"["):
        values = np.asarray(_json(data), np.float32)
    elif data.startswith(b"\x93NUMPY"):
        values = np.load(io.BytesIO(data), allow_pickle=False).astype(np.float32)
    else:
        values = _tensor(data)
    if values.size != IDENTITY_SIZE:
        raise ValueError(f"the identity embedding has shape {values.shape}, not ({IDENTITY_SIZE},)")
    if not np.isfinite(values).all():
        raise ValueError("the identity embedding holds numbers that are not finite")
    return values.reshape(IDENTITY_SIZE)


def _tensor(data: bytes) -> NDArray[np.float32]:
    """Load a tensor that torch saved on any device, without running code in it."""
    import torch

    try:
        if zipfile.is_zipfile(io.BytesIO(data)):
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                if sum(member.file_size for member in archive.infolist()) > _MAX_FILE_BYTES:
                    raise ValueError("it unpacks to too many bytes")
        loaded = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        values: NDArray[np.float32] = loaded.detach().to(torch.float32).numpy()
    except MemoryError:
        raise  # says nothing of the file
    except Exception as error:
        # torch, pickle and zipfile raise all kinds of exceptions on damaged files.
        first = (str(error).splitlines() or [""])[0]
        raise ValueError(f"the identity embedding is not a tensor: {type(error).__name__}: {first}") from error
    return values


def _data(source: _ViewSource, role: str) -> bytes:
    data = source.data(role)
    if data is None:
        raise ValueError(f"view {source.azimuth_deg:g} has no {role}")
    return data


def _json(data: bytes) -> Any:
    return json.loads(data.decode("utf-8-sig"))


def _bytes(path: Path, max_bytes: int = _MAX_FILE_BYTES) -> bytes:
    if not path.is_file():
        raise ValueError(f"{path.name} is not a regular file")  # a pipe would never end
    return read_bytes(str(path), max_bytes)


def _folder_name(root: Path) -> str:
    """Name of the package's folder, which is the parent of a single view's folder."""
    return root.parent.name if VIEW.fullmatch(root.name) else root.name


def _product_id(*names: Any) -> str:
    """The first name that can be a product id, with blanks and other special characters replaced by dashes.

    Raises:
        ValueError: None of them can be one.
    """
    for name in names:
        identifier = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-._")[:128] if isinstance(name, str) else ""
        if PRODUCT_ID.fullmatch(identifier):
            return identifier
    raise ValueError("nothing names the product")


def _finite(value: Any) -> float:
    number = float(value)
    if not np.isfinite(number):
        raise ValueError(f"{number} is not a finite number")
    return number


def _grey8(data: bytes) -> NDArray[np.uint8]:
    return _of_8_bits(decode_grey(data, _LIMITS))


def _of_8_bits(image: NDArray[np.uint8] | NDArray[np.uint16]) -> NDArray[np.uint8]:
    return image.astype(np.uint8) if image.dtype == np.uint8 else (image >> 8).astype(np.uint8)


def _same_size(image: NDArray[_Pixel], size: tuple[int, ...]) -> NDArray[_Pixel]:
    if image.shape != size:
        raise ValueError(f"an image is {image.shape}, the reference {size}")
    return image
