"""Names of photos as cameras, systems, shops and clients write them: one reading, in folders, zips and requests.

Each set is made: a separator, a way to count, an ending, an encoding and an order of arrival. What a set means is known from how
it was made.
"""

import io
import random
import unicodedata
import uuid
import zipfile
from dataclasses import replace
from urllib.parse import quote

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from gapray.capture.azimuths import AzimuthOptions, read_names
from gapray.capture.capture_set import CaptureSet
from gapray.capture.discover import DiscoverOptions, discover, scan
from gapray.capture.manifest import MANIFEST, capture_set, check_manifest, manifest_row, with_all_columns
from gapray.capture.settings import DecodeSettings
from gapray.capture.stems import by_name
from gapray.cli.main import app
from gapray.errors import InputError
from gapray.serve.incoming import IncomingPhoto, photos_in_manifest
from gapray.serve.settings import Limits
from gapray.serve.uploads import prepare_upload

SEPARATORS = (" ({})", "({})", "_{}", "-{}", " {}", " [{}]", " - {}", "_({})", " #{}", "（{}）", ".{}")
ENDINGS = (".jpg", ".JPG", ".jpeg", ".png", ".HEIC", ".tif", ".webp", ".jpg.png", "")
ENCODINGS = {
    "plain": str,
    "percent": quote,
    "percent, all of it": lambda name: "".join(f"%{byte:02X}" for byte in name.encode()),
    "percent, twice": lambda name: quote(quote(name)),
    "decomposed": lambda name: unicodedata.normalize("NFD", name),
}
BASES = st.builds(str.__add__, st.text(st.sampled_from("abzAZäßéñ杯マ ._-'&+"), max_size=8), st.sampled_from("mGß杯"))
TURNS = (4, 8, 12, 16, 24, 36, 72)
COLOURS = [
    cv2.imencode(".png", np.full((64, 64, 3), (shade, 255 - shade, 128), np.uint8))[1].tobytes() for shade in range(72)
]


def name_of(base, separator, number, ending, encoding):
    return ENCODINGS[encoding](base + separator.format(number) + ending)


def in_request(names, options=AzimuthOptions(), *, turn=True):
    """Name -> azimuth of photos sent by HTTP in this order, identified by their bytes."""
    data = dict(zip(names, COLOURS, strict=False))
    found = prepare_upload(
        [IncomingPhoto(name=name, data=data[name]) for name in names],
        azimuths=None,
        options=options,
        limits=Limits(),
        decode=DecodeSettings(),
        turn=turn,
    )
    archive = zipfile.ZipFile(io.BytesIO(found.capture))
    rows = dict(line.split(",") for line in archive.read("capture.csv").decode().split()[1:])
    name_of_bytes = {content: name for name, content in data.items()}
    return {name_of_bytes[archive.read(file)]: float(azimuth) for file, azimuth in rows.items()}, found.azimuths_by


counts = st.fixed_dictionaries(
    {
        "base": BASES,
        "separator": st.sampled_from(SEPARATORS),
        "ending": st.sampled_from(ENDINGS),
        "encoding": st.sampled_from(sorted(ENCODINGS)),
    }
)


def read_everywhere(names, expected, by):
    found = read_names(names)
    assert found.by == by and found.azimuths == pytest.approx(expected), names[:3]
    assert in_request(names) == (pytest.approx(expected), by)


@given(
    look=counts,
    turn=st.sampled_from(TURNS),
    first=st.sampled_from([0, 1]),
    digits=st.integers(1, 4),
    seed=st.integers(),
)
@settings(max_examples=60)
def test_frame_numbers_in_any_notation(look, turn, first, digits, seed):
    names = [name_of(number=f"{first + step:0{digits}d}", **look) for step in range(turn)]
    expected = {name: 360 * step / turn for step, name in enumerate(names)}
    random.Random(seed).shuffle(names)
    read_everywhere(names, expected, "frames")


