"""Recording of a run: the run record in the catalogue, metrics, and progress callbacks."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Generic, TypeVar

import pyarrow as pa
import ray

import gapray
from gapray.batch.metrics import count, level
from gapray.batch.runs import RunSummary
from gapray.batch.trace import COLUMN, StageTotals
from gapray.catalog.runs import HEARTBEAT_S, write_run
from gapray.catalog.storage import Folder
from gapray.errors import CatalogError, as_gapray_error, writing
from gapray.profile import Profile
from gapray.ray_session import job_config

SummaryT = TypeVar("SummaryT", bound=RunSummary)


class Recorder(Generic[SummaryT]):
    """Processes receipts: updates the run's summary, record and metrics, and calls the progress callback."""

    def __init__(
        self,
        summary: SummaryT,
        folder: Folder,
        *,
        profile: Profile,
        models: Mapping[str, str],
        source: str,
        on_progress: Callable[[SummaryT], None] | None,
    ) -> None:
        self._summary, self._folder, self._profile, self._on_progress = summary, folder, profile, on_progress
        self._started, self._last_beat = time.monotonic(), time.monotonic()
        self._stages: defaultdict[str, StageTotals] = defaultdict(StageTotals)
        self._nodes: Counter[str] = Counter()
        self._held = {"cpu_hours": 0.0, "gpu_hours": 0.0}
        self._peak: dict[str, float] = {}
        self._spilled: list[int] = []
        self._lock = threading.Lock()
        self._fixed = {
            "run_id": summary.run_id,
            "kind": summary.kind,
            "catalog": summary.catalog,
            "source": source,
            "started_at": datetime.now(UTC),
            "driver": {"host": os.uname().nodename, "pid": os.getpid()},
            "job": (job_config().get("metadata") or {}).get("job_submission_id"),
            "code": {"version": gapray.__version__, "revision": revision()},
            "models": dict(models),
            "profile": profile.model_dump(),
        }
        count("gapray_products_total", summary.finished, kind=summary.kind, state="finished")
        self.notify()

    @property
    def run_id(self) -> str:
        """Id of the run that is recorded."""
        return self._summary.run_id

    def add(self, receipts: pa.Table) -> None:
        """Process the receipts of one committed part."""
        summary, kind = self._summary, self._summary.kind
        with self._lock:
            summary.add(receipts)
            for trace in receipts[COLUMN].to_pylist():
                for span in trace["spans"]:
                    self._add_span(span)
        for state, number in Counter(receipts["outcome"].to_pylist()).items():
            count("gapray_products_total", number, kind=kind, state=state)
        for code, number in Counter(filter(None, receipts["code"].to_pylist())).items():
            count("gapray_rejects_total", number, kind=kind, code=code)
        count("gapray_views_total", sum(filter(None, receipts[summary.unit].to_pylist())), kind=kind)
        self.notify()

    def notify(self) -> None:
        """Update the queue depth metric and call the progress callback with the summary."""
        self._summary.seconds = time.monotonic() - self._started
        level("gapray_queue_depth", self._summary.products - self._summary.done, kind=self._summary.kind)
        if self._on_progress:
            self._on_progress(self._summary)

    @contextmanager
    def on_cluster(self) -> Iterator[None]:
        """Record the cluster's resources at the beginning and the end of the block."""
        self.beat()
        try:
            yield
        finally:
            self.beat()

    def beat(self) -> None:
        """Add the time since the last beat to the resource hours held, and write the record."""
        with self._lock:
            now = time.monotonic()
            hours, self._last_beat = (now - self._last_beat) / 3600, now
            held = cluster_resources()
            if (spilled := spilled_bytes()) is not None:
                self._spilled.append(spilled)
            self._held["cpu_hours"] += held.get("CPU", 0.0) * hours
            self._held["gpu_hours"] += held.get("GPU", 0.0) * hours
            for name in ("CPU", "GPU", "nodes"):
                self._peak[name] = max(self._peak.get(name, 0.0), held.get(name, 0.0))
        self.write("running")

    def write(self, state: str, error: BaseException | None = None, *, required: bool = False) -> None:
        """Write the record. Errors are ignored by default, because the run itself reports a catalogue that is not writable.

        Args:
            state: State of the run: `running`, `finished` or `failed`.
            error: The error that ended the run.
            required: Raise if the record cannot be written.

        Raises:
            OSError: The record is required and cannot be written.
        """
        with nullcontext() if required else suppress(OSError), self._lock:
            write_run(self._folder, self._record(state, error))

    def _add_span(self, span: Mapping[str, Any]) -> None:
        totals = self._stages[span["stage"]]
        totals.products += 1
        totals.seconds += span["seconds"]
        totals.gpu_seconds += span["gpu_seconds"]
        totals.retried += span["attempt"] > 0
        self._nodes[span["node"]] += 1

    def _record(self, state: str, error: BaseException | None) -> dict[str, Any]:
        run, summary = self._profile.run, self._summary
        summary.seconds = time.monotonic() - self._started
        prices = {"cpu_hours": run.cpu_hour_price, "gpu_hours": run.gpu_hour_price}
        costs = [self._held[name] * price for name, price in prices.items() if price is not None]
        failure = None
        if error is not None:
            known_error = as_gapray_error(error) if isinstance(error, Exception) else None
            failure = {
                "code": known_error.code if known_error else "stopped",
                "message": known_error.message if known_error else repr(error),
            }
        return {
            **self._fixed,
            "state": state,
            "updated_at": datetime.now(UTC),
            "ended_at": None if state == "running" else datetime.now(UTC),
            "counts": {name: value for name, value in summary.as_dict().items() if isinstance(value, int)},
            "done": summary.done,
            "pieces": {"unit": summary.unit, "count": summary.pieces},
            "rejects_by_code": dict(summary.rejects_by_code),
            "remarks": summary.remarks(),
            "warnings": summary.warning_lines(),
            "gone": summary.gone_names(),
            "seconds": summary.seconds,
            "stages": {name: totals.as_dict() for name, totals in self._stages.items()},
            "spans_by_node": dict(self._nodes),
            "cluster": {name: value for name, value in self._peak.items() if value},
            "held": dict(self._held),
            "spilled_bytes": self._spilled[-1] - self._spilled[0] if self._spilled else 0,
            "cost": sum(costs) if costs else None,
            "error": failure,
        }


