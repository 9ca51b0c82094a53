"""Polar plots of LPIPS by angle, as SVG: the centre means identical, and captured angles are marked separately."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

PALETTE = ("#0b62c4", "#c2571a", "#6b7a00", "#8a3fa0", "#555555", "#00857a")
DASHES = ("", "6 3", "2 3", "8 3 2 3", "1 4", "10 4")
"""Dash patterns of the curves, for readers who cannot distinguish the colours."""


@dataclass(frozen=True)
class PolarPoint:
    """One score of a plot."""

    azimuth_deg: float
    value: float
    """LPIPS, 0 = identical."""
    key: bool
    """Whether it is at a captured angle."""


def polar_svg(series: Mapping[str, Sequence[PolarPoint]], *, title: str, size: int = 420) -> str:
    """Draw a closed curve of the in-between scores of each series, and squares at captured angles.

    Args:
        series: Label -> its points; the first series is emphasised.
        title: Title for screen readers.
        size: Side of the plot [pixels].

    Returns:
        An ``<svg>`` element.
    """
    radius, centre = size * 0.38, size / 2
    top = max((point.value for points in series.values() for point in points), default=0.1)
    ring = next(step for step in (0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0) if top <= 5 * step)
    outer = ring * max(1, math.ceil(top / ring))

    def place(azimuth: float, value: float) -> tuple[float, float]:
        angle, reach = math.radians(azimuth), radius * value / outer
        return centre + reach * math.sin(angle), centre - reach * math.cos(angle)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size} {size + 18 * len(series) + 24}" role="img" '
        f'class="polar" font-family="system-ui, sans-serif" font-size="11"><title>{escape(title)}</title>'
    ]
    for number in range(1, round(outer / ring) + 1):
        reach = radius * number * ring / outer
        parts.append(f'<circle cx="{centre}" cy="{centre}" r="{reach:.1f}" fill="none" stroke="#ccc"/>')
        parts.append(f'<text x="{centre + 3}" y="{centre - reach - 2:.1f}" fill="#666">{number * ring:g}</text>')
    for azimuth in range(0, 360, 45):
        x, y = place(azimuth, outer)
        tx, ty = place(azimuth, outer * 1.13)
        parts.append(f'<line x1="{centre}" y1="{centre}" x2="{x:.1f}" y2="{y:.1f}" stroke="#e3e3e3"/>')
        parts.append(f'<text x="{tx:.1f}" y="{ty + 4:.1f}" text-anchor="middle" fill="#444">{azimuth}°</text>')
    for index, (label, points) in enumerate(series.items()):
        colour, dash = PALETTE[index % len(PALETTE)], DASHES[index % len(DASHES)]
        between = sorted((point for point in points if not point.key), key=lambda point: point.azimuth_deg)
        spots = [place(point.azimuth_deg, point.value) for point in between]
        if len(spots) > 1:
            outline = " ".join(f"{x:.1f},{y:.1f}" for x, y in spots)
            width = 2.2 if index == 0 else 1.3
            parts.append(
                f'<polygon points="{outline}" fill="none" stroke="{colour}" stroke-width="{width}" '
                f'stroke-dasharray="{dash}" stroke-linejoin="round"/>'
            )
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{3 if index == 0 else 2}" fill="{colour}"/>' for x, y in spots]
        for point in points:
            if point.key:
                x, y = place(point.azimuth_deg, point.value)
                parts.append(
                    f'<rect x="{x - 3:.1f}" y="{y - 3:.1f}" width="6" height="6" fill="#fff" stroke="{colour}"/>'
                )
        y = size + 4 + 18 * index
        parts.append(
            f'<line x1="20" y1="{y}" x2="48" y2="{y}" stroke="{colour}" stroke-width="2" stroke-dasharray="{dash}"/>'
            f'<text x="56" y="{y + 4}" fill="#222">{escape(label)}</text>'
        )
    y = size + 8 + 18 * len(series)
    parts.append(
        f'<rect x="30" y="{y - 5}" width="6" height="6" fill="#fff" stroke="#222"/>'
        f'<text x="56" y="{y + 2}" fill="#222">captured angle (the generator saw this photo)</text></svg>'
    )
    return "".join(parts)
