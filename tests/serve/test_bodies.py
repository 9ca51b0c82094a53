"""Fields of a request as clients write them."""

import pytest

from gapray.errors import InputError
from gapray.serve.http.bodies import Body, parse_azimuths

EIGHT = [45.0 * step for step in range(8)]
WRITTEN = {
    "a list of numbers": [("azimuths", EIGHT)],
    "a list as text": [("azimuths", "[0, 45, 90, 135, 180, 225, 270, 315]")],
    "numbers with commas": [("azimuths", "0, 45, 90, 135, 180, 225, 270, 315")],
    "repeated": [("azimuths[]", f"{angle:g}") for angle in EIGHT],
    "with degree signs": [("azimuths", [f"{angle:g}°" for angle in EIGHT])],
    "with degree signs and commas": [("azimuths", "0°,45°,90°,135°,180°,225°,270°,315°")],
    "with a unit": [("azimuths_deg", [f"{angle:g} deg" for angle in EIGHT])],
    "from -135 to 180": [("azimuths", "0,45,90,135,180,\N{MINUS SIGN}135,-90,-45")],
}


@pytest.mark.parametrize("way", WRITTEN)
def test_ways_to_write_azimuths(way):
    assert parse_azimuths(Body(tuple(WRITTEN[way]))) == EIGHT


@pytest.mark.parametrize("value", ["0,45,x", "0;45", [True], [None], "1e999", [[0, 45]], "nan", "[[0]"])
def test_what_is_no_azimuth_is_refused(value):
    with pytest.raises(InputError, match="must be numbers of degrees"):
        parse_azimuths(Body((("azimuths", value),)))