@given(
    look=counts,
    turn=st.sampled_from(TURNS),
    unit=st.sampled_from(["", "deg", "°", " degrees"]),
    form=st.sampled_from(["{:g}", "{:03.0f}", "{:.1f}"]),
    comma=st.booleans(),
    seed=st.integers(),
)
@settings(max_examples=60)
def test_degrees_in_any_notation(look, turn, unit, form, comma, seed):
    degrees = [360 * step / turn for step in range(turn)]
    if form != "{:g}" and any(value % 1 for value in degrees):
        form = "{:g}"
    numbers = [form.format(value).replace(".", "," if comma else ".") for value in degrees]
    names = [name_of(number=number + unit, **look) for number in numbers]
    expected = dict(zip(names, degrees, strict=True))
    random.Random(seed).shuffle(names)
    read_everywhere(names, expected, "degrees")


@pytest.mark.parametrize("separator", ["_{}", " ({})", "-{}"])
def test_a_copy_number_shared_by_all_names_is_ignored(separator):
    degrees = range(0, 360, 45)
    names = [f"mug_{value:03d}{separator.format(1)}.jpg" for value in degrees]
    read_everywhere(names, dict(zip(names, map(float, degrees), strict=True)), "degrees")


def test_minus_degrees_turn_the_other_way_and_a_hyphen_alone_does_not():
    minus = [f"mug_{-value}.jpg" for value in range(0, 360, 45)]
    assert read_names(minus).azimuths["mug_-45.jpg"] == 315
    hyphen = [f"mug-{value}.jpg" for value in range(0, 360, 45)]
    assert read_names(hyphen).azimuths["mug-45.jpg"] == 45


def test_what_only_looks_encoded_stays_as_it_is():
    """``%04`` would be a control character, and ``%FF`` is not UTF-8."""
    for prefix in ("50%", "100%25", "a%FF_"):
        names = [f"{prefix}{value:03d}.jpg" for value in range(0, 360, 45)]
        assert list(read_names(names).azimuths.values()) == [45.0 * step for step in range(8)], prefix


SHUFFLED = [3, 1, 8, 2, 7, 5, 4, 6]


@pytest.mark.parametrize("degrees", ["{:03d}", "{}", "{}deg", "{:03d}°"])
@pytest.mark.parametrize("between", ["_", "-", " "])
def test_degrees_before_a_count_that_says_the_same(degrees, between):
    names = [f"mug_{degrees.format(45 * step)}{between}{step + 1}.jpg" for step in range(8)]
    read_everywhere(names, {name: 45.0 * step for step, name in enumerate(names)}, "degrees")


@pytest.mark.parametrize("unit", ["deg", "°", " degrees"])
def test_degrees_with_a_unit_are_meant_whatever_a_count_behind_them_says(unit):
    names = [f"mug_{45 * step}{unit}-{count}.jpg" for step, count in enumerate(SHUFFLED)]
    read_everywhere(names, {name: 45.0 * step for step, name in enumerate(names)}, "degrees")


def test_an_option_settles_which_of_two_numbers_is_meant():
    names = [f"mug_{45 * step:03d}_{count}.jpg" for step, count in enumerate(SHUFFLED)]
    by_degrees = read_names(names, AzimuthOptions(names="degrees"))
    assert by_degrees.by == "degrees" and by_degrees.azimuths["mug_045_1.jpg"] == 45
    by_count = read_names(names, AzimuthOptions(names="index"))
    assert by_count.by == "frames" and by_count.azimuths["mug_045_1.jpg"] == 0


@pytest.mark.parametrize("column", ["2026112{}_045", "{}_2026"])
def test_other_numbers_in_names_are_no_degrees(column):
    names = [f"mug_{column.format(step)}_{45 * step:03d}.jpg" for step in range(8)]
    assert list(read_names(names).azimuths.values()) == [45.0 * step for step in range(8)]


