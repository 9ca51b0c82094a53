"""The catalogue's contract, through its public functions."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gapray.catalog.compact import compact
from gapray.catalog.import_package import import_package
from gapray.catalog.parts import ROW_GROUP_BYTES, commit, part_name
from gapray.catalog.reader import Catalog, open_catalog
from gapray.catalog.rows import RunFacts, product_row, reject_row, view_row
from gapray.catalog.schemas import TABLES
from gapray.catalog.storage import Folder
from gapray.errors import CatalogError, InputError
from gapray.gap import folder as gap_folder
from gapray.gap.images import decode_grey8, encode_jpeg, encode_png
from gapray.gap.package import PackageWarning
from tests.make import package

START = datetime(2026, 1, 1, tzinfo=UTC)
FACTS = RunFacts("run-a", "settings", "classic", {role: f"{role}@1" for role in ("mask", "depth", "canny", "identity")})


def rows_of(product_id, *, key="k1", at=0, run="run-a", views=4):
    now = START + timedelta(seconds=at)
    made = package(product_id, key=key, views=views)
    facts = RunFacts(run, FACTS.settings, FACTS.profile, FACTS.models)
    shared = {"product_id": product_id, "key": key, "facts": facts, "now": now}
    return {
        "views": [
            view_row(view, encode_jpeg(view.reference, 95), encode_png(view.mask), **shared) for view in made.views
        ],
        "products": [
            product_row(
                source="s",
                uri="memory://x",
                azimuths_deg=[view.azimuth_deg for view in made.views],
                depth_scale=1.5,
                depth_shift=-0.25,
                **shared,
            )
        ],
    }


def joined(*many):
    return {table: [row for rows in many for row in rows.get(table, [])] for table in TABLES}


def test_round_trip(folder):
    commit(folder, joined(rows_of("b"), rows_of("a")))
    catalog = Catalog(folder)
    assert catalog.products()["product_id"].to_pylist() == ["a", "b"]
    read, made = catalog.package("a"), package("a", key="k1", views=4)
    for view, other in zip(read.views, made.views, strict=True):
        for field in ("mask", "depth", "canny", "identity"):
            assert np.array_equal(getattr(view, field), getattr(other, field))
    assert (read.key, read.depth_scale, read.depth_shift) == ("k1", 1.5, -0.25)
    with pytest.raises(CatalogError) as error:
        catalog.package("c")
    assert error.value.code == "catalog.product_not_found"


def test_a_part_is_named_by_its_keys_and_replaced_by_a_retry(folder):
    commit(folder, rows_of("a", at=1))
    commit(folder, rows_of("a", at=2))
    assert len(folder.parts("products")) == len(folder.parts("views")) == 1
    assert Catalog(folder).sql("SELECT count(*) n FROM all_products").to_pylist() == [{"n": 1}]


def test_views_without_a_product_row_are_not_current(folder):
    commit(folder, {"views": rows_of("a")["views"]})
    commit(folder, rows_of("b"))
    catalog = Catalog(folder)
    assert set(catalog.views()["product_id"].to_pylist()) == {"b"}
    compact(folder)
    assert catalog.sql("SELECT DISTINCT product_id FROM all_views").to_pylist() == [{"product_id": "b"}]


def test_the_newest_row_is_current_in_any_order_of_writing(folder):
    commit(folder, rows_of("a", key="new", at=10, run="run-b"))
    commit(folder, rows_of("a", key="old", at=5))  # a writer that wakes after its run was taken over
    catalog = Catalog(folder)
    assert catalog.products()["key"].to_pylist() == ["new"]
    assert set(catalog.views()["key"].to_pylist()) == {"new"}
    assert catalog.views().num_rows == 4


def test_views_of_two_runs_are_shown_once(folder):
    commit(folder, joined(rows_of("a", at=1), rows_of("b", at=1)))
    commit(folder, rows_of("a", at=2, run="run-b"))
    catalog = Catalog(folder)
    assert catalog.sql("SELECT count(*) n FROM all_views").to_pylist() == [{"n": 12}]
    assert catalog.views().num_rows == 8
    assert set(catalog.views("a")["run_id"].to_pylist()) == {"run-b"}


def test_a_reject_counts_until_its_product_is_packaged(folder):
    reject = reject_row(source="s", uri="u", code="image.empty", message="m", product_id="a", facts=FACTS, now=START)
    commit(folder, {"rejects": [reject]})
    catalog = Catalog(folder)
    assert catalog.rejects()["code"].to_pylist() == ["image.empty"]
    commit(folder, rows_of("a", at=10))
    assert catalog.rejects().num_rows == 0
    later = dict(reject, created_at=START + timedelta(seconds=20), key="other")
    commit(folder, {"rejects": [later]})
    assert catalog.rejects().num_rows == 1
    assert catalog.products().num_rows == 1


def test_compaction_changes_no_current_row(folder):
    for at in range(5):
        commit(folder, rows_of("a", key=f"k{at}", at=at))
        commit(folder, rows_of(f"p{at}", at=at))
    catalog = Catalog(folder)
    before = {table: catalog.table(table) for table in ("products", "views", "rejects")}
    done = compact(folder, products_per_part=4)
    assert done.parts_after == 3 < done.parts_before, "two of views, one of products"
    for table, rows in before.items():
        assert catalog.table(table).equals(rows), table
    again = compact(folder, products_per_part=4)
    assert (again.rows_before, again.parts_after) == (again.rows_after, 3)


def test_other_tools_read_the_tables(tmp_path):
    folder = Folder.at(str(tmp_path))
    commit(folder, rows_of("a"))
    [count] = duckdb.sql(f"SELECT count(*) FROM '{tmp_path}/views/*.parquet'").fetchall()
    assert count == (4,)
    frame = pq.read_table(tmp_path / "views").to_pandas()
    assert len(frame["identity"][0]) == 517
    assert frame["reference"][0][:2] == b"\xff\xd8"


def test_a_partially_written_part_is_ignored(tmp_path):
    folder = Folder.at(str(tmp_path))
    commit(folder, rows_of("a"))
    (tmp_path / "products" / ".part-x.parquet.abc.tmp").write_bytes(b"half")
    (tmp_path / "products" / "_temporary.parquet").write_bytes(b"half")
    assert Catalog(folder).products().num_rows == 1


def test_row_groups_are_bounded(tmp_path):
    folder = Folder.at(str(tmp_path))
    rows = rows_of("a")
    for row in rows["views"]:
        row["reference"] = bytes(30 * 2**20)
    commit(folder, rows)
    [part] = folder.parts("views")
    metadata = pq.ParquetFile(part).metadata
    assert metadata.num_row_groups >= 2
    for index in range(metadata.num_row_groups):
        assert metadata.row_group(index).total_byte_size <= ROW_GROUP_BYTES * 1.01


def test_import(tmp_path):
    import_package(Folder.at(str(tmp_path)), package("old", key=""), uri="x")
    read = open_catalog(str(tmp_path)).package("old")
    assert len(read.views) == 8
    assert read.models["mask"] == "m@1"


def test_current_and_superseded_rows_are_counted_separately(folder):
    assert Catalog(folder).counts() == {}
    commit(folder, joined(rows_of("a", key="k1", views=4), rows_of("b", key="k1", views=4)))
    assert Catalog(folder).counts() == {"products": (2, 0), "views": (8, 0)}
    commit(folder, rows_of("a", key="k2", at=5, views=8))
    assert Catalog(folder).counts() == {"products": (2, 1), "views": (12, 4)}
    compact(folder)
    assert Catalog(folder).counts() == {"products": (2, 0), "views": (12, 0)}


def test_an_identical_package_is_not_imported_again(tmp_path):
    """What `gapray export` wrote, brought into its own catalogue, changes nothing; touched by hand, it is another package."""
    where = Folder.at(str(tmp_path / "c"))
    commit(where, joined(rows_of("mug", key="k1", views=8)))
    gap_folder.write(Catalog(where).package("mug"), tmp_path / "gap")
    assert import_package(where, gap_folder.read(tmp_path / "gap"), uri="gap") == "same"
    assert Catalog(where).products()["uri"].to_pylist() == ["memory://x"]
    assert import_package(Folder.at(str(tmp_path / "new")), gap_folder.read(tmp_path / "gap"), uri="gap") == "new"
    assert import_package(Folder.at(str(tmp_path / "new")), gap_folder.read(tmp_path / "gap"), uri="gap") == "same"
    mask = tmp_path / "gap" / "view_045" / "geometry" / "mask_000.png"
    retouched = decode_grey8(mask.read_bytes())
    retouched[:9] = 255
    mask.write_bytes(encode_png(retouched))
    assert import_package(where, gap_folder.read(tmp_path / "gap"), uri="gap") == "replaced"
    assert Catalog(where).package("mug").key != "k1", "what was made of the first is not taken for made of this"
    assert (Catalog(where).package("mug").views[1].mask[:9] == 255).all()


def test_what_was_changed_in_an_imported_folder_is_told_again(tmp_path):
    """The views that are read are those of the catalogue, but the folder is no longer what was imported."""
    where = Folder.at(str(tmp_path / "c"))
    commit(where, joined(rows_of("mug", key="k1", views=8)))
    gap_folder.write(Catalog(where).package("mug"), tmp_path / "gap")
    depth = tmp_path / "gap" / "view_045" / "geometry" / "depth_000.png"
    depth.write_bytes(encode_png(255 - decode_grey8(depth.read_bytes())))
    assert import_package(where, gap_folder.read(tmp_path / "gap"), uri="gap") == "replaced"
    package = Catalog(where).package("mug")
    assert "gap.depth_changed" in [warning.code for warning in package.warnings] and package.key == "k1"
    assert import_package(where, gap_folder.read(tmp_path / "gap"), uri="gap") == "same"
    canny = tmp_path / "gap" / "view_045" / "geometry" / "canny_000.png"
    canny.write_bytes(encode_png(decode_grey8(canny.read_bytes())[::-1]))
    assert import_package(where, gap_folder.read(tmp_path / "gap"), uri="gap") == "replaced"
    assert Catalog(where).package("mug").key != "k1"


def test_an_import_with_missing_views_is_rejected(tmp_path):
    where = Folder.at(str(tmp_path))
    holed = replace(package("mug"), views=package("mug").views[:2] + package("mug").views[3:])
    with pytest.raises(InputError) as error:
        import_package(where, holed, uri="gap")
    assert error.value.code == "capture.missing_views" and "between 45 and 135" in error.value.message
    assert Catalog(where).counts() == {}
    assert import_package(where, holed, uri="gap", allow_missing=True) == "new"


def test_an_import_checks_the_photos_again(tmp_path):
    """A manifest's empty list of warnings is of the pictures that were exported, and tells of no others."""
    where = Folder.at(str(tmp_path))
    views = list(package("mug").views)
    views[3] = replace(views[3], reference=views[1].reference, mask=views[1].mask)
    warning = PackageWarning("gap.reference_changed", "view_135: …")
    import_package(where, replace(package("mug"), views=tuple(views), warnings=(warning,)), uri="gap")
    assert [warning["code"] for warning in Catalog(where).warnings("mug")] == [
        "gap.reference_changed",
        "azimuth.duplicate",
    ]
    assert Catalog(where).warnings("cup") == []


