"""Sources x systems: everything in a folder, zip file or bucket is used, refused, or counted as ignored."""

import io
import json
import os
import shutil

import fsspec
import numpy as np
import pillow_heif
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from typer.testing import CliRunner

from gapray.capture.capture_set import Reject
from gapray.capture.decode import check_photo
from gapray.capture.discover import DiscoverOptions, discover, scan
from gapray.capture.kinds import HEAD_BYTES, begins_as_photo, counted, described
from gapray.capture.manifest import ignored_of, write_manifest
from gapray.capture.storage import read_bytes
from gapray.cli.main import app
from gapray.errors import InputError
from gapray.gap import folder as gap_folder
from gapray.inspect.intake import ingest
from tests.make import package, write_product

pillow_heif.register_heif_opener()
ANGLES = [45.0 * step for step in range(8)]
SYSTEM_FOLDERS = (
    *(
        "@eaDir",
        "#recycle",
        "#snapshot",
        "lost+found",
        "$RECYCLE.BIN",
        "System Volume Information",
        "__MACOSX",
        ".Trashes",
    ),
    *(
        ".Spotlight-V100",
        ".fseventsd",
        "@Recycle",
        "@Recently-Snapshot",
        ".@__thumb",
        "RECYCLER",
        "CaptureOne",
        "Trash",
    ),
    *(
        "Catalog Previews.lrdata",
        "Catalog.lrcat-data",
        "Shoot.cocatalog",
        ".BridgeCache",
        "Photos Library.photoslibrary",
    ),
)
SYSTEM_FILES = (".DS_Store", "Thumbs.db", "desktop.ini", "._mug_000.png", ".picasa.ini", "Icon\r")


def products(found):
    return {item.product_id: item.code if isinstance(item, Reject) else len(item.photos) for item in found}


def angles(found):
    return [photo.azimuth_deg for photo in found.photos]


def scanned(uri, **options):
    """Product id -> number of photos or error code, and counts of unused files."""
    beside: list[str] = []
    found = list(scan(str(uri), DiscoverOptions(**options), beside=beside))
    return products(found), counted([*beside, *(name for item in found for name in item.ignored)])


def zipped(folder, path):
    return shutil.make_archive(str(path), "zip", folder)


def put(folder, name):
    """Copy a folder to a bucket."""
    memory = fsspec.filesystem("memory")
    for file in folder.rglob("*"):
        if file.is_file():
            memory.pipe_file(f"/{name}/{file.relative_to(folder)}", file.read_bytes())
    return f"memory://{name}"


PLACES = {
    "folder": lambda folder, path: str(folder),
    "zip": zipped,
    "bucket": lambda folder, path: put(folder, path.name),
}


@pytest.fixture(params=PLACES)
def placed(request, tmp_path):
    """A function that copies a folder to the source's kind of storage, and returns its URI."""
    yield lambda folder: PLACES[request.param](folder, tmp_path / f"placed-{tmp_path.name}")
    memory = fsspec.filesystem("memory")
    if memory.exists(f"/placed-{tmp_path.name}"):
        memory.rm(f"/placed-{tmp_path.name}", recursive=True)


@pytest.mark.parametrize("name", SYSTEM_FOLDERS)
def test_folders_of_systems_are_no_products(tmp_path, placed, name):
    """They hold pictures, such as previews and deleted photos."""
    root = tmp_path / "shoot"
    write_product(root / "mug", size=48)
    write_product(root / name / "mug_000.png", size=48, name="x")
    write_product(root / "mug" / name, size=48, name="x")
    write_product(root / "mug" / name.upper() / "deeper", size=48, name="x")
    here = placed(root)
    found, ignored = scanned(here)
    assert found == {"mug": 8} and set(ignored) == {"system"}
    if "://" not in here and not here.endswith(".zip"):
        assert scanned(root / "mug")[0] == {"mug": 8}


@pytest.mark.parametrize("name", SYSTEM_FILES)
def test_files_of_systems_are_no_photos(tmp_path, placed, name):
    write_product(tmp_path / "shoot" / "mug", size=48)
    for folder in (tmp_path / "shoot", tmp_path / "shoot" / "mug"):
        (folder / name).write_bytes((tmp_path / "shoot" / "mug" / "mug_000.png").read_bytes())
    assert scanned(placed(tmp_path / "shoot")) == ({"mug": 8}, {"system": 2})


