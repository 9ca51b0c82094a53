"""The packager: fetches and packages photos, encodes videos, and prepares comparisons."""

from __future__ import annotations

import io
import zipfile
from collections import Counter
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
from gapray.fidelity.comparison import Comparison, compare
from gapray.fidelity.foreign import MAX_ALIGNED_FRAMES
from gapray.fidelity.shown import NormalizedView, cut_out, normalize_view
from gapray.gap import folder as gap_folder
from gapray.gap.package import GapPackage
from gapray.inspect.doubts import with_warnings
from gapray.models.load import best_device
from gapray.packaging.build import PackagingModels, build_package, model_names
from gapray.profile import Profile
from gapray.resample import at_most
from gapray.serve.artifacts import Artifacts, content_type
from gapray.serve.generator import RenderedTurn
from gapray.serve.incoming import MAX_IGNORED, photo_at_url, photos_in_manifest
from gapray.serve.jobs import Job
from gapray.serve.making import SPRITE_COLUMNS, preset_for, preview_name, profile_for, video_length
from gapray.serve.scratch import scratch
from gapray.serve.settings import ServeSettings
from gapray.serve.strangers import sample_products
from gapray.serve.uploads import open_capture, prepare_upload
from gapray.serve.urls import fetch, fetch_json
from gapray.video.decode import map_frames
from gapray.video.encode import export
from gapray.video.provenance import Provenance

PREVIEW_SIDE = 240
"""Longer side of a preview image [pixels]."""


@dataclass(frozen=True)
class ForeignInputs:
    """A client's video and photos, cut out and normalised for comparison."""

    clip: list[NormalizedView]
    """Frames of the video."""
    photos: list[NormalizedView]
    """Photos of the product, sorted by azimuth."""
    others: list[list[NormalizedView]]
    """Photos of other products, one list per product."""
    warnings: tuple[str, ...]
    """Problems with the photos, and files that came with them but were not used."""
    azimuths_by: AzimuthsBy | None
    """How the azimuths of the photos were determined."""


