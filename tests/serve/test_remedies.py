"""Remedies in HTTP answers are things that a caller over HTTP can do."""

import pytest

from gapray.errors import REMEDIES
from gapray.serve.remedies import remedy_of

ASKED = (
    "image.",
    "mask.",
    "azimuth.",
    "orbit.",
    "video.",
    "scene.",
    "score.",
    "request.",
    "url.",
    "job.",
    "rate.",
    "queue.",
)
"""Prefixes of error codes that a request to any server can cause."""
OPERATORS = {"request.host_refused", "request.origin_refused"}
"""Codes that only occur on servers without keys, and concern the operator."""


@pytest.mark.parametrize("code", [code for code in REMEDIES if code.startswith(ASKED) and code not in OPERATORS])
def test_no_remedy_of_a_request_names_a_flag_or_a_command(code):
    remedy = remedy_of(code)
    assert remedy and "--" not in remedy and "`gapray" not in remedy


@pytest.mark.parametrize(
    "code", ["capture.missing_views", "capture.ambiguous_azimuths", "capture.no_photos", "capture.unfinished"]
)
def test_remedies_speak_of_sending_photos(code):
    remedy = remedy_of(code)
    assert remedy and "--" not in remedy and "folder" not in remedy and "capture.csv" not in remedy


def test_unknown_codes_have_no_remedy():
    assert remedy_of(None) is None and remedy_of("no.such_code") is None
