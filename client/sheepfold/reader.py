"""Weights of a job for whoever only reads: evaluation, export, serving. Never slows a step."""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING

import sheepfold_wire.messages as m
from sheepfold.errors import Refused
from sheepfold.numpy_client import Array, Client
from sheepfold.transport import Transport
from sheepfold_wire.manifest import Manifest

if TYPE_CHECKING:
    from torch import nn

LATEST = "latest"
LOOK_SECONDS = 0.2
_UNITS = {"s": 1.0, "min": 60.0, "h": 3600.0}


class Reader:
    """Pulls versions, and pins them: a pinned version stays served on all shards beyond its age.

        with sheepfold.Reader("bert") as reader:
            weights = reader.pull("latest", pin="10min")
            reader.evaluated({"accuracy": accuracy_of(weights)})

    Use it as a context manager, or close it, so that its pin ends. A job that has ended is read as any other.
    """

    def __init__(self, job: str | None = None, *, address: str | Transport | None = None) -> None:
        """Raises Refused, ServerUnavailable, JobEnded; BadAddress and TransportMissing for the address."""
        self._client = Client(job, address=address)
        self._pin = f"reader-{secrets.token_hex(6)}"
        self._is_pinned = False

    @property
    def job(self) -> str:
        return self._client.job

    @property
    def manifest(self) -> Manifest:
        return self._client.manifest

    @property
    def version(self) -> int:
        """Committed steps in the weights pulled last; -1 before the first."""
        return self._client.version

    def pull(self, version: str | int = LATEST, pin: str | float | None = None) -> dict[str, Array]:
        """The weights by name: of "latest", or of a version that is still served.

        `pin` ("10min", "30s", "2h", or seconds) keeps the latest version served for so long; it moves the pin
        that this reader had. Raises Refused if the version is gone, or too many are pinned.
        """
        if version != LATEST and not isinstance(version, int):
            raise Refused(f"version = {version!r}", remedy='give "latest" or the number of a version')
        if pin is None:
            return self._client.pull(None if version == LATEST else int(version))
        if version != LATEST:
            raise Refused(
                f"version {version} cannot be pinned: only the newest can",
                remedy='pull("latest", pin=...), which tells in reader.version what it is',
            )
        return self._client.pull(self.pin(pin))

    def pin(self, duration: str | float) -> int:
        """Pin the newest version for so long; returns which it is."""
        self._is_pinned = True
        return self._client.worker.pin(self._pin, seconds_of(duration)).version

    def unpin(self) -> None:
        """End this reader's pin, if it has one."""
        if self._is_pinned:
            self._is_pinned = False
            self._client.worker.pin(self._pin, 0.0)

    def wait(self, version: int) -> dict[str, Array]:
        """The weights of a version once it is made, or of the newest if that is newer by then.

        Waits as long as it takes; raises Refused if the job ends before.
        """
        while (status := self.status()).version < version:
            if status.state == "ended":
                raise Refused(
                    f"job {self.job} has ended at version {status.version}, before version {version}",
                    field="version",
                    expected=status.version,
                    got=version,
                    remedy="wait for a version up to its last one",
                )
            time.sleep(LOOK_SECONDS)
        return self.pull()

    def status(self) -> m.JobStatus:
        """What the job is at: state, newest version, rates, the best version."""
        return self._client.worker.status()

    def evaluated(self, metrics: Mapping[str, float], version: int | None = None) -> m.EvaluationReply:
        """Tell the server what a version is worth, by default the one pulled last."""
        return self._client.worker.evaluated(metrics, self.version if version is None else version)

    def load(self, model: nn.Module) -> None:
        """Put the weights pulled last into a torch model, by name. Raises Refused for names that differ."""
        import torch

        weights = self._client.weights
        mine = {n.replace("_orig_mod.", ""): t for n, t in model.state_dict(keep_vars=True).items()}
        if missing := sorted(weights.keys() - mine.keys()):
            raise Refused(
                f"the model lacks {len(missing)} tensors of job {self.job}: {', '.join(missing[:8])}",
                remedy="load into the model that the job was made with",
            )
        with torch.no_grad():
            for name, value in weights.items():
                if tuple(mine[name].shape) != value.shape:
                    raise Refused(
                        f"{name} has shape {tuple(mine[name].shape)} in the model, {value.shape} in the job",
                        field=name,
                        expected=value.shape,
                        got=tuple(mine[name].shape),
                    )
                mine[name].copy_(torch.from_numpy(value))

    def close(self) -> None:
        """End the pin and leave. May be repeated."""
        self.unpin()
        self._client.close()

    def __enter__(self) -> Reader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def seconds_of(duration: str | float) -> float:
    """Seconds of "30s", "10min", "2h", or of a number. Raises Refused."""
    if isinstance(duration, int | float) and not isinstance(duration, bool):
        return float(duration)
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?) ?(s|min|h)", str(duration))
    if found is None:
        raise Refused(
            f"{duration!r} is no time", field="pin", got=duration, remedy='give "30s", "10min" or "2h"'
        )
    return float(found[1]) * _UNITS[found[2]]
