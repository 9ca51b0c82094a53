"""GAP folders: the prototype's layout on disk, written and read.

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

Files are called ``…_000`` in the folder of every view, as the prototype's loader opens them. The last two are gapray's own.
The prototype scaled the 8-bit depth of each view by itself; gapray writes it on the one scale of the set. The prototype knew
whole degrees only: azimuths between them go into manifest and `metadata.json`; the folder's number is rounded.
"""

from __future__ import annotations

import base64
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

import numpy as np
from numpy.typing import NDArray

from gapray.capture.azimuths import AzimuthsBy
from gapray.capture.decode import decode_alpha, decode_grey, decode_photo
from gapray.capture.discover import PRODUCT_ID
from gapray.capture.storage import read_bytes
from gapray.config import DecodeSettings, MaskSettings
from gapray.errors import InputError
from gapray.gap.identity import IDENTITY_SIZE
from gapray.gap.images import encode_png
from gapray.gap.manifest import LONGEST_PATH, VIEW, agreed, degrees_of, manifest_views
from gapray.gap.package import DEPTH_MAX, GapPackage, GapView, PackageWarning, Quality, mask_share, view_facts

MANIFEST_NAME = "multiview_manifest.json"
LAYOUT_VERSION = "1.0"
INLINE = ("reference", "depth", "mask")
"""Files whose bytes an inline manifest holds, each as ``<role>_b64``: the names that the prototype's handler reads."""
_MAX_FILE_BYTES = 64 * 2**20
_MAX_MANIFEST_BYTES = 512 * 2**20
_MOST_WARNINGS = 1000
_LIMITS = DecodeSettings(min_side=16, reference_side=4096, max_pixels=4096 * 4096)
_MASKS = MaskSettings()
_BORDER = 0.9
"""A mask that is white along more of the picture's border than this, and black further in, is an inverted one [share]."""
_SAME_LEVELS = 16.0
"""A reference and its cut-out are two pictures when the product's pixels differ by more than this on average [grey levels]."""
_Pixel = TypeVar("_Pixel", np.uint8, np.uint16)

_USUAL = {
    "metadata": "metadata.json",
    "reference": "canonical/reference.*",
    "reference_no_bg": "canonical/reference_no_bg.*",
    "depth16": "geometry/depth16_*.*",
    "depth": "geometry/depth_*.*",
    "mask": "geometry/mask_*.*",
    "canny": "geometry/canny_*.*",
    "identity": "identity_embedding.*",
}
"""Role -> where its file lies in a view's folder, for what no manifest names."""
_OPTIONAL = ("reference_no_bg", "depth16", "canny")


def write(package: GapPackage, to: Path, *, inline: bool = False) -> Path:
    """Write one package.

    Args:
        package: What to write.
        to: A folder, made when missing; an earlier export of the same product in it is replaced, all its views. With `inline`
            also a path that ends with ``.json``: then that file alone is written, without paths in it.
        inline: The manifest holds in each view the bytes of `INLINE` in base64, so that it is whole without the files.

    Returns:
        The manifest's path.

    Raises:
        InputError: `gap.invalid_folder` when two views round to one degree, `gap.other_product` where something else lies than an
            earlier export of this product, `gap.write_failed`. Nothing has been written after the first two.
    """
    alone = inline and to.suffix.lower() == ".json"
    path = to if alone else to / MANIFEST_NAME
    angles = [f"{round(view.azimuth_deg) % 360:03d}" for view in package.views]
    for angle in angles:
        if angles.count(angle) > 1:
            raise InputError("gap.invalid_folder", f"two views round to {angle} degrees; the layout holds one")
    views: dict[str, dict[str, Any]] = {}
    try:
        before = _refuse_another(path, package.product_id, alone=alone)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)  # what is broken off is no package
        for angle, view in zip(angles, package.views, strict=True):
            views[angle] = {"azimuth_deg": view.azimuth_deg}
            files = _files_of(view, package.product_id)
            if not alone:
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
        for place in before:
            if place.name.removeprefix("view_") not in angles:
                _remove(place)
    except OSError as error:
        raise InputError("gap.write_failed", f"{to}: {error}") from error
    return path


