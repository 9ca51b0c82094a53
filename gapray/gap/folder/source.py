"""Where the parts of a view come from: files of a folder, or members of an inline manifest."""

from __future__ import annotations

import base64
import codecs
import io
import json
import re
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gapray.capture.azimuths import AzimuthsBy
from gapray.capture.decode import decode_grey, decode_photo
from gapray.gap.folder.layout import (
    DEFAULT_FILES,
    FILE_LIMITS,
    INLINE,
    MANIFEST_NAME,
    MAX_FILE_BYTES,
    MAX_MANIFEST_BYTES,
    file_bytes,
    is_view_folder,
    parsed_json,
)
from gapray.gap.folder.pixels import mask_levels
from gapray.gap.identity import IDENTITY_SIZE
from gapray.gap.manifest import MAX_PATH, VIEW, manifest_views, parse_degrees
from gapray.gap.package import PackageWarning

_OPTIONAL = ("reference_no_bg", "depth16", "canny")


@dataclass(frozen=True)
class ViewSource:
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
            role: A role in `DEFAULT_FILES`.
            required: A file that the manifest names must exist, unless its content is in the manifest.

        Raises:
            ValueError: A named file does not exist, the file is outside the package's folder, or its content is not the manifest's.
        """
        inline = self._inline(role)
        path = self.file(role, required=required and inline is None)
        if path is None:
            return inline
        data = file_bytes(path)
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
        if len(data) > MAX_FILE_BYTES:
            raise ValueError(f"{role}_b64 of view {self.azimuth_deg:g} holds more than {MAX_FILE_BYTES} bytes")
        return data

    def file(self, role: str, *, required: bool = True) -> Path | None:
        """The file of one role; None if there is none.

        Args:
            role: A role in `DEFAULT_FILES`.
            required: A file that the manifest names must exist.

        Raises:
            ValueError: A named file does not exist, or the file is outside the package's folder.
        """
        named = self.members.get(role)
        if not named:
            if self._is_in_manifest():
                return None
            default = sorted(self.folder().glob(DEFAULT_FILES[role]))
            return path_inside(self.root, default[0]) if default else None
        path = self._resolve(named)
        if path is None and required and role not in _OPTIONAL:
            raise ValueError(f"{role} of view {self.azimuth_deg:g}, {str(named)[:200]!r}, is not in the folder")
        return path

    def _is_in_manifest(self) -> bool:
        """Whether the whole view is in the manifest, without the name of any file."""
        whole = all(self.members.get(f"{role}_b64") for role in INLINE)
        return whole and not any(self.members.get(name) for name in ("folder", *DEFAULT_FILES))

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
        return path_inside(self.root, self.root / f"view_{round(self.azimuth_deg) % 360:03d}")

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
                return path_inside(self.root, path)
        return None


def _same_content(role: str, first: bytes, second: bytes) -> bool:
    """Whether two encodings of one role have the same pixels or values."""
    if role == "metadata":
        return bool(parsed_json(first) == parsed_json(second))
    return np.array_equal(pixels_of(role, first), pixels_of(role, second))


def pixels_of(role: str, data: bytes) -> NDArray[Any]:
    """Decode any role but `metadata` for comparison."""
    if role == "identity":
        return identity_in(data)
    if role == "reference":
        return decode_photo(data, FILE_LIMITS)
    return mask_levels(data) if role == "mask" else decode_grey(data, FILE_LIMITS)


def unlisted_views(root: Path, sources: Sequence[ViewSource]) -> list[PackageWarning]:
    """Warn of folders of views beside those that the package is read from; none when it is read from a manifest alone."""
    used = [path for source in sources if (path := source.file("reference", required=False)) is not None]
    folders = [path for path in root.iterdir() if is_view_folder(path) and any(path.glob(DEFAULT_FILES["reference"]))]
    unused = [path.name for path in folders if not any(file.is_relative_to(path) for file in used)]
    message = "the manifest does not list this view, so it was left out. List it there, or remove the folder."
    return [PackageWarning("gap.unlisted_view", f"{name}: {message}") for name in sorted(unused)] if used else []


def path_inside(root: Path, path: Path) -> Path:
    """`path` with links resolved.

    Raises:
        ValueError: It leads out of `root`.
    """
    resolved = path.resolve()
    if not resolved.is_relative_to(root):
        raise ValueError(f"{path} is outside the folder")
    return resolved


def view_sources(root: Path, manifest_name: str) -> tuple[dict[str, Any], list[ViewSource], AzimuthsBy]:
    """The manifest (empty if there is none), the locations of the views, and where their azimuths come from.

    Raises:
        ValueError: The folder is not a GAP folder, or its manifest is invalid.
    """
    path = root / manifest_name
    if path.exists() or path.is_symlink():
        path_inside(root, path)
        manifest = json.loads(file_bytes(path, MAX_MANIFEST_BYTES).decode("utf-8-sig"))
        views, by = manifest_views(manifest)
        only, stated = len(views) == 1, by != "order"
        return manifest, [ViewSource(root, members, azimuth, only, stated) for azimuth, members in views], by
    folders = sorted(path.name for path in root.iterdir() if VIEW.fullmatch(path.name) and path.is_dir())
    if folders:
        return {}, [ViewSource(root, {"folder": name}, parse_degrees(name), only=False) for name in folders], "degrees"
    if not (root / "canonical").is_dir():
        raise ValueError(f"there is no {MANIFEST_NAME}, no folder view_<degrees> and no folder canonical")
    named = VIEW.fullmatch(root.name) is not None
    source = ViewSource(root, {"folder": "."}, parse_degrees(root.name) if named else 0.0, only=True, stated=named)
    return {}, [source], "degrees" if named else "order"


def identity_in(data: bytes) -> NDArray[np.float32]:
    """Decode an identity embedding, [517], from JSON, NumPy's or torch's format."""
    if data.removeprefix(codecs.BOM_UTF8).lstrip().startswith(b"["):
        values = np.asarray(parsed_json(data), np.float32)
    elif data.startswith(b"\x93NUMPY"):
        values = np.load(io.BytesIO(data), allow_pickle=False).astype(np.float32)
    else:
        values = tensor_in(data)
    if values.size != IDENTITY_SIZE:
        raise ValueError(f"the identity embedding has shape {values.shape}, not ({IDENTITY_SIZE},)")
    if not np.isfinite(values).all():
        raise ValueError("the identity embedding holds numbers that are not finite")
    return values.reshape(IDENTITY_SIZE)


def tensor_in(data: bytes) -> NDArray[np.float32]:
    """Load a tensor that torch saved on any device, without running code in it."""
    import torch

    try:
        if zipfile.is_zipfile(io.BytesIO(data)):
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                if sum(member.file_size for member in archive.infolist()) > MAX_FILE_BYTES:
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


def data_of(source: ViewSource, role: str) -> bytes:
    """Return the content of a part that a view must have.

    Raises:
        ValueError: It is missing.
    """
    data = source.data(role)
    if data is None:
        raise ValueError(f"view {source.azimuth_deg:g} has no {role}")
    return data
