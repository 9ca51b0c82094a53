"""Summaries of runs, updated as parts are committed."""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any, ClassVar

import pyarrow as pa

from gapray.capture.kinds import described

REJECTS_SHOWN = 20
"""Maximum number of rejects in a summary; the catalogue's `rejects` table has all of them."""

GONE_KEPT = 1000
"""Maximum number of products gone from the source that a run record names; it always has their count."""


@dataclass
class RunSummary:
    """Counts and messages of a run, whatever its kind."""

    kind: ClassVar[str] = "run"
    verb: ClassVar[str] = "done"
    unit: ClassVar[str] = "pieces"

    run_id: str
    catalog: str
    products: int = 0
    """Products of the run, finished ones included."""
    finished: int = 0
    """Products that were skipped because the catalogue had their results."""
    rejected: int = 0
    seconds: float = 0.0
    """Wall time so far [s]."""
    rejects_by_code: dict[str, int] = field(default_factory=dict)
    rejects: list[dict[str, str]] = field(default_factory=list)
    """The first `REJECTS_SHOWN` rejects: product_id, code and message."""

    @property
    def done(self) -> int:
        """Products that the run has completed, skipped ones included."""
        return self.finished + self.rejected

    @property
    def pieces(self) -> int:
        """Number of pieces made: views, frames, pairs or stills (`unit`)."""
        return 0

    def outcomes(self) -> str:
        """Return the counts as one line of text."""
        return f"{self.finished} already there, {self.rejected} rejected"

    def remarks(self) -> list[str]:
        """Return further lines of text to show after the counts."""
        return []

    def warning_lines(self) -> list[str]:
        """Return the warnings of the first products, one line each."""
        return []

    def gone_names(self) -> list[str]:
        """Return the products that are gone from the source, for the run record."""
        return []

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as plain data for ``--json``."""
        return asdict(self)

    def add(self, receipts: pa.Table) -> None:
        """Count the receipts of one part: one row per product, whose `outcome` names the field to increment."""
        for row in receipts.to_pylist():
            setattr(self, row["outcome"], getattr(self, row["outcome"]) + 1)
            setattr(self, self.unit, getattr(self, self.unit) + row[self.unit])
            if row["outcome"] == "rejected":
                self.rejects_by_code[row["code"]] = self.rejects_by_code.get(row["code"], 0) + 1
                if len(self.rejects) < REJECTS_SHOWN:
                    self.rejects.append({name: row[name] for name in ("product_id", "code", "message")})


@dataclass
class PackageWarnings(RunSummary):
    """Base of the summaries of runs that report warnings about the photos of their products."""

    warned: int = 0
    """Products with warnings: their photos look wrong, or replace photos from another location."""
    warnings: list[dict[str, str]] = field(default_factory=list)
    """Warnings of the first `REJECTS_SHOWN` of them: product_id, code and message. The `products` table has all."""

    def warn(self, product_id: str, warnings: Sequence[Mapping[str, str]] | None) -> None:
        """Add the warnings of one product's package, if there are any."""
        if warnings:
            self.warned += 1
            if self.warned <= REJECTS_SHOWN:
                self.warnings += [{"product_id": product_id, **warning} for warning in warnings]

    def warning_lines(self) -> list[str]:
        """Return the warnings of the first products, one line each, and the number of further products."""
        lines = [warning_line(warning) for warning in self.warnings]
        if self.warned > REJECTS_SHOWN:
            lines.append(f"… and {self.warned - REJECTS_SHOWN} more: SELECT product_id, warnings FROM products")
        return lines


@dataclass
class PackageSummary(PackageWarnings):
    """Summary of `gapray package`."""

    kind: ClassVar[str] = "package"
    verb: ClassVar[str] = "packaging"
    unit: ClassVar[str] = "views"

    packaged: int = 0
    unchanged: int = 0
    views: int = 0
    ignored: dict[str, int] = field(default_factory=dict)
    """Kind of file -> number of files in the source that are not used (`gapray.capture.kinds.counted`)."""
    gone: int = 0
    """Products that were packaged from this source and are no longer in it."""
    gone_products: list[str] = field(default_factory=list)
    """The first `GONE_KEPT` of them."""

    def add(self, receipts: pa.Table) -> None:
        """Count the receipts and warnings of one part."""
        super().add(receipts)
        for row in receipts.to_pylist():
            self.warn(row["product_id"], row["warnings"])

    def remarks(self) -> list[str]:
        """Return lines about unused files in the source and products that are gone from it."""
        lines = [described(self.ignored)] if self.ignored else []
        if self.gone:
            names = ", ".join(self.gone_products[:REJECTS_SHOWN]) + ", …" * (self.gone > REJECTS_SHOWN)
            lines.append(f"no longer in the source: {self.gone} ({names}); the catalogue keeps what was packaged")
        return lines

    def gone_names(self) -> list[str]:
        """Return the products that were packaged from this source and are no longer in it, at most `GONE_KEPT`."""
        return self.gone_products

    @property
    def done(self) -> int:
        """Products that the run has completed, skipped ones included."""
        return self.finished + self.packaged + self.unchanged + self.rejected

    @property
    def pieces(self) -> int:
        """Number of views packaged."""
        return self.views

    def outcomes(self) -> str:
        """Return the counts as one line of text."""
        return (
            f"{self.packaged} packaged, {self.finished} already there, {self.unchanged} unchanged, "
            f"{self.rejected} rejected"
        )


