"""Table folders x readers: pandas, Polars, pyarrow and DuckDB read each table of a catalogue with one call."""

import json

import duckdb
import pandas
import polars
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from gapray.batch.render_stages import put_files
from gapray.catalog.compact import compact
from gapray.catalog.media import media_folder, media_name
from gapray.catalog.parts import commit
from gapray.catalog.reader import open_catalog
from gapray.catalog.schemas import FORMAT_KEY, TABLES
from gapray.catalog.storage import Folder
from gapray.cli.main import app
from gapray.report.pictures import frames_of
from tests.catalog.test_catalog import refused, still_row
from tests.report.test_site import add

READERS = {
    "pandas": lambda place: len(pandas.read_parquet(place)),
    "polars": lambda place: polars.read_parquet(place).height,
    "polars, lazily": lambda place: polars.scan_parquet(place).select(polars.len()).collect().item(),
    "pyarrow.dataset": lambda place: pyarrow.dataset.dataset(place).to_table().num_rows,
    "pyarrow.parquet": lambda place: pq.read_table(place).num_rows,
    "duckdb": lambda place: duckdb.sql(f"SELECT count(*) FROM '{place}/*.parquet'").fetchall()[0][0],
}
"""Reader's name -> function that returns the rows in a folder."""


def filled(folder):
    """A catalogue with rows in every table, in two parts each, and the files of its videos and stills."""
    for name in ("mug", "cup"):
        add(folder, name, lpips=0.1, gate="pass", preset="spin")
        place = media_folder("stills", name, "k")
        put_files(folder, place, {"studio-0.jpg": b"jpeg"}, name)
        still = still_row(name, "k") | {"file": f"{place}/studio-0.jpg", "product_key": name.ljust(64, "0")}
        commit(folder, {"stills": [still], "rejects": [refused(name, "render", "morph/1/web", at=1)]})
    return folder


@pytest.fixture(scope="module")
def catalog(tmp_path_factory):
    return filled(Folder.at(str(tmp_path_factory.mktemp("tables") / "catalog"))).path


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("table", TABLES)
def test_a_table_s_folder_reads_with_one_call(catalog, table, reader):
    rows = open_catalog(catalog).sql(f"SELECT count(*) AS n FROM all_{table}").to_pylist()[0]["n"]
    assert rows >= 2
    assert READERS[reader](f"{catalog}/{table}") == rows


@pytest.mark.parametrize("table", ["videos", "stills"])
def test_the_files_of_a_row_lie_apart_from_every_table(catalog, table):
    opened = open_catalog(catalog)
    column = opened.table(table)["files" if table == "videos" else "file"].to_pylist()
    for path in column if table == "stills" else [path for files in column for path in files]:
        assert path.split("/")[0] not in TABLES and opened.folder.read(path)


def test_a_name_inside_a_row_s_folder_is_the_same_in_both_layouts():
    inner = f"{media_folder('videos', 'mug', 'k' * 64)}/frames/000.png"
    assert media_name(inner) == media_name(inner.removeprefix("files/")) == "frames/000.png"


def as_format_1(folder):
    """Convert a catalogue to format 1, with files inside the tables' folders."""
    root = folder.path
    for table, column in (("videos", "files"), ("stills", "file")):
        for path in folder.parts(table):
            rows = pq.read_table(path)
            old = [
                value.removeprefix("files/")
                if isinstance(value, str)
                else [name.removeprefix("files/") for name in value]
                for value in rows[column].to_pylist()
            ]
            place = rows.schema.get_field_index(column)
            rows = rows.set_column(place, rows.schema.field(place), pa.array(old, rows.schema.field(place).type))
            pq.write_table(rows, path)
    for path in folder.filesystem.find(f"{root}/files"):
        target = path.replace(f"{root}/files/", f"{root}/")
        folder.filesystem.makedirs(target.rpartition("/")[0], exist_ok=True)
        folder.filesystem.mv(path, target)
    folder.filesystem.rm(f"{root}/files", recursive=True)
    for table in TABLES:
        for path in folder.parts(table):
            rows = pq.read_table(path)
            pq.write_table(rows.replace_schema_metadata({**rows.schema.metadata, FORMAT_KEY: b"1"}), path)


def test_a_catalogue_of_format_1_is_read_and_compacted_into_tables_that_read_everywhere(tmp_path):
    folder = filled(Folder.at(str(tmp_path / "catalog")))
    as_format_1(folder)
    (tmp_path / "catalog" / "videos" / "gone" / "0123").mkdir(parents=True)
    (tmp_path / "catalog" / "videos" / "gone" / "0123" / "turntable.mp4").write_bytes(
        b"of a row that is no longer there"
    )
    opened = open_catalog(folder.path)
    before = [frames_of(opened, row).shape for row in opened.videos().to_pylist()]
    shop = tmp_path / "shop"
    result = CliRunner().invoke(app, ["publish", folder.path, "--to", str(shop), "--json"])
    assert json.loads(result.output)["published"] == ["cup", "mug"]
    published = sorted(path.relative_to(shop).as_posix() for path in shop.rglob("*") if path.is_file())
    with pytest.raises(Exception, match=r"(?i)parquet|extension|png|json"):
        READERS["pyarrow.dataset"](f"{folder.path}/videos")

    compact(folder)

    for table in TABLES:
        for name, reader in READERS.items():
            assert reader(f"{folder.path}/{table}") == opened.table(table).num_rows, (table, name)
    assert [frames_of(opened, row).shape for row in opened.videos().to_pylist()] == before
    assert [opened.folder.read(path) for path in opened.stills()["file"].to_pylist()] == [b"jpeg"] * 2
    assert sorted(path.name for path in (tmp_path / "catalog" / "videos").iterdir() if path.is_dir()) == []
    result = CliRunner().invoke(app, ["publish", folder.path, "--to", str(tmp_path / "again"), "--json"])
    again = sorted(
        path.relative_to(tmp_path / "again").as_posix() for path in (tmp_path / "again").rglob("*") if path.is_file()
    )
    assert again == published
    assert compact(folder).rows_before == compact(folder).rows_after, "a second time there is nothing to do"


def test_a_part_that_is_being_written_is_in_no_reader_s_way(tmp_path, monkeypatch):
    """Polars reads every file in a folder, even if its name begins with a dot."""
    folder = filled(Folder.at(str(tmp_path / "catalog")))
    counts = {table: pq.read_table(f"{folder.path}/{table}").num_rows for table in TABLES}
    read = []

    def flushed(number):
        read.append({name: reader(f"{folder.path}/products") for name, reader in READERS.items()})

    monkeypatch.setattr("os.fsync", flushed)  # the last that is done before a part takes its place
    commit(folder, {"products": pq.read_table(f"{folder.path}/products").to_pylist()[:1]})
    assert read == [dict.fromkeys(READERS, counts["products"])]
