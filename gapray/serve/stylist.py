"""The worker that draws stills, as a plain class without Ray or HTTP; `deployments` runs it in replicas."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gapray.capture.decode import decode_grey, decode_photo
from gapray.fidelity.same_product import Likeness, gate_failures, load_judge
from gapray.gap.package import DEPTH_MAX, GapPackage, GapView
from gapray.models.load import best_device
from gapray.resample import resized
from gapray.serve.artifacts import Artifacts, content_type
from gapray.serve.jobs import Job, StillParams
from gapray.serve.making import drawn_size, requested_size, scene_for, stills_for
from gapray.serve.settings import Replicas, ServeSettings
from gapray.serve.threads import use_threads
from gapray.stills.load import load_still_backend
from gapray.stills.scene import Scene
from gapray.stills.settings import StillSettings
from gapray.stills.still import Still, best_view, framed, posed, source_type
from gapray.video.encode import encoded_still
from gapray.video.provenance import Provenance


class Stylist:
    """Draws stills of a package in a scene, judges whether they show the same product, and stores them.

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
        self._profile = settings.loaded_profile()
        self._limits = self._profile.packaging.decode
        self._artifacts = Artifacts.at(str(settings.artifacts), is_current)
        self._threads = (settings.stylist or Replicas()).threads
        device = device or best_device()
        self._backend = load_still_backend(self._profile.stills, device=device)
        self._judge = load_judge(self._profile.packaging, device=device, threads=self._threads)
        self._drawing = threading.Lock()

    def warm_up(self) -> None:
        """Draw and judge a small picture of a toy object, so that the first request does not pay for start-up."""
        from gapray.serve.null import toy_package

        package = toy_package()
        small = self._profile.stills.model_copy(update={"megapixels": 0.0625})
        scene = Scene(name="warm-up", prompt="a box")
        for still in self._backend.generate(package, package.views[0], scene, small, seeds=[0]):
            self._judge.of_pictures(package, [(still.image, still.placed)], 0.0)

    def style(self, job: Job, package: GapPackage) -> dict[str, Any]:
        """Draw, judge and store the stills of a job, and return its result.

        Only drawing is exclusive: stills are judged and encoded while the next request's are drawn.

        Raises:
            InputError: `still.*` or `image.*`.
            ModelError: `model.*`.
            ServeError: `artifacts.failed`.
        """
        use_threads(self._threads)
        params = job.making.still or StillParams()
        scene, settings = scene_for(job.making), stills_for(job.making, self._profile.stills)
        if job.input.depth:  # no photo shows that pose
            settings = settings.with_chosen({"exact": False})
        view, warnings = self._choose_view(job, package, settings)
        seeds = [job.making.seed + index for index in range(params.count)]
        with self._drawing:
            stills = self._backend.generate(package, view, scene, settings, seeds=seeds)
        likenesses = self._judge.of_pictures(
            package, [(still.image, still.placed) for still in stills], view.azimuth_deg
        )
        files, images = {}, []
        for index, (still, seed, likeness) in enumerate(zip(stills, seeds, likenesses, strict=True)):
            name = f"still-{index}.{'jpg' if params.format == 'jpeg' else params.format}"
            picture = _at_size(still.image, requested_size(job.making))
            data = encoded_still(
                picture, name, params.quality, self._provenance(job, package, still, seed, view, scene)
            )
            self._artifacts.put(f"{job.folder}/{name}", data)
            files[name] = {"bytes": len(data), "type": content_type(name)}
            images.append(_image_facts(name, picture, seed, still, likeness, settings.min_same))
        return {
            "files": files,
            "azimuths_by": package.azimuths_by,
            "images": images,
            "scene": scene.name,
            "azimuth_deg": view.azimuth_deg,
            "backend": self._backend.name,
            "licence": self._backend.licence,
            "warnings": [*warnings, *package.messages],
        }

    def _choose_view(self, job: Job, package: GapPackage, settings: StillSettings) -> tuple[GapView, list[str]]:
        """Return the view in the requested pose and size, and warnings about parameters that have no effect."""
        view, warnings = best_view(package, settings.azimuth_deg), []
        inputs, params = job.input, job.making.still or StillParams()
        if not self._backend.generative:
            if inputs.depth:
                warnings.append(f"{self._backend.name} shows a photo: the depth map's pose is not drawn")
            if job.making.prompt:
                warnings.append(f"{self._backend.name} draws scenes by name: the prompt is not read")
        elif inputs.depth:
            depth = _as_depth(decode_grey(self._artifacts.get(inputs.depth), self._limits))
            normals = decode_photo(self._artifacts.get(inputs.normals), self._limits) if inputs.normals else None
            view = posed(view, depth, normals)
            if params.exact:
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
    """Scale grey levels of 8 or 16 bits to 0 … 65535."""
    levels = image.astype(np.uint32) * (DEPTH_MAX // 255 if image.dtype == np.uint8 else 1)
    return levels.astype(np.uint16)


def _at_size(image: NDArray[np.uint8], size: tuple[int, int] | None) -> NDArray[np.uint8]:
    """Resize a still to the requested [H, W]: it was drawn at multiples of 8 pixels, within the model's limit."""
    if size is None or image.shape[:2] == size:
        return image
    return resized(image, size)


def _image_facts(
    name: str, picture: NDArray[np.uint8], seed: int, still: Still, likeness: Likeness, min_same: float | None
) -> dict[str, Any]:
    """Return one still's entry in a job's result."""
    reasons = gate_failures(likeness.reasons, likeness.same_percentile, min_same)
    identity = {key: value for key, value in likeness.as_dict().items() if key not in ("reasons", "azimuth_deg")}
    return {
        "name": name,
        "seed": seed,
        "width": picture.shape[1],
        "height": picture.shape[0],
        "pasted": still.pasted,
        "gate": "fail" if reasons else "pass",
        "reasons": reasons,
        "identity": identity,
    }
