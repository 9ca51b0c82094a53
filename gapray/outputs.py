"""Atomic writing of a command's output files, with errors that name the file."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from gapray.errors import FileError, writing


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Yield a temporary file beside `path` that replaces it if the block succeeds; missing folders are created.

    Args:
        path: A file, or a device such as ``/dev/stdout``, which is written to directly.

    Raises:
        FileError: `file.write_failed`.
    """
    target = Path(path)
    with writing(FileError, "file.write_failed", target):
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists() and not target.is_file():
            yield target
            return
        target = target.resolve()  # replace the target of a symbolic link, not the link
        partial = target.with_name(f".{uuid.uuid4().hex[:8]}.partial{target.suffix}")
        try:
            yield partial
            os.replace(partial, target)
        finally:
            with suppress(OSError):
                partial.unlink()


def write_file(path: str | Path, content: bytes | str) -> None:
    """Write one file atomically; text is encoded as UTF-8.

    Raises:
        FileError: `file.write_failed`.
    """
    with atomic_write(path) as partial:
        partial.write_bytes(content.encode() if isinstance(content, str) else content)
