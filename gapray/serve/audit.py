"""The audit log: who did what to which job, as one JSON object per line, without the content of requests.

Only authenticated callers are logged, and only requests that change something, so that nobody else can fill the disk. The
file may be rotated at any time (logrotate); the next line creates a new one.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from datetime import UTC, datetime
from logging.handlers import WatchedFileHandler
from pathlib import Path

log = logging.getLogger("gapray.serve")
AuditWriter = Callable[..., None]
"""Writes one line; its fields are keyword arguments."""


def audit_log(path: str | None) -> AuditWriter:
    """Return a function that appends lines to a file readable only by its owner; without a path, it does nothing.

    If a line cannot be written, the server's log says so, and the request goes on.
    """
    if path is None:
        return lambda **_fields: None
    handler = _Handler(Path(path))

    def write(**fields: object) -> None:
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        handler.handle(logging.makeLogRecord({"msg": json.dumps({"at": now} | fields)}))

    return write


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
        """Write a line; if the file cannot be opened, the server's log says so."""
        try:
            return bool(super().handle(record))
        except OSError:
            self.handleError(record)
            return False
