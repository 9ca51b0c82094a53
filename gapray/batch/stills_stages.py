"""The stages of `gapray stills`, as callables for ``map_batches(batch_format="pyarrow", batch_size=1)``."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa

from gapray.batch.render_stages import PACKAGE, put_files, with_views
from gapray.batch.resources import GpuShare, configure_worker
from gapray.batch.rows import ERROR_FIELDS, Row, error_columns
from gapray.catalog.media import media_folder
from gapray.catalog.package_rows import package_of_rows
from gapray.catalog.parts import commit
from gapray.catalog.rows import RunFacts, reject_row, utc_now
from gapray.catalog.schemas import REJECTS, STILLS
from gapray.catalog.storage import Folder
from gapray.fidelity.same_product import Likeness, gate_failures, load_judge
from gapray.models.cards import generator_vram_gb
from gapray.models.load import require
from gapray.profile import Profile
from gapray.settings import canonical_hash
from gapray.stills.load import load_still_backend
from gapray.stills.scene import Scene
from gapray.stills.still import Still, StillBackend, best_view, source_type
from gapray.video.encode import encoded_still
from gapray.video.provenance import Provenance

QUALITY = 95
"""Quality of the JPEG files."""
PENDING = pa.schema(
    [
        ("product_id", pa.string()),
        ("product_key", pa.string()),
        ("part", pa.string()),
        ("product", PACKAGE),
        ("scene", pa.string()),
        ("seeds", pa.list_(pa.int64())),
        ("keys", pa.list_(pa.string())),
    ]
)
"""Pictures of one product in one scene; `scene` is its JSON, so that workers need no file of the driver's."""
LOADED = with_views(PENDING)
PICTURE = pa.struct(
    [
        ("pixels", pa.large_binary()),  # uint8 [height, width, 3]
        ("row", pa.struct(list(STILLS))),  # of the catalogue, but for the file
    ]
)
DRAWN = pa.schema(
    [
        *(PENDING.field(name) for name in ("product_id", "product_key", "scene", "seeds", "keys")),
        *ERROR_FIELDS,
        pa.field("pictures", pa.list_(PICTURE)),
    ]
)
SAVED = pa.schema(
    [
        ("product_id", pa.string()),
        ("stills", pa.list_(pa.struct(list(STILLS)))),
        ("rejects", pa.list_(pa.struct(list(REJECTS)))),
    ]
)
RECEIPT = pa.schema(
    [
        ("product_id", pa.string()),
        ("outcome", pa.string()),
        ("stills", pa.int32()),
        ("code", pa.string()),
        ("message", pa.string()),
    ]
)
"""What the driver hears of a product in a scene; `outcome` is passed (at least one picture), failed or rejected."""


@dataclass(frozen=True)
class StillFacts:
    """What all pictures of one run share."""

    run_id: str
    catalog: str
    profile: Profile
    revisions: Mapping[str, str]
    """Model name -> hash of its weights."""
    judge: str
    """`gapray.fidelity.same_product.judge_digest`: the scores of a picture are part of its row."""

    def key(self, product_key: str, scene: Scene, seed: int) -> str:
        """`stills.key` of one picture."""
        settings = self.profile.stills.digest(self.revisions)
        return canonical_hash([product_key, scene.model_dump(mode="json"), settings, self.judge, seed])

    @property
    def models(self) -> list[str]:
        """``name@revision`` of each, sorted, as rows hold it."""
        return [f"{name}@{revision[:12]}" for name, revision in sorted(self.revisions.items())]

    @property
    def vram_gb(self) -> float | None:
        """GPU memory that the backend's networks need together [GB]; None = it has no network."""
        return generator_vram_gb(self.profile.stills)


