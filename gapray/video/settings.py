"""Settings of videos."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

from pydantic import Field

from gapray.generators import GeneratorSettings
from gapray.orbit.settings import OrbitSettings
from gapray.settings import Result, canonical_text
from gapray.video.animatediff.settings import AnimateDiffSettings
from gapray.video.generators import VIDEO_GENERATORS

VIDEO_FORMAT = 3
"""Incremented whenever the same package, settings and weights would give different frames or files."""
_KEY_PLACEHOLDER = "<product>"


class VideoSettings(GeneratorSettings):
    """Everything that determines a video's frames, except orbit settings and seed."""

    registry = VIDEO_GENERATORS
    backend: Result[str] = Field(
        "morph", description="What draws the frames: `morph`, `animatediff` or an installed generator."
    )
    animatediff: AnimateDiffSettings = AnimateDiffSettings()

    def digests(
        self, orbit: OrbitSettings, preset: str, revisions: Mapping[str, str], product_keys: Sequence[str], seed: int
    ) -> list[str]:
        """Return the keys of videos; each covers the package, all settings and weights that draw it, the preset and the seed.

        Args:
            orbit: Orbit settings of the frames.
            preset: Name of the export preset.
            revisions: Model name -> hash of its weights.
            product_keys: Keys of the packages, hexadecimal.
            seed: Random seed.

        Returns:
            One key of 64 hex digits for each of `product_keys`.
        """
        shared = {
            "format": VIDEO_FORMAT,
            "orbit": orbit.results(),
            "video": self.used(),
            "preset": preset,
            "models": dict(revisions),
            "seed": seed,
        }
        # The hashed text differs between packages only in their keys, and there may be millions of them: serialise it once. The
        # placeholder with its quotes occurs exactly once, because JSON escapes quotes inside strings such as prompts.
        member = '"product":"{}"'
        head, tail = canonical_text(shared | {"product": _KEY_PLACEHOLDER}).split(member.format(_KEY_PLACEHOLDER))
        return [hashlib.sha256(f"{head}{member.format(key)}{tail}".encode()).hexdigest() for key in product_keys]
