"""GAP packages -> turntable videos: `turntable_processor`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from gapray.batch.pipeline import Stage
from gapray.batch.render import render_pipeline
from gapray.batch.render_stages import DRAWN, LOADED, VideoFacts, exported, video_reject
from gapray.batch.rows import FINISHED, error_columns
from gapray.batch.runs import new_run_id
from gapray.catalog.schemas import VIDEOS
from gapray.data.packages import PACKAGE_FIELD, package_columns, package_of
from gapray.data.processor import Processor, processor
from gapray.profile import Profile, load_profile
from gapray.video.load import video_revisions
from gapray.video.presets import preset_named

FILE = pa.struct([("name", pa.string()), ("data", pa.large_binary())])
TURNTABLES = pa.schema(
    [*FINISHED, pa.field("video", pa.struct(list(VIDEOS))), pa.field("files", pa.list_(FILE))],
)
"""Output of `turntable_processor`: the package, the video's row of the catalogue's table `videos`, and its files."""
_LOADED_WITH_PACKAGE = pa.schema([*LOADED, PACKAGE_FIELD])


def turntable_processor(profile: str | Profile = "classic", *, preset: str = "web", seed: int = 0) -> Processor:
    """Return a processor that makes turntable videos of GAP packages.

    Args:
        profile: As for `package_processor`.
        preset: Name of an export preset (`gapray.video.presets`).
        seed: Random seed.

    Returns:
        A processor from `PACKAGES` to `TURNTABLES`. Calling it raises `ResourceError` (`resource.insufficient`) if the generator
        needs a GPU and the cluster has none.

    Raises:
        ConfigError: `video.unknown_preset`.
        ModelError: A model's weights are not found.
    """
    chosen = load_profile(profile) if isinstance(profile, str) else profile
    preset_named(preset)
    facts = VideoFacts(new_run_id(), "", chosen, preset, video_revisions(chosen.video, chosen.orbit))

    def make_stages(cluster: Mapping[str, float]) -> tuple[Stage, ...]:
        [draw] = [stage for stage in render_pipeline(cluster, facts=facts).stages if stage.name == "render.draw"]
        drawn = pa.schema([*DRAWN, PACKAGE_FIELD])
        return (
            Stage("render.take", _loaded_rows, FINISHED, _LOADED_WITH_PACKAGE, {"facts": facts, "seed": seed}),
            draw,
            Stage("render.encode", _encoded_rows, drawn, TURNTABLES, {"facts": facts}, draw.workers),
        )

    return processor(chosen.run, make_stages, 1)


def _loaded_rows(table: pa.Table, *, facts: VideoFacts, seed: int) -> pa.Table:
    """Convert rows of `PACKAGES` to the input of `render.draw`, with the package itself in one column."""
    rows = []
    for row in table.to_pylist():
        columns = package_columns(row)
        [key] = facts.keys([columns["product_key"]], seed)
        rows.append({**columns, "key": key, "seed": seed, "part": None, "package": package_of(row)})
    return pa.Table.from_pylist(rows, schema=_LOADED_WITH_PACKAGE)


def _encoded_rows(table: pa.Table, *, facts: VideoFacts) -> pa.Table:
    """Encode drawn frames to the preset's files: rows of `render.draw` to rows of `TURNTABLES`."""
    rows = []
    for row in table.to_pylist():
        files: dict[str, bytes] = {}
        if row["error_code"] is None:
            try:
                files = exported(row, facts)
            except Exception as error:
                row.update(error_columns(error))
        failed = row["error_code"] is not None
        rows.append(
            {
                "product_id": row["product_id"],
                **row["package"],
                "reject": row["package"]["reject"] or (video_reject(row, facts) if failed else None),
                "video": None if failed else row["video"] | _file_columns(files),
                "files": [{"name": name, "data": data} for name, data in files.items()],
            }
        )
    return pa.Table.from_pylist(rows, schema=TURNTABLES)


def _file_columns(files: dict[str, bytes]) -> dict[str, Any]:
    return {"files": list(files), "bytes": sum(map(len, files.values()))}
