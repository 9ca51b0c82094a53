"""What reading costs: which tables are listed, which parts opened, how much is held. And which formats are read at all."""

import random
from datetime import timedelta

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gapray.catalog.compact import compact
from gapray.catalog.lazy_table import READ_BYTES
from gapray.catalog.parts import commit, write_part
from gapray.catalog.reader import Catalog, open_catalog
from gapray.catalog.rows import reject_row
from gapray.catalog.schemas import FORMAT, FORMAT_KEY, OLDEST_FORMAT, REJECTS, TABLES
from gapray.errors import CatalogError
from tests.catalog.test_catalog import FACTS, START, joined, rows_of
from tests.counted import counted_folder

PARTS = 6


@pytest.fixture
def counted(tmp_path):
    """A catalogue in a bucket: in each part a product early in the alphabet and one late, so that ranges say nothing."""
    folder = counted_folder(tmp_path)
    for index in range(PARTS):
        commit(folder, joined(rows_of(f"a{index}"), rows_of(f"z{index}")))
    folder.filesystem.reset()
    return Catalog(folder)


def tables(counts):
    """Name -> count, of paths summed up by their table."""
    found = {}
    for path, count in counts.items():
        name = path.split("/")[1]
        found[name] = found.get(name, 0) + count
    return found


@pytest.mark.parametrize(
    ("read", "listed"),
    [
        (lambda catalog: catalog.products(), ["products"]),
        (lambda catalog: catalog.videos(), ["videos"]),
        (lambda catalog: catalog.views(), ["products", "views"]),
        (lambda catalog: list(catalog.stream("videos")), ["videos"]),
        (lambda catalog: catalog.best_videos("a1"), ["products", "verdicts", "videos"]),
        (lambda catalog: catalog.package("a1"), ["products", "views"]),
        (lambda catalog: catalog.parts_of_views(), ["views"]),
        (lambda catalog: list(catalog.views_by_part()), ["products", "views"]),
        (lambda catalog: list(catalog.stream("products")), ["products"]),
        (lambda catalog: catalog.sql("SELECT count(*) FROM all_stills"), ["stills"]),
        (lambda catalog: catalog.sql("SELECT * FROM products JOIN all_products USING (key)"), ["products"]),
        (lambda catalog: catalog.sql("SHOW TABLES"), []),
    ],
)
def test_a_query_lists_only_the_tables_it_reads_and_each_once(counted, read, listed):
    read(counted)
    assert tables(counted.folder.filesystem.listed) == dict.fromkeys(listed, 1)


def test_images_of_other_products_parts_are_not_read(tmp_path):
    """By the range of its names each part could hold it."""
    folder, noise = counted_folder(tmp_path), random.Random(0)
    for index in range(PARTS):
        rows = joined(rows_of(f"a{index}"), rows_of(f"z{index}"))
        for row in rows["views"]:
            row["reference"] = noise.randbytes(2**20)
        commit(folder, rows)
    folder.filesystem.reset()
    assert Catalog(folder).views("a3")["product_id"].to_pylist() == ["a3"] * 4
    part, footers = 8 * 2**20, PARTS * 2 * 2**17  # Arrow reads the last 64 KiB of a file for its footer; two tables
    assert part < folder.filesystem.bytes < part + 2**19 + footers < PARTS * part


def test_iterating_over_packages_opens_every_part_equally_often(counted):
    seen = [row for part in counted.views_by_part() for row in part.select(["product_id", "azimuth_deg"]).to_pylist()]
    assert len(seen) == 2 * PARTS * 4 == len({(row["product_id"], row["azimuth_deg"]) for row in seen})
    opened = counted.folder.filesystem.opened
    assert {count for path, count in opened.items() if "/views/" in path} <= {4}, "footer and rows, of keys and of all"


def test_views_by_part_are_the_current_views(folder):
    commit(folder, joined(rows_of("a", key="old"), rows_of("b")))
    commit(folder, joined(rows_of("a", at=1), rows_of("c")))
    commit(folder, joined(rows_of("b", at=2, run="run-b"), rows_of("d")))
    commit(folder, {"views": rows_of("orphan")["views"]})
    catalog = Catalog(folder)
    walked = pa.concat_tables(catalog.views_by_part()).sort_by(
        [("product_id", "ascending"), ("azimuth_deg", "ascending")]
    )
    columns = ["product_id", "key", "azimuth_deg", "run_id"]
    assert walked.select(columns).to_pylist() == catalog.views().select(columns).to_pylist()
    assert sum(batch.num_rows for batch in catalog.stream("views", rows=3)) == 16
    assert max(batch.num_rows for batch in catalog.stream("views", rows=3)) == 3


