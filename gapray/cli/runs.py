"""`gapray runs` and `gapray status`: what ran, what runs, how far it is and what it cost."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from gapray.cli.output import guarded, print_json, print_table

runs_app = typer.Typer(no_args_is_help=True, help="Records of a catalogue's runs.")

WARNINGS_SHOWN = 20
CatalogArgument = Annotated[str, typer.Argument(metavar="CATALOG", help="The catalogue: folder or URI.")]
JsonOption = Annotated[bool, typer.Option("--json", help="A JSON object on standard output, nothing else.")]


@runs_app.command("list")
def list_runs(
    catalog: CatalogArgument,
    limit: Annotated[int, typer.Option(min=1, help="Runs to print, newest first.")] = 20,
    as_json: JsonOption = False,
) -> None:
    """Show the runs of CATALOG, newest first."""
    with guarded(as_json):
        from gapray.catalog.runs import found_folder, runs

        records = runs(found_folder(catalog), limit=limit)
        if as_json:
            print_json(records)
            return
        print_table(["run", "kind", "state", "done", "rejected", "pieces", "seconds", "cost"], list(map(_row, records)))


@runs_app.command("show")
def show_run(
    catalog: CatalogArgument,
    run_id: Annotated[
        str, typer.Argument(metavar="RUN", help="An id or its beginning; `last` is the newest.")
    ] = "last",
    as_json: JsonOption = False,
) -> None:
    """Show one run: counts, seconds by stage, rejects by code, nodes, cost, code and models."""
    with guarded(as_json):
        from gapray.catalog.runs import found_folder, run_named

        record = run_named(found_folder(catalog), run_id)
        print_json(record) if as_json else typer.echo("\n".join(told(record)))


def status(
    catalog: CatalogArgument,
    watch: Annotated[bool, typer.Option("--watch", help="Again every few seconds until no run is left.")] = False,
    every: Annotated[float, typer.Option(min=0.2, help="Seconds between looks.")] = 2.0,
    as_json: JsonOption = False,
) -> None:
    """Show what runs on CATALOG now, how far it is and when it will be done, and what the catalogue holds."""
    with guarded(as_json):
        from gapray.catalog.reader import Catalog
        from gapray.catalog.runs import found_folder, runs

        folder = found_folder(catalog)
        while True:
            records = runs(folder, limit=20)
            living = [record for record in records if record["state"] == "running"]
            packaged = next((record for record in records if record.get("kind") == "package"), {})
            remarks = packaged.get("remarks", []) if packaged not in living else []
            counts, warnings = Catalog(folder).counts(), Catalog(folder).warnings()
            if as_json:
                rows = {name: number for name, (number, _) in counts.items() if number}
                superseded = {name: number for name, (_, number) in counts.items() if number}
                told_now = {"remarks": remarks, "warnings": warnings, "running": living}
                print_json({"rows": rows, "superseded": superseded, **told_now})
            else:
                if watch and sys.stdout.isatty():
                    typer.echo("\033[2J\033[H", nl=False)  # clear, cursor home
                lines = [*(f"last packaging: {line}" for line in remarks), *warning_lines(warnings)]
                typer.echo("\n".join([_held(counts), *lines]))
                for record in living:
                    typer.echo("\n".join(["", *told(record)]))
                if not living:
                    typer.echo("nothing runs here")
            if not watch or not living:
                return
            time.sleep(every)


def told(record: Mapping[str, Any], now: datetime | None = None) -> list[str]:
    """A run in lines for people."""
    counts, pieces = record["counts"], record["pieces"]
    products = counts["products"]
    share = record["done"] / products if products else 1.0
    bar = "█" * round(24 * share) + "·" * (24 - round(24 * share))
    lines = [
        f"{record['kind']} {record['run_id']}: {record['state']}",
        f"  {bar} {record['done']}/{products} products ({counts['finished']} already there, {counts['rejected']} rejected)",
        f"  {pieces['count']} {pieces['unit']} in {record['seconds']:.0f} s{_left(record, now)}",
    ]
    for name, stage in record["stages"].items():
        each = stage["seconds"] / max(1, stage["products"])
        gpu = f", {stage['gpu_seconds']:.1f} GPU s" if stage["gpu_seconds"] else ""
        again = f", {stage['retried']} products again" if stage["retried"] else ""
        lines.append(f"  {name:18s} {stage['products']:8d} products  {each:8.3f} s each{gpu}{again}")
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


def _left(record: Mapping[str, Any], now: datetime | None) -> str:
    """When a living run will be done, at the rate it had so far."""
    if record["state"] != "running":
        return ""
    worked = record["done"] - record["counts"]["finished"]
    left = record["counts"]["products"] - record["done"]
    if worked <= 0:
        return ", no product done yet"
    since = ((now or datetime.now(UTC)) - datetime.fromisoformat(record["started_at"])).total_seconds()
    seconds = left * since / worked
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
    """The first `WARNINGS_SHOWN` warnings, a line each, and how many there are beyond them."""
    from gapray.batch.runs import warning_line

    lines = [warning_line(warning) for warning in warnings[:WARNINGS_SHOWN]]
    if len(warnings) > WARNINGS_SHOWN:
        lines.append(f"… and {len(warnings) - WARNINGS_SHOWN} more: SELECT product_id, warnings FROM products")
    return lines


def _held(counts: Mapping[str, tuple[int, int]]) -> str:
    """Current rows of each table in a line, and how many others lie there."""
    current = ", ".join(f"{number} {name}" for name, (number, _) in counts.items() if number)
    superseded = sum(number for _, number in counts.values())
    more = f" (and {superseded} superseded rows, which `gapray catalog compact` removes)" if superseded else ""
    return f"{current or 'nothing current'}{more}" if counts else "an empty catalogue"
