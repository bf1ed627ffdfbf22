"""Who may call what: one row per call, and whatever has no row is refused.

A caller has one role and one job, or all jobs. The shell finds out who calls; the rest is decided here.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from sheepfold_wire.errors import Forbidden, JobUnknown

ALL_JOBS = "*"


class Role(StrEnum):
    """What a caller is."""

    WORKER = "worker"
    """Trains: creates its job if that is missing, takes leases, pushes, pulls."""
    READER = "reader"
    """Looks on, and pulls weights."""
    ADMIN = "admin"
    """Does all that a person does, a worker's calls included."""
    SHARD = "shard"
    """Links to the coordinator, and nothing else."""
    COORDINATOR = "coordinator"
    """Is linked to; calls nobody."""


WORKERS = frozenset({Role.WORKER, Role.ADMIN})
READERS = frozenset({Role.READER, Role.WORKER, Role.ADMIN})
ADMINS = frozenset({Role.ADMIN})
SHARDS = frozenset({Role.SHARD})
JOINING = frozenset({Role.WORKER, Role.READER, Role.ADMIN})
"""May change a join token for a pass; a pass may not be changed for another."""

_COORDINATOR = "/sheepfold.v1.CoordinatorService/"
_MONITOR = "/sheepfold.v1.MonitorService/"
_SHARD = "/sheepfold.v1.ShardService/"

ADMIT = _COORDINATOR + "Admit"

ROLES_OF_CALL: dict[str, frozenset[Role]] = {
    ADMIT: JOINING,
    _COORDINATOR + "CreateJob": WORKERS,
    _COORDINATOR + "Attach": WORKERS,
    _COORDINATOR + "TakeLease": WORKERS,
    _COORDINATOR + "Heartbeat": WORKERS,
    _COORDINATOR + "Release": WORKERS,
    _COORDINATOR + "TakeChore": WORKERS,
    _COORDINATOR + "Evaluated": WORKERS,
    _COORDINATOR + "Pin": READERS,
    _COORDINATOR + "ChangeConfig": ADMINS,
    _COORDINATOR + "Control": ADMINS,
    _COORDINATOR + "Rewind": ADMINS,
    _COORDINATOR + "Checkpoint": ADMINS,
    _COORDINATOR + "Restore": ADMINS,
    _COORDINATOR + "DeleteJob": ADMINS,
    _COORDINATOR + "Link": SHARDS,
    _MONITOR + "ListJobs": READERS,
    _MONITOR + "Status": READERS,
    _MONITOR + "Model": READERS,
    _MONITOR + "Watch": READERS,
    _SHARD + "Push": WORKERS,
    _SHARD + "Pull": READERS,
    _SHARD + "Digest": READERS,
    _SHARD + "Share": READERS,
}

OPEN_CALLS = frozenset({"/grpc.health.v1.Health/Check"})
"""Whoever probes a role learns only that it runs."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who makes a call, as a credential says."""

    role: Role
    job: str = ALL_JOBS
    """Name of the one job, or ALL_JOBS."""
    subject: str = ""
    """For the audit log: whom the credential was made for."""

    @property
    def is_scoped(self) -> bool:
        """Whether other jobs do not exist for it."""
        return self.job != ALL_JOBS

    def sees(self, job: str) -> bool:
        return self.job in (ALL_JOBS, job)

    def check_job(self, job: str) -> None:
        """Raises JobUnknown, in the same words as for a job that is not there."""
        if not self.sees(job):
            raise self.absent(job)

    def absent(self, job: str) -> JobUnknown:
        """What a scoped caller is told of a job that it may not see, or that is not there."""
        return JobUnknown(
            f"no job named {job!r} for this credential, which is for job {self.job!r}; check the name, or "
            "use a credential for that job"
        )

    def visible(self, jobs: Iterable[str]) -> tuple[str, ...]:
        return tuple(job for job in jobs if self.sees(job))


EVERYONE = Caller(Role.ADMIN, subject="everyone")
"""Who calls a server that asks for nothing: loopback, or --insecure."""


def check_role(method: str, role: Role) -> None:
    """Raises Forbidden for a call that this role may not make, or that nobody may."""
    allowed = ROLES_OF_CALL.get(method, frozenset())
    if role not in allowed:
        raise refused(method, role, allowed)


def refused(method: str, role: Role, allowed: Iterable[Role]) -> Forbidden:
    names = ", ".join(sorted(allowed)) or "nobody"
    return Forbidden(
        f"{method.rpartition('/')[2]} is for {names}, and this credential is that of a {role}; use one of "
        "such a role: `sheepfold token --role` makes it, `sheepfold up` keeps one in `admin` of its directory"
    )


def unlisted(methods: Iterable[str]) -> list[str]:
    """Calls of a server without a row here; a server with one must not start."""
    return sorted(set(methods) - ROLES_OF_CALL.keys() - OPEN_CALLS)
