"""What the commands of scoring and reporting print and write."""

from __future__ import annotations

import sys
from collections.abc import Collection
from pathlib import Path

import typer
from rich.console import Console
from rich.table import Table

from gapray.batch.score_foreign import ForeignResult
from gapray.batch.truth import read_truth
from gapray.capture.decode import decode_photo
from gapray.capture.discover import DiscoverOptions
from gapray.capture.storage import read_bytes
from gapray.catalog.reader import open_catalog
from gapray.config import load_profile
from gapray.fidelity.shown import Cut, cut_out
from gapray.models.load import load_mask
from gapray.report.site import write_report
from gapray.report.table import HEADER, fidelity_table


def table_report(catalog: str) -> str:
    """The table of fidelity as text."""
    rows = fidelity_table(open_catalog(catalog))
    table = Table(title="in-between angles, means over products", title_justify="left")
    for name in HEADER[:-1]:
        table.add_column(name)
    for row in rows:
        table.add_row(*row.cells()[:-1])
    console = Console(width=120, color_system=None)
    with console.capture() as captured:
        console.print(table)
    return captured.get().rstrip()


def foreign_report(found: ForeignResult) -> str:
    """A foreign video and ours in a few lines."""
    lines = []
    for one in found.verdicts:
        between = "none" if one.lpips is None else f"{one.lpips:.3f} at {one.angles} in-between angles"
        keys = "none" if one.key_lpips is None else f"{one.key_lpips:.3f} at {one.key_angles} captured angles"
        lines.append(f"{one.label}: LPIPS {between}, {keys}; shows {one.span_deg or 0:.0f} of 360 degrees")
    return "\n".join([*lines, *(f"  {note}" for note in found.notes)])


def report_folder(catalog: str, chosen: Path | None) -> Path | None:
    """Where a run's report goes: a URI's catalogue has none unless one was named."""
    if chosen is not None or "://" in catalog:
        return chosen
    return Path(catalog) / "report"


def written_report(catalog: str, folder: Path, *, title: str = "Turntables") -> Path:
    """Write the site, with a line of progress now and then."""

    def told(done: int, total: int) -> None:
        if done % 100 == 0 and done < total:
            typer.echo(f"report: {done}/{total} pages", err=True)

    return write_report(open_catalog(catalog), folder, title=title, on_progress=told if sys.stderr else None)


def hidden_photos(truth: str, options: DiscoverOptions, products: Collection[str]) -> dict[str, list[Cut]]:
    """Truth photos of those products that have some, cut out as profile `classic` does; what is not used is said."""
    settings = load_profile("classic").packaging
    found = read_truth(truth, options)
    for line in found.unused(products):
        typer.echo(line, err=True)
    network = load_mask(settings, threads=2)
    return {
        product: cut_out(
            [decode_photo(read_bytes(one["uri"], settings.decode.max_bytes)) for one in photos],
            [one["azimuth_deg"] for one in photos],
            network,
            settings.mask,
        )
        for product, photos in found.photos.items()
        if product in products
    }
