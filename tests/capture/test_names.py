"""Names of exported views."""

import pytest

from gapray.capture.names import view_name
from gapray.errors import ConfigError


@pytest.mark.parametrize(
    ("template", "product", "azimuth", "name"),
    [
        ("degrees", "mug", 45.2, "mug_045"),
        ("degrees", "mug", 359.8, "mug_000"),
        ("index", "mug", 90.0, "mug_02"),
        ("gs1", "4006381333931", 0.0, "04006381333931_C1N1"),
        ("gs1", "4006381333931", 91.0, "04006381333931_C8N1"),
        ("gs1", "4006381333931", 180.0, "04006381333931_C7N1"),
        ("gs1", "4006381333931", 270.0, "04006381333931_C2N1"),
        ("gs1", "4006381333931", 45.0, None),
        ("{sku}-{index:03d}-{deg}", "mug", 90.0, "mug-002-90"),
    ],
)
def test_names(template, product, azimuth, name):
    assert view_name(template, product, azimuth, 2) == name


@pytest.mark.parametrize(
    ("template", "product"),
    [
        ("{sku}", "mug"),
        ("{nothing}_{deg}", "mug"),
        ("{deg", "mug"),
        ("gs1", "mug"),
        ("../{sku}_{deg}", "mug"),
        ("{sku}/{deg}", "mug"),
        ("{deg:q}", "mug"),
        ("{deg.real}", "mug"),
        ("", "mug"),
    ],
)
def test_templates_that_make_no_file_name(template, product):
    with pytest.raises(ConfigError) as error:
        view_name(template, product, 45.0, 1)
    assert error.value.code == "config.invalid"
