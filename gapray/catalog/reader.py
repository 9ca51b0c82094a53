"""Reading of catalogues: current rows as Arrow tables, packages of products, and SQL queries."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from numpy.typing import NDArray

from gapray.catalog.current_sql import CURRENT_SQL
from gapray.catalog.lazy_table import POSITION, ChunkedScan, LazyTable
from gapray.catalog.package_rows import package_of_rows
from gapray.catalog.schemas import SORT_COLUMNS, TABLES, check_format
from gapray.catalog.storage import Folder
from gapray.errors import CatalogError
from gapray.gap.package import GapPackage

if TYPE_CHECKING:
    import duckdb

FILES_AT_ONCE = 256
"""Maximum number of parts in one scan: a dataset keeps the footers of all its files, about 100 kB each."""
FOOTERS_AT_ONCE = 32
"""Footers that are read concurrently; in a bucket each takes a request."""
STREAM_MEMORY = "512MB"
"""Memory of DuckDB to find the current rows of a streamed table; beyond it DuckDB uses the disk."""
_PACKAGE_PARTS = pa.schema(
    [
        ("product_id", pa.string()),
        ("key", pa.string()),
        ("created_at", pa.timestamp("us", tz="UTC")),
        ("run_id", pa.string()),
        ("part", pa.int32()),
    ]
)
"""Packages and the parts that contain their views; `part` is an index into the list of files, whose names would be too large for
millions of rows."""
_READ_STATEMENTS = frozenset({"SELECT", "EXPLAIN", "PRAGMA", "CALL", "MULTI", "COPY", "EXPORT"})
"""DuckDB's statement types that return rows or write them to files; `MULTI` is PIVOT. Other statements would only change the
temporary connection."""


def open_catalog(uri: str) -> Catalog:
    """Open a catalogue for reading.

    Args:
        uri: Local folder or fsspec URI.

    Raises:
        CatalogError: `catalog.not_found` if there are no tables.
    """
    catalog = Catalog(Folder.at(uri))
    if not any(catalog.folder.parts(table) for table in TABLES):
        raise CatalogError("catalog.not_found", f"no catalogue lies at {uri}")
    return catalog


class Catalog:
    """Read access to a catalogue. Every call lists the parts again, so that rows of a running batch appear as they are committed.

    Methods that read parts raise `CatalogError` with `catalog.newer_format`, `catalog.older_format` or `catalog.incompatible` for
    parts that this release cannot read (`check_format`).
    """

    def __init__(self, folder: Folder) -> None:
        self.folder = folder

    def table(self, name: str, *, columns: list[str] | None = None, product_id: str | None = None) -> pa.Table:
        """Return the current rows of one table.

        Args:
            name: A name in `TABLES`, `best_videos`, `best_exports` or `best_stills`.
            columns: Columns to read; default: all.
            product_id: Restrict to one product.

        Returns:
            Rows sorted by `SORT_COLUMNS`, or by product.
        """
        files = {name: self.folder.parts(name)} if name in TABLES else {}
        if files == {name: []}:
            return TABLES[name].empty_table().select(columns or TABLES[name].names)
        chosen = ", ".join(f'"{column}"' for column in columns) if columns else "*"
        order = ", ".join(SORT_COLUMNS.get(name, ("product_id",)))
        with self._connection(product_id, files=files) as connection:
            return connection.sql(f'SELECT {chosen} FROM (SELECT * FROM "{name}" ORDER BY {order})').to_arrow_table()

    def products(self) -> pa.Table:
        """Return the current rows of `products`."""
        return self.table("products")

    def warnings(self, product_id: str | None = None) -> list[dict[str, str]]:
        """Return the warnings of current products, or of one: product_id, code and message, sorted by product."""
        columns = "product_id, unnest(warnings, max_depth := 2)"
        with self._connection(product_id) as connection:
            table = connection.sql(f"SELECT {columns} FROM products ORDER BY product_id").to_arrow_table()
        rows: list[dict[str, str]] = table.to_pylist()
        return rows

    def views(self, product_id: str | None = None) -> pa.Table:
        """Return the current rows of `views` with their images; specify a product in a large catalogue."""
        return self.table("views", product_id=product_id)

    def rejects(self) -> pa.Table:
        """Return the current rows of `rejects`."""
        return self.table("rejects")

    def videos(self, product_id: str | None = None) -> pa.Table:
        """Return the current rows of `videos`, of all products or of one."""
        return self.table("videos", product_id=product_id)

    def verdicts(self, product_id: str | None = None) -> pa.Table:
        """Return the current rows of `verdicts`, of all products or of one."""
        return self.table("verdicts", product_id=product_id)

    def scores(self, product_id: str | None = None) -> pa.Table:
        """Return the current rows of `scores`, of all products or of one."""
        return self.table("scores", product_id=product_id)

    def best_videos(self, product_id: str | None = None) -> pa.Table:
        """Return the video to publish of each product: the columns of `videos`, and `gate` and `lpips` if it was scored."""
        return self.table("best_videos", product_id=product_id)

    def best_exports(self, product_id: str | None = None) -> pa.Table:
        """Return the best video of each product and preset, with the columns of `best_videos`."""
        return self.table("best_exports", product_id=product_id)

    def stills(self, product_id: str | None = None) -> pa.Table:
        """Return the current rows of `stills`, of all products or of one."""
        return self.table("stills", product_id=product_id)

    def best_stills(self, product_id: str | None = None) -> pa.Table:
        """Return the best still of each product and scene: one that passes the gate, then the one with the highest score."""
        return self.table("best_stills", product_id=product_id)

    def counts(self) -> dict[str, tuple[int, int]]:
        """Return table -> (number of current rows, number of superseded rows), for tables that have rows."""
        totals = {name: self.dataset(name).count_rows() for name in TABLES if self.folder.parts(name)}
        with self._connection() as connection:
            current = {
                name: connection.sql(f'SELECT count(*) FROM "{name}"').fetchall()[0][0]
                for name, total in totals.items()
                if total
            }
        return {name: (number, totals[name] - number) for name, number in current.items()}

    def package(self, product_id: str) -> GapPackage:
        """Return the current package of one product.

        Raises:
            CatalogError: `catalog.product_not_found`.
        """
        with self._connection(product_id) as connection:
            products, views = (
                connection.sql(f"SELECT * FROM {name}").to_arrow_table().to_pylist() for name in ("products", "views")
            )
        if not products:
            raise CatalogError("catalog.product_not_found", f"no product {product_id!r} in this catalogue")
        return package_of_rows(products[0], views)

    def stream(self, name: str, *, rows: int = 65_536) -> Iterator[pa.RecordBatch]:
        """Yield the current rows of one table in batches, for tables larger than memory.

        Parts are ordered by their first product, and rows within a part keep its order, because a sort of all rows by DuckDB runs
        out of memory if they are long. Memory holds one part of `views` or `READ_BYTES` of another table, besides the positions of
        the current rows and the `STREAM_MEMORY` that DuckDB uses to find them.

        Args:
            name: A name in `TABLES`.
            rows: Maximum number of rows in a batch.
        """
        if name == "views":
            for part in self.views_by_part():
                yield from part.to_batches(max_chunksize=rows)
            return
        dataset = self.dataset(name)
        parts = sorted(dataset.get_fragments(), key=_first_product)
        if not parts:
            return
        ordered = ds.FileSystemDataset(parts, dataset.schema, dataset.format, dataset.filesystem)
        positions = self._current_positions(name, ordered)
        start = 0
        for chunk in ChunkedScan(ordered, {}).tables():
            first, last = np.searchsorted(positions, (start, start + chunk.num_rows))
            yield from chunk.take(positions[first:last] - start).to_batches(max_chunksize=rows)
            start += chunk.num_rows

    def _current_positions(self, name: str, rows: ds.FileSystemDataset) -> NDArray[np.int64]:
        """Return the positions of the current rows of a table, int64 [N], ascending. DuckDB reads only the columns it needs."""
        with (
            tempfile.TemporaryDirectory(prefix="gapray-sort-") as scratch,
            self._connection(numbered=(name, rows)) as connection,
        ):
            connection.execute(f"SET memory_limit = '{STREAM_MEMORY}'; SET temp_directory = '{scratch}'")
            # Rows are numbered as they are scanned, so the scan must not filter them.
            connection.execute("SET disabled_optimizers = 'filter_pushdown,join_filter_pushdown'")
            positions = connection.sql(f'SELECT {POSITION} FROM "{name}"').to_arrow_table()[POSITION].to_numpy()
        return np.sort(positions)

    def newest(self, *names: str) -> datetime | None:
        """Return the latest `created_at` of all rows of these tables, current or not; None if they are empty.

        Only the footers of the parts are read. A run passes it to `commit(after=…)`, so that its rows are newer than all that
        existed when it began: clocks differ and are set back, and the newest row is the current one.

        Args:
            names: Tables whose rows supersede each other: a stage's own table, and `rejects`.
        """
        stamps = [
            group.column(column).statistics.max
            for name in names
            for part in self.dataset(name).get_fragments()
            for column in [part.metadata.schema.names.index("created_at")]
            for group in (part.metadata.row_group(index) for index in range(part.metadata.num_row_groups))
            if group.num_rows
        ]
        return max(stamps, default=None)

    def parts_of_views(self, *, current: bool = False) -> pa.Table:
        """Return the part file of each package's views, the newest if there are several.

        Only key columns of the parts are read.

        Args:
            current: Only packages whose product row is current.

        Returns:
            Rows with product_id, key and `part`, a dictionary-encoded path.
        """
        files = sorted(self.folder.parts("views"))
        rows = pa.concat_tables([_PACKAGE_PARTS.empty_table(), *self._package_parts(files)])
        query = "SELECT product_id, key, arg_max(part, (created_at, run_id, part)) AS part FROM rows GROUP BY product_id, key"
        if current:
            query = f"SELECT r.* FROM ({query}) r SEMI JOIN products p ON r.product_id = p.product_id AND r.key = p.key"
        with self._connection() as connection:
            connection.register("rows", rows)
            packages = connection.sql(query).to_arrow_table()
        indices = packages["part"].combine_chunks().cast(pa.int32())
        part = pa.DictionaryArray.from_arrays(indices, pa.array(files, pa.string()))
        return packages.set_column(2, "part", part)

    def views_by_part(self) -> Iterator[pa.Table]:
        """Yield the current rows of `views`, one part at a time.

        A package's rows come from the part that was written last, each angle once. Each part is read once and one is held in
        memory, so this is the way to iterate over all packages. All views of a package are in one part, so that packages are kept
        or dropped as a whole.
        """
        packages = self.parts_of_views(current=True)
        part = packages["part"].combine_chunks()
        # Sorted by index rather than by file name, because a million file names would take most of the memory.
        order = pc.sort_indices(part.indices)
        packages = packages.select(["product_id", "key"]).take(order)
        runs = pc.run_end_encode(part.indices.take(order))
        starts = [0, *runs.run_ends.to_pylist()]
        for index, start, end in zip(runs.values.to_pylist(), starts, starts[1:], strict=False):
            rows = self.dataset("views", [part.dictionary[index].as_py()]).to_table()
            current = package_names(packages.slice(start, end - start))
            yield _deduplicated(rows.filter(pc.is_in(package_names(rows), value_set=current)))

    def _package_parts(self, files: Sequence[str]) -> Iterator[pa.Table]:
        """Yield tables of `_PACKAGE_PARTS`, with one row per package and part."""
        columns = ["product_id", "key", "created_at", "run_id", "__filename"]
        indices = {name: index for index, name in enumerate(files)}
        for start in range(0, len(files), FILES_AT_ONCE):
            dataset = self.dataset("views", files[start : start + FILES_AT_ONCE])
            for batch in dataset.scanner(columns=columns).to_batches():
                if not batch.num_rows:
                    continue
                part = indices[batch["__filename"][0].as_py()]  # a batch has rows of one file only
                grouped = pa.Table.from_batches([batch]).group_by(["product_id", "key"])
                newest = grouped.aggregate([("created_at", "max"), ("run_id", "max")])
                parts = pa.repeat(pa.scalar(part, pa.int32()), newest.num_rows)
                yield newest.rename_columns(columns[:-1]).append_column("part", parts).cast(_PACKAGE_PARTS)

    def views_of(self, product_id: str, key: str, part: str | None) -> list[dict[str, Any]]:
        """Return one package's rows of `views`, from the part that contains them, each angle once.

        Raises:
            CatalogError: `catalog.product_not_found`: the package has been removed since the part was listed.
        """
        views: list[dict[str, Any]] = []
        if part is not None:
            of_package = (pc.field("product_id") == product_id) & (pc.field("key") == key)
            with suppress(FileNotFoundError):
                views = self.dataset("views", [part]).to_table(filter=of_package).to_pylist()
        if not views:
            raise CatalogError("catalog.product_not_found", f"{product_id} with key {key[:12]}… is not there any more")
        return list({row["azimuth_deg"]: row for row in views}.values())

    def sql(self, query: str) -> pa.Table:
        """Run one DuckDB statement over the catalogue.

        Args:
            query: SQL over the tables in `TABLES`, `best_videos`, `best_exports` and `best_stills`, which have current rows, and
                `all_<table>`, which have all rows.

        Raises:
            CatalogError: `catalog.invalid_query`, or `catalog.query_failed` if a valid query fails for lack of memory, disk or a
                file; each with DuckDB's message.
        """
        import duckdb

        try:
            query.encode()
        except UnicodeEncodeError as error:
            raise CatalogError("catalog.invalid_query", f"the query is not UTF-8: {error.reason}") from error
        try:
            statements = duckdb.extract_statements(query)
            if len(statements) != 1:
                raise CatalogError("catalog.invalid_query", f"{len(statements)} statements; give one")
            if (kind := statements[0].type.name) not in _READ_STATEMENTS:
                raise CatalogError("catalog.invalid_query", f"{kind} changes nothing here: a catalogue is only read")
            with self._connection() as connection:
                relation = connection.sql(query)
                return relation.to_arrow_table() if relation is not None else pa.table({})
        except duckdb.Error as error:
            raise CatalogError("catalog.invalid_query", str(error)) from error

    def dataset(self, table: str, files: Sequence[str] | None = None) -> ds.FileSystemDataset:
        """Return all rows of a table, current or not, as an Arrow dataset.

        Args:
            table: A name in `TABLES`.
            files: Paths of its parts, if they have already been listed.

        Raises:
            CatalogError: `catalog.unreadable` for a file that cannot be read or is not Parquet, or as `check_format`.
            FileNotFoundError: A part has been removed since it was listed.
        """
        dataset = ds.dataset(
            self.folder.parts(table) if files is None else list(files),
            schema=TABLES[table],
            format="parquet",
            filesystem=self.folder.arrow,
        )
        # A fragment caches its footer, so that scans do not read it again.
        fragments = list(dataset.get_fragments())
        with ThreadPoolExecutor(FOOTERS_AT_ONCE) as pool:
            for fragment, footer in zip(fragments, pool.map(_footer, fragments), strict=True):
                check_format(fragment.path, footer.metadata)
        return ds.FileSystemDataset(fragments, dataset.schema, dataset.format, dataset.filesystem)

    @contextmanager
    def _connection(
        self,
        product_id: str | None = None,
        *,
        files: Mapping[str, Sequence[str]] | None = None,
        numbered: tuple[str, ds.FileSystemDataset] | None = None,
    ) -> Iterator[duckdb.DuckDBPyConnection]:
        """Open a DuckDB connection in which `all_<table>` has all rows of a table, and `<table>` its current rows.

        Args:
            product_id: Restrict all tables to one product.
            files: Table -> paths of its parts, if they have already been listed.
            numbered: A table and its dataset, to which a column `POSITION` with the row number, from 0, is added.
        """
        import duckdb

        names = {name: f"all_{name}" for name in TABLES}
        tables = {name: LazyTable.of(self, name, product_id, listed=(files or {}).get(name)) for name in TABLES}
        if numbered:
            tables[numbered[0]] = LazyTable.of(self, numbered[0], None, numbered=numbered[1])
        with duckdb.connect() as connection:
            for name, rows in tables.items():
                connection.register(names[name], rows)
            sql = names | {"current_products": CURRENT_SQL["products"].format(**names)}
            for name, query in CURRENT_SQL.items():
                connection.execute(f'CREATE VIEW "{name}" AS {query.format(**sql)}')
            try:
                yield connection
            except duckdb.Error as error:
                for failure in (rows.failure for rows in tables.values() if rows.failure):
                    raise failure from error
                if isinstance(error, duckdb.OperationalError):  # out of memory or disk, or a file named by the query
                    raise CatalogError("catalog.query_failed", str(error)) from error
                raise


def _footer(part: ds.ParquetFileFragment) -> pq.FileMetaData:
    try:
        return part.metadata
    except FileNotFoundError:
        raise
    except (OSError, pa.ArrowException) as error:
        raise CatalogError("catalog.unreadable", f"{part.path}: {error}") from error


def _first_product(part: ds.Fragment) -> str:
    """Return the first product id in a part, from its footer: a part's rows are sorted."""
    footer = part.metadata
    if not footer.num_row_groups:
        return ""
    return str(footer.row_group(0).column(footer.schema.names.index("product_id")).statistics.min)


def package_names(table: pa.Table) -> pa.ChunkedArray:
    """Return ``product_id:key`` for each row."""
    return pc.binary_join_element_wise(table["product_id"], table["key"], ":")


def _deduplicated(views: pa.Table) -> pa.Table:
    """Keep one row per angle of a package: a part written before Ray retried a task may have duplicates."""
    positions = pa.array(range(views.num_rows), pa.int64())
    numbered = views.select(["product_id", "key", "azimuth_deg"]).append_column("position", positions)
    first = numbered.group_by(["product_id", "key", "azimuth_deg"]).aggregate([("position", "min")])
    return views.take(first["position_min"].combine_chunks().sort())
