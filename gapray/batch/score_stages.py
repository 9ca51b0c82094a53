"""The stages of `gapray score`: functions and callable classes from Arrow tables to Arrow tables, one video a row."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property
from typing import Any

import pyarrow as pa

from gapray.batch.metrics import observe
from gapray.batch.render_stages import PACKAGE
from gapray.batch.resources import GpuShare, configure_worker
from gapray.batch.rows import ERROR_FIELDS, Row, error_columns
from gapray.batch.trace import model_load
from gapray.capture.decode import decode_photo
from gapray.capture.storage import read_bytes
from gapray.catalog.media import media_name
from gapray.catalog.parts import commit
from gapray.catalog.reader import Catalog, package_of_rows
from gapray.catalog.rows import RunFacts, reject_row, utc_now
from gapray.catalog.schemas import REJECTS, SCORES, VERDICTS
from gapray.catalog.storage import Folder
from gapray.config import SCORE_FORMAT, OrbitSettings, Profile, VideoSettings, canonical_hash
from gapray.errors import InputError, ResourceError
from gapray.fidelity.comparison import Comparison, Drawn, Truth, compare, judged
from gapray.fidelity.left_out import draw_left_out
from gapray.fidelity.lpips import Lpips
from gapray.fidelity.protocol import Protocol
from gapray.fidelity.score import OURS
from gapray.gap.package import GapPackage
from gapray.models.load import load_identity, load_mask, require
from gapray.orbit.engines import Engine
from gapray.video.backend import VideoBackend
from gapray.video.decode import one_turn
from gapray.video.load import load_backend, video_cards, video_revisions
from gapray.video.presets import preset_named
from gapray.video.provenance import Provenance

TRUTH = pa.struct([("uri", pa.string()), ("azimuth_deg", pa.float64())])
PENDING_SCORE = pa.schema(
    [
        ("product_id", pa.string()),
        ("product_key", pa.string()),
        ("video_key", pa.string()),
        ("key", pa.string()),
        ("seed", pa.int64()),
        ("part", pa.string()),
        ("product", PACKAGE),
        ("backend", pa.string()),
        ("profile", pa.string()),
        ("preset", pa.string()),
        ("models", pa.list_(pa.string())),
        ("files", pa.list_(pa.string())),
        ("frames", pa.int32()),
        ("azimuths_deg", pa.list_(pa.float64())),
        ("truths", pa.list_(TRUTH)),
    ]
)
"""A video to score; if `truths` is empty, some of its views are left out and redrawn."""
_IDENTITY = [PENDING_SCORE.field(name) for name in ("product_id", "product_key", "video_key", "key", "seed")]
MATERIAL = pa.schema([*_IDENTITY, *ERROR_FIELDS, pa.field("blob", pa.large_binary())])
"""A video between stages; `blob` is a pickle of gapray's own dataclasses, which never leaves the run."""
SCORED = pa.schema(
    [
        ("product_id", pa.string()),
        ("scores", pa.list_(pa.struct(list(SCORES)))),
        ("verdicts", pa.list_(pa.struct(list(VERDICTS)))),
        ("reject", pa.struct(list(REJECTS))),
    ]
)
SCORE_RECEIPT = pa.schema(
    [
        ("product_id", pa.string()),
        ("outcome", pa.string()),
        ("pairs", pa.int32()),
        ("code", pa.string()),
        ("message", pa.string()),
    ]
)
"""Receipt of a committed video; `outcome` is passed, failed or rejected."""


@dataclass(frozen=True)
class ScoreFacts:
    """Settings that all scores of one run share."""

    run_id: str
    catalog: str
    profile: Profile
    mask: str
    """name@revision of the mask network."""
    identity: str
    """name@revision of the model of appearance features."""
    trunk_sha256: str
    """SHA-256 of the weights of LPIPS's backbone."""

    @property
    def models(self) -> dict[str, str]:
        """Model -> revision, for the run record and the protocol's hash."""
        return {
            "mask": self.mask,
            "identity": self.identity,
            f"lpips-{self.profile.fidelity.net}": self.trunk_sha256,
        }

    @cached_property
    def protocol(self) -> str:
        """Hash of everything that determines how this run scores videos."""
        packaging = self.profile.packaging
        settings = [self.profile.fidelity.results(), packaging.mask.results(), packaging.decode.results()]
        return canonical_hash([SCORE_FORMAT, settings, self.models])

    def key(self, video_key: str, truths: Sequence[Mapping[str, Any]]) -> str:
        """Return `scores.key`: a hash of the video's key, the protocol and the truth photos.

        The video's key also covers everything that left-out views are drawn with.
        """
        photos = sorted((truth["azimuth_deg"], truth["uri"], truth.get("stamp", "")) for truth in truths)
        return canonical_hash([video_key, self.protocol, photos])


