"""`gapray score --external`: scores one foreign video against one product, in this process, and gapray's own video like it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from gapray.batch.score import score_facts
from gapray.batch.score_stages import ScoreFacts, shared_columns
from gapray.batch.truth import NAMES_SHOWN, TruthPhotos, read_truth
from gapray.capture.angles import angle_difference
from gapray.capture.decode import decode_photo
from gapray.capture.discover import DiscoverOptions
from gapray.capture.kinds import described
from gapray.capture.storage import read_bytes
from gapray.catalog.media import media_name
from gapray.catalog.parts import commit
from gapray.catalog.reader import Catalog, open_catalog
from gapray.fidelity.foreign import MAX_ALIGNED_FRAMES, AlignedScores, aligned_scores, refuse_other_product
from gapray.fidelity.lpips import Lpips
from gapray.fidelity.protocol import Protocol
from gapray.fidelity.score import OURS, FrameScore, Verdict, verdict
from gapray.fidelity.shown import NormalizedView, cut_out, known_masks, normalize_view
from gapray.gap.package import GapPackage
from gapray.models.load import load_mask
from gapray.models.mask import MaskModel
from gapray.orbit.weights import KEY_TOLERANCE_DEG
from gapray.profile import Profile
from gapray.settings import canonical_hash
from gapray.video.decode import map_frames, one_turn
from gapray.video.presets import preset_named

OTHER_PRODUCTS = 3
"""Number of other products that a foreign video is compared with, to verify that it shows this one."""


@dataclass(frozen=True)
class ForeignResult:
    """Verdicts on a foreign video and on gapray's own, both aligned to the photos in the same way."""

    verdicts: list[Verdict]
    notes: list[str]
    """Remarks on the alignment and on unused truth photos."""

    def as_dict(self) -> dict[str, Any]:
        """Return the verdicts and notes as plain data for ``--json``."""
        return {"verdicts": [verdict.as_dict() for verdict in self.verdicts], "notes": self.notes}


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
    """Align a foreign video with a product's photos, score it, and write the scores into the catalogue.

    Args:
        catalog: Folder or fsspec URI.
        video: mp4, webm, gif, webp, or a folder of images.
        label: Name of the video in reports.
        product_id: The product that it shows.
        profile: Mask network, size of the compared images, and backbone of LPIPS.
        truth: Further photos of the product, as for `gapray.batch.score.score`; the package's own photos are always used.
        options: How file names in `truth` are converted to azimuths.

    Raises:
        InputError: `video.unreadable`, `video.too_long`, `video.too_many_pixels`, `score.too_short`, `score.not_this_product`, or
            `capture.*` if the truth photos of this product cannot be used.
        CatalogError: `catalog.product_not_found`, `catalog.write_failed`.
    """
    opened = open_catalog(str(catalog))
    opened.folder.check_writable()
    facts = score_facts(str(catalog), profile)
    package = opened.package(product_id)
    metric = Lpips(profile.fidelity.net)
    network = load_mask(profile.packaging, threads=2)
    preprocess = _Preprocessor(network, facts)
    photos = preprocess.package(package)
    truth_photos = read_truth(str(truth) if truth is not None else None, options)
    held_out = [] if truth is None else truth_photos.of(product_id)
    images = [decode_photo(read_bytes(photo["uri"], profile.packaging.decode.max_bytes)) for photo in held_out]
    truths = _merged(photos, preprocess.images(images, [photo["azimuth_deg"] for photo in held_out]))
    side = profile.packaging.decode.reference_side
    clip = map_frames(
        Path(video), lambda frame: preprocess.images([frame])[0], max_frames=MAX_ALIGNED_FRAMES, side=side
    )
    foreign_scores = aligned_scores(clip, truths, metric)
    products = opened.table("products", columns=["product_id"])["product_id"].to_pylist()
    other_ids = [name for name in products if name != product_id][:OTHER_PRODUCTS]
    other_products = [preprocess.package(opened.package(name)) for name in other_ids]
    refuse_other_product(foreign_scores, [aligned_scores(clip, other, metric) for other in other_products], str(video))
    results = {label: foreign_scores}
    own_frames = _own_frames(opened, product_id)
    if own_frames is not None:
        results[f"{OURS} (aligned)"] = aligned_scores(preprocess.images(own_frames), truths, metric)
    video_key = _sha256(Path(video))
    row = {
        "product_id": product_id,
        "product_key": package.key,
        "video_key": video_key,
        "key": canonical_hash([video_key, facts.key(video_key, held_out), label]),
    }
    protocol = Protocol(
        net=metric.net,
        trunk_sha256=metric.backbone.sha256,
        size=profile.fidelity.size,
        mask=facts.mask,
        framing="boxes",
        truth="held-out" if held_out else "given",
        conditions_deg=tuple(view.azimuth_deg for view in package.views),
        source="foreign file",
        aligned=True,
    )
    result = _commit_scores(opened, facts, row, protocol, results, truths, package)
    not_compared = len(photos) + len(held_out) - len(truths)
    return replace(result, notes=[*result.notes, *_unused_truth(truth_photos, product_id, not_compared)])


