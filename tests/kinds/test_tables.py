"""Tables x dialects: what spreadsheets, shops and scripts write is read, or refused in words; never half."""

import contextlib
import itertools
import unicodedata
import zipfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gapray.capture.capture_set import Reject
from gapray.capture.discover import scan
from gapray.capture.tables import matched, number, rows_of, texts
from gapray.errors import InputError
from gapray.report.approval import read_decisions
from tests.make import write_product

ANGLES = [45.0 * step + 2.5 * (step % 2) for step in range(8)]
DELIMITERS = {"comma": ",", "semicolon": ";", "tab": "\t", "bar": "|"}
ENCODINGS = {
    "UTF-8": "utf-8",
    "UTF-8 with BOM": "utf-8-sig",
    "UTF-16 with BOM": "utf-16",
    "UTF-16LE": "utf-16-le",
    "UTF-16BE": "utf-16-be",
    "Windows": "cp1252",
    "old Macintosh": "mac_roman",
    "DOS": "cp850",
}
LINE_ENDS = {"LF": "\n", "CRLF": "\r\n", "CR": "\r"}
HEADERS = {
    "plain": ("file", "azimuth"),
    "capitals and spaces": ("File ", " AZIMUTH"),
    "in quotes": ('"File Name"', '"Azimuth"'),
    "with a unit": ("file", "Azimuth [deg]"),
    "as JSON has it": ("file", "azimuth_deg"),
}
NAMES = {
    "composed": lambda name: unicodedata.normalize("NFC", name),
    "decomposed": lambda name: unicodedata.normalize("NFD", name),
    "other case": str.upper,
    "other case of the ending": lambda name: name.replace(".png", ".PNG"),
    "without ending": lambda name: name.removesuffix(".png"),
}
FILLINGS = {
    "nothing": lambda lines, d: lines,
    "empty rows": lambda lines, d: [lines[0], "", *lines[1:4], d, d * 3, *lines[4:], "", ""],
    "empty columns": lambda lines, d: [line + d * 2 for line in lines],
    "a title above": lambda lines, d: ["Table 1", "", *lines],
    "a line for Excel": lambda lines, d: [f"sep={d}", *lines],
    "formulas of Excel": lambda lines, d: [
        lines[0],
        *(d.join(f'="{cell.strip(chr(34))}"' for cell in line.split(d)) for line in lines[1:]),
    ],
    "cells in quotes": lambda lines, d: [
        d.join(f'"{cell.strip(chr(34))}"' for cell in line.split(d)) for line in lines
    ],
}


def written(angle, decimal):
    return f"{angle:g}".replace(".", decimal)


def lines_of(names, *, delimiter=",", header=("file", "azimuth"), decimal="."):
    quoted = decimal == delimiter
    rows = [
        (name, f'"{written(angle, decimal)}"' if quoted else written(angle, decimal))
        for name, angle in zip(names, ANGLES, strict=True)
    ]
    return [delimiter.join(row) for row in [header, *rows]]


@pytest.fixture(scope="module")
def shoot(tmp_path_factory):
    """Photos whose names say nothing about angles."""
    folder = write_product(tmp_path_factory.mktemp("shoot") / "mug", size=48)
    for index, file in enumerate(sorted(folder.iterdir())):
        file.rename(folder / unicodedata.normalize("NFC", f"Größe {'abcdefgh'[index]}.png"))
    return folder


def photos_of(folder):
    return sorted(file.name for file in folder.iterdir() if file.suffix == ".png")


def read(folder, data, name="capture.csv"):
    """Angles in the order of the photos' names, or a code."""
    for old in (one for one in folder.iterdir() if one.suffix != ".png"):
        old.unlink()
    (folder / name).write_bytes(data)
    [found] = scan(str(folder.parent))
    if isinstance(found, Reject):
        return found.code, found.message
    assert not found.ignored
    return [photo.azimuth_deg for photo in sorted(found.photos, key=lambda one: one.name)]


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("delimiter", DELIMITERS)
@pytest.mark.parametrize("ends", LINE_ENDS)
def test_delimiters_encodings_and_line_ends(shoot, delimiter, encoding, ends):
    lines = lines_of(photos_of(shoot), delimiter=DELIMITERS[delimiter])
    text = LINE_ENDS[ends].join([*lines, ""])
    assert read(shoot, text.encode(ENCODINGS[encoding])) == ANGLES


@pytest.mark.parametrize("header", HEADERS)
@pytest.mark.parametrize("delimiter", DELIMITERS)
@pytest.mark.parametrize("decimal", [".", ","])
@pytest.mark.parametrize("filling", FILLINGS)
def test_headers_decimals_and_empty_rows(shoot, header, delimiter, decimal, filling):
    d = DELIMITERS[delimiter]
    if filling in ("cells in quotes", "formulas of Excel") and d == decimal:
        pytest.skip("they are in quotes already")
    lines = FILLINGS[filling](lines_of(photos_of(shoot), delimiter=d, header=HEADERS[header], decimal=decimal), d)
    assert read(shoot, "\r\n".join(lines).encode()) == ANGLES


