"""Names and limits of the files in a GAP folder."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from gapray.capture.discover import PRODUCT_ID
from gapray.capture.settings import DecodeSettings
from gapray.capture.storage import read_bytes
from gapray.gap.manifest import VIEW

MANIFEST_NAME = "multiview_manifest.json"
LAYOUT_VERSION = "1.0"
INLINE = ("reference", "depth", "mask", "depth16", "canny", "identity", "metadata")
"""Roles whose files an inline manifest holds as ``<role>_b64``. The prototype's handler reads the first three."""
MAX_FILE_BYTES = 64 * 2**20
MAX_MANIFEST_BYTES = 512 * 2**20
FILE_LIMITS = DecodeSettings(min_side=16, reference_side=4096, max_pixels=4096 * 4096)
DEFAULT_FILES = {
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


def is_view_folder(path: Path) -> bool:
    """Whether a path is the folder of a view, and no link to one."""
    return VIEW.fullmatch(path.name) is not None and path.is_dir() and not path.is_symlink()


def parsed_json(data: bytes) -> Any:
    """Parse JSON in UTF-8, with or without a byte order mark.

    Raises:
        ValueError: It is not JSON.
    """
    return json.loads(data.decode("utf-8-sig"))


def file_bytes(path: Path, max_bytes: int = MAX_FILE_BYTES) -> bytes:
    """Read a regular file of at most `max_bytes`.

    Raises:
        ValueError: It is no regular file, or larger.
        OSError: It cannot be read.
    """
    if not path.is_file():
        raise ValueError(f"{path.name} is not a regular file")  # a pipe would never end
    return read_bytes(str(path), max_bytes)


def product_id_in(*names: Any) -> str:
    """The first name that can be a product id, with blanks and other special characters replaced by dashes.

    Raises:
        ValueError: None of them can be one.
    """
    for name in names:
        identifier = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-._")[:128] if isinstance(name, str) else ""
        if PRODUCT_ID.fullmatch(identifier):
            return identifier
    raise ValueError("nothing names the product")
