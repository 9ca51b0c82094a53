"""The stages of `gapray render`: functions and callable classes from Arrow tables to Arrow tables, one video a row."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime

import numpy as np
import pyarrow as pa

from gapray.batch.resources import GpuShare, configure_worker
from gapray.batch.rows import ERROR_FIELDS, Row, error_columns
from gapray.catalog.media import media_folder
from gapray.catalog.package_rows import PACKAGE_COLUMNS, package_of_rows
from gapray.catalog.parts import commit
from gapray.catalog.reader import Catalog
from gapray.catalog.rows import RunFacts, reject_row, utc_now
from gapray.catalog.schemas import PRODUCTS, REJECTS, VIDEOS, VIEWS
from gapray.catalog.storage import Folder
from gapray.errors import CatalogError
from gapray.inspect.doubts import with_warnings
from gapray.models.cards import generator_vram_gb
from gapray.models.load import require
from gapray.orbit.conditions import OrbitConditions, build_conditions
from gapray.profile import Profile
from gapray.video.encode import export
from gapray.video.load import load_backend
from gapray.video.presets import preset_named
from gapray.video.provenance import Provenance

PACKAGE = pa.struct([PRODUCTS.field(name) for name in PACKAGE_COLUMNS])
PENDING = pa.schema(
    [
        ("product_id", pa.string()),
        ("product_key", pa.string()),
        ("key", pa.string()),
        ("seed", pa.int64()),
        ("part", pa.string()),
        ("product", PACKAGE),
    ]
)
"""A video to draw; `part` is the file that holds its product's views, `product` the product's row."""


def with_views(pending: pa.Schema) -> pa.Schema:
    """Return the schema of pending rows after loading: with the product's views, or an error."""
    return pa.schema([*pending, *ERROR_FIELDS, pa.field("views", pa.list_(pa.struct(list(VIEWS))))])


LOADED = with_views(PENDING)
DRAWN = pa.schema(
    [
        *PENDING,
        *ERROR_FIELDS,
        pa.field("frames", pa.large_binary()),
        pa.field("video", pa.struct(list(VIDEOS))),
        pa.field("provenance", pa.string()),
    ]
)
SAVED = pa.schema(
    [("product_id", pa.string()), ("video", pa.struct(list(VIDEOS))), ("reject", pa.struct(list(REJECTS)))]
)
VIDEO_RECEIPT = pa.schema(
    [
        ("product_id", pa.string()),
        ("outcome", pa.string()),
        ("frames", pa.int32()),
        ("code", pa.string()),
        ("message", pa.string()),
        ("warnings", pa.list_(pa.string())),
    ]
)
"""Receipt of a committed video; `outcome` is rendered or rejected."""


@dataclass(frozen=True)
class VideoFacts:
    """Settings that all videos of one run share."""

    run_id: str
    catalog: str
    profile: Profile
    preset: str
    revisions: Mapping[str, str]
    """Model name -> hash of its weights."""

    def keys(self, product_keys: Sequence[str], seed: int) -> list[str]:
        """Return `videos.key` for each package key."""
        return self.profile.video.digests(self.profile.orbit, self.preset, self.revisions, product_keys, seed)

    @property
    def models(self) -> list[str]:
        """``name@revision`` of each model, sorted, as stored in rows and provenance."""
        return [f"{name}@{revision[:12]}" for name, revision in sorted(self.revisions.items())]

    @property
    def vram_gb(self) -> float | None:
        """GPU memory that the backend's networks need together [GB]; None = it has no network."""
        return generator_vram_gb(self.profile.video)


def load(table: pa.Table, *, catalog: str) -> pa.Table:
    """Add the views of their products to pending videos or stills.

    Args:
        table: Rows with product_id, product_key and part.
        catalog: Folder or URI.

    Returns:
        The rows with the columns of `with_views`.
    """
    opened = Catalog(Folder.at(catalog))
    rows = table.to_pylist()
    for row in rows:
        row.update(error_code=None, error_message=None, views=[])
        try:
            row["views"] = opened.views_of(row["product_id"], row["product_key"], row["part"])
        except Exception as error:
            row.update(error_columns(error))
    return pa.Table.from_pylist(rows, schema=with_views(table.schema))


