"""Settings of a server: what it makes, where its jobs and files live, and what it lets in."""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from gapray.config import HIDDEN, Profile, load_profile, without_password
from gapray.errors import ConfigError, writing

JOBS_URL = "GAPRAY_JOBS_URL"
ARTIFACTS = "GAPRAY_ARTIFACTS"
AUDIT = "GAPRAY_AUDIT"
WEBHOOK_SECRET = "GAPRAY_WEBHOOK_SECRET"  # noqa: S105  (the variable's name, not its value)


class _Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Limits(_Settings):
    """What one request may ask for. Photos also pass `decode.*` of the profile."""

    body_bytes: int = Field(96 * 2**20, gt=0, description="Largest accepted body [bytes].")
    body_s: float = Field(30, gt=0, description="A body is there after so long…")
    body_bytes_s: int = Field(16 * 1024, gt=0, description="…and one second more for each so many of its bytes.")
    at_once_per_key: int | None = Field(
        None,
        ge=1,
        description="Requests of one key that an ingress answers at once; null = a quarter of its `ongoing`.",
    )
    images: int = Field(72, ge=1, description="Photos of one product.")
    photo_bytes: int = Field(
        192 * 2**20,
        gt=0,
        description="All photos of a request, unpacked from its zip or fetched from its URLs [bytes].",
    )
    photo_pixels: int = Field(
        2_000_000_000, gt=0, description="All photos of a request together, by their headers [pixels]."
    )
    entries: int = Field(2000, ge=1, description="Files and folders in a zip of photos.")
    json_bytes: int = Field(64 * 2**20, gt=0, description="Largest JSON body, photos in base64 included [bytes].")
    json_values: int = Field(
        100_000, ge=1, description="Values in JSON that a client sends or that the server fetches."
    )
    fields: int = Field(200, ge=1, description="Form fields beside the photos.")
    prompt: int = Field(4000, ge=1, description="Length of a prompt [characters].")
    frames: int = Field(120, ge=1, le=360, description="Frames of one turn.")
    side: int = Field(1024, ge=64, le=2048, description="Longer side of a video [pixels].")
    picture_side: int = Field(2048, ge=64, le=4096, description="Longer side of a still [pixels].")
    steps: int = Field(100, ge=1, le=200, description="Denoising steps.")
    seconds: float = Field(60, gt=0, description="Length of a video [s].")
    video_pixels: int = Field(
        1_000_000_000, gt=0, description="Width x height x frames of an encoded video, the repeated frames included."
    )
    queued: int = Field(200, ge=1, description="Jobs that may wait; more are answered by 429.")
    queued_per_key: int | None = Field(
        None, ge=1, description="Of these, jobs of one key; null = a quarter of `queued`."
    )
    wait_s: float = Field(
        300, gt=0, description="Longest synchronous wait for a job, and longest stream of its events [s]."
    )
    image_wait_s: float = Field(
        90, ge=0, description="Image requests that do not say are answered with a job after so long [s]."
    )

    @property
    def waiting_per_key(self) -> int:
        """Jobs of one key that may wait."""
        return max(1, self.queued // 4) if self.queued_per_key is None else self.queued_per_key


class UrlRules(_Settings):
    """Which URLs the server fetches for its clients: photos, manifests, webhooks."""

    schemes: tuple[Literal["https", "http"], ...] = Field(("https", "http"), description="Accepted schemes.")
    private: tuple[str, ...] = Field(
        (), description="Networks that may be reached though they are not public, such as 10.1.0.0/16."
    )
    max_bytes: int = Field(64 * 2**20, gt=0, description="Of one answer [bytes].")
    timeout_s: float = Field(20, gt=0, description="Of one fetch, redirects included [s].")
    redirects: int = Field(3, ge=0, le=10, description="Hops that are followed, each checked anew.")


class JobRules(_Settings):
    """How jobs are run and kept."""

    lease_s: float = Field(15, gt=0, description="A worker that is not heard of for so long has lost its job [s].")
    poll_s: float = Field(0.1, gt=0, description="How often the queue is looked at [s].")
    attempts: int = Field(3, ge=1, description="Times a job is tried when its workers die.")
    timeout_s: float = Field(1800, gt=0, description="A job that runs longer fails [s].")
    keep_s: float = Field(24 * 3600, gt=0, description="Results and uploads are kept so long [s].")
    orphan_s: float = Field(3600, gt=0, description="Files that no job owns are removed after so long [s].")
    running: int = Field(2, ge=1, description="Jobs at work at once: the generator's max_ongoing x max_replicas.")
    webhook_tries: int = Field(5, ge=1, description="Deliveries of a webhook before it is given up.")


class Replicas(_Settings):
    """Replicas of one deployment."""

    min: int = Field(1, ge=0, description="Replicas that stay; 0 = none while nothing waits.")
    max: int = Field(1, ge=1, description="Replicas at most.")
    ongoing: int = Field(1, ge=1, description="Calls at once in one replica.")
    cpus: float = Field(0.5, ge=0, description="Logical CPUs of a replica.")
    gpus: float = Field(0, ge=0, description="Share of a GPU of a replica; its process keeps to it.")
    threads: int = Field(2, ge=1, description="CPU threads of a replica.")
    memory_bytes: int | None = Field(
        None,
        gt=0,
        description="What the work of a replica without a GPU may take beyond what it holds once it is loaded; null = a quarter of its node's memory [bytes].",
    )


class ServeSettings(_Settings):
    """A whole server."""

    profile: str = Field("classic", description="Models and settings of what is made.")
    overrides: tuple[str, ...] = Field((), description="``name=value`` items over the profile.")
    jobs_url: str | None = Field(
        None,
        description="SQLAlchemy URL of the jobs' database; default GAPRAY_JOBS_URL, or SQLite in the state folder.",
    )
    artifacts: str | None = Field(
        None, description="Folder or fsspec URI of uploads and results; default GAPRAY_ARTIFACTS, or the state folder."
    )
    shared_artifacts: bool = Field(False, description="The local folder of artifacts is a mount that every node has.")
    webhook_secret: str | None = Field(
        None, description="`whsec_…`, signs webhooks; default GAPRAY_WEBHOOK_SECRET, or one made in the state folder."
    )
    audit: str | None = Field(
        None,
        description="File of the audit log; default GAPRAY_AUDIT, or audit.jsonl in the state folder where that is used.",
    )
    engine: Literal["pipeline", "null"] = Field(
        "pipeline", description="`null` answers every job with one grey turn: to measure the service alone."
    )
    open: bool = Field(False, description="Answer callers without a key. Only for a server nobody else can reach.")
    open_until_keyed: bool = Field(
        False, description="Answer callers without a key until the first one is made; `gapray serve` decides it."
    )
    bound: tuple[str, int] | None = Field(
        None, description="Address and port that the server listens at; `gapray serve` says them."
    )
    hosts: tuple[str, ...] = Field(
        (),
        description="Names, such as render.lan:8000, by which a server that needs no key may be called, beside localhost and addresses.",
    )
    cors_origins: tuple[str, ...] = Field(
        (),
        description="Origins of web pages that may call this server, such as https://shop.example; `*` = any. None by default.",
    )
    limits: Limits = Limits()
    urls: UrlRules = UrlRules()
    jobs: JobRules = JobRules()
    ingress: Replicas = Replicas(ongoing=100, cpus=0.25)
    packager: Replicas = Replicas(ongoing=2)
    generator: Replicas = Replicas()
    scorer: Replicas = Replicas(ongoing=8, cpus=0.25)
    stylist: Replicas | None = Field(Replicas(ongoing=2, cpus=0.25), description="Draws stills; null = none are drawn.")

    @field_validator("cors_origins")
    @classmethod
    def _origins(cls, origins: tuple[str, ...]) -> tuple[str, ...]:
        for origin in origins:
            # RFC 6454, section 6.2: browsers send scheme, host and port, in lower case and without a slash behind them.
            if origin != "*" and re.fullmatch(r"[a-z][a-z0-9+.-]*://[^/?#@A-Z\s]+", origin) is None:
                raise ValueError(f"{origin!r} is no origin; write it as https://shop.example or http://localhost:3000")
        return origins

    @property
    def requests_per_key(self) -> int:
        """Requests of one key that an ingress answers at once."""
        return self.limits.at_once_per_key or max(1, self.ingress.ongoing // 4)

    def without_secrets(self) -> ServeSettings:
        """The same in the form that Ray may be told of: its API, its logs and its store show what replicas are made with.

        Passwords in URLs are ``***``; of the webhooks' secret there is a hash, by which another one is known.
        """
        return self.model_copy(
            update={
                "jobs_url": without_password(str(self.jobs_url)),
                "artifacts": without_password(str(self.artifacts)),
                "webhook_secret": _fingerprint(str(self.webhook_secret)),
            }
        )

    def with_places(self) -> ServeSettings:
        """What `without_secrets` hid of the places, from the environment of the process that needs it.

        Raises:
            ConfigError: `config.secret` when this node's environment names another place, or none.
        """
        return self.model_copy(
            update={
                "jobs_url": revealed(str(self.jobs_url), JOBS_URL),
                "artifacts": revealed(str(self.artifacts), ARTIFACTS),
            }
        )

    def with_secrets(self) -> ServeSettings:
        """As `with_places`, and the webhooks' secret from the environment or the state folder.

        Raises:
            ConfigError: `config.secret` when this node's secret is another one, or there is none.
        """
        found = os.environ.get(WEBHOOK_SECRET) or _secret(_state())
        if self.webhook_secret != _fingerprint(found):
            raise ConfigError(
                "config.secret", f"{WEBHOOK_SECRET} of this node is not the one that the server began with"
            )
        return self.with_places().model_copy(update={"webhook_secret": found})

    def environment(self) -> dict[str, str]:
        """The variables by which processes that inherit them find the places and the secret of these settings."""
        return {JOBS_URL: str(self.jobs_url), ARTIFACTS: str(self.artifacts), WEBHOOK_SECRET: str(self.webhook_secret)}

    def resolved(self) -> ServeSettings:
        """The same with every place and secret filled in, so that all replicas agree on them.

        Raises:
            ConfigError: `serve.write_failed`: one is missing, and there is nowhere to keep it.
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
        """The profile with this server's overrides.

        Raises:
            ConfigError: `profile.unknown` or `config.invalid`.
        """
        return load_profile(self.profile, overrides=self.overrides)


def serve_settings(data: dict[str, object]) -> ServeSettings:
    """Settings from a plain mapping.

    Raises:
        ConfigError: `config.invalid`.
    """
    try:
        return ServeSettings.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ConfigError("config.invalid", f"setting {where}: {first['msg']}") from error


def revealed(url: str, variable: str) -> str:
    """A URL whose password was hidden, with it again, from this process's environment.

    Raises:
        ConfigError: `config.secret` when `variable` holds another URL, or none.
    """
    if HIDDEN not in url:
        return url
    found = os.environ.get(variable, "")
    if without_password(found) != url:
        raise ConfigError("config.secret", f"{variable} of this node is not {url}")
    return found


def refuse_secrets(data: Mapping[str, object]) -> None:
    """Refuse settings that Ray would show with a secret in them.

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
    """Where this machine keeps what a server's settings do not place elsewhere; made when missing.

    Raises:
        ConfigError: `serve.write_failed`.
    """
    named = os.environ.get("GAPRAY_STATE")
    try:
        state = Path(named) if named else Path.home() / ".local" / "share" / "gapray"
    except RuntimeError as error:
        raise ConfigError("serve.write_failed", "this user has no home folder, and GAPRAY_STATE is not set") from error
    with writing(ConfigError, "serve.write_failed", f"the server's state, {state}"):
        state.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryFile(dir=state):
            return state


def _secret(state: Path) -> str:
    """The secret in a file that only its owner reads; made when missing.

    Raises:
        ConfigError: `serve.write_failed`.
    """
    path = state / "webhook_secret"
    with writing(ConfigError, "serve.write_failed", path):
        if not path.exists():
            _make_secret(path)
        return path.read_text().strip()


def _make_secret(path: Path) -> None:
    """Write a secret whole: servers that start together all read the first one, and a full disk leaves no empty one."""
    import base64
    import secrets

    handle, partial = tempfile.mkstemp(dir=path.parent)  # which only its owner may read
    try:
        with open(handle, "w") as file:
            file.write("whsec_" + base64.b64encode(secrets.token_bytes(32)).decode())
        with suppress(FileExistsError):
            os.link(partial, path)
    finally:
        os.unlink(partial)
