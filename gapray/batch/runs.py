"""What runs tell of themselves: summaries that grow."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar

import pyarrow as pa

from gapray.capture.kinds import described

REJECTS_SHOWN = 20
"""Rejects that a summary lists; the catalogue's `rejects` table has all."""

GONE_KEPT = 1000
"""Products missed in a source that a run's record names; of more it has the number."""


@dataclass
class RunSummary:
    """What a run did. `finished` products were not touched: the catalogue had them."""

    kind: ClassVar[str] = "run"
    verb: ClassVar[str] = "done"
    unit: ClassVar[str] = "pieces"

    run_id: str
    catalog: str
    products: int = 0
    finished: int = 0
    rejected: int = 0
    seconds: float = 0.0
    rejects_by_code: dict[str, int] = field(default_factory=dict)
    rejects: list[dict[str, str]] = field(default_factory=list)

    @property
    def done(self) -> int:
        """Products that this run has brought to an end, the skipped ones included."""
        return self.finished + self.rejected

    @property
    def pieces(self) -> int:
        """Views or frames made."""
        return 0

    def outcomes(self) -> str:
        """Counts for people."""
        return f"{self.finished} already there, {self.rejected} rejected"

    def remarks(self) -> list[str]:
        """Lines for people, beside the counts."""
        return []

    def warning_lines(self) -> list[str]:
        """What looks wrong with the first products that it was about, for people."""
        return []

    def gone_names(self) -> list[str]:
        """Products that it missed in the source, for the record."""
        return []

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        return asdict(self)

    def add(self, receipts: pa.Table) -> None:
        """Count what one part held: a row a product, `outcome` names the field it counts in."""
        for row in receipts.to_pylist():
            setattr(self, row["outcome"], getattr(self, row["outcome"]) + 1)
            setattr(self, self.unit, getattr(self, self.unit) + row[self.unit])
            if row["outcome"] == "rejected":
                self.rejects_by_code[row["code"]] = self.rejects_by_code.get(row["code"], 0) + 1
                if len(self.rejects) < REJECTS_SHOWN:
                    self.rejects.append({name: row[name] for name in ("product_id", "code", "message")})


@dataclass
class PackageWarnings(RunSummary):
    """A run that tells what looks wrong with the photos of the products that it worked on."""

    warned: int = 0
    """Products whose photos look wrong, or came from elsewhere than those before."""
    warnings: list[dict[str, str]] = field(default_factory=list)
    """Warnings of the first `REJECTS_SHOWN` of them: product_id, code and message. The `products` table has all."""

    def warn(self, product_id: str, warnings: Sequence[Mapping[str, str]] | None) -> None:
        """Count a product, and keep what its package says of its photos; nothing if that is empty or None."""
        if warnings:
            self.warned += 1
            if self.warned <= REJECTS_SHOWN:
                self.warnings += [{"product_id": product_id, **warning} for warning in warnings]

    def warning_lines(self) -> list[str]:
        """A line for each warning, for people."""
        lines = [warning_line(warning) for warning in self.warnings]
        if self.warned > REJECTS_SHOWN:
            lines.append(f"… and {self.warned - REJECTS_SHOWN} more: SELECT product_id, warnings FROM products")
        return lines


@dataclass
class PackageSummary(PackageWarnings):
    """What `gapray package` did."""

    kind: ClassVar[str] = "package"
    verb: ClassVar[str] = "packaging"
    unit: ClassVar[str] = "views"

    packaged: int = 0
    unchanged: int = 0
    views: int = 0
    ignored: dict[str, int] = field(default_factory=dict)
    """What lies in the source and is not used, by kind: `gapray.capture.kinds.counted`."""
    gone: int = 0
    """Products that were packaged from this source and lie in it no more."""
    gone_products: list[str] = field(default_factory=list)
    """The first `GONE_KEPT` of them."""

    def add(self, receipts: pa.Table) -> None:
        """Count what one part held, and what looks wrong in it."""
        super().add(receipts)
        for row in receipts.to_pylist():
            self.warn(row["product_id"], row["warnings"])

    def remarks(self) -> list[str]:
        """What lies in the source and is not used, and what lies there no more, a line each."""
        lines = [described(self.ignored)] if self.ignored else []
        if self.gone:
            names = ", ".join(self.gone_products[:REJECTS_SHOWN]) + ", …" * (self.gone > REJECTS_SHOWN)
            lines.append(f"no longer in the source: {self.gone} ({names}); the catalogue keeps what was packaged")
        return lines

    def gone_names(self) -> list[str]:
        """Products that were packaged from this source before and lie in it no more."""
        return self.gone_products

    @property
    def done(self) -> int:
        """See `RunSummary.done`."""
        return self.finished + self.packaged + self.unchanged + self.rejected

    @property
    def pieces(self) -> int:
        """Views."""
        return self.views

    def outcomes(self) -> str:
        """See `RunSummary.outcomes`."""
        return (
            f"{self.packaged} packaged, {self.finished} already there, {self.unchanged} unchanged, "
            f"{self.rejected} rejected"
        )


