"""`gapray package`, `render`, `score` and `run`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from gapray.cli.flags import (
    AddressOption,
    BackendOption,
    CatalogArgument,
    ClosingOption,
    ConfigOption,
    DirectionOption,
    FramesOption,
    FrontOption,
    GivenOption,
    JsonOption,
    LayoutOption,
    MissingOption,
    NamesOption,
    OutOption,
    PresetOption,
    ProfileOption,
    SeedsOption,
    SetOption,
    Source,
    TruthOption,
)
from gapray.cli.output import guarded, print_json, quiet_output


def package(
    src: Source,
    out: OutOption,
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
    with guarded(as_json, resumes=True):
        from gapray.batch.package import package as run
        from gapray.cli.options import discover_options
        from gapray.cli.progress import finish_run, progress_callback
        from gapray.profile import load_profile

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
        finish_run(summary, as_json=as_json)


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
    with guarded(as_json, resumes=not estimate):
        from gapray.batch.render import estimate as estimate_run
        from gapray.batch.render import render as run
        from gapray.cli.options import render_profile
        from gapray.cli.progress import finish_run, progress_callback

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
        finish_run(summary, as_json=as_json)


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
    with guarded(as_json, resumes=external is None):
        from gapray.batch.score import score as run
        from gapray.cli.fidelity import foreign_report, table_report
        from gapray.cli.options import truth_options
        from gapray.cli.progress import finish_run, progress_callback
        from gapray.profile import load_profile

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
        finish_run(summary, as_json=as_json, table=lambda: table_report(catalog))


def run_all(
    src: Source,
    out: OutOption,
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
    with guarded(as_json, resumes=True):
        from gapray.batch.package import package as package_run
        from gapray.batch.render import render as render_run
        from gapray.batch.runs import RunSummary
        from gapray.batch.score import score as score_run
        from gapray.capture.discover import DiscoverOptions
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
        read_options = options if photos == src else DiscoverOptions()  # a manifest of `ingest` is read already
        # Photos of a dense capture that --given holds out are its truth.
        truth_source = truth or (src if given and photos == src and not src.endswith(".parquet") else None)
        scoring_options = truth_options(direction=direction, front=front, names=names, layout=layout)
        summaries: dict[str, RunSummary] = {}
        with quiet_output(as_json), connected(address):
            with progress_callback(quiet=as_json) as on_progress:
                summaries["package"] = package_run(
                    photos, out=out, profile=chosen, options=read_options, on_progress=on_progress
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
