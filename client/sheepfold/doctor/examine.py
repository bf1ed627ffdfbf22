"""All checks, in order."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from sheepfold.doctor.measures import machine_checks
from sheepfold.doctor.results import CheckResult
from sheepfold.doctor.servers import server_checks


def examine(address: str | None, job: str | None, environ: Mapping[str, str]) -> Iterator[CheckResult]:
    """Each result as soon as it is known; no check takes longer than some seconds."""
    yield from server_checks(address, job, environ)
    yield from machine_checks(environ)
