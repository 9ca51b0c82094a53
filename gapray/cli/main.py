"""`gapray`: the commands, thin over the library."""

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


class _WithoutGaps(TyperGroup):
    """An argument that is empty is a variable that a script did not set; as a path it would mean this folder."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Refuse empty words before a command is looked for."""
        for before, word in zip(["", *args], args, strict=False):
            if not word.strip() or (word.startswith("--") and word.endswith("=")):
                what = word.strip().rstrip("=") or (
                    before if before.startswith("-") else f"the argument after {before!r}"
                )
                ctx.fail(f"{what} is empty: is a variable not set?")
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=_WithoutGaps,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Eight photos of a product in; a packaged asset, a turntable video and a fidelity score out.",
)
models_app = typer.Typer(no_args_is_help=True, help="Weights: list, fetch, check, find.")
catalog_app = typer.Typer(no_args_is_help=True, help="Look into a catalogue, query it, tidy it.")
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
DirectionOption = Annotated[Literal["ccw", "cw"], typer.Option(help="The way the camera walked, seen from above.")]
FrontOption = Annotated[int, typer.Option(help="Index of the front photo, 0-based, in the order of the names.")]
NamesOption = Annotated[
    Literal["auto", "degrees", "index", "order"],
    typer.Option(help="What the number at the end of a name is; `order`: even steps in the order of the names."),
]
ClosingOption = Annotated[
    Literal["auto", "drop", "keep"], typer.Option(help="Whether the last numbered photo repeats the front.")
]
LayoutOption = Annotated[Literal["auto", "product", "products"], typer.Option(help="One product, or one a subfolder.")]
GivenOption = Annotated[
    int | None,
    typer.Option(
        min=3, help="Of a denser capture give only so many evenly spaced photos; score takes the others as truth."
    ),
]
MissingOption = Annotated[bool, typer.Option("--allow-missing", help="Accept sets with a view missing.")]
ProfileOption = Annotated[str, typer.Option(help="Named set of models and settings.")]
ConfigOption = Annotated[Path | None, typer.Option(help="YAML over the profile.")]
SetOption = Annotated[list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="One setting over all else.")]
JsonOption = Annotated[bool, typer.Option("--json", help="A JSON object on standard output, nothing else.")]
BackendOption = Annotated[
    Literal["morph", "animatediff"] | None, typer.Option(help="What draws the frames; default: the profile's.")
]
FramesOption = Annotated[int | None, typer.Option(min=1, max=360, help="Frames of one turn.")]
SeedsOption = Annotated[int, typer.Option(min=1, help="Videos of each product, with seeds 0, 1, ….")]
PresetOption = Annotated[str, typer.Option(help="Which files to make; see `gapray presets`.")]
AddressOption = Annotated[str | None, typer.Option(help="Ray cluster; default: RAY_ADDRESS, or this machine.")]
TruthOption = Annotated[
    str | None,
    typer.Option(
        metavar="SRC", help="Photos at angles that the packages lack: what the frames in between are scored against."
    ),
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
    out: Annotated[str, typer.Option("--out", metavar="CATALOG", help="The catalogue; made when missing.")],
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
    """Make GAP packages of all products in SRC. Run it again to go on after a stop."""
    with guarded(as_json):
        from gapray.batch.package import package as run
        from gapray.cli.options import discover_options
        from gapray.cli.progress import report_of, watched
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
        with quiet_output(as_json), watched(quiet=as_json) as on_progress:
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
            typer.echo(report_of(summary))
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
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many products.")] = None,
    estimate: Annotated[bool, typer.Option("--estimate", help="Draw three products, write nothing, multiply.")] = False,
    price: Annotated[float | None, typer.Option(help="With --estimate: price of one worker an hour.")] = None,
    workers: Annotated[int, typer.Option(min=1, help="With --estimate: workers of the real run.")] = 1,
    config: ConfigOption = None,
    set_: SetOption = None,
    address: AddressOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a turntable video of every product in CATALOG. Run it again to go on after a stop."""
    with guarded(as_json):
        from gapray.batch.render import estimate as estimated
        from gapray.batch.render import render as run
        from gapray.cli.options import render_profile
        from gapray.cli.progress import report_of, watched

        chosen = render_profile(profile, config, set_, backend=backend, frames=frames)
        if estimate:
            found = estimated(catalog, profile=chosen, preset=preset, seeds=seeds, workers=workers, price_an_hour=price)
            if as_json:
                print_json(found.as_dict())
                return
            cost = "" if found.cost is None else f", cost {found.cost:.2f}"
            typer.echo(
                f"{found.videos} videos x {found.seconds_a_video:.1f} s (measured on {found.measured}) "
                f"= {found.hours:.2f} h on {workers} workers{cost}"
            )
            return
        with quiet_output(as_json), watched(quiet=as_json) as on_progress:
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
            typer.echo(report_of(summary))
        if summary.rejected:
            raise typer.Exit(3)


@app.command()
def score(
    catalog: CatalogArgument,
    truth: TruthOption = None,
    external: Annotated[
        Path | None,
        typer.Option(help="A video from elsewhere (mp4, webm, gif, webp, folder of images) to score instead."),
    ] = None,
    label: Annotated[str | None, typer.Option(help="With --external: what reports call it.")] = None,
    product: Annotated[
        list[str] | None, typer.Option(help="Only these products; with --external: the one that it shows.")
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
    """Score the videos in CATALOG against photos that their generator never saw."""
    with guarded(as_json):
        from gapray.batch.score import score as run
        from gapray.cli.fidelity import foreign_report, table_report
        from gapray.cli.options import truth_options
        from gapray.cli.progress import report_of, watched
        from gapray.config import load_profile

        chosen = load_profile(profile, config_file=config, overrides=set_ or [])
        options = truth_options(direction=direction, front=front, names=names, layout=layout)
        if external is not None:
            if product is None or len(product) != 1:
                raise typer.BadParameter("--external needs one --product")
            from gapray.batch.score_foreign import score_foreign

            found = score_foreign(
                catalog,
                external,
                label=label or "external",
                product_id=product[0],
                profile=chosen,
                truth=truth,
                options=options,
            )
            print_json(found.as_dict()) if as_json else typer.echo(foreign_report(found))
            return
        if label is not None:
            raise typer.BadParameter("--label names a video that --external brings")
        with quiet_output(as_json), watched(quiet=as_json) as on_progress:
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
            typer.echo(report_of(summary))
            typer.echo(table_report(catalog))
        if summary.rejected:
            raise typer.Exit(3)


@app.command("run")
def run_all(
    src: Source,
    out: Annotated[str, typer.Option("--out", metavar="CATALOG", help="The catalogue; made when missing.")],
    profile: ProfileOption = "classic",
    backend: BackendOption = None,
    frames: FramesOption = None,
    best_of: Annotated[
        int, typer.Option("--best-of", min=1, help="Videos of each product; all are scored, the best is published.")
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
        from gapray.cli.fidelity import report_folder, table_report, written_report
        from gapray.cli.options import discover_options, render_profile, truth_options
        from gapray.cli.progress import report_of, watched
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
        taken = ingest(
            src, out, options, on_raw=lambda name: None if as_json else typer.echo(f"views of {name}", err=True)
        )
        # Photos that a dense capture holds back are its own truth.
        hidden = truth or (src if given and taken == src and not src.endswith(".parquet") else None)
        seen = truth_options(direction=direction, front=front, names=names, layout=layout)
        done: dict[str, RunSummary] = {}
        with quiet_output(as_json), connected(address):
            with watched(quiet=as_json) as on_progress:
                done["package"] = package_run(taken, out=out, profile=chosen, options=options, on_progress=on_progress)
            with watched(quiet=as_json) as on_progress:
                done["render"] = render_run(out, profile=chosen, preset=preset, seeds=best_of, on_progress=on_progress)
            with watched(quiet=as_json) as on_progress:
                done["score"] = score_run(out, profile=chosen, truth=hidden, options=seen, on_progress=on_progress)
        page = written_report(out, folder) if (folder := report_folder(out, report)) else None
        if as_json:
            print_json({name: one.as_dict() for name, one in done.items()} | {"report": str(page) if page else None})
        else:
            for one in done.values():
                typer.echo(report_of(one))
            typer.echo(table_report(out))
            if page:
                typer.echo(f"report: {page}")
        if any(one.rejected for one in done.values()):
            raise typer.Exit(3)


@app.command()
def report(
    catalog: CatalogArgument,
    out: Annotated[Path, typer.Option("--out", help="Folder of the site; made when missing.")],
    title: Annotated[str, typer.Option(help="Of the overview.")] = "Turntables",
) -> None:
    """Write a static site of CATALOG that opens from disk: overview, a page a product, approval."""
    with guarded():
        from gapray.cli.fidelity import written_report

        typer.echo(written_report(catalog, out, title=title))


@app.command()
def publish(
    catalog: CatalogArgument,
    to: Annotated[str, typer.Option("--to", metavar="URI", help="Where shops read them: folder or URI.")],
    approved: Annotated[
        Path | None, typer.Option(help="The CSV that the report downloads; default: all that passed the gate.")
    ] = None,
    preset: Annotated[
        str | None, typer.Option(help="Files of this preset only; default: web, or what there is.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Copy the best video of each approved product to URI; what was published of one that is rejected is removed."""
    with guarded(as_json):
        from gapray.catalog.reader import open_catalog
        from gapray.report.approval import publish as run

        done = run(open_catalog(catalog), to, approved, preset)
        if as_json:
            print_json({"published": done.copied, "skipped": done.skipped, "withdrawn": done.withdrawn})
            return
        for line in done.skipped:
            typer.echo(f"  skipped {line}")
        withdrawn = f", {len(done.withdrawn)} of them withdrawn" if done.withdrawn else ""
        typer.echo(f"{len(done.copied)} published to {to}, {len(done.skipped)} skipped{withdrawn}")


@app.command()
def reel(
    catalog: CatalogArgument,
    to: Annotated[Path, typer.Option("--to", help="The mp4; the table lies beside it as .md and .csv.")] = Path(
        "reel.mp4"
    ),
    product: Annotated[list[str] | None, typer.Option(help="Only these products.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many products.")] = 6,
    baseline: Annotated[
        Literal["nearest view", "cross-fade", "flow morph", "front view only"], typer.Option(help="The third column.")
    ] = "cross-fade",
    truth: TruthOption = None,
    names: NamesOption = "auto",
    layout: LayoutOption = "auto",
) -> None:
    """Make the demo reel: photo, ours and a baseline side by side."""
    with guarded():
        from gapray.catalog.reader import open_catalog
        from gapray.cli.fidelity import hidden_photos
        from gapray.cli.options import truth_options
        from gapray.report.reel import write_reel

        options = truth_options(direction="ccw", front=0, names=names, layout=layout)
        opened = open_catalog(catalog)
        photos = None
        if truth:
            shown = product or opened.table("videos", columns=["product_id"])["product_id"].to_pylist()
            photos = hidden_photos(truth, options, shown)
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
        rows = [[one.name, ", ".join(file.name for file in one.files), one.description] for one in presets().values()]
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
    """List the capture sets of SRC into a manifest, without reading a photo."""
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
            count = write_manifest(_noting(scan(src, options, beside=beside), rejects), str(partial), beside)
        typer.echo(f"{count - len(rejects)} products in {to}, {len(rejects)} rejected")
        for reject in rejects[:REJECTS_SHOWN]:
            typer.echo(f"  rejected {reject.product_id}: {reject.message} [{reject.code}]")
        if len(rejects) > REJECTS_SHOWN:
            typer.echo(f"  … and {len(rejects) - REJECTS_SHOWN} more: the manifest's error_code and error_message")
        if ignored := ignored_of(str(to)):
            typer.echo(f"  {described(ignored)}")
        if rejects:
            raise typer.Exit(3)


def _noting(items: Iterable[CaptureSet | Reject], rejects: list[Reject]) -> Iterator[CaptureSet | Reject]:
    """The items as they come; the rejects among them are gathered."""
    from gapray.capture.capture_set import Reject

    for item in items:
        if isinstance(item, Reject):
            rejects.append(item)
        yield item


@app.command()
def export(
    catalog: CatalogArgument,
    product: Annotated[str, typer.Argument(metavar="PRODUCT", help="Product id.")],
    to: Annotated[Path, typer.Option("--to", help="Folder to write; with --inline also a file that ends with .json.")],
    inline: Annotated[
        bool, typer.Option("--inline", help="The manifest holds photos, depth and masks: it can be sent alone.")
    ] = False,
) -> None:
    """Write one product as a GAP folder with multiview_manifest.json, as the prototype wrote them."""
    with guarded():
        from gapray.catalog.reader import open_catalog
        from gapray.gap import folder

        typer.echo(folder.write(open_catalog(catalog).package(product), to, inline=inline))


@app.command("import-gap")
def import_gap(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="A GAP folder, ours or the prototype's, or a manifest.")
    ],
    out: Annotated[str, typer.Option("--out", metavar="CATALOG", help="The catalogue; made when missing.")],
    allow_missing: MissingOption = False,
) -> None:
    """Bring a GAP folder into a catalogue. It takes the place of the product's package, and says so."""
    with guarded():
        from gapray.catalog.import_package import import_package
        from gapray.catalog.reader import Catalog
        from gapray.catalog.storage import Folder
        from gapray.cli.runs import warning_lines
        from gapray.gap import folder as gap_folder

        read = gap_folder.read(folder)
        told = {
            "new": "",
            "same": ", which the catalogue has already: nothing was imported",
            "replaced": ", in place of the package that the catalogue had of this product",
        }
        catalog = Folder.at(out)
        outcome = import_package(catalog, read, uri=str(folder.absolute()), allow_missing=allow_missing)
        typer.echo(f"{read.product_id}: {len(read.views)} views{told[outcome]}")
        for line in warning_lines(Catalog(catalog).warnings(read.product_id)):
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
    """Show all model cards and which profiles use them."""
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
    """Fetch the weights of profiles or cards, check them, and record what was not known."""
    with guarded():
        from gapray.cli.models import pull

        for line in pull(names):
            typer.echo(line)