def _refuse_another(manifest: Path, product_id: str, *, alone: bool) -> list[Path]:
    """Folders of the views that lie beside a manifest's path, all of this product.

    Raises:
        InputError: `gap.other_product`.
    """
    folder = manifest.parent
    places = [] if alone or not folder.is_dir() else sorted(path for path in folder.iterdir() if _is_view(path))
    written = [*([(manifest, "asset_name")] if manifest.is_file() else [])]
    written += [(place / "metadata.json", "object_name") for place in places if not written]
    for path, member in written:
        try:
            name = _product_id(json.loads(_bytes(path, _MAX_MANIFEST_BYTES).decode("utf-8-sig")).get(member))
        except (ValueError, AttributeError, RecursionError, InputError, FileNotFoundError):
            name = ""
        if name != product_id:
            told = f"an export of {name}" if name else "no export of gapray's"
            raise InputError("gap.other_product", f"{path} is {told}, and {product_id} would be mixed with it")
    return places


def _is_view(place: Path) -> bool:
    return VIEW.fullmatch(place.name) is not None and place.is_dir() and not place.is_symlink()


def _remove(view: Path) -> None:
    """Remove an earlier export's files of one view; what else lies in the folder stays, and the folder with it."""
    for pattern in _USUAL.values():
        for path in view.glob(pattern):
            path.unlink()
    for place in (view / "canonical", view / "geometry", view):
        with suppress(OSError):  # not there, or something else lies in it
            place.rmdir()


def _files_of(view: GapView, product_id: str) -> dict[str, tuple[str, bytes]]:
    """Role -> name below the view's folder, and content."""
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
        "identity": ("identity_embedding.pt", _saved(view.identity)),
        "metadata": ("metadata.json", f"{json.dumps(metadata | view_facts(view), indent=2)}\n".encode()),
        "depth16": ("geometry/depth16_000.png", encode_png(view.depth)),
        "canny": ("geometry/canny_000.png", encode_png(view.canny)),
    }


def _pixels_hash(reference: NDArray[np.uint8]) -> str:
    """sha256 of a picture's pixels, RGB row by row: the same however the file is compressed without loss."""
    return hashlib.sha256(np.ascontiguousarray(reference).tobytes()).hexdigest()


def _depth8(depth: NDArray[np.uint16]) -> NDArray[np.uint8]:
    """The same scale in 8 bits: 0 = no product, 1 = farthest … 255 = nearest of the whole set."""
    rounded = (depth.astype(np.uint32) + 128) // 257
    return np.where(depth > 0, np.maximum(rounded, 1), 0).astype(np.uint8)


def _saved(identity: NDArray[np.float32]) -> bytes:
    import torch

    sink = io.BytesIO()
    torch.save(torch.tensor(identity), sink)
    return sink.getvalue()


def read(folder: Path) -> GapPackage:
    """Read one package that gapray or the prototype wrote.

    The folder holds a manifest, or folders ``view_<degrees>``, or is one view's folder itself. The prototype's manifest
    names paths relative to the folder that it ran in, on whatever machine: each is looked for below the manifest, then the
    parts at its end are. 8-bit depth maps, which the prototype scaled view by view, are spread over 16 bits inside the mask;
    nothing says which scale they share, so they have no model (`GapPackage.models`). Where a view has no mask, the
    transparency of `reference_no_bg` is taken. Masks of zeros and ones are read as those of 0 and 255. A reference that is not
    the one that was exported, or not that of its cut-out, comes with the warning `gap.reference_changed`.

    Args:
        folder: Or the path of a manifest.

    Raises:
        InputError: `gap.invalid_folder` when a file is missing, lies outside the folder or holds something else, or when what is
            said of a view's azimuth contradicts itself; `mask.too_small`, `mask.too_large` or `mask.inverted`; `image.*` when a
            picture cannot be decoded.
    """
    try:
        root = (folder.parent if folder.is_file() else folder).resolve()
        manifest, places, by = _places(root, folder.name if folder.is_file() else MANIFEST_NAME)
        read_views = [_read_view(place) for place in places]
        views = sorted((read.view for read in read_views), key=lambda view: view.azimuth_deg)
        for view, after in pairwise(views):
            if after.azimuth_deg - view.azimuth_deg < 1e-6:
                raise ValueError(f"two views stand at {view.azimuth_deg:g} degrees")
        models = manifest.get("models") or {}
        key = str(manifest.get("key", ""))
        return GapPackage(
            product_id=_product_id(manifest.get("asset_name"), *(read.product for read in read_views), _named(root)),
            key=key if re.fullmatch(r"[0-9A-Za-z]{1,128}", key) else "",
            views=tuple(views),
            depth_scale=_finite(manifest.get("depth_scale", 1.0)),
            depth_shift=_finite(manifest.get("depth_shift", 0.0)),
            models={str(role): str(name) for role, name in models.items()},
            azimuths_by=_known_by(manifest.get("azimuths_by"), by),
            # What a manifest says of pictures that have been exchanged since is not true of these.
            warnings=_changed([read.view.name for read in read_views if read.changed])
            or _warnings(manifest.get("warnings")),
        )
    except (OSError, ValueError, AttributeError, TypeError, OverflowError, MemoryError, RecursionError) as error:
        raise InputError("gap.invalid_folder", f"{folder}: {error}") from error


