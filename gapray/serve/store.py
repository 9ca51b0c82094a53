"""The job store: jobs in a database are accepted once, leased to one worker at a time, and finished once.

Every change of a running job names the attempt it belongs to (compare-and-set), so that a worker that was presumed dead
cannot change anything. A job's result and its webhook are written in one transaction. A deleted job is first marked, which
ends it for clients and workers; its row is removed once its files are gone.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import Any, Literal
from urllib.parse import urlsplit

import sqlalchemy as sa
from pydantic import TypeAdapter, ValidationError

from gapray.errors import InputError, ServeError
from gapray.serve.jobs import FINAL, GenerationParams, Job, JobInput, Kind, NewJob
from gapray.serve.tables import connect, database, jobs, webhooks, write_transaction
from gapray.serve.text import escaped

log = logging.getLogger("gapray.serve")
_COLUMNS = [jobs.c[name] for name in Job.__dataclass_fields__]
_ROW = TypeAdapter(Job)
_NOT_DELETED = jobs.c.deleted_at.is_(None)
_WEBHOOK_LEASE_S = 60.0
"""How long a webhook is reserved for the process that tries it [s]."""
_WEBHOOK_BATCH = 1000
"""Due webhooks that are considered at once."""
_DELIVERIES_PER_HOST = 2
"""Webhooks that are delivered to one host concurrently."""
_IDS_PER_STATEMENT = 500
"""SQLite accepts at least 999 parameters per statement."""


@dataclass(frozen=True)
class PendingWebhook:
    """A webhook to deliver; its id stays the same for all tries."""

    id: str
    job_id: str
    url: str
    tries: int
    """Number of tries so far, including the one that it was returned for."""
    owner: str
    """Owner of the job."""

    @property
    def host(self) -> str:
        """Host name of the receiver."""
        return (urlsplit(self.url).hostname or "").lower()


@dataclass(frozen=True)
class _Lease:
    """A running job's lease as this process saw it."""

    attempt: int
    until: float | None
    """End of the lease [Unix s]."""
    since: float
    """When this process first saw it unchanged [s on the monotonic clock]."""


