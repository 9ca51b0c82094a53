"""Settings of a server: models and profile, where jobs and files are stored, and the limits on requests."""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError, field_validator

from gapray.environment import HIDDEN, without_password
from gapray.errors import ConfigError, writing
from gapray.plain_yaml import PlainModel, first_problem
from gapray.profile import Profile, load_profile

JOBS_URL = "GAPRAY_JOBS_URL"
ARTIFACTS = "GAPRAY_ARTIFACTS"
AUDIT = "GAPRAY_AUDIT"
WEBHOOK_SECRET = "GAPRAY_WEBHOOK_SECRET"  # noqa: S105  (the variable's name, not its value)


class Limits(PlainModel):
    """Limits on one request. Photos must also satisfy `decode.*` of the profile."""

    body_bytes: int = Field(96 * 2**20, gt=0, description="Largest accepted body [bytes].")
    body_s: float = Field(30, gt=0, description="Time in which a body must arrive [s]; `body_bytes_s` adds to it.")
    body_bytes_s: int = Field(
        16 * 1024, gt=0, description="Slowest upload rate: every so many bytes extend `body_s` by a second [bytes/s]."
    )
    at_once_per_key: int | None = Field(
        None,
        ge=1,
        description="Concurrent requests of one key in an ingress; null = a quarter of its `ongoing`.",
    )
    images: int = Field(72, ge=1, description="Photos of one product.")
    photo_bytes: int = Field(
        192 * 2**20,
        gt=0,
        description="Total size of a request's photos, after unpacking a zip or fetching URLs [bytes].",
    )
    photo_pixels: int = Field(
        2_000_000_000, gt=0, description="Total size of a request's photos, according to their headers [pixels]."
    )
    entries: int = Field(2000, ge=1, description="Files and folders in a zip of photos.")
    json_bytes: int = Field(64 * 2**20, gt=0, description="Largest JSON body, including photos in base64 [bytes].")
    json_values: int = Field(
        100_000, ge=1, description="Values in a JSON document that a client sends or the server fetches."
    )
    fields: int = Field(200, ge=1, description="Form fields of a request, not counting photos.")
    prompt: int = Field(4000, ge=1, description="Length of a prompt [characters].")
    frames: int = Field(120, ge=1, le=360, description="Frames of one turn.")
    side: int = Field(1024, ge=64, le=2048, description="Longer side of a video [pixels].")
    picture_side: int = Field(2048, ge=64, le=4096, description="Longer side of a still [pixels].")
    steps: int = Field(100, ge=1, le=200, description="Denoising steps.")
    seconds: float = Field(60, gt=0, description="Duration of a video [s].")
    video_pixels: int = Field(
        1_000_000_000, gt=0, description="Width x height x frames of an encoded video, including repeated turns."
    )
    queued: int = Field(200, ge=1, description="Queued jobs; further requests are answered with 429.")
    queued_per_key: int | None = Field(None, ge=1, description="Queued jobs of one key; null = a quarter of `queued`.")
    wait_s: float = Field(
        300, gt=0, description="Longest synchronous wait for a job, and longest stream of its events [s]."
    )
    image_wait_s: float = Field(
        90,
        ge=0,
        description="How long an image request waits for its job, unless it says so itself, before it is answered with the unfinished job [s].",
    )

    @property
    def waiting_per_key(self) -> int:
        """Maximum number of queued jobs of one key."""
        return max(1, self.queued // 4) if self.queued_per_key is None else self.queued_per_key


class UrlRules(PlainModel):
    """Which URLs the server fetches for its clients: photos, manifests, webhooks."""

    schemes: tuple[Literal["https", "http"], ...] = Field(("https", "http"), description="Accepted schemes.")
    private: tuple[str, ...] = Field(
        (), description="Networks that may be reached although they are not public, such as 10.1.0.0/16."
    )
    max_bytes: int = Field(64 * 2**20, gt=0, description="Largest response [bytes].")
    timeout_s: float = Field(20, gt=0, description="Longest fetch, including redirects [s].")
    redirects: int = Field(3, ge=0, le=10, description="Redirects that are followed, each checked anew.")


class JobRules(PlainModel):
    """How jobs are run and kept."""

    lease_s: float = Field(15, gt=0, description="Time without a heartbeat after which a worker loses its job [s].")
    poll_s: float = Field(0.1, gt=0, description="Pause between two polls of the queue [s].")
    attempts: int = Field(3, ge=1, description="Attempts at a job whose workers die.")
    timeout_s: float = Field(1800, gt=0, description="Longest running time of a job [s].")
    keep_s: float = Field(24 * 3600, gt=0, description="How long results and uploads are kept [s].")
    orphan_s: float = Field(3600, gt=0, description="Age at which files that belong to no job are removed [s].")
    running: int = Field(2, ge=1, description="Concurrent jobs: the generator's max_ongoing x max_replicas.")
    webhook_tries: int = Field(5, ge=1, description="Deliveries of a webhook before it is given up.")


class Replicas(PlainModel):
    """Replicas of one deployment."""

    min: int = Field(1, ge=0, description="Minimum number of replicas; 0 = none while no job waits.")
    max: int = Field(1, ge=1, description="Maximum number of replicas.")
    ongoing: int = Field(1, ge=1, description="Concurrent calls in one replica.")
    cpus: float = Field(0.5, ge=0, description="Logical CPUs of a replica.")
    gpus: float = Field(0, ge=0, description="Fraction of a GPU of a replica; its GPU memory is limited to it.")
    threads: int = Field(2, ge=1, description="CPU threads of a replica.")
    memory_bytes: int | None = Field(
        None,
        gt=0,
        description="Memory that a replica without a GPU may allocate once its models are loaded; null = a quarter of its node's memory [bytes].",
    )


class ServeSettings(PlainModel):
    """All settings of a server."""

    profile: str = Field("classic", description="Profile of models and settings.")
    overrides: tuple[str, ...] = Field((), description="``name=value`` items that override the profile.")
    jobs_url: str | None = Field(
        None,
        description="SQLAlchemy URL of the job database; default GAPRAY_JOBS_URL, or SQLite in the state folder.",
    )
    artifacts: str | None = Field(
        None, description="Folder or fsspec URI of uploads and results; default GAPRAY_ARTIFACTS, or the state folder."
    )
    shared_artifacts: bool = Field(
        False, description="Whether a local folder of artifacts is a mount that every node has."
    )
    webhook_secret: str | None = Field(
        None,
        description="Secret that signs webhooks, `whsec_…`; default GAPRAY_WEBHOOK_SECRET, or one generated in the state folder.",
    )
    audit: str | None = Field(
        None,
        description="File of the audit log; default GAPRAY_AUDIT, or audit.jsonl in the state folder if that is used.",
    )
    engine: Literal["pipeline", "null"] = Field(
        "pipeline", description="`null` answers every job with grey pictures, to measure the service alone."
    )
    open: bool = Field(False, description="Whether callers need no key. Only for a server that nobody else can reach.")
    open_until_keyed: bool = Field(
        False, description="Whether callers need no key until the first one is created; set by `gapray serve`."
    )
    bound: tuple[str, int] | None = Field(
        None, description="Address and port that the server listens on; set by `gapray serve`."
    )
    hosts: tuple[str, ...] = Field(
        (),
        description="Host names, such as render.lan:8000, that a server without keys accepts besides localhost and IP addresses.",
    )
    cors_origins: tuple[str, ...] = Field(
        (),
        description="Origins of web pages that may call this server, such as https://shop.example; `*` = any.",
    )
    limits: Limits = Limits()
    urls: UrlRules = UrlRules()
    jobs: JobRules = JobRules()
    ingress: Replicas = Replicas(ongoing=100, cpus=0.25)
    packager: Replicas = Replicas(ongoing=2)
    generator: Replicas = Replicas()
    scorer: Replicas = Replicas(ongoing=8, cpus=0.25)
    stylist: Replicas | None = Field(
        Replicas(ongoing=2, cpus=0.25), description="Replicas that draw stills; null = the server draws none."
    )

    @field_validator("cors_origins")
    @classmethod
    def _origins(cls, origins: tuple[str, ...]) -> tuple[str, ...]:
        for origin in origins:
            # RFC 6454, section 6.2: browsers send scheme, host and port, in lower case and without a trailing slash.
            if origin != "*" and re.fullmatch(r"[a-z][a-z0-9+.-]*://[^/?#@A-Z\s]+", origin) is None:
                raise ValueError(f"{origin!r} is no origin; write it as https://shop.example or http://localhost:3000")
        return origins

    @property
    def requests_per_key(self) -> int:
        """Maximum number of concurrent requests of one key in an ingress."""
        return self.limits.at_once_per_key or max(1, self.ingress.ongoing // 4)

    def without_secrets(self) -> ServeSettings:
        """Return a copy that may be passed to Ray, whose API, logs and object store show the arguments of replicas.

        Passwords in URLs are masked by ``***``, and the webhook secret is replaced by a hash, so that a node with another
        secret is noticed.
        """
        return self.model_copy(
            update={
                "jobs_url": without_password(str(self.jobs_url)),
                "artifacts": without_password(str(self.artifacts)),
                "webhook_secret": _fingerprint(str(self.webhook_secret)),
            }
        )

    def with_places(self) -> ServeSettings:
        """Return a copy with the URLs that `without_secrets` masked restored from this process's environment.

        Raises:
            ConfigError: `config.secret` if this node's environment holds other URLs, or none.
        """
        return self.model_copy(
            update={
                "jobs_url": reveal_password(str(self.jobs_url), JOBS_URL),
                "artifacts": reveal_password(str(self.artifacts), ARTIFACTS),
            }
        )

    def with_secrets(self) -> ServeSettings:
        """Return a copy with restored URLs (`with_places`) and the webhook secret from the environment or the state folder.

        Raises:
            ConfigError: `config.secret` if this node has another secret, or none.
        """
        secret = os.environ.get(WEBHOOK_SECRET) or _secret(_state())
        if self.webhook_secret != _fingerprint(secret):
            raise ConfigError(
                "config.secret", f"{WEBHOOK_SECRET} of this node is not the one that the server began with"
            )
        return self.with_places().model_copy(update={"webhook_secret": secret})

    def environment(self) -> dict[str, str]:
        """Return the environment variables from which other processes restore the URLs and the secret of these settings."""
        return {JOBS_URL: str(self.jobs_url), ARTIFACTS: str(self.artifacts), WEBHOOK_SECRET: str(self.webhook_secret)}

    def resolved(self) -> ServeSettings:
        """Return a copy with every location and secret filled in, so that all replicas agree on them.

        Raises:
            ConfigError: `serve.write_failed` if one is missing and the state folder cannot be written.
        """
        filled = {
            "jobs_url": self.jobs_url or os.environ.get(JOBS_URL),
            "artifacts": self.artifacts or os.environ.get(ARTIFACTS),
            "webhook_secret": self.webhook_secret or os.environ.get(WEBHOOK_SECRET),
        }
        audit = self.audit or os.environ.get(AUDIT)
        if all(filled.values()):
            return self.model_copy(update=filled | {"audit": audit})
        state = _state()
        filled["audit"] = audit or str(state / "audit.jsonl")
        filled["jobs_url"] = filled["jobs_url"] or f"sqlite:///{state / 'jobs.db'}"
        filled["artifacts"] = filled["artifacts"] or str(state / "artifacts")
        filled["webhook_secret"] = filled["webhook_secret"] or _secret(state)
        return self.model_copy(update=filled)

    def loaded_profile(self) -> Profile:
        """Load the profile with this server's overrides.

        Raises:
            ConfigError: `profile.unknown` or `config.invalid`.
        """
        return load_profile(self.profile, overrides=self.overrides)


def serve_settings(data: dict[str, object]) -> ServeSettings:
    """Validate settings given as a plain mapping.

    Raises:
        ConfigError: `config.invalid`.
    """
    try:
        return ServeSettings.model_validate(data)
    except ValidationError as error:
        raise ConfigError("config.invalid", f"setting {first_problem(error)}") from error


def reveal_password(url: str, variable: str) -> str:
    """Return a URL with its masked password restored from an environment variable.

    Raises:
        ConfigError: `config.secret` if `variable` is not set or holds another URL.
    """
    if HIDDEN not in url:
        return url
    full_url = os.environ.get(variable, "")
    if without_password(full_url) != url:
        raise ConfigError("config.secret", f"{variable} of this node is not {url}")
    return full_url


def refuse_secrets(data: Mapping[str, object]) -> None:
    """Refuse settings that contain a secret, which Ray would show.

    Raises:
        ConfigError: `config.secret`.
    """
    shown = [name for name in ("jobs_url", "artifacts") if data.get(name) and _hides(str(data[name]))]
    for name in [*shown, *(["webhook_secret"] if data.get("webhook_secret") else [])]:
        raise ConfigError("config.secret", f"the application's args hold a secret in {name}")


def _hides(url: str) -> bool:
    return without_password(url) != url


def _fingerprint(secret: str) -> str:
    return f"sha256:{hashlib.sha256(secret.encode()).hexdigest()[:16]}"


def _state() -> Path:
    """Return this machine's state folder, created if missing; it holds what the settings do not place elsewhere.

    Raises:
        ConfigError: `serve.write_failed`.
    """
    configured = os.environ.get("GAPRAY_STATE")
    try:
        state = Path(configured) if configured else Path.home() / ".local" / "share" / "gapray"
    except RuntimeError as error:
        raise ConfigError("serve.write_failed", "this user has no home folder, and GAPRAY_STATE is not set") from error
    with writing(ConfigError, "serve.write_failed", f"the server's state, {state}"):
        state.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryFile(dir=state):
            return state


def _secret(state: Path) -> str:
    """Return the webhook secret in the state folder, generated if missing; only its owner can read the file.

    Raises:
        ConfigError: `serve.write_failed`.
    """
    path = state / "webhook_secret"
    with writing(ConfigError, "serve.write_failed", path):
        if not path.exists():
            _create_secret(path)
        return path.read_text().strip()


def _create_secret(path: Path) -> None:
    """Write a new secret atomically: servers that start together read the same one, and a full disk leaves no empty file."""
    import base64
    import secrets

    descriptor, partial = tempfile.mkstemp(dir=path.parent)  # readable only by its owner
    try:
        with open(descriptor, "w") as file:
            file.write("whsec_" + base64.b64encode(secrets.token_bytes(32)).decode())
        with suppress(FileExistsError):
            os.link(partial, path)
    finally:
        os.unlink(partial)
