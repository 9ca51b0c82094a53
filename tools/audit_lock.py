"""Look up known vulnerabilities of the packages in a lock file: ``python tools/audit_lock.py requirements-cpu.lock``.

Ends with 1 if there are any, and with 0 and a reason if the database cannot be reached. Runs pip-audit, which it installs into a
temporary environment by uv.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

_ROOT = Path(__file__).resolve().parent.parent
_AUDIT = ["tool", "run", "pip-audit", "--no-deps", "--disable-pip", "--require-hashes", "--format", "json", "-r"]


def main(lock: str) -> int:
    """Print the findings for a lock file; returns the exit code."""
    done = subprocess.run(
        [str(_ROOT / ".uv" / "bin" / "uv"), *_AUDIT, lock], capture_output=True, text=True, check=False
    )
    try:
        packages = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        print(f"skipped: pip-audit did not run: {done.stderr.strip()[-300:]}")
        return 0
    known = [package for package in packages if "skip_reason" not in package]
    if not known:
        print(
            f"skipped: the database of vulnerabilities cannot be reached; {len(packages)} packages were not looked up"
        )
        return 0
    found = [(package, flaw) for package in known for flaw in package["vulns"]]
    for package, flaw in found:
        fixed = ", ".join(flaw["fix_versions"]) or "none"
        print(f"{package['name']} {package['version']}: {flaw['id']}, fixed in {fixed}")
    print(f"{len(known)} of {len(packages)} packages looked up, {len(found)} known vulnerabilities")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
