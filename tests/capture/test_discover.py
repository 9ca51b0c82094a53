import json
import math
import shutil
import zipfile

import fsspec
import pytest

from gapray.capture.azimuths import AzimuthOptions
from gapray.capture.capture_set import Reject
from gapray.capture.discover import DiscoverOptions, discover, scan
from gapray.capture.manifest import WRITTEN_MANIFEST, capture_set, check_manifest, manifest_row, write_manifest
from gapray.capture.storage import read_bytes
from gapray.errors import InputError
from tests.make import write_product, write_products
from tests.privileges import open_folder, without_privileges


def codes(uri, **options):
    return {item.product_id: item.code for item in scan(str(uri), **options) if isinstance(item, Reject)}


def test_a_folder_of_products_and_a_folder_of_one(tmp_path):
    write_products(tmp_path / "shoot", 3)
    assert [item.product_id for item in discover(str(tmp_path / "shoot"))] == ["sku-0000", "sku-0001", "sku-0002"]
    [capture] = discover(str(tmp_path / "shoot" / "sku-0001"))
    assert capture.product_id == "sku-0001"
    assert [photo.azimuth_deg for photo in capture.photos] == [0, 45, 90, 135, 180, 225, 270, 315]


def test_zip_and_memory_read_the_same_photos(tmp_path):
    folder = write_products(tmp_path / "shoot", 2)
    archive = shutil.make_archive(str(tmp_path / "shoot"), "zip", tmp_path, "shoot")
    memory = fsspec.filesystem("memory")
    memory.put(str(folder), "/gapray-test/shoot", recursive=True)
    try:
        for uri in (archive, "memory://gapray-test/shoot"):
            found = discover(uri)
            assert [item.product_id for item in found] == ["sku-0000", "sku-0001"]
            photo = found[1].photos[3]
            original = (folder / "sku-0001" / photo.name).read_bytes()
            assert read_bytes(photo.uri, 10**6) == original
    finally:
        memory.rm("/gapray-test", recursive=True)


def test_source_changes_with_the_files_and_with_nothing_else(tmp_path):
    folder = write_product(tmp_path / "mug")
    before = discover(str(folder))[0].source
    assert discover(str(folder))[0].source == before
    assert discover(str(folder), DiscoverOptions(AzimuthOptions(front=1)))[0].source != before
    file = folder / "mug_045.png"
    file.write_bytes(file.read_bytes() + b"x")
    assert discover(str(folder))[0].source != before


@pytest.mark.parametrize("name", ["capture.csv", "capture.json", "views.json"])
def test_tables_win_over_names(tmp_path, name):
    folder = write_product(tmp_path / "p", azimuths=range(0, 8 * 10, 10))
    azimuths = {f"p_{step * 10:03d}.png": 45.0 * step + 3 for step in range(8)}
    if name.endswith("csv"):
        text = "file,azimuth\n" + "".join(f"{file},{azimuth}\n" for file, azimuth in azimuths.items())
    elif name == "views.json":
        text = json.dumps({"frames": [{"file": file, "azimuth_deg": azimuth} for file, azimuth in azimuths.items()]})
    else:
        text = json.dumps(azimuths)
    (folder / name).write_text(text)
    [capture] = discover(str(folder))
    assert {photo.name: photo.azimuth_deg for photo in capture.photos} == azimuths


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("file,angle\np_000.png,0\n", "capture.invalid_table"),
        ("file,azimuth\nmissing.png,0\n", "capture.invalid_table"),
        ("file,azimuth\np_000.png,north\n", "capture.invalid_table"),
        ("file,azimuth\np_000.png,nan\n", "capture.invalid_table"),
        ("file,azimuth\np_000.png,0\np_000.png,10\n", "capture.invalid_table"),
        ("file,azimuth\r\np_000.png,0\rp_045.png,45\r\n", "capture.missing_views"),
        ("file,azimuth\n", "capture.invalid_table"),
        ("file,azimuth\n" + "x" * 200_000 + ",0\n", "capture.invalid_table"),
        ("file,azimuth\n../p_000.png,0\n", "capture.unsafe_path"),
        ("file,azimuth\np_000.png,0\np_045.png,0\np_090.png,90\np_135.png,180\n", "capture.duplicate_azimuth"),
    ],
)
def test_bad_tables(tmp_path, text, code):
    folder = write_product(tmp_path / "p")
    (folder / "capture.csv").write_text(text, newline="")
    assert codes(folder) == {"p": code}


