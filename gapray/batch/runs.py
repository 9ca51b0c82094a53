"""What all runs share: a summary that grows, a connection to Ray, a manifest that every node can read."""

from __future__ import annotations

import json
import logging
import os
import re
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.parquet as pq
import ray
import ray.data
import ray.data.exceptions

from gapray import errors
from gapray.batch.trace import begun, with_trace
from gapray.capture.kinds import described
from gapray.catalog.storage import Folder
from gapray.config import worker_environment
from gapray.environment import environment_kept
from gapray.errors import CatalogError, GaprayError, ResourceError

MANIFEST_ROWS = 8192
_RAISED = re.compile(r"gapray\.errors\.(\w+Error): (.*) \[([a-z]+\.[a-z_]+)\]")
"""A traceback's last line for an error of ours: type, message, code."""
REJECTS_SHOWN = 20
"""Rejects that a summary lists; the catalogue's `rejects` table has all."""


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
class PackageSummary(RunSummary):
    """What `gapray package` did."""

    kind: ClassVar[str] = "package"
    verb: ClassVar[str] = "packaging"
    unit: ClassVar[str] = "views"

    packaged: int = 0
    unchanged: int = 0
    views: int = 0
    ignored: dict[str, int] = field(default_factory=dict)
    """What lies in the source and is not used, by kind: `gapray.capture.kinds.counted`."""

    def remarks(self) -> list[str]:
        """See `RunSummary.remarks`."""
        return [described(self.ignored)] if self.ignored else []

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
    """Of `finished`, those that came out otherwise under this run's gate."""

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
class StillsSummary(RunSummary):
    """What `gapray stills` did; its `products` are pictures of a product in a scene."""

    kind: ClassVar[str] = "stills"
    verb: ClassVar[str] = "drawing"
    unit: ClassVar[str] = "stills"

    passed: int = 0
    failed: int = 0
    stills: int = 0
    rejudged: int = 0
    """Of `finished`, those that came out otherwise under this run's gate."""

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


def job_config() -> dict[str, Any]:
    """What Ray tells the entry point of a submitted job of itself: `metadata` and `runtime_env`; empty in no job."""
    told: dict[str, Any] = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR") or "{}")
    return told


@contextmanager
def connected(address: str | None) -> Iterator[None]:
    """A connection to a Ray cluster; one that this process has already is used and left alone.

    The caller's loggers and environment are afterwards as they were.

    Raises:
        GaprayError: As `ours_raised`, for what the body raises.
    """
    with quiet_ray(), ours_raised():
        if ray.is_initialized():
            yield
            return
        # Ray's C++ side writes advice about our actors on every driver's standard error; what fails reaches us as exceptions.
        with environment_kept(RAY_BACKEND_LOG_LEVEL="fatal"):
            _start(address)
        try:
            yield
        finally:
            ray.shutdown()


def _start(address: str | None) -> None:
    quiet: dict[str, Any] = {"logging_level": logging.WARNING, "log_to_driver": False}
    remote = address or os.environ.get("RAY_ADDRESS")
    if remote:
        # What the job gives its workers already, Ray refuses to be given again, even with the same value.
        given = (job_config().get("runtime_env") or {}).get("env_vars") or {}
        shared = {name: value for name, value in worker_environment(os.environ).items() if name not in given}
        ray.init(address=remote, runtime_env={"env_vars": shared}, **quiet)
    else:
        ray.init("local", include_dashboard=False, **quiet)


@contextmanager
def ours_raised() -> Iterator[None]:
    """Let an error that gapray raised in a worker be raised here as itself, not wrapped in Ray's.

    Raises:
        GaprayError: The worker's own.
        ResourceError: `cluster.failed`: Ray itself gave up on a piece of the run; `cluster.stalled`: nothing moved for
            `run.no_progress_s`.
    """
    try:
        yield
    except ray.data.exceptions.ExecutionTimeoutError as error:
        what = str(error).partition(" of scheduling time")[0]
        raise ResourceError("cluster.stalled", f"the run stood still: {what}") from error
    except ray.exceptions.RayError as error:
        chain: list[BaseException] = [error]
        while (inner := getattr(chain[-1], "cause", None) or chain[-1].__cause__) is not None and inner not in chain:
            chain.append(inner)
        for one in chain:
            # Ray also makes exceptions that are both its own and ours; theirs print a trace.
            if isinstance(one, GaprayError) and not isinstance(one, ray.exceptions.RayError):
                raise one from error
            if isinstance(one, ray.exceptions.RayActorError) and (told := _told_by(one)):
                raise told from error
        # A `RayTaskError` around anything else is a defect of the code that ran: its trace is wanted.
        for one in chain:
            if isinstance(one, ray.exceptions.RayError) and not isinstance(one, ray.exceptions.RayTaskError):
                what = str(one).strip().partition("\n")[0]
                raise ResourceError("cluster.failed", f"Ray ended the run: {type(one).__name__}: {what}") from error
        raise


def _told_by(error: ray.exceptions.RayActorError) -> GaprayError | None:
    """The error that an actor's constructor raised: Ray keeps only its text."""
    found = _RAISED.findall(str(error))
    if not found:
        return None
    kind, message, code = found[-1]
    raised: GaprayError = getattr(errors, kind)(code, message)
    return raised


@contextmanager
def quiet_ray() -> Iterator[None]:
    """Ray's loggers without what it says below a warning, those of Ray Data below an error; afterwards as they were."""
    levels = {"ray": logging.WARNING, "ray.data": logging.ERROR, "ray._private.authentication": logging.ERROR}
    before = {name: logging.getLogger(name).level for name in levels}
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)
    try:
        yield
    finally:
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)


def new_run_id() -> str:
    """Sortable by time, unique."""
    return f"{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}-{uuid.uuid4().hex[:8]}"


@contextmanager
def published(manifest: Path, folder: Folder, run_id: str) -> Iterator[str]:
    """A manifest where every node can read it, beside the catalogue's tables, each row with the beginning of its trace."""
    name = f"{run_id}.parquet"
    traced = manifest.with_name(f"traced-{name}")
    with pq.ParquetFile(manifest) as file, pq.ParquetWriter(traced, with_trace(file.schema_arrow)) as writer:
        for batch in file.iter_batches(batch_size=MANIFEST_ROWS):
            writer.write_table(begun(pa.Table.from_batches([batch]), run_id))
    try:
        folder.put("manifests", name, pa.memory_map(str(traced)).read_buffer())
    except OSError as error:
        raise CatalogError("catalog.write_failed", f"{folder.path}: {error}") from error
    uri = f"{folder.path}/manifests/{name}"
    try:
        yield uri
    finally:
        folder.remove(uri)


def absolute(uri: str) -> str:
    """A local path made absolute; a URI as it is."""
    return uri if "://" in uri else str(Path(uri).expanduser().absolute())
