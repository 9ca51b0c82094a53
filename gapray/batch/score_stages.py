"""The stages of `gapray score`, as callables for ``map_batches(batch_format="pyarrow", batch_size=1)``. A row is a video."""

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
from gapray.batch.resources import GpuShare, settle
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
from gapray.capture.storage import read_bytes
from gapray.catalog.media import media_name
from gapray.catalog.parts import commit
from gapray.catalog.reader import Catalog, package_of_rows
from gapray.catalog.rows import RunFacts, reject_row, utc_now
from gapray.catalog.storage import Folder
from gapray.config import SCORE_FORMAT, DecodeSettings, OrbitSettings, Profile, VideoSettings, canonical_hash
from gapray.errors import InputError, ResourceError
from gapray.fidelity.comparison import Drawn, Truth, compare, judged
from gapray.fidelity.left_out import draw_left_out
from gapray.fidelity.lpips import Lpips
from gapray.fidelity.protocol import Protocol
from gapray.fidelity.score import OURS
from gapray.models.load import load_identity, load_mask, require
from gapray.video.backend import VideoBackend
from gapray.video.decode import one_turn
from gapray.video.load import load_backend, video_cards, video_revisions
from gapray.video.presets import preset_named
from gapray.video.provenance import Provenance


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


def gather(table: pa.Table, *, facts: ScoreFacts) -> pa.Table:
    """Rows of `PENDING_SCORE` -> rows of `GATHERED`: videos and truth photos decoded. CPU work, no model."""
    opened = Catalog(Folder.at(facts.catalog))
    return _on_each(table, GATHERED, lambda row: _gathered(row, opened, facts.profile.packaging.decode))


def _gathered(row: Row, opened: Catalog, decode: DecodeSettings) -> Row:
    files = {media_name(name): opened.folder.read(name) for name in row["files"]}
    return {
        "views": opened.views_of(row["product_id"], row["product_key"], row["part"]),
        **decoded_columns(files, row, decode),
    }


def decoded_columns(files: Mapping[str, bytes], row: Row, decode: DecodeSettings) -> Row:
    """Frames, provenance and truth photos as columns of `GATHERED`.

    Args:
        files: Name -> content, of the video.
        row: With `preset`, `frames` (their number) and `truths` (`TRUTH`) of the video.
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
        """Rows of `GATHERED` -> the same with `left_out` where there are no `truths`."""
        return _on_each(table, GATHERED, self._drawn)

    def _drawn(self, row: Row) -> Row:
        if row["truths"]:
            return {}
        record = Provenance.from_sidecar(row["provenance"])
        orbit, drawn_with = record.drawn_with()
        video = drawn_with.computed_as(self._facts.profile.video)
        left_out = draw_left_out(
            package_of_rows(row["product"], row["views"]),
            self._backend_of(video, orbit, row),
            orbit,
            video,
            engine=record.facts["calibration"]["engine"],
            views=self._facts.profile.fidelity.leave_out,
            seed=row["seed"],
            device=self._device,
        )
        return {"left_out": [{"view": drawn.view} | picture_columns(drawn.image) for drawn in left_out]}

    def _backend_of(self, video: VideoSettings, orbit: OrbitSettings, row: Row) -> VideoBackend:
        """What drew a video, proven by its key.

        Raises:
            InputError: `score.not_as_drawn`: this release, or the weights here, would not draw that video.
            ResourceError: `resource.insufficient`.
            ModelError: As `load_backend`.
        """
        if video != self._settings:
            self._backend = None  # two do not fit a GPU
            self._settings = video
        revisions = video_revisions(video, orbit)
        [key] = video.digests(orbit, row["preset"], revisions, [row["product_key"]], row["seed"])
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
        """Rows of `GATHERED` -> rows of `COMPARED`."""
        return _on_each(table, COMPARED, self._compared)

    def _compared(self, row: Row) -> Row:
        package = package_of_rows(row["product"], row["views"])
        record = Provenance.from_sidecar(row["provenance"])
        orbit, _ = record.drawn_with()
        comparison = compare(
            package,
            np.stack([picture_of(frame) for frame in row["frames"]]),
            row["azimuths_deg"],
            self._network,
            truths=[Truth(truth["azimuth_deg"], picture_of(truth)) for truth in row["truths"]],
            drawn=[Drawn(drawn["view"], picture_of(drawn)) for drawn in row["left_out"]],
            orbit=orbit,
            mask=self._facts.profile.packaging.mask,
            settings=self._facts.profile.fidelity,
            mask_model=self._facts.mask,
            shifted=bool(record.facts["calibration"]["shifted"]),
        )
        return comparison_columns(comparison) | {"conditions_deg": [view.azimuth_deg for view in package.views]}


class Judge:
    """LPIPS and all else, on a share of a GPU where there is one."""

    def __init__(self, *, facts: ScoreFacts, gpu: GpuShare | None, threads: int) -> None:
        self._facts = facts
        device = settle(gpu, threads)
        self._metric = Lpips(facts.profile.fidelity.net, device=device)
        self._identity = load_identity(facts.profile.packaging, device=device, batch=32)

    def __call__(self, table: pa.Table) -> pa.Table:
        """Rows of `COMPARED` -> rows of `SCORED`."""
        rows = []
        for row in table.to_pylist():
            scores: list[Row] = []
            verdicts: list[Row] = []
            if row["error_code"] is None:
                try:
                    scores, verdicts = self._judged(row)
                except Exception as error:
                    row.update(error_columns(error))
            reject = score_reject(row, self._facts) if row["error_code"] else None
            rows.append({"product_id": row["product_id"], "scores": scores, "verdicts": verdicts, "reject": reject})
        return pa.Table.from_pylist(rows, schema=SCORED)

    def _judged(self, row: Row) -> tuple[list[Row], list[Row]]:
        profile = self._facts.profile
        comparison = comparison_of(row)
        scores, verdicts = judged(comparison, self._metric, self._identity, profile.fidelity)
        for one in scores:
            if one.label == OURS:
                observe("gapray_lpips", one.lpips, kind=one.kind)
        protocol = Protocol(
            net=self._metric.net,
            trunk_sha256=self._metric.trunk.sha256,
            size=profile.fidelity.size,
            mask=self._facts.mask,
            framing=comparison.framing,
            truth=comparison.truth,
            conditions_deg=tuple(row["conditions_deg"]),
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


def _on_each(table: pa.Table, schema: pa.Schema, work: Callable[[Row], Row]) -> pa.Table:
    """Do one stage's work on every row that has not failed.

    Args:
        table: Rows of the stage before.
        schema: Columns of the result. Those that the table has too stay as they are where `work` names none.
        work: A row -> columns that are new in it.
    """
    rows = []
    for row in table.to_pylist():
        if row.get("error_code") is None:
            try:
                row.update(work(row))
            except Exception as error:
                row.update(error_columns(error))
        failed = row.get("error_code") is not None
        kept = IDENTITY.names if failed else schema.names
        rows.append({name: row.get(name) for name in kept})
    return pa.Table.from_pylist(rows, schema=schema)
