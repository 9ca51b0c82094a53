"""The command line, `gapray`: thin commands over the library."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from typer.core import TyperGroup

from gapray.cli.capture import capture_app
from gapray.cli.output import guarded, print_json, print_table, quiet_output
from gapray.cli.plan import plan
from gapray.cli.runs import runs_app, status
from gapray.cli.serve import keys_app, serve
from gapray.cli.stills import stills
from gapray.cli.submit import submit

if TYPE_CHECKING:
    from gapray.capture.capture_set import CaptureSet, Reject


class _RejectEmptyArguments(TyperGroup):
    """A group that rejects empty arguments: usually a script's variable is not set, and as a path it would be this folder."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Reject empty arguments before parsing."""
        for previous, argument in zip(["", *args], args, strict=False):
            if not argument.strip() or (argument.startswith("--") and argument.endswith("=")):
                name = argument.strip().rstrip("=") or (
                    previous if previous.startswith("-") else f"the argument after {previous!r}"
                )
                ctx.fail(f"{name} is empty: is a variable not set?")
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=_RejectEmptyArguments,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Eight photos of a product in; a packaged asset, a turntable video and a fidelity score out.",
)
models_app = typer.Typer(no_args_is_help=True, help="List, fetch, verify and locate model weights.")
catalog_app = typer.Typer(no_args_is_help=True, help="Inspect, query and compact a catalogue.")
app.add_typer(models_app, name="models")
app.add_typer(catalog_app, name="catalog")
app.add_typer(keys_app, name="keys")
app.add_typer(runs_app, name="runs")
app.add_typer(capture_app, name="capture")
app.command()(serve)
app.command()(status)
app.command()(plan)
app.command()(stills)
app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(submit)


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
    Literal["morph", "animatediff"] | None, typer.Option(help="What draws the frames; default: the profile's.")
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


