"""What the audit log is told: every call that changes something, how it ended, and refused credentials."""

from __future__ import annotations

import json
import logging
import time
from typing import Any

from sheepfold_server.core.permissions import Caller
from sheepfold_server.storage.audit import AuditLog

log = logging.getLogger(__name__)

TEXT_CHARACTERS_MAX = 200
REFUSALS_PER_SECOND = 10
"""More are counted and not written: a stranger must not fill the disk."""

NOTED: dict[str, tuple[str, ...]] = {
    "Admit": (),
    "CreateJob": ("request_id",),
    "Attach": ("worker", "host", "is_reader"),
    "ChangeConfig": ("request_id", "from_step", "changes_json", "author"),
    "Control": ("action", "author"),
    "Rewind": ("request_id", "to_version", "author"),
    "Checkpoint": ("author",),
    "Restore": ("request_id", "version", "author"),
    "DeleteJob": ("request_id", "author", "without_checkpoint"),
    "Link": (),
}
"""Calls that are written down, and what of the request is."""


class Auditor:
    """Writes entries; None as the log writes none. A disk that is full is logged and stops nobody."""

    def __init__(self, audit_log: AuditLog | None) -> None:
        self._log = audit_log
        self._second, self._refusals = 0, 0

    def called(self, method: str, caller: Caller, request: Any, peer: str, result: str) -> None:
        """`result`: "ok", or why it was refused."""
        name = method.rpartition("/")[2]
        if name not in NOTED:
            return
        given = {field: _shown(getattr(request, field)) for field in NOTED[name] if hasattr(request, field)}
        who = {"subject": caller.subject, "role": caller.role.value, "for_job": caller.job}
        self._write({"call": name, "job": _job_of(request), **who, **given}, peer, result)

    def refused(self, method: str, why: str) -> None:
        """A credential that was not taken."""
        second = int(time.time())
        if second != self._second:
            if self._refusals > REFUSALS_PER_SECOND:
                more = self._refusals - REFUSALS_PER_SECOND
                self._write({"call": "any"}, "", f"{more} more were refused within a second")
            self._second, self._refusals = second, 0
        self._refusals += 1
        if self._refusals <= REFUSALS_PER_SECOND:
            self._write({"call": method.rpartition("/")[2][:64]}, "", why)

    def _write(self, entry: dict[str, str | int | float], peer: str, result: str) -> None:
        if self._log is None:
            return
        try:
            self._log.append(
                {"at": round(time.time(), 3), **entry, "peer": peer, "result": result[:TEXT_CHARACTERS_MAX]}
            )
        except OSError as error:
            log.error("the audit log cannot be written: %s", error)


def _job_of(request: Any) -> str:
    """The job that a request is about, also where it stands in the configuration of a new one."""
    if not hasattr(request, "config_json"):
        return str(getattr(request, "job", ""))
    try:
        return str(json.loads(request.config_json)["name"])[:TEXT_CHARACTERS_MAX]
    except (ValueError, KeyError, TypeError, RecursionError):
        return ""  # refused for that


def _shown(value: Any) -> str | int | float:
    return value if isinstance(value, int | float) else str(value)[:TEXT_CHARACTERS_MAX]
