"""`gapray score --external`: one foreign video against one product, in this process, with our own video beside it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from gapray.batch.score import score_facts
from gapray.batch.score_stages import ScoreFacts, stamped
from gapray.batch.truth import NAMES_SHOWN, Truth, read_truth
from gapray.capture.azimuths import turned
from gapray.capture.decode import decode_photo
from gapray.capture.discover import DiscoverOptions
from gapray.capture.kinds import described
from gapray.capture.storage import read_bytes
from gapray.catalog.media import media_name
from gapray.catalog.parts import commit
from gapray.catalog.reader import Catalog, open_catalog
from gapray.config import Profile, canonical_hash
from gapray.fidelity.foreign import MAX_ALIGNED_FRAMES, AlignedScores, aligned_scores, refuse_other_product
from gapray.fidelity.lpips import Lpips
from gapray.fidelity.protocol import Protocol
from gapray.fidelity.score import OURS, FrameScore, Verdict, verdict
from gapray.fidelity.shown import NormalizedView, cut_out, known_masks, normalize_view
from gapray.gap.package import GapPackage
from gapray.models.load import load_mask
from gapray.models.mask import MaskModel
from gapray.orbit.weights import KEY_TOLERANCE_DEG
from gapray.video.decode import map_frames, one_turn
from gapray.video.presets import preset_named

STRANGERS = 3
"""Other products that a foreign video is also compared with."""


@dataclass(frozen=True)
class ForeignResult:
    """A foreign video and ours, each with the freedom of alignment."""

    verdicts: list[Verdict]
    notes: list[str]

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        return {"verdicts": [one.as_dict() for one in self.verdicts], "notes": self.notes}


def score_foreign(
    catalog: str | Path,
    video: str | Path,
    *,
    label: str,
    product_id: str,
    profile: Profile,
    truth: str | Path | None = None,
    options: DiscoverOptions = DiscoverOptions(),
) -> ForeignResult:
    """Align a video from elsewhere with a product's photos, score it, and write the scores into the catalogue.

    Args:
        catalog: Folder or fsspec URI.
        video: mp4, webm, gif, webp, or a folder of images.
        label: What reports call it.
        product_id: The product that it shows.
        profile: Mask network, size and net.
        truth: As for `gapray.batch.score.score`; default: the package's own photos.
        options: How names in `truth` become azimuths.

    Raises:
        InputError: `video.unreadable`, `video.too_long`, `video.too_many_pixels`, `score.too_short`, `score.not_this_product`, `capture.no_photos` or
            another `capture.*`: the truth's photos of this product cannot be used.
        CatalogError: `catalog.product_not_found`.
    """
    opened = open_catalog(str(catalog))
    opened.folder.check_writable()
    facts = score_facts(str(catalog), profile)
    package = opened.package(product_id)
    metric = Lpips(profile.fidelity.net)
    network = load_mask(profile.packaging, threads=2)
    laid = _Laid(network, facts)
    photos = laid.package(package)
    given = read_truth(str(truth) if truth is not None else None, options)
    hidden = [] if truth is None else given.of(product_id)
    images = [decode_photo(read_bytes(one["uri"], profile.packaging.decode.max_bytes)) for one in hidden]
    truths = _merged(photos, laid.pictures(images, [one["azimuth_deg"] for one in hidden]))
    side = profile.packaging.decode.reference_side
    clip = map_frames(Path(video), lambda frame: laid.pictures([frame])[0], max_frames=MAX_ALIGNED_FRAMES, side=side)
    mine = aligned_scores(clip, truths, metric)
    products = opened.table("products", columns=["product_id"])["product_id"].to_pylist()
    others = [name for name in products if name != product_id][:STRANGERS]
    strangers = [laid.package(opened.package(name)) for name in others]
    refuse_other_product(mine, [aligned_scores(clip, one, metric) for one in strangers], str(video))
    results = {label: mine}
    ours = _our_frames(opened, product_id)
    if ours is not None:
        results[f"{OURS} (aligned)"] = aligned_scores(laid.pictures(ours), truths, metric)
    video_key = _sha256(Path(video))
    row = {
        "product_id": product_id,
        "product_key": package.key,
        "video_key": video_key,
        "key": canonical_hash([video_key, facts.key(video_key, hidden), label]),
    }
    protocol = Protocol(
        net=metric.net,
        trunk_sha256=metric.backbone.sha256,
        size=profile.fidelity.size,
        mask=facts.mask,
        framing="boxes",
        truth="held-out" if hidden else "given",
        conditions_deg=tuple(view.azimuth_deg for view in package.views),
        source="foreign file",
        aligned=True,
    )
    found = _committed(opened, facts, row, protocol, results, truths, package)
    return replace(found, notes=[*found.notes, *_unused(given, product_id, len(photos) + len(hidden) - len(truths))])


class _Laid:
    """Lays pictures by their product's box."""

    def __init__(self, network: MaskModel, facts: ScoreFacts) -> None:
        self._network, self._profile, self._mask = network, facts.profile, facts.mask

    def pictures(self, images: Sequence[Any], azimuths_deg: Sequence[float] | None = None) -> list[NormalizedView]:
        azimuths = azimuths_deg or [0.0] * len(images)
        cuts = cut_out(images, azimuths, self._network, self._profile.packaging.mask)
        return [normalize_view(cut, self._profile.fidelity.size, framing="boxes") for cut in cuts]

    def package(self, package: GapPackage) -> list[NormalizedView]:
        cuts = cut_out(
            [view.reference for view in package.views],
            [view.azimuth_deg for view in package.views],
            self._network,
            self._profile.packaging.mask,
            within=known_masks(package, self._mask),
        )
        return [normalize_view(cut, self._profile.fidelity.size, framing="boxes") for cut in cuts]


