"""Conversion of videos and photos to sRGB, by the code points of ITU-T H.273 in the file.

A standard-range signal keeps its transfer (players treat BT.709's as sRGB's); other primaries are converted in linear light. HDR
signals (HLG, PQ) are linearised first. Whatever is brighter than white is clipped, so that product colours keep their values.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

Point = tuple[float, float]
Chromaticities = tuple[Point, Point, Point]

D65: Point = (0.3127, 0.3290)
BT709: Chromaticities = ((0.640, 0.330), (0.300, 0.600), (0.150, 0.060))
PRIMARIES: dict[int, Chromaticities] = {
    5: ((0.640, 0.330), (0.290, 0.600), (0.150, 0.060)),  # BT.601, 625 lines
    6: ((0.630, 0.340), (0.310, 0.595), (0.155, 0.070)),  # BT.601, 525 lines (SMPTE 170M)
    7: ((0.630, 0.340), (0.310, 0.595), (0.155, 0.070)),  # SMPTE 240M
    9: ((0.708, 0.292), (0.170, 0.797), (0.131, 0.046)),  # BT.2020, BT.2100
    12: ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060)),  # Display P3 (SMPTE EG 432-1)
}
"""Code (ITU-T H.273, table 2) -> x, y of red, green and blue, all with D65 white; other codes are treated as BT.709."""
PQ, HLG = 16, 18
"""Transfer characteristics (ITU-T H.273, table 3)."""
WHITE_NITS = 203.0
"""Diffuse white in HDR [cd/m2], ITU-R BT.2408-7, table 1."""
SDR_WHITE_NITS = 100.0
"""White of files converted from standard range without raising its level, as by FFmpeg's zscale [cd/m2]."""
HLG_PEAK_NITS, HLG_GAMMA = 1000.0, 1.2
"""Peak luminance [cd/m2] and system gamma of HLG's reference display (ITU-R BT.2100-3, table 5)."""
BRIGHTEST_PERCENTILE = 99
"""Percentile that counts as a frame's brightest pixel, because codecs ring at edges."""
FULL = 255 * 256
"""Full-range white in 16 bits as libswscale scales it: 8 bits, shifted."""


NOT_DISPLAY_REFERRED = frozenset({8, 9, 10, 17})
"""Linear, logarithmic and cinema transfers (ITU-T H.273, table 3), which no screen shows directly."""
UNSPECIFIED, BT2020 = 2, 9


@dataclass(frozen=True)
class Encoding:
    """Colour encoding of a picture whose file has neither a profile nor code points."""

    primaries: Chromaticities = BT709
    white: Point = D65
    gamma: float | None = None
    """Linear light is the level to this power; None = sRGB's own curve."""


ADOBE_RGB = Encoding(((0.64, 0.33), (0.21, 0.71), (0.15, 0.06)), gamma=563 / 256)
"""Adobe RGB (1998), 4.3.1 and 4.3.5."""
SRGB_GAMMA = 2.2
"""Gamma with which files approximate sRGB's curve (PNG 3, 11.3.2.2)."""


def decoded_to_srgb(levels: NDArray[np.uint8], encoding: Encoding) -> NDArray[np.uint8]:
    """Convert a picture of known encoding to sRGB.

    Args:
        levels: uint8 [H, W, 3].
        encoding: The encoding of `levels`.

    Returns:
        uint8 [H, W, 3]; colours outside sRGB are clipped, white stays white.
    """
    x = np.arange(256) / 255
    curve = _srgb_light()[np.arange(256) * 256] if encoding.gamma is None else (x**encoding.gamma).astype(np.float32)
    to_bt709 = np.linalg.inv(_xyz(BT709)) @ _adapted(encoding.white) @ _xyz(encoding.primaries, encoding.white)
    light = curve[levels] @ to_bt709.T.astype(np.float32)
    return np.asarray(_srgb_levels()[np.rint(light.clip(0, 1) * 65535).astype(np.uint16)])


def is_hdr(transfer: int) -> bool:
    """Whether a transfer characteristic is of high dynamic range."""
    return transfer in (PQ, HLG)


def is_unknown(primaries: int, transfer: int) -> bool:
    """Whether the appearance of a signal with these tags is undefined. Log footage is tagged BT.2020 without a transfer."""
    return transfer in NOT_DISPLAY_REFERRED or (primaries == BT2020 and transfer == UNSPECIFIED)


def needs_conversion(primaries: int, transfer: int) -> bool:
    """Whether a signal with these tags differs from sRGB as players show it."""
    return is_hdr(transfer) or primaries in PRIMARIES


def exceeds_sdr_white(signal: NDArray[np.uint16], transfer: int) -> bool:
    """Whether an HDR picture is brighter than `SDR_WHITE_NITS`, the white of files converted from standard range.

    Args:
        signal: uint16 [H, W, 3], 0 … `FULL`.
        transfer: `PQ` or `HLG`.
    """
    return bool(np.percentile(_light(signal, transfer).max(-1), BRIGHTEST_PERCENTILE) > 1.1 * SDR_WHITE_NITS)