@models_app.command("verify")
def models_verify() -> None:
    """Hash every file that is on this machine and compare it with its card or models.lock."""
    with guarded():
        from gapray.cli.models import verify

        for line in verify():
            typer.echo(line)


@models_app.command("path")
def models_path(name: Annotated[str, typer.Argument(metavar="CARD", help="Name of a card.")]) -> None:
    """Print where a card's files lie on this machine."""
    with guarded():
        from gapray.models.cards import card_named
        from gapray.models.store import locate

        for path in locate(card_named(name), fetch=False).files.values():
            typer.echo(path)


@catalog_app.command("show")
def catalog_show(
    catalog: CatalogArgument,
    limit: Annotated[int, typer.Option(min=1, help="Rows to print.")] = 20,
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
    query: Annotated[str, typer.Argument(help="DuckDB SQL over products, views, rejects and all_….")],
    as_json: JsonOption = False,
) -> None:
    """Run SQL over the current rows."""
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
        from gapray.catalog.runs import found_folder

        done = compact(found_folder(catalog))
        typer.echo(f"{done.parts_before} parts -> {done.parts_after}, {done.rows_before} rows -> {done.rows_after}")


@catalog_app.command("sheet")
def catalog_sheet(
    catalog: CatalogArgument,
    to: Annotated[Path, typer.Option("--to", help="PNG to write.")],
    product: Annotated[list[str] | None, typer.Option(help="Only these products; default the first four.")] = None,
) -> None:
    """Draw a contact sheet: reference, mask, depth and canny of every view."""
    with guarded():
        from gapray.catalog.reader import open_catalog
        from gapray.report.contact_sheet import contact_sheet
        from gapray.report.frame_strip import PRODUCTS
        from gapray.report.pictures import save_picture

        opened = open_catalog(catalog)
        held = opened.table("products", columns=["product_id"])["product_id"].to_pylist()
        save_picture(contact_sheet([opened.package(name) for name in product or held[:PRODUCTS]]), to)
        _say_left_out(len(held) if not product else 0, PRODUCTS)
        typer.echo(to)


@catalog_app.command("strip")
def catalog_strip(
    catalog: CatalogArgument,
    to: Annotated[Path, typer.Option("--to", help="JPEG or PNG to write.")],
    product: Annotated[list[str] | None, typer.Option(help="Only these products; default the first four.")] = None,
) -> None:
    """Draw eight frames of each product's video side by side: captured angles and angles in between."""
    with guarded():
        from gapray.catalog.reader import open_catalog
        from gapray.report.frame_strip import PRODUCTS, frame_strip
        from gapray.report.pictures import save_picture

        opened = open_catalog(catalog)
        save_picture(frame_strip(opened, product or None), to)
        _say_left_out(opened.best_videos().num_rows if not product else 0, PRODUCTS)
        typer.echo(to)


def _say_left_out(there: int, drawn: int) -> None:
    """On the terminal, beside the path that scripts read: a picture of the first few products is not one of all."""
    if there > drawn:
        typer.echo(f"the first {drawn} of {there} products; --product draws others", err=True)