class Draw:
    """Builds the conditions of videos and draws their frames; each actor loads one backend."""

    def __init__(self, *, facts: VideoFacts, gpu: GpuShare | None, threads: int) -> None:
        self._facts = facts
        self._device = configure_worker(gpu, threads)
        require(*facts.models)
        self._backend = load_backend(facts.profile.video, device=self._device)

    def __call__(self, table: pa.Table) -> pa.Table:
        """Draw the videos of rows of `LOADED`; returns rows of `DRAWN`."""
        rows = table.to_pylist()
        for row in rows:
            row.update(frames=None, video=None, provenance=None)
            if row["error_code"] is None:
                try:
                    self._draw(row)
                except Exception as error:
                    _fail(row, error)
        return pa.Table.from_pylist([{name: row[name] for name in DRAWN.names} for row in rows], schema=DRAWN)

    def _draw(self, row: Row) -> None:
        started = time.monotonic()
        profile = self._facts.profile
        package = package_of_rows(row["product"], row["views"])
        conditions = build_conditions(package, profile.orbit, device=self._device)
        frames = self._backend.generate(package, conditions, profile.video.chosen, seed=row["seed"])
        capabilities = self._backend.capabilities
        models = self._facts.models
        photo_side = max(max(view.mask.shape) for view in package.views)
        enlarged = preset_named(self._facts.preset).enlargement_warnings(frames.shape[1], photo_side)
        video = {
            "product_id": row["product_id"],
            "key": row["key"],
            "product_key": row["product_key"],
            "backend": capabilities.name,
            "seed": row["seed"],
            "preset": self._facts.preset,
            "profile": profile.name,
            "frames": len(frames),
            "size": frames.shape[1],
            "azimuths_deg": list(conditions.azimuths_deg),
            "key_frames": list(conditions.key_frames),
            "files": [],
            "bytes": 0,
            "source_type": capabilities.source_type,
            "licence": capabilities.licence,
            "models": models,
            "elevation_deg": conditions.calibration.elevation_deg,
            "direction": conditions.calibration.direction,
            "reprojection_iou": list(conditions.calibration.reprojection_iou),
            "warnings": [*conditions.warnings, *with_warnings(package).messages, *enlarged],
            "seconds": time.monotonic() - started,
            "run_id": self._facts.run_id,
            "created_at": utc_now(),
        }
        sidecar = _provenance(video, conditions, row, self._facts).sidecar().decode()
        row.update(frames=np.ascontiguousarray(frames).tobytes(), video=video, provenance=sidecar)


def save(table: pa.Table, *, facts: VideoFacts, dry_run: bool = False) -> pa.Table:
    """Encode frames and write the files into the catalogue.

    Args:
        table: Rows of `DRAWN`.
        facts: Settings of the run.
        dry_run: Encode, but write nothing.

    Returns:
        Rows of `SAVED`: the row of `videos` to commit, or a reject.
    """
    folder = Folder.at(facts.catalog)
    saved: list[Row] = []
    for row in table.to_pylist():
        if row["error_code"] is None:
            try:
                _save(row, folder, facts, dry_run)
            except Exception as error:
                _fail(row, error)
        reject = video_reject(row, facts) if row["error_code"] else None
        saved.append({"product_id": row["product_id"], "video": None if reject else row["video"], "reject": reject})
    return pa.Table.from_pylist(saved, schema=SAVED)


def write_videos(table: pa.Table, *, catalog: str, after: datetime | None) -> pa.Table:
    """Commit one part of finished videos; returns rows of `VIDEO_RECEIPT`."""
    rows = table.to_pylist()
    videos = [row["video"] for row in rows if row["video"]]
    rejects = [row["reject"] for row in rows if row["reject"]]
    commit(Folder.at(catalog), {"videos": videos, "rejects": rejects}, after=after)
    return pa.Table.from_pylist([_receipt(row) for row in rows], schema=VIDEO_RECEIPT)


