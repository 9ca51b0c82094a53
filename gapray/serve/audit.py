"""The audit log: who did what to which job, one JSON object a line, without any content of requests.

Only callers who were let in are noted, and only what changes something: others cannot fill the disk. The file may be moved
away at any time (logrotate); the next line makes a new one.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from datetime import UTC, datetime
from logging.handlers import WatchedFileHandler
from pathlib import Path

log = logging.getLogger("gapray.serve")
Note = Callable[..., None]
"""Takes the facts of one line as keywords."""


def audit_log(path: str | None) -> Note:
    """What writes lines into a file, which only its owner reads; without a path, nowhere.

    A line that cannot be written is told in the server's log, and keeps nobody from what they asked for.
    """
    if path is None:
        return lambda **_facts: None
    handler = _Handler(Path(path))

    def note(**facts: object) -> None:
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        handler.handle(logging.makeLogRecord({"msg": json.dumps({"at": now} | facts)}))

    return note


class _Handler(WatchedFileHandler):
    def __init__(self, path: Path) -> None:
        super().__init__(path, delay=True, encoding="utf-8")

    def _open(self):  # type: ignore[no-untyped-def]  # noqa: ANN202  (typeshed hides the stream's type)
        Path(self.baseFilename).parent.mkdir(parents=True, exist_ok=True)
        Path(self.baseFilename).touch(mode=0o600)
        return super()._open()

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  (logging's name)
        log.exception("the audit log cannot be written: %s", record.getMessage())

    def handle(self, record: logging.LogRecord) -> bool:
        """Write a line; a file that cannot be opened is told in the server's log."""
        try:
            return bool(super().handle(record))
        except OSError:
            self.handleError(record)
            return False
