"""`gapray capture SOURCE --out FOLDER`, and `gapray capture check | day | sheet`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from typer.core import TyperGroup

from gapray.cli.output import guarded, print_json, print_table

SHOWN = 10
"""Photos passed over that are listed."""


class _SourceOrCommand(TyperGroup):
    """`gapray capture turn.mp4 --out …` needs no name of a command: what is none is a source."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """See `click.Group.resolve_command`."""
        return super().resolve_command(ctx, args if args[0] in self.commands else ["views", *args])

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Options may come before the source."""
        first = next((one for one in args if not one.startswith("-")), None)
        if args and args[0].startswith("-") and args[0] not in ("--help",) and first not in self.commands:
            args = ["views", *args]
        return super().parse_args(ctx, args)


capture_app = typer.Typer(
    cls=_SourceOrCommand,
    no_args_is_help=True,
    help="Make good views of whatever a phone made: `gapray capture SOURCE --out FOLDER` takes a video of a turntable, a Polycam "
    "raw export (folder or zip), or a folder of photos with the printed sheet in them.",
)

JsonOption = Annotated[bool, typer.Option("--json", help="A JSON object on standard output, nothing else.")]
NamesTemplate = Annotated[
    str,
    typer.Option(
        "--names", help="Names of the views: degrees, index, gs1, or a text with {sku} {gtin} {deg} {index} {facing}."
    ),
]
ProfileOption = Annotated[str, typer.Option(help="Named set of models and settings.")]
SetOption = Annotated[list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="One setting over all else.")]


@capture_app.command(name="views", hidden=True)
def views_of(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="A video of a turntable, a Polycam raw export (folder or zip), or a folder of photos with the printed sheet "
            "in them.",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder of the views, which must not hold anything yet.")],
    views: Annotated[int, typer.Option(min=4, max=72, help="Views, in even steps round the product.")] = 8,
    front: Annotated[
        str | None,
        typer.Option(help="What shows the front: seconds into the video, or a keyframe's name; default: the first."),
    ] = None,
    tolerance: Annotated[
        float, typer.Option(min=1, max=45, help="Polycam: a view may lie at most this far from its angle [degrees].")
    ] = 20.0,
    as_json: JsonOption = False,
) -> None:
    """Pick the best views of a turn, or say which side is missing."""
    with guarded(as_json):
        from gapray.capture.video import is_video_name
        from gapray.inspect.polycam import is_export

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


@capture_app.command()
def sheet(
    out: Annotated[Path, typer.Option("--out", help="A .pdf or .svg file.")], as_json: JsonOption = False
) -> None:
    """Draw the paper for the turntable: marks at 15 and 45 degrees, a scale bar, markers."""
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
        Path | None, typer.Option("--page", help="The page; default: gapray-check-<product>.html here.")
    ] = None,
    fix: Annotated[
        bool, typer.Option("--fix", help="Copy the photos to --out with the angles that they show.")
    ] = False,
    out: Annotated[Path | None, typer.Option("--out", help="Of --fix: a new or empty folder.")] = None,
    direction: Annotated[
        Literal["ccw", "cw"], typer.Option(help="The way the camera walked, seen from above.")
    ] = "ccw",
    names: Annotated[
        Literal["auto", "degrees", "index", "order"],
        typer.Option(help="What the number at the end of a name is; `order`: even steps in the order of the names."),
    ] = "auto",
    profile: ProfileOption = "classic",
    set_: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check photos before they are used: angles, sharpness, light, framing. Writes a page with one instruction a problem.

    Exit code 3 when a photo has to be taken again.
    """
    with guarded(as_json):
        from gapray.capture.azimuths import AzimuthOptions
        from gapray.capture.discover import DiscoverOptions
        from gapray.capture.kinds import described
        from gapray.config import load_profile
        from gapray.errors import ConfigError
        from gapray.inspect.check import check as check_photos
        from gapray.inspect.check import fix as fix_photos
        from gapray.inspect.check_page import COLUMNS, check_page, row_of
        from gapray.outputs import write_file

        if fix != (out is not None):
            raise ConfigError("config.invalid", "--fix and --out go together")
        chosen = load_profile(profile, overrides=set_ or ())
        options = DiscoverOptions(AzimuthOptions(direction=direction, names=names), "product")
        found = check_photos(
            folder, chosen, options=options, on_step=lambda what: None if as_json else typer.echo(f"{what} …", err=True)
        )
        target = page or Path(f"gapray-check-{found.product_id}.html")
        write_file(target, check_page(found))
        fixed = fix_photos(folder, found, out) if out is not None else {}
        if as_json:
            print_json(found.as_dict() | {"page": str(target), "fixed": fixed})
        else:
            print_table(COLUMNS, [row_of(one) for one in found.photos])
            for item in sorted(found.findings, key=lambda one: not one.serious):
                typer.echo(f"{' '.join(item.files) or 'the set'}: {item.message} [{item.code}]")
                typer.echo(f"  {item.instruction}")
            if not found.findings:
                typer.echo("nothing to do")
            if found.ignored:
                typer.echo(described(found.ignored))
            if out is not None:
                typer.echo(f"{len(fixed)} photos with their angles in {out}")
            typer.echo(f"page: {target}")
        if not found.good:
            raise typer.Exit(3)


@capture_app.command()
def day(
    card: Annotated[str, typer.Argument(metavar="CARD", help="Folder of a memory card's photos.")],
    out: Annotated[Path, typer.Option("--out", help="Folder of the product folders.")],
    direction: Annotated[
        Literal["ccw", "cw"], typer.Option(help="The way the camera walked, seen from above.")
    ] = "ccw",
    front: Annotated[int, typer.Option(help="Which photo after the slate shows the front, 0-based.")] = 0,
    closing_frame: Annotated[
        Literal["auto", "drop", "keep"], typer.Option(help="Whether the last photo repeats the front.")
    ] = "auto",
    names: NamesTemplate = "degrees",
    as_json: JsonOption = False,
) -> None:
    """Split a shoot day: each photo of a QR code or barcode begins a product, whose id is what the code says."""
    with guarded(as_json):
        from gapray.capture.azimuths import AzimuthOptions
        from gapray.capture.capture_set import Reject
        from gapray.capture.kinds import counted, described, not_photos
        from gapray.inspect.shoot_day import split

        options = AzimuthOptions(direction=direction, front=front, names="index", closing_frame=closing_frame)
        counts: dict[str, int] = {}
        before: list[str] = []
        done = split(
            card, out, azimuths=options, template=names, on_product=counts.__setitem__, on_before=before.extend
        )
        ignored = counted(not_photos(Path(card)))
        rows = [
            {"product_id": name, "photos": photos, "folder": "", "code": one.code, "message": one.message}
            if isinstance(one, Reject)
            else {"product_id": name, "photos": photos, "folder": str(one), "code": "", "message": ""}
            for (name, photos), one in zip(counts.items(), done, strict=True)
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
    from gapray.inspect.orbit import find_orbit
    from gapray.inspect.pick import pick_views, write_views
    from gapray.inspect.polycam import read_export

    read = read_export(source)
    picked = pick_views(read, views, tolerance_deg=tolerance, front=front)
    rejected = find_orbit(read, front).rejected
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
    from gapray.capture.kinds import counted, described, not_photos
    from gapray.inspect.sheet_cameras import place_photos

    seen = place_photos(source, out)
    ignored = counted(not_photos(Path(source)))
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
        "notes": [described(ignored)] if ignored else [],
        "ignored": ignored,
        "folder": str(out),
    }
