"""How a score was measured: stored beside every score, so that only comparable numbers are compared."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from gapray.fidelity.shown import Framing
from gapray.settings import canonical_hash

TruthKind = Literal["held-out", "leave-one-out", "given"]
"""``held-out``: photos that the generator never saw. ``leave-one-out``: a view generated from the other views is scored
against the one left out. ``given``: photos that the generator saw, for foreign videos only."""


@dataclass(frozen=True)
class Protocol:
    """The conditions that one set of scores was measured under."""

    net: str
    trunk_sha256: str
    size: int
    """Side of the compared images [pixels]."""
    mask: str
    """Network and revision that cut out truth and generated images alike."""
    framing: Framing
    truth: TruthKind
    conditions_deg: tuple[float, ...]
    """Azimuths of the photos that the generator saw."""
    source: str
    """What was scored: the delivered file, or frames before encoding."""
    background: str = "#ffffff"
    resampling: str = "area"
    lpips_version: str = "0.1"
    aligned: bool = False
    """Whether frames were matched to the true angles by time warping, with the freedom that this allows."""

    def as_dict(self) -> dict[str, Any]:
        """The protocol as plain data, for JSON."""
        return asdict(self)

    def digest(self) -> str:
        """Hash of the protocol, part of `scores.key`."""
        return canonical_hash(self.as_dict())
