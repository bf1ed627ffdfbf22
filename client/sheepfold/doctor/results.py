"""The outcome of one check, as a line."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

NAME_WIDTH = 17


class Status(StrEnum):
    OK = "ok"
    WARNING = "warning"
    FAILED = "FAILED"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class CheckResult:
    """`text` says what was measured; `remedy` is one sentence, empty where nothing is to be done."""

    name: str
    status: Status
    text: str
    remedy: str = ""

    @property
    def line(self) -> str:
        told = "; ".join(part.strip() for part in self.text.splitlines())
        return f"{self.name:<{NAME_WIDTH}} {self.status}: {told}{f'. {self.remedy}' if self.remedy else ''}"


def ok(name: str, text: str) -> CheckResult:
    return CheckResult(name, Status.OK, text)


def warning(name: str, text: str, remedy: str) -> CheckResult:
    return CheckResult(name, Status.WARNING, text, remedy)


def failed(name: str, text: str, remedy: str) -> CheckResult:
    return CheckResult(name, Status.FAILED, text, remedy)


def skipped(name: str, needed: str) -> CheckResult:
    """`needed`: the check that failed, or what there is not."""
    return CheckResult(name, Status.SKIPPED, f"needs {needed}")


def exit_code(results: Iterable[CheckResult]) -> int:
    """1 if any check failed, else 0."""
    return int(any(result.status is Status.FAILED for result in results))


def milliseconds(seconds: float) -> str:
    return f"{seconds * 1e3:.1f} ms"


def size(count: int) -> str:
    """Bytes for people, in powers of 1,000 as networks count."""
    for unit, bytes_each in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= bytes_each:
            return f"{count / bytes_each:.1f} {unit}"
    return f"{count} bytes"