@dataclass
class RenderSummary(RunSummary):
    """Summary of `gapray render`. Its `products` count videos: one per product and seed."""

    kind: ClassVar[str] = "render"
    verb: ClassVar[str] = "rendering"
    unit: ClassVar[str] = "frames"

    rendered: int = 0
    frames: int = 0
    warned: int = 0
    """Videos whose photos look wrong."""
    warnings: list[str] = field(default_factory=list)
    """Warnings of the first of them, one line per video."""

    def add(self, receipts: pa.Table) -> None:
        """Count the receipts and warnings of one part."""
        super().add(receipts)
        for row in receipts.to_pylist():
            if row["warnings"]:
                self.warned += 1
                if len(self.warnings) < REJECTS_SHOWN:
                    self.warnings.append(f"{row['product_id']}: {'; '.join(row['warnings'])}")

    def warning_lines(self) -> list[str]:
        """Return the warnings of the first videos, one line each, and the number of further videos."""
        lines = [f"warning {line}" for line in self.warnings]
        if self.warned > len(self.warnings):
            lines.append(f"… and {self.warned - len(self.warnings)} more: SELECT product_id, warnings FROM videos")
        return lines

    @property
    def done(self) -> int:
        """Videos that the run has completed, skipped ones included."""
        return self.finished + self.rendered + self.rejected

    @property
    def pieces(self) -> int:
        """Number of frames drawn."""
        return self.frames

    def outcomes(self) -> str:
        """Return the counts as one line of text."""
        return f"{self.rendered} rendered, {self.finished} already there, {self.rejected} rejected"


@dataclass
class GatedSummary(RunSummary):
    """Base of the summaries of runs that judge what they make."""

    passed: int = 0
    failed: int = 0
    rejudged: int = 0
    """Finished items whose verdict has changed under this run's gate."""

    @property
    def done(self) -> int:
        """Items that the run has completed, skipped ones included."""
        return self.finished + self.passed + self.failed + self.rejected

    def outcomes(self) -> str:
        """Return the counts as one line of text."""
        return (
            f"{self.passed} passed the gate, {self.failed} failed it, {self.finished} already there"
            f"{f' ({self.rejudged} judged otherwise now)' if self.rejudged else ''}, {self.rejected} rejected"
        )


@dataclass
class ScoreSummary(GatedSummary):
    """Summary of `gapray score`. Its `products` count videos."""

    kind: ClassVar[str] = "score"
    verb: ClassVar[str] = "scoring"
    unit: ClassVar[str] = "pairs"

    pairs: int = 0
    truth_unused: list[str] = field(default_factory=list)
    """Lines about truth photos that are not used, and why."""

    def remarks(self) -> list[str]:
        """Return lines about truth photos that are not used."""
        return self.truth_unused

    @property
    def pieces(self) -> int:
        """Number of pairs of image and truth scored."""
        return self.pairs


@dataclass
class StillsSummary(GatedSummary, PackageWarnings):
    """Summary of `gapray stills`. Its `products` count stills: one per product, scene and seed."""

    kind: ClassVar[str] = "stills"
    verb: ClassVar[str] = "drawing"
    unit: ClassVar[str] = "stills"

    stills: int = 0

    @property
    def pieces(self) -> int:
        """Number of stills drawn."""
        return self.stills


def warning_line(warning: Mapping[str, str]) -> str:
    """Format a warning with product_id, code and message as one line."""
    return f"warning {warning['product_id']}: {warning['message']} [{warning['code']}]"


def new_run_id() -> str:
    """Return a unique run id that sorts by time, to the millisecond: small runs take less than a second."""
    now = datetime.now(UTC)
    return f"{now:%Y%m%dT%H%M%S}{now.microsecond // 1000:03d}-{uuid.uuid4().hex[:8]}"


def absolute_uri(uri: str) -> str:
    """Make a local path absolute; a URI is returned as is."""
    return uri if "://" in uri else os.path.abspath(os.path.expanduser(uri))
