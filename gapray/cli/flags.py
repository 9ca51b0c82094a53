"""Flags and arguments that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

Source = Annotated[
    str, typer.Argument(metavar="SRC", help="Folder, zip file, URI of photos, or a manifest (.parquet).")
]
DirectionOption = Annotated[
    Literal["ccw", "cw"], typer.Option(help="Direction of the camera around the product, seen from above.")
]
FrontOption = Annotated[int, typer.Option(help="Index of the front photo, 0-based, in the order of the names.")]
NamesOption = Annotated[
    Literal["auto", "degrees", "index", "order"],
    typer.Option(
        help="Meaning of the number at the end of file names; `order`: ignore it, even steps in the order of the names."
    ),
]
ClosingOption = Annotated[
    Literal["auto", "drop", "keep"], typer.Option(help="Whether the last numbered photo repeats the front.")
]
LayoutOption = Annotated[
    Literal["auto", "product", "products"], typer.Option(help="A single product, or one product per subfolder.")
]
GivenOption = Annotated[
    int | None,
    typer.Option(
        min=3, help="Use only this many evenly spaced photos of a denser capture; the others are truth for scoring."
    ),
]
MissingOption = Annotated[bool, typer.Option("--allow-missing", help="Accept capture sets with missing views.")]
ProfileOption = Annotated[str, typer.Option(help="Named set of models and settings.")]
ConfigOption = Annotated[Path | None, typer.Option(help="YAML file of settings that override the profile.")]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Override one setting; repeatable.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print only a JSON document to standard output.")]
BackendOption = Annotated[
    str | None,
    typer.Option(help="What draws the frames: morph, animatediff or an installed generator; default: the profile's."),
]
FramesOption = Annotated[int | None, typer.Option(min=1, max=360, help="Number of frames of one turn.")]
SeedsOption = Annotated[int, typer.Option(min=1, help="Number of videos per product, with seeds 0, 1, ….")]
PresetOption = Annotated[str, typer.Option(help="Export preset; see `gapray presets`.")]
AddressOption = Annotated[
    str | None, typer.Option(help="Address of a Ray cluster; default: RAY_ADDRESS, or this machine.")
]
TruthOption = Annotated[
    str | None,
    typer.Option(metavar="SRC", help="Photos at angles that the packages lack, to score in-between frames against."),
]
CatalogArgument = Annotated[str, typer.Argument(metavar="CATALOG", help="The catalogue: folder or URI.")]
OutOption = Annotated[str, typer.Option("--out", metavar="CATALOG", help="The catalogue; created if missing.")]