def _merged(photos: Sequence[NormalizedView], hidden: Sequence[NormalizedView]) -> list[NormalizedView]:
    """All true angles, ascending; the package's own photo where both have one."""
    extra = [
        one
        for one in hidden
        if all(abs(turned(one.azimuth_deg, has.azimuth_deg)) > KEY_TOLERANCE_DEG for has in photos)
    ]
    return sorted([*photos, *extra], key=lambda one: one.azimuth_deg)


def _unused(given: Truth, product_id: str, known: int) -> list[str]:
    """What of the truth this score is not made with: files that are no photos, other products, `known` photos of known angles."""
    others = sorted((given.photos.keys() | given.rejects.keys()) - {product_id})
    lines = [f"truth, {described(given.ignored)}"] if given.ignored else []
    if others:
        lines.append(f"truth of other products: {', '.join(others[:NAMES_SHOWN])}{', …' * (len(others) > NAMES_SHOWN)}")
    if known:
        lines.append(f"truth photos not compared: {known} at angles that the package shows")
    return lines


def _our_frames(opened: Catalog, product_id: str) -> list[Any] | None:
    rows = opened.best_videos(product_id).to_pylist()
    if not rows:
        return None
    [row] = rows
    files = {media_name(name): opened.folder.read(name) for name in row["files"]}
    return list(one_turn(files, preset_named(row["preset"]), row["frames"]))


def _sha256(path: Path) -> str:
    files = [path] if path.is_file() else sorted(file for file in path.iterdir() if file.is_file())
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _committed(
    opened: Catalog,
    facts: ScoreFacts,
    row: dict[str, Any],
    protocol: Protocol,
    results: dict[str, AlignedScores],
    truths: Sequence[NormalizedView],
    package: GapPackage,
) -> ForeignResult:
    given = [view.azimuth_deg for view in package.views]
    scores: list[dict[str, Any]] = []
    verdicts: list[dict[str, Any]] = []
    found: list[Verdict] = []
    all_notes: list[str] = []
    shared = stamped(row, protocol, facts.run_id, foreign_video=True)
    for label, result in results.items():
        frames = [_frame_score(label, index, one, result, given) for index, one in enumerate(truths)]
        judged = replace(verdict(label, frames, None), span_deg=result.alignment.span_deg)
        notes = _notes(result, truths)
        found.append(judged)
        all_notes += [f"{label}: {note}" for note in notes]
        scores += [one.as_dict() | shared for one in frames]
        verdicts.append(judged.as_dict() | shared | {"reasons": [], "notes": notes})
    commit(opened.folder, {"scores": scores, "verdicts": verdicts}, after=opened.newest("verdicts"))
    return ForeignResult(found, all_notes)


def _frame_score(
    label: str, index: int, truth: NormalizedView, result: AlignedScores, given: Sequence[float]
) -> FrameScore:
    key = any(abs(turned(truth.azimuth_deg, azimuth)) <= KEY_TOLERANCE_DEG for azimuth in given)
    return FrameScore(
        label=label,
        frame=result.chosen[index],
        azimuth_deg=truth.azimuth_deg,
        kind="key" if key else "in-between",
        lpips=result.lpips[index],
        lpips_native=None,
        psnr=None,
        ssim=None,
        iou=None,
        identity=None,
        product_share=float((np.asarray(truth.mask) >= 128).mean()),
    )


def _notes(result: AlignedScores, truths: Sequence[NormalizedView]) -> list[str]:
    found = result.alignment
    notes = [f"shows {found.span_deg:.0f} of 360 degrees, {'with' if found.direction > 0 else 'against'} the azimuths"]
    if found.unmatched:
        angles = ", ".join(f"{truths[angle].azimuth_deg:g}" for angle in found.unmatched)
        notes.append(f"no frame shows {angles} degrees: counted at the frame that shows the nearest angle")
    if found.violations:
        notes.append(f"{found.violations} frames look most like an angle far from their place in the turn")
    return notes