FORMATS = {
    "JPEG": (".jpg", ".JPG", ".jpeg", ".jfif", ".JFIF", ".jpe", ".jif", "", ".photo", ".jpg-large"),
    "PNG": (".png", ".PNG", ".apng", "", ".image"),
    "WEBP": (".webp", "", ".shop"),
    "TIFF": (".tif", ".TIFF", "", ".scan"),
    "HEIF": (".heic", ".HIF", ".heif", "", ".live"),
    "AVIF": (".avif", "", ".download"),
    "BMP": (".bmp", ".dib", "", ".x"),
    "GIF": (".gif", "", ".x"),
}


def photo_of(kind, angle):
    sink = io.BytesIO()
    picture = np.full((64, 64, 3), 230, np.uint8)
    picture[16:48, 10 : 20 + angle // 10] = 40, 90, 160
    Image.fromarray(picture).save(sink, kind)
    return sink.getvalue()


@pytest.mark.parametrize(
    ("kind", "ending"), [(kind, ending) for kind, endings in FORMATS.items() for ending in endings]
)
def test_a_photo_is_known_by_its_content(tmp_path, placed, kind, ending):
    folder = tmp_path / "shoot" / "mug"
    folder.mkdir(parents=True)
    for angle in range(0, 360, 45):
        (folder / f"mug_{angle:03d}{ending}").write_bytes(photo_of(kind, angle))
    [found] = discover(placed(tmp_path / "shoot"))
    assert angles(found) == ANGLES and not found.ignored


@pytest.mark.parametrize("after", ["_original", "~", ".bak", ".orig", ".tmp"])
def test_copies_that_programs_keep_are_no_second_photos(tmp_path, after):
    folder = write_product(tmp_path / "mug", size=48)
    shutil.copy(folder / "mug_045.png", folder / f"mug_045.png{after}")
    found, ignored = scanned(tmp_path)
    assert found == {"mug": 8} and sum(ignored.values()) == 1


IN_TRANSFER = (
    *(
        "{}.crdownload",
        "{}.part",
        "{}.partial",
        "{}.download",
        "{}.opdownload",
        "{}.filepart",
        "{}.tmp",
        "{}.TMP",
        "{}.!sync",
    ),
    *(
        ".{}.icloud",
        ".{}.Xa3f9Q",
        ".{}.~1a2b3c",
        "{}.6e1A2b3C",
        "{}.0a1b2c3d.partial",
        ".syncthing.{}.tmp",
        "~syncthing~{}.tmp",
    ),
    *("~{}.tmp", ".~{}", "{}~RF1a2b3c.TMP", ".pending-1795000000-{}", "{}_.gstmp", ".in.{}."),
)
"""Names that programs give to a file while they transfer it."""
SIDECARS = (
    *(
        "{}.xmp",
        "{}.aae",
        "{}.pp3",
        "{}.dop",
        "{}.json",
        "{}.txt",
        "{}.md5",
        "{}.supplemental-metadata.json",
        "{}.sha256",
    ),
    *("{}.bak", "{}_original", "{}~", "._{}", "{}.download.txt", "notes.part", ".DS_Store", "notes.txt", "{}.exif"),
)
"""Names of files that stand beside photos for good."""


@pytest.mark.parametrize("form", IN_TRANSFER)
@pytest.mark.parametrize("names", ["lamp-{}", "lamp_{:03d}"])
def test_photos_whose_transfer_has_not_finished_are_refused(tmp_path, placed, form, names):
    """The first four of eight numbered photos look like a whole turn of four."""
    folder = tmp_path / "shoot" / "lamp"
    write_product(tmp_path / "shoot" / "mug", size=48)
    write_product(folder, size=48)
    for index, file in enumerate(sorted(folder.iterdir())):
        name = names.format(index + 1 if names.endswith("-{}") else index * 45) + ".png"
        file.rename(folder / (name if index < 4 else form.format(name)))
    here = placed(tmp_path / "shoot")
    found, _ = scanned(here)
    assert found == {"lamp": "capture.unfinished", "mug": 8}
    [lamp] = [item for item in scan(here) if item.product_id == "lamp"]
    assert (
        isinstance(lamp, Reject)
        and form.format(names.format(5 if names.endswith("-{}") else 180) + ".png") in lamp.message
    )


def test_safari_s_folder_of_an_unfinished_download_is_one(tmp_path):
    folder = write_product(tmp_path / "lamp", size=48)
    (folder / "lamp_315.png.download").mkdir()
    (folder / "lamp_315.png").rename(folder / "lamp_315.png.download" / "lamp_315.png")
    assert scanned(folder)[0] == {"lamp": "capture.unfinished"}


@pytest.mark.parametrize("form", [*SIDECARS, *IN_TRANSFER])
def test_what_stands_beside_a_photo_is_only_ignored(tmp_path, form):
    folder = write_product(tmp_path / "mug", size=48)
    (folder / form.format("mug_045.png")).write_bytes(b"x")
    found, ignored = scanned(folder)
    assert found == {"mug": 8} and sum(ignored.values()) == 1


@pytest.mark.parametrize("form", SIDECARS)
def test_sidecars_of_photos_that_are_gone_are_only_ignored(tmp_path, form):
    folder = write_product(tmp_path / "mug", size=48)
    (folder / form.format("mug_360.png")).write_bytes(b"x")
    assert scanned(folder)[0] == {"mug": 8}


def test_a_table_says_which_photos_count_whatever_is_still_on_its_way(tmp_path):
    folder = write_product(tmp_path / "mug", size=48)
    rows = [f"{file.name},{file.stem[-3:]}" for file in sorted(folder.iterdir())]
    (folder / "detail.jpg.part").write_bytes(b"x")
    (folder / "capture.csv").write_text("\n".join(["file,azimuth", *rows]))
    assert scanned(folder)[0] == {"mug": 8}


@pytest.mark.parametrize("alone", [True, False])
def test_a_folder_in_which_no_transfer_has_finished_is_refused_as_such(tmp_path, placed, alone):
    (tmp_path / "shoot" / "lamp").mkdir(parents=True)
    (tmp_path / "shoot" / "lamp" / "lamp-1.jpg.part").write_bytes(b"x")
    if not alone:
        (tmp_path / "shoot" / "empty.d").mkdir()
        (tmp_path / "shoot" / "empty.d" / "a.txt").write_bytes(b"x")
    found, _ = scanned(placed(tmp_path / "shoot"))
    assert found == {"lamp": "capture.unfinished"} | ({} if alone else {"empty.d": "capture.no_photos"})
    with pytest.raises(InputError) as error:
        list(scan(str(tmp_path / "shoot" / "lamp")))
    assert error.value.code == "capture.unfinished" and "lamp-1.jpg.part" in error.value.message


RAW = (".CR3", ".dng", ".NEF", ".arw")


@pytest.mark.parametrize("products_of_raw", [1, 2])
def test_raw_photos_alone_are_named_with_the_way_out(tmp_path, placed, products_of_raw):
    root = tmp_path / "shoot"
    for name in ("mug", "cup")[:products_of_raw]:
        (root / name).mkdir(parents=True)
        for index, ending in enumerate(RAW * 2):
            (root / name / f"{name}_{index * 45:03d}{ending}").write_bytes(b"II*\0raw")
        (root / name / "notes.txt").write_text("x")
    here = placed(root)
    with pytest.raises(InputError) as error:
        list(scan(here))
    assert error.value.code == "capture.no_photos" and f"{2 * products_of_raw} .CR3" in error.value.message
    assert f"{products_of_raw} .txt" in error.value.message and "as JPEG or TIFF" in error.value.message
    write_product(root / "vase", size=48)
    rejects = [item for item in scan(str(root)) if isinstance(item, Reject)]
    assert len(rejects) == products_of_raw
    assert all("2 .CR3" in item.message and "as JPEG or TIFF" in item.message for item in rejects)


def test_a_folder_without_photos_says_what_it_holds(tmp_path):
    write_product(tmp_path / "vase", size=48)
    (tmp_path / "mug").mkdir()
    (tmp_path / "mug" / "turn.psd").write_text("x")
    (tmp_path / "none").mkdir()
    mug, none, _ = scan(str(tmp_path))
    assert mug.message.endswith("mug; ignored: 1 (1 .psd)") and none.message.endswith(
        "there is no photo in " + none.uri
    )


def test_photos_in_deeper_folders_are_named(tmp_path, placed):
    """As in sessions of Capture One, of one product each."""
    for name in ("mug", "cup"):
        for stage in ("Capture", "Output", "Trash"):
            write_product(tmp_path / "shoot" / name / stage, size=48, name=name)
        (tmp_path / "shoot" / name / "Selects").mkdir()
    for item in scan(placed(tmp_path / "shoot")):
        assert isinstance(item, Reject) and item.code == "capture.no_photos"
        assert item.message.endswith("Photos in its folders are not read: Capture, Output")
    [item] = scan(str(tmp_path / "shoot" / "cup"), DiscoverOptions(layout="product"))
    assert isinstance(item, Reject) and item.message.endswith("Capture, Output")


@pytest.mark.parametrize("raw", [True, False], ids=["raw", "JPEG"])
@pytest.mark.parametrize("whole", [True, False], ids=["parent", "session"])
def test_the_folders_of_a_session_are_no_products(tmp_path, placed, raw, whole):
    session = tmp_path / "shoot" / "mug"
    write_product(session / "Capture", size=48, name="mug")
    write_product(session / "Output", size=48, name="mug")
    write_product(session / "Trash", size=48, name="mug")
    if raw:
        for file in list((session / "Capture").iterdir()):
            file.rename(file.with_suffix(".CR3"))
    here = placed(tmp_path / "shoot" if whole else session)
    with pytest.raises(InputError) as error:
        list(scan(here))
    assert error.value.code == "capture.ambiguous_layout" and "Output" in error.value.message
    assert ("Capture, Output" in error.value.message) == (not raw)
    found, _ = scanned(here, layout="products")
    assert found["Output"] == 8


@pytest.mark.parametrize("kind", FORMATS)
def test_every_decodable_format_is_recognised_by_its_first_bytes(kind):
    data = photo_of(kind, 90)
    assert check_photo(data)[0] == kind and begins_as_photo(data[:HEAD_BYTES])


@given(st.binary(max_size=HEAD_BYTES))
def test_other_first_bytes_are_not_recognised_as_photos(head):
    known = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"II*\0", b"MM\0*", b"RIFF", b"BM")
    assert not begins_as_photo(head) or head.startswith(known) or head[4:8] == b"ftyp"


