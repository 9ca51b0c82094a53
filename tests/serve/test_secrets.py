"""Nothing that Ray receives holds a secret; every process finds the secrets on its own node."""

import json
from types import SimpleNamespace

import pytest
from ray import cloudpickle

from gapray.errors import ConfigError
from gapray.serve import autoscale
from gapray.serve.deployments import application, build
from gapray.serve.settings import ServeSettings
from gapray.serve.start import serve_settings_of
from tests.serve.test_autoscale import wait_for_target

PASSWORD, FILES_PASSWORD, SECRET = "pass/word!", "filespassword", "whsec_c2VjcmV0b2Z0aGV0ZXN0"
JOBS = f"postgresql://gapray:{PASSWORD}@db.internal/jobs"
FILES = f"ftp://gapray:{FILES_PASSWORD}@files.internal/gapray"
ENVIRONMENT = {"GAPRAY_JOBS_URL": JOBS, "GAPRAY_ARTIFACTS": FILES, "GAPRAY_WEBHOOK_SECRET": SECRET}
SLEEPING = {"generator": {"min": 0, "max": 2}, "stylist": {"min": 0, "max": 1}}


@pytest.fixture
def node(monkeypatch, tmp_path):
    """The environment of a node."""
    monkeypatch.setenv("GAPRAY_STATE", str(tmp_path / "state"))
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    return monkeypatch


def test_arguments_of_deployments_hold_no_secret(node):
    """Neither pickled, as it is sent to Serve's controller, nor as JSON, as its API shows arguments, options and policies."""
    del node
    pickled = cloudpickle.dumps(build(dict(SLEEPING)))
    for secret in (PASSWORD, FILES_PASSWORD, SECRET):
        assert secret.encode() not in pickled
    assert b"db.internal" in pickled and b"files.internal" in pickled, "the places themselves may be seen"


def test_the_policy_s_arguments_hold_no_password(node):
    del node
    bound = build(dict(SLEEPING))._bound_deployment
    found = []

    def collect(deployment):
        config = deployment._deployment_config.autoscaling_config
        if config is not None:
            found.append(json.dumps(config.model_dump(mode="json"), default=str))
        for argument in deployment.init_args:
            if hasattr(argument, "_bound_deployment"):
                collect(argument._bound_deployment)

    collect(bound)
    assert sum("QueuePolicy" in text for text in found) == 2
    assert not [text for text in found if PASSWORD in text]


def test_a_node_finds_the_secrets_in_its_environment(node):
    del node
    settings = ServeSettings().resolved()
    assert settings.without_secrets().with_secrets() == settings
    assert settings.without_secrets().with_places().jobs_url == JOBS
    assert settings.without_secrets().without_secrets().jobs_url == settings.without_secrets().jobs_url


@pytest.mark.parametrize("missing", list(ENVIRONMENT))
def test_a_node_with_other_secrets_is_refused(node, missing):
    """It would silently keep its jobs in another database, or sign with an unknown secret."""
    shared = ServeSettings().resolved().without_secrets()
    for change in (lambda: node.delenv(missing), lambda: node.setenv(missing, ENVIRONMENT[missing] + "x")):
        change()
        with pytest.raises(ConfigError, match=missing) as error:
            shared.with_secrets()
        assert error.value.code == "config.secret"
        assert PASSWORD not in error.value.message and SECRET not in error.value.message


@pytest.mark.parametrize("args", [{"jobs_url": JOBS}, {"artifacts": FILES}, {"webhook_secret": SECRET}])
def test_a_config_with_a_secret_in_its_args_is_refused(node, args):
    del node
    with pytest.raises(ConfigError) as error:
        build(args)
    assert error.value.code == "config.secret" and next(iter(args)) in error.value.message
    assert PASSWORD not in error.value.message


def test_flags_and_config_files_of_gapray_serve_may_hold_secrets(node, tmp_path):
    """Its processes inherit them, and Ray does not receive them."""
    for name in ENVIRONMENT:
        node.delenv(name)
    config = tmp_path / "serve.yaml"
    config.write_text(f"webhook_secret: {SECRET}\n")
    settings = serve_settings_of(profile="classic", config=config, overrides=[], jobs=JOBS, artifacts=FILES)
    assert settings.environment() == ENVIRONMENT
    pickled = cloudpickle.dumps(application(settings))
    assert not [secret for secret in (PASSWORD, FILES_PASSWORD, SECRET) if secret.encode() in pickled]


def test_the_policy_finds_the_password_where_it_runs(node, postgres):
    """Serve creates the policy in its controller, with arguments in which the password is masked."""
    url = postgres.replace("gapray@", f"gapray:{PASSWORD}@")
    hidden, ctx = (
        ServeSettings(jobs_url=url).resolved().without_secrets().jobs_url,
        SimpleNamespace(target_num_replicas=3),
    )
    policy = autoscale.QueuePolicy(hidden, 1)
    assert policy(ctx) == (3, {}), "another database's jobs say nothing"
    node.setenv("GAPRAY_JOBS_URL", url)
    assert wait_for_target(autoscale.QueuePolicy(hidden, 1), ctx, 0)
