"""`gapray serve`: start the application on this machine, or on a running cluster."""

from __future__ import annotations

import ipaddress
import logging
import os
import signal
import threading
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

from gapray.environment import preserved_environment
from gapray.errors import ConfigError
from gapray.plain_yaml import read_mapping
from gapray.serve.front import find_haproxy, free_port, run_front
from gapray.serve.keys import any_created, list_keys
from gapray.serve.port import hold_port
from gapray.serve.settings import ServeSettings, serve_settings
from gapray.serve.tables import connect

log = logging.getLogger("gapray.serve")
APP = "gapray"
OBJECT_STORE_BYTES = 2**30
FRONT_CHECK_S = 1.0
"""Pause between two checks that the front proxy is running [s]."""
_BIND_FAILURE = "Failed to bind to address"
"""Part of the error message of Serve when its proxy cannot listen (2.60: serve/_private/http_util.py)."""


def serve_settings_of(
    *, profile: str | None, config: Path | None, overrides: Sequence[str], jobs: str | None, artifacts: str | None
) -> ServeSettings:
    """Return the settings from a YAML file, overridden by the flags of `gapray serve`.

    Raises:
        ConfigError: `config.invalid`.
    """
    data = {} if config is None else read_mapping(config)
    if not isinstance(own := data.get("overrides", []), list):
        raise ConfigError("config.invalid", f"{config}: overrides is no list, such as [orbit.frames=36]")
    data = data | {"overrides": [*own, *overrides]}
    if profile:
        data["profile"] = profile
    if jobs:
        data["jobs_url"] = jobs
    if artifacts:
        data["artifacts"] = artifacts
    return serve_settings(data).resolved()


def with_key_policy(settings: ServeSettings, host: str, *, insecure: bool) -> ServeSettings:
    """Return the settings with the decision whether callers need keys.

    They do, unless the server is explicitly insecure, or listens on a loopback address and no key has been created yet.

    Raises:
        ConfigError: `auth.no_keys` if other machines can reach the address and there is no key.
    """
    if insecure or settings.open:
        return settings.model_copy(update={"open": True})
    engine = connect(str(settings.jobs_url))
    keyed = settings.model_copy(update={"open_until_keyed": False})
    if any(key.revoked_at is None for key in list_keys(engine)):
        return keyed
    if not _is_loopback(host):
        raise ConfigError("auth.no_keys", f"{host} can be reached by others, and there is no API key")
    if os.environ.get("RAY_SERVE_ENABLE_HA_PROXY") == "1":
        # Serve's HAProxy talks to the replicas over the network, so they listen on every address.
        raise ConfigError(
            "auth.no_keys", "behind HAProxy the replicas can be reached by others, and there is no API key"
        )
    # Once a key has been created, keys are required, even if it was revoked.
    return keyed if any_created(engine) else settings.model_copy(update={"open_until_keyed": True})


def start(settings: ServeSettings, *, host: str, port: int, address: str | None, insecure: bool) -> None:
    """Run the server until it is interrupted.

    The nodes of an existing cluster must have the secrets in their environment.

    Args:
        settings: Resolved settings.
        host: Address that clients connect to.
        port: Port that clients connect to.
        address: Address of a Ray cluster; None: `RAY_ADDRESS`, or else a local Ray instance.
        insecure: Whether callers need no key.

    Raises:
        ConfigError: `auth.no_keys` if other machines can reach the address and there is no key; `serve.cannot_bind`.
        ResourceError: Ray cannot be started or reached (`gapray.ray_session.start`).
    """
    settings = with_key_policy(settings, host, insecure=insecure).model_copy(update={"bound": (host, port)})
    local = address is None and "RAY_ADDRESS" not in os.environ
    if not local:  # the nodes' proxies listen for clients, behind whatever the cluster puts in front of them
        _serve(settings, host, port, address or "auto", fronted=False)
        return
    with hold_port(host, port):
        fronted = find_haproxy() is not None and os.environ.get("RAY_SERVE_ENABLE_HA_PROXY") != "1"
        _serve(settings, host, port, None, fronted=fronted)


def _serve(settings: ServeSettings, host: str, port: int, address: str | None, *, fronted: bool) -> None:
    """Run the server until it is interrupted.

    Args:
        settings: Resolved settings, with the decision about keys.
        host: Address that clients connect to.
        port: Port that clients connect to.
        address: Address of a Ray cluster; None: a local Ray instance.
        fronted: Whether HAProxy listens for clients, with Serve's own proxy behind it on the loopback.
    """
    import ray
    from ray import serve

    from gapray.ray_session import start as start_ray
    from gapray.serve.deployments import application

    # Serve would log its own port, behind the front.
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    stop = threading.Event()
    print(f"starting Ray and the workers of profile {settings.profile} …", flush=True)  # noqa: T201
    # For Ray's processes: one line per request in Ray's log would drown everything else, and the server has its own log.
    # Ray runs its workers at low priority; here they are the machine's main purpose.
    with preserved_environment(RAY_SERVE_LOG_TO_STDERR="0", RAY_worker_niceness="0"):
        if address is None:
            # Ray's processes inherit the secrets; they get them in no other way.
            os.environ |= settings.environment()
            start_ray("local", share_environment=False, object_store_memory=OBJECT_STORE_BYTES)
        else:
            start_ray(address, share_environment=False)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        try:
            inner = ("127.0.0.1", free_port()) if fronted else (host, port)
            serve.start(http_options={"host": inner[0], "port": inner[1], "request_timeout_s": None})
            serve.run(application(settings), name=APP, route_prefix="/")
        except Exception as error:
            if _BIND_FAILURE in str(error):
                raise ConfigError(
                    "serve.cannot_bind", f"{host}:{port}: a proxy of the cluster cannot bind it"
                ) from error
            raise
        keys = "no key needed" if settings.open or settings.open_until_keyed else "API key needed"
        concurrent = settings.requests_per_key * settings.ingress.max
        with run_front(host, port, inner[1], requests_per_key=concurrent) if fronted else nullcontext() as proxy:
            print(f"http://{host}:{port}/ is ready ({keys}; stop with Ctrl-C)", flush=True)  # noqa: T201
            for number in handlers:
                signal.signal(
                    number, lambda *_: stop.set()
                )  # only now, because Ray sets its own handlers when it starts
            while not stop.wait(FRONT_CHECK_S):
                if proxy is not None:
                    proxy.restart_if_dead()
        print("stopping: what is not finished goes on at the next start", flush=True)  # noqa: T201
    finally:
        serve.shutdown()
        ray.shutdown()
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
