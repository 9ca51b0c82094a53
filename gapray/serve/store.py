"""Jobs in a database: accepted once, leased to one worker at a time, finished once.

Every change of a running job names the attempt it belongs to (compare-and-set): a worker that was thought dead and wakes
again changes nothing. A job's result and its webhook are written in one transaction. A deleted job is marked first, which
ends it for clients and workers; its row goes when its files are gone.
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
from gapray.serve.jobs import FINAL, Job, JobInput, Kind, Making, NewJob
from gapray.serve.tables import connect, database, jobs, notices, writing
from gapray.serve.text import shown

log = logging.getLogger("gapray.serve")
_COLUMNS = [jobs.c[name] for name in Job.__dataclass_fields__]
_ROW = TypeAdapter(Job)
_SEEN = jobs.c.deleted_at.is_(None)
_NOTICE_LEASE_S = 60.0
_NOTICES_LOOKED_AT = 1000
_OF_ONE_HOST = 2
"""Webhooks that are delivered to one host at a time."""
_IDS_AT_ONCE = 500
"""SQLite takes 999 parameters a statement at least."""


@dataclass(frozen=True)
class Notice:
    """A webhook to deliver; its id stays the same over all tries."""

    id: str
    job_id: str
    url: str
    tries: int
    owner: str

    @property
    def host(self) -> str:
        """Whose receiver it is."""
        return (urlsplit(self.url).hostname or "").lower()


@dataclass(frozen=True)
class _Lease:
    """A running job's lease, and since when it is as it is [seconds, monotonic]."""

    attempt: int
    until: float | None
    since: float