@dataclass(frozen=True)
class Material:
    """One video and what it is compared with."""

    package: GapPackage
    frames: Any
    """Decoded frames of the video, uint8 [F, S, S, 3]."""
    azimuths_deg: tuple[float, ...]
    """Azimuths of the frames [degrees]."""
    truths: tuple[Truth, ...]
    """Held-out photos."""
    drawn: tuple[Drawn, ...]
    """Left-out views, redrawn from the others."""
    orbit: OrbitSettings
    video: VideoSettings
    """With `orbit`, the settings that drew the video, from its provenance."""
    engine: Engine
    """The engine of the in-between frames."""
    preset: str
    """Export preset of the video."""
    shifted: bool
    """Whether calibration found the photos to be cropped individually."""


def gather(table: pa.Table, *, facts: ScoreFacts) -> pa.Table:
    """Read and decode the videos, packages and truth photos of pending scores; returns rows of `MATERIAL`. Needs no model."""
    opened = Catalog(Folder.at(facts.catalog))
    return _map_rows(table, lambda row: _material(row, opened, facts))


def _material(row: Row, opened: Catalog, facts: ScoreFacts) -> Material:
    views = opened.views_of(row["product_id"], row["product_key"], row["part"])
    package = package_of_rows(row["product"], views)
    files = {media_name(name): opened.folder.read(name) for name in row["files"]}
    frames = one_turn(files, preset_named(row["preset"]), row["frames"])
    provenance = Provenance.from_sidecar(files["provenance.json"].decode())
    orbit, video = provenance.drawn_with()
    decode = facts.profile.packaging.decode
    truths = [
        Truth(photo["azimuth_deg"], decode_photo(read_bytes(photo["uri"], decode.max_bytes), decode))
        for photo in row["truths"]
    ]
    return Material(
        package=package,
        frames=frames,
        azimuths_deg=tuple(row["azimuths_deg"]),
        truths=tuple(truths),
        drawn=(),
        orbit=orbit,
        video=video,
        engine=provenance.facts["calibration"]["engine"],
        preset=row["preset"],
        shifted=bool(provenance.facts["calibration"]["shifted"]),
    )


class DrawLeftOut:
    """Redraws left-out views from the others, for videos without held-out photos, with the backend that drew the video.

    One backend is loaded at a time; rows are sorted by backend.
    """

    def __init__(self, *, facts: ScoreFacts, gpu: GpuShare | None, threads: int) -> None:
        self._facts = facts
        self._device = configure_worker(gpu, threads)
        self._settings: VideoSettings | None = None
        self._backend: VideoBackend | None = None

    def __call__(self, table: pa.Table) -> pa.Table:
        """Add left-out views to rows of `MATERIAL`."""
        return _map_rows(table, self._with_left_out)

    def _with_left_out(self, row: Row) -> Material:
        material: Material = unpickled(row)
        if material.truths:
            return material
        video = material.video.computed_as(self._facts.profile.video)
        backend = self._backend_of(video, row, material)
        drawn = draw_left_out(
            material.package,
            backend,
            material.orbit,
            video,
            engine=material.engine,
            views=self._facts.profile.fidelity.leave_out,
            seed=row["seed"],
            device=self._device,
        )
        return replace(material, drawn=tuple(drawn))

    def _backend_of(self, video: VideoSettings, row: Row, material: Material) -> VideoBackend:
        """Return the backend that drew a video, verified by the video's key.

        Raises:
            InputError: `score.not_as_drawn`: this release, or the weights on this machine, would draw a different video.
            ResourceError: `resource.insufficient`: the backend needs a GPU and there is none.
            ModelError: The backend's weights cannot be loaded.
        """
        if video != self._settings:
            self._backend = None  # free it first: two backends do not fit on one GPU
            self._settings = video
        revisions = video_revisions(video, material.orbit)
        [key] = video.digests(material.orbit, material.preset, revisions, [row["product_key"]], row["seed"])
        if key != row["video_key"]:
            raise InputError(
                "score.not_as_drawn",
                f"the video of {row['product_id']} was drawn by another release or other weights than are here",
            )
        if self._device == "cpu" and video_cards(video) and not self._facts.profile.run.generators_on_cpu:
            raise ResourceError(
                "resource.insufficient", f"{video.backend} needs a GPU to draw left-out views, and there is none"
            )
        if self._backend is None:
            with model_load("score.leave_out"):
                self._backend = load_backend(video, device=self._device)
        return self._backend


class Compare:
    """Segments truth photos and frames with the same network and brings them into the same frame. Runs ONNX on CPUs."""

    def __init__(self, *, facts: ScoreFacts, threads: int) -> None:
        self._facts = facts
        require(facts.mask)
        self._network = load_mask(facts.profile.packaging, threads=threads)

    def __call__(self, table: pa.Table) -> pa.Table:
        """Replace the material in rows of `MATERIAL` by comparisons and the azimuths of the given views [degrees]."""
        return _map_rows(table, self._compare)

    def _compare(self, row: Row) -> tuple[Comparison, tuple[float, ...]]:
        material: Material = unpickled(row)
        comparison = compare(
            material.package,
            material.frames,
            material.azimuths_deg,
            self._network,
            truths=material.truths,
            drawn=material.drawn,
            orbit=material.orbit,
            mask=self._facts.profile.packaging.mask,
            settings=self._facts.profile.fidelity,
            mask_model=self._facts.mask,
            shifted=material.shifted,
        )
        return comparison, tuple(view.azimuth_deg for view in material.package.views)


