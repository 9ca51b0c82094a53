"""Colours of videos and photos -> sRGB, by the code points of ITU-T H.273 in the file.

A signal of standard range stays as it is (players show BT.709's transfer as sRGB's), but for other primaries, which are converted
in linear light. HDR signals (HLG, PQ) are brought to light first; what is brighter than white becomes white, so that the colours
of products keep their values.
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
"""x, y of red, green and blue by code (ITU-T H.273, table 2), all with D65; of every other code BT.709's are taken."""
PQ, HLG = 16, 18
"""Transfer characteristics (ITU-T H.273, table 3)."""
WHITE_NITS = 203.0
"""Diffuse white in HDR [cd/m2], ITU-R BT.2408-7, table 1."""
SDR_WHITE_NITS = 100.0
"""White of files that were converted from standard range without raising it, as FFmpeg's zscale does [cd/m2]."""
HLG_PEAK_NITS, HLG_GAMMA = 1000.0, 1.2
"""The display that HLG is made for (ITU-R BT.2100-3, table 5)."""
BRIGHTEST_PERCENTILE = 99
"""What is brighter than so many pixels stands for the whole frame: codecs ring at edges."""
FULL = 255 * 256
"""Full signal in 16 bits as libswscale counts: 8 bits, shifted."""


NEITHER = frozenset({8, 9, 10, 17})
"""Transfers of light as it was (linear, logarithmic) or of cinemas (ITU-T H.273, table 3): no screen shows them as they are."""
UNSPECIFIED, BT2020 = 2, 9


@dataclass(frozen=True)
class Encoding:
    """What the levels of a picture mean, where a file says it by neither a profile nor code points."""

    primaries: Chromaticities = BT709
    white: Point = D65
    gamma: float | None = None
    """Light is the level to this power; None = sRGB's own curve."""


ADOBE_RGB = Encoding(((0.64, 0.33), (0.21, 0.71), (0.15, 0.06)), gamma=563 / 256)
"""Adobe RGB (1998), 4.3.1 and 4.3.5."""
SRGB_GAMMA = 2.2
"""Files that say this power mean sRGB's curve, which it stands for (PNG 3, 11.3.2.2)."""


def decoded_to_srgb(levels: NDArray[np.uint8], encoding: Encoding) -> NDArray[np.uint8]:
    """A picture as sRGB.

    Args:
        levels: uint8 [H, W, 3].
        encoding: What they mean.

    Returns:
        uint8 [H, W, 3]; colours outside of sRGB are clipped, white stays white.
    """
    x = np.arange(256) / 255
    curve = _srgb_light()[np.arange(256) * 256] if encoding.gamma is None else (x**encoding.gamma).astype(np.float32)
    to_bt709 = np.linalg.inv(_xyz(BT709)) @ _adapted(encoding.white) @ _xyz(encoding.primaries, encoding.white)
    light = curve[levels] @ to_bt709.T.astype(np.float32)
    return np.asarray(_srgb_levels()[np.rint(light.clip(0, 1) * 65535).astype(np.uint16)])


def is_hdr(transfer: int) -> bool:
    """Whether a signal with this transfer characteristic holds more than standard range."""
    return transfer in (PQ, HLG)


def is_unknown(primaries: int, transfer: int) -> bool:
    """Whether nobody can tell what a signal with these tags looks like: log footage says BT.2020 and no transfer."""
    return transfer in NEITHER or (primaries == BT2020 and transfer == UNSPECIFIED)


def needs_conversion(primaries: int, transfer: int) -> bool:
    """Whether a signal with these tags is anything but sRGB as players show it."""
    return is_hdr(transfer) or primaries in PRIMARIES


def exceeds_sdr_white(signal: NDArray[np.uint16], transfer: int) -> bool:
    """Whether an HDR picture shows more than what a conversion from standard range leaves below `SDR_WHITE_NITS`.

    Args:
        signal: uint16 [H, W, 3], 0 … `FULL`.
        transfer: `PQ` or `HLG`.
    """
    return bool(np.percentile(_light(signal, transfer).max(-1), BRIGHTEST_PERCENTILE) > 1.1 * SDR_WHITE_NITS)


