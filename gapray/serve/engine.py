"""Three of the four workers behind the server, as plain classes: no Ray, no HTTP. `deployments` puts each into replicas.

photos -> Packager.package -> Generator.draw -> Packager.encode -> Packager.compare -> Scorer.judge
                           -> Stylist.style (`stylist`)
"""

from __future__ import annotations

import io
import logging
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gapray.capture.azimuths import AzimuthOptions, AzimuthsBy
from gapray.capture.capture_set import CaptureSet
from gapray.capture.kinds import described
from gapray.config import Profile
from gapray.errors import GaprayError, as_gapray_error
from gapray.fidelity.comparison import Comparison, LeftOutFrame, compare, judge_comparison, judge_comparisons
from gapray.fidelity.foreign import MAX_ALIGNED_FRAMES, aligned_scores, dissimilar_products, refuse_other_product
from gapray.fidelity.left_out import draw_left_out
from gapray.fidelity.lpips import Lpips
from gapray.fidelity.protocol import Protocol
from gapray.fidelity.score import FrameScore, Verdict
from gapray.fidelity.shown import NormalizedView, cut_out, normalize_view
from gapray.gap import folder as gap_folder
from gapray.gap.package import GapPackage
from gapray.inspect.doubts import looked_over
from gapray.models.load import best_device, load_identity
from gapray.orbit.conditions import build_conditions
from gapray.packaging.build import PackagingModels, build_package, model_names
from gapray.resample import at_most
from gapray.serve.artifacts import Artifacts, content_type
from gapray.serve.jobs import Job, Making
from gapray.serve.making import SPRITE_COLUMNS, length_of, preset_for, preview_name, profile_for
from gapray.serve.scratch import scratch
from gapray.serve.settings import ServeSettings
from gapray.serve.strangers import strangers
from gapray.serve.uploads import arrived, at_url, opened, sent_in_manifest
from gapray.serve.urls import fetch, fetch_json
from gapray.video.decode import map_frames
from gapray.video.encode import export
from gapray.video.load import load_backend, video_revisions
from gapray.video.provenance import Provenance

log = logging.getLogger("gapray.serve")
PREVIEW_SIDE = 240


@dataclass(frozen=True)
class Turn:
    """A drawn orbit, and what is known of it."""

    frames: NDArray[np.uint8]
    """[F, S, S, 3]."""
    azimuths_deg: tuple[float, ...]
    key_frames: tuple[int, ...]
    left_out: tuple[LeftOutFrame, ...]
    """Views drawn from the others, to be scored."""
    calibration: dict[str, Any]
    warnings: tuple[str, ...]
    backend: str
    source_type: str
    licence: str
    models: tuple[str, ...]
    """``name@revision`` of the weights that drew it."""


@dataclass(frozen=True)
class Laid:
    """A client's video and photos in one form."""

    clip: list[NormalizedView]
    """The video's frames."""
    photos: list[NormalizedView]
    """By azimuth."""
    others: list[list[NormalizedView]]
    """Photos of other products."""
    warnings: tuple[str, ...]
    """What is wrong with the photos, and what came beside them and was not used."""
    azimuths_by: AzimuthsBy | None


