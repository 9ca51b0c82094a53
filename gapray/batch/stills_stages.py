"""The stages of `gapray stills`, as callables for ``map_batches(batch_format="pyarrow", batch_size=1)``."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import pyarrow as pa

from gapray.batch.render_stages import PACKAGE, put_files
from gapray.batch.resources import GpuShare, settle
from gapray.batch.rows import Row
from gapray.batch.trace import ended, model_load, traced
from gapray.catalog.media import media_folder
from gapray.catalog.parts import commit
from gapray.catalog.reader import Catalog, package_of_rows
from gapray.catalog.rows import RunFacts, reject_row, utc_now
from gapray.catalog.schemas import REJECTS, STILLS
from gapray.catalog.storage import Folder
from gapray.config import Profile, canonical_hash
from gapray.errors import as_gapray_error
from gapray.fidelity.same_product import Likeness, failings, load_judge
from gapray.models.cards import card_named
from gapray.models.load import require
from gapray.stills.load import load_still_backend, still_cards
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
DRAWN = pa.schema(
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
        """GPU memory that the backend's cards ask for together; None = no network at all."""
        cards = still_cards(self.profile.stills)
        return sum(card.vram_gb or 0.0 for card in map(card_named, cards)) if cards else None


class DrawStills:
    """Draws, judges and saves. One backend and one judge an actor, loaded once."""

    def __init__(
        self, *, facts: StillFacts, gpu: GpuShare | None, threads: int, backend: StillBackend | None = None
    ) -> None:
        self._facts, self.gpu = facts, gpu
        device = settle(gpu, threads)
        profile = facts.profile
        with model_load("stills.draw"):
            if backend is None:
                require(*facts.models)
            self._backend = backend or load_still_backend(profile.stills, device=device)
            self._judge = load_judge(profile.packaging, device=device, threads=threads)
        self._folder = Folder.at(facts.catalog)

    @traced("stills.draw")
    def __call__(self, table: pa.Table) -> pa.Table:
        """See the class."""
        done: list[Row] = []
        for row in table.to_pylist():
            stills: list[Row] = []
            rejects: list[Row] = []
            try:
                stills = self._drawn(row)
            except Exception as error:
                rejects = _rejects(row, error, self._facts)
            done.append({"product_id": row["product_id"], "stills": stills, "rejects": rejects})
        return pa.Table.from_pylist(done, schema=DRAWN)

    def _drawn(self, row: Row) -> list[Row]:
        started = time.monotonic()
        rows = Catalog(self._folder).views_of(row["product_id"], row["product_key"], row["part"])
        package = package_of_rows(row["product"], rows)
        scene = Scene.model_validate_json(row["scene"])
        settings = self._facts.profile.stills
        view = best_view(package, settings.azimuth_deg)
        stills = self._backend.generate(package, view, scene, settings, seeds=row["seeds"])
        judged = self._judge.of_pictures(package, [(one.image, one.placed) for one in stills], view.azimuth_deg)
        found = [
            self._row(row, scene, still, seed, key, likeness, view.azimuth_deg)
            for still, seed, key, likeness in zip(stills, row["seeds"], row["keys"], judged, strict=True)
        ]
        each = (time.monotonic() - started) / len(found)
        return [one | {"seconds": each} for one in found]

    def _row(
        self, row: Row, scene: Scene, still: Still, seed: int, key: str, likeness: Likeness, azimuth_deg: float
    ) -> Row:
        settings = self._facts.profile.stills
        numbers = {name: value for name, value in likeness.as_dict().items() if name != "azimuth_deg"}
        reasons = failings(likeness.reasons, likeness.same_percentile, settings.min_same)
        told = {
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
            "pasted": still.pasted,
            "source_type": source_type(self._backend, still),
            "licence": self._backend.licence,
            "models": self._facts.models,
            "profile": self._facts.profile.name,
            **numbers,
            "gate": "fail" if reasons else "pass",
            "reasons": reasons,
            "seconds": 0.0,
            "run_id": self._facts.run_id,
            "created_at": utc_now(),
        }
        place, name = media_folder("stills", row["product_id"], key), f"{scene.name}-{seed}.jpg"
        data = encoded_still(still.image, name, QUALITY, _provenance(told))
        put_files(self._folder, place, {name: data}, row["product_id"])
        return told | {"file": f"{place}/{name}", "bytes": len(data)}


@ended("stills")
@traced("stills.write")
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


def _rejects(row: Row, error: Exception, facts: StillFacts) -> list[Row]:
    """One a picture: each is current until that very picture is there."""
    known, now = as_gapray_error(error), utc_now()
    scene = Scene.model_validate_json(row["scene"])
    return [
        reject_row(
            product_id=row["product_id"],
            source=row["product_key"],
            uri=f"{facts.catalog}#{row['product_id']}",
            code=known.code,
            message=known.message,
            facts=RunFacts(facts.run_id, key, facts.profile.name, {}),
            now=now,
            stage="stills",
            item=f"{scene.name}/{facts.profile.stills.backend}/{seed}",
        )
        for seed, key in zip(row["seeds"], row["keys"], strict=True)
    ]
