"""`gapray score` as an entry point: ``ray job submit --working-dir . -- python jobs/score_videos.py CATALOG``.

Takes the flags of ``gapray score``. Inside a job Ray sets RAY_ADDRESS, so the run uses the job's cluster.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from gapray.cli.main import app

if __name__ == "__main__":
    app(["score", *sys.argv[1:]])