@dataclass(frozen=True)
class _Place:
    """Where one view lies."""

    root: Path
    """The package's folder, without links in it; nothing outside of it is opened."""
    members: Mapping[str, Any]
    """What the manifest says; `folder` may be a view's whole folder."""
    azimuth_deg: float
    only: bool
    """The package has no other view."""
    said: bool = True
    """Something says the azimuth; else it is a guess."""

    def file(self, role: str) -> Path | None:
        """The file of one role; None when there is none.

        Raises:
            ValueError: It is named and not there, or lies outside the package's folder.
        """
        named = self.members.get(role)
        if not named:
            usual = sorted(self.folder().glob(_USUAL[role]))
            return _inside(self.root, usual[0]) if usual else None
        found = self._found(named)
        if found is None and role not in _OPTIONAL:
            raise ValueError(f"{role} of view {self.azimuth_deg:g}, {str(named)[:200]!r}, is not in the folder")
        return found

    def folder(self) -> Path:
        """The view's own folder."""
        if self.members.get("folder"):
            found = self._found(self.members["folder"])
            if found is None:
                raise ValueError(f"the folder of view {self.azimuth_deg:g} is not there")
            return found
        reference = self._found(self.members["reference"]) if self.members.get("reference") else None
        if reference is not None:
            return reference.parent.parent if reference.parent.name == "canonical" else reference.parent
        return _inside(self.root, self.root / f"view_{round(self.azimuth_deg) % 360:03d}")

    def _found(self, named: Any) -> Path | None:
        """What a path names: relative to the manifest, else the longest end of it that is there."""
        if not isinstance(named, str) or len(named) > LONGEST_PATH:
            raise ValueError(f"{str(named)[:40]!r} is no path")
        parts = [part for part in re.split(r"[/\\]+", named) if part not in ("", ".") and not part.endswith(":")]
        if not parts:
            return self.root
        if ".." in parts:
            parts = parts[len(parts) - parts[::-1].index("..") :]
        views = [index for index, part in enumerate(parts) if VIEW.fullmatch(part)]
        # Of several views none may be taken for another: a view's own folder is never cut off its path.
        last = views[-1] if views and not self.only else len(parts) - 1
        for start in range(last + 1):
            place = self.root.joinpath(*parts[start:])
            if place.exists():
                return _inside(self.root, place)
        return None


def _known_by(said: Any, found: AzimuthsBy) -> AzimuthsBy:
    """What a manifest says of its azimuths, or what its views show."""
    return next((by for by in get_args(AzimuthsBy) if by == said), found)


def _warnings(said: Any) -> tuple[PackageWarning, ...] | None:
    """What a manifest says of the photos; None where it says nothing, or anything else than gapray writes."""
    if not isinstance(said, list) or len(said) > _MOST_WARNINGS:
        return None
    found = [(item.get("code"), item.get("message")) for item in said if isinstance(item, dict)]
    texts = [(code, message) for code, message in found if isinstance(code, str) and isinstance(message, str)]
    return tuple(PackageWarning(code, message) for code, message in texts) if len(texts) == len(said) else None


def _inside(root: Path, place: Path) -> Path:
    """`place` without links in it, which may lead nowhere else."""
    resolved = place.resolve()
    if not resolved.is_relative_to(root):
        raise ValueError(f"{place} lies outside the folder")
    return resolved


def _places(root: Path, manifest_name: str) -> tuple[dict[str, Any], list[_Place], AzimuthsBy]:
    """The manifest, empty where there is none, where the views lie, and how their azimuths are known from that."""
    path = root / manifest_name
    if path.exists() or path.is_symlink():
        _inside(root, path)
        manifest = json.loads(_bytes(path, _MAX_MANIFEST_BYTES).decode("utf-8-sig"))
        found, by = manifest_views(manifest)
        only, said = len(found) == 1, by != "order"
        return manifest, [_Place(root, members, azimuth, only, said) for azimuth, members in found], by
    folders = sorted(one.name for one in root.iterdir() if VIEW.fullmatch(one.name) and one.is_dir())
    if folders:
        return {}, [_Place(root, {"folder": name}, degrees_of(name), only=False) for name in folders], "degrees"
    if not (root / "canonical").is_dir():
        raise ValueError(f"there is no {MANIFEST_NAME}, no folder view_<degrees> and no folder canonical")
    named = VIEW.fullmatch(root.name) is not None
    place = _Place(root, {"folder": "."}, degrees_of(root.name) if named else 0.0, only=True, said=named)
    return {}, [place], "degrees" if named else "order"


