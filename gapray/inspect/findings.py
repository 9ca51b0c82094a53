"""Findings of a photo check, and what to do about each. Their codes are stable, because users write rules for them."""

from __future__ import annotations

from dataclasses import dataclass

INSTRUCTIONS: dict[str, str] = {
    "azimuth.duplicate": "Take the second one again from its own angle; both files are one photo.",
    "azimuth.burst": "Keep one photo of each burst and name the photos by degrees; if each does show a view of its own, ignore this.",
    "azimuth.swapped": "Exchange their names, or let --fix do it.",
    "azimuth.mirrored": "Turn mirroring off in the camera's settings and take it again.",
    "azimuth.reversed": "Give --direction cw, or let --fix name the photos the other way round.",
    "azimuth.off": "Take it again from its angle, or let --fix write the angle that it shows.",
    "azimuth.misfit": "Look at it: another product, a mirrored photo, or a mask that lost a part. Take it again.",
    "azimuth.missing": "Take a photo from there.",
    "azimuth.unobservable": "Lay the printed sheet (`gapray capture sheet`) under the product, or trust the turntable.",
    "photo.turned": "Turn the picture upright, or take it again with the camera held as for the others.",
    "photo.other_product": "Look at it: if it is another product, take it out; if it is this product, take it again in the same light.",
    "photo.unreadable": "Take it again, or save it as JPEG.",
    "photo.blurred": "Take it again: tap to focus on the product, hold still, more light.",
    "photo.overexposed": "Take it again with less light or a lower exposure.",
    "photo.underexposed": "Take it again with more light or a higher exposure.",
    "photo.exposure_drift": "Lock the exposure (hold the focus point on a phone) and take it again.",
    "photo.white_balance": "Lock the white balance, or take all photos under the same lamps.",
    "photo.scale": "Do not move or zoom between photos; take it again from the distance of the others.",
    "photo.cut": "Step back until the whole product is in the picture.",
    "photo.clutter": "Clear what lies behind the product, or hang a plain sheet behind it.",
    "photo.mask": "The product cannot be told from what is behind it: use a backdrop of another colour.",
}
"""Code -> instruction for the photographer."""

SERIOUS = frozenset(INSTRUCTIONS) - {
    "azimuth.unobservable",
    "photo.clutter",
    "photo.white_balance",
    "photo.exposure_drift",
}
"""Codes of findings that require a new photo; the others only degrade the result."""


@dataclass(frozen=True)
class Finding:
    """One problem with a set of photos."""

    code: str
    """A key of `INSTRUCTIONS`."""
    files: tuple[str, ...]
    """Names of the photos; empty for the set as a whole or a missing photo."""
    message: str
    """The problem, with the measured values."""

    @property
    def instruction(self) -> str:
        """What the photographer should do."""
        return INSTRUCTIONS[self.code]

    @property
    def sentence(self) -> str:
        """Photos, problem and instruction in one text."""
        files = f"{', '.join(self.files)}: " if self.files else ""
        return f"{files}{self.message}. {self.instruction}"

    @property
    def serious(self) -> bool:
        """Whether the photo has to be taken again."""
        return self.code in SERIOUS

    def as_dict(self) -> dict[str, object]:
        """The finding as the JSON object printed by ``--json``."""
        return {
            "code": self.code,
            "files": list(self.files),
            "message": self.message,
            "instruction": self.instruction,
            "serious": self.serious,
        }
