"""Says which data set the demo's workers would load, as one JSON line."""

from __future__ import annotations

import json

from sheepfold.demo.data import DataSetError, load
from sheepfold.demo.options import parser, run


def main() -> int:
    options = parser("Print name, size and fingerprint of the demo's data set.").parse_args()

    def work() -> None:
        data = load(options.data_dir)
        print(json.dumps({"name": data.name, "samples": len(data.train), "fingerprint": data.fingerprint}))

    return run(work, (DataSetError,))


if __name__ == "__main__":
    raise SystemExit(main())
