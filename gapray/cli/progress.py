"""Progress of a run: a progress bar on a terminal, otherwise occasional lines of text."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import typer

from gapray.batch.runs import RunSummary
from gapray.cli.output import print_json

LINE_EVERY_S = 10.0
"""Minimum interval between lines of progress [s]."""


@contextmanager
def progress_callback(quiet: bool) -> Iterator[Callable[[RunSummary], None] | None]:
    """Yield an `on_progress` callback for `gapray.package`, `gapray.render` and the like; None if `quiet`."""
    if quiet:
        yield None
    elif sys.stderr.isatty():
        yield from _bar()
    else:
        yield _Lines()


def summary_text(summary: RunSummary) -> str:
    """Return a run's summary as a few lines of text."""
    rate = summary.pieces / summary.seconds if summary.seconds else 0.0
    pieces = f"{summary.pieces} {summary.unit} in {summary.seconds:.1f} s ({rate:.1f} {summary.unit}/s)"
    lines = [f"{summary.outcomes()}; {pieces}"]
    lines += [
        f"  rejected {reject['product_id']}: {reject['message']} [{reject['code']}]" for reject in summary.rejects
    ]
    if summary.rejected > len(summary.rejects):
        lines.append(f"  … and {summary.rejected - len(summary.rejects)} more: `gapray catalog show {summary.catalog}`")
    lines += [f"  {line}" for line in [*summary.warning_lines(), *summary.remarks()]]
    return "\n".join([*lines, f"catalogue: {summary.catalog}"])


def finish_run(summary: RunSummary, *, as_json: bool, table: Callable[[], str] | None = None) -> None:
    """Print a run's summary.

    Args:
        summary: The run's summary.
        as_json: Print it as a JSON document, and nothing else.
        table: Makes what people see below it.

    Raises:
        typer.Exit: With 3 if products were rejected.
    """
    if as_json:
        print_json(summary.as_dict())
    else:
        typer.echo(summary_text(summary))
        if table is not None:
            typer.echo(table())
    if summary.rejected:
        raise typer.Exit(3)


class _Lines:
    def __init__(self) -> None:
        self._last = 0.0

    def __call__(self, summary: RunSummary) -> None:
        now = time.monotonic()
        if now - self._last >= LINE_EVERY_S or summary.done == summary.products:
            self._last = now
            text = (
                f"{summary.done}/{summary.products} products, {summary.pieces} {summary.unit}, "
                f"{summary.rejected} rejected"
            )
            typer.echo(text, err=True)


def _bar() -> Iterator[Callable[[RunSummary], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TextColumn("{task.fields[rejected]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("starting", total=None, rate="starting Ray …", rejected="")

        def update(summary: RunSummary) -> None:
            speed = f"{summary.pieces / summary.seconds:.1f} {summary.unit}/s" if summary.pieces else "loading models …"
            rejected = f"{summary.rejected} rejected" if summary.rejected else ""
            progress.update(
                task,
                description=summary.verb,
                total=summary.products,
                completed=summary.done,
                rate=speed,
                rejected=rejected,
            )

        yield update