class Packager:
    """Photos -> package, frames -> files, and both sides of a comparison cut out by the same network.

    Args:
        settings: Of the server.
        device: ``cpu`` or ``cuda``; default: a GPU when there is one.
        holds: As `Artifacts.holds`.
    """

    def __init__(
        self, settings: ServeSettings, *, device: str | None = None, holds: Callable[[str, int], bool] | None = None
    ) -> None:
        self._settings = settings
        self._profile = settings.loaded_profile()
        self._artifacts = Artifacts.at(str(settings.artifacts), holds)
        self._device = device or best_device()
        self._models = PackagingModels.load(
            self._profile.packaging, device=self._device, threads=settings.packager.threads
        )

    def warm_up(self) -> None:
        """One grey photo through the mask network, so that the first request does not wait for it."""
        self._models.mask.predict([np.full((64, 64, 3), 200, np.uint8)])

    def package(self, job: Job) -> GapPackage:
        """Fetch what has to be fetched, and package it; each view can be looked at as it comes.

        Raises:
            InputError: `url.*`, `request.*`, `capture.*`, `image.*` or `mask.*`; `job.no_such_file` for a finished package
                that is there no more.
        """
        if job.input.package is not None:
            with scratch() as folder:
                zipfile.ZipFile(io.BytesIO(self._artifacts.get(job.input.package))).extractall(folder)
                return looked_over(gap_folder.read(folder))
        with scratch() as folder:
            capture, ignored = self._opened(job, folder)
            package = build_package(
                capture,
                self._models,
                self._profile.packaging,
                on_mask=lambda azimuth, photo, mask: self._preview(job, azimuth, photo, mask),
            )
        for view in package.views:
            depth = (view.depth >> 8).astype(np.uint8)
            self._artifacts.put(preview_name(job, view.azimuth_deg, "depth"), _thumbnail(depth))
        return replace(looked_over(package), remarks=(described(ignored),) if ignored else ())

    def _opened(self, job: Job, folder: Path) -> tuple[CaptureSet, dict[str, int]]:
        """A job's photos, and what lay beside them where they were fetched."""
        data, by, ignored = self._capture(job)
        # The table in the zip is ours; it says where the photos stand, not how that was known.
        return replace(opened(data, folder, job.making.product_id), azimuths_by=by), ignored

    def _capture(self, job: Job) -> tuple[bytes, AzimuthsBy | None, dict[str, int]]:
        """The zip of a job's photos, how their azimuths were known, and what lay beside photos that are fetched now."""
        given = job.input
        if given.capture is not None:
            return self._artifacts.get(given.capture), given.azimuths_by, {}
        rules = self._settings.urls
        if given.manifest_url is not None:
            sent = sent_in_manifest(
                fetch_json(given.manifest_url, rules, most_values=self._settings.limits.json_values)
            )
        else:
            sent = [at_url(photo) for photo in given.photos]
        found = arrived(
            sent,
            azimuths=None,
            options=given.reading or AzimuthOptions(allow_missing=given.manifest_url is None),
            limits=self._settings.limits,
            decode=self._profile.packaging.decode,
            fetch=lambda url, left: fetch(url, rules, left=left),
            turn=job.kind != "image",
        )
        assert found.capture is not None
        return found.capture, given.azimuths_by or found.azimuths_by, found.ignored

    def _preview(self, job: Job, azimuth: float, photo: NDArray[np.uint8], mask: NDArray[np.uint8]) -> None:
        cut = np.where(mask[..., None] >= 128, photo, 255).astype(np.uint8)
        self._artifacts.put(preview_name(job, azimuth, "photo"), _thumbnail(photo))
        self._artifacts.put(preview_name(job, azimuth, "mask"), _thumbnail(cut))

    def store_package(self, job: Job, package: GapPackage) -> dict[str, Any]:
        """The package as a zip of a GAP folder; returns the job's result."""
        with scratch() as place:
            gap_folder.write(package, place)
            sink = io.BytesIO()
            with zipfile.ZipFile(sink, "w", zipfile.ZIP_STORED) as archive:
                for path in sorted(place.rglob("*")):
                    if path.is_file():
                        archive.write(path, path.relative_to(place))
        return {
            "files": self._stored(job, {"package.zip": sink.getvalue()}),
            "azimuths_by": package.azimuths_by,
            "warnings": list(package.told),
            "package": {
                "product_id": package.product_id,
                "key": package.key,
                "models": dict(package.models),
                "depth_scale": package.depth_scale,
                "depth_shift": package.depth_shift,
                "azimuths_by": package.azimuths_by,
                "views": [
                    {
                        "azimuth_deg": view.azimuth_deg,
                        "sha256": view.sha256,
                        "size": [view.mask.shape[1], view.mask.shape[0]],
                        "identity": [round(float(value), 6) for value in view.identity],
                        "quality": asdict(view.quality),
                    }
                    for view in package.views
                ],
            },
        }

    def encode(self, job: Job, package: GapPackage, turn: Turn) -> dict[str, Any]:
        """Frames -> files in the artifact store; returns the job's result without scores.

        Raises:
            ServeError: `artifacts.failed`.
        """
        profile = profile_for(job.making, self._profile)
        provenance = _provenance(job, package, turn, profile)
        preset = preset_for(job.making, len(turn.frames))
        files = export(turn.frames, preset, provenance, background=profile.orbit.background_rgb)
        video = preset.files[0]
        width, height = video.size or (turn.frames.shape[2], turn.frames.shape[1])
        return {
            "files": self._stored(job, files),
            "azimuths_by": package.azimuths_by,
            "video": {
                "name": video.name,
                "frames": len(turn.frames),
                "fps": video.fps,
                "seconds": length_of(job.making, len(turn.frames))[0],
                "width": width,
                "height": height,
                "azimuths_deg": list(turn.azimuths_deg),
                "key_frames": list(turn.key_frames),
                "sprite_columns": SPRITE_COLUMNS,
                "backend": turn.backend,
                "source_type": turn.source_type,
                "licence": turn.licence,
            },
            "calibration": turn.calibration,
            "warnings": [*turn.warnings, *package.told],
        }

    def compare(self, job: Job, package: GapPackage, turn: Turn) -> Comparison:
        """Cut photos and frames out alike.

        Raises:
            InputError: `score.no_truth`.
        """
        profile = profile_for(job.making, self._profile)
        return compare(
            package,
            turn.frames,
            turn.azimuths_deg,
            self._models.mask,
            drawn=turn.left_out,
            orbit=profile.orbit,
            mask=profile.packaging.mask,
            settings=profile.fidelity,
            mask_model=model_names(profile.packaging, self._models.revisions)["mask"],
            shifted=bool(turn.calibration["shifted"]),
        )

    def laid(self, job: Job) -> Laid:
        """A client's video and photos in one form, for a score of a foreign video.

        Raises:
            InputError: `video.unreadable`, `video.too_long`, `video.too_many_pixels`, `capture.*`, `image.*`.
        """
        size = self._profile.fidelity.size
        with scratch() as place:
            capture, ignored = self._opened(job, place)
            package = looked_over(build_package(capture, self._models, self._profile.packaging))
            told = (*package.told, *([described(ignored)] if ignored else []))
            path = place / "video"
            path.write_bytes(self._artifacts.get(str(job.input.video)))
            # Each frame is cut out as it is decoded: as large as it was filmed, no two are held.
            clip = map_frames(
                path,
                lambda frame: self._boxed([frame], [0.0])[0],
                max_frames=MAX_ALIGNED_FRAMES,
                side=self._profile.packaging.decode.reference_side,
            )
        cut_views = cut_out(
            [view.reference for view in package.views],
            [view.azimuth_deg for view in package.views],
            self._models.mask,
            self._profile.packaging.mask,
            within=[view.mask for view in package.views],
        )
        photos = [normalize_view(cut, size, framing="boxes") for cut in cut_views]
        return Laid(clip, photos, self._strangers, told, package.azimuths_by)

    @cached_property
    def _strangers(self) -> list[list[NormalizedView]]:
        """Cut out when the first foreign video comes."""
        return [self._boxed(one.photos, one.azimuths_deg) for one in strangers()]

    def _boxed(self, images: Sequence[NDArray[np.uint8]], azimuths_deg: Sequence[float]) -> list[NormalizedView]:
        cuts = cut_out(images, azimuths_deg, self._models.mask, self._profile.packaging.mask)
        return [normalize_view(cut, self._profile.fidelity.size, framing="boxes") for cut in cuts]

    def _stored(self, job: Job, files: Mapping[str, bytes]) -> dict[str, Any]:
        for name, data in files.items():
            self._artifacts.put(f"{job.folder}/{name}", data)
        return {name: {"bytes": len(data), "type": content_type(name)} for name, data in files.items()}


