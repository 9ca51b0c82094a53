"""Hooks of the documentation site (mkdocs.yml): the README is its home page, and links to source files become plain text."""

from __future__ import annotations

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

_ROOT = Path(__file__).resolve().parent.parent
_LINK = re.compile(r"(?<!!)\[([^\]]+)\]\((\.\./[^)]+|LICENSE)\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the README as the home page, with links relative to docs/."""
    text = (_ROOT / "README.md").read_text(encoding="utf-8").replace("](docs/", "](")
    files.append(File.generated(config, "index.md", content=text))
    return files


def on_page_markdown(markdown: str, **_: object) -> str:
    """Replace links to files outside docs/, which the site does not have, by their text."""
    return _LINK.sub(r"\1", markdown)
