"""Parses the fields of a request into parameters."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence, Set
from types import MappingProxyType
from typing import Any, cast

from pydantic import ValidationError

from gapray.capture.azimuths import AzimuthOptions
from gapray.errors import InputError
from gapray.serve.http.fields import AZIMUTH_FIELDS, EMPTY, PARAM_FIELDS, STILL_ALIASES, Body
from gapray.serve.incoming import MAX_IGNORED, PHOTO_FIELDS, fields_in_order
from gapray.serve.jobs import GenerationParams, StillParams
from gapray.serve.text import parse_number

_AZIMUTH_LISTS = ("azimuths", "azimuths_deg")
_SIZE = re.compile(r"([0-9]{1,6})[xX]([0-9]{1,6})")


def parse_params(body: Body, *, product_id: str | None = None) -> GenerationParams:
    """Validate the generation parameters of a request.

    Args:
        body: The request's fields.
        product_id: Default product id.

    Raises:
        InputError: `request.invalid`, naming the field, or `capture.invalid_product_id`.
    """
    values: dict[str, Any] = {
        name: value
        for name, value in body.fields
        if name in PARAM_FIELDS and value not in (None, "") and not isinstance(value, tuple)
    }
    sides = _parse_size(body)
    if product_id is not None:
        values.setdefault("product_id", product_id)
    try:
        params = GenerationParams.model_validate(values)
        for name, side in sides.items():
            if getattr(params, name) not in (None, side):
                raise InputError("request.invalid", f"{name} is {getattr(params, name)}, and size says {side}")
        params = GenerationParams.model_validate(values | sides)
    except ValidationError as error:
        raise _invalid_field(error) from error
    from gapray.capture.discover import PRODUCT_ID

    if PRODUCT_ID.fullmatch(params.product_id) is None:
        raise InputError("capture.invalid_product_id", f"{params.product_id[:80]!r} cannot be a product id")
    return params


def _parse_size(body: Body) -> dict[str, int]:
    """Parse ``size`` into `width` and `height`; empty if the request states none."""
    size = body.text("size")
    if not size or size == "auto":
        return {}
    sides = _SIZE.fullmatch(size)
    if sides is None:
        raise InputError("request.invalid", f"size {size[:40]!r} is not of the form 512x512")
    return {"width": int(sides[1]), "height": int(sides[2])}


def parse_still_params(body: Body) -> StillParams:
    """Validate the parameters that only stills have.

    Raises:
        InputError: `request.invalid`, naming the field.
    """
    renamed = [(STILL_ALIASES.get(name, name), value) for name, value in body.fields]
    values = {
        name: value for name, value in renamed if name in StillParams.model_fields and value not in (None, "", "auto")
    }
    try:
        return StillParams.model_validate(values)
    except ValidationError as error:
        client_names = {field: name for name, field in STILL_ALIASES.items() if body.last(name) is not None}
        raise _invalid_field(error, client_names) from error


def _invalid_field(error: ValidationError, client_names: Mapping[str, str] = MappingProxyType({})) -> InputError:
    """Return an error for the first invalid field, under the client's name for it (`client_names`: field -> name)."""
    first = error.errors()[0]
    name = str(first["loc"][0]) if first["loc"] else "body"
    return InputError("request.invalid", f"{client_names.get(name, name)}: {first['msg']}")


def parse_azimuths(body: Body) -> list[float] | None:
    """Parse ``azimuths``: a repeated field, a JSON list, or numbers separated by commas, semicolons or blanks.

    Returns:
        Azimuths in [0, 360) [degrees]; None if the request states none.

    Raises:
        InputError: `request.invalid`.
    """
    values: list[Any] = []
    for name in _AZIMUTH_LISTS:
        sent = [value for _, value in fields_in_order(body.fields, (name,))]
        values += sent if any(value not in EMPTY for value in sent) else []
    if not values:
        return None
    try:
        flat: list[Any] = []
        for value in values:
            parsed = json.loads(value) if isinstance(value, str) and value.strip().startswith("[") else value
            flat += parsed if isinstance(parsed, list) else _split_numbers(str(parsed))
        azimuths = [parse_number(value) for value in flat]
    except (ValueError, TypeError, RecursionError, OverflowError) as error:
        raise InputError("request.invalid", "azimuths must be numbers of degrees") from error
    if not all(abs(azimuth) < 1e6 for azimuth in azimuths):
        raise InputError("request.invalid", "azimuths must be numbers of degrees")
    return [azimuth % 360.0 for azimuth in azimuths]


def _split_numbers(text: str) -> list[str]:
    """Split numbers at semicolons, else at commas, else at blanks; blanks before a unit, as in ``45 deg``, separate nothing."""
    separator = next((mark for mark in ";," if mark in text), None)
    return text.split(separator) if separator else re.split(r"\s+(?=[-+\N{MINUS SIGN}\d])", text.strip())


def parse_azimuth_options(body: Body) -> AzimuthOptions:
    """Parse the options for reading azimuths: direction, front photo, missing views, and the meaning of file names.

    Raises:
        InputError: `request.invalid`.
    """
    direction = _choice(body, "direction", ("ccw", "cw"))
    front = body.last("front")
    try:
        front = 0 if front is None else int(front if isinstance(front, str) else parse_number(front))
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError("request.invalid", "front must be a whole number") from error
    missing = str(body.last("allow_missing") or "").lower() in ("1", "true", "yes")
    return AzimuthOptions(
        direction="cw" if direction == "cw" else "ccw",
        front=front,
        allow_missing=missing,
        names=cast("Any", _choice(body, "names", ("auto", "degrees", "index", "order"))),
        closing_frame=cast("Any", _choice(body, "closing_frame", ("auto", "drop", "keep"))),
    )


def _choice(body: Body, name: str, choices: tuple[str, ...]) -> str:
    """Return a field's value, which must be one of `choices` in any case; the first one if the field is missing."""
    value = (body.text(name) or choices[0]).lower()
    if value not in choices:
        raise InputError("request.invalid", f"{name} must be one of {', '.join(choices)}")
    return value


def ignored_fields(body: Body, known: Sequence[str], *, params: Set[str] = PARAM_FIELDS | {"size"}) -> list[str]:
    """Return the fields that have no effect; answers name them, so that misspelt fields are noticed.

    Args:
        body: The request's fields.
        known: Fields that have an effect, besides photos, azimuths and `params`.
        params: Fields of `GenerationParams` that have an effect on the requested job.
    """
    listed = PHOTO_FIELDS.union(_AZIMUTH_LISTS)  # only these may come with brackets
    names = {name for name, _ in body.fields if name.partition("[")[0] not in listed}
    effective = params | AZIMUTH_FIELDS | set(known)
    return sorted(name[:60] for name in names - effective)[:MAX_IGNORED]
