"""`gapray capture SOURCE --out FOLDER`, and `gapray capture check | day | sheet`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from typer.core import TyperGroup

from gapray.cli.flags import JsonOption, ProfileOption, SetOption
from gapray.cli.output import guarded, print_json, print_table

SHOWN = 10
"""Maximum number of rejected photos to list."""


class _SourceOrCommand(TyperGroup):
    """A group whose first argument may be a source instead of a command: `gapray capture turn.mp4 --out …`."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Run the hidden command `views` if the first argument is not a command."""
        return super().resolve_command(ctx, args if args[0] in self.commands else ["views", *args])

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Allow options before the source."""
        first = next((argument for argument in args if not argument.startswith("-")), None)
        if args and args[0].startswith("-") and args[0] not in ("--help",) and first not in self.commands:
            args = ["views", *args]
        return super().parse_args(ctx, args)


capture_app = typer.Typer(
    cls=_SourceOrCommand,
    no_args_is_help=True,
    help="Extract views from a phone capture: `gapray capture SOURCE --out FOLDER` takes a video of a turntable, a Polycam "
    "raw export (folder or zip), or a folder of photos that show the printed sheet.",
)

NamesTemplate = Annotated[
    str,
    typer.Option(
        "--names",
        help="File names of the views: degrees, index, gs1, or a template with {sku} {gtin} {deg} {index} {facing}.",
    ),
]


@capture_app.command(name="views", hidden=True)
def views_of(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="A video of a turntable, a Polycam raw export (folder or zip), or a folder of photos that show the printed "
            "sheet.",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder to write the views to; must be new or empty.")],
    views: Annotated[int, typer.Option(min=4, max=72, help="Number of views, evenly spaced around the product.")] = 8,
    front: Annotated[
        str | None,
        typer.Option(help="The front view: seconds into the video, or a keyframe's name; default: the first."),
    ] = None,
    tolerance: Annotated[
        float, typer.Option(min=1, max=45, help="Polycam: maximum distance of a view from its angle [degrees].")
    ] = 20.0,
    as_json: JsonOption = False,
) -> None:
    """Select the best views of a turn, or report which side is missing."""
    with guarded(as_json):
        from gapray.capture.video import is_video_name
        from gapray.inspect.polycam import is_export

        if is_video_name(source):
            result = _from_video(source, out, views, front)
        elif Path(source).is_dir() and not is_export(source):
            result = _from_sheet(source, out)
        else:
            result = _from_export(source, out, views, front, tolerance)
        if as_json:
            print_json(result)
            return
        rows = result["views"]
        print_table(list(rows[0]), [list(row.values()) for row in rows])
        for name, reason in list(result["rejected"].items())[:SHOWN]:
            typer.echo(f"  passed over {name}: {reason}")
        for line in result["notes"]:
            typer.echo(f"  {line}")
        typer.echo(f"{len(rows)} views in {result['folder']}; next: gapray run {result['folder']} --out catalog")


@capture_app.command()
def sheet(
    out: Annotated[Path, typer.Option("--out", help="A .pdf or .svg file.")], as_json: JsonOption = False
) -> None:
    """Draw the sheet to print for the turntable: marks at 15 and 45 degrees, a scale bar, markers."""
    with guarded(as_json):
        from gapray.inspect.sheet import write_sheet

        path = str(write_sheet(out))
        if as_json:
            print_json({"sheet": path})
        else:
            typer.echo(f"{path}: print it at 100 % and measure its scale bar")


@capture_app.command()
def check(
    folder: Annotated[str, typer.Argument(metavar="FOLDER", help="Photos of one product, named by their angles.")],
    page: Annotated[
        Path | None,
        typer.Option("--page", help="HTML page to write; default: gapray-check-<product>.html in this folder."),
    ] = None,
    fix: Annotated[
        bool, typer.Option("--fix", help="Copy the photos to --out, with the angles that they actually show.")
    ] = False,
    out: Annotated[Path | None, typer.Option("--out", help="With --fix: a new or empty folder.")] = None,
    direction: Annotated[
        Literal["ccw", "cw"], typer.Option(help="Direction of the camera around the product, seen from above.")
    ] = "ccw",
    names: Annotated[
        Literal["auto", "degrees", "index", "order"],
        typer.Option(
            help="Meaning of the number at the end of file names; `order`: ignore it, even steps in the order of the names."
        ),
    ] = "auto",
    profile: ProfileOption = "classic",
    set_: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check photos before they are used: angles, sharpness, light, framing. Writes a page with an instruction for each problem.

    Exits with code 3 if a photo has to be retaken.
    """
    with guarded(as_json):
        from gapray.capture.azimuths import AzimuthOptions
        from gapray.capture.discover import DiscoverOptions
        from gapray.capture.kinds import described
        from gapray.errors import ConfigError
        from gapray.inspect.check import check as check_photos
        from gapray.inspect.check import fix as fix_photos
        from gapray.inspect.check_page import COLUMNS, check_page, row_of
        from gapray.outputs import write_file
        from gapray.profile import load_profile

        if fix != (out is not None):
            raise ConfigError("config.invalid", "--fix and --out go together")
        chosen = load_profile(profile, overrides=set_ or ())
        options = DiscoverOptions(AzimuthOptions(direction=direction, names=names), "product")
        result = check_photos(
            folder,
            chosen.packaging,
            chosen.check,
            options=options,
            on_step=lambda step: None if as_json else typer.echo(f"{step} …", err=True),
        )
        target = page or Path(f"gapray-check-{result.product_id}.html")
        write_file(target, check_page(result))
        fixed = fix_photos(folder, result, out) if out is not None else {}
        if as_json:
            print_json(result.as_dict() | {"page": str(target), "fixed": fixed})
        else:
            print_table(COLUMNS, [row_of(photo) for photo in result.photos])
            for finding in sorted(result.findings, key=lambda finding: not finding.serious):
                typer.echo(f"{' '.join(finding.files) or 'the set'}: {finding.message} [{finding.code}]")
                typer.echo(f"  {finding.instruction}")
            if not result.findings:
                typer.echo("nothing to do")
            if result.ignored:
                typer.echo(described(result.ignored))
            if out is not None:
                typer.echo(f"{len(fixed)} photos with their angles in {out}")
            typer.echo(f"page: {target}")
        if not result.good:
            raise typer.Exit(3)


