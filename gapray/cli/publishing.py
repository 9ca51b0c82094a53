"""`gapray report`, `publish`, `reel` and `presets`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from gapray.cli.flags import (
    CatalogArgument,
    JsonOption,
    LayoutOption,
    NamesOption,
    TruthOption,
)
from gapray.cli.output import guarded, print_json, print_table


def report(
    catalog: CatalogArgument,
    out: Annotated[Path, typer.Option("--out", help="Folder of the site; created if missing.")],
    title: Annotated[str, typer.Option(help="Title of the overview.")] = "Turntables",
) -> None:
    """Write a static site of CATALOG that opens from disk: an overview with approval, and a page per product."""
    with guarded():
        from gapray.cli.fidelity import build_report

        typer.echo(build_report(catalog, out, title=title))


def publish(
    catalog: CatalogArgument,
    to: Annotated[str, typer.Option("--to", metavar="URI", help="Destination: folder or URI.")],
    approved: Annotated[
        Path | None, typer.Option(help="The decisions' CSV from the report; default: all videos that passed the gate.")
    ] = None,
    preset: Annotated[
        str | None, typer.Option(help="Only files of this preset; default: web if it exists, else another.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Copy the best video of each approved product to URI; published files of rejected products are removed."""
    with guarded(as_json):
        from gapray.catalog.reader import open_catalog
        from gapray.report.approval import publish as run

        result = run(open_catalog(catalog), to, approved, preset)
        if as_json:
            print_json({"published": result.copied, "skipped": result.skipped, "withdrawn": result.withdrawn})
            return
        for line in result.skipped:
            typer.echo(f"  skipped {line}")
        withdrawn = f", {len(result.withdrawn)} of them withdrawn" if result.withdrawn else ""
        typer.echo(f"{len(result.copied)} published to {to}, {len(result.skipped)} skipped{withdrawn}")


def reel(
    catalog: CatalogArgument,
    to: Annotated[Path, typer.Option("--to", help="The mp4; the table is written beside it as .md and .csv.")] = Path(
        "reel.mp4"
    ),
    product: Annotated[list[str] | None, typer.Option(help="Only these products.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="Maximum number of products.")] = 6,
    baseline: Annotated[
        Literal["nearest view", "cross-fade", "flow morph", "front view only"],
        typer.Option(help="Baseline in the third column."),
    ] = "cross-fade",
    truth: TruthOption = None,
    names: NamesOption = "auto",
    layout: LayoutOption = "auto",
) -> None:
    """Make the demo reel: photo, gapray's video and a baseline side by side."""
    with guarded():
        from gapray.catalog.reader import open_catalog
        from gapray.cli.fidelity import hidden_photos
        from gapray.cli.options import truth_options
        from gapray.report.reel import write_reel

        options = truth_options(direction="ccw", front=0, names=names, layout=layout)
        opened = open_catalog(catalog)
        photos = None
        if truth:
            product_ids = product or opened.table("videos", columns=["product_id"])["product_id"].to_pylist()
            photos = hidden_photos(truth, options, product_ids)
        files = write_reel(opened, to, products=product, limit=limit, baseline=baseline, photos=photos)
        for path in files:
            typer.echo(path)


def list_presets(as_json: JsonOption = False) -> None:
    """Show the export presets of `gapray render`."""
    with guarded(as_json):
        from gapray.video.presets import presets

        if as_json:
            print_json({name: preset.model_dump() for name, preset in presets().items()})
            return
        rows = [
            [preset.name, ", ".join(file.name for file in preset.files), preset.description]
            for preset in presets().values()
        ]
        print_table(["preset", "files", "what it is"], rows)
