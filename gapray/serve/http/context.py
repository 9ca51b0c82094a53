"""What every route needs, made once a process."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Self

from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter

from gapray.capture.azimuths import AzimuthOptions
from gapray.config import Profile
from gapray.errors import GaprayError, InputError, ServeError
from gapray.serve.artifacts import Artifacts
from gapray.serve.audit import Note, audit_log
from gapray.serve.jobs import Api, Job, JobInput, Kind, Making, NewJob
from gapray.serve.keys import ANYBODY, ApiKey, KeyRing
from gapray.serve.making import check_making
from gapray.serve.settings import ServeSettings
from gapray.serve.store import JobStore
from gapray.serve.uploads import Sent, arrived
from gapray.serve.urls import check_urls

WAIT_STEP_S = 0.05

_ABROAD = ThreadPoolExecutor(16, "urls")
"""Where the hosts of clients' URLs are looked up."""


@dataclass(frozen=True)
class Context:
    """Store, files, settings and keys of one ingress process."""

    settings: ServeSettings
    profile: Profile
    store: JobStore
    artifacts: Artifacts
    keys: KeyRing
    ready: Callable[[], str | None] = lambda: None
    """What is not ready yet, if anything."""
    note: Note = audit_log(None)
    """Writes a line of the audit log."""
    rates: MovingWindowRateLimiter = field(default_factory=lambda: MovingWindowRateLimiter(MemoryStorage()))
    """Per process: with several ingress replicas a key may do so many times more."""

    @classmethod
    def of(cls, settings: ServeSettings, ready: Callable[[], str | None] = lambda: None) -> Self:
        """Connect to everything that the settings name."""
        store = JobStore(str(settings.jobs_url))
        artifacts = Artifacts.at(str(settings.artifacts))
        keys, note = KeyRing(store.engine), audit_log(settings.audit)
        return cls(settings, settings.loaded_profile(), store, artifacts, keys, ready, note)

    async def call(self, function: Callable[..., Any], *args: Any, **named: Any) -> Any:
        """Something that blocks, off the event loop."""
        return await asyncio.to_thread(function, *args, **named)

    async def keyless(self) -> bool:
        """Whether a caller needs no key now: a key that is made on the running server ends that for good."""
        if self.settings.open or not self.settings.open_until_keyed:
            return self.settings.open
        made = self.keys.remembered
        return not (await self.call(self.keys.any_made) if made is None else made)

    def watched(self, job_id: str, key: ApiKey) -> Job:
        """A job that a caller who was let in goes on watching.

        Raises:
            InputError: `job.not_found`.
            ServeError: `auth.invalid` or `auth.missing` when the caller would be let in no more.
        """
        self._refuse_revoked(key)
        return self.store.get(job_id, None)

    def _refuse_revoked(self, key: ApiKey) -> None:
        if not self.settings.open:
            self.keys.refuse_revoked(key)

    def within_rate(self, key: ApiKey) -> None:
        """Count one request of a key.

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
        making: Making,
        sent: list[Sent],
        azimuths: list[float] | None = None,
        options: AzimuthOptions = AzimuthOptions(),
        files: Mapping[str, bytes] = MappingProxyType({}),
        package: str | None = None,
        manifest_url: str | None = None,
        endpoint: str = "",
        model: str = "",
        idempotency_key: str | None = None,
        digest: str = "",
        webhook: str | None = None,
        timeout_s: float | None = None,
        ttl_s: float | None = None,
    ) -> Job:
        """Check a request and accept it. When this returns, photos and job are on disk: nothing that dies now loses them.

        `files` are kept with the photos: field of `JobInput` -> bytes. `package` is an artifact in place of photos.

        Raises:
            InputError: For what is wrong with the request.
            ServeError: `queue.full`, `queue.key_full`, `rate.exceeded` or `artifacts.failed`.
        """
        check_making(making, self.settings.limits)
        if urls := [url for url in [*(photo.url for photo in sent), webhook, manifest_url] if url]:
            # In threads of their own: names that are not found must not hold up requests that have none.
            loop = asyncio.get_running_loop()
            await loop.run_in_executor(_ABROAD, check_urls, urls, self.settings.urls)
        new = NewJob(
            owner=key.id,
            api=api,
            kind=kind,
            making=making,
            input=JobInput(manifest_url=manifest_url, package=package, reading=options if manifest_url else None),
            endpoint=endpoint,
            model=model,
            idempotency_key=idempotency_key,
            digest=digest,
            webhook=webhook,
            timeout_s=timeout_s,
            wait_until=time.time() + ttl_s if ttl_s else None,
        )
        job: Job = await self.call(self._accepted, new, key, sent, azimuths, options, files)
        return job

    def _accepted(
        self,
        new: NewJob,
        key: ApiKey,
        sent: list[Sent],
        azimuths: list[float] | None,
        options: AzimuthOptions,
        files: Mapping[str, bytes],
    ) -> Job:
        self._refuse_revoked(key)  # a body may have been long on its way
        try:
            given = self._stored(new, sent, azimuths, options, files)
            job = self.store.submit(
                NewJob(**{**vars(new), "input": given}),
                max_queued=self.settings.limits.queued,
                max_of_owner=self.max_queued_of(key),
                keep_s=self.settings.jobs.keep_s,
                concurrent=key.concurrent,
            )
        except GaprayError:
            self._discard(new.id)
            raise
        if job.id != new.id:
            self._discard(new.id)  # the same idempotency key was here before
        return job

    def _stored(
        self,
        new: NewJob,
        sent: list[Sent],
        azimuths: list[float] | None,
        options: AzimuthOptions,
        files: Mapping[str, bytes],
    ) -> JobInput:
        given = new.input
        if given.manifest_url is None and given.package is None:
            found = arrived(
                sent,
                azimuths=azimuths,
                options=options,
                limits=self.settings.limits,
                decode=self.profile.packaging.decode,
                turn=new.kind != "image",
            )
            given = JobInput(
                photos=found.photos,
                azimuths_by=found.azimuths_by,
                ignored=found.ignored,
                reading=found.reading,
            )
            if found.capture is not None:
                name = f"uploads/{new.id}/capture.zip"
                self.artifacts.put(name, found.capture)
                given = given.model_copy(update={"capture": name})
        for field_name, data in files.items():
            name = f"uploads/{new.id}/{field_name}"
            self.artifacts.put(name, data)
            given = given.model_copy(update={field_name: name})
        return given

    def _discard(self, job_id: str) -> None:
        """Remove the uploads of a job that was certainly not accepted; in doubt the sweeper finds out."""
        with suppress(ServeError):
            self.artifacts.remove(f"uploads/{job_id}")

    def max_queued_of(self, key: ApiKey) -> int | None:
        """Jobs of a key that may wait; None where there is but one tenant, who may fill the queue."""
        return None if key is ANYBODY else self.settings.limits.waiting_per_key

    async def refuse_when_full(self, key: ApiKey) -> None:
        """A quick look before a body is read and photos are stored; `submit` decides.

        Raises:
            ServeError: `queue.full` or `queue.key_full`.
        """
        await self.call(
            self.store.refuse_when_full,
            key.id,
            max_queued=self.settings.limits.queued,
            max_of_owner=self.max_queued_of(key),
        )

    async def waited(self, job: Job, seconds: float, key: ApiKey) -> Job:
        """The job once it is final, or after `seconds`.

        Raises:
            InputError: `job.not_found` when it was deleted meanwhile.
            ServeError: `auth.invalid` or `auth.missing` when the caller would be let in no more.
        """
        end = time.monotonic() + min(seconds, self.settings.limits.wait_s)
        while not job.final and time.monotonic() < end:
            await asyncio.sleep(WAIT_STEP_S)
            job = await self.call(self.watched, job.id, key)
        return job

    async def file(self, job: Job, name: str) -> bytes:
        """One file of a finished job.

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