def test_a_missing_catalogue_raises(tmp_path):
    for uri in (str(tmp_path / "none"), "nosuch://x"):
        with pytest.raises(CatalogError) as error:
            open_catalog(uri)
        assert error.value.code == "catalog.not_found"


def test_bad_sql_is_an_error_with_a_code(tmp_path):
    commit(Folder.at(str(tmp_path)), rows_of("a"))
    with pytest.raises(CatalogError) as error:
        Catalog(Folder.at(str(tmp_path))).sql("SELECT nothing FROM nowhere")
    assert error.value.code == "catalog.invalid_query"


histories = st.lists(
    st.tuples(st.sampled_from("ab"), st.sampled_from(["k1", "k2"]), st.integers(0, 5)), min_size=1, max_size=8
)


@settings(max_examples=25, deadline=None)
@given(histories)
def test_any_history_has_one_current_row_per_product(history):
    import tempfile

    with tempfile.TemporaryDirectory() as root:
        folder = Folder.at(root)
        for index, (product, key, at) in enumerate(history):
            commit(folder, rows_of(product, key=key, at=at, run=f"run-{index}", views=2))
        catalog = Catalog(folder)
        products = catalog.products().to_pylist()
        assert [row["product_id"] for row in products] == sorted({product for product, _, _ in history})
        for row in products:
            views = catalog.views(row["product_id"]).to_pylist()
            assert [view["azimuth_deg"] for view in views] == [0.0, 180.0]
            assert {view["key"] for view in views} == {row["key"]}


