"""`gapray catalog`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gapray.cli.flags import (
    CatalogArgument,
    JsonOption,
)
from gapray.cli.output import guarded, print_json, print_table

catalog_app = typer.Typer(no_args_is_help=True, help="Inspect, query and compact a catalogue.")


@catalog_app.command("show")
def catalog_show(
    catalog: CatalogArgument,
    limit: Annotated[int, typer.Option(min=1, help="Maximum number of rows to print of each table.")] = 20,
    as_json: JsonOption = False,
) -> None:
    """Print the current products and rejects."""
    with guarded(as_json):
        from gapray.catalog.reader import open_catalog

        opened = open_catalog(catalog)
        products, rejects, videos = opened.products(), opened.rejects(), opened.videos()
        if as_json:
            tables = {"products": products, "videos": videos, "rejects": rejects}
            print_json({name: table.to_pylist() for name, table in tables.items()})
            return
        columns = ["product_id", "views", "profile", "mask_model", "depth_model", "created_at"]
        print_table(columns, [list(row.values()) for row in products.select(columns).slice(0, limit).to_pylist()])
        if videos.num_rows:
            columns = ["product_id", "backend", "seed", "preset", "frames", "seconds", "files"]
            rows = videos.select(columns).slice(0, limit).to_pylist()
            print_table([*columns[:-1], "first file"], [[*list(row.values())[:-1], row["files"][0]] for row in rows])
        if rejects.num_rows:
            columns = ["product_id", "stage", "code", "message"]
            print_table(columns, [list(row.values()) for row in rejects.select(columns).slice(0, limit).to_pylist()])
        typer.echo(f"{products.num_rows} products, {videos.num_rows} videos, {rejects.num_rows} rejects")


@catalog_app.command("sql")
def catalog_sql(
    catalog: CatalogArgument,
    query: Annotated[
        str,
        typer.Argument(help="DuckDB SQL over current rows (products, views, videos, …) or all rows (all_products, …)."),
    ],
    as_json: JsonOption = False,
) -> None:
    """Run a SQL query over the catalogue's tables."""
    with guarded(as_json):
        from gapray.catalog.reader import open_catalog

        table = open_catalog(catalog).sql(query)
        if as_json:
            print_json(table.to_pylist())
        else:
            print_table(table.column_names, [list(row.values()) for row in table.to_pylist()])


@catalog_app.command("compact")
def catalog_compact(catalog: CatalogArgument) -> None:
    """Keep only current rows, in fewer and larger parts."""
    with guarded():
        from gapray.catalog.compact import compact
        from gapray.catalog.runs import existing_catalog

        result = compact(existing_catalog(catalog))
        typer.echo(
            f"{result.parts_before} parts -> {result.parts_after}, {result.rows_before} rows -> {result.rows_after}"
        )


@catalog_app.command("sheet")
def catalog_sheet(
    catalog: CatalogArgument,
    to: Annotated[Path, typer.Option("--to", help="PNG to write.")],
    product: Annotated[list[str] | None, typer.Option(help="Only these products; default: the first four.")] = None,
) -> None:
    """Draw a contact sheet: reference, mask, depth and canny of every view."""
    with guarded():
        from gapray.catalog.reader import open_catalog
        from gapray.report.contact_sheet import contact_sheet
        from gapray.report.frame_strip import PRODUCTS
        from gapray.report.pictures import save_picture

        opened = open_catalog(catalog)
        product_ids = opened.table("products", columns=["product_id"])["product_id"].to_pylist()
        save_picture(contact_sheet([opened.package(name) for name in product or product_ids[:PRODUCTS]]), to)
        _note_omitted(len(product_ids) if not product else 0, PRODUCTS)
        typer.echo(to)


@catalog_app.command("strip")
def catalog_strip(
    catalog: CatalogArgument,
    to: Annotated[Path, typer.Option("--to", help="JPEG or PNG to write.")],
    product: Annotated[list[str] | None, typer.Option(help="Only these products; default: the first four.")] = None,
) -> None:
    """Draw eight frames of each product's video side by side: at captured and in-between angles."""
    with guarded():
        from gapray.catalog.reader import open_catalog
        from gapray.report.frame_strip import PRODUCTS, frame_strip
        from gapray.report.pictures import save_picture

        opened = open_catalog(catalog)
        save_picture(frame_strip(opened, product or None), to)
        _note_omitted(opened.best_videos().num_rows if not product else 0, PRODUCTS)
        typer.echo(to)


def _note_omitted(total: int, drawn: int) -> None:
    """Say on standard error that a picture shows only the first products; scripts read the path on standard output."""
    if total > drawn:
        typer.echo(f"the first {drawn} of {total} products; --product draws others", err=True)
