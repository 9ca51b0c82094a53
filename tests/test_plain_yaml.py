"""YAML that people write is read as they mean it, or refused with the name of the setting."""

import pytest

from gapray.errors import ConfigError
from gapray.plain_yaml import parse_mapping, parse_yaml, read_mapping


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("orbit: {frames: 8}\nmask: {}\norbit: {size: 64}", "orbit is there twice, in line 1 and 3"),
        ("orbit:\n  frames: 8\n  'frames': 9", "orbit.frames is there twice"),
        ("a: [1, {x: 1, x: 1}]", "a.1.x is there twice"),
        ("b: &b {k: 1}\n<<: *b\n<<: *b", "<< is there twice"),
        ("orbit: {frames: 010}", "orbit.frames: 010 is no plain number"),
        ("orbit: {size: 1_28}", "orbit.size: 1_28 is no plain number"),
        ("a: {b: 1:30}", "a.b: 1:30 is no plain number"),
        ("a: 1:30.5", "a: 1:30.5 is no plain number"),
        ("a: 0x1F", "a: 0x1F is no plain number"),
        ("a: 0b11", "a: 0b11 is no plain number"),
        ("a: 1_0.5", "a: 1_0.5 is no plain number"),
        ("a: 2026-01-02", "a: 2026-01-02 is no plain number"),
        ("a: !!int '010'", "a: 010 is no plain number"),
        ("a: !!bool maybe", "a: maybe is no plain number"),
        ("orbit.frames: 8", "write orbit.frames nested, as orbit: {frames: …}"),
        ("orbit: {frames: 8", "is no YAML"),
        ("a: 1\n---\nb: 2", "another document in line 2"),
        ("[a]", "holds no mapping"),
        ("{[a]: 2}", "a key in line 1 is no text"),
        ("[" * 3000, "is no YAML"),
        ("a: " + "9" * 5000, "is no YAML"),
    ],
)
def test_what_yaml_would_lose_or_read_otherwise_is_refused(text, named):
    with pytest.raises(ConfigError) as error:
        parse_mapping(text, "c.yaml")
    assert error.value.code == "config.invalid"
    assert error.value.message.startswith("c.yaml") and named in error.value.message


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *(("10", 10), ("-5", -5), ("0", 0), ("0.5", 0.5), ("1.0e+3", 1000.0), ("~", None), ("", None)),
        *(("on", "on"), ("no", "no"), ("Yes", "Yes"), ("true", True), ("FALSE", False), ("trueish", "trueish")),
        *(('"010"', "010"), ("'1:30'", "1:30"), ("#fff", None), ("u2net", "u2net"), ("[1, a]", [1, "a"])),
        ("x: &a {k: 1}\ny: {<<: *a, k: 2}", {"x": {"k": 1}, "y": {"k": 2}}),
    ],
)
def test_plain_values(text, value):
    assert parse_yaml(text, "x") == value and type(parse_yaml(text, "x")) is type(value)


def test_aliases_are_checked_once():
    lines = ["a0: &a0 [x]"] + [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 30)]
    assert len(parse_mapping("\n".join(lines), "x")) == 30
    own = parse_mapping("a: &a [*a]", "x")["a"]
    assert own[0] is own


def test_a_file_is_read_as_utf_8(tmp_path):
    (tmp_path / "a.yaml").write_bytes("a: Kännchen".encode())
    (tmp_path / "b.yaml").write_bytes("a: Kännchen".encode("latin-1"))
    assert read_mapping(tmp_path / "a.yaml") == {"a": "Kännchen"}
    for name in ("b.yaml", "none.yaml"):
        with pytest.raises(ConfigError, match=f"cannot read .*{name}"):
            read_mapping(tmp_path / name)
