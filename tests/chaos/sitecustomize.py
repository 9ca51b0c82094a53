"""Loaded by every Python process of the chaos cluster (PYTHONPATH): dies between temporary write and rename when armed."""

import os
import signal

_FOLDER = os.environ.get("GAPRAY_CHAOS_FOLDER")

if _FOLDER:
    _replace = os.replace

    def _deadly_replace(source, target, **options):
        armed = os.path.join(_FOLDER, "die-before-rename")
        if "part-" in str(target) and os.path.exists(armed):
            os.unlink(armed)
            os.kill(os.getpid(), signal.SIGKILL)
        return _replace(source, target, **options)

    os.replace = _deadly_replace