@dataclass(frozen=True)
class _Read:
    """One view as it was read."""

    view: GapView
    product: str
    """What its metadata call the product."""
    changed: bool
    """Its reference is not the picture that mask, depth and identity were made of."""


def _read_view(place: _Place) -> _Read:
    metadata = _metadata(place)
    reference = decode_photo(_data(place, "reference"), _LIMITS)
    size = reference.shape[:2]
    mask = _same_size(_mask(place, wanted=metadata.get("has_mask") is not False), size)
    _refuse_no_silhouette(mask, f"view {place.azimuth_deg:g}")
    canny = place.file("canny")
    view = GapView(
        name=str(metadata.get("name") or f"view_{place.azimuth_deg:03g}"),
        azimuth_deg=_azimuth(place, metadata.get("azimuth_deg")),
        uri=str(metadata.get("uri") or metadata.get("source") or ""),
        sha256=str(metadata.get("sha256", "")),
        reference=reference,
        mask=mask,
        depth=_depth(place, mask, size),
        canny=_same_size(_grey8(_bytes(canny)), size) if canny else np.zeros(size, np.uint8),
        identity=_identity(place),
        quality=Quality(
            *(_finite(metadata.get(name, 0.0)) for name in ("sharpness", "clipped_dark", "clipped_bright"))
        ),
    )
    changed = _is_changed(place, reference, metadata.get("reference_sha256"))
    return _Read(view, str(metadata.get("object_name") or ""), changed)


def _azimuth(place: _Place, exact: Any) -> float:
    """A view's azimuth: what `metadata.json` says, who alone of the prototype's files may hold parts of a degree.

    Raises:
        ValueError: The manifest or the folder's name says another azimuth.
    """
    if exact is None:
        return place.azimuth_deg
    said = {"metadata.json": degrees_of(exact)}
    if place.said:
        said["its manifest or folder"] = place.azimuth_deg
    try:
        return agreed(said) or 0.0
    except ValueError as error:
        raise ValueError(f"the azimuth of view {place.azimuth_deg:g}: {error}") from None


def _is_changed(place: _Place, reference: NDArray[np.uint8], told: Any) -> bool:
    """Whether a view's reference is another picture than at its export, or than that of its cut-out where nothing says."""
    if told:
        return str(told) != _pixels_hash(reference)
    path = place.file("reference_no_bg")
    if path is None:
        return False
    try:
        data = _bytes(path)
        cut_out, opaque = decode_photo(data, _LIMITS), decode_alpha(data, _LIMITS) >= 250
    except InputError:
        return False  # a cut-out is not needed
    if cut_out.shape != reference.shape or not opaque.any():
        return False
    apart = np.abs(cut_out[opaque].astype(np.float32) - reference[opaque])
    return float(apart.mean()) > _SAME_LEVELS


def _changed(names: Sequence[str]) -> tuple[PackageWarning, ...]:
    told = "the reference is not the picture that mask, depth and identity were made of. Package the photo again."
    return tuple(PackageWarning("gap.reference_changed", f"{name}: {told}") for name in names)


def _metadata(place: _Place) -> Mapping[str, Any]:
    given = place.members.get("metadata")
    if isinstance(given, Mapping):
        return given
    path = place.file("metadata")
    metadata = json.loads(_bytes(path).decode("utf-8-sig")) if path else {}
    if not isinstance(metadata, Mapping):
        raise ValueError(f"metadata of view {place.azimuth_deg:g} are no object")
    return metadata


def _mask(place: _Place, *, wanted: bool) -> NDArray[np.uint8]:
    """The view's mask, else the transparency of its cut-out; `wanted`: what the manifest names must be there."""
    try:
        path = place.file("mask")
    except ValueError:
        if wanted:
            raise
        path = None
    if path is None:
        return decode_alpha(_data(place, "reference_no_bg"), _LIMITS)
    image = decode_grey(_bytes(path), _LIMITS)
    return (image * 255).astype(np.uint8) if image.max() <= 1 else _of_8_bits(image)


