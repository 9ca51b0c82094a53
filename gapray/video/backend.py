"""The interface between conditions and generators.

A new generator is one class with `capabilities` and `generate`, one group of settings, and one `GeneratorSpec` that names them
(`gapray.video.generators`). Everything it may need is in its three arguments: the package (photos, masks, depths, embeddings),
the orbit's conditions (geometry, view morph, weights) and its settings. It draws F frames of S x S pixels, each at its azimuth. A generator that works on video latents (Wan VACE) takes `initial`,
`depth` and `key_frames` as control video and fixed frames; one that works on posed views (MV-Adapter) takes
`references`, `weights` and `calibration`. Neither needs a change here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from gapray.errors import InputError
from gapray.gap.package import GapPackage
from gapray.orbit.conditions import OrbitConditions

SourceType = Literal["compositeCapture", "trainedAlgorithmicMedia", "compositeWithTrainedAlgorithmicMedia"]
"""IPTC's digital source types (cv.iptc.org/newscodes/digitalsourcetype) that a backend's frames can be."""


@dataclass(frozen=True)
class Capabilities:
    """What a backend can do; available without loading it."""

    name: str
    max_frames: int | None
    """Maximum number of frames in one clip; None = any number."""
    multiple_of: int
    """Sides of a frame must be divisible by this [pixels]."""
    needs_gpu: bool
    """Whether it is unusable without a GPU."""
    licence: str
    """The strictest licence of its weights, SPDX."""
    source_type: SourceType
    """Digital source type of its pixels."""
    independent: bool = False
    """Whether each frame is drawn on its own, so that one can be drawn without the others."""

    def check(self, conditions: OrbitConditions) -> None:
        """Refuse conditions that the backend cannot draw.

        Raises:
            InputError: `video.unsupported`.
        """
        frames, side = conditions.depth.shape[:2]
        if self.max_frames is not None and frames > self.max_frames:
            raise InputError("video.unsupported", f"{self.name} draws at most {self.max_frames} frames, not {frames}")
        if side % self.multiple_of:
            raise InputError(
                "video.unsupported", f"{self.name} needs sides divisible by {self.multiple_of}, not {side}"
            )


class VideoBackend(Protocol):
    """Draws the frames of one orbit."""

    @property
    def capabilities(self) -> Capabilities:
        """What the backend can do."""
        ...

    def generate(
        self, package: GapPackage, conditions: OrbitConditions, settings: Any, *, seed: int = 0
    ) -> NDArray[np.uint8]:
        """Draw the orbit.

        Args:
            package: The product.
            conditions: Conditions of the F frames.
            settings: The generator's own group, of the class that its `GeneratorSpec` names.
            seed: Seed of all randomness.

        Returns:
            uint8 [F, S, S, 3], sRGB, in the order of `conditions.azimuths_deg`.

        Raises:
            InputError: `video.unsupported`.
            ModelError: `model.failed`.
        """
        ...