@pytest.mark.parametrize("count", [7, 11, 14, 22])
def test_an_unusual_number_of_photos_is_ambiguous(count):
    """The first or last of eight photos may be missing, or two of ten may be views from above."""
    names = [f"mug_{number}.jpg" for number in range(1, count + 1)]
    with pytest.raises(InputError, match="names index") as error:
        read_names(names)
    assert error.value.code == "capture.ambiguous_azimuths"
    assert len(read_names(names, AzimuthOptions(names="index")).azimuths) == count


@pytest.mark.parametrize("name", ["IMG_20261126_0900{:02d}", "WhatsApp Image 2026-11-26 at 09.00.{:02d}"])
def test_flags_that_would_not_help_are_not_offered(name):
    names = [f"{name.format(7 * step + step % 2)}.jpg" for step in range(8)]
    with pytest.raises(InputError, match=r"capture\.csv") as error:
        read_names(names)
    for flag in ("degrees", "index"):
        if f"--names {flag}" in error.value.message:
            assert read_names(names, AzimuthOptions(names=flag))


AMBIGUOUS = {
    "degrees, and a count that says otherwise": lambda dress: [
        f"{dress(f'{45 * step:03d}')}_{count}" for step, count in enumerate(SHUFFLED)
    ],
    "degrees, and a count the other way round": lambda dress: [
        f"{dress(f'{360 - 45 * step:03d}')}_{step + 1}" for step in range(8)
    ],
    "seven frames": lambda dress: [dress(number) for number in range(1, 8)],
    "a camera's numbers": lambda dress: [dress(number) for number in range(1204, 1212)],
    "a photo's number is missing": lambda dress: [dress(number) for number in (1, 2, 3, 5, 6, 7, 8)],
    "nine frames, or eight and a closing one": lambda dress: [dress(number) for number in range(1, 10)],
    "one is a copy": lambda dress: [dress(f"{45 * step:03d}") + (" (1)" if step == 3 else "") for step in range(8)],
    "one is a copy, as shops write it": lambda dress: [
        dress(f"{45 * step:03d}") + ("-1" if step == 3 else "") for step in range(8)
    ],
    "one photo without a number": lambda dress: ["front", *(dress(f"{45 * step:03d}") for step in range(1, 8))],
    "numbers in front": lambda dress: [f"{number:02d}_mug" for number in range(1, 9)],
    "numbers in the middle": lambda dress: [f"{dress(number)}_final" for number in range(1, 9)],
    "times": lambda dress: [dress(f"2026{number:02d}01_1200{number:02d}") for number in range(1, 9)],
    "a number twice": lambda dress: [*(dress(number) for number in range(1, 8)), dress("0007")],
    "a view is missing": lambda dress: [dress(f"{45 * step:03d}") for step in (0, 1, 2, 3, 6, 7)],
}


@pytest.mark.parametrize("separator", ["_{}", "-{}", " {}"])
@pytest.mark.parametrize("what", AMBIGUOUS)
def test_what_a_folder_refuses_a_request_refuses(what, separator, tmp_path):
    names = [f"{stem}.jpg" for stem in AMBIGUOUS[what](lambda number: "mug" + separator.format(number))]
    folder = tmp_path / "mug"
    folder.mkdir()
    for name in names:
        (folder / name).write_bytes(b"x")
    [reject] = scan(str(folder), DiscoverOptions(layout="product"))
    assert not isinstance(reject, CaptureSet) and reject.code.startswith("capture.")
    with pytest.raises(InputError) as error:
        in_request(names)
    assert error.value.code == reject.code
    assert "names=order" in error.value.message, "and it says how to settle it in a request"
    # A still needs no full turn: there the order is used, and reported.
    if reject.code != "capture.missing_views":
        assert in_request(names, AzimuthOptions(allow_missing=True), turn=False)[1] == "order"