def test_part_names_do_not_depend_on_order():
    rows = joined(rows_of("a"), rows_of("b"))["products"]
    assert part_name(pa.Table.from_pylist(rows)) == part_name(pa.Table.from_pylist(rows[::-1]))


def test_parts_are_split_by_size_between_products(folder):
    rows = joined(*(rows_of(f"p{index}") for index in range(6)))
    size = sum(len(row[name]) for row in rows["views"][:8] for name in ("reference", "mask", "depth", "canny"))
    commit(folder, rows, part_bytes=size)
    views = [pq.read_table(path, filesystem=folder.arrow) for path in folder.parts("views")]
    assert len(views) > 2 and len(folder.parts("products")) == len(views)
    product_lists = [sorted(set(part["product_id"].to_pylist())) for part in views]
    assert sorted(sum(product_lists, [])) == [f"p{index}" for index in range(6)], "no product in two parts"
    commit(folder, rows, part_bytes=size)
    assert len(folder.parts("views")) == len(views), "a task that is run again replaces its own files"
    assert Catalog(folder).products().num_rows == 6 and len(Catalog(folder).package("p3").views) == 4


@pytest.mark.parametrize(("products", "size"), [(2, 10**9), (100, 40_000), (100, 1)])
def test_compaction_bounds_parts_and_drops_superseded_rows(folder, products, size):
    commit(folder, joined(*(rows_of(f"p{index}", key="old") for index in range(5))))
    commit(folder, joined(*(rows_of(f"p{index}", at=1) for index in range(3))))
    # One package in two parts, as after a retry with other neighbours: the newer one stays.
    commit(folder, joined(rows_of("p1", at=2, run="run-b"), rows_of("q", at=2)))
    commit(folder, {"views": rows_of("orphan")["views"]})
    catalog = Catalog(folder)
    before = {table: catalog.table(table) for table in ("products", "views")}
    compact(folder, products, size)
    for table, rows in before.items():
        assert catalog.table(table).equals(rows)
        assert catalog.dataset(table).count_rows() == rows.num_rows
    parts = [pq.read_table(path, filesystem=folder.arrow)["product_id"].to_pylist() for path in folder.parts("views")]
    assert all(len(set(part)) <= products for part in parts) and len(sum(parts, [])) == before["views"].num_rows
    if size == 1:
        assert all(len(set(part)) == 1 for part in parts)