OTHERS = {
    ".AAE": b"<?xml version='1.0'?>",
    ".txt": b"notes",
    ".xmp": b"<x:xmpmeta/>",
    ".NEF": b"MM\0*raw photos begin as TIFF does",
    ".dng": b"II*\0raw",
    ".mov": b"\0\0\0\x14ftypqt  ",
    ".xlsx": b"PK\x03\x04",
    ".pdf": b"%PDF-1.7",
    ".unheard": b"of",
}


def test_what_is_not_used_is_counted_and_named(tmp_path, placed):
    root = tmp_path / "shoot"
    for name in ("mug", "vase"):
        write_product(root / name, size=48)
        for ending, data in OTHERS.items():
            (root / name / f"IMG_1{ending}").write_bytes(data)
    (root / "mug" / "angles.csv").write_text("photo,degrees\n")
    (root / "mug" / "old").mkdir()
    (root / "mug" / "old" / "x.png").write_bytes(b"x")
    (root / "mug" / "masks").mkdir()
    (root / "mug" / "masks" / "x.png").write_bytes(b"x")
    (root / "mug" / ".secret.png").write_bytes(b"x")
    (root / "README").write_text("hello")
    found, ignored = scanned(placed(root))
    assert found == {"mug": 8, "vase": 8}
    wanted = dict.fromkeys(OTHERS, 2) | {".csv": 1, "old/": 1, "masks/": 1, "hidden": 1, "README": 1}
    assert ignored == wanted
    assert described({".AAE": 2, ".txt": 1}) == "ignored: 3 (2 .AAE, 1 .txt)"