EIGHT = [f"mug_{45 * step:03d}.jpg" for step in range(8)]
TAILS = (
    *(
        " - Copy (2)",
        " copy 2",
        "_v2",
        "_edit_2",
        "-HDR-1",
        " crop 100",
        "_scale50",
        " (conflict 7)",
        "-DESKTOP-01",
        " (1)",
        "-1",
    ),
    *(" - Kopie (2)", " のコピー 2", "_retouch2", "(2)"),
)
STRAYS = ("mug_detail_1", "mug_top1", "box_22", "cup_020", "mug_back_200", "size 10", "mug_135_top_20")


@pytest.mark.parametrize("tail", TAILS)
def test_a_number_behind_other_words_is_no_angle(tail):
    """The photo next to its copy, and replaced by it in a turn so dense that no gap results."""
    odd = f"mug_090{tail}.jpg"
    dense = [f"mug_{15 * step:03d}.jpg" for step in range(24)]
    for names in ([*EIGHT, odd], [odd if name == "mug_090.jpg" else name for name in dense], ["mug_000.jpg", odd]):
        with pytest.raises(InputError) as error:
            read_names(names, AzimuthOptions(allow_missing=True))
        assert error.value.code == "capture.ambiguous_azimuths" and f"{odd!r}" in error.value.message
        assert "mug_045.jpg'," not in error.value.message


@pytest.mark.parametrize(
    "tail",
    ["_1024x1024", "_1024x768", "-1024X1024", "_640 × 480", "_x800", "_v2", "-e1700000000000", " of 8", "_1x1 (1)"],
)
@pytest.mark.parametrize(
    ("shape", "by"), [("mug_{degrees:03d}", "degrees"), ("mug_{degrees}deg", "degrees"), ("mug-{count}", "frames")]
)
def test_a_size_that_all_names_share_hides_no_angle(tail, shape, by):
    """As shops and other sites append to the names of the pictures that they make in several sizes."""
    names = [shape.format(degrees=45 * step, count=step + 1) + f"{tail}.jpg" for step in range(8)]
    wanted = {name: 45.0 * step for step, name in enumerate(names)}, by
    found = read_names(names)
    assert (found.azimuths, found.by) == wanted == in_request(names)


@pytest.mark.parametrize("sizes", [("1024x1024", "800x800"), ("1024x1024", "1024y1024"), ("1024x1024", "1024x800")])
def test_sizes_that_differ_are_not_skipped(sizes):
    """One of two versions of a set, or of two products."""
    names = [f"mug_{45 * step:03d}_{sizes[step // 4]}.jpg" for step in range(8)]
    with pytest.raises(InputError) as error:
        read_names(names)
    assert error.value.code in ("capture.ambiguous_azimuths", "capture.duplicate_azimuth")


@pytest.mark.parametrize("stray", STRAYS)
def test_a_photo_of_something_else_is_no_view(stray):
    for names in ([*EIGHT, f"{stray}.jpg"], [f"{stray}.jpg", *EIGHT]):
        with pytest.raises(InputError, match=stray) as error:
            read_names(names)
        assert error.value.code == "capture.ambiguous_azimuths"


TWO_PRODUCTS = {
    "a number in it": ([f"SKU{1 + step // 4}_{45 * step:03d}.jpg" for step in range(8)], "'SKU2_180.jpg'"),
    "a number of its own": ([f"SKU-{100 + step // 4}-{step + 1}.jpg" for step in range(8)], "'SKU-101-5.jpg'"),
    "a word": ([f"{'red' if step < 4 else 'blue'}_{45 * step:03d}.jpg" for step in range(8)], "'blue_180.jpg'"),
    "one word of several": (
        [f"SKU1_{'red' if step < 4 else 'blue'}_{45 * step:03d}.jpg" for step in range(8)],
        "'SKU1_blue_180.jpg'",
    ),
    "one photo": ([f"SKU-{100 + step // 7}-{45 * step:03d}.jpg" for step in range(8)], "'SKU-101-315.jpg'"),
    "a folder": ([f"{'mug' if step < 4 else 'cup'}/{45 * step:03d}.jpg" for step in range(8)], "'cup/180.jpg'"),
    "a folder of Windows": ([f"C:\\{step // 4}\\{45 * step:03d}.jpg" for step in range(8)], "180.jpg"),
}


