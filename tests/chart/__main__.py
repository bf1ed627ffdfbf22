"""`make chart`: every check of the chart, none skipped, and a line of JSON that says what was done."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
from tests.chart.rendering import did


class Failures:
    """Counts them, those of fixtures included."""

    def __init__(self) -> None:
        self.count = 0

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.count += report.failed

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        self.count += report.failed


def main() -> int:
    os.environ["SHEEPFOLD_REQUIRE"] = "helm,prometheus"
    failures = Failures()
    code = pytest.main(["-q", str(Path(__file__).parent), *sys.argv[1:]], plugins=[failures])
    done = {name: did[name] for name in ("renders", "objects")}
    print(json.dumps({"bench": "chart", **done, "failures": failures.count, "lifecycles": did["lifecycles"]}))
    return int(code)


if __name__ == "__main__":
    sys.exit(main())
