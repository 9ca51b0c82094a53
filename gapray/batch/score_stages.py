"""The stages of `gapray score`, as callables for ``map_batches(batch_format="pyarrow", batch_size=1)``. A row is a video."""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property
from typing import Any

import pyarrow as pa

from gapray.batch.metrics import observe
from gapray.batch.render_stages import PACKAGE
from gapray.batch.resources import GpuShare, settle
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
from gapray.fidelity.comparison import Comparison, LeftOutFrame, Truth, compare, judge_comparison
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
"""A video to score; without `truths` some of its views are left out and drawn anew."""
_IDENTITY = [PENDING_SCORE.field(name) for name in ("product_id", "product_key", "video_key", "key", "seed")]
MATERIAL = pa.schema([*_IDENTITY, *ERROR_FIELDS, pa.field("blob", pa.large_binary())])
"""A video in flight; `blob` is a pickle of our own dataclasses, which never leaves the run."""
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
"""What the driver hears of a video; `outcome` is passed, failed or rejected."""


@dataclass(frozen=True)
class ScoreFacts:
    """What all scores of one run share."""

    run_id: str
    catalog: str
    profile: Profile
    mask: str
    """name@revision of the mask network."""
    identity: str
    """name@revision of what makes appearance features."""
    trunk_sha256: str

    @property
    def models(self) -> dict[str, str]:
        """What a run's record names."""
        return {
            "mask": self.mask,
            "identity": self.identity,
            f"lpips-{self.profile.fidelity.net}": self.trunk_sha256,
        }

    @cached_property
    def protocol(self) -> str:
        """Hash of how any video is scored by this run."""
        packaging = self.profile.packaging
        settings = [self.profile.fidelity.results(), packaging.mask.results(), packaging.decode.results()]
        return canonical_hash([SCORE_FORMAT, settings, self.models])

    def key(self, video_key: str, truths: Sequence[Mapping[str, Any]]) -> str:
        """`scores.key`: the video, which stands for all that left-out views are drawn with, the protocol and the photos."""
        named = sorted((truth["azimuth_deg"], truth["uri"], truth.get("stamp", "")) for truth in truths)
        return canonical_hash([video_key, self.protocol, named])


@dataclass(frozen=True)
class Material:
    """One video and what it is compared with."""

    package: GapPackage
    frames: Any
    """uint8 [F, S, S, 3]."""
    azimuths_deg: tuple[float, ...]
    truths: tuple[Truth, ...]
    drawn: tuple[LeftOutFrame, ...]
    orbit: OrbitSettings
    video: VideoSettings
    """With `orbit`, what the video was drawn with, by its own record."""
    engine: Engine
    """What drew the frames in between."""
    preset: str
    shifted: bool


def gather(table: pa.Table, *, facts: ScoreFacts) -> pa.Table:
    """Pending scores -> decoded videos, packages and truth photos: CPU work, no model."""
    opened = Catalog(Folder.at(facts.catalog))
    return _each(table, lambda row: _gathered(row, opened, facts))


def _gathered(row: Row, opened: Catalog, facts: ScoreFacts) -> Material:
    views = opened.views_of(row["product_id"], row["product_key"], row["part"])
    package = package_of_rows(row["product"], views)
    files = {media_name(name): opened.folder.read(name) for name in row["files"]}
    frames = one_turn(files, preset_named(row["preset"]), row["frames"])
    told = Provenance.from_sidecar(files["provenance.json"].decode())
    orbit, video = told.drawn_with()
    decode = facts.profile.packaging.decode
    photos = [decode_photo(read_bytes(one["uri"], decode.max_bytes), decode) for one in row["truths"]]
    return Material(
        package=package,
        frames=frames,
        azimuths_deg=tuple(row["azimuths_deg"]),
        truths=tuple(Truth(one["azimuth_deg"], photo) for one, photo in zip(row["truths"], photos, strict=True)),
        drawn=(),
        orbit=orbit,
        video=video,
        engine=told.facts["calibration"]["engine"],
        preset=row["preset"],
        shifted=bool(told.facts["calibration"]["shifted"]),
    )


