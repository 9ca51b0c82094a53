"""The workers as Ray Serve deployments, and the application made of them.

ingress (HTTP) -> jobs' database <- dispatcher -> packager -> generator -> packager -> scorer
                                                           -> stylist
"""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from collections.abc import Callable
from typing import Any

import ray
from ray import serve
from ray._common.utils import get_system_memory
from ray.exceptions import ActorDiedError, RayError, RayTaskError, TaskCancelledError
from ray.serve.config import AutoscalingConfig, AutoscalingPolicy
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

from gapray.errors import ConfigError, GaprayError, InputError, as_gapray_error, is_out_of_memory
from gapray.models.store import share_kernels
from gapray.serve.artifacts import Artifacts
from gapray.serve.dispatcher import Dispatcher, WorkerLostError
from gapray.serve.http.places import BESIDE
from gapray.serve.jobs import Job, Kind, Making
from gapray.serve.memory import cap_memory
from gapray.serve.scratch import clear_scratch
from gapray.serve.settings import Replicas, ServeSettings, refuse_secrets, serve_settings
from gapray.serve.store import JobStore
from gapray.serve.tables import is_sqlite
from gapray.serve.work import Report, make, make_nothing, ours

log = logging.getLogger("gapray.serve")
READY_S = 1.0


def coded(method: Callable[..., Any]) -> Callable[..., Any]:
    """Let only gapray's own errors out of a replica: they have codes, and can be unpickled anywhere."""

    @functools.wraps(method)
    def call(*args: Any) -> Any:
        try:
            return method(*args)
        except Exception as error:
            if is_out_of_memory(error):
                log.warning("%s would take more than its memory_bytes: %s", method.__qualname__, error)
                raise as_gapray_error(MemoryError()) from None
            if isinstance(error, GaprayError):
                raise
            log.exception("%s failed", method.__qualname__)
            raise as_gapray_error(error) from None

    return call


class PackagerReplica:
    """`Packager` behind a handle; its methods run in threads."""

    def __init__(self, settings: ServeSettings) -> None:
        keep_to_share()
        from gapray.serve.engine import Packager

        settings = settings.with_places()
        clear_scratch()  # of the replica that this one may replace
        self._worker = Packager(settings, holds=JobStore(str(settings.jobs_url)).holds)
        self._worker.warm_up()
        keep_to_memory(settings.packager)

    @coded
    def package(self, job: Job) -> Any:
        """See `Packager.package`."""
        return self._worker.package(job)

    @coded
    def store_package(self, job: Job, package: Any) -> Any:
        """See `Packager.store_package`."""
        return self._worker.store_package(job, package)

    @coded
    def encode(self, job: Job, package: Any, turn: Any) -> Any:
        """See `Packager.encode`."""
        return self._worker.encode(job, package, turn)

    @coded
    def compare(self, job: Job, package: Any, turn: Any) -> Any:
        """See `Packager.compare`."""
        return self._worker.compare(job, package, turn)

    @coded
    def laid(self, job: Job) -> Any:
        """See `Packager.laid`."""
        return self._worker.laid(job)


class GeneratorReplica:
    """`Generator` behind a handle: one clip at a time, on a whole GPU where there is one."""

    def __init__(self, settings: ServeSettings) -> None:
        keep_to_share()
        share_kernels()
        from gapray.serve.engine import Generator

        self._worker = Generator(settings)
        self._worker.warm_up()
        keep_to_memory(settings.generator)

    @coded
    def draw(self, making: Making, package: Any) -> Any:
        """See `Generator.draw`."""
        return self._worker.draw(making, package)


class ScorerReplica:
    """`Scorer` behind a handle. Comparisons that arrive together go through the networks as one batch."""

    def __init__(self, settings: ServeSettings) -> None:
        keep_to_share()
        from gapray.serve.engine import Scorer

        self._worker = Scorer(settings)
        self._worker.warm_up()
        keep_to_memory(settings.scorer)

    @serve.batch(max_batch_size=4, batch_wait_timeout_s=0.01)  # type: ignore[untyped-decorator]
    async def judge(self, comparisons: list[Any]) -> list[Any]:
        """See `Scorer.judge_together`."""
        return await asyncio.to_thread(self._worker.judge_together, comparisons)

    @coded
    def judge_foreign(self, clip: Any, photos: Any, others: Any = ()) -> Any:
        """See `Scorer.judge_foreign`."""
        return self._worker.judge_foreign(clip, photos, others)


class StylistReplica:
    """`Stylist` behind a handle: one scene is drawn at a time, the one before is judged and encoded beside it."""

    def __init__(self, settings: ServeSettings) -> None:
        keep_to_share()
        from gapray.serve.stylist import Stylist

        settings = settings.with_places()
        self._worker = Stylist(settings, holds=JobStore(str(settings.jobs_url)).holds)
        self._worker.warm_up()
        keep_to_memory(settings.stylist or Replicas())

    @coded
    def style(self, job: Job, package: Any) -> Any:
        """See `Stylist.style`."""
        return self._worker.style(job, package)


