"""Attacks run in a process of their own, whose resident memory is what they cost."""

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
def peak_kb():  # of this process alone: getrusage counts its parent's before it was born
    [line] = [line for line in open("/proc/self/status") if line.startswith("VmHWM")]
    return int(line.split()[1])
before = peak_kb()
told = code = None
try:
    told = {call}
except GaprayError as error:
    told, code = error.message, error.code
print(json.dumps([code, told, (peak_kb() - before) / 1024]))
"""


@pytest.fixture
def cost():
    """`cost(imports, call, *arguments)`: runs `call`, in which `sys.argv[1:]` are the arguments, in a fresh process.

    Returns:
        The error's code, or None; its message, or what the call returned; by how much its resident memory grew [MiB].
    """

    def run(imports, call, *arguments):
        source = _MEASURED.format(imports=imports, call=call)
        found = subprocess.run(
            [sys.executable, "-c", source, *map(str, arguments)], capture_output=True, text=True, timeout=120
        )
        assert found.returncode == 0, found.stderr
        return json.loads(found.stdout.splitlines()[-1])

    return run
