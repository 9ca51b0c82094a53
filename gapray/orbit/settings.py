"""Settings of the turntable's geometry."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from gapray.settings import Role, Settings


class OrbitSettings(Settings, role=Role.RESULT):
    """Geometry, camera and engine of the turntable's frames."""

    frames: int = Field(24, ge=1, le=360, description="Frames of one turn, in equal steps from 0 degrees.")
    size: int = Field(512, ge=64, le=2048, multiple_of=8, description="Side of the square frame [pixels].")
    framing: Literal["product", "photo"] = Field(
        "product", description="`product` centres the turning product; `photo` keeps the photos' own framing."
    )
    margin: float = Field(0.1, ge=0, lt=0.5, description="Minimum empty border around the product [half frames].")
    background: str = Field("#ffffff", pattern="^#[0-9a-fA-F]{6}$", description="Colour behind the product.")
    voxels: int = Field(144, ge=32, le=320, description="Voxels along each side of the visual hull.")
    fuse_depth: bool = Field(True, description="Carve concavities by a depth network's maps where views agree on them.")
    flow: bool = Field(True, description="Align re-projected photos by optical flow.")
    refine_camera: bool = Field(
        True, description="Fit the camera to the photos' colours as well as to their outlines; takes seconds more."
    )
    engine: Literal["auto", "synthesis", "morph", "flow", "nearest"] = Field(
        "auto",
        description="What draws the in-between frames; `auto` compares all but the morph on held-out photos and takes the best.",
    )

    @property
    def background_rgb(self) -> tuple[int, int, int]:
        """`background` as red, green and blue, 0 … 255."""
        red, green, blue = bytes.fromhex(self.background[1:])
        return red, green, blue