def to_srgb(signal: NDArray[np.uint16], primaries: int, transfer: int, *, converted: bool = False) -> NDArray[np.uint8]:
    """R'G'B' of a picture as sRGB.

    Args:
        signal: uint16 [H, W, 3], 0 … `FULL`.
        primaries: Code of H.273.
        transfer: Code of H.273.
        converted: HDR only: undo a conversion from standard range as FFmpeg's zscale makes it, with white at `SDR_WHITE_NITS` and
            HLG's system gamma applied to each channel instead of to luminance. Otherwise white is at `WHITE_NITS`.

    Returns:
        uint8 [H, W, 3]; colours outside of sRGB are clipped.
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
    """Light of a display showing an HDR signal, float32 [H, W, 3], cd/m2."""
    if transfer == PQ:
        return np.asarray(_pq_nits()[signal])
    scene = _hlg_scene()[signal]
    if by_channel:
        return np.asarray(HLG_PEAK_NITS * scene ** np.float32(HLG_GAMMA))
    luminance = scene @ np.array([0.2627, 0.6780, 0.0593], np.float32)
    return np.asarray(scene * (HLG_PEAK_NITS * luminance ** (HLG_GAMMA - 1))[..., None])


def _signal() -> NDArray[np.float64]:
    """Each 16-bit level as a signal, 0 … 1."""
    return np.minimum(np.arange(65536) / FULL, 1)


@cache
def _hlg_scene() -> NDArray[np.float32]:
    """Inverse of HLG's OETF (ITU-R BT.2100-3, table 5), of each level, 0 … 1."""
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    x = _signal()
    return np.where(x <= 0.5, x**2 / 3, (np.exp((x - c) / a) + b) / 12).astype(np.float32)


@cache
def _pq_nits() -> NDArray[np.float32]:
    """PQ's EOTF (ITU-R BT.2100-3, table 4), of each level [cd/m2]."""
    m1, m2, c1, c2, c3 = 2610 / 16384, 2523 / 32, 3424 / 4096, 2413 / 128, 2392 / 128
    x = _signal() ** (1 / m2)
    return (10000 * (np.maximum(x - c1, 0) / (c2 - c3 * x)) ** (1 / m1)).astype(np.float32)


@cache
def _srgb_light() -> NDArray[np.float32]:
    """Linear light of each sRGB level (IEC 61966-2-1), 0 … 1."""
    x = _signal()
    return np.where(x <= 0.04045, x / 12.92, ((x + 0.055) / 1.055) ** 2.4).astype(np.float32)


@cache
def _srgb_levels() -> NDArray[np.uint8]:
    """SRGB, 8 bit, of 65,536 steps of linear light (IEC 61966-2-1)."""
    x = np.arange(65536) / 65535
    signal = np.where(x <= 0.0031308, 12.92 * x, 1.055 * x ** (1 / 2.4) - 0.055)
    return np.asarray(np.rint(255 * signal), np.uint8)


@cache
def _to_bt709(primaries: int) -> NDArray[np.float32]:
    """Linear RGB of some primaries -> linear RGB of BT.709, [3, 3]."""
    return (np.linalg.inv(_xyz(BT709)) @ _xyz(PRIMARIES[primaries])).astype(np.float32)


def _xyz(primaries: Chromaticities, white: Point = D65) -> NDArray[np.float64]:
    """Linear RGB -> CIE XYZ (SMPTE RP 177), [3, 3]."""
    columns = np.array([_of_luminance_one(point) for point in primaries]).T
    return np.asarray(columns * np.linalg.solve(columns, _of_luminance_one(white)))


def _of_luminance_one(point: Point) -> tuple[float, float, float]:
    x, y = point
    return x / y, 1.0, (1 - x - y) / y


def _adapted(white: Point) -> NDArray[np.float64]:
    """XYZ as seen by an eye used to `white` -> XYZ under D65, [3, 3]: Bradford's transform (ICC.1:2022, annex E.3)."""
    cones = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
    before, after = (cones @ _of_luminance_one(point) for point in (white, D65))
    return np.asarray(np.linalg.inv(cones) @ np.diag(after / before) @ cones)
