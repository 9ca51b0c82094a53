"""Backend `morph`: the view morph itself. No weights, no GPU; the baseline that learned generators must beat."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gapray.gap.package import GapPackage
from gapray.orbit.conditions import OrbitConditions
from gapray.video.backend import Capabilities


class Morph:
    """Returns the conditions' own initial images."""

    capabilities = Capabilities(
        name="morph",
        max_frames=None,
        multiple_of=2,
        needs_gpu=False,
        licence="Apache-2.0",
        source_type="compositeCapture",
        independent=True,
    )

    def generate(
        self, package: GapPackage, conditions: OrbitConditions, settings: object = None, *, seed: int = 0
    ) -> NDArray[np.uint8]:
        """Return `conditions.initial`, as described in `VideoBackend.generate`; the seed has no effect."""
        del package, settings, seed
        self.capabilities.check(conditions)
        return conditions.initial
