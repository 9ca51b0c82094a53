"""What every command does alike: errors with code and remedy, tables, JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, redirect_stdout
from typing import Any

import typer

from gapray.errors import GaprayError


@contextmanager
def guarded(as_json: bool = False) -> Iterator[None]:
    """Turn gapray's errors into a message, a remedy and an exit code; other errors are defects and show a trace."""
    try:
        yield
    except GaprayError as error:
        if as_json:
            print_json({"error": {"code": error.code, "message": error.message, "remedy": error.remedy}})
        typer.secho(f"error [{error.code}]: {error.message}", fg="red", err=True)
        typer.echo(f"  {error.remedy}", err=True)
        raise typer.Exit(error.exit_code) from error
    except KeyboardInterrupt:
        typer.echo("stopped; run the same command again to go on", err=True)
        raise typer.Exit(130) from None


def quiet_output(as_json: bool) -> AbstractContextManager[Any]:
    """Ray prints what its processes suffer; with --json standard output is for the JSON alone."""
    return redirect_stdout(sys.stderr) if as_json else nullcontext()


def print_json(value: Any) -> None:
    """One JSON document on standard output; what JSON cannot say is written as text."""
    typer.echo(json.dumps(value, indent=2, default=_plain))


def print_table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """A table for people: ruled on a terminal, tab-separated elsewhere."""
    if not sys.stdout.isatty():
        for row in [list(columns), *rows]:
            typer.echo("\t".join(_plain(cell) if cell is not None else "" for cell in row))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(*columns, header_style="bold")
    for row in rows:
        table.add_row(*(_plain(cell) if cell is not None else "" for cell in row))
    Console().print(table)


def _plain(value: Any) -> str:
    return f"<{len(value)} bytes>" if isinstance(value, bytes) else str(value)