@pytest.mark.long
@pytest.mark.timeout(120)
def test_repeated_reading_never_deadlocks(folder):
    """Arrow's threads once waited for Python's lock while DuckDB's thread held it and waited for them."""
    for index in range(40):
        commit(folder, rows_of(f"p{index}", views=1))
    catalog = Catalog(folder)
    for _ in range(60):
        assert catalog.table("views", columns=["product_id", "key"]).num_rows == 40
        assert catalog.rejects().num_rows == 0


def test_local_files_are_read_by_arrows_own_file_system(tmp_path):
    from pyarrow.fs import LocalFileSystem

    assert isinstance(Folder.at(str(tmp_path)).arrow, LocalFileSystem)


def test_an_unwritable_catalogue_is_reported(tmp_path):
    folder = Folder.at(str(tmp_path / "catalog"))
    (tmp_path / "catalog").mkdir()
    for table in TABLES:
        (tmp_path / "catalog" / table).write_bytes(b"a file where the table's folder belongs")
    reject = reject_row(product_id="a", source="s", uri="u", code="c", message="m", facts=FACTS, now=START)
    for write in (
        lambda: commit(folder, rows_of("a")),
        lambda: commit(folder, {"rejects": [reject]}),
        lambda: import_package(folder, package("a"), uri="u"),
    ):
        with pytest.raises(CatalogError) as error:
            write()
        assert error.value.code == "catalog.write_failed"