def _refuse_no_silhouette(mask: NDArray[np.uint8], where: str) -> None:
    """Refuse a mask that shows no product, by the shares that packaging asks of its own masks.

    Raises:
        InputError: `mask.too_small`, `mask.too_large` or `mask.inverted`.
    """
    share = mask_share(mask)
    told = f"the mask of {where} covers {share:.2%} of the picture"
    if share < _MASKS.min_share:
        low = f": its brightest pixel is {mask.max()}, and 128 and above is product" if 0 < mask.max() < 128 else ""
        raise InputError("mask.too_small", told + low)
    inside = mask >= 128
    border = np.concatenate([inside[0], inside[-1], inside[:, 0], inside[:, -1]])
    if border.mean() > _BORDER and 1 - share >= _MASKS.min_share:
        message = f"the mask of {where} is white all along the picture's border and black further in"
        raise InputError("mask.inverted", message)
    if share > _MASKS.max_share:
        raise InputError("mask.too_large", told)


def _depth(place: _Place, mask: NDArray[np.uint8], size: tuple[int, ...]) -> NDArray[np.uint16]:
    own = place.file("depth16")
    image = decode_grey(_bytes(own) if own else _data(place, "depth"), _LIMITS)
    depth = _same_size(image.astype(np.uint16), size)
    if image.dtype == np.uint16:
        return depth
    return np.where(mask >= 128, np.maximum(depth * np.uint16(DEPTH_MAX // 255), 1), 0).astype(np.uint16)


def _identity(place: _Place) -> NDArray[np.float32]:
    path = place.file("identity")
    if path is None:
        raise ValueError(f"view {place.azimuth_deg:g} has no identity embedding")
    data = _bytes(path)
    if path.suffix == ".json":
        values = np.asarray(json.loads(data), np.float32)
    elif path.suffix == ".npy":
        values = np.load(io.BytesIO(data), allow_pickle=False).astype(np.float32)
    else:
        values = _tensor(data)
    if values.size != IDENTITY_SIZE:
        raise ValueError(f"the identity embedding has shape {values.shape}, not ({IDENTITY_SIZE},)")
    if not np.isfinite(values).all():
        raise ValueError("the identity embedding holds numbers that are not finite")
    return values.reshape(IDENTITY_SIZE)


def _tensor(data: bytes) -> NDArray[np.float32]:
    """What torch saved, on whatever device; no code in it is run."""
    import torch

    try:
        if zipfile.is_zipfile(io.BytesIO(data)):
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                if sum(member.file_size for member in archive.infolist()) > _MAX_FILE_BYTES:
                    raise ValueError("it unpacks to too many bytes")
        loaded = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        values: NDArray[np.float32] = loaded.detach().to(torch.float32).numpy()
    except Exception as error:
        # torch, pickle and zipfile raise what they like on damaged files.
        first = (str(error).splitlines() or [""])[0]
        raise ValueError(f"the identity embedding is no tensor: {type(error).__name__}: {first}") from error
    return values


def _data(place: _Place, role: str) -> bytes:
    path = place.file(role)
    if path is None:
        raise ValueError(f"view {place.azimuth_deg:g} has no {role}")
    return _bytes(path)


def _bytes(path: Path, most: int = _MAX_FILE_BYTES) -> bytes:
    if not path.is_file():
        raise ValueError(f"{path.name} is no file")  # a pipe would never end
    return read_bytes(str(path), most)


def _named(root: Path) -> str:
    """What the package's folder is called; a view's own folder lies in it."""
    return root.parent.name if VIEW.fullmatch(root.name) else root.name


def _product_id(*names: Any) -> str:
    """The first name that can be a product's id, once blanks and the like are dashes; it becomes part of paths."""
    for name in names:
        identifier = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-._")[:128] if isinstance(name, str) else ""
        if PRODUCT_ID.fullmatch(identifier):
            return identifier
    raise ValueError("nothing names the product")


def _finite(value: Any) -> float:
    number = float(value)
    if not np.isfinite(number):
        raise ValueError(f"{number} is no number")
    return number


def _grey8(data: bytes) -> NDArray[np.uint8]:
    return _of_8_bits(decode_grey(data, _LIMITS))


def _of_8_bits(image: NDArray[np.uint8] | NDArray[np.uint16]) -> NDArray[np.uint8]:
    return image.astype(np.uint8) if image.dtype == np.uint8 else (image >> 8).astype(np.uint8)


def _same_size(image: NDArray[_Pixel], size: tuple[int, ...]) -> NDArray[_Pixel]:
    if image.shape != size:
        raise ValueError(f"an image is {image.shape}, the reference {size}")
    return image
