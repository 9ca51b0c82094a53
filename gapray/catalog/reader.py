"""Reading a catalogue: current rows as Arrow tables, one product's package, SQL."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from gapray.catalog.schemas import TABLES
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
    "rejects": (
        "SELECT r.* FROM {rejects} r LEFT JOIN ({current_products}) p ON r.product_id = p.product_id "
        "WHERE p.created_at IS NULL OR r.created_at > p.created_at QUALIFY row_number() OVER "
        "(PARTITION BY r.product_id ORDER BY r.created_at DESC, r.key DESC, r.run_id DESC) = 1"
    ),
}
"""Which rows are current. A product's newest row wins; its views are those of the same key; a reject counts until its
product is packaged later."""


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
            name: `products`, `views` or `rejects`.
            columns: Which columns; default all.
            product_id: One product only.

        Returns:
            Rows sorted by product and azimuth.
        """
        if not self.folder.parts(name):
            return TABLES[name].empty_table().select(columns or TABLES[name].names)
        chosen = ", ".join(f'"{column}"' for column in columns) if columns else "*"
        order = "product_id, azimuth_deg" if name == "views" else "product_id"
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

    def package(self, product_id: str) -> GapPackage:
        """One product's current package.

        Raises:
            CatalogError: `catalog.product_not_found`.
        """
        products = self.table("products", product_id=product_id).to_pylist()
        if not products:
            raise CatalogError("catalog.product_not_found", f"no product {product_id!r} in this catalogue")
        [product] = products
        views = tuple(_view(row) for row in self.views(product_id).to_pylist())
        if len(views) != product["views"]:
            raise CatalogError("catalog.incompatible", f"{product_id} has {len(views)} of {product['views']} views")
        models = {role: product[f"{role}_model"] for role in ("mask", "depth", "canny", "identity")}
        return GapPackage(product_id, product["key"], views, product["depth_scale"], product["depth_shift"], models)

    def sql(self, query: str) -> pa.Table:
        """Run a DuckDB query over the views `products`, `views` and `rejects` (current rows) and `all_…` (every row).

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

    def dataset(self, table: str) -> ds.Dataset:
        """Every row of a table, not only current ones, as an Arrow dataset."""
        return ds.dataset(
            self.folder.parts(table), schema=TABLES[table], format="parquet", filesystem=self.folder.arrow
        )

    def _connection(self, product_id: str | None = None) -> duckdb.DuckDBPyConnection:
        import duckdb

        connection = duckdb.connect()
        for name in TABLES:
            rows: Any = self.dataset(name)
            if product_id is not None:
                rows = rows.scanner(filter=pc.field("product_id") == product_id).to_table()
            connection.register(f"all_{name}", rows)
        names = {name: f"all_{name}" for name in TABLES}
        names["current_products"] = CURRENT_SQL["products"].format(**names)
        for name, query in CURRENT_SQL.items():
            connection.execute(f'CREATE VIEW "{name}" AS {query.format(**names)}')
        return connection


def _view(row: dict[str, Any]) -> GapView:
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
