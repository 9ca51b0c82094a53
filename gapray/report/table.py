"""The table of fidelity: ours, the baselines, foreign videos, and what was not measured."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass

from gapray.catalog.reader import Catalog
from gapray.fidelity.baselines import BASELINES
from gapray.fidelity.score import OURS
from gapray.fidelity.stats import Interval, bootstrap

NOT_MEASURED = "not measured"
SINGLE_IMAGE = ("single-image diffusion", "Runway Gen-3")
"""What the mission is compared with; a row stays empty until a real video was scored."""


@dataclass(frozen=True)
class TableRow:
    """One label over a catalogue; means over products of each product's mean over in-between angles."""

    label: str
    products: int
    lpips: Interval | None
    psnr: float | None
    ssim: float | None
    iou: float | None
    identity: float | None
    note: str = ""

    def cells(self) -> list[str]:
        """For people."""
        if self.lpips is None:
            return [self.label, "0", NOT_MEASURED, "", "", "", "", self.note]
        numbers = [_number(self.psnr, 1), _number(self.ssim, 3), _number(self.iou, 3), _number(self.identity, 3)]
        spread = f"{self.lpips.mean:.3f} ({self.lpips.low:.3f} – {self.lpips.high:.3f})"
        return [self.label, str(self.products), spread, *numbers, self.note]


HEADER = ["method", "products", "LPIPS (95%)", "PSNR dB", "SSIM", "IoU", "identity", "note"]


def fidelity_table(catalog: Catalog, product_id: str | None = None) -> list[TableRow]:
    """One row a label, ours first; `SINGLE_IMAGE` rows say that nothing was measured where that is so."""
    verdicts = [row for row in catalog.verdicts(product_id).to_pylist() if row["lpips"] is not None]
    best = {(row["product_id"], row["key"]) for row in catalog.best_videos(product_id).to_pylist()}
    # Of several seeds only the published one counts; foreign videos have no rival.
    counted = [row for row in verdicts if row["foreign_video"] or (row["product_id"], row["video_key"]) in best]
    labels = [OURS, *BASELINES]
    labels += sorted({row["label"] for row in counted} - set(labels))
    rows = []
    for label in labels:
        mine = [row for row in counted if row["label"] == label]
        if not mine:
            continue
        rows.append(
            TableRow(
                label,
                len(mine),
                bootstrap([row["lpips"] for row in mine]),
                psnr=_mean([row["psnr"] for row in mine]),
                ssim=_mean([row["ssim"] for row in mine]),
                iou=_mean([row["iou"] for row in mine]),
                identity=_mean([row["identity"] for row in mine]),
                note="aligned" if mine[0]["foreign_video"] else "",
            )
        )
    present = {row.label for row in rows}
    return rows + [TableRow(label, 0, None, None, None, None, None) for label in SINGLE_IMAGE if label not in present]


def as_markdown(rows: Sequence[TableRow]) -> str:
    """A pipe table."""
    lines = ["| " + " | ".join(HEADER) + " |", "|" + " --- |" * len(HEADER)]
    return "\n".join(lines + ["| " + " | ".join(row.cells()) + " |" for row in rows]) + "\n"


def as_csv(rows: Sequence[TableRow]) -> str:
    """RFC 4180, full precision."""
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(
        ["method", "products", "lpips", "lpips_low", "lpips_high", "psnr", "ssim", "iou", "identity", "note"]
    )
    for row in rows:
        spread = [row.lpips.mean, row.lpips.low, row.lpips.high] if row.lpips else [NOT_MEASURED, "", ""]
        writer.writerow([row.label, row.products, *spread, row.psnr, row.ssim, row.iou, row.identity, row.note])
    return out.getvalue()


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"