class LeaveOut:
    """Draws some views from the others, for videos without hidden photos, each with what drew its video.

    One backend is loaded at a time; rows come sorted by it.
    """

    def __init__(self, *, facts: ScoreFacts, gpu: GpuShare | None, threads: int) -> None:
        self._facts = facts
        self._device = settle(gpu, threads)
        self._settings: VideoSettings | None = None
        self._backend: VideoBackend | None = None

    def __call__(self, table: pa.Table) -> pa.Table:
        """See the class."""
        return _each(table, self._drawn)

    def _drawn(self, row: Row) -> Material:
        material: Material = unpacked(row)
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
        """What drew a video, proven by its key.

        Raises:
            InputError: `score.not_as_drawn`: this release, or the weights here, would not draw that video.
            ResourceError: `resource.insufficient`.
            ModelError: As `load_backend`.
        """
        if video != self._settings:
            self._backend = None  # two do not fit a GPU
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
    """Cuts truth and frames out by one network and lays them alike. ONNX on CPUs."""

    def __init__(self, *, facts: ScoreFacts, threads: int) -> None:
        self._facts = facts
        require(facts.mask)
        self._network = load_mask(facts.profile.packaging, threads=threads)

    def __call__(self, table: pa.Table) -> pa.Table:
        """See the class."""
        return _each(table, self._compared)

    def _compared(self, row: Row) -> tuple[Comparison, tuple[float, ...]]:
        material: Material = unpacked(row)
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
    """LPIPS and all else, on a share of a GPU where there is one."""

    def __init__(self, *, facts: ScoreFacts, gpu: GpuShare | None, threads: int) -> None:
        self._facts = facts
        device = settle(gpu, threads)
        self._metric = Lpips(facts.profile.fidelity.net, device=device)
        self._identity = load_identity(facts.profile.packaging, device=device, batch=32)

    def __call__(self, table: pa.Table) -> pa.Table:
        """See the class."""
        rows = []
        for row in table.to_pylist():
            scores: list[Row] = []
            verdicts: list[Row] = []
            if row["error_code"] is None:
                try:
                    scores, verdicts = self._judged(row)
                except Exception as error:
                    fail(row, error)
            reject = score_reject(row, self._facts) if row["error_code"] else None
            rows.append({"product_id": row["product_id"], "scores": scores, "verdicts": verdicts, "reject": reject})
        return pa.Table.from_pylist(rows, schema=SCORED)

    def _judged(self, row: Row) -> tuple[list[Row], list[Row]]:
        profile = self._facts.profile
        comparison, conditions = unpacked(row)
        scores, verdicts = judge_comparison(comparison, self._metric, self._identity, profile.fidelity)
        for one in scores:
            if one.label == OURS:
                observe("gapray_lpips", one.lpips, kind=one.kind)
        protocol = Protocol(
            net=self._metric.net,
            trunk_sha256=self._metric.backbone.sha256,
            size=profile.fidelity.size,
            mask=self._facts.mask,
            framing=comparison.framing,
            truth=comparison.truth,
            conditions_deg=conditions,
            source="delivered file" if comparison.truth == "held-out" else "frames before encoding",
        )
        shared = stamped(row, protocol, self._facts.run_id)
        return (
            [one.as_dict() | shared for one in scores],
            [one.as_dict() | shared | {"reasons": list(one.reasons), "notes": []} for one in verdicts],
        )


def stamped(row: Mapping[str, Any], protocol: Protocol, run_id: str, *, foreign_video: bool = False) -> Row:
    """The columns that all rows of one video's scores share, but for the label."""
    return {
        **{name: row[name] for name in ("product_id", "key", "product_key", "video_key")},
        "foreign_video": foreign_video,
        "protocol": json.dumps(protocol.as_dict()),
        "run_id": run_id,
        "created_at": utc_now(),
    }


def write_scores(table: pa.Table, *, catalog: str, after: datetime | None) -> pa.Table:
    """Commit one part of scored videos and say what became of each."""
    rows = table.to_pylist()
    rejects = [row["reject"] for row in rows if row["reject"]]
    commit(
        Folder.at(catalog),
        {
            "scores": [one for row in rows for one in row["scores"]],
            "verdicts": [one for row in rows for one in row["verdicts"]],
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
    """What a video that cannot be scored leaves behind."""
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
    """Let a row carry its error to the last stage."""
    row.update(error_columns(error), blob=None)


def _each(table: pa.Table, work: Any) -> pa.Table:
    """Do one stage's work on every row that has not failed."""
    rows = table.to_pylist()
    for row in rows:
        row.setdefault("error_code", None)
        row.setdefault("error_message", None)
        if row["error_code"] is None:
            try:
                row["blob"] = pickle.dumps(work(row), protocol=5)
            except Exception as error:
                fail(row, error)
    return pa.Table.from_pylist([{name: row.get(name) for name in MATERIAL.names} for row in rows], schema=MATERIAL)


def unpacked(row: Row) -> Any:
    """What the stage before packed; only this run's own workers write it."""
    return pickle.loads(row["blob"])  # noqa: S301
