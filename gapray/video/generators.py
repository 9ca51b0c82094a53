"""The generators of turntables."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gapray.generators import GeneratorSpec, NoSettings, Registry
from gapray.video.animatediff.settings import AnimateDiffSettings, animatediff_cards

if TYPE_CHECKING:
    from gapray.video.backend import VideoBackend


def _load_morph(settings: NoSettings, device: str) -> VideoBackend:
    from gapray.video.morph import Morph

    return Morph()


def _load_animatediff(settings: AnimateDiffSettings, device: str) -> VideoBackend:
    from gapray.video.animatediff.load import load_animatediff

    return load_animatediff(settings, device=device)


VIDEO_GENERATORS = Registry(
    "gapray.generators",
    {
        "morph": GeneratorSpec(NoSettings, _load_morph),
        "animatediff": GeneratorSpec(AnimateDiffSettings, _load_animatediff, animatediff_cards),
    },
)
