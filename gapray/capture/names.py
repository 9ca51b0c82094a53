"""File names of exported views, from a template."""

from __future__ import annotations

import re
from string import Formatter

from gapray.capture.azimuths import turned
from gapray.errors import ConfigError

TEMPLATES = {
    "degrees": "{sku}_{deg:03d}",
    "index": "{sku}_{index:02d}",
    # GS1 Product Image Specification: 14 digits of GTIN, type (C = high resolution), facing, N = no plunge angle, 1 = in its pack.
    "gs1": "{gtin}_C{facing}N1",
}
"""Named templates; any other text with the same fields is one too."""
FIELDS = frozenset({"sku", "gtin", "deg", "index", "facing"})
FACINGS = {0: 1, 90: 8, 180: 7, 270: 2}
"""Azimuth -> GS1's facing: 1 front, 8 right, 7 back, 2 left, as one who looks at the front calls them."""
FACING_TOLERANCE_DEG = 10.0
"""GS1 has no code for a view between two facings."""


def view_name(template: str, product_id: str, azimuth_deg: float, index: int) -> str | None:
    """The name of one view, without its ending.

    Args:
        template: A key of `TEMPLATES`, or a text with fields of `FIELDS` as in `str.format`.
        product_id: The product's; for `gtin` it must be 8, 12, 13 or 14 digits.
        azimuth_deg: The view's.
        index: Its place in the turn, from 0.

    Returns:
        None where the template names a facing and the view shows none.

    Raises:
        ConfigError: `config.invalid`.
    """
    text = TEMPLATES.get(template, template)
    try:
        fields = {name for _, name, _, _ in Formatter().parse(text) if name is not None}
    except ValueError as error:
        raise ConfigError("config.invalid", f"--names {template!r}: {error}") from error
    if unknown := fields - FIELDS:
        raise ConfigError(
            "config.invalid", f"--names {template!r}: there is no field {sorted(unknown)[0]!r}; {sorted(FIELDS)}"
        )
    if not fields & {"deg", "index", "facing"}:
        raise ConfigError("config.invalid", f"--names {template!r} gives all views one name")
    values: dict[str, object] = {"sku": product_id, "deg": round(azimuth_deg) % 360, "index": index}
    if "gtin" in fields:
        if re.fullmatch(r"\d{8}|\d{12,14}", product_id) is None:
            raise ConfigError("config.invalid", f"--names {template!r}: {product_id!r} is no GTIN")
        values["gtin"] = product_id.zfill(14)
    if "facing" in fields:
        facing = next(
            (code for at, code in FACINGS.items() if abs(turned(azimuth_deg, float(at))) <= FACING_TOLERANCE_DEG), None
        )
        if facing is None:
            return None
        values["facing"] = facing
    try:
        name = text.format(**values)
    except (ValueError, IndexError, KeyError) as error:
        raise ConfigError("config.invalid", f"--names {template!r}: {error}") from error
    if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._°-]*", name) is None:
        raise ConfigError("config.invalid", f"--names {template!r} makes {name!r}, which is no plain file name")
    return name