@dataclass
class RenderSummary(RunSummary):
    """What `gapray render` did; its `products` are videos, one a product and seed."""

    kind: ClassVar[str] = "render"
    verb: ClassVar[str] = "rendering"
    unit: ClassVar[str] = "frames"

    rendered: int = 0
    frames: int = 0
    warned: int = 0
    """Videos of photos that look wrong."""
    warnings: list[str] = field(default_factory=list)
    """What looks wrong with the first of them, a line a video."""

    def add(self, receipts: pa.Table) -> None:
        """Count what one part held, and what looks wrong in it."""
        super().add(receipts)
        for row in receipts.to_pylist():
            if row["warnings"]:
                self.warned += 1
                if len(self.warnings) < REJECTS_SHOWN:
                    self.warnings.append(f"{row['product_id']}: {'; '.join(row['warnings'])}")

    def warning_lines(self) -> list[str]:
        """What looks wrong with the photos."""
        lines = [f"warning {line}" for line in self.warnings]
        if self.warned > len(self.warnings):
            lines.append(f"… and {self.warned - len(self.warnings)} more: SELECT product_id, warnings FROM videos")
        return lines

    @property
    def done(self) -> int:
        """See `RunSummary.done`."""
        return self.finished + self.rendered + self.rejected

    @property
    def pieces(self) -> int:
        """Frames."""
        return self.frames

    def outcomes(self) -> str:
        """See `RunSummary.outcomes`."""
        return f"{self.rendered} rendered, {self.finished} already there, {self.rejected} rejected"


@dataclass
class ScoreSummary(RunSummary):
    """What `gapray score` did; its `products` are videos."""

    kind: ClassVar[str] = "score"
    verb: ClassVar[str] = "scoring"
    unit: ClassVar[str] = "pairs"

    passed: int = 0
    failed: int = 0
    pairs: int = 0
    rejudged: int = 0
    """Those of `finished` that came out otherwise under this run's gate."""
    truth_unused: list[str] = field(default_factory=list)
    """What of the truth photos no score is made with, and why; a line each."""

    def remarks(self) -> list[str]:
        """What of the truth photos is not used."""
        return self.truth_unused

    @property
    def done(self) -> int:
        """See `RunSummary.done`."""
        return self.finished + self.passed + self.failed + self.rejected

    @property
    def pieces(self) -> int:
        """Pairs of image and truth."""
        return self.pairs

    def outcomes(self) -> str:
        """See `RunSummary.outcomes`."""
        return (
            f"{self.passed} passed the gate, {self.failed} failed it, {self.finished} already there"
            f"{f' ({self.rejudged} judged otherwise now)' if self.rejudged else ''}, {self.rejected} rejected"
        )


@dataclass
class StillsSummary(PackageWarnings):
    """What `gapray stills` did; its `products` are pictures of a product in a scene."""

    kind: ClassVar[str] = "stills"
    verb: ClassVar[str] = "drawing"
    unit: ClassVar[str] = "stills"

    passed: int = 0
    failed: int = 0
    stills: int = 0
    rejudged: int = 0
    """Those of `finished` that came out otherwise under this run's gate."""

    @property
    def done(self) -> int:
        """See `RunSummary.done`."""
        return self.finished + self.passed + self.failed + self.rejected

    @property
    def pieces(self) -> int:
        """Pictures."""
        return self.stills

    def outcomes(self) -> str:
        """See `RunSummary.outcomes`."""
        return (
            f"{self.passed} passed the gate, {self.failed} failed it, {self.finished} already there"
            f"{f' ({self.rejudged} judged otherwise now)' if self.rejudged else ''}, {self.rejected} rejected"
        )


def warning_line(warning: Mapping[str, str]) -> str:
    """A line for people of a warning with product_id, code and message."""
    return f"warning {warning['product_id']}: {warning['message']} [{warning['code']}]"


def new_run_id() -> str:
    """Sortable by time, unique."""
    return f"{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}-{uuid.uuid4().hex[:8]}"


def absolute(uri: str) -> str:
    """A local path made absolute; a URI as it is."""
    return uri if "://" in uri else os.path.abspath(os.path.expanduser(uri))