class Packager:
    """Packages photos, encodes frames, and cuts out both sides of a comparison with the same mask network.

    Args:
        settings: The server's settings.
        device: ``cpu`` or ``cuda``. Defaults to a GPU if there is one.
        is_current: Whether an attempt still owns its job; see `Artifacts.is_current`.
    """

    def __init__(
        self,
        settings: ServeSettings,
        *,
        device: str | None = None,
        is_current: Callable[[str, int], bool] | None = None,
    ) -> None:
        self._settings = settings
        self._profile = settings.loaded_profile()
        self._artifacts = Artifacts.at(str(settings.artifacts), is_current)
        self._device = device or best_device()
        self._models = PackagingModels.load(
            self._profile.packaging, device=self._device, threads=settings.packager.threads
        )

    def warm_up(self) -> None:
        """Run the mask network on a grey image, so that the first request does not pay for its start-up."""
        self._models.mask.predict([np.full((64, 64, 3), 200, np.uint8)])

    def package(self, job: Job) -> GapPackage:
        """Fetch a job's photos if necessary and package them; previews of each view are stored as it is processed.

        Raises:
            InputError: `url.*`, `request.*`, `capture.*`, `image.*` or `mask.*`; `job.no_such_file` for a finished package
                that no longer exists.
        """
        if job.input.package is not None:
            with scratch() as folder:
                zipfile.ZipFile(io.BytesIO(self._artifacts.get(job.input.package))).extractall(folder)
                return with_warnings(gap_folder.read(folder))
        with scratch() as folder:
            capture, ignored = self._open_capture(job, folder)
            package = build_package(
                capture,
                self._models,
                self._profile.packaging,
                on_mask=lambda azimuth, photo, mask: self._preview(job, azimuth, photo, mask),
            )
        for view in package.views:
            depth = (view.depth >> 8).astype(np.uint8)
            self._artifacts.put(preview_name(job, view.azimuth_deg, "depth"), _thumbnail(depth))
        return replace(with_warnings(package), remarks=(described(ignored),) if ignored else ())

    def _open_capture(self, job: Job, folder: Path) -> tuple[CaptureSet, dict[str, int]]:
        """Return a job's photos, and the numbers of other files found with photos that were fetched, by kind."""
        data, by, ignored = self._capture(job)
        # The zip's capture.csv was written by the server: it gives the azimuths, not how they were determined.
        return replace(open_capture(data, folder, job.making.product_id), azimuths_by=by), ignored

    def _capture(self, job: Job) -> tuple[bytes, AzimuthsBy | None, dict[str, int]]:
        """Return the zip of a job's photos, how their azimuths were determined, and the files ignored while fetching."""
        inputs = job.input
        if inputs.capture is not None:
            return self._artifacts.get(inputs.capture), inputs.azimuths_by, {}
        rules = self._settings.urls
        if inputs.manifest_url is not None:
            photos = photos_in_manifest(
                fetch_json(inputs.manifest_url, rules, max_values=self._settings.limits.json_values)
            )
        else:
            photos = [photo_at_url(source) for source in inputs.photos]
        upload = prepare_upload(
            photos,
            azimuths=None,
            options=inputs.reading or AzimuthOptions(allow_missing=inputs.manifest_url is None),
            limits=self._settings.limits,
            decode=self._profile.packaging.decode,
            fetch=lambda url, left: fetch(url, rules, left=left),
            turn=job.kind != "image",
        )
        assert upload.capture is not None
        members = Counter(name for photo in photos for name in photo.ignored)
        return (
            upload.capture,
            inputs.azimuths_by or upload.azimuths_by,
            upload.ignored | dict(members.most_common(MAX_IGNORED)),
        )

    def _preview(self, job: Job, azimuth: float, photo: NDArray[np.uint8], mask: NDArray[np.uint8]) -> None:
        cut = np.where(mask[..., None] >= 128, photo, 255).astype(np.uint8)
        self._artifacts.put(preview_name(job, azimuth, "photo"), _thumbnail(photo))
        self._artifacts.put(preview_name(job, azimuth, "mask"), _thumbnail(cut))

    def store_package(self, job: Job, package: GapPackage) -> dict[str, Any]:
        """Store the package as a zip of a GAP folder, and return the job's result."""
        with scratch() as folder:
            gap_folder.write(package, folder)
            sink = io.BytesIO()
            with zipfile.ZipFile(sink, "w", zipfile.ZIP_STORED) as archive:
                for path in sorted(folder.rglob("*")):
                    if path.is_file():
                        archive.write(path, path.relative_to(folder))
        return {
            "files": self._store(job, {"package.zip": sink.getvalue()}),
            "azimuths_by": package.azimuths_by,
            "warnings": list(package.messages),
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

    def encode(self, job: Job, package: GapPackage, turn: RenderedTurn) -> dict[str, Any]:
        """Encode the frames, store the files, and return the job's result without scores.

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
            "files": self._store(job, files),
            "azimuths_by": package.azimuths_by,
            "video": {
                "name": video.name,
                "frames": len(turn.frames),
                "fps": video.fps,
                "seconds": video_length(job.making, len(turn.frames))[0],
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
            "warnings": [*turn.warnings, *package.messages],
        }

    def compare(self, job: Job, package: GapPackage, turn: RenderedTurn) -> Comparison:
        """Cut out photos and frames in the same way, for comparison.

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

    def prepare_foreign(self, job: Job) -> ForeignInputs:
        """Cut out and normalise a client's video and photos, to score a video that gapray did not make.

        Raises:
            InputError: `video.unreadable`, `video.too_long`, `video.too_many_pixels`, `capture.*`, `image.*`.
        """
        size = self._profile.fidelity.size
        with scratch() as folder:
            capture, ignored = self._open_capture(job, folder)
            package = with_warnings(build_package(capture, self._models, self._profile.packaging))
            warnings = (*package.messages, *([described(ignored)] if ignored else []))
            path = folder / "video"
            path.write_bytes(self._artifacts.get(str(job.input.video)))
            # Frames are cut out while decoding, so that only one is held in memory at full resolution.
            clip = map_frames(
                path,
                lambda frame: self._cut_boxes([frame], [0.0])[0],
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
        return ForeignInputs(clip, photos, self._other_products, warnings, package.azimuths_by)

    @cached_property
    def _other_products(self) -> list[list[NormalizedView]]:
        """The sample products' photos, cut out when the first foreign video arrives."""
        return [self._cut_boxes(product.photos, product.azimuths_deg) for product in sample_products()]

    def _cut_boxes(self, images: Sequence[NDArray[np.uint8]], azimuths_deg: Sequence[float]) -> list[NormalizedView]:
        """Cut out images and frame each one by its bounding box."""
        cuts = cut_out(images, azimuths_deg, self._models.mask, self._profile.packaging.mask)
        return [normalize_view(cut, self._profile.fidelity.size, framing="boxes") for cut in cuts]

    def _store(self, job: Job, files: Mapping[str, bytes]) -> dict[str, Any]:
        """Store a job's result files, and return the size and content type of each by name."""
        for name, data in files.items():
            self._artifacts.put(f"{job.folder}/{name}", data)
        return {name: {"bytes": len(data), "type": content_type(name)} for name, data in files.items()}


def _thumbnail(image: NDArray[np.uint8]) -> bytes:
    sink = io.BytesIO()
    Image.fromarray(at_most(image, PREVIEW_SIDE)).save(sink, "JPEG", quality=85)
    return sink.getvalue()


def _provenance(job: Job, package: GapPackage, turn: RenderedTurn, profile: Profile) -> Provenance:
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
