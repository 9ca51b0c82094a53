"""API keys: made once, kept as a hash, compared in constant time."""

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
from gapray.serve.tables import api_keys, writing

Scope = Literal["read", "write", "admin"]
"""`read`: own jobs and results. `write`: submit, cancel, delete. `admin`: everybody's jobs, emptying queues, metrics."""
PREFIX = "gap_"
_CACHE_S = 0.5
"""What was changed by another process counts after this time [s]: a new key, a revoked one."""
_ID = re.compile(r"[0-9a-f]{12}")
_NAME_LENGTH = 128


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
        ConfigError: `config.invalid` for an unknown scope, or a name that cannot be kept.
    """
    if not name.isprintable() or not 1 <= len(name) <= _NAME_LENGTH:
        raise ConfigError("config.invalid", f"a key's name has 1 to {_NAME_LENGTH} characters, all of them printable")
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


def known(engine: Engine, key_id: str) -> ApiKey:
    """A key by its id, revoked or not.

    Raises:
        ConfigError: `auth.unknown_key`.
    """
    if (row := _row(engine, key_id)) is None:
        raise ConfigError("auth.unknown_key", f"there is no key {key_id[:80]!r}")
    return _key(row)


def any_made(engine: Engine) -> bool:
    """Whether there is or ever was a key: revoked ones keep their row."""
    with engine.connect() as connection:
        return connection.execute(sa.select(api_keys.c.id).limit(1)).first() is not None


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
    """Checks secrets against the database, which is asked twice a second a key at most."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._known: dict[str, tuple[float, ApiKey | None, str]] = {}
        self._any_made = -math.inf, False
        """When the database was asked whether any key was made [s on the monotonic clock], and what it said."""

    def knows(self, secret: str) -> bool:
        """Whether `check` will answer from memory."""
        cached = self._known.get(_id_of(secret))
        return cached is not None and cached[0] > time.monotonic()

    @property
    def remembered(self) -> bool | None:
        """What `any_made` will answer from memory; None = it asks the database."""
        at, made = self._any_made
        return made if made or at + _CACHE_S > time.monotonic() else None

    def any_made(self) -> bool:
        """Whether there is or ever was a key. Once it is true it stays so."""
        if (made := self.remembered) is None:
            made = any_made(self._engine)
            self._any_made = time.monotonic(), made
        return made

    def refuse_revoked(self, key: ApiKey) -> None:
        """Refuse a key whose secret was checked before, once it is revoked; for `ANYBODY`, once there is a key.

        Raises:
            ServeError: `auth.invalid` or `auth.missing`.
        """
        if key.id == ANYBODY.id:
            if self.any_made():
                raise ServeError("auth.missing", "a key was made, and the request carries none")
        elif (now := self._lookup(key.id)[0]) is None or now.revoked_at is not None:
            raise ServeError("auth.invalid", "the API key was revoked")

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
        row = _row(self._engine, key_id)
        if len(self._known) > 1000:
            self._known.clear()  # guesses must not fill the memory
        found = (_key(row), str(row.sha256)) if row else (None, "0" * 64)
        self._known[key_id] = (now + _CACHE_S, *found)
        return found


def _row(engine: Engine, key_id: str) -> sa.Row[Any] | None:
    with engine.connect() as connection:
        return connection.execute(sa.select(api_keys).where(api_keys.c.id == key_id)).one_or_none()


def _id_of(secret: str) -> str:
    """The id in a secret; empty where it holds none, so that nothing else comes near the database."""
    named = secret.removeprefix(PREFIX).partition("_")[0] if secret.startswith(PREFIX) else ""
    return named if _ID.fullmatch(named) else ""


def _hash(secret: str) -> str:
    """A plain sha256 is enough: the secrets are 256 random bits, not passwords."""
    return hashlib.sha256(secret.encode(errors="replace")).hexdigest()


def _key(row: Any) -> ApiKey:
    data = dict(row._mapping)
    data.pop("sha256")
    return ApiKey(**data | {"scopes": tuple(data["scopes"])})
