"""Reading a catalogue: current rows as Arrow tables, one product's package, SQL."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from numpy.typing import NDArray

from gapray.catalog.schemas import SORT_COLUMNS, TABLES, check_format
from gapray.catalog.storage import Folder
from gapray.errors import CatalogError, GaprayError
from gapray.gap.images import decode_grey8, decode_grey16, decode_rgb
from gapray.gap.package import GapPackage, GapView, PackageWarning, Quality

if TYPE_CHECKING:
    import duckdb

CURRENT_SQL: dict[str, str] = {
    "products": (
        "SELECT * FROM {products} QUALIFY row_number() OVER "
        "(PARTITION BY product_id ORDER BY created_at DESC, key DESC, run_id DESC) = 1"
    ),
    "views": (
        "SELECT v.* FROM {views} v SEMI JOIN ({current_products}) p "
        "ON v.product_id = p.product_id AND v.key = p.key QUALIFY row_number() OVER "
        "(PARTITION BY v.product_id, v.azimuth_deg ORDER BY v.created_at DESC, v.run_id DESC) = 1"
    ),
    "videos": (
        "SELECT v.* FROM {videos} v SEMI JOIN ({current_products}) p "
        "ON v.product_id = p.product_id AND v.product_key = p.key QUALIFY row_number() OVER "
        "(PARTITION BY v.product_id, v.backend, v.seed, v.preset "
        "ORDER BY v.created_at DESC, v.key DESC, v.run_id DESC) = 1"
    ),
    "verdicts": (
        "SELECT s.* FROM {verdicts} s SEMI JOIN ({current_products}) p "
        "ON s.product_id = p.product_id AND s.product_key = p.key "
        "WHERE s.foreign_video OR s.video_key IN (SELECT key FROM videos) QUALIFY row_number() OVER "
        "(PARTITION BY s.product_id, s.video_key, s.label ORDER BY s.created_at DESC, s.key DESC, s.run_id DESC) = 1"
    ),
    "scores": (
        "SELECT s.* FROM {scores} s SEMI JOIN verdicts v "
        "ON s.product_id = v.product_id AND s.key = v.key AND s.label = v.label QUALIFY row_number() OVER "
        "(PARTITION BY s.product_id, s.key, s.label, s.kind, s.azimuth_deg ORDER BY s.created_at DESC, s.run_id DESC) = 1"
    ),
    "best_exports": (
        "SELECT v.*, s.gate, s.lpips FROM videos v LEFT JOIN verdicts s "
        "ON v.product_id = s.product_id AND v.key = s.video_key AND s.label = 'gapray' AND NOT s.foreign_video QUALIFY row_number() OVER "
        "(PARTITION BY v.product_id, v.preset ORDER BY s.gate = 'pass' DESC NULLS LAST, s.lpips NULLS LAST, v.seed, v.backend, "
        "v.created_at DESC) = 1"
    ),
    "best_videos": (
        "SELECT * FROM best_exports QUALIFY row_number() OVER "
        "(PARTITION BY product_id ORDER BY gate = 'pass' DESC NULLS LAST, preset = 'web' DESC, lpips NULLS LAST, seed, backend, "
        "created_at DESC, preset) = 1"
    ),
    "stills": (
        "SELECT v.* FROM {stills} v SEMI JOIN ({current_products}) p "
        "ON v.product_id = p.product_id AND v.product_key = p.key QUALIFY row_number() OVER "
        "(PARTITION BY v.product_id, v.scene, v.backend, v.seed ORDER BY v.created_at DESC, v.key DESC, v.run_id DESC) = 1"
    ),
    "best_stills": (
        "SELECT * FROM stills QUALIFY row_number() OVER "
        "(PARTITION BY product_id, scene ORDER BY gate = 'pass' DESC, score DESC, seed, backend) = 1"
    ),
    "rejects": (
        "SELECT r.* FROM {rejects} r WHERE NOT EXISTS (SELECT 1 FROM ("
        "SELECT product_id, 'package' AS stage, '' AS item, created_at FROM {products} "
        "UNION ALL SELECT product_id, 'render', concat_ws('/', backend, seed, preset), created_at FROM {videos} "
        "UNION ALL SELECT product_id, 'score', video_key, created_at FROM {verdicts} WHERE NOT foreign_video "
        "UNION ALL SELECT product_id, 'stills', concat_ws('/', scene, backend, seed), created_at FROM {stills}"
        ") d WHERE d.product_id = r.product_id AND d.stage = r.stage AND d.item = coalesce(r.item, d.item) "
        "AND d.created_at >= r.created_at) "
        "AND (r.stage <> 'score' OR r.item IS NULL OR r.item IN (SELECT key FROM videos)) QUALIFY row_number() OVER "
        "(PARTITION BY r.product_id, r.stage, r.item ORDER BY r.created_at DESC, r.key DESC, r.run_id DESC) = 1"
    ),
}
"""Which rows are current. A product's newest row wins; its views and videos are those made of that row's package, of videos
the newest for each backend, seed and preset; a reject counts until the same stage succeeds for the same item, and that of a
score while its video is current. Of a product's videos in one preset the best is the one that passes its gate with the least
LPIPS; of its presets `web`, the default, comes first, so that one more export never takes the place of what is published."""


FILES_AT_ONCE = 256
"""Parts in one scan: a dataset keeps the footers of all its files, a hundred kilobytes each."""
FOOTERS_AT_ONCE = 32
"""Footers that are read side by side: each is a request where the catalogue lies in a bucket."""
STREAM_MEMORY = "512MB"
"""What DuckDB holds to find the current rows of a table that is streamed; the rest is on the disk."""
PLACE = "gapray_place"
READ_BYTES = 64 * 2**20
"""What is read at a time of a table in a bucket, uncompressed, columns that nobody asks for left out; one row group at least."""
_HOMES = pa.schema(
    [
        ("product_id", pa.string()),
        ("key", pa.string()),
        ("created_at", pa.timestamp("us", tz="UTC")),
        ("run_id", pa.string()),
        ("part", pa.int32()),
    ]
)
"""Where views lie; `part` is a place in the list of files, because their names are long and a million rows have one each."""
PACKAGE_COLUMNS = ["product_id", "key", "views", "depth_scale", "depth_shift", "warnings"] + [
    f"{role}_model" for role in ("mask", "depth", "canny", "identity")
]
"""Columns of `products` that `package_of_rows` needs."""


_READS = frozenset({"SELECT", "EXPLAIN", "PRAGMA", "CALL", "MULTI", "COPY", "EXPORT"})
"""DuckDB's types of statements that answer with rows or write them to files; `MULTI` is PIVOT. Others would change tables of the
connection alone, which ends with the query."""


def open_catalog(uri: str) -> Catalog:
    """Open a catalogue for reading.

    Args:
        uri: Local folder or fsspec URI.

    Raises:
        CatalogError: `catalog.not_found` when no table lies there.
    """
    catalog = Catalog(Folder.at(uri))
    if not any(catalog.folder.parts(table) for table in TABLES):
        raise CatalogError("catalog.not_found", f"no catalogue lies at {uri}")
    return catalog


class Catalog:
    """A catalogue's tables. Every call lists the parts of the tables it reads anew, so a running batch is seen as it grows.

    Every part says which format it has; each method that reads parts raises `catalog.newer_format`, `catalog.older_format` or
    `catalog.incompatible` (`check_format`) for one that this release cannot read.
    """

    def __init__(self, folder: Folder) -> None:
        self.folder = folder

    def table(self, name: str, *, columns: list[str] | None = None, product_id: str | None = None) -> pa.Table:
        """Current rows of one table.

        Args:
            name: A name in `TABLES`, `best_videos`, `best_exports` or `best_stills`.
            columns: Which columns; default all.
            product_id: One product only.

        Returns:
            Rows sorted by product and azimuth.
        """
        files = {name: self.folder.parts(name)} if name in TABLES else {}
        if files == {name: []}:
            return TABLES[name].empty_table().select(columns or TABLES[name].names)
        chosen = ", ".join(f'"{column}"' for column in columns) if columns else "*"
        order = ", ".join(SORT_COLUMNS.get(name, ("product_id",)))
        with self._connection(product_id, files=files) as connection:
            return connection.sql(f'SELECT {chosen} FROM (SELECT * FROM "{name}" ORDER BY {order})').to_arrow_table()

    def products(self) -> pa.Table:
        """Current rows of `products`."""
        return self.table("products")

    def warnings(self, product_id: str | None = None) -> list[dict[str, str]]:
        """What looks wrong with the photos of current products, or of one: product_id, code and message, sorted by product."""
        columns = "product_id, unnest(warnings, max_depth := 2)"
        with self._connection(product_id) as connection:
            found = connection.sql(f"SELECT {columns} FROM products ORDER BY product_id").to_arrow_table()
        rows: list[dict[str, str]] = found.to_pylist()
        return rows

    def views(self, product_id: str | None = None) -> pa.Table:
        """Current rows of `views`; images and all, so name a product where the catalogue is large."""
        return self.table("views", product_id=product_id)

    def rejects(self) -> pa.Table:
        """Current rows of `rejects`."""
        return self.table("rejects")

    def videos(self, product_id: str | None = None) -> pa.Table:
        """Current rows of `videos`."""
        return self.table("videos", product_id=product_id)

    def verdicts(self, product_id: str | None = None) -> pa.Table:
        """Current rows of `verdicts`."""
        return self.table("verdicts", product_id=product_id)

    def scores(self, product_id: str | None = None) -> pa.Table:
        """Current rows of `scores`."""
        return self.table("scores", product_id=product_id)

    def best_videos(self, product_id: str | None = None) -> pa.Table:
        """One video a product: the one to publish. Columns of `videos`, and `gate` and `lpips` where it was scored."""
        return self.table("best_videos", product_id=product_id)

    def best_exports(self, product_id: str | None = None) -> pa.Table:
        """One video a product and preset, with the columns of `best_videos`."""
        return self.table("best_exports", product_id=product_id)

    def stills(self, product_id: str | None = None) -> pa.Table:
        """Current rows of `stills`."""
        return self.table("stills", product_id=product_id)

    def best_stills(self, product_id: str | None = None) -> pa.Table:
        """One still a product and scene: the one that passes the gate with the highest score."""
        return self.table("best_stills", product_id=product_id)

    def counts(self) -> dict[str, tuple[int, int]]:
        """Table -> current rows and superseded ones, of tables that have any."""
        held = {name: self.dataset(name).count_rows() for name in TABLES if self.folder.parts(name)}
        with self._connection() as connection:
            current = {
                name: connection.sql(f'SELECT count(*) FROM "{name}"').fetchall()[0][0] for name in held if held[name]
            }
        return {name: (number, held[name] - number) for name, number in current.items()}

    def package(self, product_id: str) -> GapPackage:
        """One product's current package.

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
        """Current rows of one table in batches of `rows` at most: for tables larger than memory.

        The parts come one after the other, in the order of their first products, and rows in a part's own order: a sort of all
        rows by DuckDB ends with an out-of-memory error where they are long. Of `views` one part is held, of all others
        `READ_BYTES`, besides the places of the current rows and the `STREAM_MEMORY` with which DuckDB finds them.

        Args:
            name: A name in `TABLES`.
            rows: Rows in a batch.
        """
        if name == "views":
            for part in self.views_by_part():
                yield from part.to_batches(max_chunksize=rows)
            return
        found = self.dataset(name)
        parts = sorted(found.get_fragments(), key=_first_product)
        if not parts:
            return
        ordered = ds.FileSystemDataset(parts, found.schema, found.format, found.filesystem)
        places = self._places(name, ordered)
        start = 0
        for piece in _InPieces(ordered, {}).tables():
            first, last = np.searchsorted(places, (start, start + piece.num_rows))
            yield from piece.take(places[first:last] - start).to_batches(max_chunksize=rows)
            start += piece.num_rows

    def _places(self, name: str, rows: ds.FileSystemDataset) -> NDArray[np.int64]:
        """int64 [N], ascending: which rows of a table are current. DuckDB reads only the columns that decide it."""
        with (
            tempfile.TemporaryDirectory(prefix="gapray-sort-") as scratch,
            self._connection(numbered=(name, rows)) as connection,
        ):
            connection.execute(f"SET memory_limit = '{STREAM_MEMORY}'; SET temp_directory = '{scratch}'")
            # A scan that leaves rows out could not count them.
            connection.execute("SET disabled_optimizers = 'filter_pushdown,join_filter_pushdown'")
            places = connection.sql(f'SELECT {PLACE} FROM "{name}"').to_arrow_table()[PLACE].to_numpy()
        return np.sort(places)

    def newest(self, *names: str) -> datetime | None:
        """The latest `created_at` of any row of these tables, current or not; None where they are empty.

        It stands in the footers of the parts, so no row is read. What a run commits is newer than all that was there when it
        began (`commit(after=…)`): clocks of machines differ and are set back, and the newest row is the current one.

        Args:
            names: Of tables whose rows take each other's place: a stage's own, and `rejects`.
        """
        stamps = [
            group.column(place).statistics.max
            for name in names
            for part in self.dataset(name).get_fragments()
            for place in [part.metadata.schema.names.index("created_at")]
            for group in (part.metadata.row_group(at) for at in range(part.metadata.num_row_groups))
            if group.num_rows
        ]
        return max(stamps, default=None)

    def parts_of_views(self, *, current: bool = False) -> pa.Table:
        """product_id, key and `part` (a dictionary), the file that holds those views, the newest where several do.

        Of the parts only key columns are read.

        Args:
            current: Only of packages whose product row is current.
        """
        files = sorted(self.folder.parts("views"))
        rows = pa.concat_tables([_HOMES.empty_table(), *self._homes(files)])
        query = "SELECT product_id, key, arg_max(part, (created_at, run_id, part)) AS part FROM rows GROUP BY product_id, key"
        if current:
            query = f"SELECT r.* FROM ({query}) r SEMI JOIN products p ON r.product_id = p.product_id AND r.key = p.key"
        with self._connection() as connection:
            connection.register("rows", rows)
            found = connection.sql(query).to_arrow_table()
        places = found["part"].combine_chunks().cast(pa.int32())
        part = pa.DictionaryArray.from_arrays(places, pa.array(files, pa.string()))
        return found.set_column(2, "part", part)

    def views_by_part(self) -> Iterator[pa.Table]:
        """Current rows of `views`, a part at a time: of each package those of the part that was written last, each angle once.

        Each part is opened once and one is held, so that this is the way to go through all packages. All views of a package
        are written into one part at one time: whole packages are kept or dropped.
        """
        homes = self.parts_of_views(current=True)
        part = homes["part"].combine_chunks()
        # By place in the list of files, not by name: a million names of files are most of what these rows would weigh.
        order = pc.sort_indices(part.indices)
        homes = homes.select(["product_id", "key"]).take(order)
        runs = pc.run_end_encode(part.indices.take(order))
        starts = [0, *runs.run_ends.to_pylist()]
        for place, start, end in zip(runs.values.to_pylist(), starts, starts[1:], strict=False):
            rows = self.dataset("views", [part.dictionary[place].as_py()]).to_table()
            mine = package_names(homes.slice(start, end - start))
            yield _once(rows.filter(pc.is_in(package_names(rows), value_set=mine)))

    def _homes(self, files: Sequence[str]) -> Iterator[pa.Table]:
        """One row a package and part: a part's views are many."""
        columns = ["product_id", "key", "created_at", "run_id", "__filename"]
        places = {name: at for at, name in enumerate(files)}
        for start in range(0, len(files), FILES_AT_ONCE):
            some = self.dataset("views", files[start : start + FILES_AT_ONCE])
            for batch in some.scanner(columns=columns).to_batches():
                if not batch.num_rows:
                    continue
                part = places[batch["__filename"][0].as_py()]  # a batch is of one file
                named = pa.Table.from_batches([batch]).group_by(["product_id", "key"])
                last = named.aggregate([("created_at", "max"), ("run_id", "max")])
                parts = pa.repeat(pa.scalar(part, pa.int32()), last.num_rows)
                yield last.rename_columns(columns[:-1]).append_column("part", parts).cast(_HOMES)

    def views_of(self, product_id: str, key: str, part: str | None) -> list[dict[str, Any]]:
        """One product's rows of `views`, from the one part that holds them.

        Raises:
            CatalogError: `catalog.product_not_found`: gone since the run began.
        """
        views: list[dict[str, Any]] = []
        if part is not None:
            one = (pc.field("product_id") == product_id) & (pc.field("key") == key)
            with suppress(FileNotFoundError):
                views = self.dataset("views", [part]).to_table(filter=one).to_pylist()
        if not views:
            raise CatalogError("catalog.product_not_found", f"{product_id} with key {key[:12]}… is not there any more")
        return list({row["azimuth_deg"]: row for row in views}.values())

    def sql(self, query: str) -> pa.Table:
        """Run a DuckDB query over the current rows of every table, `best_videos`, `best_exports` and `best_stills`; `all_…` has every row.

        Raises:
            CatalogError: `catalog.invalid_query` or, where the query is right and its files or memory are not,
                `catalog.query_failed`; each with DuckDB's message.
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
            if (word := statements[0].type.name) not in _READS:
                raise CatalogError("catalog.invalid_query", f"{word} changes nothing here: a catalogue is only read")
            with self._connection() as connection:
                relation = connection.sql(query)
                return relation.to_arrow_table() if relation is not None else pa.table({})
        except duckdb.Error as error:
            raise CatalogError("catalog.invalid_query", str(error)) from error

    def dataset(self, table: str, files: Sequence[str] | None = None) -> ds.FileSystemDataset:
        """Every row of a table, not only current ones, as an Arrow dataset; of these parts only, when they were listed before.

        Raises:
            CatalogError: `catalog.unreadable` for a part that cannot be read or is none, or as `check_format`.
            FileNotFoundError: A part is gone since it was listed.
        """
        found = ds.dataset(
            self.folder.parts(table) if files is None else list(files),
            schema=TABLES[table],
            format="parquet",
            filesystem=self.folder.arrow,
        )
        # A fragment keeps its footer, so that whoever scans it reads none again.
        fragments = list(found.get_fragments())
        with ThreadPoolExecutor(FOOTERS_AT_ONCE) as pool:
            for fragment, footer in zip(fragments, pool.map(_footer, fragments), strict=True):
                check_format(fragment.path, footer.metadata)
        return ds.FileSystemDataset(fragments, found.schema, found.format, found.filesystem)

    @contextmanager
    def _connection(
        self,
        product_id: str | None = None,
        *,
        files: Mapping[str, Sequence[str]] | None = None,
        numbered: tuple[str, ds.FileSystemDataset] | None = None,
    ) -> Iterator[duckdb.DuckDBPyConnection]:
        """DuckDB with every table as `all_…` and its current rows under its own name.

        Args:
            product_id: Rows of one product only.
            files: Tables whose parts were listed before.
            numbered: A table and its parts, whose rows have their number, from 0, in a column `PLACE` more.
        """
        import duckdb

        names = {name: f"all_{name}" for name in TABLES}
        tables = {name: _Lazy.of(self, name, product_id, listed=(files or {}).get(name)) for name in TABLES}
        if numbered:
            tables[numbered[0]] = _Lazy.of(self, numbered[0], None, numbered=numbered[1])
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
                if isinstance(error, duckdb.OperationalError):  # its memory, its disk, a file that a query names
                    raise CatalogError("catalog.query_failed", str(error)) from error
                raise


class _Lazy(ds.FileSystemDataset):  # type: ignore[misc]
    """A table that is listed when a query comes to it, once in a connection: to DuckDB, a dataset without files."""

    catalog: Catalog
    name: str
    product_id: str | None
    listed: Sequence[str] | None
    numbered: ds.FileSystemDataset | None
    failure: GaprayError | None = None
    """What kept it from being read: DuckDB passes on the text of an exception alone."""

    @classmethod
    def of(
        cls,
        catalog: Catalog,
        name: str,
        product_id: str | None,
        *,
        listed: Sequence[str] | None = None,
        numbered: ds.FileSystemDataset | None = None,
    ) -> _Lazy:
        """A table of a catalogue, its parts listed before or not: one product's rows, or all, or all with their numbers."""
        schema = TABLES[name] if numbered is None else TABLES[name].append(pa.field(PLACE, pa.int64()))
        made = cls([], schema, ds.ParquetFileFormat(), catalog.folder.arrow)
        made.catalog, made.name, made.product_id = catalog, name, product_id
        made.listed, made.numbered = listed, numbered
        return made

    def scanner(self, **chosen: Any) -> ds.Scanner | _InPieces:
        """What DuckDB asks for: an object with `to_reader`."""
        if self.numbered is not None:
            return _InPieces(self.numbered, chosen, numbered=True)
        try:
            rows = self._rows
        except GaprayError as error:
            self.failure = error
            raise
        remote = self.product_id is None and not self.catalog.folder.is_local
        return _InPieces(rows, chosen) if remote else rows.scanner(**chosen)

    @cached_property
    def _rows(self) -> ds.Dataset:
        found = self.catalog.dataset(self.name, self.listed)
        return found if self.product_id is None else ds.InMemoryDataset(_rows_of(found, self.product_id))


