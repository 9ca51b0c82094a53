"""`gapray capture SOURCE --out FOLDER` and `gapray capture sheet`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from gapray.cli.output import guarded, print_json, print_table

SHOWN = 10
"""Photos passed over that are listed."""


def capture(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="A video of a turntable, a Polycam raw export (folder or zip), or a folder of photos with the printed sheet "
            "in them; `sheet` draws that sheet.",
        ),
    ],
    out: Annotated[
        Path,
        typer.Option("--out", help="Folder of the views, which must not hold anything yet; of `sheet` a .pdf or .svg."),
    ],
    views: Annotated[int, typer.Option(min=4, max=72, help="Views, in even steps round the product.")] = 8,
    front: Annotated[
        str | None,
        typer.Option(help="What shows the front: seconds into the video, or a keyframe's name; default: the first."),
    ] = None,
    tolerance: Annotated[
        float, typer.Option(min=1, max=45, help="Polycam: a view may lie at most this far from its angle [degrees].")
    ] = 20.0,
    as_json: Annotated[bool, typer.Option("--json", help="A JSON object on standard output, nothing else.")] = False,
) -> None:
    """Pick the best views of a turn, or say which side is missing."""
    with guarded(as_json):
        from gapray.capture.video import is_video_name
        from gapray.inspect.polycam import is_export

        if source == "sheet":
            from gapray.inspect.sheet import write_sheet

            sheet = str(write_sheet(out))
            if as_json:
                print_json({"sheet": sheet})
            else:
                typer.echo(f"{sheet}: print it at 100 % and measure its scale bar")
            return
        if is_video_name(source):
            found = _from_video(source, out, views, front)
        elif Path(source).is_dir() and not is_export(source):
            found = _from_sheet(source, out)
        else:
            found = _from_export(source, out, views, front, tolerance)
        if as_json:
            print_json(found)
            return
        facts = found["views"]
        print_table(list(facts[0]), [list(one.values()) for one in facts])
        for name, why in list(found["rejected"].items())[:SHOWN]:
            typer.echo(f"  passed over {name}: {why}")
        for line in found["notes"]:
            typer.echo(f"  {line}")
        typer.echo(f"{len(facts)} views in {found['folder']}; next: gapray run {found['folder']} --out catalog")


def _from_video(source: str, out: Path, views: int, front: str | None) -> dict[str, Any]:
    from gapray.errors import ConfigError
    from gapray.inspect.film import pick_frames, read_film, write_stills

    try:
        front_s = float(front) if front is not None else 0.0
    except ValueError:
        raise ConfigError("config.invalid", f"--front {front!r}: give seconds into the video") from None
    film = read_film(source)
    stills = pick_frames(film, views, front_s=front_s)
    folder = write_stills(film, stills, out)
    turn = film.turn
    way = "counter-clockwise" if turn.direction > 0 else "clockwise"
    notes = [f"{turn.span_deg:.0f}° shown, as if the camera walked {way}"]
    if turn.covered.any():
        notes.append(f"something reaches into {int(turn.covered.sum())} of {len(turn.covered)} frames; none was taken")
    facts = [
        {
            "angle_deg": one.nominal_deg,
            "azimuth_deg": round(one.azimuth_deg, 2),
            "seconds": round(one.seconds, 3),
            "sharpness": round(one.sharpness, 1),
        }
        for one in stills
    ]
    return {"views": facts, "rejected": {}, "notes": notes, "folder": str(folder)}


def _from_export(source: str, out: Path, views: int, front: str | None, tolerance: float) -> dict[str, Any]:
    from gapray.inspect.orbit import orbit_of
    from gapray.inspect.pick import pick_views, write_views
    from gapray.inspect.polycam import read_export

    read = read_export(source)
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
    notes = [f"of {len(read.keyframes)} keyframes"]
    return {"views": facts, "rejected": dict(rejected), "notes": notes, "folder": str(folder)}


def _from_sheet(source: str, out: Path) -> dict[str, Any]:
    from gapray.inspect.sheet_cameras import place

    seen = place(source, out)
    facts = [
        {
            "file": name,
            "azimuth_deg": round(one.azimuth_deg, 2),
            "elevation_deg": round(one.elevation_deg, 2),
            "distance_mm": round(one.distance_mm, 1),
            "markers": one.markers,
        }
        for name, one in seen.items()
        if one is not None
    ]
    rejected = {name: "its markers are not seen" for name, one in seen.items() if one is None}
    return {
        "views": sorted(facts, key=lambda row: row["azimuth_deg"]),
        "rejected": rejected,
        "notes": [],
        "folder": str(out),
    }