class HandleWorkers:
    """`Workers` over handles. Arrays stay in the object store and are mapped, not copied, on their way."""

    def __init__(
        self,
        packager: DeploymentHandle,
        generator: DeploymentHandle,
        scorer: DeploymentHandle,
        stylist: DeploymentHandle | None,
    ) -> None:
        self._packager, self._generator, self._scorer, self._stylist = packager, generator, scorer, stylist

    async def package(self, job: Job) -> Any:
        """See `Workers`."""
        return await self._packager.package.remote(job)

    async def store_package(self, job: Job, package: Any) -> Any:
        """See `Workers`."""
        return await self._packager.store_package.remote(job, package)

    async def draw(self, making: Making, package: Any) -> Any:
        """See `Workers`."""
        return await self._generator.draw.remote(making, package)

    async def encode(self, job: Job, package: Any, turn: Any) -> Any:
        """See `Workers`."""
        return await self._packager.encode.remote(job, package, turn)

    async def compare(self, job: Job, package: Any, turn: Any) -> Any:
        """See `Workers`."""
        return await self._packager.compare.remote(job, package, turn)

    async def laid(self, job: Job) -> Any:
        """See `Workers`."""
        return await self._packager.laid.remote(job)

    async def style(self, job: Job, package: Any) -> Any:
        """See `Workers`."""
        if self._stylist is None:  # the ingress lets none in, but a job may be older than the setting
            raise InputError("request.unsupported", "this server draws no stills")
        return await self._stylist.style.remote(job, package)

    async def judge(self, comparison: Any) -> Any:
        """See `Workers`."""
        found = await self._scorer.judge.remote(comparison)
        if isinstance(found, Exception):
            raise found
        return found

    async def judge_foreign(self, clip: Any, photos: Any, others: Any) -> Any:
        """See `Workers`."""
        return await self._scorer.judge_foreign.remote(clip, photos, others)


class DispatcherReplica:
    """`Dispatcher` in a replica: it is called by nobody and calls the workers."""

    # Serve awaits it, so that the loops begin in the replica's event loop.
    async def __init__(  # type: ignore[misc]
        self,
        settings: ServeSettings,
        packager: DeploymentHandle | None,
        generator: DeploymentHandle | None,
        scorer: DeploymentHandle | None,
        stylist: DeploymentHandle | None = None,
    ) -> None:
        refuse_unshared(settings)
        settings = settings.with_secrets()
        store = JobStore(str(settings.jobs_url))
        artifacts = Artifacts.at(str(settings.artifacts), store.holds)
        workers = None
        if packager and generator and scorer:
            workers = HandleWorkers(packager, generator, scorer, stylist)

        async def do(job: Job, report: Report) -> dict[str, Any]:
            try:
                if workers is None:
                    return await make_nothing(job, artifacts, report)
                return await make(job, workers, report)
            except (RayError, RayServeException) as error:
                if ours(error) is not None or (isinstance(error, RayTaskError) and not _is_loss(error.cause)):
                    raise
                if isinstance(error, TaskCancelledError):
                    raise
                raise WorkerLostError(f"{type(error).__name__}") from error

        self._settings = settings
        self._dispatcher = Dispatcher(store, artifacts, settings, do)
        self._dispatcher.start()

    def check_health(self) -> None:
        """Serve replaces a dispatcher that is stuck."""
        self._dispatcher.check()
        refuse_unshared(self._settings)

    async def __del__(self) -> None:
        if hasattr(self, "_dispatcher"):
            await self._dispatcher.stop()


class Ingress:
    """The HTTP application in a replica. It needs the database and the artifact store, and no worker."""

    def __init__(self, settings: ServeSettings, dispatcher: DeploymentHandle) -> None:
        del dispatcher  # bound, so that it is deployed before requests are let in
        from gapray.serve.http.context import Context

        self._app = serve.get_replica_context().app_name
        self._seen = 0.0, "the workers are starting"
        clear_scratch()
        self._context = Context.of(settings.with_places(), self._missing)
        keep_to_memory(settings.ingress)

    def _missing(self) -> str | None:
        """What keeps jobs from being worked on, asked of Serve's controller once in a while."""
        at, said = self._seen
        if time.monotonic() - at > READY_S:
            state = serve.status().applications[self._app]
            said = "" if state.status == "RUNNING" else f"the workers are {state.status.lower()}"
            self._seen = time.monotonic(), said
        return said or None

    def __serve_build_asgi_app__(self) -> Any:
        """Called by Serve once the replica is made."""
        from gapray.serve.http.app import build_app

        return build_app(self._context, named_elsewhere=True)  # by each of Serve's proxies