class Judge:
    """Computes LPIPS and all other metrics, on a share of a GPU if there is one."""

    def __init__(self, *, facts: ScoreFacts, gpu: GpuShare | None, threads: int) -> None:
        self._facts = facts
        device = configure_worker(gpu, threads)
        self._metric = Lpips(facts.profile.fidelity.net, device=device)
        self._identity = load_identity(facts.profile.packaging, device=device, batch=32)

    def __call__(self, table: pa.Table) -> pa.Table:
        """Score the comparisons in rows of `MATERIAL`; returns rows of `SCORED`."""
        rows = []
        for row in table.to_pylist():
            scores: list[Row] = []
            verdicts: list[Row] = []
            if row["error_code"] is None:
                try:
                    scores, verdicts = self._judge(row)
                except Exception as error:
                    fail(row, error)
            reject = score_reject(row, self._facts) if row["error_code"] else None
            rows.append({"product_id": row["product_id"], "scores": scores, "verdicts": verdicts, "reject": reject})
        return pa.Table.from_pylist(rows, schema=SCORED)

    def _judge(self, row: Row) -> tuple[list[Row], list[Row]]:
        profile = self._facts.profile
        comparison, conditions = unpickled(row)
        scores, verdicts = judged(comparison, self._metric, self._identity, profile.fidelity)
        for score in scores:
            if score.label == OURS:
                observe("gapray_lpips", score.lpips, kind=score.kind)
        protocol = Protocol(
            net=self._metric.net,
            trunk_sha256=self._metric.trunk.sha256,
            size=profile.fidelity.size,
            mask=self._facts.mask,
            framing=comparison.framing,
            truth=comparison.truth,
            conditions_deg=conditions,
            source="delivered file" if comparison.truth == "held-out" else "frames before encoding",
        )
        shared = shared_columns(row, protocol, self._facts.run_id)
        return (
            [score.as_dict() | shared for score in scores],
            [verdict.as_dict() | shared | {"reasons": list(verdict.reasons), "notes": []} for verdict in verdicts],
        )


def shared_columns(row: Mapping[str, Any], protocol: Protocol, run_id: str, *, foreign_video: bool = False) -> Row:
    """Return the columns that all score and verdict rows of one video share, except the label."""
    return {
        **{name: row[name] for name in ("product_id", "key", "product_key", "video_key")},
        "foreign_video": foreign_video,
        "protocol": json.dumps(protocol.as_dict()),
        "run_id": run_id,
        "created_at": utc_now(),
    }


def write_scores(table: pa.Table, *, catalog: str, after: datetime | None) -> pa.Table:
    """Commit one part of scored videos; returns rows of `SCORE_RECEIPT`."""
    rows = table.to_pylist()
    rejects = [row["reject"] for row in rows if row["reject"]]
    commit(
        Folder.at(catalog),
        {
            "scores": [score for row in rows for score in row["scores"]],
            "verdicts": [verdict for row in rows for verdict in row["verdicts"]],
            "rejects": rejects,
        },
        after=after,
    )
    return pa.Table.from_pylist([_receipt(row) for row in rows], schema=SCORE_RECEIPT)


def _receipt(row: Row) -> Row:
    reject = row["reject"]
    if reject:
        return {name: reject[name] for name in ("product_id", "code", "message")} | {"outcome": "rejected", "pairs": 0}
    outcome = "passed" if row["verdicts"][0]["gate"] == "pass" else "failed"
    return {"product_id": row["product_id"], "outcome": outcome, "pairs": len(row["scores"])}


def score_reject(row: Row, facts: ScoreFacts) -> Row:
    """Return the row of `rejects` for a video that cannot be scored."""
    return reject_row(
        product_id=row["product_id"],
        source=row["product_key"],
        uri=f"{facts.catalog}#{row['product_id']}",
        code=row["error_code"],
        message=row["error_message"],
        facts=RunFacts(facts.run_id, row["key"], facts.profile.name, {}),
        now=utc_now(),
        stage="score",
        item=row["video_key"],
    )


def fail(row: Row, error: Exception) -> None:
    """Set the error of a row and drop its material."""
    row.update(error_columns(error), blob=None)


def _map_rows(table: pa.Table, function: Callable[[Row], Any]) -> pa.Table:
    """Apply a function to every row without an error and pickle its result into `blob`; returns rows of `MATERIAL`."""
    rows = table.to_pylist()
    for row in rows:
        row.setdefault("error_code", None)
        row.setdefault("error_message", None)
        if row["error_code"] is None:
            try:
                row["blob"] = pickle.dumps(function(row), protocol=5)
            except Exception as error:
                fail(row, error)
    return pa.Table.from_pylist([{name: row.get(name) for name in MATERIAL.names} for row in rows], schema=MATERIAL)


def unpickled(row: Row) -> Any:
    """Return the result of the previous stage, which only this run's own workers have written."""
    return pickle.loads(row["blob"])  # noqa: S301