class JobStore:
    """Operations on jobs. Safe to use from threads and from several processes."""

    def __init__(self, url: str) -> None:
        self.engine = connect(url)
        self._turns = count()
        self._last_turns: dict[str, int] = {}
        """Owner -> number of the turn in which this store last leased a job of that owner. Kept here because clients can
        delete rows."""
        self._leases: dict[str, _Lease] = {}
        """Id of a running job -> its lease as this store last saw it."""

    # ---- for clients --------------------------------------------------------------------------------------------

    def submit(
        self,
        new: NewJob,
        *,
        max_queued: int,
        keep_s: float,
        max_per_owner: int | None = None,
        concurrent: int | None = None,
    ) -> Job:
        """Accept a job; it is in the database when this returns.

        A second submission with the same idempotency key returns the first one's job.

        Args:
            new: The job.
            max_queued: Maximum number of queued jobs of all owners.
            keep_s: How long the job is kept [s].
            max_per_owner: Maximum number of queued jobs of the job's owner; None = no limit.
            concurrent: Maximum number of queued and running jobs of the owner; None = no limit.

        Raises:
            ServeError: `queue.full`, `queue.key_full` or `rate.exceeded` (too many queued and running jobs of this owner).
            InputError: `request.idempotency_mismatch`.
        """
        now = time.time()
        with write_transaction(self.engine) as connection:
            if new.idempotency_key and (existing := self._by_idempotency_key(connection, new)):
                return existing
            _lock_owner(connection, new.owner)
            _refuse_full(connection, new.owner, max_queued, max_per_owner)
            if concurrent is not None:
                unfinished = jobs.c.owner == new.owner, jobs.c.status.in_(("queued", "running"))
                if connection.execute(_count().where(*unfinished)).scalar_one() >= concurrent:
                    raise ServeError("rate.exceeded", f"this key may have {concurrent} jobs at once")
            row = {
                "id": new.id,
                "owner": new.owner,
                "api": new.api,
                "kind": new.kind,
                "endpoint": new.endpoint,
                "model": new.model,
                "status": "queued",
                "stage": "",
                "progress": 0,
                "making": new.making.model_dump(exclude_none=True),
                "input": new.input.model_dump(exclude_none=True),
                "digest": new.digest,
                "idempotency_key": new.idempotency_key,
                "webhook": new.webhook,
                "created_at": now,
                "expires_at": now + keep_s,
                "wait_until": new.wait_until,
                "attempt": 0,
                "tried_before": 0,
                "timeout_s": new.timeout_s,
            }
            try:
                with connection.begin_nested():
                    connection.execute(jobs.insert().values(row))
            except sa.exc.IntegrityError:
                # Another process has used the same idempotency key meanwhile.
                if existing := self._by_idempotency_key(connection, new):
                    return existing
                raise
            return _job(connection.execute(sa.select(*_COLUMNS).where(jobs.c.id == new.id)).one())

    def refuse_when_full(self, owner: str, *, max_queued: int, max_per_owner: int | None = None) -> None:
        """Raise if `submit` would refuse a job of `owner` because of the length of the queue.

        Raises:
            ServeError: `queue.full` or `queue.key_full`.
        """
        with self.engine.connect() as connection:
            _refuse_full(connection, owner, max_queued, max_per_owner)

    def get(self, job_id: str, owner: str | None) -> Job:
        """Return a job of `owner` (None = of any owner).

        Raises:
            InputError: `job.not_found`, also for another owner's job, so that its existence is not revealed.
        """
        with self.engine.connect() as connection:
            return self._get(connection, job_id, owner)

    def page(
        self,
        owner: str | None,
        *,
        after: str | None = None,
        limit: int = 20,
        order: Literal["asc", "desc"] = "desc",
        kind: Kind | None = None,
    ) -> tuple[list[Job], bool]:
        """Return a page of jobs, ordered by time of acceptance, and whether there are more.

        Args:
            owner: Whose jobs; None = all owners'.
            after: Id of the last job of the previous page.
            limit: Maximum number of jobs.
            order: Oldest (``asc``) or newest (``desc``) first.
            kind: Only jobs of this kind.

        Raises:
            InputError: `job.not_found` if `after` names no job.
        """
        query = sa.select(*_COLUMNS).where(_NOT_DELETED)
        if owner is not None:
            query = query.where(jobs.c.owner == owner)
        if kind is not None:
            query = query.where(jobs.c.kind == kind)
        position = sa.tuple_(jobs.c.created_at, jobs.c.id)
        with self.engine.connect() as connection:
            if after is not None:
                last = self._get(connection, after, owner)
                start = sa.tuple_(sa.literal(last.created_at), sa.literal(last.id))
                query = query.where(position > start if order == "asc" else position < start)
            direction = sa.asc if order == "asc" else sa.desc
            query = query.order_by(direction(jobs.c.created_at), direction(jobs.c.id)).limit(limit + 1)
            page = [_job(row) for row in connection.execute(query)]
        return page[:limit], len(page) > limit

    def cancel(self, job_id: str, owner: str | None) -> Job:
        """Cancel a job that is not final; its worker learns of it at the next heartbeat.

        Raises:
            InputError: `job.not_found`.
        """
        with write_transaction(self.engine) as connection:
            self._get(connection, job_id, owner)
            _finish(
                connection,
                [jobs.c.id == job_id],
                status="cancelled",
                error_code="job.cancelled",
                error_message="the job was cancelled",
            )
            return self._get(connection, job_id, owner)

    def retry(
        self, job_id: str, owner: str | None, *, max_queued: int | None = None, max_per_owner: int | None = None
    ) -> Job:
        """Queue a failed job again, with a new allowance of attempts.

        Raises:
            InputError: `job.not_found` or `job.not_failed`.
            ServeError: `queue.full` or `queue.key_full`.
        """
        with write_transaction(self.engine) as connection:
            job = self._get(connection, job_id, owner)
            _lock_owner(connection, job.owner)
            _refuse_full(connection, job.owner, max_queued, max_per_owner)
            changed = connection.execute(
                jobs.update()
                .where(jobs.c.id == job_id, jobs.c.status == "failed")
                .values(
                    status="queued",
                    stage="",
                    progress=0,
                    # Attempts keep counting up, so that a number of an earlier worker is not used again.
                    tried_before=job.attempt,
                    wait_until=None,
                    lease_owner=None,
                    lease_until=None,
                    started_at=None,
                    finished_at=None,
                    error_code=None,
                    error_message=None,
                    result=None,
                )
            )
            if not changed.rowcount:
                raise InputError("job.not_failed", f"job {job_id} is {job.status}")
            return self._get(connection, job_id, owner)

    def purge(self, owner: str | None, endpoint: str | None = None) -> int:
        """Cancel all queued jobs (of an owner, of an endpoint); returns their number."""
        conditions = [jobs.c.status == "queued"]
        if owner is not None:
            conditions.append(jobs.c.owner == owner)
        if endpoint is not None:
            conditions.append(jobs.c.endpoint == endpoint)
        with write_transaction(self.engine) as connection:
            return _finish(
                connection,
                conditions,
                status="cancelled",
                error_code="job.cancelled",
                error_message="the queue was emptied",
            )

    def counts(self, owner: str | None = None, endpoint: str | None = None, kind: Kind | None = None) -> dict[str, int]:
        """Return the number of jobs by status and, under ``retried``, the number of attempts beyond the first."""
        retries = sa.func.sum(sa.case((jobs.c.attempt > 1, jobs.c.attempt - 1), else_=0))
        query = sa.select(jobs.c.status, sa.func.count(), retries).where(_NOT_DELETED).group_by(jobs.c.status)
        if owner is not None:
            query = query.where(jobs.c.owner == owner)
        if endpoint is not None:
            query = query.where(jobs.c.endpoint == endpoint)
        if kind is not None:
            query = query.where(jobs.c.kind == kind)
        counts = dict.fromkeys(("queued", "running", "completed", "failed", "cancelled", "retried"), 0)
        with self.engine.connect() as connection:
            for status, number, retried in connection.execute(query):
                counts[status] = number
                counts["retried"] += int(retried or 0)
        return counts

    # ---- for workers --------------------------------------------------------------------------------------------

    def lease(self, worker: str, *, max_jobs: int, lease_s: float, attempts: int) -> list[Job]:
        """Lease up to `max_jobs` jobs that are queued, or whose worker did not renew its lease in time.

        Owners take turns: the next job is the oldest one of the owner with the fewest running jobs; among several such
        owners, the one served longest ago comes first. Jobs that have had `attempts` attempts, that waited too long or that
        cannot be read fail here.
        """
        now = time.time()
        late = sa.and_(jobs.c.status == "queued", jobs.c.wait_until < now)
        leased: list[Job] = []
        with self.engine.connect() as connection:
            # Most polls find nothing; they must not take the write lock.
            lost = self._is_lost(connection, now, lease_s)
            if connection.execute(_count().where(sa.or_(jobs.c.status == "queued", lost))).scalar_one() == 0:
                return []
        with write_transaction(self.engine) as connection:
            _finish(
                connection,
                [late],
                status="failed",
                error_code="job.timed_out",
                error_message="the job waited longer than it may",
            )
            _finish(
                connection,
                [lost, jobs.c.attempt - jobs.c.tried_before >= attempts],
                status="failed",
                error_code="job.attempts_exhausted",
                error_message=f"the workers of this job died {attempts} times",
            )
            if max_jobs <= 0:
                return []
            for job_id in self._next_in_turn(connection, sa.or_(jobs.c.status == "queued", lost), max_jobs):
                connection.execute(
                    jobs.update()
                    .where(jobs.c.id == job_id)
                    .values(
                        status="running",
                        attempt=jobs.c.attempt + 1,
                        stage="",
                        progress=0,
                        started_at=now,
                        lease_owner=worker,
                        lease_until=now + lease_s,
                    )
                )
                row = connection.execute(sa.select(*_COLUMNS).where(jobs.c.id == job_id)).one()
                try:
                    leased.append(_read(row))
                except ValidationError as error:
                    # Raising here would block all jobs behind it for ever.
                    _finish(connection, [jobs.c.id == job_id], status="failed", **_unreadable(error))
        return leased

    def _is_lost(self, connection: sa.Connection, now: float, lease_s: float) -> sa.ColumnElement[bool]:
        """Return the condition that a job's worker did not renew its lease in time.

        Whether the lease has ended is judged by the wall clocks of two machines. If one of them is set back, the end may lie
        hours ahead, so a lease also counts as expired if it has not been renewed for `lease_s` on this process's monotonic
        clock (as in the leader election of Kubernetes' client-go, which never compares the clocks of two machines).
        """
        seen_at, expired = time.monotonic(), []
        query = sa.select(jobs.c.id, jobs.c.attempt, jobs.c.lease_until).where(jobs.c.status == "running")
        leases = {}
        for row in connection.execute(query):
            known = self._leases.get(row.id)
            unchanged = known and (known.attempt, known.until) == (row.attempt, row.lease_until)
            leases[row.id] = known if known and unchanged else _Lease(row.attempt, row.lease_until, seen_at)
            if seen_at - leases[row.id].since > lease_s:
                expired.append(sa.and_(jobs.c.id == row.id, jobs.c.lease_until == row.lease_until))
        self._leases = leases
        return sa.and_(jobs.c.status == "running", sa.or_(jobs.c.lease_until < now, *expired[:_IDS_PER_STATEMENT]))

    def heartbeat(self, worker: str, held: Mapping[str, int], lease_s: float) -> set[str]:
        """Renew the leases of a worker's jobs (id -> attempt); returns the ids of jobs that it no longer owns."""
        if not held:
            return set()
        now = time.time()
        with write_transaction(self.engine) as connection:
            rows = connection.execute(
                sa.select(jobs.c.id, jobs.c.attempt, jobs.c.status, jobs.c.lease_owner).where(jobs.c.id.in_(held))
            ).all()
            owned = {
                row.id
                for row in rows
                if row.status == "running" and row.lease_owner == worker and row.attempt == held[row.id]
            }
            connection.execute(jobs.update().where(jobs.c.id.in_(owned)).values(lease_until=now + lease_s))
        return set(held) - owned

    def progress(self, job_id: str, attempt: int, stage: str, percent: int) -> bool:
        """Record an attempt's progress. Returns False if the attempt no longer owns the job."""
        with write_transaction(self.engine) as connection:
            changed = connection.execute(
                jobs.update().where(*_owned_by(job_id, attempt)).values(stage=stage, progress=percent)
            )
            return bool(changed.rowcount)

    def complete(self, job_id: str, attempt: int, result: Mapping[str, Any]) -> bool:
        """Record a result. Returns False, and changes nothing, if the attempt no longer owns the job."""
        with write_transaction(self.engine) as connection:
            return bool(
                _finish(
                    connection,
                    _owned_by(job_id, attempt),
                    status="completed",
                    progress=100,
                    stage="",
                    result=dict(result),
                )
            )

    def fail(self, job_id: str, attempt: int, code: str, message: str) -> bool:
        """Record a failure. Returns False, and changes nothing, if the attempt no longer owns the job."""
        with write_transaction(self.engine) as connection:
            return bool(
                _finish(
                    connection,
                    _owned_by(job_id, attempt),
                    status="failed",
                    error_code=code,
                    error_message=escaped(message),
                )
            )

    def fail_or_retry(self, job_id: str, attempt: int, code: str, message: str, *, attempts: int) -> bool:
        """Release a job for another attempt; if this was the last of `attempts`, record its failure.

        Returns False, and changes nothing, if the attempt no longer owns the job.
        """
        attempts_left = jobs.c.attempt - jobs.c.tried_before < attempts
        with write_transaction(self.engine) as connection:
            release = jobs.update().where(*_owned_by(job_id, attempt), attempts_left).values(lease_until=0.0)
            if connection.execute(release).rowcount:
                return True
        return self.fail(job_id, attempt, code, message)

    def release(self, job_id: str, attempt: int) -> bool:
        """Release a job for another worker at once. The attempt counts. Returns False if it no longer owns the job."""
        with write_transaction(self.engine) as connection:
            changed = connection.execute(jobs.update().where(*_owned_by(job_id, attempt)).values(lease_until=0.0))
            return bool(changed.rowcount)

    def is_current(self, job_id: str, attempt: int) -> bool:
        """Whether an attempt still owns its job; True while the database does not answer."""
        try:
            with self.engine.connect() as connection:
                return bool(connection.execute(_count().where(*_owned_by(job_id, attempt))).scalar_one())
        except sa.exc.SQLAlchemyError:
            return True

    # ---- deletion -----------------------------------------------------------------------------------------------

    def mark_deleted(self, job_id: str) -> None:
        """Hide a job from clients and workers, and drop its webhooks. The row stays until the job's files are removed."""
        now = time.time()
        with write_transaction(self.engine) as connection:
            connection.execute(
                jobs.update()
                .where(jobs.c.id == job_id, _NOT_DELETED)
                .values(
                    deleted_at=now,
                    expires_at=now,
                    status=sa.case((jobs.c.status.in_(FINAL), jobs.c.status), else_="cancelled"),
                    idempotency_key=None,
                    lease_owner=None,
                    lease_until=None,
                )
            )
            connection.execute(webhooks.delete().where(webhooks.c.job_id == job_id))

    def due_for_removal(self, limit: int = 100) -> list[str]:
        """Return ids of jobs whose files are to be removed now: deleted jobs, and finished ones that have expired."""
        removable = sa.or_(~_NOT_DELETED, jobs.c.status.in_(FINAL))
        expired = jobs.c.expires_at < time.time()
        query = sa.select(jobs.c.id).where(removable, expired).order_by(jobs.c.expires_at).limit(limit)
        with self.engine.connect() as connection:
            return list(connection.execute(query).scalars())

    def postpone(self, job_id: str, seconds: float) -> None:
        """Make a deleted job `due_for_removal` again after `seconds`, because its files could not be removed."""
        with write_transaction(self.engine) as connection:
            connection.execute(
                jobs.update().where(jobs.c.id == job_id, ~_NOT_DELETED).values(expires_at=time.time() + seconds)
            )

    def erase(self, job_id: str) -> None:
        """Remove the row of a job that is marked as deleted."""
        with write_transaction(self.engine) as connection:
            connection.execute(jobs.delete().where(jobs.c.id == job_id, ~_NOT_DELETED))

    def existing(self, job_ids: Iterable[str]) -> set[str]:
        """Return the ids among `job_ids` that have a row, including jobs marked as deleted."""
        ids, existing = sorted(job_ids), set[str]()
        with self.engine.connect() as connection:
            for start in range(0, len(ids), _IDS_PER_STATEMENT):
                batch = jobs.c.id.in_(ids[start : start + _IDS_PER_STATEMENT])
                existing.update(connection.execute(sa.select(jobs.c.id).where(batch)).scalars())
        return existing

    def database_id(self) -> str:
        """Return the random id that this database was given when it was created."""
        with self.engine.connect() as connection:
            return str(connection.execute(sa.select(database.c.id)).scalar_one())

    # ---- webhooks -----------------------------------------------------------------------------------------------

    def due_webhooks(self, limit: int = 10, *, in_flight: Sequence[PendingWebhook] = ()) -> list[PendingWebhook]:
        """Reserve webhooks to try now; no other process tries them for a minute.

        Args:
            limit: Maximum number of concurrent deliveries, including those in flight; at most `_DELIVERIES_PER_HOST` of them
                go to one host, and at most half of them belong to one owner.
            in_flight: Webhooks that this process is delivering.
        """
        now = time.time()
        due = (
            sa.select(webhooks.c.id, webhooks.c.job_id, webhooks.c.url, webhooks.c.tries, jobs.c.owner)
            .join(jobs, jobs.c.id == webhooks.c.job_id)
            .where(webhooks.c.next_at <= now)
            .order_by(webhooks.c.next_at)
            .limit(_WEBHOOK_BATCH)
        )
        with self.engine.connect() as connection:
            chosen = _share_fairly([PendingWebhook(*row) for row in connection.execute(due)], limit, in_flight)
        if not chosen:
            return []
        with write_transaction(self.engine) as connection:
            query = (
                sa.select(webhooks.c.id)
                .where(webhooks.c.id.in_([webhook.id for webhook in chosen]), webhooks.c.next_at <= now)
                .with_for_update(skip_locked=True)
            )
            free = set(connection.execute(query).scalars())
            reserved = [replace(webhook, tries=webhook.tries + 1) for webhook in chosen if webhook.id in free]
            for webhook in reserved:
                connection.execute(
                    webhooks.update()
                    .where(webhooks.c.id == webhook.id)
                    .values(next_at=now + _WEBHOOK_LEASE_S, tries=webhook.tries)
                )
        return reserved

    def record_delivery(self, webhook_id: str, *, error: str | None = None, retry_in_s: float | None = None) -> None:
        """Record the outcome of one try.

        Args:
            webhook_id: Id of the webhook.
            error: Why the try failed; None = the webhook was delivered.
            retry_in_s: Time until the next try [s]; None = there is none.
        """
        now = time.time()
        with write_transaction(self.engine) as connection:
            connection.execute(
                webhooks.update()
                .where(webhooks.c.id == webhook_id)
                .values(
                    delivered_at=None if error else now,
                    last_error=None if error is None else escaped(error),
                    next_at=None if retry_in_s is None else now + retry_in_s,
                )
            )

    def ping(self) -> None:
        """Query the database; raises if it does not answer."""
        with self.engine.connect() as connection:
            connection.execute(sa.select(1))

    # ---- internals ----------------------------------------------------------------------------------------------

    def _get(self, connection: sa.Connection, job_id: str, owner: str | None) -> Job:
        query = sa.select(*_COLUMNS).where(jobs.c.id == job_id, _NOT_DELETED)
        if owner is not None:
            query = query.where(jobs.c.owner == owner)
        row = connection.execute(query).one_or_none()
        if row is None:
            raise InputError("job.not_found", f"there is no job {job_id[:80]!r}")
        return _job(row)

    def _next_in_turn(self, connection: sa.Connection, free: sa.ColumnElement[bool], max_jobs: int) -> list[str]:
        """Lock up to `max_jobs` free jobs, and return their ids in the order of their owners' turns."""
        running = sa.func.sum(sa.case((free, 0), else_=1))
        owners = (
            sa.select(jobs.c.owner, running, sa.func.min(sa.case((free, jobs.c.created_at))))
            .where(sa.or_(free, jobs.c.status == "running"))
            .group_by(jobs.c.owner)
        )
        waiting = {
            owner: (int(number), oldest) for owner, number, oldest in connection.execute(owners) if oldest is not None
        }
        chosen: list[str] = []
        while waiting and len(chosen) < max_jobs:
            owner = min(waiting, key=lambda name: (waiting[name][0], self._last_turns.get(name, -1), waiting[name][1]))
            oldest = (
                sa.select(jobs.c.id, jobs.c.created_at)
                .where(free, jobs.c.owner == owner, jobs.c.id.not_in(chosen))
                .order_by(jobs.c.created_at, jobs.c.id)
                .limit(1)
                .with_for_update(skip_locked=True)
            )
            row = connection.execute(oldest).one_or_none()
            if row is None:  # all jobs of this owner were taken, here or by another dispatcher
                del waiting[owner]
                continue
            chosen.append(row.id)
            waiting[owner] = waiting[owner][0] + 1, row.created_at
            self._last_turns[owner] = next(self._turns)
        return chosen

    def _by_idempotency_key(self, connection: sa.Connection, new: NewJob) -> Job | None:
        query = sa.select(*_COLUMNS).where(jobs.c.owner == new.owner, jobs.c.idempotency_key == new.idempotency_key)
        row = connection.execute(query).one_or_none()
        if row is None:
            return None
        job = _job(row)
        if job.digest != new.digest:
            raise InputError(
                "request.idempotency_mismatch", f"idempotency key {new.idempotency_key!r} came with another request"
            )
        return job