def to_srgb(signal: NDArray[np.uint16], primaries: int, transfer: int, *, converted: bool = False) -> NDArray[np.uint8]:
    """Convert R'G'B' of a picture to sRGB.

    Args:
        signal: uint16 [H, W, 3], 0 … `FULL`.
        primaries: Colour primaries (ITU-T H.273, table 2).
        transfer: Transfer characteristics (ITU-T H.273, table 3).
        converted: For HDR only: undo a conversion from standard range by FFmpeg's zscale, with white at `SDR_WHITE_NITS` and
            HLG's system gamma applied per channel instead of to luminance. Otherwise white is at `WHITE_NITS`.

    Returns:
        uint8 [H, W, 3]; colours outside sRGB are clipped.
    """
    if is_hdr(transfer):
        white = np.float32(SDR_WHITE_NITS if converted else WHITE_NITS)
        light = _light(signal, transfer, by_channel=converted) / white
    else:
        light = _srgb_light()[signal]
    if primaries in PRIMARIES:
        light = light @ _to_bt709(primaries).T
    return np.asarray(_srgb_levels()[np.rint(light.clip(0, 1) * 65535).astype(np.uint16)])


def _light(signal: NDArray[np.uint16], transfer: int, *, by_channel: bool = False) -> NDArray[np.float32]:
    """Light of a display that shows an HDR signal, float32 [H, W, 3] [cd/m2]."""
    if transfer == PQ:
        return np.asarray(_pq_nits()[signal])
    scene = _hlg_scene()[signal]
    if by_channel:
        return np.asarray(HLG_PEAK_NITS * scene ** np.float32(HLG_GAMMA))
    luminance = scene @ np.array([0.2627, 0.6780, 0.0593], np.float32)
    return np.asarray(scene * (HLG_PEAK_NITS * luminance ** (HLG_GAMMA - 1))[..., None])


def _signal() -> NDArray[np.float64]:
    """Signal of each 16-bit level, float64 [65536], 0 … 1."""
    return np.minimum(np.arange(65536) / FULL, 1)


@cache
def _hlg_scene() -> NDArray[np.float32]:
    """Scene light of each level by the inverse of HLG's OETF (ITU-R BT.2100-3, table 5), float32 [65536], 0 … 1."""
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    x = _signal()
    return np.where(x <= 0.5, x**2 / 3, (np.exp((x - c) / a) + b) / 12).astype(np.float32)


@cache
def _pq_nits() -> NDArray[np.float32]:
    """Display light of each level by PQ's EOTF (ITU-R BT.2100-3, table 4), float32 [65536] [cd/m2]."""
    m1, m2, c1, c2, c3 = 2610 / 16384, 2523 / 32, 3424 / 4096, 2413 / 128, 2392 / 128
    x = _signal() ** (1 / m2)
    return (10000 * (np.maximum(x - c1, 0) / (c2 - c3 * x)) ** (1 / m1)).astype(np.float32)


@cache
def _srgb_light() -> NDArray[np.float32]:
    """Linear light of each sRGB level (IEC 61966-2-1), float32 [65536], 0 … 1."""
    x = _signal()
    return np.where(x <= 0.04045, x / 12.92, ((x + 0.055) / 1.055) ** 2.4).astype(np.float32)


@cache
def _srgb_levels() -> NDArray[np.uint8]:
    """8-bit sRGB level of each of 65,536 steps of linear light (IEC 61966-2-1), uint8 [65536]."""
    x = np.arange(65536) / 65535
    signal = np.where(x <= 0.0031308, 12.92 * x, 1.055 * x ** (1 / 2.4) - 0.055)
    return np.asarray(np.rint(255 * signal), np.uint8)


@cache
def _to_bt709(primaries: int) -> NDArray[np.float32]:
    """Matrix from linear RGB of these primaries to linear RGB of BT.709, float32 [3, 3]."""
    return (np.linalg.inv(_xyz(BT709)) @ _xyz(PRIMARIES[primaries])).astype(np.float32)


def _xyz(primaries: Chromaticities, white: Point = D65) -> NDArray[np.float64]:
    """Matrix from linear RGB to CIE XYZ (SMPTE RP 177), [3, 3]."""
    columns = np.array([_unit_luminance_xyz(point) for point in primaries]).T
    return np.asarray(columns * np.linalg.solve(columns, _unit_luminance_xyz(white)))


def _unit_luminance_xyz(point: Point) -> tuple[float, float, float]:
    """CIE XYZ of a chromaticity at Y = 1."""
    x, y = point
    return x / y, 1.0, (1 - x - y) / y


def _adapted(white: Point) -> NDArray[np.float64]:
    """Chromatic adaptation of XYZ from `white` to D65 by Bradford's transform (ICC.1:2022, annex E.3), [3, 3]."""
    cones = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
    before, after = (cones @ _unit_luminance_xyz(point) for point in (white, D65))
    return np.asarray(np.linalg.inv(cones) @ np.diag(after / before) @ cones)
