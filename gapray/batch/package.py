"""`gapray package`: packages the photos of a source into a catalogue."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import datetime
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from gapray.batch.pipeline import Pipeline, Stage
from gapray.batch.plan import Verify, write_pending
from gapray.batch.record import recorded
from gapray.batch.resources import plan_stages
from gapray.batch.rows import FINISHED, IN_FLIGHT, PLANNED, RECEIPT
from gapray.batch.run import run_pipeline
from gapray.batch.runs import GONE_KEPT, PackageSummary, absolute_uri, new_run_id
from gapray.batch.stages import Describe, Encode, Mask, decode, write
from gapray.capture.discover import DiscoverOptions, scan
from gapray.capture.manifest import ignored_of, write_manifest
from gapray.catalog.reader import Catalog
from gapray.catalog.rows import RunFacts
from gapray.catalog.storage import Folder
from gapray.errors import REMEDIES, ConfigError, FileError, writing
from gapray.models.load import revisions
from gapray.packaging.build import model_names
from gapray.profile import Profile, load_profile


def package(
    src: str | Path,
    *,
    out: str | Path,
    profile: str | Profile = "classic",
    options: DiscoverOptions = DiscoverOptions(),
    verify: Verify = "source",
    address: str | None = None,
    on_progress: Callable[[PackageSummary], None] | None = None,
) -> PackageSummary:
    """Package every product of a source into a catalogue.

    Call it again to resume an interrupted run: finished products are skipped.

    Args:
        src: Folder, zip file or fsspec URI of photos, or a manifest (``.parquet``).
        out: The catalogue: a local folder or fsspec URI; created if missing.
        profile: A profile's name, or one made by `gapray.profile.load_profile`.
        options: Layout, direction and front photo of the captures.
        verify: `source` skips products whose files have not changed by name, size and time stamp; `content` reads and hashes all
            files.
        address: A Ray cluster; default: the one this process is connected to, `RAY_ADDRESS`, or a new local one.
        on_progress: Called with the summary so far whenever a part has been written.

    Returns:
        Counts, rejects and warnings of the run.

    Raises:
        GaprayError: The run as a whole failed. A product that cannot be packaged is a reject, not an error.
    """
    chosen = load_profile(profile) if isinstance(profile, str) else profile
    target = absolute_uri(str(out))
    folder = Folder.at(target)
    folder.check_writable()
    hashes = revisions(chosen.packaging)
    settings_hash = chosen.packaging.digest(hashes)
    run_id = new_run_id()
    facts = RunFacts(run_id, settings_hash, chosen.name, model_names(chosen.packaging, hashes))
    with tempfile.TemporaryDirectory(prefix="gapray-") as scratch:
        manifest = Path(scratch) / "manifest.parquet"
        after = Catalog(folder).newest("products", "rejects")
        # A catalogue inside the source is not one of its products.
        scan_options = replace(options, apart=(*options.apart, target))
        with writing(FileError, "file.write_failed", scratch):
            listed = _list_source(str(src), scan_options, manifest.with_name("all.parquet"))
            root = None if str(src).endswith(".parquet") else absolute_uri(str(src))
            pending = write_pending(listed, Catalog(folder), settings_hash, verify, manifest, root=root)
        summary = PackageSummary(run_id, target, products=pending.products, finished=pending.finished)
        summary.gone, summary.gone_products = len(pending.gone), list(pending.gone[:GONE_KEPT])
        summary.ignored = ignored_of(str(listed))
        with recorded(
            summary, folder, profile=chosen, models=hashes, source=str(src), on_progress=on_progress
        ) as recorder:
            make_pipeline = partial(package_pipeline, profile=chosen, facts=facts, catalog=target, after=after)
            run_pipeline(recorder, manifest, folder, chosen.run, make_pipeline, address=address)
            for product_id, warning in _packaged_meanwhile(Catalog(folder), run_id, after):
                summary.warn(product_id, [warning])
    return summary


def _packaged_meanwhile(
    catalog: Catalog, run_id: str, after: datetime | None
) -> Iterator[tuple[str, Mapping[str, str]]]:
    """Yield products of a run of which another run, at the same time, packaged other photos from elsewhere, with a warning.

    Each run compared its products with the catalogue before it began; the one that ends last finds the other's here.

    Args:
        catalog: The catalogue.
        run_id: The run.
        after: `created_at` of the newest row before it.
    """
    newer = None if after is None else pc.field("created_at") > pa.scalar(after)
    rows = catalog.dataset("products").to_table(columns=["product_id", "run_id", "key", "uri"], filter=newer)
    is_own = pc.equal(rows["run_id"], run_id)
    others = {row["product_id"]: row for row in rows.filter(pc.invert(is_own)).to_pylist()}
    own = rows.filter(pc.and_(is_own, pc.is_in(rows["product_id"], pa.array(list(others), pa.string()))))
    for row in own.to_pylist():
        other = others[row["product_id"]]
        if other["key"] != row["key"] and other["uri"] != row["uri"]:
            code = "product.source_changed"
            message = (
                f"{other['uri']} was packaged by another run at the same time, with other photos, under the same id"
            )
            yield row["product_id"], {"code": code, "message": f"{message}. {REMEDIES[code]}"}


def _list_source(src: str, options: DiscoverOptions, manifest: Path) -> Path:
    """Return the path of a source's manifest: `src` itself if it is one, else `manifest`, which is written.

    Raises:
        ConfigError: `config.invalid` for a manifest, whose azimuths are final, with options of how to read names.
    """
    if src.endswith(".parquet"):
        if unused := options.changed():
            raise ConfigError(
                "config.invalid",
                f"{src} states the azimuths already, so {', '.join(unused)} would change nothing: "
                "pass that to `gapray manifest`, which writes them",
            )
        return Path(src)
    beside: list[str] = []
    write_manifest(scan(absolute_uri(src), options, beside=beside), str(manifest), beside)
    return manifest


def package_pipeline(
    cluster: Mapping[str, float], *, profile: Profile, facts: RunFacts, catalog: str, after: datetime | None = None
) -> Pipeline:
    """Return the pipeline that packages planned rows into a catalogue.

    Args:
        cluster: Ray resources by name; the pipeline is planned to fill them.
        profile: Models, and numbers of workers that the user has set.
        facts: Columns that all rows of the run share.
        catalog: Folder or URI.
        after: `Catalog.newest` before the run; no row is written with an older `created_at`.
    """
    settings, run, workers = profile.packaging, profile.run, plan_stages(profile, cluster)
    shared = {"settings": settings, "facts": facts}
    describe = {**shared, "batch": run.network_batch, "gpu": workers.describe_gpu}
    return Pipeline(
        (
            # Fetch and decode: short tasks without a model, on at most half the cores, because masks take longer.
            Stage(
                "package.decode",
                decode,
                PLANNED,
                IN_FLIGHT,
                {"settings": settings, "settings_hash": facts.settings},
                workers.decode_workers,
            ),
            # Masks: ONNX actors that together use all cores, because a CPU run spends most of its time here.
            Stage(
                "package.mask",
                Mask,
                IN_FLIGHT,
                IN_FLIGHT,
                {**shared, "threads": run.worker_threads, "gpu": None},
                workers.mask_workers,
                workers.mask_cpus,
            ),
            # Depth and identity: both networks in one actor; of two concurrent calls one unpacks while the other computes.
            Stage(
                "package.describe",
                Describe,
                IN_FLIGHT,
                IN_FLIGHT,
                describe,
                workers.describe_workers,
                gpu=workers.describe_gpu,
                concurrent_calls=2,
            ),
            # Edges and encoding: actors rather than tasks, because importing controlnet-aux takes seconds.
            Stage("package.encode", Encode, IN_FLIGHT, FINISHED, shared, workers.encode_workers),
        ),
        # A batch is a part. It returns receipts, so that the driver sees products as they are committed.
        Stage(
            "package.write",
            write,
            FINISHED,
            RECEIPT,
            {"catalog": catalog, "after": after, "part_bytes": run.part_bytes},
        ),
        rows_per_block=run.products_per_block,
        rows_per_part=run.products_per_part,
    )
