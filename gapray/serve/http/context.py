"""The context shared by all routes: one per process."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Self
from weakref import WeakValueDictionary

from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter

from gapray.capture.azimuths import AzimuthOptions
from gapray.errors import GaprayError, InputError, ServeError
from gapray.profile import Profile
from gapray.serve.artifacts import Artifacts
from gapray.serve.audit import AuditWriter, audit_log
from gapray.serve.incoming import IncomingPhoto
from gapray.serve.jobs import Api, GenerationParams, Job, JobInput, Kind, NewJob
from gapray.serve.keys import ANONYMOUS, ApiKey, KeyRing
from gapray.serve.making import check_params
from gapray.serve.settings import ServeSettings
from gapray.serve.store import JobStore
from gapray.serve.threads import in_thread
from gapray.serve.uploads import PreparedUpload, prepare_upload, store_inputs
from gapray.serve.urls import check_urls

WAIT_STEP_S = 0.05
"""Pause between two look-ups of a job that a request waits for [s]."""
_URL_THREADS = ThreadPoolExecutor(16, "urls")
"""Threads that look up the hosts of clients' URLs."""
_PHOTO_THREADS = ThreadPoolExecutor(4, "photos")
"""Threads that check photos and pack them into zips."""


@dataclass(frozen=True)
class Context:
    """Store, files, settings and keys of one ingress process."""

    settings: ServeSettings
    profile: Profile
    store: JobStore
    artifacts: Artifacts
    keys: KeyRing
    ready: Callable[[], str | None] = lambda: None
    """Returns why the server is not ready, or None."""
    audit: AuditWriter = audit_log(None)
    """Writes a line of the audit log."""
    rates: MovingWindowRateLimiter = field(default_factory=lambda: MovingWindowRateLimiter(MemoryStorage()))
    """Counts the requests of keys in this process; each ingress replica grants a key its whole rate."""
    _photo_locks: WeakValueDictionary[str, asyncio.Lock] = field(default_factory=WeakValueDictionary)
    """The locks that allow one request of a key at a time to have its photos checked."""

    @classmethod
    def of(cls, settings: ServeSettings, ready: Callable[[], str | None] = lambda: None) -> Self:
        """Create a context from settings: connect to the database and the artifact store, and load the profile."""
        store = JobStore(str(settings.jobs_url))
        artifacts = Artifacts.at(str(settings.artifacts))
        keys, audit = KeyRing(store.engine), audit_log(settings.audit)
        return cls(settings, settings.loaded_profile(), store, artifacts, keys, ready, audit)

    async def call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call a short blocking function in one of the threads that all requests share."""
        return await in_thread(None, function, *args, **kwargs)

    async def keyless(self) -> bool:
        """Whether callers need no key now; a key created while the server is running ends that for good."""
        if self.settings.open or not self.settings.open_until_keyed:
            return self.settings.open
        created = self.keys.cached_any_created
        return not (await self.call(self.keys.any_created) if created is None else created)

    def refreshed(self, job_id: str, key: ApiKey) -> Job:
        """Return the current state of a job for a caller who was authenticated before.

        Raises:
            InputError: `job.not_found`.
            ServeError: `auth.invalid` or `auth.missing` if the caller would no longer be authenticated.
        """
        self._refuse_revoked(key)
        return self.store.get(job_id, None)

    def _refuse_revoked(self, key: ApiKey) -> None:
        if not self.settings.open:
            self.keys.refuse_revoked(key)

    def count_request(self, key: ApiKey) -> None:
        """Count a request towards its key's rate limit.

        Raises:
            ServeError: `rate.exceeded`.
        """
        if key.per_minute is not None and not self.rates.hit(RateLimitItemPerMinute(key.per_minute), key.id):
            raise ServeError("rate.exceeded", f"this key may ask {key.per_minute} times a minute")

    async def accept(
        self,
        key: ApiKey,
        *,
        api: Api,
        kind: Kind,
        params: GenerationParams,
        photos: list[IncomingPhoto],
        azimuths: list[float] | None = None,
        options: AzimuthOptions = AzimuthOptions(),
        files: Mapping[str, bytes] = MappingProxyType({}),
        package: str | None = None,
        manifest_url: str | None = None,
        ignored: Sequence[str] = (),
        endpoint: str = "",
        model: str = "",
        idempotency_key: str | None = None,
        digest: str = "",
        webhook: str | None = None,
        timeout_s: float | None = None,
        ttl_s: float | None = None,
    ) -> Job:
        """Check a request and accept it as a job; photos and job are stored safely when this returns.

        Args:
            key: The caller's key, which owns the job.
            api: API of the request.
            kind: Kind of the job.
            params: Generation parameters.
            photos: Photos of the product.
            azimuths: Azimuth of each photo, if stated [degrees].
            options: How azimuths are read from file names.
            files: Further input files: field of `JobInput` -> bytes.
            package: Artifact of a finished package, in place of photos.
            manifest_url: URL of a manifest, in place of photos.
            ignored: Names of the request's fields that have no effect; every answer repeats them.
            endpoint: RunPod's endpoint; for images the response format.
            model: Model name that the client sent.
            idempotency_key: Value of the client's header.
            digest: Hash of the request, compared if the idempotency key comes again.
            webhook: URL to notify when the job is finished.
            timeout_s: Longest running time of the job [s].
            ttl_s: Longest time in the queue [s].

        Raises:
            InputError: The request is invalid.
            ServeError: `queue.full`, `queue.key_full`, `rate.exceeded` or `artifacts.failed`.
        """
        check_params(params, self.settings.limits)
        if urls := [url for url in [*(photo.url for photo in photos), webhook, manifest_url] if url]:
            # In separate threads, so that slow look-ups do not hold up requests without URLs.
            await in_thread(_URL_THREADS, check_urls, urls, self.settings.urls)
        new = NewJob(
            owner=key.id,
            api=api,
            kind=kind,
            making=params,
            input=JobInput(
                manifest_url=manifest_url,
                package=package,
                reading=options if manifest_url else None,
                unread=tuple(ignored),
            ),
            endpoint=endpoint,
            model=model,
            idempotency_key=idempotency_key,
            digest=digest,
            webhook=webhook,
            timeout_s=timeout_s,
            wait_until=time.time() + ttl_s if ttl_s else None,
        )
        upload = None
        if manifest_url is None and package is None:
            # In separate threads and in the key's turn, so that slow headers hold up neither the status of jobs nor other keys.
            async with self._photo_locks.setdefault(key.id, asyncio.Lock()):
                upload = await in_thread(
                    _PHOTO_THREADS,
                    prepare_upload,
                    photos,
                    azimuths=azimuths,
                    options=options,
                    limits=self.settings.limits,
                    decode=self.profile.packaging.decode,
                    turn=kind != "image",
                )
        job: Job = await self.call(self._store_and_submit, new, key, upload, files)
        return job

    def _store_and_submit(
        self,
        new: NewJob,
        key: ApiKey,
        upload: PreparedUpload | None,
        files: Mapping[str, bytes],
    ) -> Job:
        self._refuse_revoked(key)  # the body may have taken long to arrive
        try:
            inputs = store_inputs(self.artifacts, new.id, new.input, upload, files)
            job = self.store.submit(
                NewJob(**{**vars(new), "input": inputs}),
                max_queued=self.settings.limits.queued,
                max_per_owner=self.max_queued_of(key),
                keep_s=self.settings.jobs.keep_s,
                concurrent=key.concurrent,
            )
        except GaprayError:
            self._discard(new.id)
            raise
        if job.id != new.id:
            self._discard(new.id)  # the idempotency key belongs to an earlier job
        return job

    def _discard(self, job_id: str) -> None:
        """Remove the uploads of a job that was certainly not accepted; in doubt they are left to the sweeper."""
        with suppress(ServeError):
            self.artifacts.remove(f"uploads/{job_id}")

    def max_queued_of(self, key: ApiKey) -> int | None:
        """Return the maximum number of queued jobs of a key; None (no limit) if the server needs no keys."""
        return None if key is ANONYMOUS else self.settings.limits.waiting_per_key

    async def refuse_when_full(self, key: ApiKey) -> None:
        """Refuse a request early, before its body is read, if the queue is full; `JobStore.submit` decides finally.

        Raises:
            ServeError: `queue.full` or `queue.key_full`.
        """
        await self.call(
            self.store.refuse_when_full,
            key.id,
            max_queued=self.settings.limits.queued,
            max_per_owner=self.max_queued_of(key),
        )

    async def wait_for_job(self, job: Job, seconds: float, key: ApiKey) -> Job:
        """Wait until a job is final, for at most `seconds`; returns its latest state.

        Raises:
            InputError: `job.not_found` if it was deleted meanwhile.
            ServeError: `auth.invalid` or `auth.missing` if the caller would no longer be authenticated.
        """
        deadline = time.monotonic() + min(seconds, self.settings.limits.wait_s)
        while not job.final and time.monotonic() < deadline:
            await asyncio.sleep(WAIT_STEP_S)
            job = await self.call(self.refreshed, job.id, key)
        return job

    async def file(self, job: Job, name: str) -> bytes:
        """Read a result file of a finished job.

        Raises:
            InputError: `job.not_ready`, `job.failed` or `job.no_such_file`.
        """
        if job.status != "completed":
            if job.final:
                raise InputError("job.failed", f"the job ended without a result: {job.error_message}")
            raise InputError("job.not_ready", f"the job is {job.status}")
        if name not in (job.result or {}).get("files", {}):
            raise InputError("job.no_such_file", f"the job made no {name}")
        data: bytes = await self.call(self.artifacts.get, f"{job.folder}/{name}")
        return data