def _receipt(row: Row) -> Row:
    reject = row["reject"]
    if reject:
        return {name: reject[name] for name in ("product_id", "code", "message")} | {"outcome": "rejected", "frames": 0}
    video = row["video"]
    counts = {name: video[name] for name in ("frames", "warnings")}
    return {"product_id": row["product_id"], "outcome": "rendered", **counts}


def exported(row: Row, facts: VideoFacts) -> dict[str, bytes]:
    """Encode a row of `DRAWN` to the files of the run's preset; returns file name -> content."""
    video = row["video"]
    side = video["size"]
    frames = np.frombuffer(row["frames"], np.uint8).reshape(video["frames"], side, side, 3)
    provenance = Provenance.from_sidecar(row["provenance"])
    return export(frames, preset_named(facts.preset), provenance, background=facts.profile.orbit.background_rgb)


def _save(row: Row, folder: Folder, facts: VideoFacts, dry_run: bool) -> None:
    started = time.monotonic()
    video = row["video"]
    files = exported(row, facts)
    directory = media_folder("videos", row["product_id"], row["key"])
    if not dry_run:
        put_files(folder, directory, files, row["product_id"])
    video["files"] = [f"{directory}/{name}" for name in files]
    video["bytes"] = sum(map(len, files.values()))
    video["seconds"] += time.monotonic() - started


def put_files(folder: Folder, directory: str, files: Mapping[str, bytes], product_id: str) -> None:
    """Write files into the catalogue: all of them, or none.

    Args:
        folder: The catalogue.
        directory: Where to write, relative to the catalogue.
        files: Name, relative to the directory -> content.
        product_id: Named in the error message.

    Raises:
        CatalogError: `video.write_failed`.
    """
    written: list[str] = []
    for name, data in files.items():
        parent, _, base = f"{directory}/{name}".rpartition("/")
        try:
            folder.put(parent, base, pa.py_buffer(data))
        except OSError as error:
            for path in written:
                folder.remove(f"{folder.path}/{path}")
            path = f"{folder.path}/{directory}/{name}"
            raise CatalogError("video.write_failed", f"{product_id}: {path}: {error}") from error
        written.append(f"{directory}/{name}")


def _provenance(video: Row, conditions: OrbitConditions, row: Row, facts: VideoFacts) -> Provenance:
    from gapray import __version__

    return Provenance(
        product_id=row["product_id"],
        source_type=video["source_type"],
        facts={
            "software": f"gapray {__version__}",
            "backend": video["backend"],
            "models": video["models"],
            "licence": video["licence"],
            "seed": video["seed"],
            "profile": facts.profile.name,
            "settings": {
                "orbit": facts.profile.orbit.model_dump(),
                "video": facts.profile.video.model_dump(include={"backend", facts.profile.video.backend}),
            },
            "video_key": video["key"],
            "product_key": video["product_key"],
            "photos": [
                {"name": view["name"], "azimuth_deg": view["azimuth_deg"], "sha256": view["sha256"]}
                for view in row["views"]
            ],
            "azimuths_deg": video["azimuths_deg"],
            "key_frames": video["key_frames"],
            "calibration": asdict(conditions.calibration),
            "warnings": video["warnings"],
        },
    )


def video_reject(row: Row, facts: VideoFacts) -> Row:
    """Return the row of `rejects` for a video that cannot be drawn."""
    shared = RunFacts(facts.run_id, row["key"], facts.profile.name, {})
    return reject_row(
        product_id=row["product_id"],
        source=row["product_key"],
        uri=f"{facts.catalog}#{row['product_id']}",
        code=row["error_code"],
        message=row["error_message"],
        facts=shared,
        now=utc_now(),
        stage="render",
        item=f"{facts.profile.video.backend}/{row['seed']}/{facts.preset}",
    )


def _fail(row: Row, error: Exception) -> None:
    row.update(error_columns(error), views=[], frames=None, video=None, provenance=None)
