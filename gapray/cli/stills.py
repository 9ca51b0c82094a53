"""`gapray stills CATALOG --scenes … --per-scene N`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gapray.cli.flags import AddressOption, ConfigOption, JsonOption, ProfileOption, SetOption
from gapray.cli.output import guarded, print_json, print_table, quiet_output


def stills(
    catalog: Annotated[str | None, typer.Argument(metavar="CATALOG", help="The catalogue: folder or URI.")] = None,
    scenes: Annotated[
        str | None,
        typer.Option(help="Comma-separated names, YAML files or folders; default: the three of the identity test."),
    ] = None,
    per_scene: Annotated[int, typer.Option(min=1, help="Pictures of each product in each scene.")] = 1,
    product: Annotated[list[str] | None, typer.Option(help="Only these products.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Maximum number of products.")] = None,
    list_: Annotated[
        bool, typer.Option("--list", help="Only show the scenes: those of --scenes, or all that ship with gapray.")
    ] = False,
    profile: ProfileOption = "classic",
    config: ConfigOption = None,
    set_: SetOption = None,
    backend: Annotated[
        str | None,
        typer.Option(help="What draws the scenes: composite, sdxl or an installed generator; default: the profile's."),
    ] = None,
    report: Annotated[Path | None, typer.Option(help="Also write the catalogue's report into this folder.")] = None,
    address: AddressOption = None,
    as_json: JsonOption = False,
) -> None:
    """Draw all products of CATALOG into scenes and judge whether each stayed the same product."""
    with guarded(as_json, resumes=True):
        from gapray.errors import ConfigError
        from gapray.profile import load_profile, with_flags
        from gapray.stills.scene import load_scenes, scene_names

        names = scenes.split(",") if scenes else []
        if list_:
            found = load_scenes(names or scene_names())
            if as_json:
                print_json({scene.name: scene.model_dump(mode="json") for scene in found})
            else:
                print_table(["scene", "prompt"], [[scene.name, scene.prompt] for scene in found])
            return
        if catalog is None:
            raise ConfigError("config.invalid", "name a catalogue, or pass --list")
        from gapray.batch.stills import DEFAULT_SCENES
        from gapray.batch.stills import stills as run
        from gapray.catalog.reader import open_catalog
        from gapray.cli.progress import progress_callback, summary_text

        overrides = with_flags(set_, {"stills.backend": ("--backend", backend)})
        chosen = load_profile(profile, config_file=config, overrides=overrides)
        with quiet_output(as_json), progress_callback(quiet=as_json) as on_progress:
            done = run(
                catalog,
                scenes=names or DEFAULT_SCENES,
                per_scene=per_scene,
                profile=chosen,
                products=product,
                limit=limit,
                address=address,
                on_progress=on_progress,
            )
        rows = open_catalog(catalog).best_stills().to_pylist()
        page = None
        if report:
            from gapray.cli.fidelity import build_report

            page = build_report(catalog, report)
        if as_json:
            print_json(done.as_dict() | {"best": rows, "report": str(page) if page else None})
        else:
            typer.echo(summary_text(done))
            columns = ["product_id", "scene", "gate", "score", "same_percentile", "cosine", "lpips", "iou", "detail"]
            cells = [[_cell(row[name]) for name in columns] + ["pasted" if row["pasted"] else ""] for row in rows]
            print_table([*columns, ""], cells)
            if page:
                typer.echo(f"report: {page}")
        if done.rejected or done.failed:
            raise typer.Exit(3)


def _cell(value: object) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)
