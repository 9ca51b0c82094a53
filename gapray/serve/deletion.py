"""Removing jobs so that nothing of them stays: the mark, then the files, then the row; and files that no job owns.

A storage that fails or a process that dies in between leaves a marked row, which is tried again. A worker that is still at
work on a deleted job leaves nothing behind (`Artifacts.holds`); what a killed one leaves, and uploads whose job was never
accepted, the sweeper finds.
"""

from __future__ import annotations

import logging
import re
import time

from sqlalchemy.exc import OperationalError

from gapray.errors import ServeError
from gapray.serve.artifacts import RESULTS, UPLOADS, Artifacts
from gapray.serve.store import JobStore
from gapray.serve.tables import is_full

log = logging.getLogger("gapray.serve")
_AGAIN_S = 60.0
_JOB_ID = re.compile(r"[0-9a-f]{32}")


def forget(store: JobStore, artifacts: Artifacts, job_id: str) -> bool:
    """Remove a job and all its files.

    For clients and workers it is gone when this returns, whatever the storage does.

    On a full disk the files go first, because the mark finds no room before.

    Returns:
        Whether all files are gone; if not, `JobStore.doomed` names the job again after a minute.
    """
    try:
        store.mark_deleted(job_id)
    except OperationalError as error:
        if not is_full(error):
            raise
        # Where database and files share a disk, there is room for the mark once the files are gone.
        _remove_files(artifacts, job_id)
        store.mark_deleted(job_id)
    try:
        _remove_files(artifacts, job_id)
    except ServeError as error:
        log.warning("job %s is deleted, its files are not yet: %s", job_id, error)
        store.postpone(job_id, _AGAIN_S)
        return False
    store.erase(job_id)
    return True


def _remove_files(artifacts: Artifacts, job_id: str) -> None:
    for folder in (UPLOADS, RESULTS):
        artifacts.remove(f"{folder}/{job_id}")


class Sweeper:
    """Removes files that no job owns, once they were seen without an owner for `grace_s`: uploads come before their job.

    An artifact store belongs to the database that claimed it first. Another database's jobs are unknown here, and their
    files would all look like nobody's.
    """

    def __init__(self, store: JobStore, artifacts: Artifacts, grace_s: float) -> None:
        self._store, self._artifacts, self._grace_s = store, artifacts, grace_s
        self._seen: dict[str, float] = {}
        """Folder -> when it was first seen without an owner, on the monotonic clock [s]."""

    def sweep(self) -> list[str]:
        """Look once; returns the folders that were removed.

        Raises:
            ServeError: `artifacts.failed` when the store cannot be listed.
        """
        ours = self._store.database_id()
        if (owner := self._artifacts.claim(ours)) != ours:
            log.warning("nothing is swept: the artifact store belongs to database %s, and this is %s", owner, ours)
            return []
        now, orphans = time.monotonic(), self._orphans()
        self._seen = {folder: self._seen.get(folder, now) for folder in orphans}
        removed = []
        for folder, since in self._seen.items():
            if now - since < self._grace_s:
                continue
            try:
                self._artifacts.remove(folder)
            except ServeError as error:
                log.warning("%s belongs to no job and cannot be removed: %s", folder, error)
            else:
                log.info("%s belonged to no job and was removed", folder)
                removed.append(folder)
        return removed

    def _orphans(self) -> list[str]:
        there = [
            (kind, job_id)
            for kind in (UPLOADS, RESULTS)
            for job_id in self._artifacts.names(kind)
            if _JOB_ID.fullmatch(job_id)
        ]
        known = self._store.known({job_id for _, job_id in there})
        return [f"{kind}/{job_id}" for kind, job_id in there if job_id not in known]
