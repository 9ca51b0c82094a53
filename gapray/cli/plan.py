"""`gapray plan`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gapray.cli.output import guarded, print_json, print_table

if TYPE_CHECKING:
    from gapray.cluster.plan import Plan


def plan(
    src: Annotated[
        str, typer.Argument(metavar="SRC", help="Folder, zip file, URI of photos, or a manifest (.parquet).")
    ],
    cluster: Annotated[
        Path, typer.Option("--cluster", help="A file of `ray up` or a RayCluster manifest; label gapray.io/hour-price.")
    ],
    profile: Annotated[str, typer.Option(help="Named set of models and settings.")] = "classic",
    config: Annotated[Path | None, typer.Option(help="YAML over the profile.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="One setting over all else.")
    ] = None,
    sample: Annotated[int, typer.Option(min=1, help="Products to time on this machine, after one to warm up.")] = 2,
    from_run: Annotated[
        str | None, typer.Option(metavar="CATALOG", help="Take the seconds from the runs recorded there instead.")
    ] = None,
    to: Annotated[
        Path | None, typer.Option(help="Write the balanced workers as a file for `gapray run --config`.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="A JSON object on standard output, nothing else.")] = False,
) -> None:
    """Say before a run how fast each stage will be on a cluster, which one bounds it, how long it takes and what it costs."""
    with guarded(as_json):
        from gapray.batch.calibrate import calibrate
        from gapray.catalog.runs import found_folder, runs, stage_costs
        from gapray.cluster.plan import planned
        from gapray.cluster.shape import node_groups
        from gapray.config import load_profile

        groups = node_groups(cluster)
        chosen = load_profile(profile, config_file=config, overrides=set_ or [])
        count = sum(1 for _ in _rows(src)) if not src.endswith(".parquet") else _rows_in(src)
        if from_run is not None:
            costs, where = stage_costs(runs(found_folder(from_run))), f"runs of {from_run}"
        else:
            costs, where = calibrate(_rows(src), chosen, products=sample), f"{sample} products on this machine"
        found = planned(costs, count, groups, measured=where)
        if to is not None:
            import yaml

            from gapray.outputs import write_file

            write_file(to, yaml.safe_dump(found.settings(), sort_keys=False))
        print_json(found.as_dict()) if as_json else _print(found)


def _print(found: Plan) -> None:
    rows = [
        [one.stage, f"{one.seconds:.3f}", one.bound_by, one.workers, f"{one.products_a_second:.2f}"]
        for one in found.stages
    ]
    print_table(["stage", "s a product", "on", "workers", "products/s"], rows)
    cost = "" if found.cost is None else f", cost {found.cost:.2f}"
    kinds = ", ".join(f"{kind} {hours:.2f}" for kind, hours in found.hours_by_kind.items())
    typer.echo(
        f"{found.products} products on {found.cpus:g} CPUs and {found.gpus:g} GPUs: {found.hours:.2f} h ({kinds}){cost}; "
        f"bound by {found.bottleneck}"
    )
    typer.echo(f"seconds from {found.measured}; starts of nodes and loads of models are not in it")
    if found.hour_price is None:
        typer.echo("no cost: give each worker group the label gapray.io/hour-price")


def _rows(src: str) -> Iterator[Mapping[str, Any]]:
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
