"""What a script says of itself, and of the job that it wants to join or create."""

from __future__ import annotations

import os
import random
import secrets
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import sheepfold_wire.messages as m
from sheepfold.calls import Patience, WorkerCalls, insist
from sheepfold.errors import Refused
from sheepfold.rounds import ALONE, Share
from sheepfold.signals import NOTICE_SECONDS
from sheepfold.transport import Transport
from sheepfold.usage import versions, zone
from sheepfold_wire.codecs import Codec
from sheepfold_wire.errors import BadConfig
from sheepfold_wire.job import Job, parse_job
from sheepfold_wire.manifest import Manifest

Config = Job | Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Joining:
    """What a script says of itself. Without a manifest it is a reader: it pulls and never leases."""

    job: str | None = None
    address: str | Transport | None = field(default=None, repr=False)
    """A Transport serves as its own address. A string may hold a token."""
    config: Config | None = None
    manifest: Manifest | None = None
    down: Codec = Codec.FP32
    data_samples: int = 0
    data_fingerprint: str = ""
    device: str = "cpu"
    notice_seconds: float = NOTICE_SECONDS
    patience: Patience = field(default_factory=Patience)
    jitter: Callable[[], float] = random.random
    share: Share = ALONE
    network: str = ""
    """From which the worker comes, where `address` is a Transport; a string says so itself."""


def opening(joining: Joining, job: str) -> m.AttachRequest:
    host = socket.gethostname()
    return m.AttachRequest(
        job=job,
        worker=f"{host}-{os.getpid()}-{secrets.token_hex(3)}",
        host=host,
        pid=os.getpid(),
        manifest_json="" if joining.manifest is None else joining.manifest.to_json(),
        is_reader=joining.manifest is None,
        data_samples=joining.data_samples,
        data_fingerprint=joining.data_fingerprint,
        device=joining.device,
        versions=versions(),
        zone=zone(),
    )


def create(joining: Joining, calls: WorkerCalls) -> None:
    """Idempotent: each retry of this call has the same id, and an equal job that exists already is taken."""
    request = m.CreateJobRequest(
        request_id=f"{calls.opening.worker}/create",
        config_json=_parsed(joining.config, joining.job).to_json(),
        manifest_json=calls.opening.manifest_json,
    )
    insist(lambda: calls.transport.call(request), joining.patience)


def _parsed(config: Config | None, job: str | None) -> Job:
    """The config as a Job; `job` names it where a mapping leaves the name out."""
    if isinstance(config, Job):
        return config
    values = dict(config or {})
    if job is not None:
        values.setdefault("name", job)
    try:
        return parse_job(values)
    except BadConfig as error:
        raise Refused.by(error) from error


def job_name(joining: Joining, transport: Transport) -> str:
    """The job asked for, the config's, or the only one there is."""
    if joining.config is not None:
        name = _parsed(joining.config, joining.job).name
        if joining.job not in (None, name):
            raise Refused(
                f"job={joining.job!r}, but config.name is {name!r}: give one name, or leave one out"
            )
        return name
    if joining.job is not None:
        return joining.job
    reply: m.ListJobsReply = insist(lambda: transport.call(m.ListJobsRequest()), joining.patience)
    if len(reply.jobs) != 1:
        there = f"has {len(reply.jobs)}: {', '.join(reply.jobs)}" if reply.jobs else "has none"
        raise Refused(f"no job is named and the server {there}; give job=..., or config=... to create one")
    return reply.jobs[0]
