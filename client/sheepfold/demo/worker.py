"""One worker of the demo: LeNet-5 on Fashion-MNIST, a slot at a time, until the job ends."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

import sheepfold
from sheepfold.address import BadAddress
from sheepfold.demo.data import DataSetError, load
from sheepfold.demo.lenet import lenet5
from sheepfold.demo.options import add_job_options, parser, run
from sheepfold.errors import Refused, ServerUnavailable


def main() -> int:
    found = parser("Compute gradients for the demo's job until it ends. Prints nothing but errors.")
    add_job_options(found)
    found.add_argument(
        "--seed", type=int, default=0, help="seed of the initial weights, where this worker's are used"
    )
    found.add_argument(
        "--threads", type=int, default=1, help="CPU threads; equal on all workers, for equal bits"
    )
    options = found.parse_args()
    return run(lambda: train(options), (DataSetError, Refused, ServerUnavailable, BadAddress))


def train(options: Namespace) -> None:
    """The whole training script."""
    data_dir: Path | None = options.data_dir
    data = load(data_dir)
    images, labels = torch.from_numpy(data.train.images), torch.from_numpy(data.train.labels)
    model = lenet5(options.seed)
    torch.use_deterministic_algorithms(True)
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
            slot.backward(F.cross_entropy(model(augmented(images[indices])), labels[indices]))
            job_run.step()


def augmented(images: Tensor) -> Tensor:
    """Each image mirrored or not, all moved by up to one pixel: drawn anew per slot, from the lease's seed.

    Shapes: (n, 1, 28, 28), the same. `run.slots()` seeds torch's generator, so a slot's draw is the same
    whoever computes it.
    """
    is_mirrored = torch.rand(len(images), 1, 1, 1) < 0.5
    images = torch.where(is_mirrored, images.flip(3), images)
    right, down = torch.randint(0, 3, (2,)).tolist()
    return F.pad(images, (1, 1, 1, 1), mode="replicate")[:, :, down : down + 28, right : right + 28]


if __name__ == "__main__":
    raise SystemExit(main())