def video_row(product_id, key="v", *, backend="morph", seed=0, preset="web", at=0, product_key="k1"):
    now = START + timedelta(seconds=at)
    lists = {name: [] for name in ("azimuths_deg", "key_frames", "files", "models", "reprojection_iou", "warnings")}
    numbers = {"frames": 8, "size": 64, "bytes": 1, "elevation_deg": 0.0, "direction": 1, "seconds": 1.0}
    columns = {"profile": "classic", "source_type": "x", "licence": "x", "run_id": "run-a", "created_at": now}
    named = {"product_id": product_id, "key": key, "product_key": product_key}
    return named | {"backend": backend, "seed": seed, "preset": preset} | lists | numbers | columns


def verdict_row(product_id, key, video_key, label="gapray", *, at=0, gate="pass", reasons=(), **numbers):
    now = START + timedelta(seconds=at)
    named = {"product_id": product_id, "key": key, "product_key": "k1", "video_key": video_key, "label": label}
    columns = {
        "foreign_video": False,
        "angles": 1,
        "key_angles": 0,
        "gate": gate,
        "reasons": list(reasons),
        "notes": [],
    }
    stamp = {"protocol": "{}", "run_id": "run-a", "created_at": now}
    return dict.fromkeys(TABLES["verdicts"].names) | named | columns | numbers | stamp


def still_row(product_id, key, *, scene="studio", seed=0, at=0, percentile=0.5, gate="pass", reasons=()):
    now = START + timedelta(seconds=at)
    numbers = dict.fromkeys(
        (
            "azimuth_deg",
            "cosine",
            "lpips",
            "iou",
            "colour",
            "hue",
            "detail",
            "mirror",
            "score",
            "other_percentile",
            "seconds",
        ),
        0.0,
    )
    named = {
        "product_id": product_id,
        "key": key,
        "product_key": "k1",
        "scene": scene,
        "backend": "composite",
        "seed": seed,
    }
    columns = {
        "width": 8,
        "height": 8,
        "bytes": 1,
        "pasted": True,
        "models": [],
        "reasons": list(reasons),
        "gate": gate,
    }
    texts = dict.fromkeys(("prompt", "file", "source_type", "licence", "profile"), "x")
    return named | columns | texts | numbers | {"same_percentile": percentile, "run_id": "run-a", "created_at": now}


def refused(product_id, stage, item, *, at):
    now = START + timedelta(seconds=at)
    columns = {"source": "s", "uri": "u", "code": "model.failed", "message": "m", "facts": FACTS, "now": now}
    return reject_row(product_id=product_id, stage=stage, item=item, **columns)