def test_a_json_table_that_names_a_photo_twice_is_refused(tmp_path):
    folder = write_product(tmp_path / "p")
    members = [f'"p_{angle:03d}.png": {angle}' for angle in (*range(0, 360, 45), 0)]
    (folder / "capture.json").write_text("{" + ", ".join(members) + "}")
    [reject] = scan(str(tmp_path))
    assert reject.code == "capture.invalid_table" and "'p_000.png' is listed twice" in reject.message


@pytest.mark.parametrize("unit", ["radians", "fractions of a turn"])
@pytest.mark.parametrize("start", [0, 90])
def test_azimuths_in_another_unit_are_refused_even_if_views_may_be_missing(tmp_path, unit, start):
    folder = write_product(tmp_path / "p")
    turn = 2 * math.pi if unit == "radians" else 1.0
    lines = [f"p_{angle:03d}.png,{(start + angle) / 360 * turn:.6f}" for angle in range(0, 360, 45)]
    (folder / "capture.csv").write_text("\n".join(["file,azimuth", *lines]))
    options = DiscoverOptions(AzimuthOptions(allow_missing=True))
    [reject] = scan(str(tmp_path), options)
    assert reject.code == "capture.ambiguous_azimuths" and "not radians" in reject.message


CONTRADICTIONS = {
    "direction": ("file,azimuth,Direction\n", "cw"),
    "direction in words": ("file,azimuth,rotation direction\n", "Clockwise"),
    "direction unknown": ("file,azimuth,direction\n", "im Uhrzeigersinn"),
    "products": ("file,azimuth,SKU\n", "AB"),
    "product ids": ("file,azimuth,product_id\n", "AB"),
}


