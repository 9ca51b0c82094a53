"""Runs attacks in a separate process, to measure the memory that they cost."""

import json
import subprocess
import sys

import pytest

from tests.serve.conftest import form, photos, postgres, postgres_server  # noqa: F401

_MEASURED = """
import json, sys
from pathlib import Path
{imports}
from gapray.errors import GaprayError
def peak_kb():  # of this process alone: getrusage also counts the parent's memory from before the fork
    [line] = [line for line in open("/proc/self/status") if line.startswith("VmHWM")]
    return int(line.split()[1])
before = peak_kb()
outcome = code = None
try:
    outcome = {call}
except GaprayError as error:
    outcome, code = error.message, error.code
print(json.dumps([code, outcome, (peak_kb() - before) / 1024]))
"""


@pytest.fixture
def cost():
    """Return `cost(imports, call, *arguments)`, which evaluates `call` in a fresh process; `sys.argv[1:]` are the arguments.

    It returns the error's code or None, the error's message or the call's result, and the growth of the peak memory [MiB].
    """

    def run(imports, call, *arguments):
        source = _MEASURED.format(imports=imports, call=call)
        found = subprocess.run(
            [sys.executable, "-c", source, *map(str, arguments)], capture_output=True, text=True, timeout=120
        )
        assert found.returncode == 0, found.stderr
        return json.loads(found.stdout.splitlines()[-1])

    return run