def test_photos_that_a_table_or_a_closing_frame_leaves_out_are_named(tmp_path):
    folder = write_product(tmp_path / "mug", azimuths=range(0, 361, 45), size=48)
    [found] = scan(str(folder))
    assert found.ignored == ("mug_360.png",)
    rows = [f"mug_{angle:03d}.png,{angle}" for angle in range(0, 360, 90)]
    (folder / "capture.csv").write_text("\n".join(["file,azimuth", *rows]))
    (folder / "capture.json").write_text("{}")
    [found] = scan(str(folder), DiscoverOptions())
    left = [f"mug_{angle:03d}.png" for angle in (45, 135, 225, 315, 360)]
    assert list(found.ignored) == ["capture.json", *left]


def test_ignored_files_stand_in_the_manifest_and_on_the_terminal(tmp_path):
    write_product(tmp_path / "shoot" / "mug", size=48)
    for name in ("IMG_1.AAE", "IMG_2.AAE", "notes.txt"):
        (tmp_path / "shoot" / "mug" / name).write_text("x")
    path = tmp_path / "m.parquet"
    done = CliRunner().invoke(app, ["manifest", str(tmp_path / "shoot"), "--to", str(path)])
    assert done.exit_code == 0 and "ignored: 3 (2 .AAE, 1 .txt)" in done.output
    assert ignored_of(str(path)) == {".AAE": 2, ".txt": 1}
    assert pq.read_table(path)["ignored"].to_pylist() == [["IMG_1.AAE", "IMG_2.AAE", "notes.txt"]]


