"""Output of the scoring and reporting commands."""

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
from gapray.fidelity.shown import Cut, cut_out
from gapray.models.load import load_mask
from gapray.profile import load_profile
from gapray.report.site import write_report
from gapray.report.table import HEADER, fidelity_table


def table_report(catalog: str) -> str:
    """Return a catalogue's fidelity table as text."""
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


def foreign_report(result: ForeignResult) -> str:
    """Return the scores of a foreign video and of gapray's own as a few lines of text."""
    lines = []
    for verdict in result.verdicts:
        between = "none" if verdict.lpips is None else f"{verdict.lpips:.3f} at {verdict.angles} in-between angles"
        keys = "none"
        if verdict.key_lpips is not None:
            keys = f"{verdict.key_lpips:.3f} at {verdict.key_angles} captured angles"
        lines.append(f"{verdict.label}: LPIPS {between}, {keys}; shows {verdict.span_deg or 0:.0f} of 360 degrees")
    return "\n".join([*lines, *(f"  {note}" for note in result.notes)])


def report_folder(catalog: str, folder: Path | None) -> Path | None:
    """Return the folder of a run's report: `folder`, or ``report/`` in a local catalogue; None for a catalogue at a URI."""
    if folder is not None or "://" in catalog:
        return folder
    return Path(catalog) / "report"


def build_report(catalog: str, folder: Path, *, title: str = "Turntables") -> Path:
    """Write the report's site, with progress on standard error; returns the path of its index page."""

    def print_progress(done: int, total: int) -> None:
        if done % 100 == 0 and done < total:
            typer.echo(f"report: {done}/{total} pages", err=True)

    on_progress = print_progress if sys.stderr else None
    return write_report(open_catalog(catalog), folder, title=title, on_progress=on_progress)


def hidden_photos(truth: str, options: DiscoverOptions, products: Collection[str]) -> dict[str, list[Cut]]:
    """Return the held-out photos of some products, cut out with profile `classic`; prints what is not used.

    Args:
        truth: Source of the photos.
        options: How file names are converted to azimuths.
        products: Ids of the products.
    """
    settings = load_profile("classic").packaging
    truth_photos = read_truth(truth, options)
    for line in truth_photos.unused(products):
        typer.echo(line, err=True)
    network = load_mask(settings, threads=2)
    return {
        product: cut_out(
            [decode_photo(read_bytes(photo["uri"], settings.decode.max_bytes)) for photo in photos],
            [photo["azimuth_deg"] for photo in photos],
            network,
            settings.mask,
        )
        for product, photos in truth_photos.photos.items()
        if product in products
    }
