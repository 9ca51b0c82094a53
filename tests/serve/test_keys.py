"""API keys in the database, and the commands `gapray keys`."""

import json

import pytest
from typer.testing import CliRunner

from gapray.cli.main import app
from gapray.errors import ConfigError, ServeError
from gapray.serve.keys import KeyRing, create, list_keys, revoke
from gapray.serve.tables import connect


@pytest.fixture
def engine(tmp_path):
    return connect(f"sqlite:///{tmp_path}/jobs.db")


def test_only_the_complete_key_is_valid(engine):
    key, secret = create(engine, "shop", per_minute=5)
    ring = KeyRing(engine)
    assert ring.check(secret) == key and ring.is_cached(secret)
    for wrong in (
        "",
        "gap_",
        secret[:-1],
        secret + "x",
        secret.upper(),
        f"gap_{key.id}_",
        "gap_000000000000_x",
        "ü" * 500,
    ):
        with pytest.raises(ServeError) as error:
            KeyRing(engine).check(wrong)
        assert error.value.code == "auth.invalid"


def test_unknown_scopes_and_keys_are_named(engine):
    with pytest.raises(ConfigError, match="unknown scopes"):
        create(engine, "x", scopes=["root"])
    with pytest.raises(ConfigError) as error:
        revoke(engine, "nobody")
    assert error.value.code == "auth.unknown_key"


def test_guesses_do_not_fill_the_memory(engine):
    ring = KeyRing(engine)
    for guess in range(3000):
        with pytest.raises(ServeError):
            ring.check(f"gap_{guess:012d}_x")
    assert len(ring._cache) <= 1001


def test_the_keys_commands(tmp_path):
    jobs = ["--jobs", f"sqlite:///{tmp_path}/jobs.db"]
    run = CliRunner().invoke
    made = json.loads(run(app, ["keys", "create", "shop", "--scope", "read", *jobs, "--json"]).stdout)
    assert made["scopes"] == ["read"] and made["secret"].startswith(f"gap_{made['id']}_")
    found = json.loads(run(app, ["keys", "list", *jobs, "--json"]).stdout)
    assert [key["id"] for key in found] == [made["id"]] and "secret" not in found[0] and "sha256" not in found[0]
    assert "shop" in run(app, ["keys", "list", *jobs]).stdout
    assert run(app, ["keys", "revoke", made["id"], *jobs]).exit_code == 0
    assert run(app, ["keys", "revoke", made["id"], *jobs]).exit_code == 2
    assert list_keys(connect(jobs[1]))[0].revoked_at