def _owned_by(job_id: str, attempt: int) -> Sequence[sa.ColumnElement[bool]]:
    """Return the conditions that a job is running and owned by an attempt."""
    return jobs.c.id == job_id, jobs.c.attempt == attempt, jobs.c.status == "running"


def _finish(connection: sa.Connection, conditions: Iterable[sa.ColumnElement[bool]], **values: Any) -> int:
    """Finish all matching jobs that are not final, and insert their webhooks; returns the number of jobs."""
    query = sa.select(jobs.c.id, jobs.c.webhook).where(*conditions, jobs.c.status.not_in(FINAL)).with_for_update()
    rows = connection.execute(query).all()
    now = time.time()
    for row in rows:
        connection.execute(
            jobs.update()
            .where(jobs.c.id == row.id)
            .values(finished_at=now, lease_owner=None, lease_until=None, **values)
        )
        if row.webhook:
            connection.execute(
                webhooks.insert().values(
                    id=f"msg_{uuid.uuid4().hex}", job_id=row.id, url=row.webhook, tries=0, next_at=now
                )
            )
    return len(rows)


def _count() -> sa.Select[Any]:
    return sa.select(sa.func.count()).select_from(jobs)


def _share_fairly(
    due: Sequence[PendingWebhook], limit: int, in_flight: Sequence[PendingWebhook]
) -> list[PendingWebhook]:
    """Choose the webhooks to start next, so that no host and no owner occupies all `limit` deliveries."""
    hosts, owners = Counter(webhook.host for webhook in in_flight), Counter(webhook.owner for webhook in in_flight)
    chosen: list[PendingWebhook] = []
    for webhook in due:
        if len(in_flight) + len(chosen) >= limit:
            break
        if hosts[webhook.host] < _DELIVERIES_PER_HOST and owners[webhook.owner] < max(1, limit // 2):
            hosts[webhook.host] += 1
            owners[webhook.owner] += 1
            chosen.append(webhook)
    return chosen


def _lock_owner(connection: sa.Connection, owner: str) -> None:
    """Serialise transactions that count and add an owner's jobs; SQLite allows only one writer anyway."""
    if connection.dialect.name == "postgresql":
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(sa.func.hashtextextended(owner, 0))))