def test_videos_of_every_preset_are_current(folder):
    commit(folder, rows_of("a"))
    videos = [video_row("a", "web", at=1), video_row("a", "spin", preset="spin", at=2)]
    commit(folder, {"videos": [*videos, video_row("a", "web-two", at=3)]})
    catalog = Catalog(folder)
    assert sorted(catalog.videos()["key"].to_pylist()) == ["spin", "web-two"]
    assert catalog.best_videos()["key"].to_pylist() == ["web-two"]


def test_a_reject_is_current_until_its_item_succeeds(folder):
    """Neither another seed or preset, nor another scene, nor another video's score makes up for it."""
    commit(folder, rows_of("a"))
    commit(folder, {"videos": [video_row("a", "seed0"), video_row("a", "seed1", seed=1)]})
    rejects = [
        refused("a", "render", "morph/2/web", at=1),
        refused("a", "render", "morph/0/spin", at=1),
        refused("a", "score", "seed0", at=1),
        refused("a", "stills", "studio/composite/0", at=1),
        refused("a", "stills", "studio/composite/1", at=1),
        refused("a", "stills", "desk/composite/0", at=1),
    ]
    commit(folder, {"rejects": rejects})
    catalog = Catalog(folder)

    def items():
        return [(row["stage"], row["item"]) for row in catalog.rejects().to_pylist()]

    assert len(items()) == 6
    commit(
        folder,
        {
            "videos": [video_row("a", "seed2", seed=2, at=2)],
            "verdicts": [verdict_row("a", "s", "seed1", at=2)],
            "stills": [still_row("a", "still", scene="studio", seed=1, at=2)],
        },
    )
    left = [
        ("render", "morph/0/spin"),
        ("score", "seed0"),
        ("stills", "desk/composite/0"),
        ("stills", "studio/composite/0"),
    ]
    assert items() == left
    compact(folder)
    assert items() == left
    # The refused score's video is superseded, and the others are made.
    commit(
        folder,
        {
            "videos": [video_row("a", "seed0-two", at=3), video_row("a", "spin", preset="spin", at=3)],
            "stills": [still_row("a", f"still-{scene}", scene=scene, at=3) for scene in ("studio", "desk")],
        },
    )
    assert items() == []


def test_rejects_without_an_item_are_read(folder):
    """The column is new: a part without it counts until its stage succeeds for the product."""
    commit(folder, rows_of("a"))
    old = pa.Table.from_pylist([refused("a", "render", "", at=1)], schema=TABLES["rejects"]).drop_columns(["item"])
    sink = pa.BufferOutputStream()
    pq.write_table(old, sink)
    folder.put("rejects", "part-old.parquet", sink.getvalue())
    catalog = Catalog(folder)
    assert [(row["stage"], row["item"]) for row in catalog.rejects().to_pylist()] == [("render", None)]
    commit(folder, {"videos": [video_row("a", at=2)]})
    assert catalog.rejects().num_rows == 0


def test_a_query_that_is_not_utf8_is_rejected(tmp_path):
    """What a script in Latin-1 passes reaches Python as halves of surrogate pairs."""
    with pytest.raises(CatalogError) as error:
        Catalog(Folder.at(str(tmp_path))).sql("SELECT 'caf\udce9' AS x")
    assert error.value.code == "catalog.invalid_query"


@pytest.mark.parametrize(
    "query",
    [
        "DROP VIEW views",
        "CREATE TABLE a AS SELECT 1",
        "DELETE FROM all_views",
        "SET threads = 1",
        "ATTACH 'x.db'",
        "BEGIN",
    ],
)
def test_statements_that_do_not_read_are_rejected(tmp_path, query):
    commit(Folder.at(str(tmp_path)), rows_of("mug"))
    with pytest.raises(CatalogError) as error:
        Catalog(Folder.at(str(tmp_path))).sql(query)
    assert error.value.code == "catalog.invalid_query" and "only read" in error.value.message
    assert Catalog(Folder.at(str(tmp_path))).sql("EXPLAIN SELECT * FROM views").num_rows
