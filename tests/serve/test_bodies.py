"""Fields of a request as clients write them."""

import pytest

from gapray.errors import InputError
from gapray.serve.http.fields import Body
from gapray.serve.http.params import parse_azimuth_options, parse_azimuths, parse_params

EIGHT = [45.0 * step for step in range(8)]
WRITTEN = {
    "a list of numbers": [("azimuths", EIGHT)],
    "a list as text": [("azimuths", "[0, 45, 90, 135, 180, 225, 270, 315]")],
    "numbers with commas": [("azimuths", "0, 45, 90, 135, 180, 225, 270, 315")],
    "repeated": [("azimuths[]", f"{angle:g}") for angle in EIGHT],
    "with degree signs": [("azimuths", [f"{angle:g}°" for angle in EIGHT])],
    "with degree signs and commas": [("azimuths", "0°,45°,90°,135°,180°,225°,270°,315°")],
    "with a unit": [("azimuths_deg", [f"{angle:g} deg" for angle in EIGHT])],
    "numbers with semicolons": [("azimuths", "0;45;90;135;180;225;270;315")],
    "semicolons and decimal commas": [("azimuths", "0,0; 45,0; 90,0; 135,0; 180,0; 225,0; 270,0; 315,0")],
    "numbers with blanks": [("azimuths", "0 45  90 135 180 225 270\t315")],
    "with units and blanks": [("azimuths", "0 deg 45 deg 90 deg 135 deg 180 deg 225 deg 270 deg 315 deg")],
    "with indices, not in order": [(f"azimuths[{step}]", str(45 * step)) for step in (7, 0, 1, 3, 2, 4, 6, 5)],
    "beside another name without a value": [("azimuths", None), ("azimuths_deg", EIGHT)],
    "from -135 to 180": [("azimuths", "0,45,90,135,180,\N{MINUS SIGN}135,-90,-45")],
}


@pytest.mark.parametrize("way", WRITTEN)
def test_ways_to_write_azimuths(way):
    assert parse_azimuths(Body(tuple(WRITTEN[way]))) == EIGHT


@pytest.mark.parametrize(
    "value", ["0,45,x", "0;45,90,135", ["0;45"], [True], [None], "1e999", [[0, 45]], "nan", "[[0]"]
)
def test_what_is_no_azimuth_is_refused(value):
    with pytest.raises(InputError, match="must be numbers of degrees"):
        parse_azimuths(Body((("azimuths", value),)))


@pytest.mark.parametrize("value", [None, "", []])
def test_azimuths_without_a_value_are_as_if_not_sent(value):
    assert parse_azimuths(Body((("azimuths", value),))) is None


def test_choices_in_any_case():
    sent = Body((("direction", "CW"), ("names", "Order"), ("format", "MP4")))
    options = parse_azimuth_options(sent)
    assert (options.direction, options.names, parse_params(sent).format) == ("cw", "order", "mp4")


@pytest.mark.parametrize(
    ("sent", "size"),
    [
        ({"size": "512x384"}, (512, 384)),
        ({"size": "512x384", "width": "512", "height": 384.0}, (512, 384)),
        ({"size": "auto", "width": 640, "height": 480}, (640, 480)),
        ({"size": "512x512", "width": 640}, None),
        ({"size": "512x512", "width": 512, "height": "480"}, None),
    ],
)
def test_size_and_sides_must_agree(sent, size):
    body = Body(tuple(sent.items()))
    if size is None:
        with pytest.raises(InputError, match=r"(width|height) is \d+, and size says 512"):
            parse_params(body)
    else:
        params = parse_params(body)
        assert (params.width, params.height) == size
