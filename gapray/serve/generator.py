"""The generator: draws the frames of a turn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gapray.fidelity.comparison import LeftOutFrame
from gapray.fidelity.left_out import draw_left_out
from gapray.gap.package import GapPackage
from gapray.models.load import best_device
from gapray.orbit.conditions import build_conditions
from gapray.serve.jobs import GenerationParams
from gapray.serve.making import profile_for, unused_params
from gapray.serve.settings import ServeSettings
from gapray.serve.threads import use_threads
from gapray.video.load import load_backend, video_revisions


@dataclass(frozen=True)
class RenderedTurn:
    """The rendered frames of one turn, with how they were made."""

    frames: NDArray[np.uint8]
    """[F, S, S, 3] RGB."""
    azimuths_deg: tuple[float, ...]
    """Azimuth of each frame [degrees]."""
    key_frames: tuple[int, ...]
    """Indices of the frames at the azimuths of the input photos."""
    left_out: tuple[LeftOutFrame, ...]
    """Input views rendered from the other views, for scoring."""
    calibration: dict[str, Any]
    warnings: tuple[str, ...]
    backend: str
    source_type: str
    licence: str
    models: tuple[str, ...]
    """``name@revision`` of the weights that were used."""


class Generator:
    """Renders the frames of a turn from a package, with the video model."""

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
        """Render a small turn of a toy object, so that the first request does not pay for compilation and allocation."""
        from gapray.serve.null import toy_package

        small = self._profile.orbit.model_copy(update={"frames": min(4, self._profile.orbit.frames), "voxels": 32})
        if self._backend.capabilities.independent:
            small = small.model_copy(update={"size": 64})
        else:
            small = small.model_copy(update={"frames": self._profile.orbit.frames})
        package = toy_package()
        conditions = build_conditions(package, small, device=self._device)
        self._backend.generate(package, conditions, self._profile.video.chosen)

    def draw(self, params: GenerationParams, package: GapPackage) -> RenderedTurn:
        """Render the orbit and, if a score was requested, some views without their own photos.

        Raises:
            InputError: `orbit.*`, `mask.*` or `video.unsupported`.
            ModelError: `model.failed` or `model.out_of_memory`.
        """
        use_threads(self._threads)
        profile = profile_for(params, self._profile)
        conditions = build_conditions(package, profile.orbit, device=self._device)
        frames = self._backend.generate(package, conditions, profile.video.chosen, seed=params.seed)
        left_out: Sequence[LeftOutFrame] = ()
        if params.score and len(package.views) > 3:
            left_out = draw_left_out(
                package,
                self._backend,
                profile.orbit,
                profile.video,
                engine=conditions.calibration.engine,
                views=profile.fidelity.leave_out,
                seed=params.seed,
                device=self._device,
            )
        capabilities = self._backend.capabilities
        return RenderedTurn(
            frames=frames,
            azimuths_deg=conditions.azimuths_deg,
            key_frames=conditions.key_frames,
            left_out=tuple(left_out),
            calibration=asdict(conditions.calibration),
            warnings=(*conditions.warnings, *unused_params(params, self._profile)),
            backend=capabilities.name,
            source_type=capabilities.source_type,
            licence=capabilities.licence,
            models=self._models,
        )
