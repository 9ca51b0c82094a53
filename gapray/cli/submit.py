"""`gapray submit`: runs a command as a job of a Ray cluster."""

from __future__ import annotations

from typing import Annotated

import typer

from gapray.cli.flags import JsonOption
from gapray.cli.output import guarded, print_json


def submit(
    context: typer.Context,
    address: Annotated[
        str | None,
        typer.Option(help="Address of the cluster's dashboard, http://HEAD:8265; default: RAY_API_SERVER_ADDRESS."),
    ] = None,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Follow the log until the job ends.")] = True,
    installed: Annotated[
        bool, typer.Option("--installed", help="Upload no code, because gapray is installed on the nodes.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Run a gapray command as a job of a Ray cluster: `gapray submit -- run s3://bucket/shoot --out s3://bucket/catalog`.

    For token authentication set RAY_AUTH_MODE=token; the token is read from where Ray stores it.
    """
    with guarded(as_json):
        from gapray.cluster.submit import VERBS, checkout
        from gapray.cluster.submit import submit as run

        if not context.args or context.args[0] not in VERBS:
            raise typer.BadParameter(f"after -- comes one of {', '.join(VERBS)}")
        job = run(
            context.args,
            address=address,
            working_dir=None if installed else checkout(),
            follow=wait,
            on_log=lambda text: typer.echo(text, nl=False, err=as_json),
        )
        print_json(job.as_dict()) if as_json else typer.echo(f"job {job.id}: {job.status}")
        if job.status in ("FAILED", "STOPPED"):
            raise typer.Exit(1)
