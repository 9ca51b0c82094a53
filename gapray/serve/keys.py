"""API keys: made once, kept as a hash, compared in constant time."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import sqlalchemy as sa
from sqlalchemy.engine import Engine

from gapray.errors import ConfigError, ServeError
from gapray.serve.tables import api_keys, writing

Scope = Literal["read", "write", "admin"]
"""`read`: own jobs and results. `write`: submit, cancel, delete. `admin`: everybody's jobs, emptying queues, metrics."""
PREFIX = "gap_"
_CACHE_S = 5.0
"""A revoked key stops working within this time."""


@dataclass(frozen=True)
class ApiKey:
    """A key without its secret. Its id is the owner of the jobs it submits."""

    id: str
    name: str
    scopes: tuple[str, ...]
    per_minute: int | None
    concurrent: int | None
    created_at: float
    revoked_at: float | None

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        return asdict(self)


ANYBODY = ApiKey("anybody", "no key", ("read", "write", "admin"), None, None, 0.0, None)
"""Who asks where the server answers without keys."""


def create(
    engine: Engine,
    name: str,
    *,
    scopes: Sequence[str] = ("read", "write"),
    per_minute: int | None = None,
    concurrent: int | None = None,
) -> tuple[ApiKey, str]:
    """Make a key.

    Returns:
        The key and its secret, which is shown this once: ``gap_<id>_<secret>``.

    Raises:
        ConfigError: `config.invalid` for an unknown scope.
    """
    if unknown := set(scopes) - set(get_args(Scope)):
        raise ConfigError("config.invalid", f"unknown scopes {sorted(unknown)}; scopes: {', '.join(get_args(Scope))}")
    key = ApiKey(secrets.token_hex(6), name, tuple(scopes), per_minute, concurrent, time.time(), None)
    secret = f"{PREFIX}{key.id}_{secrets.token_urlsafe(32)}"
    with writing(engine) as connection:
        connection.execute(api_keys.insert().values(**asdict(key) | {"scopes": list(scopes), "sha256": _hash(secret)}))
    return key, secret


def listed(engine: Engine) -> list[ApiKey]:
    """All keys, oldest first."""
    with engine.connect() as connection:
        return [_key(row) for row in connection.execute(sa.select(api_keys).order_by(api_keys.c.created_at))]


def revoke(engine: Engine, key_id: str) -> None:
    """Make a key useless.

    Raises:
        ConfigError: `auth.unknown_key`.
    """
    with writing(engine) as connection:
        changed = connection.execute(
            api_keys.update()
            .where(api_keys.c.id == key_id, api_keys.c.revoked_at.is_(None))
            .values(revoked_at=time.time())
        )
        if not changed.rowcount:
            raise ConfigError("auth.unknown_key", f"there is no valid key {key_id!r}")


class KeyRing:
    """Checks secrets against the database, which is asked once in a few seconds a key."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._known: dict[str, tuple[float, ApiKey | None, str]] = {}

    def knows(self, secret: str) -> bool:
        """Whether `check` will answer from memory."""
        cached = self._known.get(_id_of(secret))
        return cached is not None and cached[0] > time.monotonic()

    def check(self, secret: str) -> ApiKey:
        """The key of a secret.

        Raises:
            ServeError: `auth.invalid`.
        """
        key, expected = self._lookup(_id_of(secret))
        # The hash is compared also where there is no such key: the time taken tells nothing.
        same = hmac.compare_digest(_hash(secret), expected)
        if key is None or not same or key.revoked_at is not None:
            raise ServeError("auth.invalid", "the API key is wrong or was revoked")
        return key

    def _lookup(self, key_id: str) -> tuple[ApiKey | None, str]:
        now = time.monotonic()
        cached = self._known.get(key_id)
        if cached and cached[0] > now:
            return cached[1], cached[2]
        with self._engine.connect() as connection:
            row = connection.execute(sa.select(api_keys).where(api_keys.c.id == key_id)).one_or_none()
        if len(self._known) > 1000:
            self._known.clear()  # guesses must not fill the memory
        found = (_key(row), str(row.sha256)) if row else (None, "0" * 64)
        self._known[key_id] = (now + _CACHE_S, *found)
        return found


def _id_of(secret: str) -> str:
    return secret.removeprefix(PREFIX).partition("_")[0][:16] if secret.startswith(PREFIX) else ""


def _hash(secret: str) -> str:
    """A plain sha256 is enough: the secrets are 256 random bits, not passwords."""
    return hashlib.sha256(secret.encode(errors="replace")).hexdigest()


def _key(row: Any) -> ApiKey:
    data = dict(row._mapping)
    data.pop("sha256")
    return ApiKey(**data | {"scopes": tuple(data["scopes"])})
