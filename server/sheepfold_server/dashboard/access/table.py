"""Which role may ask for what: one row per route, and whatever has no row is refused."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from starlette.routing import BaseRoute, Route, compile_path


@dataclass(frozen=True, slots=True)
class Row:
    """Who may ask for a route."""

    roles: frozenset[str]
    """Empty: anyone, without a login."""
    is_page: bool = False
    """A browser that is not logged in is sent to the login page."""
    needs_all_jobs: bool = False
    """The answer is about all jobs, so a credential for one of them is not enough."""

    @property
    def is_open(self) -> bool:
        return not self.roles


READERS = frozenset({"reader", "worker", "admin"})
OPEN = Row(frozenset())
READ = Row(READERS)
PAGE = Row(READERS, is_page=True)
OVER_ALL_JOBS = Row(READERS, needs_all_jobs=True)

_JOB = "GET /api/v1/jobs/{job}"

ROUTES: dict[str, Row] = {
    "GET /healthz": OPEN,
    "GET /readyz": OPEN,
    "GET /login": OPEN,
    "POST /login": OPEN,
    "GET /static/page.css": OPEN,  # the login page needs these two
    "GET /static/icon.svg": OPEN,
    "GET /static/page.js": READ,
    "GET /static/THIRD_PARTY_LICENSES": READ,
    "POST /logout": PAGE,
    "GET /": PAGE,
    "GET /docs": PAGE,
    "GET /openapi.json": READ,
    "GET /metrics": OVER_ALL_JOBS,
    "GET /api/v1/events": READ,  # of one's own job, where the credential is for one
    "GET /api/v1/jobs": READ,  # the same
    _JOB: READ,
    _JOB + "/config": READ,
    _JOB + "/model": READ,
    _JOB + "/workers": READ,
    _JOB + "/shards": READ,
    _JOB + "/throughput": READ,
    _JOB + "/steps": READ,
    _JOB + "/steps.csv": READ,
    _JOB + "/steps/{step}": READ,
    _JOB + "/slices": READ,
    _JOB + "/slices.csv": READ,
    _JOB + "/series": READ,
    _JOB + "/series.csv": READ,
    _JOB + "/slices/{slice:path}/series": READ,
    _JOB + "/slices/{slice:path}/series.csv": READ,
    _JOB + "/heatmap": READ,
    _JOB + "/events": READ,
    _JOB + "/events.csv": READ,
    _JOB + "/alerts": READ,
    _JOB + "/lineages": READ,
    _JOB + "/schedule": READ,
    _JOB + "/forecast": READ,
    _JOB + "/stall": READ,
}


class RouteUndecided(Exception):
    """A route without a row; the process must not start."""


def keys_of(routes: Iterable[BaseRoute]) -> set[str]:
    """`METHOD /path` of every route, mounts included, as the table names them."""
    found = set()
    for route in routes:
        if isinstance(route, Route):
            found |= {f"{method} {route.path}" for method in (route.methods or ()) if method != "HEAD"}
        else:
            found.add(f"{type(route).__name__} {getattr(route, 'path', '?')}")
    return found


class Table:
    """The rows, as requests find them."""

    def __init__(self, rows: dict[str, Row] | None = None) -> None:
        self._rows = ROUTES if rows is None else rows
        self._patterns: list[tuple[str, re.Pattern[str], Row]] = []
        for key, row in self._rows.items():
            method, _, path = key.partition(" ")
            self._patterns.append((method, compile_path(path)[0], row))

    def check(self, routes: Iterable[BaseRoute]) -> None:
        """Every route has its row, and every row its route; raises RouteUndecided."""
        keys = keys_of(routes)
        if missing := keys - self._rows.keys():
            raise RouteUndecided(f"{', '.join(sorted(missing))}: nobody has decided who may ask for it")
        if idle := self._rows.keys() - keys:
            raise RouteUndecided(f"{', '.join(sorted(idle))}: a row for a route that is not there")

    def find(self, method: str, path: str) -> tuple[Row | None, str | None]:
        """The row of a request, None if it has none; and the job that its path names, if it names one."""
        asked = "GET" if method == "HEAD" else method
        for each, pattern, row in self._patterns:
            match = pattern.match(path) if each == asked else None
            if match is not None:
                return row, match.groupdict().get("job")
        return None, None