def test_streaming_a_table_from_a_bucket_holds_only_a_chunk(tmp_path):
    """Rows are long, so that DuckDB could not sort them in `STREAM_MEMORY`; every second one is superseded."""
    folder, noise = counted_folder(tmp_path), random.Random(0)
    rows, parts, width = 2000, 36, 4096
    for part in range(parts):
        names = [f"p{part // 2:02d}-{index:04d}" for index in range(rows)]
        reject = reject_row(product_id="", source="s", uri="u", code="image.empty", message="", facts=FACTS, now=START)
        reject |= {"created_at": START + timedelta(seconds=part), "key": f"k{part}"}
        columns = {name: [value] * rows for name, value in reject.items()}
        columns |= {"product_id": names, "message": [noise.randbytes(width // 2).hex() for _ in names]}
        write_part(folder, "rejects", pa.table(columns, schema=REJECTS))
    size = parts * rows * width
    before, held, found = pa.total_allocated_bytes(), 0, []
    folder.filesystem.reset()
    for batch in Catalog(folder).stream("rejects", rows=1000):
        assert batch.num_rows <= 1000 and len(batch["message"][0].as_py()) == width
        assert set(batch["key"].to_pylist()) == {f"k{2 * int(batch['product_id'][0].as_py()[1:3]) + 1}"}
        found += batch["product_id"].to_pylist()
        held = max(held, pa.total_allocated_bytes() - before)
    assert found == sorted(set(found)) and len(found) == parts * rows / 2
    # A piece, the bytes of its files as they came, and current rows on their way out.
    most = max(held, folder.filesystem.most_held - before)
    assert most < 3 * READ_BYTES < size, (most, size)


def test_the_chunks_of_a_bucket_make_the_whole_table(counted, monkeypatch):
    """Also where each holds one row group."""
    monkeypatch.setattr("gapray.catalog.lazy_table.READ_BYTES", 1)
    assert counted.products()["product_id"].to_pylist() == sorted(
        f"{letter}{n}" for letter in "az" for n in range(PARTS)
    )
    assert counted.table("views", columns=["product_id", "azimuth_deg"]).num_rows == 2 * PARTS * 4
    assert counted.sql("SELECT count(*) n FROM all_views WHERE azimuth_deg = 90").to_pylist() == [{"n": 2 * PARTS}]


def write_format(folder, path, part_format):
    """Rewrite a part with another format in its footer."""
    part = pq.read_table(path, filesystem=folder.arrow)
    metadata = {key: value for key, value in part.schema.metadata.items() if key != FORMAT_KEY}
    metadata |= {} if part_format is None else {FORMAT_KEY: str(part_format).encode()}
    pq.write_table(part.replace_schema_metadata(metadata), path, filesystem=folder.arrow)


READS = {
    "table": lambda catalog: catalog.products(),
    "package": lambda catalog: catalog.package("a"),
    "sql": lambda catalog: catalog.sql("SELECT count(*) FROM products"),
    "stream": lambda catalog: list(catalog.stream("products")),
    "dataset": lambda catalog: catalog.dataset("products").count_rows(),
    "walk": lambda catalog: list(catalog.views_by_part()),
    "one part": lambda catalog: catalog.views_of("a", "k1", catalog.folder.parts("views")[0]),
    "compact": lambda catalog: compact(catalog.folder),
}
FORMATS = [
    (FORMAT + 1, "catalog.newer_format", "Upgrade"),
    (OLDEST_FORMAT - 1, "catalog.older_format", "compact"),
    (None, "catalog.incompatible", "release that wrote it"),
    ("new", "catalog.incompatible", "release that wrote it"),
]


@pytest.mark.parametrize(("part_format", "code", "remedy"), FORMATS)
@pytest.mark.parametrize("read", READS)
def test_a_part_of_another_format_is_rejected_by_every_reader(folder, read, part_format, code, remedy):
    commit(folder, joined(rows_of("a")))
    commit(folder, joined(rows_of("b")))
    for table in ("products", "views"):
        write_format(folder, folder.parts(table)[0], part_format)
    catalog = open_catalog(folder.filesystem.unstrip_protocol(folder.path))
    before = {table: folder.parts(table) for table in TABLES}
    with pytest.raises(CatalogError) as caught:
        READS[read](catalog)
    assert caught.value.code == code and remedy in caught.value.remedy
    assert "part-" in caught.value.message
    assert {table: folder.parts(table) for table in TABLES} == before, "nothing was written or removed"


def test_every_part_has_its_format_in_the_footer(folder):
    bare = pa.Table.from_pylist(rows_of("a")["products"], schema=TABLES["products"]).replace_schema_metadata(None)
    commit(folder, {"products": bare, "views": rows_of("a")["views"]})
    for table in ("products", "views"):
        [path] = folder.parts(table)
        assert pq.read_schema(path, filesystem=folder.arrow).metadata[FORMAT_KEY] == str(FORMAT).encode()
    assert Catalog(folder).package("a").key == "k1"


def test_compaction_upgrades_older_formats(folder, monkeypatch):
    commit(folder, rows_of("a"))
    monkeypatch.setattr("gapray.catalog.schemas.OLDEST_FORMAT", 0)
    for table in ("products", "views"):
        write_format(folder, folder.parts(table)[0], 0)
    catalog = Catalog(folder)
    assert len(catalog.package("a").views) == 4
    compact(folder)
    monkeypatch.undo()
    assert len(catalog.package("a").views) == 4