@pytest.mark.parametrize("what", CONTRADICTIONS)
@pytest.mark.parametrize("kind", ["csv", "json"])
def test_columns_that_contradict_a_table_are_refused(tmp_path, what, kind):
    folder = write_product(tmp_path / "p")
    header, value = CONTRADICTIONS[what]
    title = header.strip().split(",")[2]
    rows = [(f"p_{at:03d}.png", at, value if value != "AB" else "AABB"[at // 90]) for at in range(0, 360, 45)]
    if kind == "csv":
        (folder / "capture.csv").write_text(header + "".join(f"{file},{at},{cell}\n" for file, at, cell in rows))
    else:
        frames = [{"file": file, "azimuth": at, title: cell} for file, at, cell in rows]
        (folder / "capture.json").write_text(json.dumps(frames))
    [reject] = scan(str(folder))
    assert isinstance(reject, Reject) and reject.code == "capture.invalid_table"
    assert title.lower().replace(" ", "").replace("_", "") in reject.message.lower().replace("_", "").replace(" ", "")
    if value in ("cw", "Clockwise"):
        [taken] = scan(str(folder), DiscoverOptions(AzimuthOptions(direction="cw")))
        assert {photo.name: photo.azimuth_deg for photo in taken.photos}["p_045.png"] == 315


def test_a_contradicting_direction_of_a_json_table_is_refused(tmp_path):
    folder = write_product(tmp_path / "p")
    frames = [{"file": f"p_{at:03d}.png", "azimuth": at} for at in range(0, 360, 45)]
    for direction, expected in (("cw", {"p": "capture.invalid_table"}), ("counter-clockwise", {})):
        (folder / "capture.json").write_text(json.dumps({"direction": direction, "sku": "p", "frames": frames}))
        assert codes(folder) == expected
    (folder / "capture.json").write_text(json.dumps([{**frame, "azimuth_deg": 90} for frame in frames]))
    assert codes(folder) == {"p": "capture.invalid_table"}


def test_other_columns_of_a_table_are_fine(tmp_path):
    folder = write_product(tmp_path / "p")
    rows = [f"{at // 45},p_{at:03d}.png,{at},mug,ccw,{at},\n" for at in range(0, 360, 45)]
    (folder / "capture.csv").write_text("#,file,azimuth,sku,direction,elevation,note\n" + "".join(rows))
    assert codes(folder) == {}


def test_two_photos_at_one_angle_in_a_table_are_refused_even_if_views_may_be_missing(tmp_path):
    folder = write_product(tmp_path / "p")
    loose = DiscoverOptions(AzimuthOptions(allow_missing=True))
    for angle in ("0", "-45", "360"):
        rows = [f"p_{azimuth:03d}.png,{azimuth}" for azimuth in range(45, 360, 45)]
        (folder / "capture.csv").write_text("\n".join(["file,azimuth", *rows, f"p_000.png,{angle}"]))
        expected = {"p": "capture.duplicate_azimuth"} if angle == "-45" else {}
        assert codes(folder, options=loose) == expected
    (folder / "capture.csv").write_text("file,azimuth\n" + "".join(f"p_{at:03d}.png,0\n" for at in range(0, 360, 45)))
    assert codes(folder, options=loose) == {"p": "capture.duplicate_azimuth"}


def test_one_bad_product_leaves_the_others(tmp_path):
    write_products(tmp_path, 2)
    write_product(tmp_path / "bad", azimuths=[0, 45, 90])
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").write_text("no photos")
    write_product(tmp_path / "Füller", name="x")
    found = list(scan(str(tmp_path)))
    assert [item.product_id for item in found if not isinstance(item, Reject)] == ["sku-0000", "sku-0001"]
    assert codes(tmp_path) == {
        "bad": "capture.missing_views",
        "empty": "capture.no_photos",
        "Füller": "capture.invalid_product_id",
    }
    with pytest.raises(InputError):
        discover(str(tmp_path))


@pytest.mark.parametrize("mode", [0o000, 0o644], ids=["closed", "names only"])
@pytest.mark.parametrize("products", [0, 2])
def test_a_folder_that_cannot_be_listed_is_a_reject(products, mode):
    with open_folder() as root:
        write_products(root, products)
        closed = write_product(root / "closed")
        closed.chmod(mode)
        with without_privileges():
            found = list(scan(str(root)))
            with pytest.raises(InputError) as error:
                discover(str(closed))
        closed.chmod(0o755)
    assert [item.product_id for item in found] == ["closed", "sku-0000", "sku-0001"][: products + 1]
    assert [item.code for item in found if isinstance(item, Reject)] == [error.value.code] == ["capture.unreadable"]


def test_a_folder_of_a_bucket_that_cannot_be_listed_is_a_reject(tmp_path, monkeypatch):
    root = f"memory://shoot-{tmp_path.name}"
    for file in sorted(write_products(tmp_path, 3).rglob("*.png")):
        fsspec.filesystem("memory").pipe_file(f"{root}/{file.parent.name}/{file.name}", file.read_bytes())
    listed = type(fsspec.filesystem("memory")).ls

    def ls(self, path, *arguments, **options):
        if path.endswith("sku-0001"):
            raise ConnectionError("reset by peer")
        return listed(self, path, *arguments, **options)

    monkeypatch.setattr(type(fsspec.filesystem("memory")), "ls", ls)
    assert codes(root) == {"sku-0001": "capture.unreadable"}
    assert len(list(scan(root))) == 3


def test_a_link_to_itself_does_not_end_a_scan(tmp_path):
    write_product(tmp_path / "p")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "p" / "loop").symlink_to(tmp_path / "p" / "loop")
    assert [item.product_id for item in discover(str(tmp_path))] == ["p"]


def test_photos_beside_products_are_ambiguous(tmp_path):
    write_product(tmp_path, name="p")
    write_product(tmp_path / "masks", name="p")
    assert len(discover(str(tmp_path))[0].photos) == 8
    write_product(tmp_path / "other")
    with pytest.raises(InputError) as error:
        discover(str(tmp_path))
    assert error.value.code == "capture.ambiguous_layout"
    assert len(discover(str(tmp_path), DiscoverOptions(layout="product"))) == 1
    assert [item.product_id for item in discover(str(tmp_path), DiscoverOptions(layout="products"))] == ["other"]


def test_links_out_of_the_source_are_refused(tmp_path):
    folder = write_product(tmp_path / "shoot" / "p")
    outside = tmp_path / "secret.png"
    (folder / "p_045.png").rename(outside)
    (folder / "p_045.png").symlink_to(outside)
    assert codes(tmp_path / "shoot") == {"p": "capture.unsafe_path"}


def test_archive_members_outside_the_archive_are_refused(tmp_path):
    folder = write_product(tmp_path / "p")
    with zipfile.ZipFile(tmp_path / "evil.zip", "w") as archive:
        for file in sorted(folder.iterdir()):
            archive.write(file, f"../p/{file.name}")
    assert codes(tmp_path / "evil.zip") == {"p": "capture.unsafe_path"}
    (tmp_path / "broken.zip").write_bytes(b"PK\x03\x04 not a zip")
    with pytest.raises(InputError) as error:
        discover(str(tmp_path / "broken.zip"))
    assert error.value.code == "capture.invalid_archive"


def test_a_missing_source_is_an_error(tmp_path):
    for uri in (str(tmp_path / "none"), "memory://gapray-nothing-here", str(tmp_path / "none.zip")):
        with pytest.raises(InputError) as error:
            discover(uri)
        assert error.value.code == "capture.not_found"
    with pytest.raises(InputError) as error:
        discover(str(tmp_path))
    assert error.value.code == "capture.no_photos"


@pytest.mark.parametrize("name", ["shoot.tar.gz", "shoot.rar", "mug_000.jpg"])
def test_a_file_that_is_no_source_is_named_as_such(tmp_path, name):
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(InputError) as error:
        discover(str(tmp_path / name))
    assert error.value.code == "capture.unsupported_source" and name in error.value.message


def test_a_zip_is_one_whatever_the_case_of_its_name(tmp_path):
    folder = write_product(tmp_path / "p")
    with zipfile.ZipFile(tmp_path / "shoot.ZIP", "w") as archive:
        for photo in folder.iterdir():
            archive.write(photo, photo.name)
    assert [capture.product_id for capture in discover(str(tmp_path / "shoot.ZIP"))] == ["shoot"]


def test_hidden_files_are_not_photos(tmp_path):
    folder = write_product(tmp_path / "p")
    (folder / "._p_045.png").write_bytes(b"mac")
    (folder / ".DS_Store").write_bytes(b"mac")
    assert len(discover(str(folder))[0].photos) == 8


def test_manifest_holds_sets_and_rejects(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    write_products(tmp_path / "shoot", 2)
    write_product(tmp_path / "shoot" / "bad", azimuths=[0, 45])
    items = list(scan(str(tmp_path / "shoot")))
    path = str(tmp_path / "manifest.parquet")
    assert write_manifest(iter(items), path) == 3
    rows = pq.read_table(path)
    check_manifest(rows.schema)
    assert rows.schema.equals(WRITTEN_MANIFEST)
    good = [row for row in rows.to_pylist() if row["error_code"] is None]
    assert [capture_set(row) for row in good] == [item for item in items if not isinstance(item, Reject)]
    assert [manifest_row(item) for item in items] == rows.to_pylist()
    with pytest.raises(InputError) as error:
        check_manifest(pa.schema([("product_id", pa.string())]))
    assert error.value.code == "capture.invalid_manifest"


def test_a_dense_capture_is_thinned_to_even_steps(tmp_path):
    write_product(tmp_path / "sku", azimuths=range(0, 360, 15))
    [found] = discover(str(tmp_path), DiscoverOptions(layout="products", given=8))
    assert [photo.azimuth_deg for photo in found.photos] == [45.0 * step for step in range(8)]
    [whole] = discover(str(tmp_path), DiscoverOptions(layout="products"))
    assert len(whole.photos) == 24


def test_a_source_that_is_the_catalogue_is_refused(tmp_path):
    folder = write_products(tmp_path / "shoot", 2)
    for out in (folder, folder / "sku-0001", f"{folder}/../shoot"):
        with pytest.raises(InputError) as error:
            codes(folder, options=DiscoverOptions(apart=(str(out),)))
        assert error.value.code == "capture.source_is_output"
    link = tmp_path / "link"
    link.symlink_to(folder)
    with pytest.raises(InputError, match="where results go"):
        codes(folder, options=DiscoverOptions(apart=(str(link),)))


def test_pictures_in_a_catalogue_inside_the_source_are_not_products(tmp_path):
    folder = write_products(tmp_path / "shoot", 1)
    (folder / "catalog" / "runs").mkdir(parents=True)
    (folder / "catalog" / "runs" / "20261126T195902-157dc841.json").write_text("{}")
    shutil.copy(folder / "sku-0000" / "sku-0000_000.png", folder / "catalog" / "sheet.png")
    found = list(scan(str(folder), DiscoverOptions(apart=(str(folder / "catalog"),))))
    assert [item.product_id for item in found] == ["sku-0000"]


def test_the_remains_of_a_killed_run_are_not_a_product(tmp_path):
    folder = write_products(tmp_path / "shoot", 1)
    (folder / "catalog" / "runs").mkdir(parents=True)
    (folder / "catalog" / "manifests").mkdir()
    (folder / "catalog" / "runs" / "20261126T195902-157dc841.json").write_text("{}")
    beside: list[str] = []
    assert [item.product_id for item in scan(str(folder), beside=beside)] == ["sku-0000"]
    assert beside == ["catalog/"]