@pytest.mark.parametrize("rejected", [False, True])
def test_ignored_files_stand_in_what_a_run_says(ray_cluster, tmp_path, rejected):
    folder = write_product(tmp_path / "shoot" / "mug", azimuths=range(0, 90 if rejected else 360, 45))
    (folder / "IMG_1.AAE").write_text("x")
    (tmp_path / "shoot" / "notes.txt").write_text("x")
    done = CliRunner().invoke(app, ["package", str(tmp_path / "shoot"), "--out", str(tmp_path / "c"), "--json"])
    summary = json.loads(done.stdout)
    assert summary["ignored"] == {".AAE": 1, ".txt": 1} and summary["rejected"] == rejected


def test_links_are_followed_within_the_source(tmp_path):
    root = tmp_path / "shoot"
    write_product(root / "store" / "mug", size=48)
    (root / "mug").symlink_to(root / "store" / "mug", target_is_directory=True)
    (root / "relative").symlink_to("store/mug", target_is_directory=True)
    found, _ = scanned(root)
    assert found == {"mug": 8, "relative": 8, "store": "capture.no_photos"}
    shutil.rmtree(root)
    folder = write_product(tmp_path / "one", size=48)
    (folder / "masks").mkdir()
    (folder / "one_000.png").rename(folder / "masks" / "front.png")
    (folder / "one_000.png").symlink_to("masks/front.png")
    [found] = discover(str(folder), DiscoverOptions())
    assert angles(found) == ANGLES


@pytest.mark.parametrize("some", [True, False], ids=["some", "all"])
@pytest.mark.parametrize("where", ["products", "product"])
def test_links_out_of_the_source_are_refused_in_words(tmp_path, where, some):
    outside = write_product(tmp_path / "elsewhere" / "civic", size=48)
    root = tmp_path / "shoot"
    root.mkdir()
    if some:
        write_product(root / "mug", size=48)
    if where == "products":
        (root / "civic").symlink_to(outside, target_is_directory=True)
    else:
        (root / "civic").mkdir()
        for file in outside.iterdir():
            (root / "civic" / file.name).symlink_to(file)
    found = list(scan(str(root)))
    assert products(found) == {"civic": "capture.unsafe_path"} | ({"mug": 8} if some else {})
    assert "link" in found[0].message


def test_links_in_circles_end(tmp_path):
    root = tmp_path / "shoot"
    write_product(root / "a" / "deep", size=48)
    write_product(root / "b", size=48)
    for link, target in {
        "a/up": root,
        "a/deep/here": root / "a",
        "b/to_a": root / "a",
        "a/deep/to_b": root / "b",
    }.items():
        (root / link).symlink_to(target, target_is_directory=True)
    (root / "itself").symlink_to(root, target_is_directory=True)
    assert scanned(root)[0] == {"a": "capture.no_photos", "b": 8, "itself": "capture.unsafe_path"}
    assert scanned(root / "b") == ({"b": 8}, {"to_a/": 1})


def spelled(folder, name, azimuths=range(0, 360, 45)):
    """Photos whose names are not UTF-8."""
    made = write_product(folder, size=48, azimuths=azimuths)
    for file in made.iterdir():
        os.rename(os.fsencode(file), os.fsencode(folder) + b"/" + name + file.name[-8:].encode())


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "cp437", "gbk", "shift_jis"])
def test_names_in_other_encodings_end_no_run(tmp_path, encoding):
    text = "製品" if encoding in ("gbk", "shift_jis") else "Größe"
    name = text.encode(encoding)
    root = tmp_path / "shoot"
    write_product(root / "good", size=48)
    spelled(root / "photos", name)
    os.rename(write_product(root / "x", size=48), os.fsencode(root) + b"/" + name)
    for folder in (b"", b"/good"):
        with open(os.fsencode(root) + folder + b"/" + name + b".txt", "w") as file:
            file.write("x")
    beside: list[str] = []
    found = list(scan(str(root), beside=beside))
    codes = products(found)
    assert codes.pop("good") == 8 and codes.pop("photos") == "capture.invalid_name"
    assert list(codes.values()) == ["capture.invalid_product_id"]
    write_manifest(found, str(tmp_path / "m.parquet"), beside)
    assert ignored_of(str(tmp_path / "m.parquet")) == {".txt": 2}
    with pytest.raises(InputError) as error:
        list(scan(os.fsdecode(os.fsencode(root) + b"/" + name)))
    assert error.value.code == "capture.invalid_name" and str(error.value).isprintable()


