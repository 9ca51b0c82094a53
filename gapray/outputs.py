"""Files that a command writes for people: whole or not at all, and an error that names the file."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from gapray.errors import FileError, writing


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """A file beside `path` to write to, which takes its place when all went well; its folder is made when missing.

    Args:
        path: A file, or a device such as ``/dev/stdout``, which is written to itself.

    Raises:
        FileError: `file.write_failed`.
    """
    target = Path(path)
    with writing(FileError, "file.write_failed", target):
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists() and not target.is_file():
            yield target
            return
        target = target.resolve()  # what a link leads to is replaced, not the link
        partial = target.with_name(f".{uuid.uuid4().hex[:8]}.partial{target.suffix}")
        try:
            yield partial
            os.replace(partial, target)
        finally:
            with suppress(OSError):
                partial.unlink()


def write_file(path: str | Path, content: bytes | str) -> None:
    """Write one file; text as UTF-8.

    Raises:
        FileError: `file.write_failed`.
    """
    with whole_file(path) as partial:
        partial.write_bytes(content.encode() if isinstance(content, str) else content)
