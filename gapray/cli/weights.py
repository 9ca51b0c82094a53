"""`gapray models`."""

from __future__ import annotations

from typing import Annotated

import typer

from gapray.cli.flags import (
    JsonOption,
)
from gapray.cli.output import guarded, print_json, print_table

models_app = typer.Typer(no_args_is_help=True, help="List, fetch, verify and locate model weights.")


@models_app.command("list")
def models_list(as_json: JsonOption = False) -> None:
    """Show all model cards and the profiles that use them."""
    with guarded(as_json):
        from gapray.cli.models import card_rows, profile_rows

        rows = card_rows()
        if as_json:
            print_json(rows)
            return
        print_table(
            ["card", "role", "licence", "size", "sha256", "commit", "VRAM", "here", "profiles"],
            [list(row.values()) for row in rows],
        )
        print_table(["profile", "what it is"], profile_rows())


@models_app.command("pull")
def models_pull(
    names: Annotated[list[str], typer.Argument(metavar="PROFILE|CARD…", help="What to fetch.")],
) -> None:
    """Fetch the weights of profiles or cards, verify them, and record unknown hashes in models.lock."""
    with guarded(resumes=True):
        from gapray.cli.models import pull

        for line in pull(names):
            typer.echo(line)


@models_app.command("verify")
def models_verify() -> None:
    """Hash all weights on this machine and compare them with their cards or models.lock."""
    with guarded():
        from gapray.cli.models import verify

        for line in verify():
            typer.echo(line)


@models_app.command("path")
def models_path(name: Annotated[str, typer.Argument(metavar="CARD", help="Name of a card.")]) -> None:
    """Print the paths of a card's files on this machine."""
    with guarded():
        from gapray.models.cards import card_named
        from gapray.models.store import locate

        for path in locate(card_named(name), fetch=False).files.values():
            typer.echo(path)
