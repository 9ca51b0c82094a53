"""`gapray stills` as an entry point: ``ray job submit --working-dir . -- python jobs/render_stills.py CATALOG``.

Takes the flags of ``gapray stills``. Inside a job Ray sets RAY_ADDRESS, so the run uses the job's cluster.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from gapray.cli.main import app

if __name__ == "__main__":
    app(["stills", *sys.argv[1:]])