class JobStore:
    """All that is done to jobs. Safe to use from threads and from several processes."""

    def __init__(self, url: str) -> None:
        self.engine = connect(url)
        self._turns = count()
        self._served: dict[str, int] = {}
        """Owner -> number of the turn in which this store last leased a job of its. Rows tell less: a client can delete them."""
        self._leases: dict[str, _Lease] = {}
        """Running job -> its lease as this store saw it last."""

    # ---- what a client does -------------------------------------------------------------------------------------

    def submit(
        self,
        new: NewJob,
        *,
        max_queued: int,
        keep_s: float,
        max_of_owner: int | None = None,
        concurrent: int | None = None,
    ) -> Job:
        """Accept a job: when this returns, it is in the database.

        A second submission with the same idempotency key returns the first one's job.

        Raises:
            ServeError: `queue.full`, `queue.key_full` or `rate.exceeded` (too many jobs of this owner at once).
            InputError: `request.idempotency_mismatch`.
        """
        now = time.time()
        with writing(self.engine) as connection:
            if new.idempotency_key and (known := self._by_idempotency(connection, new)):
                return known
            _one_at_a_time(connection, new.owner)
            _refuse_full(connection, new.owner, max_queued, max_of_owner)
            if concurrent is not None:
                mine = jobs.c.owner == new.owner, jobs.c.status.in_(("queued", "running"))
                if connection.execute(_count().where(*mine)).scalar_one() >= concurrent:
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
                # Another process took the same idempotency key since we looked.
                if known := self._by_idempotency(connection, new):
                    return known
                raise
            return _job(connection.execute(sa.select(*_COLUMNS).where(jobs.c.id == new.id)).one())

    def refuse_when_full(self, owner: str, *, max_queued: int, max_of_owner: int | None = None) -> None:
        """Refuse what `submit` would refuse by now.

        Raises:
            ServeError: `queue.full` or `queue.key_full`.
        """
        with self.engine.connect() as connection:
            _refuse_full(connection, owner, max_queued, max_of_owner)

    def get(self, job_id: str, owner: str | None) -> Job:
        """A job of `owner` (None = of anybody).

        Raises:
            InputError: `job.not_found`, also for another owner's job: its existence is nobody else's business.
        """
        with self.engine.connect() as connection:
            return self._mine(connection, job_id, owner)

    def page(
        self,
        owner: str | None,
        *,
        after: str | None = None,
        limit: int = 20,
        order: Literal["asc", "desc"] = "desc",
        kind: Kind | None = None,
    ) -> tuple[list[Job], bool]:
        """A page of jobs by time of acceptance, and whether there are more.

        Raises:
            InputError: `job.not_found` when `after` names no job.
        """
        query = sa.select(*_COLUMNS).where(_SEEN)
        if owner is not None:
            query = query.where(jobs.c.owner == owner)
        if kind is not None:
            query = query.where(jobs.c.kind == kind)
        place = sa.tuple_(jobs.c.created_at, jobs.c.id)
        with self.engine.connect() as connection:
            if after is not None:
                last = self._mine(connection, after, owner)
                edge = sa.tuple_(sa.literal(last.created_at), sa.literal(last.id))
                query = query.where(place > edge if order == "asc" else place < edge)
            direction = sa.asc if order == "asc" else sa.desc
            query = query.order_by(direction(jobs.c.created_at), direction(jobs.c.id)).limit(limit + 1)
            found = [_job(row) for row in connection.execute(query)]
        return found[:limit], len(found) > limit

    def cancel(self, job_id: str, owner: str | None) -> Job:
        """Stop a job that is not final; its worker hears of it at the next heartbeat.

        Raises:
            InputError: `job.not_found`.
        """
        with writing(self.engine) as connection:
            self._mine(connection, job_id, owner)
            _finish(
                connection,
                [jobs.c.id == job_id],
                status="cancelled",
                error_code="job.cancelled",
                error_message="the job was cancelled",
            )
            return self._mine(connection, job_id, owner)

    def retry(
        self, job_id: str, owner: str | None, *, max_queued: int | None = None, max_of_owner: int | None = None
    ) -> Job:
        """Queue a failed job again, with all its attempts before it.

        Raises:
            InputError: `job.not_found`, or `job.not_failed`.
            ServeError: `queue.full` or `queue.key_full`.
        """
        with writing(self.engine) as connection:
            found = self._mine(connection, job_id, owner)
            _one_at_a_time(connection, found.owner)
            _refuse_full(connection, found.owner, max_queued, max_of_owner)
            changed = connection.execute(
                jobs.update()
                .where(jobs.c.id == job_id, jobs.c.status == "failed")
                .values(
                    status="queued",
                    stage="",
                    progress=0,
                    # Attempts go on counting up, so that no earlier worker's number comes back.
                    tried_before=found.attempt,
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
                raise InputError("job.not_failed", f"job {job_id} is {found.status}")
            return self._mine(connection, job_id, owner)

    def purge(self, owner: str | None, endpoint: str | None = None) -> int:
        """Cancel all waiting jobs; returns how many."""
        which = [jobs.c.status == "queued"]
        if owner is not None:
            which.append(jobs.c.owner == owner)
        if endpoint is not None:
            which.append(jobs.c.endpoint == endpoint)
        with writing(self.engine) as connection:
            return _finish(
                connection,
                which,
                status="cancelled",
                error_code="job.cancelled",
                error_message="the queue was emptied",
            )

    def counts(self, owner: str | None = None, endpoint: str | None = None, kind: Kind | None = None) -> dict[str, int]:
        """Status -> number of jobs, and ``retried`` -> attempts beyond the first."""
        repeated = sa.func.sum(sa.case((jobs.c.attempt > 1, jobs.c.attempt - 1), else_=0))
        query = sa.select(jobs.c.status, sa.func.count(), repeated).where(_SEEN).group_by(jobs.c.status)
        if owner is not None:
            query = query.where(jobs.c.owner == owner)
        if endpoint is not None:
            query = query.where(jobs.c.endpoint == endpoint)
        if kind is not None:
            query = query.where(jobs.c.kind == kind)
        found = dict.fromkeys(("queued", "running", "completed", "failed", "cancelled", "retried"), 0)
        with self.engine.connect() as connection:
            for status, number, again in connection.execute(query):
                found[status] = number
                found["retried"] += int(again or 0)
        return found

    # ---- what a worker does -------------------------------------------------------------------------------------

    def lease(self, worker: str, *, most: int, lease_s: float, attempts: int) -> list[Job]:
        """Take up to `most` jobs that wait, or whose worker was not heard of in time.

        Owners take turns: the next job is the oldest of the owner with the fewest jobs at work, of several such the one who
        was served longest ago. Jobs that were tried `attempts` times, that waited too long or that cannot be read fail here.
        """
        now = time.time()
        late = sa.and_(jobs.c.status == "queued", jobs.c.wait_until < now)
        taken: list[Job] = []
        with self.engine.connect() as connection:
            # Most looks find nothing; they take no write lock.
            lost = self._lost(connection, now, lease_s)
            if connection.execute(_count().where(sa.or_(jobs.c.status == "queued", lost))).scalar_one() == 0:
                return []
        with writing(self.engine) as connection:
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
            if most <= 0:
                return []
            for job_id in self._in_turn(connection, sa.or_(jobs.c.status == "queued", lost), most):
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
                    taken.append(_read(row))
                except ValidationError as error:
                    # Raised here it would hold up all jobs behind it, for ever.
                    _finish(connection, [jobs.c.id == job_id], status="failed", **_unreadable(error))
        return taken

    def _lost(self, connection: sa.Connection, now: float, lease_s: float) -> sa.ColumnElement[bool]:
        """Jobs whose worker did not renew its lease in time.

        The lease's end says so by the wall clocks of both machines. Those can be set back, and then it lies hours ahead: a
        lease is over as well when it was not renewed for `lease_s` by this process's monotonic clock (as in the leader
        election of Kubernetes' client-go, which compares no clocks of two machines).
        """
        seen, unchanged = time.monotonic(), []
        query = sa.select(jobs.c.id, jobs.c.attempt, jobs.c.lease_until).where(jobs.c.status == "running")
        leases = {}
        for row in connection.execute(query):
            known = self._leases.get(row.id)
            same = known and (known.attempt, known.until) == (row.attempt, row.lease_until)
            leases[row.id] = known if known and same else _Lease(row.attempt, row.lease_until, seen)
            if seen - leases[row.id].since > lease_s:
                unchanged.append(sa.and_(jobs.c.id == row.id, jobs.c.lease_until == row.lease_until))
        self._leases = leases
        return sa.and_(jobs.c.status == "running", sa.or_(jobs.c.lease_until < now, *unchanged[:_IDS_AT_ONCE]))

    def beat(self, worker: str, held: Mapping[str, int], lease_s: float) -> set[str]:
        """Say that `worker` still has these jobs (id -> attempt). Returns the ids that are its no longer."""
        if not held:
            return set()
        now = time.time()
        with writing(self.engine) as connection:
            rows = connection.execute(
                sa.select(jobs.c.id, jobs.c.attempt, jobs.c.status, jobs.c.lease_owner).where(jobs.c.id.in_(held))
            ).all()
            mine = {
                row.id
                for row in rows
                if row.status == "running" and row.lease_owner == worker and row.attempt == held[row.id]
            }
            connection.execute(jobs.update().where(jobs.c.id.in_(mine)).values(lease_until=now + lease_s))
        return set(held) - mine

    def progress(self, job_id: str, attempt: int, stage: str, percent: int) -> bool:
        """Note how far an attempt is. False = the job is no longer this attempt's."""
        with writing(self.engine) as connection:
            changed = connection.execute(
                jobs.update().where(*_attempt(job_id, attempt)).values(stage=stage, progress=percent)
            )
            return bool(changed.rowcount)

    def complete(self, job_id: str, attempt: int, result: Mapping[str, Any]) -> bool:
        """Publish a result. False = the job is no longer this attempt's, and nothing was changed."""
        with writing(self.engine) as connection:
            return bool(
                _finish(
                    connection,
                    _attempt(job_id, attempt),
                    status="completed",
                    progress=100,
                    stage="",
                    result=dict(result),
                )
            )

    def fail(self, job_id: str, attempt: int, code: str, message: str) -> bool:
        """Publish a failure. False as for `complete`."""
        with writing(self.engine) as connection:
            return bool(
                _finish(
                    connection,
                    _attempt(job_id, attempt),
                    status="failed",
                    error_code=code,
                    error_message=shown(message),
                )
            )

    def fail_at_last(self, job_id: str, attempt: int, code: str, message: str, *, attempts: int) -> bool:
        """Give a job back for another attempt, and publish the failure of the last of `attempts`. False as for `complete`."""
        left = jobs.c.attempt - jobs.c.tried_before < attempts
        with writing(self.engine) as connection:
            again = jobs.update().where(*_attempt(job_id, attempt), left).values(lease_until=0.0)
            if connection.execute(again).rowcount:
                return True
        return self.fail(job_id, attempt, code, message)

    def release(self, job_id: str, attempt: int) -> bool:
        """Give a job back at once, for another worker: this one is going. The attempt counts."""
        with writing(self.engine) as connection:
            changed = connection.execute(jobs.update().where(*_attempt(job_id, attempt)).values(lease_until=0.0))
            return bool(changed.rowcount)

    def holds(self, job_id: str, attempt: int) -> bool:
        """Whether a job is still this attempt's. While the database does not answer, nothing says otherwise: True."""
        try:
            with self.engine.connect() as connection:
                return bool(connection.execute(_count().where(*_attempt(job_id, attempt))).scalar_one())
        except sa.exc.SQLAlchemyError:
            return True

    # ---- deletion -----------------------------------------------------------------------------------------------

    def mark_deleted(self, job_id: str) -> None:
        """Take a job away from clients and workers, its webhooks too. The row stays, so that its files are not forgotten."""
        now = time.time()
        with writing(self.engine) as connection:
            connection.execute(
                jobs.update()
                .where(jobs.c.id == job_id, _SEEN)
                .values(
                    deleted_at=now,
                    expires_at=now,
                    status=sa.case((jobs.c.status.in_(FINAL), jobs.c.status), else_="cancelled"),
                    idempotency_key=None,
                    lease_owner=None,
                    lease_until=None,
                )
            )
            connection.execute(notices.delete().where(notices.c.job_id == job_id))

    def doomed(self, most: int = 100) -> list[str]:
        """Ids of jobs whose files are to be removed now: deleted ones, and final ones that were kept long enough."""
        over = sa.or_(~_SEEN, jobs.c.status.in_(FINAL))
        query = (
            sa.select(jobs.c.id).where(over, jobs.c.expires_at < time.time()).order_by(jobs.c.expires_at).limit(most)
        )
        with self.engine.connect() as connection:
            return list(connection.execute(query).scalars())

    def postpone(self, job_id: str, seconds: float) -> None:
        """Name a deleted job as `doomed` again after so long: its files could not be removed."""
        with writing(self.engine) as connection:
            connection.execute(
                jobs.update().where(jobs.c.id == job_id, ~_SEEN).values(expires_at=time.time() + seconds)
            )

    def erase(self, job_id: str) -> None:
        """Remove the row of a deleted job: nothing else is left of it."""
        with writing(self.engine) as connection:
            connection.execute(jobs.delete().where(jobs.c.id == job_id, ~_SEEN))

    def known(self, job_ids: Iterable[str]) -> set[str]:
        """Which of these jobs have a row, the deleted ones included."""
        asked, found = sorted(job_ids), set[str]()
        with self.engine.connect() as connection:
            for start in range(0, len(asked), _IDS_AT_ONCE):
                some = jobs.c.id.in_(asked[start : start + _IDS_AT_ONCE])
                found.update(connection.execute(sa.select(jobs.c.id).where(some)).scalars())
        return found

    def database_id(self) -> str:
        """The random name that this database was given when it was made."""
        with self.engine.connect() as connection:
            return str(connection.execute(sa.select(database.c.id)).scalar_one())

    # ---- webhooks -----------------------------------------------------------------------------------------------

    def due_notices(self, most: int = 10, *, at_work: Sequence[Notice] = ()) -> list[Notice]:
        """Webhooks to try now; no other process tries them for a minute.

        Args:
            most: So many at most, those `at_work` included; one host has `_OF_ONE_HOST` of them and one owner half.
            at_work: Those that this process is delivering.
        """
        now = time.time()
        due = (
            sa.select(notices.c.id, notices.c.job_id, notices.c.url, notices.c.tries, jobs.c.owner)
            .join(jobs, jobs.c.id == notices.c.job_id)
            .where(notices.c.next_at <= now)
            .order_by(notices.c.next_at)
            .limit(_NOTICES_LOOKED_AT)
        )
        with self.engine.connect() as connection:
            chosen = _shared_out([Notice(*row) for row in connection.execute(due)], most, at_work)
        if not chosen:
            return []
        with writing(self.engine) as connection:
            query = (
                sa.select(notices.c.id)
                .where(notices.c.id.in_([notice.id for notice in chosen]), notices.c.next_at <= now)
                .with_for_update(skip_locked=True)
            )
            free = set(connection.execute(query).scalars())
            found = [notice for notice in chosen if notice.id in free]
            for one in found:
                connection.execute(
                    notices.update()
                    .where(notices.c.id == one.id)
                    .values(next_at=now + _NOTICE_LEASE_S, tries=one.tries + 1)
                )
        return [replace(one, tries=one.tries + 1) for one in found]

    def notice_done(self, notice_id: str, *, error: str | None = None, again_in_s: float | None = None) -> None:
        """What became of one try: delivered (no error), to be tried again, or given up."""
        now = time.time()
        with writing(self.engine) as connection:
            connection.execute(
                notices.update()
                .where(notices.c.id == notice_id)
                .values(
                    delivered_at=None if error else now,
                    last_error=None if error is None else shown(error),
                    next_at=None if again_in_s is None else now + again_in_s,
                )
            )

    def ping(self) -> None:
        """Raise when the database does not answer."""
        with self.engine.connect() as connection:
            connection.execute(sa.select(1))

    # ---- inside -------------------------------------------------------------------------------------------------

    def _mine(self, connection: sa.Connection, job_id: str, owner: str | None) -> Job:
        query = sa.select(*_COLUMNS).where(jobs.c.id == job_id, _SEEN)
        if owner is not None:
            query = query.where(jobs.c.owner == owner)
        row = connection.execute(query).one_or_none()
        if row is None:
            raise InputError("job.not_found", f"there is no job {job_id[:80]!r}")
        return _job(row)

    def _in_turn(self, connection: sa.Connection, free: sa.ColumnElement[bool], most: int) -> list[str]:
        """Ids of up to `most` free jobs, locked, in the order in which their owners' turns come."""
        at_work = sa.func.sum(sa.case((free, 0), else_=1))
        owners = (
            sa.select(jobs.c.owner, at_work, sa.func.min(sa.case((free, jobs.c.created_at))))
            .where(sa.or_(free, jobs.c.status == "running"))
            .group_by(jobs.c.owner)
        )
        waiting = {
            owner: (int(working), oldest) for owner, working, oldest in connection.execute(owners) if oldest is not None
        }
        found: list[str] = []
        while waiting and len(found) < most:
            owner = min(waiting, key=lambda name: (waiting[name][0], self._served.get(name, -1), waiting[name][1]))
            oldest = (
                sa.select(jobs.c.id, jobs.c.created_at)
                .where(free, jobs.c.owner == owner, jobs.c.id.not_in(found))
                .order_by(jobs.c.created_at, jobs.c.id)
                .limit(1)
                .with_for_update(skip_locked=True)
            )
            row = connection.execute(oldest).one_or_none()
            if row is None:  # they were all taken, by this look or by another dispatcher's
                del waiting[owner]
                continue
            found.append(row.id)
            waiting[owner] = waiting[owner][0] + 1, row.created_at
            self._served[owner] = next(self._turns)
        return found

    def _by_idempotency(self, connection: sa.Connection, new: NewJob) -> Job | None:
        query = sa.select(*_COLUMNS).where(jobs.c.owner == new.owner, jobs.c.idempotency_key == new.idempotency_key)
        row = connection.execute(query).one_or_none()
        if row is None:
            return None
        known = _job(row)
        if known.digest != new.digest:
            raise InputError(
                "request.idempotency_mismatch", f"idempotency key {new.idempotency_key!r} came with another request"
            )
        return known


def _attempt(job_id: str, attempt: int) -> Sequence[sa.ColumnElement[bool]]:
    return jobs.c.id == job_id, jobs.c.attempt == attempt, jobs.c.status == "running"


def _finish(connection: sa.Connection, which: Iterable[sa.ColumnElement[bool]], **values: Any) -> int:
    """Make jobs final, and note the webhooks they owe, in the transaction at hand."""
    query = sa.select(jobs.c.id, jobs.c.webhook).where(*which, jobs.c.status.not_in(FINAL)).with_for_update()
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
                notices.insert().values(
                    id=f"msg_{uuid.uuid4().hex}", job_id=row.id, url=row.webhook, tries=0, next_at=now
                )
            )
    return len(rows)


def _count() -> sa.Select[Any]:
    return sa.select(sa.func.count()).select_from(jobs)


def _shared_out(due: Sequence[Notice], most: int, at_work: Sequence[Notice]) -> list[Notice]:
    """The first of the notices that may be delivered beside those at work: no host and no owner has all places."""
    hosts, owners = Counter(notice.host for notice in at_work), Counter(notice.owner for notice in at_work)
    chosen: list[Notice] = []
    for notice in due:
        if len(at_work) + len(chosen) >= most:
            break
        if hosts[notice.host] < _OF_ONE_HOST and owners[notice.owner] < max(1, most // 2):
            hosts[notice.host] += 1
            owners[notice.owner] += 1
            chosen.append(notice)
    return chosen


def _one_at_a_time(connection: sa.Connection, owner: str) -> None:
    """Let one transaction count an owner's jobs and add to them; SQLite lets but one write anyway."""
    if connection.dialect.name == "postgresql":
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(sa.func.hashtextextended(owner, 0))))


