"""Measure what the pipeline and the catalogue cost as they grow.

    python benchmarks/scale.py pipeline [COUNT …]   package, render and score with null models (default 1000 10000 100000)
    python benchmarks/scale.py catalog [COUNT]      manifest, anti-join, part writer, resume, compaction (default 1000000)

`pipeline` runs photos of 64 pixels through networks that answer at once, so the time measured is that of gapray and Ray. Each
count runs in a process of its own with a Ray of its own. `catalog` makes Arrow batches of rows with images of a few bytes and
sends them through the same functions that a run uses; no row becomes a Python object on the way.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
NULL = ["mask.model=null-model", "depth.model=null-model", "identity.model=null-model"]
LEAN = ["run.products_per_part=128", "run.products_per_block=64", "mask.backdrop_key=false"]
BATCH = 65_536


class Memory(threading.Thread):
    """Peak resident memory of this process and of its largest child, in bytes, sampled twice a second."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.driver = self.worker = 0
        self._over = threading.Event()

    def run(self) -> None:
        me = psutil.Process()
        while not self._over.wait(0.5):
            self.driver = max(self.driver, me.memory_info().rss)
            for child in me.children(recursive=True):
                try:
                    if child.name().startswith("ray::"):
                        self.worker = max(self.worker, child.memory_info().rss)
                except psutil.Error:
                    continue

    def stop(self) -> None:
        self._over.set()
        self.join()


def pipeline(counts: list[int]) -> None:
    print(f"null models, 8 photos of 64 px a product, {os.cpu_count()} cores")
    print(
        " products  seconds  ms a product  steady ms  driver MB  largest worker MB  catalogue MB  spilled MB  resume s"
    )
    for count in counts:
        with tempfile.TemporaryDirectory(prefix="gapray-scale-") as folder:
            done = subprocess.run(
                [sys.executable, __file__, "one", str(count), folder], capture_output=True, text=True, cwd=ROOT
            )
            if done.returncode:
                raise SystemExit(done.stderr[-3000:])
            found: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
        print(
            f"{count:9d} {found['seconds']:8.1f} {1e3 * found['seconds'] / count:13.2f} {found['steady_ms']:10.2f} "
            f"{found['driver']:10.0f} {found['worker']:18.0f} {found['catalogue']:13.1f} {found['spilled']:11.1f} "
            f"{found['resume']:9.1f}",
            flush=True,
        )


def one_pipeline(count: int, folder: Path) -> dict[str, float]:
    import ray

    import gapray
    from benchmarks.package import tiny_products
    from gapray.batch.record import spilled_bytes
    from gapray.profile import load_profile

    source = tiny_products(folder / "shoot", count)
    profile = load_profile("classic", overrides=[*NULL, *LEAN], environment={})
    ray.init("local", include_dashboard=False, log_to_driver=False)
    memory = Memory()
    memory.start()
    seen: list[tuple[float, int]] = []
    started = time.perf_counter()
    summary = gapray.package(
        source,
        out=folder / "catalog",
        profile=profile,
        on_progress=lambda progress: seen.append((time.perf_counter(), progress.done)),
    )
    seconds = time.perf_counter() - started
    assert summary.packaged == count, summary
    memory.stop()
    begun = time.perf_counter()
    assert gapray.package(source, out=folder / "catalog", profile=profile).finished == count
    resume = time.perf_counter() - begun
    first, last = (next(progress for progress in seen if progress[1] >= count * fraction) for fraction in (0.25, 0.9))
    return {
        "seconds": seconds,
        "steady_ms": 1e3 * (last[0] - first[0]) / max(1, last[1] - first[1]),
        "driver": memory.driver / 1e6,
        "worker": memory.worker / 1e6,
        "catalogue": sum(file.stat().st_size for file in (folder / "catalog").rglob("*.parquet")) / 1e6,
        "spilled": (spilled_bytes() or 0) / 1e6,
        "resume": resume,
    }


def catalog(count: int) -> None:
    from gapray.batch.plan import write_pending
    from gapray.catalog.compact import compact
    from gapray.catalog.parts import commit
    from gapray.catalog.reader import Catalog
    from gapray.catalog.storage import Folder

    print(f"{count} products, {os.cpu_count()} cores; peak = largest resident memory of the driver so far")
    with tempfile.TemporaryDirectory(prefix="gapray-scale-") as scratch:
        root = Path(scratch)
        folder = Folder.at(str(root / "catalog"))
        manifest, pending = root / "manifest.parquet", root / "pending.parquet"

        def measured(name: str, work: Callable[[], Any]) -> Any:
            started = time.perf_counter()
            result = work()
            seconds = time.perf_counter() - started
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
            print(
                f"{name:44s} {seconds:7.1f} s {1e6 * seconds / count:8.1f} us a product, peak {peak:6.0f} MB",
                flush=True,
            )
            return result

        def write_manifest() -> None:
            with pq.ParquetWriter(manifest, manifest_rows(0, 1).schema) as writer:
                for start in range(0, count, BATCH):
                    writer.write_table(manifest_rows(start, min(BATCH, count - start)))

        def write_parts() -> None:
            for start in range(0, count, 256):
                views, products = catalog_rows(start, min(256, count - start))
                commit(folder, {"views": views, "products": products})

        def join() -> Any:
            return write_pending(manifest, Catalog(folder), "settings", "source", pending)

        measured("manifest", write_manifest)
        first = measured("anti-join with an empty catalogue", join)
        assert (first.products, first.finished) == (count, 0)
        measured("part writer, 8 views a product, 256 a part", write_parts)
        last = measured("resume: anti-join with the finished catalogue", join)
        assert (last.products, last.finished) == (count, count)
        done = measured("compaction", lambda: compact(folder, products_per_part=4096))
        assert done.rows_after == done.rows_before == 9 * count, done
        assert measured("resume after compaction", join).finished == count
        size = sum(file.stat().st_size for file in (root / "catalog").rglob("*.parquet"))
        print(f"catalogue {size / 1e6:.0f} MB, parts {done.parts_before} -> {done.parts_after}")


