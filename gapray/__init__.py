"""gapray: eight photos of a product in; a packaged asset, a turntable video and a fidelity score out.

The public names are imported lazily, on first use, so that ``import gapray`` itself is cheap.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gapray.batch.package import package
    from gapray.batch.render import render
    from gapray.batch.score import score
    from gapray.capture.discover import discover
    from gapray.catalog.reader import Catalog, open_catalog
    from gapray.gap.package import GapPackage, GapView

__version__ = "0.1.0"
__all__ = ["Catalog", "GapPackage", "GapView", "discover", "open_catalog", "package", "render", "score"]

_MODULES = {
    "Catalog": "gapray.catalog.reader",
    "GapPackage": "gapray.gap.package",
    "GapView": "gapray.gap.package",
    "discover": "gapray.capture.discover",
    "open_catalog": "gapray.catalog.reader",
    "package": "gapray.batch.package",
    "render": "gapray.batch.render",
    "score": "gapray.batch.score",
}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module 'gapray' has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
