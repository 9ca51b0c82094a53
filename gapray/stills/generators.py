"""The generators of stills."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gapray.generators import GeneratorSpec, NoSettings, Registry
from gapray.stills.sdxl.settings import SdxlSettings, sdxl_cards

if TYPE_CHECKING:
    from gapray.stills.still import StillBackend


def _load_composite(settings: NoSettings, device: str) -> StillBackend:
    from gapray.stills.composite import Composite

    return Composite()


def _load_sdxl(settings: SdxlSettings, device: str) -> StillBackend:
    from gapray.stills.sdxl.load import load_sdxl

    return load_sdxl(settings, device=device)


STILL_GENERATORS = Registry(
    "gapray.still_generators",
    {
        "composite": GeneratorSpec(NoSettings, _load_composite),
        "sdxl": GeneratorSpec(SdxlSettings, _load_sdxl, sdxl_cards),
    },
)