def names(start: int, count: int) -> pa.Array:
    return pa.array(np.char.add("sku-", np.char.zfill(np.arange(start, start + count).astype(str), 8)))


def hashes(ids: pa.Array, salt: str) -> pa.Array:
    """64 characters derived from an id: as long and as random as real hashes, made without a loop."""
    import duckdb

    rows = pa.table({"id": ids})  # noqa: F841 - DuckDB finds it by its name
    with duckdb.connect() as connection:
        return connection.sql(f"SELECT sha256(id || '{salt}') AS h FROM rows").to_arrow_table()["h"].combine_chunks()


def manifest_rows(start: int, count: int) -> pa.Table:
    from gapray.capture.manifest import MANIFEST, PHOTO

    ids = names(start, count)
    names_8 = pa.array(np.tile([f"v_{45 * view:03d}.jpg" for view in range(8)], count))
    photos = pa.StructArray.from_arrays(
        [
            names_8,
            pa.array(np.char.add("s3://bucket/", np.repeat(ids.to_numpy(zero_copy_only=False).astype(str), 8))),
            pa.array(np.tile(np.arange(8) * 45.0, count)),
            pa.array(np.full(8 * count, 500_000)),
            pa.array(np.full(8 * count, "ETag:0123456789abcdef")),
        ],
        fields=list(PHOTO),
    )
    offsets = pa.array(np.arange(count + 1, dtype=np.int32) * 8)
    nothing = pa.nulls(count, pa.string())
    columns = [ids, ids, hashes(ids, "source"), pa.ListArray.from_arrays(offsets, photos), nothing, nothing]
    return pa.Table.from_arrays(columns, schema=MANIFEST)


def catalog_rows(start: int, count: int) -> tuple[pa.Table, pa.Table]:
    """Rows as a run commits them, except that images have 16 bytes."""
    from datetime import UTC, datetime

    from gapray.catalog.schemas import PRODUCTS, VIEWS

    ids = names(start, count)
    given: dict[str, Any] = {
        "product_id": ids,
        "key": hashes(ids, "key"),
        "source": hashes(ids, "source"),
        "settings": "settings",
        "created_at": datetime(2026, 1, 1, tzinfo=UTC),
        "azimuths_deg": np.arange(8) * 45.0,
        "views": 8,
    }
    products = pa.Table.from_arrays([column(field, given, count) for field in PRODUCTS], schema=PRODUCTS)
    repeated = pa.array(np.repeat(np.arange(count), 8))
    wide: dict[str, Any] = {
        **given,
        "product_id": ids.take(repeated),
        "key": given["key"].take(repeated),
        "azimuth_deg": pa.array(np.tile(np.arange(8) * 45.0, count)),
    }
    views = pa.Table.from_arrays([column(field, wide, 8 * count) for field in VIEWS], schema=VIEWS)
    return views, products


def column(field: pa.Field, given: dict[str, Any], rows: int) -> pa.Array:
    value = given.get(field.name)
    if isinstance(value, pa.Array | pa.ChunkedArray):
        return value
    if value is None:
        kind = field.type
        if pa.types.is_large_binary(kind):
            value = b"0123456789abcdef"
        elif pa.types.is_string(kind):
            value = "name@0123456789ab"
        elif pa.types.is_fixed_size_list(kind):
            value = np.zeros(kind.list_size, np.float32)
        else:
            value = 0
    return pa.repeat(pa.scalar(value, field.type), rows)


def main() -> None:
    mode, arguments = (sys.argv[1] if len(sys.argv) > 1 else "pipeline"), sys.argv[2:]
    if mode == "one":
        print(json.dumps(one_pipeline(int(arguments[0]), Path(arguments[1]))))
    elif mode == "catalog":
        catalog(int(arguments[0]) if arguments else 1_000_000)
    else:
        pipeline([int(count) for count in arguments] or [1_000, 10_000, 100_000])


if __name__ == "__main__":
    main()
