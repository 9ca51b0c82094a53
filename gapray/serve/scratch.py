"""Temporary folders for a client's photos and videos, removed after the work, or by the next process if this one is killed."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_PREFIX = "gapray-work-"


@contextmanager
def scratch() -> Iterator[Path]:
    """Create an empty folder, and remove it when the block ends.

    The folder is locked by this process; the kernel releases the lock however the process ends (flock(2)).
    """
    folder, descriptor = _create_locked()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(descriptor)


def _create_locked() -> tuple[Path, int]:
    """Create a folder and lock it; returns its path and the file descriptor that holds the lock."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
        with suppress(FileNotFoundError):  # `clear_scratch` of another process removed it before it was locked
            descriptor = os.open(folder, os.O_RDONLY)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if folder.exists():
                return folder, descriptor
            os.close(descriptor)


def clear_scratch() -> list[Path]:
    """Remove and return the scratch folders left by processes of this user that were killed."""
    removed = []
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        try:
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except OSError:
            continue
        try:
            if os.fstat(descriptor).st_uid == os.geteuid():
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
                removed.append(folder)
        except BlockingIOError:  # its process is alive
            continue
        finally:
            os.close(descriptor)
    return removed
