"""Fixtures of the servers' tests."""

from tests.serve.conftest import form, photos, postgres, postgres_server  # noqa: F401
