"""The stages of `gapray score`: functions and callable classes from Arrow tables to Arrow tables, one video a row."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa

from gapray.batch.metrics import observe
from gapray.batch.resources import GpuShare, configure_worker
from gapray.batch.rows import Row, error_columns
from gapray.batch.score_rows import (
    COMPARED,
    GATHERED,
    IDENTITY,
    SCORE_RECEIPT,
    SCORED,
    comparison_columns,
    comparison_of,
    picture_columns,
    picture_of,
)
from gapray.batch.trace import model_load
from gapray.capture.decode import decode_photo
from gapray.capture.settings import DecodeSettings
from gapray.capture.storage import read_bytes
from gapray.catalog.media import media_name
from gapray.catalog.package_rows import package_of_rows
from gapray.catalog.parts import commit
from gapray.catalog.reader import Catalog
from gapray.catalog.rows import RunFacts, reject_row, utc_now
from gapray.catalog.storage import Folder
from gapray.errors import InputError, ResourceError
from gapray.fidelity.comparison import LeftOutFrame, Truth, compare, judge_comparison
from gapray.fidelity.left_out import draw_left_out
from gapray.fidelity.lpips import Lpips
from gapray.fidelity.protocol import Protocol
from gapray.fidelity.score import OURS
from gapray.fidelity.settings import SCORE_FORMAT
from gapray.models.cards import generator_vram_gb
from gapray.models.load import load_identity, load_mask, require
from gapray.orbit.settings import OrbitSettings
from gapray.profile import Profile
from gapray.settings import canonical_hash
from gapray.video.backend import VideoBackend
from gapray.video.decode import one_turn
from gapray.video.load import load_backend, video_revisions
from gapray.video.presets import preset_named
from gapray.video.provenance import Provenance
from gapray.video.settings import VideoSettings


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


def gather(table: pa.Table, *, facts: ScoreFacts) -> pa.Table:
    """Read and decode the videos, packages and truth photos of pending scores; returns rows of `GATHERED`. Needs no model."""
    opened = Catalog(Folder.at(facts.catalog))
    return _map_rows(table, GATHERED, lambda row: _gathered(row, opened, facts.profile.packaging.decode))


def _gathered(row: Row, opened: Catalog, decode: DecodeSettings) -> Row:
    files = {media_name(name): opened.folder.read(name) for name in row["files"]}
    return {
        "views": opened.views_of(row["product_id"], row["product_key"], row["part"]),
        **decoded_columns(files, row, decode),
    }


def decoded_columns(files: Mapping[str, bytes], row: Row, decode: DecodeSettings) -> Row:
    """Return a video's frames, provenance and truth photos as columns of `GATHERED`.

    Args:
        files: File name -> content of the video's files.
        row: `preset`, `frames` (number of frames) and `truths` (`TRUTH`) of the video.
        decode: Limits of the truth photos.

    Raises:
        InputError: The video or a photo cannot be read.
    """
    photos = [decode_photo(read_bytes(truth["uri"], decode.max_bytes), decode) for truth in row["truths"]]
    azimuths = [truth["azimuth_deg"] for truth in row["truths"]]
    return {
        "frames": [picture_columns(frame) for frame in one_turn(files, preset_named(row["preset"]), row["frames"])],
        "provenance": files["provenance.json"].decode(),
        "truths": [{"azimuth_deg": at} | picture_columns(photo) for at, photo in zip(azimuths, photos, strict=True)],
        "left_out": [],
    }


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
        """Fill `left_out` in rows of `GATHERED` that have no `truths`."""
        return _map_rows(table, GATHERED, self._drawn)

    def _drawn(self, row: Row) -> Row:
        if row["truths"]:
            return {}
        provenance = Provenance.from_sidecar(row["provenance"])
        orbit, drawn_with = provenance.drawn_with()
        video = drawn_with.computed_as(self._facts.profile.video)
        left_out = draw_left_out(
            package_of_rows(row["product"], row["views"]),
            self._backend_of(video, orbit, row),
            orbit,
            video,
            engine=provenance.facts["calibration"]["engine"],
            views=self._facts.profile.fidelity.leave_out,
            seed=row["seed"],
            device=self._device,
        )
        return {"left_out": [{"view": drawn.view} | picture_columns(drawn.image) for drawn in left_out]}

    def _backend_of(self, video: VideoSettings, orbit: OrbitSettings, row: Row) -> VideoBackend:
        """Return the backend that drew a video, verified by the video's key.

        Raises:
            InputError: `score.not_as_drawn`: this release, or the weights on this machine, would draw a different video.
            ResourceError: `resource.insufficient`: the backend needs a GPU and there is none.
            ModelError: The backend's weights cannot be loaded.
        """
        if video != self._settings:
            self._backend = None  # free it first: two backends do not fit on one GPU
            self._settings = video
        revisions = video_revisions(video, orbit)
        [key] = video.digests(orbit, row["preset"], revisions, [row["product_key"]], row["seed"])
        if key != row["video_key"]:
            raise InputError(
                "score.not_as_drawn",
                f"the video of {row['product_id']} was drawn by another release or other weights than are here",
            )
        if (
            self._device == "cpu"
            and generator_vram_gb(video) is not None
            and not self._facts.profile.run.generators_on_cpu
        ):
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
        """Cut out and align rows of `GATHERED`; returns rows of `COMPARED`."""
        return _map_rows(table, COMPARED, self._compared)

    def _compared(self, row: Row) -> Row:
        package = package_of_rows(row["product"], row["views"])
        provenance = Provenance.from_sidecar(row["provenance"])
        orbit, _ = provenance.drawn_with()
        comparison = compare(
            package,
            np.stack([picture_of(frame) for frame in row["frames"]]),
            row["azimuths_deg"],
            self._network,
            truths=[Truth(truth["azimuth_deg"], picture_of(truth)) for truth in row["truths"]],
            drawn=[LeftOutFrame(drawn["view"], picture_of(drawn)) for drawn in row["left_out"]],
            orbit=orbit,
            mask=self._facts.profile.packaging.mask,
            settings=self._facts.profile.fidelity,
            mask_model=self._facts.mask,
            shifted=bool(provenance.facts["calibration"]["shifted"]),
        )
        return comparison_columns(comparison) | {"conditions_deg": [view.azimuth_deg for view in package.views]}


class Judge:
    """Computes LPIPS and all other metrics, on a share of a GPU if there is one."""

    def __init__(self, *, facts: ScoreFacts, gpu: GpuShare | None, threads: int) -> None:
        self._facts = facts
        device = configure_worker(gpu, threads)
        self._metric = Lpips(facts.profile.fidelity.net, device=device)
        self._identity = load_identity(facts.profile.packaging, device=device, batch=32)

    def __call__(self, table: pa.Table) -> pa.Table:
        """Score rows of `COMPARED`; returns rows of `SCORED`."""
        rows = []
        for row in table.to_pylist():
            scores: list[Row] = []
            verdicts: list[Row] = []
            if row["error_code"] is None:
                try:
                    scores, verdicts = self._judge(row)
                except Exception as error:
                    row.update(error_columns(error))
            reject = score_reject(row, self._facts) if row["error_code"] else None
            rows.append({"product_id": row["product_id"], "scores": scores, "verdicts": verdicts, "reject": reject})
        return pa.Table.from_pylist(rows, schema=SCORED)

    def _judge(self, row: Row) -> tuple[list[Row], list[Row]]:
        profile = self._facts.profile
        comparison = comparison_of(row)
        scores, verdicts = judge_comparison(comparison, self._metric, self._identity, profile.fidelity)
        for score in scores:
            if score.label == OURS:
                observe("gapray_lpips", score.lpips, kind=score.kind)
        protocol = Protocol(
            net=self._metric.net,
            trunk_sha256=self._metric.backbone.sha256,
            size=profile.fidelity.size,
            mask=self._facts.mask,
            framing=comparison.framing,
            truth=comparison.truth,
            conditions_deg=tuple(row["conditions_deg"]),
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


def _map_rows(table: pa.Table, schema: pa.Schema, function: Callable[[Row], Row]) -> pa.Table:
    """Apply a function to every row without an error.

    Args:
        table: Rows of the previous stage.
        schema: Columns of the result; those that `function` does not return are copied from the table.
        function: Maps a row to its new columns. If it raises, the row keeps `IDENTITY` and the error.
    """
    rows = []
    for row in table.to_pylist():
        if row.get("error_code") is None:
            try:
                row.update(function(row))
            except Exception as error:
                row.update(error_columns(error))
        failed = row.get("error_code") is not None
        kept = IDENTITY.names if failed else schema.names
        rows.append({name: row.get(name) for name in kept})
    return pa.Table.from_pylist(rows, schema=schema)
