"""Packages -> pictures of products in scenes: `stills_processor`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pyarrow as pa

from gapray.batch.pipeline import Stage
from gapray.batch.rows import FINISHED, Row, error_columns
from gapray.batch.runs import new_run_id
from gapray.batch.stills import DEFAULT_SCENES, stills_pipeline
from gapray.batch.stills_stages import DRAWN, LOADED, StillFacts, encoded_picture, still_rejects
from gapray.catalog.schemas import STILLS
from gapray.data.packages import PACKAGE_FIELD, package_columns, package_of
from gapray.data.processor import Processor, processor
from gapray.fidelity.same_product import judge_digest
from gapray.profile import Profile, load_profile
from gapray.stills.load import still_revisions
from gapray.stills.scene import Scene, load_scenes

STILL = pa.struct([*STILLS, pa.field("data", pa.large_binary())])
"""A row of the catalogue's table `stills`, and the JPEG file."""
PACKAGE_STILLS = pa.schema([*FINISHED, pa.field("scene", pa.string()), pa.field("stills", pa.list_(STILL))])
"""Output of `stills_processor`: the package, the scene's name, and its pictures."""
_SCENE = pa.field("scene", pa.string())


def stills_processor(
    profile: str | Profile = "classic", *, scenes: Sequence[str] = DEFAULT_SCENES, per_scene: int = 1
) -> Processor:
    """Return a processor that draws products into scenes and judges whether each stayed the same product.

    Args:
        profile: A profile's name, or one made by `gapray.profile.load_profile`.
        scenes: Names, YAML files or folders of such files (`gapray.stills.scene.load_scenes`).
        per_scene: Pictures of each product in each scene, with seeds 0, 1, …

    Returns:
        A processor from `PACKAGES` to `PACKAGE_STILLS`, with one row for each input row **and scene**. Calling it raises
        `ResourceError` (`resource.insufficient`) if the generator needs a GPU and the cluster has none.

    Raises:
        ConfigError: `scene.unknown`, or `config.invalid` for a scene's file.
        ModelError: A model's weights are not found.
    """
    chosen = load_profile(profile) if isinstance(profile, str) else profile
    loaded = load_scenes(list(scenes))
    facts = StillFacts(new_run_id(), "", chosen, still_revisions(chosen.stills), judge_digest(chosen.packaging))

    def make_stages(cluster: Mapping[str, float]) -> tuple[Stage, ...]:
        [draw] = [stage for stage in stills_pipeline(cluster, facts=facts).stages if stage.name == "stills.draw"]
        inputs = pa.schema([*FINISHED, _SCENE])
        loaded_rows = pa.schema([*LOADED, PACKAGE_FIELD])
        drawn = pa.schema([*DRAWN, PACKAGE_FIELD])
        return (
            Stage("stills.take", _loaded_rows, inputs, loaded_rows, {"facts": facts, "per_scene": per_scene}),
            draw,
            Stage("stills.encode", _encoded_rows, drawn, PACKAGE_STILLS, {"facts": facts}, draw.workers),
        )

    texts = [scene.model_dump_json() for scene in loaded]
    return processor(chosen.run, make_stages, 1, repeat=(_SCENE, texts))


def _loaded_rows(table: pa.Table, *, facts: StillFacts, per_scene: int) -> pa.Table:
    """Convert rows of `PACKAGES` with a scene to the input of `stills.draw`, with the package itself in one column."""
    rows = []
    for row in table.to_pylist():
        columns, scene = package_columns(row), Scene.model_validate_json(row["scene"])
        rows.append(
            {
                **columns,
                "part": None,
                "scene": row["scene"],
                "seeds": list(range(per_scene)),
                "keys": [facts.key(columns["product_key"], scene, seed) for seed in range(per_scene)],
                "package": package_of(row),
            }
        )
    return pa.Table.from_pylist(rows, schema=pa.schema([*LOADED, PACKAGE_FIELD]))


def _encoded_rows(table: pa.Table, *, facts: StillFacts) -> pa.Table:
    """Encode drawn pictures: rows of `stills.draw` to rows of `PACKAGE_STILLS`."""
    rows = []
    for row in table.to_pylist():
        stills: list[Row] = []
        if row["error_code"] is None:
            try:
                stills = [_encoded(picture) for picture in row["pictures"]]
            except Exception as error:
                row.update(error_columns(error))
        package, failed = row["package"], row["error_code"] is not None
        rows.append(
            {
                "product_id": row["product_id"],
                **package,
                "reject": package["reject"] or (still_rejects(row, facts)[0] if failed else None),
                "scene": Scene.model_validate_json(row["scene"]).name,
                "stills": [] if failed else stills,
            }
        )
    return pa.Table.from_pylist(rows, schema=PACKAGE_STILLS)


def _encoded(picture: Row) -> Row:
    name, data = encoded_picture(picture)
    still: Row = picture["row"]
    return still | {"file": name, "bytes": len(data), "data": data}