@contextmanager
def recorded(
    summary: SummaryT,
    folder: Folder,
    *,
    profile: Profile,
    models: Mapping[str, str],
    source: str,
    on_progress: Callable[[SummaryT], None] | None,
) -> Iterator[Recorder[SummaryT]]:
    """Keep a record of the run in the block, from `running` to `finished` or `failed`, with a heartbeat.

    Args:
        summary: Summary of the run, with the number of its products set; updated as parts are committed.
        folder: The catalogue.
        profile: Profile of the run.
        models: Model name -> hash of its weights.
        source: Path or URI of the run's input.
        on_progress: Called with the summary whenever it has changed.

    Yields:
        A recorder for the run's receipts.

    Raises:
        CatalogError: `catalog.write_failed`: there is pending work, and the catalogue is not writable.
    """
    recorder = Recorder(summary, folder, profile=profile, models=models, source=source, on_progress=on_progress)
    ended = threading.Event()

    def beat_until_ended() -> None:
        while not ended.wait(HEARTBEAT_S):
            recorder.beat()

    if summary.products > summary.finished:
        with writing(CatalogError, "catalog.write_failed", folder.path):
            recorder.write("running", required=True)  # fail before Ray starts if the catalogue is not writable
    else:
        recorder.write("running")
    heartbeat = threading.Thread(target=beat_until_ended, name="gapray-heartbeat", daemon=True)
    heartbeat.start()
    state, failure = "finished", None
    try:
        yield recorder
    except BaseException as error:
        state, failure = "failed", error
        raise
    finally:
        ended.set()
        heartbeat.join()
        recorder.write(state, failure)


def cluster_resources() -> dict[str, float]:
    """Return Ray's current resources, and the number of living nodes as `nodes`; empty without a connection to Ray."""
    if not ray.is_initialized():
        return {}
    try:
        alive = [node for node in ray.nodes() if node["Alive"]]
        return {**ray.cluster_resources(), "nodes": float(len(alive))}
    except Exception:  # the head may be shutting down; recording must not end a run
        return {}


def spilled_bytes() -> int | None:
    """Return the bytes that the cluster's object stores have spilled to disk since they started.

    Uses the same call as Ray Data's statistics. None without a connection to Ray.
    """
    if not ray.is_initialized():
        return None
    from ray._private.internal_api import get_memory_info_reply, get_state_from_address

    try:
        reply = get_memory_info_reply(get_state_from_address(ray.get_runtime_context().gcs_address))
    except Exception:  # the head may be shutting down; recording must not end a run
        return None
    return int(reply.store_stats.spilled_bytes_total)


def revision() -> str | None:
    """Return the commit of the checkout that gapray runs from, with "+" appended if files differ from it.

    An installed gapray returns the variable GAPRAY_REVISION, or None.
    """
    root = Path(__file__).resolve().parent.parent.parent
    if not (root / ".git").exists():
        return os.environ.get("GAPRAY_REVISION")
    command = ["git", "-C", str(root), "describe", "--always", "--dirty=+", "--abbrev=12", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None