class DrawStills:
    """Draws and judges. One backend and one judge an actor, loaded once."""

    def __init__(
        self, *, facts: StillFacts, gpu: GpuShare | None, threads: int, backend: StillBackend | None = None
    ) -> None:
        self._facts = facts
        device = configure_worker(gpu, threads)
        profile = facts.profile
        if backend is None:
            require(*facts.models)
        self._backend = backend or load_still_backend(profile.stills, device=device)
        self._judge = load_judge(profile.packaging, device=device, threads=threads)

    def __call__(self, table: pa.Table) -> pa.Table:
        """Rows of `LOADED` -> rows of `DRAWN`."""
        rows = table.to_pylist()
        for row in rows:
            row["pictures"] = []
            if row["error_code"] is None:
                try:
                    row["pictures"] = self._drawn(row)
                except Exception as error:
                    _fail(row, error)
        return pa.Table.from_pylist([{name: row[name] for name in DRAWN.names} for row in rows], schema=DRAWN)

    def _drawn(self, row: Row) -> list[Row]:
        started = time.monotonic()
        package = package_of_rows(row["product"], row["views"])
        scene = Scene.model_validate_json(row["scene"])
        settings = self._facts.profile.stills
        view = best_view(package, settings.azimuth_deg)
        stills = self._backend.generate(package, view, scene, settings, seeds=row["seeds"])
        judged = self._judge.of_pictures(package, [(still.image, still.placed) for still in stills], view.azimuth_deg)
        seconds = (time.monotonic() - started) / len(stills)
        return [
            {
                "pixels": np.ascontiguousarray(still.image).tobytes(),
                "row": self._row(row, scene, still, seed, key, likeness, view.azimuth_deg) | {"seconds": seconds},
            }
            for still, seed, key, likeness in zip(stills, row["seeds"], row["keys"], judged, strict=True)
        ]

    def _row(
        self, row: Row, scene: Scene, still: Still, seed: int, key: str, likeness: Likeness, azimuth_deg: float
    ) -> Row:
        settings = self._facts.profile.stills
        numbers = {name: value for name, value in likeness.as_dict().items() if name != "azimuth_deg"}
        reasons = gate_failures(likeness.reasons, likeness.same_percentile, settings.min_same)
        return {
            "product_id": row["product_id"],
            "key": key,
            "product_key": row["product_key"],
            "scene": scene.name,
            "prompt": scene.prompt_for(settings.sdxl.product),
            "backend": self._backend.name,
            "seed": seed,
            "azimuth_deg": azimuth_deg,
            "width": still.image.shape[1],
            "height": still.image.shape[0],
            "file": "",
            "bytes": 0,
            "pasted": still.pasted,
            "source_type": source_type(self._backend, still),
            "licence": self._backend.licence,
            "models": self._facts.models,
            "profile": self._facts.profile.name,
            **numbers,
            "gate": "fail" if reasons else "pass",
            "reasons": reasons,
            "run_id": self._facts.run_id,
            "created_at": utc_now(),
        }


def save_stills(table: pa.Table, *, facts: StillFacts) -> pa.Table:
    """Pictures -> files in the catalogue, and the rows that will make them count."""
    folder = Folder.at(facts.catalog)
    saved: list[Row] = []
    for row in table.to_pylist():
        stills: list[Row] = []
        if row["error_code"] is None:
            try:
                stills = [_saved(picture, folder) for picture in row["pictures"]]
            except Exception as error:
                _fail(row, error)
        rejects = still_rejects(row, facts) if row["error_code"] else []
        saved.append({"product_id": row["product_id"], "stills": [] if rejects else stills, "rejects": rejects})
    return pa.Table.from_pylist(saved, schema=SAVED)


def encoded_picture(picture: Row) -> tuple[str, bytes]:
    """Return the file name and the JPEG, with provenance, of a picture of `DRAWN`."""
    still = picture["row"]
    image = np.frombuffer(picture["pixels"], np.uint8).reshape(still["height"], still["width"], 3)
    name = f"{still['scene']}-{still['seed']}.jpg"
    return name, encoded_still(image, name, QUALITY, _provenance(still))


def _saved(picture: Row, folder: Folder) -> Row:
    still: Row = picture["row"]
    place = media_folder("stills", still["product_id"], still["key"])
    name, data = encoded_picture(picture)
    put_files(folder, place, {name: data}, still["product_id"])
    return still | {"file": f"{place}/{name}", "bytes": len(data)}


def _fail(row: Row, error: Exception) -> None:
    row.update(error_columns(error), pictures=[])


def write_stills(table: pa.Table, *, catalog: str, after: datetime | None) -> pa.Table:
    """Commit one part of finished pictures and say what became of each product in each scene."""
    rows = table.to_pylist()
    stills = [still for row in rows for still in row["stills"]]
    rejects = [reject for row in rows for reject in row["rejects"]]
    commit(Folder.at(catalog), {"stills": stills, "rejects": rejects}, after=after)
    return pa.Table.from_pylist([_receipt(row) for row in rows], schema=RECEIPT)


def _receipt(row: Row) -> Row:
    if row["rejects"]:
        told = {name: row["rejects"][0][name] for name in ("product_id", "code", "message")}
        return told | {"outcome": "rejected", "stills": 0}
    passed = any(still["gate"] == "pass" for still in row["stills"])
    return {
        "product_id": row["product_id"],
        "outcome": "passed" if passed else "failed",
        "stills": len(row["stills"]),
    }


def _provenance(told: Mapping[str, Any]) -> Provenance:
    from gapray import __version__

    facts = {"software": f"gapray {__version__}", "backend": told["backend"], "scene": told["scene"]}
    return Provenance(told["product_id"], told["source_type"], facts)


def still_rejects(row: Row, facts: StillFacts) -> list[Row]:
    """Return the rejects of a failed row of `DRAWN`, one per picture: each is current until that picture exists."""
    now = utc_now()
    scene = Scene.model_validate_json(row["scene"])
    return [
        reject_row(
            product_id=row["product_id"],
            source=row["product_key"],
            uri=f"{facts.catalog}#{row['product_id']}",
            code=row["error_code"],
            message=row["error_message"],
            facts=RunFacts(facts.run_id, key, facts.profile.name, {}),
            now=now,
            stage="stills",
            item=f"{scene.name}/{facts.profile.stills.backend}/{seed}",
        )
        for seed, key in zip(row["seeds"], row["keys"], strict=True)
    ]