@capture_app.command()
def day(
    card: Annotated[str, typer.Argument(metavar="CARD", help="Folder of a memory card's photos.")],
    out: Annotated[Path, typer.Option("--out", help="Folder to write the product folders to.")],
    direction: Annotated[
        Literal["ccw", "cw"], typer.Option(help="Direction of the camera around the product, seen from above.")
    ] = "ccw",
    front: Annotated[int, typer.Option(help="Index of the front photo among those after the slate, 0-based.")] = 0,
    closing_frame: Annotated[
        Literal["auto", "drop", "keep"], typer.Option(help="Whether the last photo repeats the front.")
    ] = "auto",
    names: NamesTemplate = "degrees",
    as_json: JsonOption = False,
) -> None:
    """Split a shoot day into products: each photo of a QR code or barcode starts a product, whose id is the code's text, or of a URL the GTIN (GS1 Digital Link) or the last part."""
    with guarded(as_json):
        from gapray.capture.azimuths import AzimuthOptions
        from gapray.capture.capture_set import Reject
        from gapray.capture.kinds import counted, described, not_photos
        from gapray.inspect.shoot_day import split

        options = AzimuthOptions(direction=direction, front=front, names="index", closing_frame=closing_frame)
        counts: dict[str, int] = {}
        before: list[str] = []
        results = split(
            card, out, azimuths=options, template=names, on_product=counts.__setitem__, on_before=before.extend
        )
        ignored = counted(not_photos(Path(card)))
        rows = [
            {"product_id": name, "photos": photos, "folder": "", "code": result.code, "message": result.message}
            if isinstance(result, Reject)
            else {"product_id": name, "photos": photos, "folder": str(result), "code": "", "message": ""}
            for (name, photos), result in zip(counts.items(), results, strict=True)
        ]
        rejected = sum(bool(row["code"]) for row in rows)
        if as_json:
            print_json({"products": rows, "before_first_slate": before, "ignored": ignored})
        else:
            print_table(list(rows[0]), [list(row.values()) for row in rows])
            if before:
                typer.echo(
                    f"  {len(before)} photos before the first slate are in no product: {', '.join(before[:SHOWN])}"
                )
            if ignored:
                typer.echo(f"  {described(ignored)}")
            typer.echo(f"{len(rows) - rejected} products in {out}; next: gapray run {out} --out catalog")
        if rejected:
            raise typer.Exit(3)


