"""Output shared by all commands: errors with code and remedy, tables, JSON."""

from __future__ import annotations

import json
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, redirect_stdout
from typing import Any

import typer

from gapray.errors import GaprayError, InternalError, as_gapray_error

ESCAPED = str.maketrans({"\\": r"\\", "\t": r"\t", "\n": r"\n", "\r": r"\r"})
"""Escapes of characters that separate cells and rows in tab-separated text, as in PostgreSQL's COPY and `mysql --batch`."""


@contextmanager
def guarded(as_json: bool = False, *, resumes: bool = False) -> Iterator[None]:
    """Convert gapray's errors and file system errors to a message, a remedy and an exit code.

    Other errors are bugs and show a traceback. SIGTERM ends a command like Ctrl-C.

    Args:
        as_json: Whether errors are also printed as JSON.
        resumes: Whether the command, given again after it was stopped, continues where it ended.
    """
    try:
        with _sigterm_raised():
            yield
    except (GaprayError, OSError) as error:
        known = as_gapray_error(error)
        if isinstance(known, InternalError) and known is not error:
            raise
        if as_json:
            print_json({"error": {"code": known.code, "message": known.message, "remedy": known.remedy}})
        typer.secho(f"error [{known.code}]: {known.message}", fg="red", err=True)
        typer.echo(f"  {known.remedy}", err=True)
        raise typer.Exit(known.exit_code) from error
    except KeyboardInterrupt as stop:
        typer.echo("stopped; run the same command again to go on" if resumes else "stopped", err=True)
        raise typer.Exit(128 + (signal.SIGTERM if isinstance(stop, _Terminated) else signal.SIGINT)) from None


class _Terminated(KeyboardInterrupt):
    """Raised on SIGTERM, which containers, schedulers and `kill` send."""


@contextmanager
def _sigterm_raised() -> Iterator[None]:
    """Let SIGTERM unwind the stack, so that Ray is shut down and temporary files are removed."""

    def terminated(number: int, frame: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second SIGTERM must not interrupt the shutdown
        raise _Terminated

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, terminated)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def quiet_output(as_json: bool) -> AbstractContextManager[Any]:
    """Redirect standard output to standard error if `as_json`, because Ray prints messages of its processes there."""
    return redirect_stdout(sys.stderr) if as_json else nullcontext()


def print_json(value: Any) -> None:
    """Print one JSON document to standard output; values without a JSON equivalent are converted to text."""
    typer.echo(json.dumps(value, indent=2, default=_plain))


def print_table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print a table: ruled on a terminal, otherwise tab-separated, one line per row (`ESCAPED`)."""
    if not sys.stdout.isatty():
        for row in [list(columns), *rows]:
            typer.echo("\t".join(_plain(cell).translate(ESCAPED) if cell is not None else "" for cell in row))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(*columns, header_style="bold")
    for row in rows:
        table.add_row(*(_plain(cell) if cell is not None else "" for cell in row))
    Console().print(table)


def _plain(value: Any) -> str:
    return f"<{len(value)} bytes>" if isinstance(value, bytes) else str(value)
