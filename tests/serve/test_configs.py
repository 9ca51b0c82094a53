"""The repository's Serve configs, checked offline against Ray's schema and the settings, and that all replicas fit."""

import pytest
import yaml

from gapray.errors import ConfigError
from gapray.serve.settings import ServeSettings, serve_settings
from gapray.serve.start import serve_settings_of, with_key_policy
from tests.conftest import ROOT

CONFIGS = sorted((ROOT / "serve_configs").glob("*.yaml"))
GPUS = {"classic": 0, "sd15-1gpu": 1, "sd15-8gpu": 8}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_config_is_valid_and_fits(path, monkeypatch, tmp_path):
    from ray.serve.schema import ServeDeploySchema

    from gapray.serve.deployments import build

    monkeypatch.setenv("GAPRAY_STATE", str(tmp_path))
    data = yaml.safe_load(path.read_text())
    deployed = ServeDeploySchema.model_validate(data)
    assert deployed.http_options.host == "127.0.0.1", "Ray's own default would be every address"
    [application] = deployed.applications
    assert application.import_path == "gapray.serve.deployments:build"
    settings = serve_settings(application.args)
    assert settings.stylist
    workers = (settings.packager, settings.generator, settings.scorer, settings.stylist)
    needed = [(replicas.max, replicas.gpus) for replicas in workers]
    assert sum(count * gpus for count, gpus in needed) <= GPUS[path.stem] + 1e-9
    assert settings.jobs.running >= settings.generator.max * settings.generator.ongoing
    build(application.args)


def test_all_configs_are_checked():
    assert {path.stem for path in CONFIGS} == set(GPUS)


@pytest.mark.parametrize(
    ("data", "what"),
    [({"profil": "x"}, "profil"), ({"limits": {"queued": 0}}, "limits.queued"), ({"engine": "x"}, "engine")],
)
def test_a_wrong_setting_is_named(data, what):
    with pytest.raises(ConfigError) as error:
        serve_settings(data)
    assert error.value.code == "config.invalid" and what in error.value.message


def test_when_keys_are_required(tmp_path, monkeypatch):
    from gapray.serve.keys import create, revoke
    from gapray.serve.tables import connect

    settings = ServeSettings(jobs_url=f"sqlite:///{tmp_path}/jobs.db", artifacts="x", webhook_secret="x")
    for host in ("127.0.0.1", "localhost", "::1"):
        chosen = with_key_policy(settings, host, insecure=False)
        assert chosen.open_until_keyed and not chosen.open
    for host in ("0.0.0.0", "::", "10.0.0.4", "server.example"):
        with pytest.raises(ConfigError) as error:
            with_key_policy(settings, host, insecure=False)
        assert error.value.code == "auth.no_keys"
    assert with_key_policy(settings, "0.0.0.0", insecure=True).open
    monkeypatch.setenv("RAY_SERVE_ENABLE_HA_PROXY", "1")
    with pytest.raises(ConfigError, match="HAProxy"):
        with_key_policy(settings, "127.0.0.1", insecure=False)
    key, _ = create(connect(settings.jobs_url), "somebody")
    for host in ("0.0.0.0", "127.0.0.1"):
        chosen = with_key_policy(settings, host, insecure=False)
        assert not chosen.open and not chosen.open_until_keyed, "once a key is created, keys are required"
    monkeypatch.delenv("RAY_SERVE_ENABLE_HA_PROXY")
    revoke(connect(settings.jobs_url), key.id)
    chosen = with_key_policy(settings.model_copy(update={"open_until_keyed": True}), "127.0.0.1", insecure=False)
    assert not chosen.open and not chosen.open_until_keyed, "revoking the last key opens nothing"
    with pytest.raises(ConfigError, match="no API key"):
        with_key_policy(settings, "0.0.0.0", insecure=False)


def test_local_files_are_refused_on_two_nodes(tmp_path, monkeypatch):
    import ray

    from gapray.serve.deployments import refuse_unshared

    here = ServeSettings(jobs_url=f"sqlite:///{tmp_path}/jobs.db", artifacts=str(tmp_path), webhook_secret="x")
    shared = here.model_copy(update={"jobs_url": "postgresql://db/jobs"})
    monkeypatch.setattr(ray, "nodes", lambda: [{"Alive": True}, {"Alive": False}])
    refuse_unshared(here)
    monkeypatch.setattr(ray, "nodes", lambda: [{"Alive": True}, {"Alive": True}])
    for settings, code in ((here, "jobs.store_unusable"), (shared, "artifacts.unusable")):
        with pytest.raises(ConfigError) as error:
            refuse_unshared(settings)
        assert error.value.code == code
    refuse_unshared(shared.model_copy(update={"artifacts": "memory://files"}))
    refuse_unshared(shared.model_copy(update={"shared_artifacts": True}))


def test_secrets_are_created_once_and_private(tmp_path, monkeypatch):
    monkeypatch.setenv("GAPRAY_STATE", str(tmp_path / "state"))
    for name in ("GAPRAY_JOBS_URL", "GAPRAY_ARTIFACTS", "GAPRAY_WEBHOOK_SECRET"):
        monkeypatch.delenv(name, raising=False)
    first, second = ServeSettings().resolved(), ServeSettings().resolved()
    assert first == second and first.webhook_secret.startswith("whsec_")
    assert (tmp_path / "state" / "webhook_secret").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("limits: {images: 8}\nlimits: {frames: 8}", "limits is there twice"),
        ("limits: {images: 010}", "limits.images: 010 is no plain number"),
        ("limits: {images: true}", "limits.images: "),
        ("limits.images: 8", "write limits.images nested"),
        ("overrides: orbit.frames=8", "overrides is no list"),
        ("overrides:", "overrides is no list"),
        ("- a", "holds no mapping"),
    ],
)
def test_a_config_of_gapray_serve_is_read_plainly(text, named, tmp_path):
    path = tmp_path / "serve.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as error:
        serve_settings_of(profile=None, config=path, overrides=[], jobs=None, artifacts=None)
    assert error.value.code == "config.invalid" and named in error.value.message


def test_flags_of_gapray_serve_are_over_its_config(tmp_path):
    path = tmp_path / "serve.yaml"
    path.write_text(f"profile: sd15\noverrides: [orbit.frames=8]\nwebhook_secret: whsec_{'a' * 32}\n")
    place = {"jobs": f"sqlite:///{tmp_path / 'jobs.db'}", "artifacts": str(tmp_path)}
    for flag, wanted in ((None, "sd15"), ("classic", "classic")):
        found = serve_settings_of(profile=flag, config=path, overrides=["orbit.frames=9"], **place)
        assert found.profile == wanted and found.overrides == ("orbit.frames=8", "orbit.frames=9")
    path.write_text(f"webhook_secret: whsec_{'a' * 32}\n")
    assert serve_settings_of(profile=None, config=path, overrides=[], **place).profile == "classic"