@app.callback(invoke_without_command=True)
def _main(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        from gapray import __version__

        typer.echo(__version__)
        raise typer.Exit


@app.command()
def package(
    src: Source,
    out: Annotated[str, typer.Option("--out", metavar="CATALOG", help="The catalogue; created if missing.")],
    profile: ProfileOption = "classic",
    config: ConfigOption = None,
    set_: SetOption = None,
    direction: DirectionOption = "ccw",
    front: FrontOption = 0,
    names: NamesOption = "auto",
    closing_frame: ClosingOption = "auto",
    layout: LayoutOption = "auto",
    allow_missing: MissingOption = False,
    given: GivenOption = None,
    verify: Annotated[
        Literal["source", "content"], typer.Option(help="What makes a product count as finished.")
    ] = "source",
    address: AddressOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make GAP packages of all products in SRC. Run it again to resume."""
    with guarded(as_json):
        from gapray.batch.package import package as run
        from gapray.cli.options import discover_options
        from gapray.cli.progress import progress_callback, summary_text
        from gapray.config import load_profile

        chosen = load_profile(profile, config_file=config, overrides=set_ or [])
        options = discover_options(
            direction=direction,
            front=front,
            names=names,
            closing_frame=closing_frame,
            layout=layout,
            allow_missing=allow_missing,
            given=given,
        )
        with quiet_output(as_json), progress_callback(quiet=as_json) as on_progress:
            summary = run(
                src,
                out=out,
                profile=chosen,
                options=options,
                verify=verify,
                address=address,
                on_progress=on_progress,
            )
        if as_json:
            print_json(summary.as_dict())
        else:
            typer.echo(summary_text(summary))
        if summary.rejected:
            raise typer.Exit(3)


@app.command()
def render(
    catalog: CatalogArgument,
    profile: ProfileOption = "classic",
    backend: BackendOption = None,
    frames: FramesOption = None,
    seeds: SeedsOption = 1,
    preset: PresetOption = "web",
    product: Annotated[list[str] | None, typer.Option(help="Only these products.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Maximum number of products.")] = None,
    estimate: Annotated[
        bool, typer.Option("--estimate", help="Only estimate the run's time, from three products; writes nothing.")
    ] = False,
    price: Annotated[float | None, typer.Option(help="With --estimate: price of one worker per hour.")] = None,
    workers: Annotated[int, typer.Option(min=1, help="With --estimate: number of workers of the actual run.")] = 1,
    config: ConfigOption = None,
    set_: SetOption = None,
    address: AddressOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a turntable video of every product in CATALOG. Run it again to resume."""
    with guarded(as_json):
        from gapray.batch.render import estimate as estimate_run
        from gapray.batch.render import render as run
        from gapray.cli.options import render_profile
        from gapray.cli.progress import progress_callback, summary_text

        chosen = render_profile(profile, config, set_, backend=backend, frames=frames)
        if estimate:
            estimated = estimate_run(
                catalog, profile=chosen, preset=preset, seeds=seeds, workers=workers, price_an_hour=price
            )
            if as_json:
                print_json(estimated.as_dict())
                return
            cost = "" if estimated.cost is None else f", cost {estimated.cost:.2f}"
            typer.echo(
                f"{estimated.videos} videos x {estimated.seconds_a_video:.1f} s (measured on {estimated.measured}) "
                f"= {estimated.hours:.2f} h on {workers} workers{cost}"
            )
            return
        with quiet_output(as_json), progress_callback(quiet=as_json) as on_progress:
            summary = run(
                catalog,
                profile=chosen,
                preset=preset,
                seeds=seeds,
                products=product,
                limit=limit,
                address=address,
                on_progress=on_progress,
            )
        if as_json:
            print_json(summary.as_dict())
        else:
            typer.echo(summary_text(summary))
        if summary.rejected:
            raise typer.Exit(3)


@app.command()
def score(
    catalog: CatalogArgument,
    truth: TruthOption = None,
    external: Annotated[
        Path | None,
        typer.Option(help="Score a foreign video instead (mp4, webm, gif, webp, folder of images)."),
    ] = None,
    label: Annotated[str | None, typer.Option(help="With --external: name of the video in reports.")] = None,
    product: Annotated[
        list[str] | None, typer.Option(help="Only these products; with --external: the product that the video shows.")
    ] = None,
    profile: ProfileOption = "classic",
    config: ConfigOption = None,
    set_: SetOption = None,
    direction: DirectionOption = "ccw",
    front: FrontOption = 0,
    names: NamesOption = "auto",
    layout: LayoutOption = "auto",
    address: AddressOption = None,
    as_json: JsonOption = False,
) -> None:
    """Score the videos in CATALOG against photos that their generator has never seen."""
    with guarded(as_json):
        from gapray.batch.score import score as run
        from gapray.cli.fidelity import foreign_report, table_report
        from gapray.cli.options import truth_options
        from gapray.cli.progress import progress_callback, summary_text
        from gapray.config import load_profile

        chosen = load_profile(profile, config_file=config, overrides=set_ or [])
        options = truth_options(direction=direction, front=front, names=names, layout=layout)
        if external is not None:
            if product is None or len(product) != 1:
                raise typer.BadParameter("--external needs one --product")
            from gapray.batch.score_foreign import score_foreign

            result = score_foreign(
                catalog,
                external,
                label=label or "external",
                product_id=product[0],
                profile=chosen,
                truth=truth,
                options=options,
            )
            print_json(result.as_dict()) if as_json else typer.echo(foreign_report(result))
            return
        if label is not None:
            raise typer.BadParameter("--label names a video that --external brings")
        with quiet_output(as_json), progress_callback(quiet=as_json) as on_progress:
            summary = run(
                catalog,
                profile=chosen,
                truth=truth,
                options=options,
                products=product,
                address=address,
                on_progress=on_progress,
            )
        if as_json:
            print_json(summary.as_dict())
        else:
            typer.echo(summary_text(summary))
            typer.echo(table_report(catalog))
        if summary.rejected:
            raise typer.Exit(3)


@app.command("run")
def run_all(
    src: Source,
    out: Annotated[str, typer.Option("--out", metavar="CATALOG", help="The catalogue; created if missing.")],
    profile: ProfileOption = "classic",
    backend: BackendOption = None,
    frames: FramesOption = None,
    best_of: Annotated[
        int,
        typer.Option("--best-of", min=1, help="Number of videos per product; all are scored, the best is published."),
    ] = 1,
    preset: PresetOption = "web",
    truth: TruthOption = None,
    report: Annotated[
        Path | None, typer.Option(help="Folder of the report; default: report/ in a local catalogue.")
    ] = None,
    config: ConfigOption = None,
    set_: SetOption = None,
    direction: DirectionOption = "ccw",
    front: FrontOption = 0,
    names: NamesOption = "auto",
    closing_frame: ClosingOption = "auto",
    layout: LayoutOption = "auto",
    allow_missing: MissingOption = False,
    given: GivenOption = None,
    address: AddressOption = None,
    as_json: JsonOption = False,
) -> None:
    """Package all products in SRC, make their videos, score them and write the report."""
    with guarded(as_json):
        from gapray.batch.package import package as package_run
        from gapray.batch.render import render as render_run
        from gapray.batch.runs import RunSummary
        from gapray.batch.score import score as score_run
        from gapray.cli.fidelity import build_report, report_folder, table_report
        from gapray.cli.options import discover_options, render_profile, truth_options
        from gapray.cli.progress import progress_callback, summary_text
        from gapray.inspect.intake import ingest
        from gapray.ray_session import connected

        chosen = render_profile(profile, config, set_, backend=backend, frames=frames)
        options = discover_options(
            direction=direction,
            front=front,
            names=names,
            closing_frame=closing_frame,
            layout=layout,
            allow_missing=allow_missing,
            given=given,
        )
        options = replace(options, apart=tuple(map(str, (out, report) if report else (out,))))
        photos = ingest(
            src, out, options, on_raw=lambda name: None if as_json else typer.echo(f"views of {name}", err=True)
        )
        # Photos of a dense capture that --given holds out are its truth.
        truth_source = truth or (src if given and photos == src and not src.endswith(".parquet") else None)
        scoring_options = truth_options(direction=direction, front=front, names=names, layout=layout)
        summaries: dict[str, RunSummary] = {}
        with quiet_output(as_json), connected(address):
            with progress_callback(quiet=as_json) as on_progress:
                summaries["package"] = package_run(
                    photos, out=out, profile=chosen, options=options, on_progress=on_progress
                )
            with progress_callback(quiet=as_json) as on_progress:
                summaries["render"] = render_run(
                    out, profile=chosen, preset=preset, seeds=best_of, on_progress=on_progress
                )
            with progress_callback(quiet=as_json) as on_progress:
                summaries["score"] = score_run(
                    out, profile=chosen, truth=truth_source, options=scoring_options, on_progress=on_progress
                )
        page = build_report(out, folder) if (folder := report_folder(out, report)) else None
        if as_json:
            results: dict[str, Any] = {name: summary.as_dict() for name, summary in summaries.items()}
            print_json(results | {"report": str(page) if page else None})
        else:
            for summary in summaries.values():
                typer.echo(summary_text(summary))
            typer.echo(table_report(out))
            if page:
                typer.echo(f"report: {page}")
        if any(summary.rejected for summary in summaries.values()):
            raise typer.Exit(3)


@app.command()
def report(
    catalog: CatalogArgument,
    out: Annotated[Path, typer.Option("--out", help="Folder of the site; created if missing.")],
    title: Annotated[str, typer.Option(help="Title of the overview.")] = "Turntables",
) -> None:
    """Write a static site of CATALOG that opens from disk: an overview with approval, and a page per product."""
    with guarded():
        from gapray.cli.fidelity import build_report

        typer.echo(build_report(catalog, out, title=title))


@app.command()
def publish(
    catalog: CatalogArgument,
    to: Annotated[str, typer.Option("--to", metavar="URI", help="Destination: folder or URI.")],
    approved: Annotated[
        Path | None, typer.Option(help="The decisions' CSV from the report; default: all videos that passed the gate.")
    ] = None,
    preset: Annotated[
        str | None, typer.Option(help="Only files of this preset; default: web if it exists, else another.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Copy the best video of each approved product to URI; published files of rejected products are removed."""
    with guarded(as_json):
        from gapray.catalog.reader import open_catalog
        from gapray.report.approval import publish as run

        result = run(open_catalog(catalog), to, approved, preset)
        if as_json:
            print_json({"published": result.copied, "skipped": result.skipped, "withdrawn": result.withdrawn})
            return
        for line in result.skipped:
            typer.echo(f"  skipped {line}")
        withdrawn = f", {len(result.withdrawn)} of them withdrawn" if result.withdrawn else ""
        typer.echo(f"{len(result.copied)} published to {to}, {len(result.skipped)} skipped{withdrawn}")


@app.command()
def reel(
    catalog: CatalogArgument,
    to: Annotated[Path, typer.Option("--to", help="The mp4; the table is written beside it as .md and .csv.")] = Path(
        "reel.mp4"
    ),
    product: Annotated[list[str] | None, typer.Option(help="Only these products.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="Maximum number of products.")] = 6,
    baseline: Annotated[
        Literal["nearest view", "cross-fade", "flow morph", "front view only"],
        typer.Option(help="Baseline in the third column."),
    ] = "cross-fade",
    truth: TruthOption = None,
    names: NamesOption = "auto",
    layout: LayoutOption = "auto",
) -> None:
    """Make the demo reel: photo, gapray's video and a baseline side by side."""
    with guarded():
        from gapray.catalog.reader import open_catalog
        from gapray.cli.fidelity import hidden_photos
        from gapray.cli.options import truth_options
        from gapray.report.reel import write_reel

        options = truth_options(direction="ccw", front=0, names=names, layout=layout)
        opened = open_catalog(catalog)
        photos = None
        if truth:
            product_ids = product or opened.table("videos", columns=["product_id"])["product_id"].to_pylist()
            photos = hidden_photos(truth, options, product_ids)
        files = write_reel(opened, to, products=product, limit=limit, baseline=baseline, photos=photos)
        for path in files:
            typer.echo(path)


@app.command("presets")
def list_presets(as_json: JsonOption = False) -> None:
    """Show the export presets of `gapray render`."""
    with guarded(as_json):
        from gapray.video.presets import presets

        if as_json:
            print_json({name: preset.model_dump() for name, preset in presets().items()})
            return
        rows = [
            [preset.name, ", ".join(file.name for file in preset.files), preset.description]
            for preset in presets().values()
        ]
        print_table(["preset", "files", "what it is"], rows)


@app.command()
def manifest(
    src: Source,
    to: Annotated[Path, typer.Option("--to", help="Parquet file to write.")],
    direction: DirectionOption = "ccw",
    front: FrontOption = 0,
    names: NamesOption = "auto",
    closing_frame: ClosingOption = "auto",
    layout: LayoutOption = "auto",
    allow_missing: MissingOption = False,
) -> None:
    """List the capture sets of SRC in a manifest, without reading the photos."""
    with guarded():
        from gapray.batch.runs import REJECTS_SHOWN
        from gapray.capture.discover import scan
        from gapray.capture.kinds import described
        from gapray.capture.manifest import ignored_of, write_manifest
        from gapray.cli.options import discover_options
        from gapray.errors import ConfigError
        from gapray.outputs import atomic_write

        options = discover_options(
            direction=direction,
            front=front,
            names=names,
            closing_frame=closing_frame,
            layout=layout,
            allow_missing=allow_missing,
        )
        if to.suffix != ".parquet":
            raise ConfigError(
                "config.invalid", f"{to}: a manifest is a Parquet file; call it {to.stem or 'shoot'}.parquet"
            )
        beside: list[str] = []
        rejects: list[Reject] = []
        options = replace(options, apart=(str(to),))
        with atomic_write(to) as partial:
            count = write_manifest(_collect_rejects(scan(src, options, beside=beside), rejects), str(partial), beside)
        typer.echo(f"{count - len(rejects)} products in {to}, {len(rejects)} rejected")
        for reject in rejects[:REJECTS_SHOWN]:
            typer.echo(f"  rejected {reject.product_id}: {reject.message} [{reject.code}]")
        if len(rejects) > REJECTS_SHOWN:
            typer.echo(f"  … and {len(rejects) - REJECTS_SHOWN} more: the manifest's error_code and error_message")
        if ignored := ignored_of(str(to)):
            typer.echo(f"  {described(ignored)}")
        if rejects:
            raise typer.Exit(3)


def _collect_rejects(items: Iterable[CaptureSet | Reject], rejects: list[Reject]) -> Iterator[CaptureSet | Reject]:
    """Pass items through, appending rejects to a list."""
    from gapray.capture.capture_set import Reject

    for item in items:
        if isinstance(item, Reject):
            rejects.append(item)
        yield item


@app.command()
def export(
    catalog: CatalogArgument,
    product: Annotated[str, typer.Argument(metavar="PRODUCT", help="Product id.")],
    to: Annotated[Path, typer.Option("--to", help="Folder to write; with --inline it may also be a .json file.")],
    inline: Annotated[
        bool,
        typer.Option("--inline", help="Embed photos, depth and masks in the manifest, so that it is self-contained."),
    ] = False,
) -> None:
    """Write one product as a GAP folder with multiview_manifest.json, in the prototype's format."""
    with guarded():
        from gapray.catalog.reader import open_catalog
        from gapray.gap import folder

        typer.echo(folder.write(open_catalog(catalog).package(product), to, inline=inline))


@app.command("import-gap")
def import_gap(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="A GAP folder, ours or the prototype's, or a manifest.")
    ],
    out: Annotated[str, typer.Option("--out", metavar="CATALOG", help="The catalogue; created if missing.")],
    allow_missing: MissingOption = False,
) -> None:
    """Import a GAP folder into a catalogue. It replaces the product's current package, and reports that."""
    with guarded():
        from gapray.catalog.import_package import import_package
        from gapray.catalog.reader import Catalog
        from gapray.catalog.storage import Folder
        from gapray.cli.runs import warning_lines
        from gapray.gap import folder as gap_folder

        package = gap_folder.read(folder)
        messages = {
            "new": "",
            "same": ", which the catalogue has already: nothing was imported",
            "replaced": ", in place of the package that the catalogue had of this product",
        }
        catalog = Folder.at(out)
        outcome = import_package(catalog, package, uri=str(folder.absolute()), allow_missing=allow_missing)
        typer.echo(f"{package.product_id}: {len(package.views)} views{messages[outcome]}")
        for line in warning_lines(Catalog(catalog).warnings(package.product_id)):
            typer.echo(line)


@app.command()
def doctor(as_json: JsonOption = False) -> None:
    """Check this machine: Python, torch, GPU, Ray, disk, weights, ports."""
    with guarded(as_json):
        from gapray.cli.doctor import examine

        findings = examine()
        if as_json:
            print_json([vars(finding) for finding in findings])
        else:
            print_table(["check", "state", "finding"], [[f.check, f.state, f.finding] for f in findings])
        if any(finding.state == "bad" for finding in findings):
            raise typer.Exit(1)


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
    with guarded():
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


@catalog_app.command("show")
def catalog_show(
    catalog: CatalogArgument,
    limit: Annotated[int, typer.Option(min=1, help="Maximum number of rows to print of each table.")] = 20,
    as_json: JsonOption = False,
) -> None:
    """Print the current products and rejects."""
    with guarded(as_json):
        from gapray.catalog.reader import open_catalog

        opened = open_catalog(catalog)
        products, rejects, videos = opened.products(), opened.rejects(), opened.videos()
        if as_json:
            tables = {"products": products, "videos": videos, "rejects": rejects}
            print_json({name: table.to_pylist() for name, table in tables.items()})
            return
        columns = ["product_id", "views", "profile", "mask_model", "depth_model", "created_at"]
        print_table(columns, [list(row.values()) for row in products.select(columns).slice(0, limit).to_pylist()])
        if videos.num_rows:
            columns = ["product_id", "backend", "seed", "preset", "frames", "seconds", "files"]
            rows = videos.select(columns).slice(0, limit).to_pylist()
            print_table([*columns[:-1], "first file"], [[*list(row.values())[:-1], row["files"][0]] for row in rows])
        if rejects.num_rows:
            columns = ["product_id", "stage", "code", "message"]
            print_table(columns, [list(row.values()) for row in rejects.select(columns).slice(0, limit).to_pylist()])
        typer.echo(f"{products.num_rows} products, {videos.num_rows} videos, {rejects.num_rows} rejects")


@catalog_app.command("sql")
def catalog_sql(
    catalog: CatalogArgument,
    query: Annotated[
        str,
        typer.Argument(help="DuckDB SQL over current rows (products, views, videos, …) or all rows (all_products, …)."),
    ],
    as_json: JsonOption = False,
) -> None:
    """Run a SQL query over the catalogue's tables."""
    with guarded(as_json):
        from gapray.catalog.reader import open_catalog

        table = open_catalog(catalog).sql(query)
        if as_json:
            print_json(table.to_pylist())
        else:
            print_table(table.column_names, [list(row.values()) for row in table.to_pylist()])


@catalog_app.command("compact")
def catalog_compact(catalog: CatalogArgument) -> None:
    """Keep only current rows, in fewer and larger parts."""
    with guarded():
        from gapray.catalog.compact import compact
        from gapray.catalog.runs import existing_catalog

        result = compact(existing_catalog(catalog))
        typer.echo(
            f"{result.parts_before} parts -> {result.parts_after}, {result.rows_before} rows -> {result.rows_after}"
        )


@catalog_app.command("sheet")
def catalog_sheet(
    catalog: CatalogArgument,
    to: Annotated[Path, typer.Option("--to", help="PNG to write.")],
    product: Annotated[list[str] | None, typer.Option(help="Only these products; default: the first four.")] = None,
) -> None:
    """Draw a contact sheet: reference, mask, depth and canny of every view."""
    with guarded():
        from gapray.catalog.reader import open_catalog
        from gapray.report.contact_sheet import contact_sheet
        from gapray.report.frame_strip import PRODUCTS
        from gapray.report.pictures import save_picture

        opened = open_catalog(catalog)
        product_ids = opened.table("products", columns=["product_id"])["product_id"].to_pylist()
        save_picture(contact_sheet([opened.package(name) for name in product or product_ids[:PRODUCTS]]), to)
        _note_omitted(len(product_ids) if not product else 0, PRODUCTS)
        typer.echo(to)


@catalog_app.command("strip")
def catalog_strip(
    catalog: CatalogArgument,
    to: Annotated[Path, typer.Option("--to", help="JPEG or PNG to write.")],
    product: Annotated[list[str] | None, typer.Option(help="Only these products; default: the first four.")] = None,
) -> None:
    """Draw eight frames of each product's video side by side: at captured and in-between angles."""
    with guarded():
        from gapray.catalog.reader import open_catalog
        from gapray.report.frame_strip import PRODUCTS, frame_strip
        from gapray.report.pictures import save_picture

        opened = open_catalog(catalog)
        save_picture(frame_strip(opened, product or None), to)
        _note_omitted(opened.best_videos().num_rows if not product else 0, PRODUCTS)
        typer.echo(to)


def _note_omitted(total: int, drawn: int) -> None:
    """Say on standard error that a picture shows only the first products; scripts read the path on standard output."""
    if total > drawn:
        typer.echo(f"the first {drawn} of {total} products; --product draws others", err=True)