class Generator:
    """Package -> frames. Holds the video model."""

    def __init__(self, settings: ServeSettings, *, device: str | None = None) -> None:
        import cv2

        self._profile = settings.loaded_profile()
        self._device = device or best_device()
        self._threads = settings.generator.threads
        cv2.setNumThreads(self._threads)
        self._backend = load_backend(self._profile.video, device=self._device)
        revisions = video_revisions(self._profile.video, self._profile.orbit)
        self._models = tuple(f"{name}@{revision[:12]}" for name, revision in sorted(revisions.items()))

    def warm_up(self) -> None:
        """A small turn of a drawn object, so that the first request does not pay for compilation and allocation."""
        from gapray.serve.null import toy_package

        small = self._profile.orbit.model_copy(update={"frames": min(4, self._profile.orbit.frames), "voxels": 32})
        if self._backend.capabilities.independent:
            small = small.model_copy(update={"size": 64})
        else:
            small = small.model_copy(update={"frames": self._profile.orbit.frames})
        package = toy_package()
        conditions = build_conditions(package, small, device=self._device)
        self._backend.generate(package, conditions, self._profile.video)

    def draw(self, making: Making, package: GapPackage) -> Turn:
        """Draw the orbit, and some views without their own photos when a score is wanted.

        Raises:
            InputError: `orbit.*`, `mask.*` or `video.unsupported`.
            ModelError: `model.failed` or `model.out_of_memory`.
        """
        use_threads(self._threads)
        profile = profile_for(making, self._profile)
        conditions = build_conditions(package, profile.orbit, device=self._device)
        frames = self._backend.generate(package, conditions, profile.video, seed=making.seed)
        left_out: Sequence[LeftOutFrame] = ()
        if making.score and len(package.views) > 3:
            left_out = draw_left_out(
                package,
                self._backend,
                profile.orbit,
                profile.video,
                engine=conditions.calibration.engine,
                views=profile.fidelity.leave_out,
                seed=making.seed,
                device=self._device,
            )
        able = self._backend.capabilities
        return Turn(
            frames=frames,
            azimuths_deg=conditions.azimuths_deg,
            key_frames=conditions.key_frames,
            left_out=tuple(left_out),
            calibration=asdict(conditions.calibration),
            warnings=conditions.warnings,
            backend=able.name,
            source_type=able.source_type,
            licence=able.licence,
            models=self._models,
        )


