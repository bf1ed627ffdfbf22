"""One worker of the demo: LeNet-5 on Fashion-MNIST, a slot at a time, until the job ends."""

from __future__ import annotations

from argparse import Namespace

import sheepfold
from sheepfold.address import BadAddress
from sheepfold.demo.options import add_job_options, parser, run
from sheepfold.errors import Refused, ServerUnavailable


def main() -> int:
    found = parser("Compute gradients for the demo's job until it ends. Prints nothing but errors.")
    add_job_options(found)
    found.add_argument(
        "--seed", type=int, default=0, help="seed of the initial weights, if this worker uploads them"
    )
    found.add_argument(
        "--threads", type=int, default=1, help="CPU threads; equal on all workers, for equal bits"
    )
    options = found.parse_args()
    from sheepfold.demo.data import DataSetError

    return run(lambda: train(options), (DataSetError, Refused, ServerUnavailable, BadAddress))


def train(options: Namespace) -> None:
    """The whole training script of a worker."""
    import torch
    import torch.nn.functional as F

    from sheepfold.demo.data import load
    from sheepfold.demo.lenet import lenet5

    torch.use_deterministic_algorithms(True)
    data = load(options.data_dir)
    images, labels = torch.from_numpy(data.train.images), torch.from_numpy(data.train.labels)
    model = lenet5(options.seed)
    with sheepfold.attach(
        model,
        job=options.job,
        address=options.address,
        data_samples=len(data.train),
        data_fingerprint=data.fingerprint,
        threads=options.threads,
    ) as job_run:
        for slot in job_run.slots():
            indices = torch.from_numpy(slot.indices)
            slot.backward(F.cross_entropy(model(images[indices]), labels[indices]))
            job_run.step()


if __name__ == "__main__":
    raise SystemExit(main())
