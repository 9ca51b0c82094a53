"""Reading a catalogue: current rows as Arrow tables, one product's package, SQL."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from gapray.catalog.schemas import SORT_COLUMNS, TABLES
from gapray.catalog.storage import Folder
from gapray.errors import CatalogError
from gapray.gap.images import decode_grey8, decode_grey16, decode_rgb
from gapray.gap.package import GapPackage, GapView, Quality

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
    "best_videos": (
        "SELECT v.*, s.gate, s.lpips FROM videos v LEFT JOIN verdicts s "
        "ON v.product_id = s.product_id AND v.key = s.video_key AND s.label = 'gapray' AND NOT s.foreign_video QUALIFY row_number() OVER "
        "(PARTITION BY v.product_id ORDER BY s.gate = 'pass' DESC NULLS LAST, s.lpips NULLS LAST, v.seed, v.backend, "
        "v.created_at DESC, v.preset) = 1"
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
score while its video is current. Of a product's videos the best is the one that passes its gate with the least LPIPS."""


FILES_AT_ONCE = 256
"""Parts in one scan: a dataset keeps the footers of all its files, a hundred kilobytes each."""
STREAM_MEMORY = "512MB"
"""What DuckDB holds of a table that is streamed; the rest is sorted on the disk."""
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
PACKAGE_COLUMNS = ["product_id", "key", "views", "depth_scale", "depth_shift"] + [
    f"{role}_model" for role in ("mask", "depth", "canny", "identity")
]
"""Of `products`, what `package_of_rows` needs."""


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
    """A catalogue's tables. Every call lists the parts anew, so a running batch is seen as it grows."""

    def __init__(self, folder: Folder) -> None:
        self.folder = folder

    def table(self, name: str, *, columns: list[str] | None = None, product_id: str | None = None) -> pa.Table:
        """Current rows of one table.

        Args:
            name: A name in `TABLES`, `best_videos` or `best_stills`.
            columns: Which columns; default all.
            product_id: One product only.

        Returns:
            Rows sorted by product and azimuth.
        """
        if name in TABLES and not self.folder.parts(name):
            return TABLES[name].empty_table().select(columns or TABLES[name].names)
        chosen = ", ".join(f'"{column}"' for column in columns) if columns else "*"
        order = ", ".join(SORT_COLUMNS.get(name, ("product_id",)))
        with self._connection(product_id) as connection:
            return connection.sql(f'SELECT {chosen} FROM (SELECT * FROM "{name}" ORDER BY {order})').to_arrow_table()

    def products(self) -> pa.Table:
        """Current rows of `products`."""
        return self.table("products")

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

    def stills(self, product_id: str | None = None) -> pa.Table:
        """Current rows of `stills`."""
        return self.table("stills", product_id=product_id)

    def best_stills(self, product_id: str | None = None) -> pa.Table:
        """One still a product and scene: the one that passes the gate with the highest score."""
        return self.table("best_stills", product_id=product_id)

    def package(self, product_id: str) -> GapPackage:
        """One product's current package.

        Raises:
            CatalogError: `catalog.product_not_found`.
        """
        products = self.table("products", product_id=product_id).to_pylist()
        if not products:
            raise CatalogError("catalog.product_not_found", f"no product {product_id!r} in this catalogue")
        return package_of_rows(products[0], self.views(product_id).to_pylist())

    def stream(self, name: str, *, rows: int = 65_536) -> Iterator[pa.RecordBatch]:
        """Current rows of one table as `table` orders them, in batches of about `rows`: for tables larger than memory."""
        if not self.folder.parts(name):
            return
        order = ", ".join(SORT_COLUMNS[name])
        with tempfile.TemporaryDirectory(prefix="gapray-sort-") as scratch, self._connection() as connection:
            connection.execute(f"SET memory_limit = '{STREAM_MEMORY}'; SET temp_directory = '{scratch}'")
            yield from connection.sql(f'SELECT * FROM "{name}" ORDER BY {order}').to_arrow_reader(rows)

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
                table = pq.read_table(part, schema=TABLES["views"], filesystem=self.folder.arrow, filters=one)
                views = table.to_pylist()
        if not views:
            raise CatalogError("catalog.product_not_found", f"{product_id} with key {key[:12]}… is not there any more")
        return list({row["azimuth_deg"]: row for row in views}.values())

    def sql(self, query: str) -> pa.Table:
        """Run a DuckDB query over the current rows of every table, `best_videos` and `best_stills`; `all_…` has every row.

        Raises:
            CatalogError: `catalog.incompatible` with DuckDB's message.
        """
        import duckdb

        with self._connection() as connection:
            try:
                relation = connection.sql(query)
                return relation.to_arrow_table() if relation is not None else pa.table({})
            except duckdb.Error as error:
                raise CatalogError("catalog.incompatible", str(error)) from error

    def dataset(self, table: str, files: Sequence[str] | None = None) -> ds.Dataset:
        """Every row of a table, not only current ones, as an Arrow dataset; of these parts only, when they were listed before."""
        return ds.dataset(
            self.folder.parts(table) if files is None else list(files),
            schema=TABLES[table],
            format="parquet",
            filesystem=self.folder.arrow,
        )

    def _connection(self, product_id: str | None = None) -> duckdb.DuckDBPyConnection:
        import duckdb

        connection = duckdb.connect()
        for name in TABLES:
            rows: Any = self.dataset(name)
            if product_id is not None:
                rows = rows.to_table(filter=pc.field("product_id") == product_id)
            elif not self.folder.is_local:
                rows = _Unlocked.of(rows)
            connection.register(f"all_{name}", rows)
        names = {name: f"all_{name}" for name in TABLES}
        names["current_products"] = CURRENT_SQL["products"].format(**names)
        for name, query in CURRENT_SQL.items():
            connection.execute(f'CREATE VIEW "{name}" AS {query.format(**names)}')
        return connection


class _Unlocked(ds.FileSystemDataset):  # type: ignore[misc]
    """A dataset that DuckDB scans by way of tables.

    `Scanner.to_reader` starts its scan while it holds Python's lock (pyarrow 26, _dataset.pyx), and the scan's threads need that
    lock to read files through fsspec: both wait for ever. `Scanner.to_table` gives the lock back.
    """

    @classmethod
    def of(cls, dataset: ds.FileSystemDataset) -> _Unlocked:
        """The same files."""
        return cls(list(dataset.get_fragments()), dataset.schema, dataset.format, dataset.filesystem)

    def scanner(self, **chosen: Any) -> pa.Table:
        """What DuckDB asks for; it goes on with `to_reader`, which a table has too."""
        return super().scanner(**chosen).to_table()


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
        product["product_id"], product["key"], views, product["depth_scale"], product["depth_shift"], models
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