def _refuse_full(connection: sa.Connection, owner: str, max_queued: int | None, max_per_owner: int | None) -> None:
    """Refuse a further job if the queue, or the owner's part of it, is full."""
    queued = jobs.c.status == "queued"
    if max_per_owner is not None:
        of_owner = connection.execute(_count().where(queued, jobs.c.owner == owner)).scalar_one()
        if of_owner >= max_per_owner:
            raise ServeError("queue.key_full", f"{of_owner} jobs of this key are waiting")
    if max_queued is not None and (waiting := connection.execute(_count().where(queued)).scalar_one()) >= max_queued:
        raise ServeError("queue.full", f"{waiting} jobs are waiting")


def _job(row: Any) -> Job:
    """Convert a row to a job. One that cannot be read becomes a failed job: raising would hide all others of its page."""
    try:
        return _read(row)
    except ValidationError as error:
        log.error("the row of job %s cannot be read: %s", row.id, error.errors()[0]["msg"])
        return _failed(row, error)


def _read(row: Any) -> Job:
    """Convert a row to a job.

    Raises:
        ValidationError: A column holds a value that this version of gapray cannot read.
    """
    return _ROW.validate_python(dict(row._mapping))


def _failed(row: Any, error: ValidationError) -> Job:
    """Return a failed job for a row that cannot be read, with the columns that can be."""
    values = dict(row._mapping) | {
        "making": GenerationParams(),
        "input": JobInput(),
        "result": None,
        "status": "failed",
    }
    numbers = ("created_at", "expires_at", "progress", "attempt")
    optional = ("started_at", "finished_at", "timeout_s")
    readable = {name: value for name in (*numbers, *optional) if isinstance(value := values[name], (int, float))}
    return Job(**values | dict.fromkeys(numbers, 0) | dict.fromkeys(optional) | readable | _unreadable(error))


def _unreadable(error: ValidationError) -> dict[str, str]:
    """Return the error columns of a job whose row cannot be read."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    return {
        "error_code": "job.unreadable",
        "error_message": f"this gapray cannot read the job: {where}: {first['msg']}",
    }