def catalog(folder):
    """Output of an earlier run, with pictures in it."""
    for name in ("products", "views", "rejects", "runs"):
        (folder / name).mkdir(parents=True)
        (folder / name / "part.parquet").write_bytes(b"PAR1")
    write_product(folder / "videos" / "mug" / "key", size=48)
    write_product(folder / "captures" / "mug", size=48)
    write_product(folder / "report" / "mug", size=48)
    return folder


@pytest.mark.parametrize("excluded", [True, False], ids=["excluded", "of an earlier run"])
@pytest.mark.parametrize("layout", ["product", "products"])
def test_a_catalogue_in_the_source_is_no_product(tmp_path, placed, layout, excluded):
    root = write_product(tmp_path / "mug", size=48)
    if layout == "products":
        root = tmp_path / "shoot"
        write_product(root / "mug", size=48)
    catalog(root / "catalog")
    here = placed(root)
    name = "mug" if layout == "products" or here == str(root) else f"placed-{tmp_path.name}"
    found, ignored = scanned(here, apart=(f"{here.rstrip('/')}/catalog",) if excluded else ())
    assert found == {name: 8} and ignored == ({} if excluded else {"catalog/": 1})


@pytest.mark.parametrize("what", ["report", "GAP folder"])
@pytest.mark.parametrize("layout", ["product", "products"])
def test_what_an_earlier_command_wrote_is_no_product(tmp_path, layout, what):
    root = write_product(tmp_path / "mug", size=48)
    if layout == "products":
        root = tmp_path / "shoot"
        write_product(root / "mug", size=48)
    if what == "report":
        write_product(root / "out" / "products", size=48)
        for name in ("index.html", "data.js", "report.js"):
            (root / "out" / name).write_text("x")
    else:
        gap_folder.write(package("mug"), root / "out")
    assert scanned(root) == ({"mug": 8}, {"out/": 1})


@pytest.mark.parametrize("link", [True, False])
def test_a_catalogue_that_is_reached_by_a_link_is_told_too(tmp_path, link):
    root = write_product(tmp_path / "mug", size=48)
    if link:
        catalog(tmp_path / "elsewhere")
        (root / "catalog").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    else:
        catalog(root / "catalog")
    (tmp_path / "short").symlink_to(root, target_is_directory=True)
    for uri in (root, tmp_path / "short"):
        assert list(scanned(uri, apart=(str(root / "catalog"),))[0].values()) == [8]


def test_films_that_are_used_are_not_counted_as_ignored(tmp_path):
    """Only unreadable files are: the video is a reject of its own."""
    root = tmp_path / "shoot"
    write_product(root / "mug", size=48)
    (root / "mug" / "making-of.mp4").write_bytes(b"x")
    (root / "turn.mp4").write_bytes(b"no film")
    (root / "vase").mkdir()
    (root / "vase" / "turn.mov").write_bytes(b"no film")
    (root / "vase" / "turn.txt").write_text("x")
    manifest = ingest(str(root), str(root / "catalog"), DiscoverOptions(apart=(str(root / "catalog"),)))
    rows = {row["product_id"]: row["error_code"] for row in pq.read_table(manifest).to_pylist()}
    assert rows == {"mug": None, "turn": "video.unreadable", "vase": "video.unreadable"}
    assert ignored_of(manifest) == {".mp4": 1, ".txt": 1}


@pytest.mark.parametrize(
    "mark", ["#", "%20", "&", "+", "é", "e\u0301", "[1]", "'", "!", "=", ";", ",", "?", "*", ":", "$", "~"]
)
def test_names_that_addresses_need_to_escape(tmp_path, placed, mark):
    folder = tmp_path / "shoot" / "mug"
    folder.mkdir(parents=True)
    wanted = [photo_of("PNG", angle) for angle in range(0, 360, 45)]
    for angle, data in zip(range(0, 360, 45), wanted, strict=True):
        (folder / f"mug {mark} {angle:03d}.png").write_bytes(data)
    [found] = discover(placed(tmp_path / "shoot"))
    assert [read_bytes(photo.uri, 10**6) for photo in found.photos] == wanted
