"""`gapray runs` and `gapray status`: past and current runs, their progress and cost."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from gapray.cli.flags import CatalogArgument, JsonOption
from gapray.cli.output import guarded, print_json, print_table

runs_app = typer.Typer(no_args_is_help=True, help="Show the records of a catalogue's runs.")

WARNINGS_SHOWN = 20
"""Maximum number of warnings to print."""


@runs_app.command("list")
def list_runs(
    catalog: CatalogArgument,
    limit: Annotated[int, typer.Option(min=1, help="Maximum number of runs to print.")] = 20,
    as_json: JsonOption = False,
) -> None:
    """Show the runs of CATALOG, newest first."""
    with guarded(as_json):
        from gapray.catalog.runs import existing_catalog, runs

        records = runs(existing_catalog(catalog), limit=limit)
        if as_json:
            print_json(records)
            return
        print_table(["run", "kind", "state", "done", "rejected", "pieces", "seconds", "cost"], list(map(_row, records)))


@runs_app.command("show")
def show_run(
    catalog: CatalogArgument,
    run_id: Annotated[
        str, typer.Argument(metavar="RUN", help="Id of a run, or a prefix of it; `last` is the newest.")
    ] = "last",
    as_json: JsonOption = False,
) -> None:
    """Show one run: counts, seconds by stage, rejects by code, nodes, cost, code and models."""
    with guarded(as_json):
        from gapray.catalog.runs import existing_catalog, run_named

        record = run_named(existing_catalog(catalog), run_id)
        print_json(record) if as_json else typer.echo("\n".join(describe_run(record)))


def status(
    catalog: CatalogArgument,
    watch: Annotated[bool, typer.Option("--watch", help="Repeat until no run is in progress.")] = False,
    every: Annotated[float, typer.Option(min=0.2, help="Seconds between updates.")] = 2.0,
    as_json: JsonOption = False,
) -> None:
    """Show the contents of CATALOG and its current runs, with their progress and remaining time."""
    with guarded(as_json):
        from gapray.catalog.reader import Catalog
        from gapray.catalog.runs import existing_catalog, runs

        folder = existing_catalog(catalog)
        while True:
            records = runs(folder, limit=20)
            running = [record for record in records if record["state"] == "running"]
            last_packaging = next((record for record in records if record.get("kind") == "package"), {})
            remarks = last_packaging.get("remarks", []) if last_packaging not in running else []
            counts, warnings = Catalog(folder).counts(), Catalog(folder).warnings()
            if as_json:
                rows = {name: number for name, (number, _) in counts.items() if number}
                superseded = {name: number for name, (_, number) in counts.items() if number}
                messages = {"remarks": remarks, "warnings": warnings}
                print_json({"rows": rows, "superseded": superseded, **messages, "running": running})
            else:
                if watch and sys.stdout.isatty():
                    typer.echo("\033[2J\033[H", nl=False)  # clear the screen
                lines = [*(f"last packaging: {line}" for line in remarks), *warning_lines(warnings)]
                typer.echo("\n".join([_describe_counts(counts), *lines]))
                for record in running:
                    typer.echo("\n".join(["", *describe_run(record)]))
                if not running:
                    typer.echo("nothing runs here")
            if not watch or not running:
                return
            time.sleep(every)


def describe_run(record: Mapping[str, Any], now: datetime | None = None) -> list[str]:
    """Format a run record as lines of text.

    Args:
        record: From `gapray.catalog.runs`.
        now: Time to compute the remaining time from; default: the present.
    """
    counts, pieces = record["counts"], record["pieces"]
    products = counts["products"]
    fraction = record["done"] / products if products else 1.0
    bar = "█" * round(24 * fraction) + "·" * (24 - round(24 * fraction))
    lines = [
        f"{record['kind']} {record['run_id']}: {record['state']}",
        f"  {bar} {record['done']}/{products} products ({counts['finished']} already there, {counts['rejected']} rejected)",
        f"  {pieces['count']} {pieces['unit']} in {record['seconds']:.0f} s{_remaining(record, now)}",
    ]
    for name, stage in record["stages"].items():
        mean_s = stage["seconds"] / max(1, stage["products"])
        gpu = f", {stage['gpu_seconds']:.1f} GPU s" if stage["gpu_seconds"] else ""
        retried = f", {stage['retried']} products again" if stage["retried"] else ""
        lines.append(f"  {name:18s} {stage['products']:8d} products  {mean_s:8.3f} s each{gpu}{retried}")
    lines += [f"  rejected {code}: {count}" for code, count in sorted(record["rejects_by_code"].items())]
    lines += [f"  {line}" for line in (*record.get("warnings", ()), *record.get("remarks", ()))]
    cluster = ", ".join(f"{value:g} {name}" for name, value in record["cluster"].items())
    held = record["held"]
    cost = "" if record["cost"] is None else f", cost {record['cost']:.2f}"
    lines.append(f"  at most {cluster or 'no Ray'}; {held['cpu_hours']:.2f} CPU h, {held['gpu_hours']:.2f} GPU h{cost}")
    if record["spilled_bytes"]:
        lines.append(
            f"  spilled {record['spilled_bytes'] / 1e6:.0f} MB to disk: larger nodes, or fewer products a block"
        )
    code = record["code"]
    lines.append(
        f"  gapray {code['version']}{' at ' + code['revision'] if code['revision'] else ''}, {record['source']}"
    )
    if record["error"]:
        lines.append(f"  error [{record['error']['code']}]: {record['error']['message']}")
    if record["state"] == "lost":
        lines.append(f"  no sign of life since {record['updated_at']}: the same command goes on where it ended")
    return lines


def _remaining(record: Mapping[str, Any], now: datetime | None) -> str:
    """Format the remaining time of a running run, extrapolated from its rate so far; empty for other runs."""
    if record["state"] != "running":
        return ""
    processed = record["done"] - record["counts"]["finished"]
    remaining = record["counts"]["products"] - record["done"]
    if processed <= 0:
        return ", no product done yet"
    elapsed = ((now or datetime.now(UTC)) - datetime.fromisoformat(record["started_at"])).total_seconds()
    seconds = remaining * elapsed / processed
    return f", about {seconds / 60:.0f} min left" if seconds >= 90 else f", about {seconds:.0f} s left"


def _row(record: Mapping[str, Any]) -> list[Any]:
    pieces, counts = record["pieces"], record["counts"]
    return [
        record["run_id"],
        record["kind"],
        record["state"],
        f"{record['done']}/{counts['products']}",
        counts["rejected"],
        f"{pieces['count']} {pieces['unit']}",
        f"{record['seconds']:.0f}",
        None if record["cost"] is None else f"{record['cost']:.2f}",
    ]


def warning_lines(warnings: Sequence[Mapping[str, str]]) -> list[str]:
    """Return the first `WARNINGS_SHOWN` warnings, one line each, and a line with the number of further ones."""
    from gapray.batch.runs import warning_line

    lines = [warning_line(warning) for warning in warnings[:WARNINGS_SHOWN]]
    if len(warnings) > WARNINGS_SHOWN:
        lines.append(f"… and {len(warnings) - WARNINGS_SHOWN} more: SELECT product_id, warnings FROM products")
    return lines


def _describe_counts(counts: Mapping[str, tuple[int, int]]) -> str:
    """Format the number of current rows of each table, and of superseded rows, as one line."""
    current = ", ".join(f"{number} {name}" for name, (number, _) in counts.items() if number)
    superseded = sum(number for _, number in counts.values())
    more = f" (and {superseded} superseded rows, which `gapray catalog compact` removes)" if superseded else ""
    return f"{current or 'nothing current'}{more}" if counts else "an empty catalogue"