@pytest.mark.parametrize("what", TWO_PRODUCTS)
def test_two_products_are_not_taken_for_one(what):
    names, odd = TWO_PRODUCTS[what]
    for read in (read_names, in_request):
        with pytest.raises(InputError) as error:
            read(names)
        assert error.value.code == "capture.ambiguous_azimuths" and odd in error.value.message, error.value.message


def test_folders_of_photos_without_numbers_are_not_taken_for_one_product():
    with pytest.raises(InputError, match="names=order") as error:
        in_request([f"{'mug' if letter < 'e' else 'cup'}/{letter}.jpg" for letter in "abcdefgh"])
    assert error.value.code == "capture.ambiguous_azimuths"


@pytest.mark.parametrize(
    "names",
    [
        [f"mug/{45 * step:03d}.jpg" for step in range(8)],
        ["Mug-000.jpg", "mug_090.JPG", "mug (180).png", "mug 270°.jpg"],
        ["front_000.jpg", "right_090.jpg", "back_180.jpg", "left_270.jpg"],
        ["Gru\u0308n_000.jpg", "Gr\u00fcn_090.jpg", "gr\u00fcn_180.jpg", "GRÜN_270.jpg"],
        ["mug_0.jpg", "mug_90deg.jpg", "mug_180.0.jpg", "mug_270,0 degrees.jpg"],
    ],
    ids=["one folder", "punctuation", "a word each", "composed and decomposed", "units"],
)
def test_names_that_differ_in_nothing_that_matters(names):
    read_everywhere(names, {name: 360.0 * step / len(names) for step, name in enumerate(names)}, "degrees")


@pytest.mark.parametrize("minus", ["-", "−"])
@pytest.mark.parametrize("plus", ["", "+"])
def test_angles_to_both_sides(minus, plus):
    names = {f"mug_{plus}{angle}.jpg": angle for angle in range(0, 181, 45)}
    names |= {f"mug_{minus}{angle}.jpg": 360 - angle for angle in range(45, 180, 45)}
    read_everywhere(list(names), names, "degrees")


def test_two_photos_at_one_angle_are_refused_whatever_may_be_missing():
    loose = AzimuthOptions(allow_missing=True)
    for read in (read_names, in_request):
        with pytest.raises(InputError, match="315") as error:
            read([*EIGHT, "mug_-45.jpg"], loose)
        assert error.value.code == "capture.duplicate_azimuth"
    for azimuths in ([0.0] * 8, [0.0, 45.0, 360.0], [0.0, 0.0]):
        sent = [IncomingPhoto(name="", data=data, azimuth_deg=at) for at, data in zip(azimuths, COLOURS, strict=False)]
        with pytest.raises(InputError) as error:
            prepare_upload(sent, azimuths=None, options=loose, limits=Limits(), decode=DecodeSettings())
        assert error.value.code == "capture.duplicate_azimuth"
    assert read_names(["mug_045.jpg"], replace(loose, names="degrees")).azimuths == {"mug_045.jpg": 45}


