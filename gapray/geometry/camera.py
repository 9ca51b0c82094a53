"""The orbit's camera axes, in one convention for the whole project.

World: +y up, +z towards the camera at azimuth 0, +x to that camera's right. The camera at azimuth a and elevation e looks
at the origin from ``(sin a cos e, sin e, cos a cos e)``; a grows counter-clockwise seen from above.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray


def camera_axes(azimuth_deg: float, elevation_deg: float) -> NDArray[np.float64]:
    """Right, up and towards-the-camera as rows of a rotation matrix.

    Args:
        azimuth_deg: Degrees, counter-clockwise seen from above.
        elevation_deg: Degrees above the horizon.

    Returns:
        float64 [3, 3], orthonormal, determinant +1.
    """
    azimuth, elevation = math.radians(azimuth_deg), math.radians(elevation_deg)
    sin_a, cos_a, sin_e, cos_e = math.sin(azimuth), math.cos(azimuth), math.sin(elevation), math.cos(elevation)
    return np.array(
        [
            [cos_a, 0.0, -sin_a],
            [-sin_a * sin_e, cos_e, -cos_a * sin_e],
            [sin_a * cos_e, sin_e, cos_a * cos_e],
        ]
    )
