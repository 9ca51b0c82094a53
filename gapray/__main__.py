"""Entry point of ``python -m gapray``."""

from gapray.cli.main import app

app()