class _Preprocessor:
    """Cuts products out of images and fits them into the compared square by their bounding boxes."""

    def __init__(self, network: MaskModel, facts: ScoreFacts) -> None:
        self._network, self._profile, self._mask = network, facts.profile, facts.mask

    def images(self, images: Sequence[Any], azimuths_deg: Sequence[float] | None = None) -> list[NormalizedView]:
        """Preprocess images, uint8 [H, W, 3] each, with their azimuths [degrees] if they are known."""
        azimuths = azimuths_deg or [0.0] * len(images)
        cuts = cut_out(images, azimuths, self._network, self._profile.packaging.mask)
        return [normalize_view(cut, self._profile.fidelity.size, framing="boxes") for cut in cuts]

    def package(self, package: GapPackage) -> list[NormalizedView]:
        """Preprocess the photos of a package."""
        cuts = cut_out(
            [view.reference for view in package.views],
            [view.azimuth_deg for view in package.views],
            self._network,
            self._profile.packaging.mask,
            within=known_masks(package, self._mask),
        )
        return [normalize_view(cut, self._profile.fidelity.size, framing="boxes") for cut in cuts]


def _merged(photos: Sequence[NormalizedView], held_out: Sequence[NormalizedView]) -> list[NormalizedView]:
    """Merge truth photos by ascending azimuth; at angles that both have, the package's own photo is kept."""
    extra = [
        photo
        for photo in held_out
        if all(abs(angle_difference(photo.azimuth_deg, own.azimuth_deg)) > KEY_TOLERANCE_DEG for own in photos)
    ]
    return sorted([*photos, *extra], key=lambda photo: photo.azimuth_deg)


def _unused_truth(truth: TruthPhotos, product_id: str, not_compared: int) -> list[str]:
    """Return lines about unused truth: files that are no photos, other products, and photos at angles of the package's own."""
    others = sorted((truth.photos.keys() | truth.rejects.keys()) - {product_id})
    lines = [f"truth, {described(truth.ignored)}"] if truth.ignored else []
    if others:
        lines.append(f"truth of other products: {', '.join(others[:NAMES_SHOWN])}{', …' * (len(others) > NAMES_SHOWN)}")
    if not_compared:
        lines.append(f"truth photos not compared: {not_compared} at angles that the package shows")
    return lines


def _own_frames(opened: Catalog, product_id: str) -> list[Any] | None:
    """Return the frames of gapray's best video of a product, uint8 [S, S, 3] each; None if there is no video."""
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


def _commit_scores(
    opened: Catalog,
    facts: ScoreFacts,
    row: dict[str, Any],
    protocol: Protocol,
    results: dict[str, AlignedScores],
    truths: Sequence[NormalizedView],
    package: GapPackage,
) -> ForeignResult:
    captured_deg = [view.azimuth_deg for view in package.views]
    score_rows: list[dict[str, Any]] = []
    verdict_rows: list[dict[str, Any]] = []
    verdicts: list[Verdict] = []
    all_notes: list[str] = []
    shared = shared_columns(row, protocol, facts.run_id, foreign_video=True)
    for label, result in results.items():
        scores = [_frame_score(label, index, truth, result, captured_deg) for index, truth in enumerate(truths)]
        judged = replace(verdict(label, scores, None), span_deg=result.alignment.span_deg)
        notes = _notes(result, truths)
        verdicts.append(judged)
        all_notes += [f"{label}: {note}" for note in notes]
        score_rows += [score.as_dict() | shared for score in scores]
        verdict_rows.append(judged.as_dict() | shared | {"reasons": [], "notes": notes})
    commit(opened.folder, {"scores": score_rows, "verdicts": verdict_rows}, after=opened.newest("verdicts"))
    return ForeignResult(verdicts, all_notes)


def _frame_score(
    label: str, index: int, truth: NormalizedView, result: AlignedScores, captured_deg: Sequence[float]
) -> FrameScore:
    key = any(abs(angle_difference(truth.azimuth_deg, azimuth)) <= KEY_TOLERANCE_DEG for azimuth in captured_deg)
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
    alignment = result.alignment
    direction = "with" if alignment.direction > 0 else "against"
    notes = [f"shows {alignment.span_deg:.0f} of 360 degrees, {direction} the azimuths"]
    if alignment.unmatched:
        angles = ", ".join(f"{truths[index].azimuth_deg:g}" for index in alignment.unmatched)
        notes.append(f"no frame shows {angles} degrees: counted at the frame that shows the nearest angle")
    if alignment.violations:
        notes.append(f"{alignment.violations} frames look most like an angle far from their place in the turn")
    return notes
