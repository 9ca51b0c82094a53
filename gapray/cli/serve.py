"""`gapray serve` and `gapray keys`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from gapray.cli.output import guarded, print_json, print_table

keys_app = typer.Typer(no_args_is_help=True, help="API keys of a server.")

JobsOption = Annotated[
    str | None,
    typer.Option(
        "--jobs", metavar="URL", help="Jobs' database; default GAPRAY_JOBS_URL, or SQLite in ~/.local/share/gapray."
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="A JSON object on standard output, nothing else.")]


def serve(
    profile: Annotated[str, typer.Option(help="Named set of models and settings.")] = "classic",
    config: Annotated[
        Path | None, typer.Option(help="YAML of server settings: limits, urls, jobs, packager, generator, scorer.")
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="One setting of the profile.")
    ] = None,
    host: Annotated[str, typer.Option(help="Address to bind.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to bind.")] = 8000,
    jobs: JobsOption = None,
    artifacts: Annotated[str | None, typer.Option(help="Folder or URI of uploads and results.")] = None,
    address: Annotated[
        str | None, typer.Option(help="Ray cluster to serve on; default: a new one on this machine.")
    ] = None,
    insecure: Annotated[bool, typer.Option("--insecure", help="Answer callers without a key, on any address.")] = False,
) -> None:
    """Serve videos over HTTP on this machine: OpenAI's and RunPod's APIs, and a page at /."""
    with guarded():
        from gapray.serve.start import serve_settings_of, start

        settings = serve_settings_of(
            profile=profile, config=config, overrides=set_ or [], jobs=jobs, artifacts=artifacts
        )
        start(settings, host=host, port=port, address=address, insecure=insecure)


@keys_app.command("create")
def create_key(
    name: Annotated[str, typer.Argument(help="Whose key it is.")],
    scope: Annotated[list[str] | None, typer.Option(help="read, write, admin; default: read and write.")] = None,
    per_minute: Annotated[int | None, typer.Option(min=1, help="Requests a minute at most.")] = None,
    concurrent: Annotated[int | None, typer.Option(min=1, help="Jobs at once at most.")] = None,
    jobs: JobsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a key. Its secret is shown this once."""
    with guarded(as_json):
        from gapray.serve.keys import create

        key, secret = create(
            _engine(jobs), name, scopes=scope or ("read", "write"), per_minute=per_minute, concurrent=concurrent
        )
        _note(jobs, key.id, key.name, f"made, with the scopes {', '.join(key.scopes)}")
        print_json(key.as_dict() | {"secret": secret}) if as_json else typer.echo(secret)


@keys_app.command("list")
def list_keys(jobs: JobsOption = None, as_json: JsonOption = False) -> None:
    """Show the keys, without their secrets."""
    with guarded(as_json):
        from datetime import UTC, datetime

        from gapray.serve.keys import list_keys

        keys = list_keys(_engine(jobs))
        if as_json:
            print_json([key.as_dict() for key in keys])
            return
        rows = [
            [
                key.id,
                key.name,
                " ".join(key.scopes),
                key.per_minute,
                key.concurrent,
                datetime.fromtimestamp(key.created_at, UTC).isoformat(timespec="seconds"),
                "revoked" if key.revoked_at else "valid",
            ]
            for key in keys
        ]
        print_table(["id", "name", "scopes", "per minute", "at once", "created", "state"], rows)


@keys_app.command("revoke")
def revoke_key(
    key_id: Annotated[str, typer.Argument(metavar="ID", help="See `gapray keys list`.")], jobs: JobsOption = None
) -> None:
    """Make a key useless, within a few seconds."""
    with guarded():
        from gapray.serve.keys import revoke

        revoke(_engine(jobs), key_id)
        _note(jobs, key_id, None, "revoked")
        typer.echo(f"{key_id} is revoked")


@keys_app.command("webhook-secret")
def webhook_secret(
    key_id: Annotated[
        str | None, typer.Argument(metavar="[ID]", help="Id of the key, as `gapray keys list` shows it.")
    ] = None,
    jobs: JobsOption = None,
) -> None:
    """Show what signs the webhooks of a key's jobs; without ID, of jobs that came without a key.

    GAPRAY_WEBHOOK_SECRET, or the file beside the database, must be the server's.
    """
    with guarded():
        from gapray.serve.keys import ANONYMOUS, get_key
        from gapray.serve.webhooks import signing_secret

        owner = get_key(_engine(jobs), key_id).id if key_id else ANONYMOUS.id
        typer.echo(signing_secret(owner, str(_settings(jobs).webhook_secret)))


def _note(jobs: str | None, key_id: str, name: str | None, did: str) -> None:
    """A line of the audit log."""
    import getpass

    from gapray.serve.audit import audit_log

    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's made-up user has no name
        user = str(os.getuid())
    audit_log(_settings(jobs).audit)(key=key_id, name=name, did=f"the key was {did}", by=user)


def _engine(jobs: str | None):  # type: ignore[no-untyped-def]  # noqa: ANN202  (SQLAlchemy is not imported for --help)
    from gapray.serve.tables import connect

    return connect(str(_settings(jobs).jobs_url))


def _settings(jobs: str | None):  # type: ignore[no-untyped-def]  # noqa: ANN202  (nor are the settings)
    from gapray.serve.settings import ServeSettings

    return ServeSettings(jobs_url=jobs).resolved()
