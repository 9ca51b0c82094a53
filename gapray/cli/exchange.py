"""`gapray manifest`, `export` and `import-gap`: what other systems read and write."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gapray.cli.flags import (
    CatalogArgument,
    ClosingOption,
    DirectionOption,
    FrontOption,
    LayoutOption,
    MissingOption,
    NamesOption,
    OutOption,
    Source,
)
from gapray.cli.output import guarded

if TYPE_CHECKING:
    from gapray.capture.capture_set import CaptureSet, Reject


def manifest(
    src: Source,
    to: Annotated[Path, typer.Option("--to", help="Parquet file to write.")],
    direction: DirectionOption = "ccw",
    front: FrontOption = 0,
    names: NamesOption = "auto",
    closing_frame: ClosingOption = "auto",
    layout: LayoutOption = "auto",
    allow_missing: MissingOption = False,
) -> None:
    """List the capture sets of SRC in a manifest, without reading the photos."""
    with guarded():
        from gapray.batch.runs import REJECTS_SHOWN
        from gapray.capture.discover import scan
        from gapray.capture.kinds import described
        from gapray.capture.manifest import ignored_of, write_manifest
        from gapray.cli.options import discover_options
        from gapray.errors import ConfigError
        from gapray.outputs import atomic_write

        options = discover_options(
            direction=direction,
            front=front,
            names=names,
            closing_frame=closing_frame,
            layout=layout,
            allow_missing=allow_missing,
        )
        if to.suffix != ".parquet":
            raise ConfigError(
                "config.invalid", f"{to}: a manifest is a Parquet file; call it {to.stem or 'shoot'}.parquet"
            )
        beside: list[str] = []
        rejects: list[Reject] = []
        options = replace(options, apart=(str(to),))
        with atomic_write(to) as partial:
            count = write_manifest(_collect_rejects(scan(src, options, beside=beside), rejects), str(partial), beside)
        typer.echo(f"{count - len(rejects)} products in {to}, {len(rejects)} rejected")
        for reject in rejects[:REJECTS_SHOWN]:
            typer.echo(f"  rejected {reject.product_id}: {reject.message} [{reject.code}]")
        if len(rejects) > REJECTS_SHOWN:
            typer.echo(f"  … and {len(rejects) - REJECTS_SHOWN} more: the manifest's error_code and error_message")
        if ignored := ignored_of(str(to)):
            typer.echo(f"  {described(ignored)}")
        if rejects:
            raise typer.Exit(3)


def _collect_rejects(items: Iterable[CaptureSet | Reject], rejects: list[Reject]) -> Iterator[CaptureSet | Reject]:
    """Pass items through, appending rejects to a list."""
    from gapray.capture.capture_set import Reject

    for item in items:
        if isinstance(item, Reject):
            rejects.append(item)
        yield item


def export(
    catalog: CatalogArgument,
    product: Annotated[str, typer.Argument(metavar="PRODUCT", help="Product id.")],
    to: Annotated[Path, typer.Option("--to", help="Folder to write; with --inline it may also be a .json file.")],
    inline: Annotated[
        bool,
        typer.Option("--inline", help="Embed all pictures in the manifest, so that it is self-contained."),
    ] = False,
) -> None:
    """Write one product as a GAP folder with multiview_manifest.json, in the prototype's format."""
    with guarded():
        from gapray.catalog.reader import open_catalog
        from gapray.gap import folder

        typer.echo(folder.write(open_catalog(catalog).package(product), to, inline=inline))


def import_gap(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="A GAP folder, ours or the prototype's, or a manifest.")
    ],
    out: OutOption,
    allow_missing: MissingOption = False,
) -> None:
    """Import a GAP folder into a catalogue. It replaces the product's current package, and reports that."""
    with guarded():
        from gapray.catalog.import_package import import_package
        from gapray.catalog.reader import Catalog
        from gapray.catalog.storage import Folder
        from gapray.cli.runs import warning_lines
        from gapray.gap import folder as gap_folder

        package = gap_folder.read(folder)
        messages = {
            "new": "",
            "same": ", which the catalogue has already: nothing was imported",
            "replaced": ", in place of the package that the catalogue had of this product",
        }
        catalog = Folder.at(out)
        outcome = import_package(catalog, package, uri=str(folder.absolute()), allow_missing=allow_missing)
        typer.echo(f"{package.product_id}: {len(package.views)} views{messages[outcome]}")
        for line in warning_lines(Catalog(catalog).warnings(package.product_id)):
            typer.echo(line)
