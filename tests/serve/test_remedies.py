"""What callers over HTTP are told to do, they can do."""

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
"""Kinds of errors that a request can meet, whoever runs the server."""
OPERATORS = {"request.host_refused", "request.origin_refused"}
"""Met on a server without keys alone, by whoever runs it."""


@pytest.mark.parametrize("code", [code for code in REMEDIES if code.startswith(ASKED) and code not in OPERATORS])
def test_no_remedy_of_a_request_names_a_flag_or_a_command(code):
    told = remedy_of(code)
    assert told and "--" not in told and "`gapray" not in told


@pytest.mark.parametrize("code", ["capture.missing_views", "capture.ambiguous_azimuths", "capture.no_photos"])
def test_photos_are_sent_not_laid_into_folders(code):
    told = remedy_of(code)
    assert told and "--" not in told and "folder" not in told and "capture.csv" not in told


def test_what_has_no_remedy_has_none():
    assert remedy_of(None) is None and remedy_of("no.such_code") is None
