"""The command line, `gapray`: thin commands over the library."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from gapray.cli.batch import package, render, run_all, score
from gapray.cli.capture import capture_app
from gapray.cli.catalog import catalog_app
from gapray.cli.exchange import export, import_gap, manifest
from gapray.cli.flags import JsonOption
from gapray.cli.output import guarded, print_json, print_table
from gapray.cli.plan import plan
from gapray.cli.publishing import list_presets, publish, reel, report
from gapray.cli.runs import runs_app, status
from gapray.cli.serve import keys_app, serve
from gapray.cli.stills import stills
from gapray.cli.submit import submit
from gapray.cli.weights import models_app


class _RejectEmptyArguments(TyperGroup):
    """A group that rejects empty arguments: usually a script's variable is not set, and as a path it would be this folder."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Reject empty arguments before parsing."""
        for previous, argument in zip(["", *args], args, strict=False):
            if not argument.strip() or (argument.startswith("--") and argument.endswith("=")):
                name = argument.strip().rstrip("=") or (
                    previous if previous.startswith("-") else f"the argument after {previous!r}"
                )
                ctx.fail(f"{name} is empty: is a variable not set?")
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=_RejectEmptyArguments,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Eight photos of a product in; a packaged asset, a turntable video and a fidelity score out.",
)
for name, command in (
    ("run", run_all),
    ("package", package),
    ("render", render),
    ("score", score),
    ("stills", stills),
    ("report", report),
    ("publish", publish),
    ("reel", reel),
    ("presets", list_presets),
    ("manifest", manifest),
    ("export", export),
    ("import-gap", import_gap),
    ("serve", serve),
    ("plan", plan),
    ("status", status),
):
    app.command(name)(command)
app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(submit)
for name, group in (
    ("capture", capture_app),
    ("catalog", catalog_app),
    ("runs", runs_app),
    ("models", models_app),
    ("keys", keys_app),
):
    app.add_typer(group, name=name)


@app.callback(invoke_without_command=True)
def _main(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        from gapray import __version__

        typer.echo(__version__)
        raise typer.Exit


@app.command()
def doctor(as_json: JsonOption = False) -> None:
    """Check this machine: Python, torch, GPU, Ray, disk, weights, ports."""
    with guarded(as_json):
        from gapray.cli.doctor import examine

        findings = examine()
        if as_json:
            print_json([vars(finding) for finding in findings])
        else:
            print_table(["check", "state", "finding"], [[f.check, f.state, f.finding] for f in findings])
        if any(finding.state == "bad" for finding in findings):
            raise typer.Exit(1)