LANGUAGES = {
    "Japanese": ("cp932", "革靴（黒）ソ表"),  # the second byte of two of these characters is a backslash in ASCII
    "Chinese": ("gb18030", "皮鞋 黑色"),
    "Chinese of Taiwan": ("big5hkscs", "皮鞋 黑色許功"),
    "Korean": ("cp949", "구두 검정"),
    "Czech": ("cp1250", "Žlutý střevíc"),
    "Russian": ("cp1251", "Туфли чёрные"),
}
"""Language -> the encoding of its spreadsheets, and a name of a product."""


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("delimiter", DELIMITERS)
def test_encodings_of_other_languages(tmp_path, shoot, language, delimiter):
    encoding, word = LANGUAGES[language]
    names = [f"{word} {'abcdefgh'[index]}.png" for index in range(8)]
    folder = tmp_path / "shoe"
    folder.mkdir()
    for name, photo in zip(names, photos_of(shoot), strict=True):
        (folder / name).write_bytes((shoot / photo).read_bytes())
    text = "\r\n".join(lines_of(names, delimiter=DELIMITERS[delimiter]))
    assert read(folder, text.encode(encoding)) == ANGLES


@pytest.mark.parametrize(
    ("table", "disk"), itertools.product(NAMES, ["composed", "decomposed", "other case of the ending"])
)
def test_names_on_disk_and_in_the_table(tmp_path, shoot, table, disk):
    folder = tmp_path / "mug"
    folder.mkdir()
    names = photos_of(shoot)
    for name in names:
        (folder / NAMES[disk](name)).write_bytes((shoot / name).read_bytes())
    (folder / "Capture.CSV").write_text("\n".join(lines_of([NAMES[table](name) for name in names])))
    [found] = scan(str(tmp_path))
    assert [photo.azimuth_deg for photo in found.photos] == ANGLES and not found.ignored
    assert [unicodedata.normalize("NFC", photo.name).lower() for photo in found.photos] == [
        name.lower() for name in names
    ]


@pytest.mark.parametrize("flagged", [True, False])
@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_a_zip_of_macos_and_others(tmp_path, shoot, form, flagged):
    """The Finder writes names in UTF-8 without the flag (bit 11) that says so."""
    path, names = tmp_path / "mug.zip", photos_of(shoot)
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.write(shoot / name, f"mug/{unicodedata.normalize(form, name)}")
        archive.writestr("mug/capture.csv", "\n".join(lines_of(names)))
        archive.writestr("__MACOSX/mug/._capture.csv", b"mac")
    if not flagged:
        data = bytearray(path.read_bytes())
        for mark, at in ((b"PK\x01\x02", 9), (b"PK\x03\x04", 7)):
            begin = -1
            while (begin := data.find(mark, begin + 1)) >= 0:
                data[begin + at] &= ~8 & 255
        path.write_bytes(data)
    [found] = scan(str(path))
    assert [photo.azimuth_deg for photo in found.photos] == ANGLES


@pytest.mark.parametrize(
    "lines",
    [
        ["file,azimuth", "Größe a.png,22,5"],  # a decimal comma that nothing protects
        ["file,angle", "Größe a.png,22"],
        ["file,azimuth", "Größe a.png"],
        ["file,azimuth", ",45"],
        ["file,azimuth,azimuth", "Größe a.png,1,2"],
        ["file,azimuth", "Größe a.png,1.234,5"],
        ["file,azimuth", "nobody.png,0"],
        ["file;azimuth", "Größe a.png;north"],
        [],
    ],
)
def test_what_has_no_one_meaning_is_refused(shoot, lines):
    code, message = read(shoot, "\n".join(lines).encode())
    assert code == "capture.invalid_table" and "KeyError" not in message


def test_a_table_with_another_name_is_named(shoot):
    code, message = read(shoot, "\n".join(lines_of(photos_of(shoot))).encode(), "angles.csv")
    assert code == "capture.ambiguous_azimuths" and "angles.csv" in message


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("delimiter", DELIMITERS)
def test_approvals_are_tables_too(tmp_path, delimiter, encoding):
    rows = [
        ("Product ID", "Video_Key", "decision"),
        ("mug", "k1", "Approved"),
        ("", "", ""),
        ("vase", "k2", "rejected"),
    ]
    text = "\r\n".join(DELIMITERS[delimiter].join(row) for row in rows)
    (tmp_path / "decisions.csv").write_bytes(text.encode(ENCODINGS[encoding]))
    assert read_decisions(tmp_path / "decisions.csv") == {"mug": ("k1", "approved"), "vase": ("k2", "rejected")}


def test_an_approval_without_its_columns_is_refused(tmp_path):
    (tmp_path / "decisions.csv").write_text("product;decision\nmug;approved\n")
    with pytest.raises(InputError) as error:
        read_decisions(tmp_path / "decisions.csv")
    assert error.value.code == "report.no_approval" and "video_key" in error.value.message


@given(
    st.floats(-1000, 1000).map(lambda value: round(value, 3)),
    st.sampled_from([".", ","]),
    st.sampled_from(["", "°", " °", " deg"]),
)
def test_numbers(value, decimal, unit):
    assert number(f" {value}".replace(".", decimal).replace("-", "−") + unit) == value


@given(st.sets(st.text("aAbB.ß", min_size=1, max_size=4), max_size=6), st.text("aAbB.ß", min_size=1, max_size=4))
def test_a_name_means_one_file_or_none_or_is_refused(names, name):
    try:
        found = matched(name, names)
    except ValueError:
        assert name not in names
    else:
        assert found == name if name in names else found is None or found in names


@given(st.binary(max_size=200))
def test_any_bytes_are_some_text_and_a_table_or_an_error(data):
    for text in texts(data):
        with contextlib.suppress(ValueError):
            rows_of(text, {"file": (), "azimuth": ()})