class Scorer:
    """Comparisons -> LPIPS by angle, verdicts."""

    def __init__(self, settings: ServeSettings, *, device: str | None = None) -> None:
        profile = settings.loaded_profile()
        self._settings = profile.fidelity
        self._mask = profile.packaging.mask.model
        chosen = device or best_device()
        self._threads = settings.scorer.threads
        self._metric = Lpips(profile.fidelity.net, device=chosen)
        self._identity = load_identity(profile.packaging, device=chosen, batch=32)

    def warm_up(self) -> None:
        """One pair."""
        grey = np.full((1, 64, 64, 3), 128, np.uint8)
        self._metric.distance(grey, grey)

    def judge(self, comparison: Comparison) -> dict[str, Any]:
        """One video's scores: by angle, in the mean, and those of the baselines at the same angles."""
        use_threads(self._threads)
        return self._told(comparison, *judge_comparison(comparison, self._metric, self._identity, self._settings))

    def judge_together(self, comparisons: Sequence[Comparison]) -> list[dict[str, Any] | GaprayError]:
        """`judge` of several videos, whose pictures go through the networks together; a video that fails, fails alone."""
        use_threads(self._threads)
        try:
            found = judge_comparisons(comparisons, self._metric, self._identity, self._settings)
            return [self._told(one, *its) for one, its in zip(comparisons, found, strict=True)]
        except Exception as error:
            log.exception("%d comparisons failed together", len(comparisons))
            if len(comparisons) == 1:
                return [as_gapray_error(error)]
            return [result for one in comparisons for result in self.judge_together([one])]

    def _told(
        self, comparison: Comparison, scores: Sequence[FrameScore], verdicts: Sequence[Verdict]
    ) -> dict[str, Any]:
        ours = verdicts[0]
        return {
            "lpips": ours.lpips,
            "worst_lpips": ours.worst_lpips,
            "key_lpips": ours.key_lpips,
            "iou": ours.iou,
            "flicker": ours.flicker,
            "loop_gap": ours.loop_gap,
            "span_deg": ours.span_deg,
            "gate": ours.gate,
            "reasons": list(ours.reasons),
            "angles": [
                {
                    "azimuth_deg": one.azimuth_deg,
                    "kind": one.kind,
                    "lpips": one.lpips,
                    "iou": one.iou,
                    "frame": one.frame,
                }
                for one in scores
                if one.label == ours.label
            ],
            "baselines": {one.label: one.lpips for one in verdicts[1:]},
            "protocol": self._protocol(comparison.framing, comparison.truth, aligned=False),
        }

    def judge_foreign(
        self,
        clip: Sequence[NormalizedView],
        photos: Sequence[NormalizedView],
        others: Sequence[Sequence[NormalizedView]] = (),
    ) -> dict[str, Any]:
        """A video from elsewhere, laid along the photos.

        Args:
            clip: Frames of the video.
            photos: Of the product that it is said to show.
            others: Photos of other products each: a video that fits one of them about as well is not of this product.

        Raises:
            InputError: `score.too_short` or `score.not_this_product`.
        """
        use_threads(self._threads)
        found = aligned_scores(clip, photos, self._metric)
        nulls = [
            aligned_scores(clip, other, self._metric) for other in dissimilar_products(photos, others, self._metric)
        ]
        refuse_other_product(found, nulls, "the video")
        angles = [
            {"azimuth_deg": photo.azimuth_deg, "lpips": value} for photo, value in zip(photos, found.lpips, strict=True)
        ]
        return {
            "lpips": found.mean,
            "span_deg": found.alignment.span_deg,
            "angles": angles,
            "protocol": self._protocol("boxes", "given", aligned=True),
        }

    def _protocol(self, framing: Any, truth: Any, *, aligned: bool) -> dict[str, Any]:
        return Protocol(
            net=self._metric.net,
            trunk_sha256=self._metric.backbone.sha256,
            size=self._settings.size,
            mask=self._mask,
            framing=framing,
            truth=truth,
            conditions_deg=(),
            source="delivered file" if aligned else "frames before encoding",
            aligned=aligned,
        ).as_dict()


