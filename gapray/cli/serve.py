"""`gapray serve` and `gapray keys`: the server and its API keys."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from gapray.cli.flags import JsonOption
from gapray.cli.output import guarded, print_json, print_table

keys_app = typer.Typer(no_args_is_help=True, help="Manage a server's API keys.")

JobsOption = Annotated[
    str | None,
    typer.Option(
        "--jobs", metavar="URL", help="Job database; default: GAPRAY_JOBS_URL, or SQLite in ~/.local/share/gapray."
    ),
]


def serve(
    profile: Annotated[
        str | None, typer.Option(help="Named set of models and settings; default: the config's, or classic.")
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="YAML file of server settings: limits, urls, jobs, packager, generator, scorer.")
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="Override one setting of the profile; repeatable."),
    ] = None,
    host: Annotated[str, typer.Option(help="Address to bind.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to bind.")] = 8000,
    jobs: JobsOption = None,
    artifacts: Annotated[str | None, typer.Option(help="Folder or URI of uploads and results.")] = None,
    address: Annotated[
        str | None, typer.Option(help="Ray cluster to serve on; default: a new one on this machine.")
    ] = None,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Serve callers without a key, even on a public address.")
    ] = False,
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
    name: Annotated[str, typer.Argument(help="Name of the key's owner.")],
    scope: Annotated[list[str] | None, typer.Option(help="read, write or admin; default: read and write.")] = None,
    per_minute: Annotated[int | None, typer.Option(min=1, help="Maximum number of requests per minute.")] = None,
    concurrent: Annotated[int | None, typer.Option(min=1, help="Maximum number of concurrent jobs.")] = None,
    jobs: JobsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Create a key. Its secret is shown only once."""
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
    key_id: Annotated[str, typer.Argument(metavar="ID", help="Id of the key, see `gapray keys list`.")],
    jobs: JobsOption = None,
) -> None:
    """Revoke a key; takes effect within a few seconds."""
    with guarded():
        from gapray.serve.keys import revoke

        revoke(_engine(jobs), key_id)
        _note(jobs, key_id, None, "revoked")
        typer.echo(f"{key_id} is revoked")


@keys_app.command("webhook-secret")
def webhook_secret(
    key_id: Annotated[str | None, typer.Argument(metavar="[ID]", help="Id of the key, see `gapray keys list`.")] = None,
    jobs: JobsOption = None,
) -> None:
    """Show the secret that signs webhooks of a key's jobs; without ID, of jobs submitted without a key.

    Needs the server's GAPRAY_WEBHOOK_SECRET, or the file beside its database.
    """
    with guarded():
        from gapray.serve.keys import ANONYMOUS, get_key
        from gapray.serve.webhooks import signing_secret

        owner = get_key(_engine(jobs), key_id).id if key_id else ANONYMOUS.id
        typer.echo(signing_secret(owner, str(_settings(jobs).webhook_secret)))


def _note(jobs: str | None, key_id: str, name: str | None, did: str) -> None:
    """Write a line to the audit log."""
    import getpass

    from gapray.serve.audit import audit_log

    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # an arbitrary user id in a container has no name
        user = str(os.getuid())
    audit_log(_settings(jobs).audit)(key=key_id, name=name, did=f"the key was {did}", by=user)


def _engine(jobs: str | None):  # type: ignore[no-untyped-def]  # noqa: ANN202  (SQLAlchemy is not imported for --help)
    from gapray.serve.tables import connect

    return connect(str(_settings(jobs).jobs_url))


def _settings(jobs: str | None):  # type: ignore[no-untyped-def]  # noqa: ANN202  (nor are the settings)
    from gapray.serve.settings import ServeSettings

    return ServeSettings(jobs_url=jobs).resolved()
