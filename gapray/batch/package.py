"""`gapray package`: photos in, catalogue out, by Ray Data."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import pyarrow as pa
import ray
import ray.data

from gapray.batch.capacity import Capacity, capacity, room_for
from gapray.batch.dataset import lasting, read_manifest
from gapray.batch.plan import Verify, write_pending
from gapray.batch.record import recorded
from gapray.batch.resources import LIGHT_CPU, MASK_THREADS, StagePlan, plan_stages
from gapray.batch.runs import GONE_KEPT, PackageSummary, absolute, new_run_id, published
from gapray.batch.stages import Describe, Encode, Mask, decode, write
from gapray.capture.discover import DiscoverOptions, scan
from gapray.capture.manifest import ignored_of, write_manifest
from gapray.catalog.reader import Catalog
from gapray.catalog.rows import RunFacts
from gapray.catalog.storage import Folder
from gapray.config import Profile, load_profile
from gapray.errors import FileError, writing
from gapray.models.load import revisions
from gapray.packaging.build import model_names
from gapray.ray_session import connected


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

    A run that was killed is gone on with by calling it again: finished products are skipped.

    Args:
        src: Folder, zip file or fsspec URI of photos, or a manifest (``.parquet``).
        out: The catalogue: a local folder or fsspec URI; made when missing.
        profile: A profile's name, or one made by `gapray.config.load_profile`.
        options: Layout, direction and front photo of the captures.
        verify: `source` skips products whose files look the same; `content` reads and hashes all files.
        address: A Ray cluster; default: the one this process is connected to, `RAY_ADDRESS`, or a new local one.
        on_progress: Called with the summary so far whenever a part was written.

    Raises:
        GaprayError: When the run as a whole cannot be done. A product that cannot be used is a reject, not an error.
    """
    chosen = load_profile(profile) if isinstance(profile, str) else profile
    target = absolute(str(out))
    folder = Folder.at(target)
    folder.check_writable()
    hashes = revisions(chosen.packaging)
    settings_hash = chosen.packaging.digest(hashes)
    run_id = new_run_id()
    facts = RunFacts(run_id, settings_hash, chosen.name, model_names(chosen.packaging, hashes))
    with tempfile.TemporaryDirectory(prefix="gapray-") as scratch:
        manifest = Path(scratch) / "manifest.parquet"
        after = Catalog(folder).newest("products", "rejects")
        # A catalogue within the source is none of its products.
        seen = replace(options, apart=(*options.apart, target))
        with writing(FileError, "file.write_failed", scratch):
            listed = _listed(str(src), seen, manifest.with_name("all.parquet"))
            root = None if str(src).endswith(".parquet") else absolute(str(src))
            pending = write_pending(listed, Catalog(folder), settings_hash, verify, manifest, root=root)
        summary = PackageSummary(run_id, target, products=pending.products, finished=pending.finished)
        summary.gone, summary.gone_products = len(pending.gone), list(pending.gone[:GONE_KEPT])
        summary.ignored = ignored_of(str(listed))
        with recorded(
            summary, folder, profile=chosen, models=hashes, source=str(src), on_progress=on_progress
        ) as recorder:
            if pending.products > pending.finished:
                with (
                    connected(address),
                    recorder.on_cluster(),
                    published(manifest, folder, run_id) as uri,
                ):
                    cluster = capacity(chosen.run)
                    stages = plan_stages(chosen, cluster.most)
                    with room_for(stages, cluster, chosen.run.wait_for_nodes_s):
                        for receipts in _receipts(uri, folder, chosen, stages, cluster, facts, target, after):
                            recorder.add(receipts)
    return summary


def _listed(src: str, options: DiscoverOptions, manifest: Path) -> Path:
    """The manifest of a source, which may be one itself."""
    if src.endswith(".parquet"):
        return Path(src)
    beside: list[str] = []
    write_manifest(scan(absolute(src), options, beside=beside), str(manifest), beside)
    return manifest


def _receipts(
    manifest: str,
    folder: Folder,
    profile: Profile,
    plan: StagePlan,
    cluster: Capacity,
    facts: RunFacts,
    catalog: str,
    after: datetime | None,
) -> Iterator[pa.Table]:
    """The pipeline: one table of receipts for each part that has been committed."""
    settings, run = profile.packaging, profile.run
    arrow = {"batch_format": "pyarrow", "batch_size": run.products_per_block}
    products = read_manifest(manifest, folder, run, cluster)
    # A block is what a kill costs and what a worker holds: the manifest's rows are spread, never its file.
    products = products.repartition(target_num_rows_per_block=run.products_per_block)
    # Fetch and decode: short CPU tasks, no model. At most half the cores, because masks are the longer work.
    products = products.map_batches(
        decode,
        fn_kwargs={"settings": settings, "settings_hash": facts.settings},
        compute=ray.data.TaskPoolStrategy(plan.decode_workers),
        num_cpus=LIGHT_CPU,
        **arrow,
    )
    # Masks: ONNX, all cores between the actors, since this is where a CPU run spends its time.
    products = products.map_batches(
        lasting(Mask),
        fn_constructor_kwargs={"settings": settings, "facts": facts, "threads": MASK_THREADS, "gpu": None},
        compute=cluster.pool(plan.mask_workers),
        num_cpus=plan.mask_cpus,
        **arrow,
    )
    # Depth and identity: both networks in one actor, two calls at once so that one unpacks while the other computes.
    products = products.map_batches(
        lasting(Describe),
        fn_constructor_kwargs={
            "settings": settings,
            "facts": facts,
            "batch": run.network_batch,
            "gpu": plan.describe_gpu,
        },
        compute=cluster.pool(plan.describe_workers, calls=2),
        num_cpus=LIGHT_CPU,
        **({"num_gpus": plan.describe_gpu.num_gpus} if plan.describe_gpu else {}),
        **arrow,
    )
    # Edges and encoding: long-lived actors, because importing controlnet-aux takes seconds.
    finished = products.map_batches(
        lasting(Encode),
        fn_constructor_kwargs={"settings": settings, "facts": facts},
        compute=cluster.pool(plan.encode_workers),
        num_cpus=LIGHT_CPU,
        **arrow,
    )
    # The sink: a batch is a part. It answers with receipts, so that the driver sees products end as they do.
    receipts = finished.map_batches(
        write,
        fn_kwargs={"catalog": catalog, "after": after, "part_bytes": run.part_bytes},
        batch_size=run.products_per_part,
        batch_format="pyarrow",
        num_cpus=LIGHT_CPU,
    )
    yield from receipts.iter_batches(batch_size=None, batch_format="pyarrow")