@pytest.mark.parametrize(
    "plain",
    [
        "20261127_101203{}.jpg",
        "WhatsApp Image 2026-11-27 at 10.12.08{}.jpeg",
        "WhatsApp Image 2026-11-27 at 10.12.08 PM{}.jpeg",
        "mug{}.PNG",
        "mug%20photo{}.jpg",
        "mug{}",
    ],
)
@pytest.mark.parametrize("copy", ["({})", " ({})", "_{}", "-{}"])
def test_a_name_stands_before_its_numbered_copies(tmp_path, plain, copy):
    """Programs number only the second and later of files with one name."""
    wanted = [plain.format(""), *(plain.format(copy.format(number)) for number in range(1, 12))]
    assert by_name(wanted[::-1]) == wanted
    for index, name in enumerate(wanted):
        cv2.imwrite(str(tmp_path / "x.png"), np.full((32, 32, 3), index, np.uint8))
        (tmp_path / "mug").mkdir(exist_ok=True)
        (tmp_path / "x.png").rename(tmp_path / "mug" / name)
    [found] = discover(str(tmp_path / "mug"), DiscoverOptions(AzimuthOptions(names="order")))
    assert [photo.name for photo in found.photos] == wanted


def test_a_request_can_settle_what_names_leave_open():
    camera = [f"IMG_{number}.jpg" for number in range(1211, 1203, -1)]
    by_index, by = in_request(camera, AzimuthOptions(names="index"))
    assert by == "frames" and by_index["IMG_1205.jpg"] == 45
    by_order, by = in_request(camera, AzimuthOptions(names="order"))
    assert by == "order" and by_order["IMG_1210.jpg"] == 45
    nine = [f"mug ({number}).jpg" for number in range(1, 10)]
    dropped, by = in_request(nine, AzimuthOptions(closing_frame="drop"))
    assert (len(dropped), dropped["mug (2).jpg"], by) == (8, 45, "frames")


def test_a_closing_frame_in_degrees_is_left_out_of_a_request_as_of_a_folder():
    names = [f"mug_{value:03d}.jpg" for value in range(0, 361, 45)]
    found, by = in_request(names)
    assert by == "degrees" and found == {name: 45.0 * step for step, name in enumerate(names[:-1])}


def uuids():
    numbers = random.Random(5)
    return [f"{uuid.UUID(int=numbers.getrandbits(128))}.jpg" for _ in range(8)]


@pytest.mark.parametrize(
    "names",
    [["blob"] * 8, [""] * 8, ["image.png"] * 8, ["image_1.png"] * 8, list("abcdefgh"), uuids()],
    ids=["blob", "nothing", "one name", "one numbered name", "letters", "random"],
)
def test_uninformative_names_go_by_order(names):
    sent = [IncomingPhoto(name=name, data=data) for name, data in zip(names, COLOURS, strict=False)]
    numbered = names[0] == "image_1.png"
    come = {"azimuths": None, "limits": Limits(), "decode": DecodeSettings()}
    found = prepare_upload(sent, options=AzimuthOptions(), **come)
    assert found.azimuths_by == "order" and list(found.azimuths_deg) == [45.0 * step for step in range(8)], numbered
    explicit = prepare_upload(
        [replace(photo, azimuth_deg=45.0 * step) for step, photo in enumerate(sent)], options=AzimuthOptions(), **come
    )
    assert explicit.azimuths_by == "table"
    with pytest.raises(InputError, match="7 of 8") as error:
        prepare_upload(
            [sent[0], *(replace(photo, azimuth_deg=45.0) for photo in sent[1:])], options=AzimuthOptions(), **come
        )
    assert error.value.code == "request.invalid"


def test_a_manifest_without_angles_goes_by_order():
    import base64

    photos = [{"reference_b64": base64.b64encode(data).decode()} for data in COLOURS[:8]]
    for views, by in ((photos, "order"), ({f"{45 * step:03d}": photo for step, photo in enumerate(photos)}, "table")):
        sent = photos_in_manifest({"views": views})
        found = prepare_upload(sent, azimuths=None, options=AzimuthOptions(), limits=Limits(), decode=DecodeSettings())
        assert found.azimuths_by == by and list(found.azimuths_deg) == [45.0 * step for step in range(8)]


