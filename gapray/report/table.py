"""The fidelity table: gapray's videos, the baselines, foreign videos, and methods that were not measured."""

from __future__ import annotations

import csv
import html
import io
from collections.abc import Sequence
from dataclasses import dataclass

from gapray.catalog.reader import Catalog
from gapray.fidelity.baselines import BASELINES
from gapray.fidelity.score import OURS
from gapray.fidelity.stats import Interval, bootstrap

NOT_MEASURED = "not measured"
SINGLE_IMAGE = ("single-image diffusion", "Runway Gen-3")
"""Methods to compare with, whose rows are empty until a video of theirs has been scored."""


@dataclass(frozen=True)
class TableRow:
    """Scores of one method: means over products of each product's mean over in-between angles."""

    label: str
    products: int
    lpips: Interval | None
    psnr: float | None
    ssim: float | None
    iou: float | None
    identity: float | None
    note: str = ""

    def cells(self) -> list[str]:
        """Return the row as text, one string for each column of `HEADER`."""
        if self.lpips is None:
            return [self.label, "0", NOT_MEASURED, "", "", "", "", self.note]
        numbers = [_number(self.psnr, 1), _number(self.ssim, 3), _number(self.iou, 3), _number(self.identity, 3)]
        spread = f"{self.lpips.mean:.3f} ({self.lpips.low:.3f} – {self.lpips.high:.3f})"
        return [self.label, str(self.products), spread, *numbers, self.note]


HEADER = ["method", "products", "LPIPS (95%)", "PSNR dB", "SSIM", "IoU", "identity", "note"]


def fidelity_table(catalog: Catalog, product_id: str | None = None) -> list[TableRow]:
    """Return the table of a catalogue, or of one product: a row per method, gapray first.

    Methods in `SINGLE_IMAGE` that have no scores get an empty row.
    """
    verdicts = [row for row in catalog.verdicts(product_id).to_pylist() if row["lpips"] is not None]
    best = {(row["product_id"], row["key"]) for row in catalog.best_videos(product_id).to_pylist()}
    # Of several videos of a product only the published one counts; foreign videos all count.
    counted = [row for row in verdicts if row["foreign_video"] or (row["product_id"], row["video_key"]) in best]
    labels = [OURS, *BASELINES]
    labels += sorted({row["label"] for row in counted} - set(labels))
    rows = []
    for label in labels:
        labelled = [row for row in counted if row["label"] == label]
        if not labelled:
            continue
        rows.append(
            TableRow(
                label,
                len(labelled),
                bootstrap([row["lpips"] for row in labelled]),
                psnr=_mean([row["psnr"] for row in labelled]),
                ssim=_mean([row["ssim"] for row in labelled]),
                iou=_mean([row["iou"] for row in labelled]),
                identity=_mean([row["identity"] for row in labelled]),
                note="aligned" if labelled[0]["foreign_video"] else "",
            )
        )
    present = {row.label for row in rows}
    return rows + [TableRow(label, 0, None, None, None, None, None) for label in SINGLE_IMAGE if label not in present]


def as_markdown(rows: Sequence[TableRow]) -> str:
    """Format the table as Markdown."""
    lines = ["| " + " | ".join(HEADER) + " |", "|" + " --- |" * len(HEADER)]
    cells = ([_markdown_text(cell) for cell in row.cells()] for row in rows)
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in cells)]) + "\n"


def as_csv(rows: Sequence[TableRow]) -> str:
    """Format the table as CSV (RFC 4180) with full precision."""
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(
        ["method", "products", "lpips", "lpips_low", "lpips_high", "psnr", "ssim", "iou", "identity", "note"]
    )
    for row in rows:
        spread = [row.lpips.mean, row.lpips.low, row.lpips.high] if row.lpips else [NOT_MEASURED, "", ""]
        label, note = _spreadsheet_text(row.label), _spreadsheet_text(row.note)
        writer.writerow([label, row.products, *spread, row.psnr, row.ssim, row.iou, row.identity, note])
    return out.getvalue()


def _markdown_text(text: str) -> str:
    """Escape what would end the cell or be read as HTML."""
    return html.escape(" ".join(text.split()), quote=False).replace("|", "\\|")


def _spreadsheet_text(text: str) -> str:
    """Put an apostrophe before text that a spreadsheet would run as a formula (OWASP, CSV injection)."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"
