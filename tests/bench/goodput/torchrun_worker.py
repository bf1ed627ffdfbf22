"""A rank under torchrun: gloo all-reduce, LAMB on every rank, rank 0 saves the state.

python -m torch.distributed.run ... -m tests.bench.goodput.torchrun_worker FOLDER COMPUTE_SECONDS SAVE_EVERY
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from tests.bench.goodput.training import Progress, Training, computed


def main(folder: str, compute_seconds: str, save_every: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    saved, progress, training = Path(folder, "state.pt"), Progress(Path(folder, "progress")), Training()
    training.load(saved)
    while True:
        gradient = computed(float(compute_seconds))
        dist.all_reduce(gradient)
        training.apply(gradient / dist.get_world_size())
        if dist.get_rank() == 0:
            if training.steps % int(save_every) == 0:
                training.save(saved)
            progress.tell(training.steps)


if __name__ == "__main__":
    main(*sys.argv[1:])
