"""The worker that draws stills, as a plain class: no Ray, no HTTP. `deployments` puts it into replicas."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gapray.capture.decode import decode_grey, decode_photo
from gapray.config import StillSettings
from gapray.fidelity.same_product import Likeness, gate_failures, load_judge
from gapray.gap.package import DEPTH_MAX, GapPackage, GapView
from gapray.models.load import best_device
from gapray.resample import resized
from gapray.serve.artifacts import Artifacts, content_type
from gapray.serve.engine import use_threads
from gapray.serve.jobs import Job, StillWish
from gapray.serve.making import drawn_size, scene_for, stills_for, wanted_size
from gapray.serve.settings import Replicas, ServeSettings
from gapray.stills.load import load_still_backend
from gapray.stills.scene import Scene
from gapray.stills.still import Still, best_view, framed, posed, source_type
from gapray.video.encode import encoded_still
from gapray.video.provenance import Provenance


class Stylist:
    """Package and scene -> pictures, each judged and stored. Holds the still model and the judge.

    Args:
        settings: Of the server.
        device: ``cpu`` or ``cuda``; default: a GPU when there is one.
        holds: As `Artifacts.holds`.
    """

    def __init__(
        self, settings: ServeSettings, *, device: str | None = None, holds: Callable[[str, int], bool] | None = None
    ) -> None:
        self._profile = settings.loaded_profile()
        self._limits = self._profile.packaging.decode
        self._artifacts = Artifacts.at(str(settings.artifacts), holds)
        self._threads = (settings.stylist or Replicas()).threads
        chosen = device or best_device()
        self._backend = load_still_backend(self._profile.stills, device=chosen)
        self._judge = load_judge(self._profile.packaging, device=chosen, threads=self._threads)
        self._drawing = threading.Lock()

    def warm_up(self) -> None:
        """A small picture of a drawn object, and its judgement, so that the first request does not wait for them."""
        from gapray.serve.null import toy_package

        package = toy_package()
        small = self._profile.stills.model_copy(update={"megapixels": 0.0625})
        scene = Scene(name="warm-up", prompt="a box")
        for still in self._backend.generate(package, package.views[0], scene, small, seeds=[0]):
            self._judge.of_pictures(package, [(still.image, still.placed)], 0.0)

    def style(self, job: Job, package: GapPackage) -> dict[str, Any]:
        """Draw, judge and store; returns the job's result.

        Judging and encoding one request's pictures goes on beside the drawing of the next one's.

        Raises:
            InputError: `still.*` or `image.*`.
            ModelError: `model.*`.
            ServeError: `artifacts.failed`.
        """
        use_threads(self._threads)
        wish = job.making.still or StillWish()
        scene, settings = scene_for(job.making), stills_for(job.making, self._profile.stills)
        if job.input.depth:  # no photo shows that pose
            settings = settings.model_copy(update={"sdxl": settings.sdxl.model_copy(update={"exact": False})})
        view, warnings = self._shown(job, package, settings)
        seeds = [job.making.seed + index for index in range(wish.count)]
        with self._drawing:
            stills = self._backend.generate(package, view, scene, settings, seeds=seeds)
        likenesses = self._judge.of_pictures(package, [(one.image, one.placed) for one in stills], view.azimuth_deg)
        files, images = {}, []
        for index, (still, seed, likeness) in enumerate(zip(stills, seeds, likenesses, strict=True)):
            name = f"still-{index}.{'jpg' if wish.format == 'jpeg' else wish.format}"
            picture = _at_size(still.image, wanted_size(job.making))
            data = encoded_still(picture, name, wish.quality, self._provenance(job, package, still, seed, view, scene))
            self._artifacts.put(f"{job.folder}/{name}", data)
            files[name] = {"bytes": len(data), "type": content_type(name)}
            images.append(_facts(name, picture, seed, still, likeness, settings.min_same))
        return {
            "files": files,
            "azimuths_by": package.azimuths_by,
            "images": images,
            "scene": scene.name,
            "azimuth_deg": view.azimuth_deg,
            "backend": self._backend.name,
            "licence": self._backend.licence,
            "warnings": [*warnings, *package.told],
        }

    def _shown(self, job: Job, package: GapPackage, settings: StillSettings) -> tuple[GapView, list[str]]:
        """The view in the wanted pose and size, and what of the request has no effect."""
        view, warnings = best_view(package, settings.azimuth_deg), []
        given, wish = job.input, job.making.still or StillWish()
        if not self._backend.generative:
            if given.depth:
                warnings.append(f"{self._backend.name} shows a photo: the depth map's pose is not drawn")
            if job.making.prompt:
                warnings.append(f"{self._backend.name} draws scenes by name: the prompt is not read")
        elif given.depth:
            depth = _as_depth(decode_grey(self._artifacts.get(given.depth), self._limits))
            normals = decode_photo(self._artifacts.get(given.normals), self._limits) if given.normals else None
            view = posed(view, depth, normals)
            if wish.exact:
                warnings.append("the product cannot be kept exactly in a pose that no photo shows")
        size = drawn_size(job.making, self._profile.stills.megapixels)
        return (framed(view, size) if size else view), warnings

    def _provenance(
        self, job: Job, package: GapPackage, still: Still, seed: int, view: GapView, scene: Scene
    ) -> Provenance:
        from gapray import __version__

        facts = {
            "software": f"gapray {__version__}",
            "backend": self._backend.name,
            "licence": self._backend.licence,
            "seed": seed,
            "profile": self._profile.name,
            "scene": scene.name,
            "prompt": job.making.prompt,
            "azimuth_deg": view.azimuth_deg,
            "job": job.id,
            "product_key": package.key,
        }
        return Provenance(package.product_id, source_type(self._backend, still), facts)


def _as_depth(image: NDArray[np.uint8] | NDArray[np.uint16]) -> NDArray[np.uint16]:
    """Grey levels of 8 or 16 bits -> 0 … 65535."""
    levels = image.astype(np.uint32) * (DEPTH_MAX // 255 if image.dtype == np.uint8 else 1)
    return levels.astype(np.uint16)


def _at_size(image: NDArray[np.uint8], size: tuple[int, int] | None) -> NDArray[np.uint8]:
    """As large as it was wanted; it is drawn at multiples of eight, and no larger than the model is made for."""
    if size is None or image.shape[:2] == size:
        return image
    return resized(image, size)


def _facts(
    name: str, picture: NDArray[np.uint8], seed: int, still: Still, likeness: Likeness, least_same: float | None
) -> dict[str, Any]:
    reasons = gate_failures(likeness.reasons, likeness.same_percentile, least_same)
    numbers = {key: value for key, value in likeness.as_dict().items() if key not in ("reasons", "azimuth_deg")}
    return {
        "name": name,
        "seed": seed,
        "width": picture.shape[1],
        "height": picture.shape[0],
        "pasted": still.pasted,
        "gate": "fail" if reasons else "pass",
        "reasons": reasons,
        "identity": numbers,
    }