@pytest.mark.parametrize("packed", [False, True], ids=["folder", "zip"])
def test_files_on_disk_and_their_manifest(packed, tmp_path):
    names = {f"mug%20({step + 1}).jpg": 45.0 * step for step in range(8)}
    folder = tmp_path / "mug"
    folder.mkdir()
    for name in names:
        (folder / name).write_bytes(b"x")
    (tmp_path / "table").mkdir()
    for name in ("a.jpg", "b.jpg", "c.jpg", "d.jpg"):
        (tmp_path / "table" / name).write_bytes(b"x")
    (tmp_path / "table" / "capture.csv").write_text("file,azimuth\na.jpg,0\nb.jpg,90\nc.jpg,180\nd.jpg,270\n")
    source = str(tmp_path)
    if packed:
        source = str(tmp_path / "all.zip")
        with zipfile.ZipFile(source, "w") as archive:
            for path in sorted(tmp_path.glob("*/*")):
                archive.write(path, path.relative_to(tmp_path))
    mug, table = discover(source)
    assert {photo.name: photo.azimuth_deg for photo in mug.photos} == names
    rows = [manifest_row(item) for item in (mug, table)]
    assert [row["azimuths_by"] for row in rows] == ["frames", "table"]
    assert capture_set(rows[0]) == mug


def test_a_manifest_of_an_earlier_release_is_read():
    import pyarrow as pa

    old = pa.schema([field for field in MANIFEST if field.name != "azimuths_by"])
    check_manifest(old)
    row = {"product_id": "mug", "uri": "u", "source": "s", "photos": [], "error_code": None, "error_message": None}
    table = with_all_columns(pa.Table.from_pylist([row], schema=old))
    assert table.schema == MANIFEST and capture_set(table.to_pylist()[0]).azimuths_by is None


SERIES = ["IMG_9.png", "IMG_10.png", "img_101.png", "IMG_1021.png", "b.png", "c 2.png", "c 10.png", "é.png"]
"""Names without angles, in natural order."""


@given(st.permutations(SERIES))
def test_photos_of_a_folder_go_by_the_order_of_their_names(listed):
    assert by_name(listed) == ["b.png", "c 2.png", "c 10.png", *SERIES[:4], "é.png"]


def test_the_command_line_takes_photos_by_the_order_of_their_names(tmp_path):
    folder = tmp_path / "shoot" / "mug"
    folder.mkdir(parents=True)
    for step, name in enumerate(by_name(SERIES)):
        (folder / name).write_bytes(b"\x89PNG\r\n\x1a\n" + bytes([step]))
    to = tmp_path / "m.parquet"
    refused = CliRunner().invoke(app, ["manifest", str(tmp_path / "shoot"), "--to", str(to)])
    assert "capture.ambiguous_azimuths" in str(pq.read_table(to)["error_code"].to_pylist()), refused.output
    to.unlink()
    done = CliRunner().invoke(app, ["manifest", str(tmp_path / "shoot"), "--to", str(to), "--names", "order"])
    assert done.exit_code == 0, done.output
    [row] = pq.read_table(to).to_pylist()
    assert row["azimuths_by"] == "order"
    assert {photo["name"]: photo["azimuth_deg"] for photo in row["photos"]} == {
        name: 45.0 * step for step, name in enumerate(by_name(SERIES))
    }


def test_a_repeated_time_in_names_does_not_mean_two_products():
    """A motorised turntable takes two photos per second, named by date, time and angle."""
    names = [f"20261127_10{1100 + shot // 2:04d}_{15 * shot:03d}.jpg" for shot in range(24)]
    assert read_names(names).azimuths == {name: 15.0 * shot for shot, name in enumerate(names)}
    names = [f"20261127_10{1100 + shot // 2:04d}_{45 * shot:03d}.jpg" for shot in range(8)]
    assert read_names(names).azimuths == {name: 45.0 * shot for shot, name in enumerate(names)}
