"""Starts a process of ours with failpoints in it: what runs is the product, or a worker's script, as it is.

python failing.py server ROLE ARGUMENT...
python failing.py worker SCRIPT ARGUMENT...
"""

from __future__ import annotations

import os
import runpy
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.faults.failpoints import VARIABLE, install


def main(kind: str, what: str, *arguments: str) -> None:
    folder = Path(os.environ[VARIABLE])
    if kind == "worker":
        install("worker", folder)
        sys.argv = [what, *arguments]
        sys.path.insert(0, str(Path(what).parent))
        runpy.run_path(what, run_name="__main__")
        return
    install(what, folder)
    sys.argv = ["sheepfold", what, *arguments]
    from sheepfold_server.cli import main as sheepfold

    sheepfold()


if __name__ == "__main__":
    main(*sys.argv[1:])