def _refuse_full(connection: sa.Connection, owner: str, max_queued: int | None, max_of_owner: int | None) -> None:
    queued = jobs.c.status == "queued"
    if max_of_owner is not None:
        mine = connection.execute(_count().where(queued, jobs.c.owner == owner)).scalar_one()
        if mine >= max_of_owner:
            raise ServeError("queue.key_full", f"{mine} jobs of this key are waiting")
    if max_queued is not None and (waiting := connection.execute(_count().where(queued)).scalar_one()) >= max_queued:
        raise ServeError("queue.full", f"{waiting} jobs are waiting")


def _job(row: Any) -> Job:
    """A row as a job. One that cannot be read is shown as failed: raised here it would hide all others of its page."""
    try:
        return _read(row)
    except ValidationError as error:
        log.error("the row of job %s cannot be read: %s", row.id, error.errors()[0]["msg"])
        return _failed(row, error)


def _read(row: Any) -> Job:
    """A row as a job.

    Raises:
        ValidationError: A column holds what this gapray cannot read.
    """
    return _ROW.validate_python(dict(row._mapping))


def _failed(row: Any, error: ValidationError) -> Job:
    """What is left of a job whose row cannot be read: whose it is, and when it came as far as that is known."""
    known = dict(row._mapping) | {"making": Making(), "input": JobInput(), "result": None, "status": "failed"}
    numbers = ("created_at", "expires_at", "progress", "attempt")
    optional = ("started_at", "finished_at", "timeout_s")
    kept = {name: value for name in (*numbers, *optional) if isinstance(value := known[name], (int, float))}
    return Job(**known | dict.fromkeys(numbers, 0) | dict.fromkeys(optional) | kept | _unreadable(error))


def _unreadable(error: ValidationError) -> dict[str, str]:
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    return {
        "error_code": "job.unreadable",
        "error_message": f"this gapray cannot read the job: {where}: {first['msg']}",
    }
