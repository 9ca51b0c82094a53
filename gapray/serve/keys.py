"""API keys: stored as hashes, and compared in constant time."""

from __future__ import annotations

import hashlib
import hmac
import math
import re
import secrets
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import sqlalchemy as sa
from sqlalchemy.engine import Engine

from gapray.errors import ConfigError, ServeError
from gapray.serve.tables import api_keys, write_transaction

Scope = Literal["read", "write", "admin"]
"""`read`: own jobs and results. `write`: submit, cancel and delete jobs. `admin`: jobs of all keys, purging queues, metrics."""
PREFIX = "gap_"
_CACHE_S = 0.5
"""How long a key is cached: changes by another process, such as a revocation, take effect after this time [s]."""
_ID = re.compile(r"[0-9a-f]{12}")
_NAME_LENGTH = 128


@dataclass(frozen=True)
class ApiKey:
    """An API key without its secret. Its id is the owner of the jobs submitted with it."""

    id: str
    name: str
    scopes: tuple[str, ...]
    per_minute: int | None
    concurrent: int | None
    created_at: float
    revoked_at: float | None

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as JSON data."""
        return asdict(self)


ANONYMOUS = ApiKey("anybody", "no key", ("read", "write", "admin"), None, None, 0.0, None)
"""The caller of a server that needs no keys."""


def create(
    engine: Engine,
    name: str,
    *,
    scopes: Sequence[str] = ("read", "write"),
    per_minute: int | None = None,
    concurrent: int | None = None,
) -> tuple[ApiKey, str]:
    """Create a key.

    Args:
        engine: The job database.
        name: What people call the key.
        scopes: What it may do.
        per_minute: Maximum number of requests per minute; None = no limit.
        concurrent: Maximum number of queued and running jobs; None = no limit.

    Returns:
        The key and its secret, ``gap_<id>_<secret>``, which is not stored.

    Raises:
        ConfigError: `config.invalid` for an unknown scope or an unprintable or overlong name.
    """
    if not name.isprintable() or not 1 <= len(name) <= _NAME_LENGTH:
        raise ConfigError("config.invalid", f"a key's name has 1 to {_NAME_LENGTH} characters, all of them printable")
    if unknown := set(scopes) - set(get_args(Scope)):
        raise ConfigError("config.invalid", f"unknown scopes {sorted(unknown)}; scopes: {', '.join(get_args(Scope))}")
    key = ApiKey(secrets.token_hex(6), name, tuple(scopes), per_minute, concurrent, time.time(), None)
    secret = f"{PREFIX}{key.id}_{secrets.token_urlsafe(32)}"
    with write_transaction(engine) as connection:
        connection.execute(api_keys.insert().values(**asdict(key) | {"scopes": list(scopes), "sha256": _hash(secret)}))
    return key, secret


def list_keys(engine: Engine) -> list[ApiKey]:
    """Return all keys, including revoked ones, oldest first."""
    with engine.connect() as connection:
        return [_key(row) for row in connection.execute(sa.select(api_keys).order_by(api_keys.c.created_at))]


def get_key(engine: Engine, key_id: str) -> ApiKey:
    """Return a key by its id, revoked or not.

    Raises:
        ConfigError: `auth.unknown_key`.
    """
    if (row := _row(engine, key_id)) is None:
        raise ConfigError("auth.unknown_key", f"there is no key {key_id[:80]!r}")
    return _key(row)


def any_created(engine: Engine) -> bool:
    """Whether a key was ever created: revoked keys keep their row."""
    with engine.connect() as connection:
        return connection.execute(sa.select(api_keys.c.id).limit(1)).first() is not None


def revoke(engine: Engine, key_id: str) -> None:
    """Revoke a key.

    Raises:
        ConfigError: `auth.unknown_key` if there is no such key, or it is revoked already.
    """
    with write_transaction(engine) as connection:
        changed = connection.execute(
            api_keys.update()
            .where(api_keys.c.id == key_id, api_keys.c.revoked_at.is_(None))
            .values(revoked_at=time.time())
        )
        if not changed.rowcount:
            raise ConfigError("auth.unknown_key", f"there is no valid key {key_id!r}")


class KeyRing:
    """Checks secrets against the database, with a cache: each key is looked up at most twice a second."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._cache: dict[str, tuple[float, ApiKey | None, str]] = {}
        """Key id -> when the entry expires [s on the monotonic clock], the key, and the hash of its secret."""
        self._any_created = -math.inf, False
        """When the database was last asked whether a key was ever created [s on the monotonic clock], and the answer."""

    def is_cached(self, secret: str) -> bool:
        """Whether `check` will answer without the database."""
        cached = self._cache.get(_id_of(secret))
        return cached is not None and cached[0] > time.monotonic()

    @property
    def cached_any_created(self) -> bool | None:
        """What `any_created` will answer without the database; None = it has to ask."""
        asked_at, created = self._any_created
        return created if created or asked_at + _CACHE_S > time.monotonic() else None

    def any_created(self) -> bool:
        """Whether a key was ever created. Once true, this stays true."""
        if (created := self.cached_any_created) is None:
            created = any_created(self._engine)
            self._any_created = time.monotonic(), created
        return created

    def refuse_revoked(self, key: ApiKey) -> None:
        """Refuse a previously checked key if it has been revoked, and `ANONYMOUS` if a key has been created.

        Raises:
            ServeError: `auth.invalid` or `auth.missing`.
        """
        if key.id == ANONYMOUS.id:
            if self.any_created():
                raise ServeError("auth.missing", "a key was made, and the request carries none")
        elif (current := self._lookup(key.id)[0]) is None or current.revoked_at is not None:
            raise ServeError("auth.invalid", "the API key was revoked")

    def check(self, secret: str) -> ApiKey:
        """Return the valid key that a secret belongs to.

        Raises:
            ServeError: `auth.invalid`.
        """
        key, expected = self._lookup(_id_of(secret))
        # The hash is compared even if there is no such key, so that the time taken reveals nothing.
        same = hmac.compare_digest(_hash(secret), expected)
        if key is None or not same or key.revoked_at is not None:
            raise ServeError("auth.invalid", "the API key is wrong or was revoked")
        return key

    def _lookup(self, key_id: str) -> tuple[ApiKey | None, str]:
        """Return a key and the hash of its secret; for an unknown id None and a hash that nothing has."""
        now = time.monotonic()
        cached = self._cache.get(key_id)
        if cached and cached[0] > now:
            return cached[1], cached[2]
        row = _row(self._engine, key_id)
        if len(self._cache) > 1000:
            self._cache.clear()  # guessed ids must not fill the memory
        entry = (_key(row), str(row.sha256)) if row else (None, "0" * 64)
        self._cache[key_id] = (now + _CACHE_S, *entry)
        return entry


def _row(engine: Engine, key_id: str) -> sa.Row[Any] | None:
    with engine.connect() as connection:
        return connection.execute(sa.select(api_keys).where(api_keys.c.id == key_id)).one_or_none()


def _id_of(secret: str) -> str:
    """Return the key id in a secret; empty if it is malformed, so that no other text reaches the database."""
    key_id = secret.removeprefix(PREFIX).partition("_")[0] if secret.startswith(PREFIX) else ""
    return key_id if _ID.fullmatch(key_id) else ""


def _hash(secret: str) -> str:
    """Hash a secret. Plain SHA-256 is enough: the secrets are 256 random bits, not passwords."""
    return hashlib.sha256(secret.encode(errors="replace")).hexdigest()


def _key(row: Any) -> ApiKey:
    data = dict(row._mapping)
    data.pop("sha256")
    return ApiKey(**data | {"scopes": tuple(data["scopes"])})