def build(args: dict[str, Any]) -> serve.Application:
    """The application of a Serve config: ``import_path: gapray.serve.deployments:build``.

    Args:
        args: Fields of `ServeSettings` without secrets; those are in the environment of every node.

    Raises:
        ConfigError: `config.invalid`, `config.secret` or `profile.unknown`.
    """
    refuse_secrets(args)
    return application(serve_settings(args).resolved())


def application(resolved: ServeSettings) -> serve.Application:
    """The application of settings whose places and secrets are filled in. None of the secrets goes along.

    Raises:
        ConfigError: `profile.unknown` or `config.invalid`.
    """
    resolved.loaded_profile()
    settings = resolved.without_secrets()
    workers: tuple[Any, ...] = (None, None, None, None)
    if settings.engine == "pipeline":
        workers = (
            _deployed(PackagerReplica, "packager", **_options(settings.packager)).bind(settings),
            _deployed(GeneratorReplica, "generator", **_options(settings.generator, settings.jobs_url, "video")).bind(
                settings
            ),
            _deployed(ScorerReplica, "scorer", **_options(settings.scorer)).bind(settings),
            _deployed(StylistReplica, "stylist", **_options(settings.stylist, settings.jobs_url, "image")).bind(
                settings
            )
            if settings.stylist
            else None,
        )
    dispatcher = _deployed(
        DispatcherReplica,
        "dispatcher",
        num_replicas=1,
        health_check_period_s=5,
        graceful_shutdown_timeout_s=5,
        ray_actor_options={"num_cpus": 0.1},
    )
    # The application itself refuses what is more than `ongoing`; health checks always come through to it.
    options = _options(settings.ingress) | {"max_ongoing_requests": settings.ingress.ongoing + BESIDE}
    ingress = _deployed(serve.ingress()(Ingress), "ingress", **options)
    return ingress.bind(settings, dispatcher.bind(settings, *workers))


def _deployed(replica: Any, name: str, **options: Any) -> Any:
    return serve.deployment(name=name, **options)(replica)


def _options(wanted: Replicas, jobs_url: str | None = None, kind: Kind = "video") -> dict[str, Any]:
    """A deployment's options; with `jobs_url` its replicas are woken by the jobs of `kind` that wait."""
    options: dict[str, Any] = {
        "max_ongoing_requests": wanted.ongoing,
        "ray_actor_options": {"num_cpus": wanted.cpus, **({"num_gpus": wanted.gpus} if wanted.gpus else {})},
    }
    if wanted.min == wanted.max:
        return options | {"num_replicas": wanted.max}
    policy = {}
    if jobs_url is not None:
        policy["policy"] = AutoscalingPolicy(
            policy_function="gapray.serve.autoscale:QueuePolicy",
            policy_kwargs={"jobs_url": jobs_url, "ongoing": wanted.ongoing, "kind": kind},
        )
    return options | {
        "autoscaling_config": AutoscalingConfig(
            min_replicas=wanted.min,
            max_replicas=wanted.max,
            target_ongoing_requests=wanted.ongoing,
            upscale_delay_s=2,
            downscale_delay_s=120,
            **policy,
        )
    }


def refuse_unshared(settings: ServeSettings) -> None:
    """Refuse files of one machine on a cluster of several: half the replicas would see another database.

    Raises:
        ConfigError: `jobs.store_unusable` or `artifacts.unusable`.
    """
    nodes = sum(1 for node in ray.nodes() if node["Alive"])
    if nodes < 2:
        return
    if is_sqlite(str(settings.jobs_url)):
        raise ConfigError("jobs.store_unusable", f"SQLite cannot be shared by {nodes} nodes")
    if Artifacts.at(str(settings.artifacts)).is_local and not settings.shared_artifacts:
        raise ConfigError("artifacts.unusable", f"a local folder of artifacts cannot be shared by {nodes} nodes")


def keep_to_share() -> None:
    """Let this process allocate no more than its replica's share of the GPU: Ray's fractions are bookkeeping only."""
    share = ray.get_runtime_context().get_assigned_resources().get("GPU", 0.0)
    if 0 < share < 1:
        import torch

        torch.cuda.set_per_process_memory_fraction(share)


def keep_to_memory(wanted: Replicas) -> None:
    """Let this replica's work take no more than its share of the node's memory.

    Not beside a GPU: CUDA maps host memory of its own as it goes, and no figure of what it needs is known.
    """
    if wanted.gpus:
        return
    cap = cap_memory(wanted.memory_bytes or get_system_memory() // 4)
    log.info("private memory is capped at %s bytes", cap)


def _is_loss(cause: BaseException | None) -> bool:
    return isinstance(cause, (ActorDiedError, RayServeException))
