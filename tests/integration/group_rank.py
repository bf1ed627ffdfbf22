"""One rank of a host group that trains the small job. Arguments: rank, ranks, meeting file, job, model.

`wide`: another model than `small`'s, for a rank that does not fit. Prints what it saw as JSON.
"""

from __future__ import annotations

import json
import sys

import numpy as np
import torch
import torch.distributed as dist
from tests.integration.harness import SmallNet, slot_loss, small_data

import sheepfold


def main(rank: str, ranks: str, meeting: str, config: str, kind: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{meeting}", rank=int(rank), world_size=int(ranks))
    model, (x, y) = SmallNet() if kind == "small" else torch.nn.Linear(3, 3), small_data()
    if rank != "0":  # its initial weights do not count
        with torch.no_grad():
            next(model.parameters()).mul_(2)
    results, samples = [], 0
    with sheepfold.attach(model, config=json.loads(config), process_group=dist.group.WORLD) as run:
        assert isinstance(model, SmallNet)
        for slot in run.slots():
            indices = torch.from_numpy(np.array(slot.indices))
            slot.backward(slot_loss(model, x[indices], y[indices]))
            run.log({"rank": float(rank)})
            results.append(run.step())
            samples += slot.samples
            workers = len(run.worker.status().workers)
        traffic = run.worker.usage.told().traffic
        up = {each.shard: each.bytes_up for each in traffic if each.bytes_up}
        weights = [float(parameter.double().sum()) for parameter in model.parameters()]
    counted = sum(result.counted for result in results)
    seen = {"counted": counted, "samples": samples, "weights": weights, "up": up}
    print(json.dumps({**seen, "workers": workers}))


if __name__ == "__main__":
    main(*sys.argv[1:])
