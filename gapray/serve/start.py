"""`gapray serve`: the application on this machine, or on a running cluster."""

from __future__ import annotations

import ipaddress
import logging
import os
import signal
import threading
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import yaml

from gapray.environment import preserved_environment
from gapray.errors import ConfigError
from gapray.serve.front import binary_of_haproxy, free_port, front
from gapray.serve.keys import any_made, listed
from gapray.serve.port import port_kept
from gapray.serve.settings import ServeSettings, serve_settings
from gapray.serve.tables import connect

log = logging.getLogger("gapray.serve")
APP = "gapray"
OBJECT_STORE_BYTES = 2**30
LOOK_S = 1.0
"""Between two looks whether the proxy in front still runs."""
_UNBOUND = "Failed to bind to address"
"""In what Serve raises when its proxy cannot listen (2.60: serve/_private/http_util.py)."""


def serve_settings_of(
    *, profile: str, config: Path | None, overrides: Sequence[str], jobs: str | None, artifacts: str | None
) -> ServeSettings:
    """Settings from the flags of `gapray serve`, over a YAML file.

    Raises:
        ConfigError: `config.invalid`.
    """
    data: Any = {}
    if config is not None:
        try:
            data = yaml.safe_load(config.read_text()) or {}
        except (OSError, yaml.YAMLError, ValueError, RecursionError) as error:
            raise ConfigError("config.invalid", f"cannot read {config}: {error}") from error
        if not isinstance(data, dict):
            raise ConfigError("config.invalid", f"{config} holds no mapping of settings")
    data = {"profile": profile} | data | {"overrides": [*data.get("overrides", []), *overrides]}
    if jobs:
        data["jobs_url"] = jobs
    if artifacts:
        data["artifacts"] = artifacts
    return serve_settings(data).resolved()


def admitted(settings: ServeSettings, host: str, *, insecure: bool) -> ServeSettings:
    """Whether callers need keys: always, but when told so, or on a loopback address until the first key is made.

    Raises:
        ConfigError: `auth.no_keys` for an address that others reach, when nobody could call.
    """
    if insecure or settings.open:
        return settings.model_copy(update={"open": True})
    engine = connect(str(settings.jobs_url))
    keyed = settings.model_copy(update={"open_until_keyed": False})
    if [key for key in listed(engine) if key.revoked_at is None]:
        return keyed
    if not _is_loopback(host):
        raise ConfigError("auth.no_keys", f"{host} can be reached by others, and there is no API key")
    if os.environ.get("RAY_SERVE_ENABLE_HA_PROXY") == "1":
        # Serve lets HAProxy talk to the replicas over the network: they listen on every address.
        raise ConfigError(
            "auth.no_keys", "behind HAProxy the replicas can be reached by others, and there is no API key"
        )
    # Who made a key wants it asked for, also once it is revoked.
    return keyed if any_made(engine) else settings.model_copy(update={"open_until_keyed": True})


def start(settings: ServeSettings, *, host: str, port: int, address: str | None, insecure: bool) -> None:
    """Serve until interrupted.

    On a cluster that runs already, its nodes have the secrets in an environment of their own.

    Raises:
        ConfigError: As `admitted`; `serve.cannot_bind`.
        ResourceError: As `gapray.ray_session.start`.
    """
    chosen = admitted(settings, host, insecure=insecure).model_copy(update={"bound": (host, port)})
    local = address is None and "RAY_ADDRESS" not in os.environ
    if not local:  # there it is the nodes' proxies that listen, and what stands before them is the cluster's
        _serve(chosen, host, port, address or "auto", fronted=False)
        return
    with port_kept(host, port):
        fronted = binary_of_haproxy() is not None and os.environ.get("RAY_SERVE_ENABLE_HA_PROXY") != "1"
        _serve(chosen, host, port, None, fronted=fronted)


def _serve(chosen: ServeSettings, host: str, port: int, address: str | None, *, fronted: bool) -> None:
    """Serve until interrupted.

    Args:
        chosen: Settings, with every place filled in.
        host: Address for clients.
        port: Port for clients.
        address: Ray cluster; None = a Ray of its own.
        fronted: HAProxy listens for clients, and Serve's own proxy behind it on the loopback.
    """
    import ray
    from ray import serve

    from gapray.ray_session import start as start_ray
    from gapray.serve.deployments import application

    # It tells of the port behind the front.
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    stop = threading.Event()
    print(f"starting Ray and the workers of profile {chosen.profile} …", flush=True)  # noqa: T201
    # For Ray's processes. Requests to the server stand in its own log; one line for each in Ray's would drown everything else.
    # Ray lets its workers give way to everything else; here they are what the machine is for.
    with preserved_environment(RAY_SERVE_LOG_TO_STDERR="0", RAY_worker_niceness="0"):
        if address is None:
            os.environ |= (
                chosen.environment()
            )  # inherited by all processes of this Ray: nothing else tells them of secrets
            start_ray("local", share_environment=False, object_store_memory=OBJECT_STORE_BYTES)
        else:
            start_ray(address, share_environment=False)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        try:
            inner = ("127.0.0.1", free_port()) if fronted else (host, port)
            serve.start(http_options={"host": inner[0], "port": inner[1], "request_timeout_s": None})
            serve.run(application(chosen), name=APP, route_prefix="/")
        except Exception as error:
            if _UNBOUND in str(error):
                raise ConfigError(
                    "serve.cannot_bind", f"{host}:{port}: a proxy of the cluster cannot bind it"
                ) from error
            raise
        keys = "no key needed" if chosen.open or chosen.open_until_keyed else "API key needed"
        at_once = chosen.requests_per_key * chosen.ingress.max
        with front(host, port, inner[1], at_once=at_once) if fronted else nullcontext() as before:
            print(f"http://{host}:{port}/ is ready ({keys}; stop with Ctrl-C)", flush=True)  # noqa: T201
            for number in handlers:
                signal.signal(number, lambda *_: stop.set())  # only now: Ray sets its own when it starts
            while not stop.wait(LOOK_S):
                if before is not None:
                    before.keep()
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
