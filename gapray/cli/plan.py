"""`gapray plan`: predicts the time and cost of a run on a cluster."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gapray.cli.flags import ConfigOption, JsonOption, ProfileOption, SetOption
from gapray.cli.output import guarded, print_json, print_table

if TYPE_CHECKING:
    from gapray.cluster.plan import ClusterPlan


def plan(
    src: Annotated[
        str, typer.Argument(metavar="SRC", help="Folder, zip file, URI of photos, or a manifest (.parquet).")
    ],
    cluster: Annotated[
        Path,
        typer.Option(
            "--cluster", help="A `ray up` file or a RayCluster manifest, with prices in labels gapray.io/hour-price."
        ),
    ],
    profile: ProfileOption = "classic",
    config: ConfigOption = None,
    set_: SetOption = None,
    sample: Annotated[int, typer.Option(min=1, help="Products to time on this machine, after one warm-up.")] = 2,
    from_run: Annotated[
        str | None, typer.Option(metavar="CATALOG", help="Use the times of runs recorded in this catalogue instead.")
    ] = None,
    to: Annotated[
        Path | None, typer.Option(help="Write balanced numbers of workers to a file for `gapray run --config`.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Predict how fast each stage will be on a cluster, which one is the bottleneck, and a run's duration and cost."""
    with guarded(as_json):
        from gapray.batch.calibrate import calibrate
        from gapray.catalog.runs import existing_catalog, runs, stage_costs
        from gapray.cluster.plan import plan_run
        from gapray.cluster.shape import node_groups
        from gapray.profile import load_profile

        groups = node_groups(cluster)
        chosen = load_profile(profile, config_file=config, overrides=set_ or [])
        count = sum(1 for _ in _rows(src)) if not src.endswith(".parquet") else _rows_in(src)
        if from_run is not None:
            costs, measured = stage_costs(runs(existing_catalog(from_run))), f"runs of {from_run}"
        else:
            costs, measured = calibrate(_rows(src), chosen, products=sample), f"{sample} products on this machine"
        result = plan_run(costs, count, groups, measured=measured)
        if to is not None:
            import yaml

            from gapray.outputs import write_file

            write_file(to, yaml.safe_dump(result.settings(), sort_keys=False))
        print_json(result.as_dict()) if as_json else _print(result)


def _print(result: ClusterPlan) -> None:
    rows = [
        [stage.stage, f"{stage.seconds:.3f}", stage.bound_by, stage.workers, f"{stage.products_a_second:.2f}"]
        for stage in result.stages
    ]
    print_table(["stage", "s a product", "on", "workers", "products/s"], rows)
    cost = "" if result.cost is None else f", cost {result.cost:.2f}"
    kinds = ", ".join(f"{kind} {hours:.2f}" for kind, hours in result.hours_by_kind.items())
    typer.echo(
        f"{result.products} products on {result.cpus:g} CPUs and {result.gpus:g} GPUs: "
        f"{result.hours:.2f} h ({kinds}){cost}; bound by {result.bottleneck}"
    )
    typer.echo(f"seconds from {result.measured}; starts of nodes and loads of models are not in it")
    if result.hour_price is None:
        typer.echo("no cost: give each worker group the label gapray.io/hour-price")


def _rows(src: str) -> Iterator[Mapping[str, Any]]:
    """Yield the manifest rows of a source, which may be a manifest itself."""
    if src.endswith(".parquet"):
        import pyarrow.parquet as pq

        with pq.ParquetFile(src) as file:
            for batch in file.iter_batches(batch_size=64):
                yield from batch.to_pylist()
        return
    from gapray.capture.discover import scan
    from gapray.capture.manifest import manifest_row

    yield from map(manifest_row, scan(src))


def _rows_in(src: str) -> int:
    import pyarrow.parquet as pq

    return int(pq.read_metadata(src).num_rows)
