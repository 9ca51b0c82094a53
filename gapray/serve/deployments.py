"""The Ray Serve application: the workers, the dispatcher and the ingress as deployments.

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

from gapray.errors import ConfigError, GaprayError, InputError, as_gapray_error
from gapray.models.store import share_kernels
from gapray.serve.artifacts import Artifacts
from gapray.serve.dispatcher import Dispatcher, WorkerLostError
from gapray.serve.http.places import RESERVED_REQUESTS
from gapray.serve.jobs import GenerationParams, Job, Kind
from gapray.serve.memory import cap_memory
from gapray.serve.scratch import clear_scratch
from gapray.serve.settings import Replicas, ServeSettings, refuse_secrets, serve_settings
from gapray.serve.store import JobStore
from gapray.serve.tables import is_sqlite
from gapray.serve.threads import releasing_memory
from gapray.serve.work import Report, find_gapray_error, run_job, run_null_engine

log = logging.getLogger("gapray.serve")
READY_S = 1.0
"""How long an ingress remembers what Serve's controller said of the workers [s]."""


def only_gapray_errors(method: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate a replica's method to raise gapray's errors only: they have codes, and can be unpickled anywhere."""

    @functools.wraps(method)
    def call(*args: Any) -> Any:
        try:
            return releasing_memory(method, *args)
        except Exception as error:
            if isinstance(error, GaprayError):
                if error.code == "job.out_of_memory":
                    log.warning("%s would take more than its memory_bytes", method.__qualname__)
                raise
            log.exception("%s failed", method.__qualname__)
            raise as_gapray_error(error) from None

    return call


class PackagerReplica:
    """A `Packager` in a replica; its methods run in threads."""

    def __init__(self, settings: ServeSettings) -> None:
        limit_gpu_memory()
        from gapray.serve.packager import Packager

        settings = settings.with_places()
        clear_scratch()  # left by a replica that this one may replace
        self._worker = Packager(settings, is_current=JobStore(str(settings.jobs_url)).is_current)
        self._worker.warm_up()
        limit_host_memory(settings.packager)

    @only_gapray_errors
    def package(self, job: Job) -> Any:
        """Run `Packager.package`."""
        return self._worker.package(job)

    @only_gapray_errors
    def store_package(self, job: Job, package: Any) -> Any:
        """Run `Packager.store_package`."""
        return self._worker.store_package(job, package)

    @only_gapray_errors
    def encode(self, job: Job, package: Any, turn: Any) -> Any:
        """Run `Packager.encode`."""
        return self._worker.encode(job, package, turn)

    @only_gapray_errors
    def compare(self, job: Job, package: Any, turn: Any) -> Any:
        """Run `Packager.compare`."""
        return self._worker.compare(job, package, turn)

    @only_gapray_errors
    def prepare_foreign(self, job: Job) -> Any:
        """Run `Packager.prepare_foreign`."""
        return self._worker.prepare_foreign(job)


class GeneratorReplica:
    """A `Generator` in a replica: one clip at a time, on a whole GPU if there is one."""

    def __init__(self, settings: ServeSettings) -> None:
        limit_gpu_memory()
        share_kernels()
        from gapray.serve.generator import Generator

        self._worker = Generator(settings)
        self._worker.warm_up()
        limit_host_memory(settings.generator)

    @only_gapray_errors
    def draw(self, params: GenerationParams, package: Any) -> Any:
        """Run `Generator.draw`."""
        return self._worker.draw(params, package)


class ScorerReplica:
    """A `Scorer` in a replica. Comparisons that arrive together are scored as one batch."""

    def __init__(self, settings: ServeSettings) -> None:
        limit_gpu_memory()
        from gapray.serve.scorer import Scorer

        self._worker = Scorer(settings)
        self._worker.warm_up()
        limit_host_memory(settings.scorer)

    @serve.batch(max_batch_size=4, batch_wait_timeout_s=0.01)  # type: ignore[untyped-decorator]
    async def judge(self, comparisons: list[Any]) -> list[Any]:
        """Run `Scorer.judge_together` on a batch; each result is a dictionary of scores or an error."""
        return await asyncio.to_thread(self._worker.judge_together, comparisons)

    @only_gapray_errors
    def judge_foreign(self, clip: Any, photos: Any, others: Any = ()) -> Any:
        """Run `Scorer.judge_foreign`."""
        return self._worker.judge_foreign(clip, photos, others)


class StylistReplica:
    """A `Stylist` in a replica: it draws one request's stills at a time, while the previous ones are judged and encoded."""

    def __init__(self, settings: ServeSettings) -> None:
        limit_gpu_memory()
        from gapray.serve.stylist import Stylist

        settings = settings.with_places()
        self._worker = Stylist(settings, is_current=JobStore(str(settings.jobs_url)).is_current)
        self._worker.warm_up()
        limit_host_memory(settings.stylist or Replicas())

    @only_gapray_errors
    def style(self, job: Job, package: Any) -> Any:
        """Run `Stylist.style`."""
        return self._worker.style(job, package)


class HandleWorkers:
    """`Workers` over deployment handles. Arrays stay in Ray's object store, where they are mapped instead of copied."""

    def __init__(
        self,
        packager: DeploymentHandle,
        generator: DeploymentHandle,
        scorer: DeploymentHandle,
        stylist: DeploymentHandle | None,
    ) -> None:
        self._packager, self._generator, self._scorer, self._stylist = packager, generator, scorer, stylist

    async def package(self, job: Job) -> Any:
        """Call `PackagerReplica.package`."""
        return await self._packager.package.remote(job)

    async def store_package(self, job: Job, package: Any) -> Any:
        """Call `PackagerReplica.store_package`."""
        return await self._packager.store_package.remote(job, package)

    async def draw(self, params: GenerationParams, package: Any) -> Any:
        """Call `GeneratorReplica.draw`."""
        return await self._generator.draw.remote(params, package)

    async def encode(self, job: Job, package: Any, turn: Any) -> Any:
        """Call `PackagerReplica.encode`."""
        return await self._packager.encode.remote(job, package, turn)

    async def compare(self, job: Job, package: Any, turn: Any) -> Any:
        """Call `PackagerReplica.compare`."""
        return await self._packager.compare.remote(job, package, turn)

    async def prepare_foreign(self, job: Job) -> Any:
        """Call `PackagerReplica.prepare_foreign`."""
        return await self._packager.prepare_foreign.remote(job)

    async def style(self, job: Job, package: Any) -> Any:
        """Call `StylistReplica.style`."""
        if self._stylist is None:  # the ingress refuses such jobs, but a job may be older than the setting
            raise InputError("request.unsupported", "this server draws no stills")
        return await self._stylist.style.remote(job, package)

    async def judge(self, comparison: Any) -> Any:
        """Call `ScorerReplica.judge`, and raise the error that it may return."""
        outcome = await self._scorer.judge.remote(comparison)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    async def judge_foreign(self, clip: Any, photos: Any, others: Any) -> Any:
        """Call `ScorerReplica.judge_foreign`."""
        return await self._scorer.judge_foreign.remote(clip, photos, others)


class DispatcherReplica:
    """A `Dispatcher` in a replica: it calls the workers, and nothing calls it."""

    # Serve awaits an asynchronous constructor, so that the loops start in the replica's event loop.
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
        artifacts = Artifacts.at(str(settings.artifacts), store.is_current)
        workers = None
        if packager and generator and scorer:
            workers = HandleWorkers(packager, generator, scorer, stylist)

        async def run(job: Job, report: Report) -> dict[str, Any]:
            try:
                if workers is None:
                    return await run_null_engine(job, artifacts, report)
                return await run_job(job, workers, report)
            except (RayError, RayServeException) as error:
                if find_gapray_error(error) is not None or (
                    isinstance(error, RayTaskError) and not _is_loss(error.cause)
                ):
                    raise
                if isinstance(error, TaskCancelledError):
                    raise
                raise WorkerLostError(f"{type(error).__name__}") from error

        self._settings = settings
        self._dispatcher = Dispatcher(store, artifacts, settings, run)
        self._dispatcher.start()

    def check_health(self) -> None:
        """Raise if the dispatcher is stuck, so that Serve replaces this replica."""
        self._dispatcher.check()
        refuse_unshared(self._settings)

    async def __del__(self) -> None:
        if hasattr(self, "_dispatcher"):
            await self._dispatcher.stop()


class Ingress:
    """The HTTP application in a replica. It needs the database and the artifact store, but no worker."""

    def __init__(self, settings: ServeSettings, dispatcher: DeploymentHandle) -> None:
        del dispatcher  # bound only so that Serve deploys it
        from gapray.serve.http.context import Context

        self._app = serve.get_replica_context().app_name
        self._last_check = 0.0, "the workers are starting"
        """When the workers were last checked [s on the monotonic clock], and what was wrong with them."""
        clear_scratch()
        self._context = Context.of(settings.with_places(), self._not_ready_reason)
        limit_host_memory(settings.ingress)

    def _not_ready_reason(self) -> str | None:
        """Return why jobs cannot be worked on, or None; Serve's controller is asked at most once per `READY_S`."""
        checked_at, reason = self._last_check
        if time.monotonic() - checked_at > READY_S:
            state = serve.status().applications[self._app]
            reason = "" if state.status == "RUNNING" else f"the workers are {state.status.lower()}"
            self._last_check = time.monotonic(), reason
        return reason or None

    def __serve_build_asgi_app__(self) -> Any:
        """Build the ASGI application; Serve calls this once the replica has been created."""
        from gapray.serve.http.app import build_app

        return build_app(self._context, adds_request_id=False)  # Serve's proxies add it


def build(args: dict[str, Any]) -> serve.Application:
    """Build the application for a Serve config file: ``import_path: gapray.serve.deployments:build``.

    Args:
        args: Fields of `ServeSettings`, without secrets: those come from the environment of every node.

    Raises:
        ConfigError: `config.invalid`, `config.secret` or `profile.unknown`.
    """
    refuse_secrets(args)
    return application(serve_settings(args).resolved())


def application(resolved: ServeSettings) -> serve.Application:
    """Build the application from resolved settings, whose locations and secrets are filled in. Secrets are not passed on.

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
    # The application itself refuses more than `ongoing` requests, so that health checks always reach it.
    options = _options(settings.ingress) | {"max_ongoing_requests": settings.ingress.ongoing + RESERVED_REQUESTS}
    ingress = _deployed(serve.ingress()(Ingress), "ingress", **options)
    return ingress.bind(settings, dispatcher.bind(settings, *workers))


def _deployed(replica: Any, name: str, **options: Any) -> Any:
    return serve.deployment(name=name, **options)(replica)


def _options(replicas: Replicas, jobs_url: str | None = None, kind: Kind = "video") -> dict[str, Any]:
    """Return a deployment's options; with `jobs_url` it scales with the number of unfinished jobs of `kind`."""
    options: dict[str, Any] = {
        "max_ongoing_requests": replicas.ongoing,
        "ray_actor_options": {"num_cpus": replicas.cpus, **({"num_gpus": replicas.gpus} if replicas.gpus else {})},
    }
    if replicas.min == replicas.max:
        return options | {"num_replicas": replicas.max}
    policy = {}
    if jobs_url is not None:
        policy["policy"] = AutoscalingPolicy(
            policy_function="gapray.serve.autoscale:QueuePolicy",
            policy_kwargs={"jobs_url": jobs_url, "ongoing": replicas.ongoing, "kind": kind},
        )
    return options | {
        "autoscaling_config": AutoscalingConfig(
            min_replicas=replicas.min,
            max_replicas=replicas.max,
            target_ongoing_requests=replicas.ongoing,
            upscale_delay_s=2,
            downscale_delay_s=120,
            **policy,
        )
    }


def refuse_unshared(settings: ServeSettings) -> None:
    """Refuse a database or artifact folder local to one node on a cluster of several: replicas would not share it.

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


def limit_gpu_memory() -> None:
    """Limit this process's GPU memory to its replica's fraction of the GPU, which Ray only keeps account of."""
    fraction = ray.get_runtime_context().get_assigned_resources().get("GPU", 0.0)
    if 0 < fraction < 1:
        import torch

        torch.cuda.set_per_process_memory_fraction(fraction)


def limit_host_memory(replicas: Replicas) -> None:
    """Cap the memory that this replica may allocate beyond what it holds now at `memory_bytes`.

    Replicas with a GPU have no cap: CUDA maps host memory as it goes, and how much it needs is not known.
    """
    if replicas.gpus:
        return
    cap = cap_memory(replicas.memory_bytes or get_system_memory() // 4)
    log.info("private memory is capped at %s bytes", cap)


def _is_loss(cause: BaseException | None) -> bool:
    """Whether a task failed because the worker that it called died."""
    return isinstance(cause, (ActorDiedError, RayServeException))