def use_threads(count: int) -> None:
    """CPU threads of torch in the calling thread: OpenMP keeps the number a thread, and Ray starts processes with one."""
    import torch

    torch.set_num_threads(count)


def _thumbnail(image: NDArray[np.uint8]) -> bytes:
    sink = io.BytesIO()
    Image.fromarray(at_most(image, PREVIEW_SIDE)).save(sink, "JPEG", quality=85)
    return sink.getvalue()


def _provenance(job: Job, package: GapPackage, turn: Turn, profile: Profile) -> Provenance:
    from gapray import __version__

    return Provenance(
        product_id=package.product_id,
        source_type=turn.source_type,
        facts={
            "software": f"gapray {__version__}",
            "backend": turn.backend,
            "models": list(turn.models),
            "licence": turn.licence,
            "seed": job.making.seed,
            "profile": profile.name,
            "settings": {
                "orbit": profile.orbit.model_dump(),
                "video": profile.video.model_dump(include={"backend", profile.video.backend}),
            },
            "job": job.id,
            "product_key": package.key,
            "photos": [{"azimuth_deg": view.azimuth_deg, "sha256": view.sha256} for view in package.views],
            "azimuths_by": package.azimuths_by,
            "azimuths_deg": list(turn.azimuths_deg),
            "key_frames": list(turn.key_frames),
            "calibration": turn.calibration,
            "warnings": [*turn.warnings, *(warning.message for warning in package.warnings or ())],
        },
    )
