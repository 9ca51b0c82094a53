"""Turntables -> scores: `score_processor`."""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa

from gapray.batch.pipeline import Stage
from gapray.batch.rows import error_columns
from gapray.batch.score import score_facts, score_pipeline
from gapray.batch.score_rows import GATHERED, SCORED, TRUTH
from gapray.batch.score_stages import ScoreFacts, decoded_columns
from gapray.catalog.schemas import SCORES, VERDICTS
from gapray.data.packages import package_columns
from gapray.data.processor import Processor, processor
from gapray.data.turntables import TURNTABLES
from gapray.models.cards import generator_vram_gb
from gapray.profile import Profile, load_profile

TRUTHS = pa.field("truths", pa.list_(TRUTH))
"""Optional input of `score_processor`: `uri` and `azimuth_deg` of photos that the packages do not hold."""
SCORED_TURNTABLES = pa.schema(
    [
        *TURNTABLES,
        pa.field("scores", pa.list_(pa.struct(list(SCORES)))),
        pa.field("verdicts", pa.list_(pa.struct(list(VERDICTS)))),
    ]
)
"""Output of `score_processor`: a turntable with its rows of the catalogue's tables `scores` and `verdicts`."""
_TURNTABLE_FIELD = pa.field("turntable", pa.struct([field for field in TURNTABLES if field.name != "product_id"]))


def score_processor(profile: str | Profile = "classic") -> Processor:
    """Return a processor that scores turntable videos against photos that their generator did not see.

    Rows with a column `truths` are compared with those photos. For rows without any, `fidelity.leave_out` of the package's views
    are left out and drawn from the others by what drew the video.

    Args:
        profile: A profile's name, or one made by `gapray.profile.load_profile`: mask network, LPIPS and gate.

    Returns:
        A processor from `TURNTABLES`, with or without `TRUTHS`, to `SCORED_TURNTABLES`. A video that cannot be scored has a
        `reject` and keeps its files.

    Raises:
        ModelError: The weights of the mask network, the identity or LPIPS are not found.
    """
    chosen = load_profile(profile) if isinstance(profile, str) else profile
    facts = score_facts("", chosen)
    vram_gb = generator_vram_gb(chosen.video)

    def make_stages(cluster: Mapping[str, float]) -> tuple[Stage, ...]:
        _, *stages = score_pipeline(cluster, facts=facts, vram_gb=vram_gb, draws=True).stages
        inputs = pa.schema([*TURNTABLES, TRUTHS])
        gathered = pa.schema([*GATHERED, _TURNTABLE_FIELD])
        scored = pa.schema([*SCORED, _TURNTABLE_FIELD])
        return (
            Stage("score.gather", _gathered_rows, inputs, gathered, {"facts": facts}),
            *stages,
            Stage("score.join", _scored_rows, scored, SCORED_TURNTABLES),
        )

    return processor(chosen.run, make_stages, 1, optional=[TRUTHS])


def _gathered_rows(table: pa.Table, *, facts: ScoreFacts) -> pa.Table:
    """Convert rows of `TURNTABLES` to the input of `score.leave_out`, with the turntable itself in one column."""
    rows = []
    for row in table.to_pylist():
        video, truths = row["video"] or {}, row["truths"] or []
        gathered = package_columns(row) | {
            "video_key": video.get("key", ""),
            "key": facts.key(video.get("key", ""), truths),
            "seed": video.get("seed", 0),
            "preset": video.get("preset"),
            "azimuths_deg": video.get("azimuths_deg"),
            "turntable": {name: row[name] for name in TURNTABLES.names if name != "product_id"},
        }
        if gathered["error_code"] is None:
            files = {file["name"]: file["data"] for file in row["files"]}
            try:
                gathered |= decoded_columns(files, video | {"truths": truths}, facts.profile.packaging.decode)
            except Exception as error:
                gathered |= error_columns(error)
        rows.append(gathered)
    return pa.Table.from_pylist(rows, schema=pa.schema([*GATHERED, _TURNTABLE_FIELD]))


def _scored_rows(table: pa.Table) -> pa.Table:
    """Join scores with their turntable; a reject of an earlier processor comes first."""
    rows = []
    for row in table.to_pylist():
        turntable = row["turntable"]
        rows.append(
            {
                "product_id": row["product_id"],
                **turntable,
                "reject": turntable["reject"] or row["reject"],
                "scores": row["scores"],
                "verdicts": row["verdicts"],
            }
        )
    return pa.Table.from_pylist(rows, schema=SCORED_TURNTABLES)
