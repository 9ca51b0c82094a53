"""The fields of a request, and their names in the APIs that are served."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from gapray.errors import InputError
from gapray.serve.incoming import PHOTO_FIELDS
from gapray.serve.jobs import GenerationParams, StillParams
from gapray.serve.text import MAX_TEXT_LENGTH

FIELD_ALIASES = {
    "num_frames": "frames",
    "num_inference_steps": "steps",
    "guidance_scale": "guidance",
    "controlnet_scale": "control_scale",
    "reference_strength": "ip_scale",
    "output_format": "format",
    "controlnet_conditioning_scale": "control_scale",
    "ip_adapter_scale": "ip_scale",
}
"""Field names of vLLM-Omni and of the prototype -> fields of `GenerationParams`."""
PARAM_FIELDS = frozenset(GenerationParams.model_fields) - {"still"}
AZIMUTH_FIELDS = frozenset(
    {"azimuths", "azimuths_deg", "front", "allow_missing", "direction", "names", "closing_frame"}
)
STILL_ALIASES = {"n": "count", "output_compression": "quality"}
"""Field names of the Images API -> fields of `StillParams`."""
SINGLE_VALUE_FIELDS = (
    PARAM_FIELDS
    | frozenset(StillParams.model_fields)
    | frozenset(STILL_ALIASES)
    | (AZIMUTH_FIELDS - {"azimuths", "azimuths_deg"})
    | {"size", "model", "webhook", "webhook_url", "package"}
)
"""Fields that may have one value only."""
EMPTY: tuple[Any, ...] = (None, "", [])
"""Values that mean that a field was not sent."""
FILE_FIELDS = PHOTO_FIELDS | {"video"}


@dataclass(frozen=True)
class Body:
    """The fields of a request."""

    fields: tuple[tuple[str, Any], ...]
    """Names and values in their order. A value is a (file name, bytes) pair, a text, or JSON data."""

    def last(self, *names: str) -> Any:
        """Return the last non-empty value of any of these fields; None if there is none."""
        values = [value for name, value in self.fields if name in names and value not in (None, "")]
        return values[-1] if values else None

    def text(self, *names: str) -> str | None:
        """Return the last non-empty value of any of these fields, which must be text; None if there is none.

        Raises:
            InputError: `request.invalid` if it is not text.
        """
        value = self.last(*names)
        if value is not None and not isinstance(value, str):
            raise InputError("request.invalid", f"{names[0]} must be text")
        return value

    def digest(self, *target: str) -> str:
        """Return a hash of the whole request, which tells apart two requests with the same idempotency key.

        Args:
            target: What was requested besides the fields: the API, and the kind of job.
        """
        total = hashlib.sha256()
        for part in [list(target), *([name, *_hashable(value)] for name, value in self.fields)]:
            # JSON delimits the parts, so that different lists never give the same text.
            total.update(json.dumps(part, sort_keys=True).encode() + b"\n")
        return total.hexdigest()


def _hashable(value: Any) -> tuple[Any, ...]:
    """Return a field's value as JSON data: for a file its name, which may state the angle, and the hash of its bytes."""
    if isinstance(value, tuple):
        return ("file", value[0], hashlib.sha256(value[1]).hexdigest())
    return ("value", _with_hashes(value))


def _with_hashes(value: Any) -> Any:
    """Replace long texts in JSON data (images) by their hashes: hashing lets other threads run, writing JSON does not."""
    if isinstance(value, str) and len(value) > MAX_TEXT_LENGTH:
        return hashlib.sha256(value.encode()).hexdigest()
    if isinstance(value, list):
        return [_with_hashes(item) for item in value]
    return {name: _with_hashes(item) for name, item in value.items()} if isinstance(value, dict) else value


def refuse_repeated(body: Body) -> Body:
    """Return the body if no single-valued field has two different values.

    Raises:
        InputError: `request.invalid`, naming the field.
    """
    first_values: dict[str, Any] = {}
    for name, value in body.fields:
        if name in SINGLE_VALUE_FIELDS and value not in (None, "") and first_values.setdefault(name, value) != value:
            raise InputError("request.invalid", f"{name[:60]} comes twice, with different values")
    return body


def rename_aliases(items: Iterable[tuple[str, Any]]) -> Iterable[tuple[str, Any]]:
    """Replace the names that other APIs use for fields of `GenerationParams`."""
    for name, value in items:
        yield FIELD_ALIASES.get(name, name), value
