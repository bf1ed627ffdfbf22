"""The one call that gives a torch model its place in a job."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from sheepfold.joining import Config, Joining
from sheepfold.model_tensors import tensors_of
from sheepfold.run import Run
from sheepfold.signals import NOTICE_SECONDS
from sheepfold.transport import Transport

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


def attach(
    model: nn.Module,
    job: str | None = None,
    *,
    address: str | Transport | None = None,
    config: Config | None = None,
    data_samples: int = 0,
    data_fingerprint: str = "",
    threads: int | None = None,
    notice_seconds: float = NOTICE_SECONDS,
    process_group: ProcessGroup | None = None,
    overlap: bool = False,
) -> Run:
    """Attach a model to a job: from now on its weights and buffers are those of the job's current version.

    `address`: the coordinator's, else $SHEEPFOLD, else this machine; or a Transport. `config` creates the job
    if it does not exist; without `job` and `config`, the only job of the server is meant. `data_samples`,
    `data_fingerprint`: of your data set, compared with the job's. `threads`: CPU threads of torch; the same
    number on all workers is one condition for the same bits. `notice_seconds`: after SIGTERM a slot that will
    be finished within that time is; any other is handed back at once. `process_group`: its ranks, which all
    attach, are one worker and share each slot; best one group for each host. `overlap`: gradients leave while
    `slot.backward` still runs, if it is the slot's only one. It changes no bit: what `.grad` is not any more
    when `step` is called is pushed again.
    Raises Refused, ServerUnavailable, JobEnded; BadAddress and TransportMissing for the address; with a
    process group GroupBroken, as does all that is then asked of the run.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    joining = Joining(
        job,
        address,
        config,
        data_samples=data_samples,
        data_fingerprint=data_fingerprint,
        notice_seconds=notice_seconds,
    )
    return Run.of(tensors_of(model), joining, process_group, overlap)