class _InPieces:
    """A scan of files that Arrow reads by way of Python, some row groups at a time.

    `Scanner.to_reader` starts its scan while it holds Python's lock (pyarrow 26, _dataset.pyx), and the scan's threads need that
    lock to read files through fsspec: both wait for ever. `Scanner.to_table` gives the lock back.
    """

    def __init__(self, rows: ds.FileSystemDataset, chosen: Mapping[str, Any], *, numbered: bool = False) -> None:
        self._rows, self._chosen, self._numbered = rows, dict(chosen), numbered
        self._columns: list[str] | None = self._chosen.get("columns")
        if numbered:
            assert self._chosen.get("filter") is None, "rows are counted as they lie in their parts"
            self._columns = self._columns or [*rows.schema.names, PLACE]
            self._chosen["columns"] = [name for name in self._columns if name != PLACE]

    def to_reader(self) -> pa.RecordBatchReader:
        """Its batches, each piece read when the one before it is used up."""
        schema = self._rows.scanner(**self._chosen).projected_schema
        if self._numbered:
            fields = [
                pa.field(PLACE, pa.int64()) if name == PLACE else schema.field(name) for name in self._columns or ()
            ]
            schema = pa.schema(fields)
        batches = (batch for piece in self.tables() for batch in piece.to_batches())
        return pa.RecordBatchReader.from_batches(schema, batches)

    def tables(self) -> Iterator[pa.Table]:
        """Its pieces."""
        start = 0
        for piece in _pieces(self._rows, self._chosen.get("columns")):
            some = ds.FileSystemDataset(piece, self._rows.schema, self._rows.format, self._rows.filesystem)
            rows = some.scanner(**self._chosen).to_table()
            if self._numbered:
                rows = rows.append_column(PLACE, pa.array(np.arange(start, start + rows.num_rows))).select(
                    self._columns
                )
            start += rows.num_rows
            yield rows


