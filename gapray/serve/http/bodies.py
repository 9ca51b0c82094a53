"""Reads request bodies (forms or JSON) into fields, and checks them."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

from starlette.requests import Request

from gapray.errors import InputError
from gapray.serve.http.arriving import read_limited
from gapray.serve.http.fields import EMPTY, FILE_FIELDS, Body, refuse_repeated, rename_aliases
from gapray.serve.http.forms import read_multipart, read_urlencoded
from gapray.serve.http.places import run_per_key
from gapray.serve.incoming import MAX_IGNORED
from gapray.serve.settings import Limits
from gapray.serve.text import (
    MAX_VALUES,
    escaped,
    refuse_long,
    refuse_many_values,
    refuse_nested,
    refuse_unusable,
    strict_json,
)


async def read_body(request: Request, limits: Limits) -> Body:
    """Read the fields of a multipart, URL-encoded or JSON request.

    The members of `extra_body`, in which SGLang's clients send fields that OpenAI's SDK does not know, become fields of their own.

    Raises:
        InputError: `request.invalid`, `request.unsupported_media` or `request.too_large`.
    """
    _refuse_encoded(request)
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind in ("multipart/form-data", "application/x-www-form-urlencoded"):
        body = await (read_multipart if kind.startswith("multipart/") else read_urlencoded)(request, limits)
        await run_per_key(request, _refuse_unusable_fields, body)
    elif kind in ("application/json", "text/json") or kind.endswith("+json"):
        body = Body(tuple((await read_json(request, limits)).items()))
    else:
        raise InputError("request.unsupported_media", f"content type {kind[:80] or 'none'!r}; send multipart or JSON")
    refuse_unknown_query(request)
    if any(name == "extra_body" for name, _ in body.fields):
        body = await run_per_key(request, _with_extra_body, body)
    body = Body(tuple(rename_aliases(body.fields)))
    refuse_long_texts(body.fields, exempt=FILE_FIELDS)
    return refuse_repeated(body)


def refuse_unknown_query(request: Request) -> None:
    """Refuse query parameters that the endpoint does not define, because they would have no effect.

    Raises:
        InputError: `request.invalid`, naming them.
    """
    known = {parameter.alias for parameter in request.scope["route"].dependant.query_params}
    unknown = sorted(set(request.query_params) - known)
    if unknown:
        shown = ", ".join(escaped(name[:60]) for name in unknown[:MAX_IGNORED])
        advice = "" if request.method in ("GET", "HEAD") else "; send them in the body"
        raise InputError("request.invalid", f"query parameters that are not taken here: {shown}{advice}")


def refuse_long_texts(fields: Iterable[tuple[str, Any]], *, exempt: Collection[str]) -> None:
    """Refuse texts of more than `MAX_TEXT_LENGTH` characters, except in fields that may hold images.

    Raises:
        InputError: `request.invalid`, naming the field.
    """
    for name, value in fields:
        if name.partition("[")[0] not in exempt:
            refuse_long(name, value)


def _refuse_encoded(request: Request) -> None:
    """Refuse a compressed body, which could expand to any size."""
    encoding = request.headers.get("content-encoding", "").strip().lower()
    if encoding not in ("", "identity"):
        raise InputError("request.unsupported_media", f"the body is encoded as {encoding[:40]!r}; send it as it is")


def _refuse_unusable_fields(body: Body) -> None:
    for name, value in body.fields:
        refuse_unusable(name, value)


async def read_json(request: Request, limits: Limits) -> dict[str, Any]:
    """Read a JSON object. It is parsed and checked off the event loop, because both can take long.

    Raises:
        InputError: `request.invalid` or `request.too_large`.
    """
    _refuse_encoded(request)
    data = await read_limited(request, "JSON", limits.json_bytes, limits.json_values)
    members: dict[str, Any] = await run_per_key(request, _parse_object, data)
    return members


def _parse_object(data: bytearray) -> dict[str, Any]:
    """Parse and check a JSON object."""
    try:
        value = strict_json(data or b"{}")
    except (ValueError, RecursionError) as error:
        raise InputError("request.invalid", f"the body is no JSON: {str(error)[:200]}") from error
    if not isinstance(value, dict):
        raise InputError("request.invalid", "the body must be a JSON object")
    refuse_nested("the body", value)
    for name, member in value.items():
        refuse_unusable(name, member)
    return value


def _with_extra_body(body: Body) -> Body:
    """Replace `extra_body`, an object or the JSON text of one, by its members.

    Raises:
        InputError: `request.invalid` if it is anything else.
    """
    fields: list[tuple[str, Any]] = []
    for name, value in body.fields:
        if name != "extra_body":
            fields.append((name, value))
        elif value not in EMPTY:
            fields += _object_in(name, value).items()
    return Body(tuple(fields))


def _object_in(name: str, value: Any) -> dict[str, Any]:
    """Return the JSON object in a field's value, which may be its text."""
    if isinstance(value, str):
        try:
            refuse_many_values(name, value.encode(errors="replace"), MAX_VALUES)
            value = strict_json(value)
        except (ValueError, RecursionError) as error:
            raise InputError("request.invalid", f"{name} is no JSON: {str(error)[:200]}") from error
        refuse_nested(name, value)
        refuse_unusable(name, value)
    if not isinstance(value, dict):
        raise InputError("request.invalid", f"{name} must be a JSON object")
    return value
