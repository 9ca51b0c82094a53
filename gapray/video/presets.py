"""Export presets: the files that a video is delivered as. The data is in `presets.yaml`."""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from gapray.errors import ConfigError, InputError


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Output(_Model):
    """One file, or one set of frames."""

    kind: Literal["mp4", "webp", "gif", "frames", "sprite", "poster", "viewer"]
    name: str = Field(description="File name; for frames a pattern with index (from 0), number (from 1), product_id.")
    fps: float = Field(12, gt=0, le=60, description="Frames a second.")
    hold: int = Field(1, ge=1, description="Each frame is shown this many times.")
    min_s: float = Field(0, ge=0, description="The turn is repeated until it lasts at least this long [s].")
    size: tuple[int, int] | None = Field(
        None,
        description="Width, height [pixels]; null = the frames' own. Odd sides of an mp4 grow by one: H.264 has none.",
    )
    crf: int = Field(18, ge=0, le=51, description="H.264's constant rate factor.")
    quality: int = Field(90, ge=1, le=100, description="Quality of JPEG and WebP.")
    columns: int = Field(6, ge=1, description="Columns of a sprite sheet.")

    @field_validator("size")
    @classmethod
    def _even(cls, size: tuple[int, int] | None, info: ValidationInfo) -> tuple[int, int] | None:
        if size is None or info.data.get("kind") != "mp4":
            return size
        return size[0] + size[0] % 2, size[1] + size[1] % 2


class Preset(_Model):
    """A named set of files."""

    name: str
    description: str
    accepts_frames: tuple[int, ...] | None = Field(None, description="Numbers of frames that the destination accepts.")
    zip: str | None = Field(None, description="Put all files into this archive.")
    files: tuple[Output, ...] = Field(min_length=1)

    def check_frames(self, frames: int) -> None:
        """Refuse a number of frames that the destination does not take.

        Raises:
            InputError: `video.unsupported`.
        """
        if self.accepts_frames and frames not in self.accepts_frames:
            wanted = ", ".join(map(str, self.accepts_frames))
            raise InputError("video.unsupported", f"{self.name} takes {wanted} frames, not {frames}")

    def enlargement_warnings(self, side: int, photo_side: int) -> list[str]:
        """Return warnings if the files show less detail than their size promises.

        Args:
            side: Side of the square frames as they are drawn [pixels].
            photo_side: Longest side of the photos that they are drawn from [pixels].
        """
        shown = max((min(output.size) for output in self.files if output.size), default=side)
        if shown > max(side, photo_side):
            return [
                f"{self.name} shows {shown} px: the photos have {photo_side} px, and frames were drawn at {side} px"
            ]
        if shown > side:
            return [
                f"{self.name} enlarges frames of {side} px to {shown} px; --set orbit.size={-(-shown // 8) * 8} draws them larger"
            ]
        return []


@cache
def presets() -> dict[str, Preset]:
    """All presets by name."""
    text = (resources.files("gapray.video") / "presets.yaml").read_text()
    return {name: Preset.model_validate({"name": name} | data) for name, data in yaml.safe_load(text).items()}


def preset_named(name: str) -> Preset:
    """Return the preset with this name.

    Raises:
        ConfigError: `video.unknown_preset`.
    """
    if name not in presets():
        raise ConfigError("video.unknown_preset", f"there is no preset {name!r}; presets: {', '.join(presets())}")
    return presets()[name]