def _footer(part: ds.ParquetFileFragment) -> pq.FileMetaData:
    try:
        return part.metadata
    except FileNotFoundError:
        raise
    except (OSError, pa.ArrowException) as error:
        raise CatalogError("catalog.unreadable", f"{part.path}: {error}") from error


def _first_product(part: ds.Fragment) -> str:
    """The first name in a part, by its footer: rows of a part are sorted."""
    footer = part.metadata
    if not footer.num_row_groups:
        return ""
    return str(footer.row_group(0).column(footer.schema.names.index("product_id")).statistics.min)


def _pieces(rows: ds.FileSystemDataset, columns: Sequence[str] | None) -> Iterator[list[ds.Fragment]]:
    """Row groups of a dataset, in their order, as many together as hold `READ_BYTES` of these columns."""
    wanted = set(rows.schema.names if columns is None else columns)
    piece: list[ds.Fragment] = []
    held = 0
    for fragment in rows.get_fragments():
        for group in fragment.split_by_row_group():
            [place] = group.row_groups
            facts = fragment.metadata.row_group(place.id)
            leaves = map(facts.column, range(facts.num_columns))
            size = sum(
                leaf.total_uncompressed_size for leaf in leaves if leaf.path_in_schema.partition(".")[0] in wanted
            )
            if piece and held + size > READ_BYTES:
                yield piece
                piece, held = [], 0
            piece.append(group)
            held += size
    if piece:
        yield piece


