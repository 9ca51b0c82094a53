"""Deletion of jobs without leftovers, in three steps (mark, files, row), and removal of files that belong to no job.

If the storage fails or the process dies in between, a marked row remains and the deletion is retried. A worker that is still
running a deleted job leaves nothing behind (`Artifacts.is_current`). The sweeper finds what a killed worker leaves, and
uploads whose job was never accepted.
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
_RETRY_S = 60.0
"""Time until a failed deletion is retried [s]."""
_JOB_ID = re.compile(r"[0-9a-f]{32}")


def delete_job(store: JobStore, artifacts: Artifacts, job_id: str) -> bool:
    """Delete a job and all its files.

    When this returns, the job no longer exists for clients and workers, even if the storage failed.

    On a full disk the files are removed first, because there is no room for the mark before.

    Returns:
        Whether all files are gone; if not, `JobStore.due_for_removal` returns the job again after a minute.
    """
    try:
        store.mark_deleted(job_id)
    except OperationalError as error:
        if not is_full(error):
            raise
        # If the database and the files share a disk, there is room for the mark once the files are gone.
        _remove_files(artifacts, job_id)
        store.mark_deleted(job_id)
    try:
        _remove_files(artifacts, job_id)
    except ServeError as error:
        log.warning("job %s is deleted, its files are not yet: %s", job_id, error)
        store.postpone(job_id, _RETRY_S)
        return False
    store.erase(job_id)
    return True


def _remove_files(artifacts: Artifacts, job_id: str) -> None:
    for folder in (UPLOADS, RESULTS):
        artifacts.remove(f"{folder}/{job_id}")


class Sweeper:
    """Removes files that have had no job for `grace_s`; uploads are stored before their job, hence the grace period.

    An artifact store belongs to the database that claimed it first. The jobs of any other database are unknown here, so
    all of their files would look like orphans.
    """

    def __init__(self, store: JobStore, artifacts: Artifacts, grace_s: float) -> None:
        self._store, self._artifacts, self._grace_s = store, artifacts, grace_s
        self._orphaned_since: dict[str, float] = {}
        """Folder -> when it was first seen without a job, on the monotonic clock [s]."""

    def sweep(self) -> list[str]:
        """Remove the folders whose grace period is over, and return them.

        Raises:
            ServeError: `artifacts.failed` if the store cannot be listed.
        """
        database_id = self._store.database_id()
        if (owner := self._artifacts.claim(database_id)) != database_id:
            log.warning(
                "nothing is swept: the artifact store belongs to database %s, and this is %s", owner, database_id
            )
            return []
        now, orphans = time.monotonic(), self._orphans()
        self._orphaned_since = {folder: self._orphaned_since.get(folder, now) for folder in orphans}
        removed = []
        for folder, since in self._orphaned_since.items():
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
        """Return the upload and result folders whose job is not in the database."""
        folders = [
            (kind, job_id)
            for kind in (UPLOADS, RESULTS)
            for job_id in self._artifacts.names(kind)
            if _JOB_ID.fullmatch(job_id)
        ]
        existing = self._store.existing({job_id for _, job_id in folders})
        return [f"{kind}/{job_id}" for kind, job_id in folders if job_id not in existing]
