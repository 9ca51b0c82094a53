"""`gapray capture`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gapray.cli.output import guarded, print_json, print_table


def capture(
    export: Annotated[str, typer.Argument(metavar="EXPORT", help="A Polycam raw export: folder or zip.")],
    out: Annotated[Path, typer.Option("--out", help="Folder of the views; must not hold anything yet.")],
    views: Annotated[int, typer.Option(min=3, max=72, help="Views, in even steps round the product.")] = 8,
    front: Annotated[
        str | None, typer.Option(help="Name of the keyframe that shows the front; default: the first good one.")
    ] = None,
    tolerance: Annotated[
        float, typer.Option(min=1, max=45, help="A view may lie at most this far from its angle [degrees].")
    ] = 20.0,
    as_json: Annotated[bool, typer.Option("--json", help="A JSON object on standard output, nothing else.")] = False,
) -> None:
    """Pick the best views of a walk round a product, or say which side is missing."""
    with guarded(as_json):
        from gapray.inspect.orbit import orbit_of
        from gapray.inspect.pick import pick_views, write_views
        from gapray.inspect.polycam import read_export

        read = read_export(export)
        picked = pick_views(read, views, tolerance_deg=tolerance, front=front)
        rejected = orbit_of(read, front).rejected
        folder = write_views(read, picked, out)
        facts = [
            {
                "angle_deg": one.nominal_deg,
                "azimuth_deg": round(one.azimuth_deg, 2),
                "elevation_deg": round(one.elevation_deg, 2),
                "distance_m": round(one.distance, 3),
                "sharpness": round(one.sharpness, 1),
                "keyframe": one.keyframe.name,
                "corrected": one.keyframe.corrected,
            }
            for one in picked
        ]
        if as_json:
            print_json({"views": facts, "rejected": dict(rejected), "folder": str(folder)})
            return
        print_table(list(facts[0]), [list(one.values()) for one in facts])
        for name, why in list(rejected.items())[:10]:
            typer.echo(f"  passed over {name}: {why}")
        typer.echo(
            f"{len(picked)} of {len(read.keyframes)} keyframes in {folder}; next: gapray run {folder} --out catalog"
        )
