"""A hard cap on the memory of a worker process, for allocations that the checks made before the work do not foresee.

``RLIMIT_DATA`` (setrlimit(2)) limits the private writable memory of a process; since Linux 4.7 that includes private mappings as well
as the heap. Ray's object store and the mapped files of libraries are shared or read-only and do not count; nor does address space that
is only reserved, which ``RLIMIT_AS`` would count and which CUDA reserves by the terabyte. Beyond the cap, allocations fail: Python,
NumPy, Pillow, OpenCV, FFmpeg and torch raise an error, and the job fails with a code. A library that aborts instead ends its worker,
which is replaced.
"""

from __future__ import annotations

import resource
from pathlib import Path

_STATUS = Path("/proc/self/status")


def cap_memory(more_bytes: int) -> int | None:
    """Cap this process's private memory at what it holds now plus `more_bytes`. The cap cannot be lifted again.

    Args:
        more_bytes: Memory that may be allocated after this call, which comes once the models are loaded [bytes].

    Returns:
        The cap on all of the process's private memory [bytes]; None on systems other than Linux, which do not count it.
    """
    if not _STATUS.exists():
        return None
    [held] = (line.split()[1] for line in _STATUS.read_text().splitlines() if line.startswith("VmData:"))
    _, hard_limit = resource.getrlimit(resource.RLIMIT_DATA)
    cap = int(held) * 1024 + more_bytes
    if hard_limit != resource.RLIM_INFINITY:
        cap = min(cap, hard_limit)
    resource.setrlimit(resource.RLIMIT_DATA, (cap, cap))
    return cap
