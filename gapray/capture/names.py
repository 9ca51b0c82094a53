"""File names of exported views, from a template."""

from __future__ import annotations

import re
from string import Formatter

from gapray.capture.angles import angle_difference
from gapray.errors import ConfigError

TEMPLATES = {
    "degrees": "{sku}_{deg:03d}",
    "index": "{sku}_{index:02d}",
    # GS1 Product Image Specification: 14 digits of GTIN, type (C = high resolution), facing, N = no plunge angle, 1 = in its pack.
    "gs1": "{gtin}_C{facing}N1",
}
"""Built-in templates by name; any other format string with the same fields is a template too."""
FIELDS = frozenset({"sku", "gtin", "deg", "index", "facing"})
FACINGS = {0: 1, 90: 8, 180: 7, 270: 2}
"""Azimuth [degrees] -> GS1 facing code: 1 front, 8 right, 7 back, 2 left, as seen by a viewer facing the front."""
FACING_TOLERANCE_DEG = 10.0
"""Largest distance of a view from its facing; GS1 has no codes for views in between."""


def view_name(template: str, product_id: str, azimuth_deg: float, index: int) -> str | None:
    """The file name of one view, without its extension.

    Args:
        template: A key of `TEMPLATES`, or a `str.format` string with fields of `FIELDS`.
        product_id: The product's id; for the field `gtin` it must have 8, 12, 13 or 14 digits.
        azimuth_deg: The view's azimuth.
        index: The view's position in the turn, from 0.

    Returns:
        The name; None if the template needs a facing and the view shows none.

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
            raise ConfigError("config.invalid", f"--names {template!r}: {product_id!r} is not a GTIN")
        values["gtin"] = product_id.zfill(14)
    if "facing" in fields:
        facing = next(
            (
                code
                for at, code in FACINGS.items()
                if abs(angle_difference(azimuth_deg, float(at))) <= FACING_TOLERANCE_DEG
            ),
            None,
        )
        if facing is None:
            return None
        values["facing"] = facing
    try:
        name = text.format(**values)
    except (ValueError, IndexError, KeyError) as error:
        raise ConfigError("config.invalid", f"--names {template!r}: {error}") from error
    if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._°-]*", name) is None:
        raise ConfigError("config.invalid", f"--names {template!r} gives {name!r}, which is not a plain file name")
    return name