def _from_video(source: str, out: Path, views: int, front: str | None) -> dict[str, Any]:
    from gapray.errors import ConfigError
    from gapray.inspect.film import pick_frames, read_turntable, write_frames

    try:
        front_s = float(front) if front is not None else 0.0
    except ValueError:
        raise ConfigError("config.invalid", f"--front {front!r}: give seconds into the video") from None
    film = read_turntable(source)
    stills = pick_frames(film, views, front_s=front_s)
    folder = write_frames(film, stills, out)
    turn = film.turn
    direction = "counter-clockwise" if turn.direction > 0 else "clockwise"
    notes = [f"{turn.span_deg:.0f}° shown, as if the camera walked {direction}"]
    if turn.covered.any():
        notes.append(f"something reaches into {int(turn.covered.sum())} of {len(turn.covered)} frames; none was taken")
    rows = [
        {
            "angle_deg": still.nominal_deg,
            "azimuth_deg": round(still.azimuth_deg, 2),
            "seconds": round(still.seconds, 3),
            "sharpness": round(still.sharpness, 1),
        }
        for still in stills
    ]
    return {"views": rows, "rejected": {}, "notes": notes, "folder": str(folder)}


def _from_export(source: str, out: Path, views: int, front: str | None, tolerance: float) -> dict[str, Any]:
    from gapray.inspect.orbit import find_orbit
    from gapray.inspect.pick import pick_views, write_views
    from gapray.inspect.polycam import read_export

    export = read_export(source)
    picked = pick_views(export, views, tolerance_deg=tolerance, front=front)
    rejected = find_orbit(export, front).rejected
    folder = write_views(export, picked, out)
    rows = [
        {
            "angle_deg": view.nominal_deg,
            "azimuth_deg": round(view.azimuth_deg, 2),
            "elevation_deg": round(view.elevation_deg, 2),
            "distance_m": round(view.distance, 3),
            "sharpness": round(view.sharpness, 1),
            "keyframe": view.keyframe.name,
            "corrected": view.keyframe.corrected,
        }
        for view in picked
    ]
    notes = [f"of {len(export.keyframes)} keyframes"]
    return {"views": rows, "rejected": dict(rejected), "notes": notes, "folder": str(folder)}


def _from_sheet(source: str, out: Path) -> dict[str, Any]:
    from gapray.capture.kinds import counted, described, not_photos
    from gapray.inspect.sheet_cameras import place_photos

    cameras = place_photos(source, out)
    ignored = counted(not_photos(Path(source)))
    rows = [
        {
            "file": name,
            "azimuth_deg": round(camera.azimuth_deg, 2),
            "elevation_deg": round(camera.elevation_deg, 2),
            "distance_mm": round(camera.distance_mm, 1),
            "markers": camera.markers,
        }
        for name, camera in cameras.items()
        if camera is not None
    ]
    rejected = {name: "its markers are not seen" for name, camera in cameras.items() if camera is None}
    return {
        "views": sorted(rows, key=lambda row: row["azimuth_deg"]),
        "rejected": rejected,
        "notes": [described(ignored)] if ignored else [],
        "ignored": ignored,
        "folder": str(out),
    }
