"""A hard cap on the memory that a worker's work may take: below the budgets that are counted before the work, for what they miss.

``RLIMIT_DATA`` (setrlimit(2)) limits the private writable memory of a process, which Linux counts since 4.7 whether it is heap or mapped.
Ray's object store and the mapped files of libraries are shared or read-only and do not count; neither does address space that is only
reserved, which ``RLIMIT_AS`` would count and CUDA takes by the terabyte. Beyond the cap an allocation fails: Python, NumPy, Pillow,
OpenCV, FFmpeg and torch raise an error then, and the job gets a code. A library that aborts instead takes its worker along, which is
replaced.
"""

from __future__ import annotations

import resource
from pathlib import Path

_STATUS = Path("/proc/self/status")


def cap_memory(more_bytes: int) -> int | None:
    """Let this process take so much more private memory than it holds now. For good: nothing in it can lift the cap again.

    Args:
        more_bytes: Beyond what is held when this is called, once models are loaded [bytes].

    Returns:
        The cap on all of the process's private memory [bytes]; None on systems that do not count it (other than Linux).
    """
    if not _STATUS.exists():
        return None
    [held] = (line.split()[1] for line in _STATUS.read_text().splitlines() if line.startswith("VmData:"))
    _, most = resource.getrlimit(resource.RLIMIT_DATA)
    cap = int(held) * 1024 + more_bytes
    if most != resource.RLIM_INFINITY:
        cap = min(cap, most)
    resource.setrlimit(resource.RLIMIT_DATA, (cap, cap))
    return cap
