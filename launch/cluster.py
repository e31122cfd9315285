"""Start a run on one machine or on many: `python launch/cluster.py WAY --dry-run … -- --config FILE run.dir=DIR …`."""

import sys
from pathlib import Path

from spacetime_gr.launching.main import main

if __name__ == "__main__":
    sys.exit(main(Path(__file__).resolve().parent))