def _rows_of(rows: ds.FileSystemDataset, product_id: str) -> pa.Table:
    """One product's rows. Parts that lack it are asked for that column alone: those of `views` carry images."""
    mine = pc.field("product_id") == product_id
    files = set(rows.to_table(columns=["__filename"], filter=mine)["__filename"].to_pylist())
    fragments = [part for part in rows.get_fragments() if part.path in files]
    return ds.FileSystemDataset(fragments, rows.schema, rows.format, rows.filesystem).to_table(filter=mine)


def package_names(table: pa.Table) -> pa.ChunkedArray:
    """``product_id:key`` of each row."""
    return pc.binary_join_element_wise(table["product_id"], table["key"], ":")


def _once(views: pa.Table) -> pa.Table:
    """Each angle of a package once: a part from before Ray tried a task again may hold it twice."""
    places = pa.array(range(views.num_rows), pa.int64())
    keyed = views.select(["product_id", "key", "azimuth_deg"]).append_column("place", places)
    first = keyed.group_by(["product_id", "key", "azimuth_deg"]).aggregate([("place", "min")])
    return views.take(first["place_min"].combine_chunks().sort())


def package_of_rows(product: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> GapPackage:
    """A package from its rows of `products` and `views`.

    Raises:
        CatalogError: `catalog.incompatible` when a view is missing.
    """
    views = tuple(sorted((_view(row) for row in rows), key=lambda view: view.azimuth_deg))
    if len(views) != product["views"]:
        raise CatalogError(
            "catalog.incompatible", f"{product['product_id']} has {len(views)} of {product['views']} views"
        )
    models = {role: product[f"{role}_model"] for role in ("mask", "depth", "canny", "identity")}
    return GapPackage(
        product["product_id"],
        product["key"],
        views,
        product["depth_scale"],
        product["depth_shift"],
        models,
        product.get("azimuths_by"),
        warnings=None
        if product.get("warnings") is None
        else tuple(PackageWarning(**warning) for warning in product["warnings"]),
    )


def _view(row: Mapping[str, Any]) -> GapView:
    return GapView(
        name=row["name"],
        azimuth_deg=row["azimuth_deg"],
        uri=row["uri"],
        sha256=row["sha256"],
        reference=decode_rgb(row["reference"]),
        mask=decode_grey8(row["mask"]),
        depth=decode_grey16(row["depth"]),
        canny=decode_grey8(row["canny"]),
        identity=np.asarray(row["identity"], np.float32),
        quality=Quality(row["sharpness"], row["clipped_dark"], row["clipped_bright"]),
    )
