"""Stored results: one file of JSON lines per table, so that no run is ever repeated."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

from tests.study.runs import Result, Run, result_from

FOLDER = Path(__file__).parent / "results"


class Store:
    """Results by the key of their run. What is added is on the disk before the next run begins."""

    def __init__(self, folder: Path = FOLDER) -> None:
        self._folder = folder
        self._results: dict[str, Result] = {}
        for path in sorted(folder.glob("*.jsonl")):
            for line in path.read_text("utf-8").splitlines(keepends=True):
                if line.endswith("\n"):  # the last line of a run that was killed is run again
                    found = result_from(json.loads(line))
                    self._results[found.key] = found

    def __contains__(self, run: object) -> bool:
        return isinstance(run, Run) and run.key in self._results

    def __getitem__(self, run: Run) -> Result:
        return self._results[run.key]

    def get(self, run: Run) -> Result | None:
        return self._results.get(run.key)

    def missing(self, runs: Iterable[Run]) -> list[Run]:
        """Those without a result, each once, in order."""
        return [run for run in dict.fromkeys(runs) if run not in self]

    def add(self, table: str, result: Result) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        with (self._folder / f"{table}.jsonl").open("a+b") as file:
            _drop_half_line(file)
            file.write(result.to_json().encode() + b"\n")
        self._results[result.key] = result


def _drop_half_line(file: BinaryIO) -> None:
    """What a study that was killed while it wrote has left behind."""
    file.seek(0)
    whole = file.read().rfind(b"\n") + 1
    file.truncate(whole)
    file.seek(whole)
