"""LeNet-5 on Fashion-MNIST or MNIST: the same passes over the data at any batch, without tuning.

    python client/examples/lenet.py                # one worker; start as many as you like
    python client/examples/lenet.py --batch 4096   # fewer steps; learning rate and warm-up follow
    python client/examples/lenet.py --data mnist   # a folder with the four files of MNIST or Fashion-MNIST

or, without a server:  SHEEPFOLD=local: python client/examples/lenet.py

Without --data: $SHEEPFOLD_DATA, else all of Fashion-MNIST where Debian's package brought it (`sudo apt-get
install dataset-fashion-mnist`), else the 10,000 images that are shipped. MNIST has files of the same names.

Learning rate (square root of the batch) and warm-up (passes that grow with it) are said in lenet.toml, and
the server follows them. Source of the task: You et al. 2020 (arXiv:1904.00962), appendix.
"""

from __future__ import annotations

import argparse
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

import sheepfold
from sheepfold.demo.data import DataSet, DataSetError, Split, load
from sheepfold.demo.lenet import lenet5
from sheepfold.exits import EXIT_NEVER_RETRY

JOB_FILE = Path(__file__).with_suffix(".toml")


def job_for(samples: int, batch: int | None = None, steps: int | None = None) -> dict[str, Any]:
    """The job of lenet.toml for so many images: as many passes over them, at any batch, but for `steps`."""
    values = tomllib.loads(JOB_FILE.read_text("utf-8"))
    plan, stop, lr = values["batch"], values["stop"], values["optimizer"]["lr"]
    images = stop["steps"] * plan["samples"] * samples / values["data"]["samples"]
    plan["samples"] = batch or plan["samples"]
    plan["slot_samples"] = min(plan["slot_samples"], plan["samples"])
    usual = max(1, round(images / plan["samples"]))
    stop["steps"] = steps or usual
    lr["warmup_epochs"] *= stop["steps"] / usual
    values["data"]["samples"] = samples
    return values


def train(run: sheepfold.Run, model: nn.Module, split: Split) -> None:
    """Slots until the job ends."""
    images, labels = torch.from_numpy(split.images), torch.from_numpy(split.labels)
    for slot in run.slots():
        chosen = torch.from_numpy(slot.indices)
        slot.backward(F.cross_entropy(model(images[chosen]), labels[chosen]))
        result = run.step()
        if slot.lease.slot == 0 and result.step % 10 == 0 and result.loss is not None:
            print(f"step {result.step}: loss {result.loss:.3f}", flush=True)


@torch.no_grad()
def accuracy(model: nn.Module, split: Split) -> float:
    """Share of the images that the model classifies correctly."""
    images, labels = (torch.from_numpy(part).split(500) for part in (split.images, split.labels))
    right = (model(x).argmax(1) == y for x, y in zip(images, labels, strict=True))
    return sum(int(found.sum()) for found in right) / len(split)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--data",
        "--data-dir",
        dest="data",
        type=Path,
        help="folder with the four .gz files of MNIST or Fashion-MNIST",
    )
    parser.add_argument("--batch", type=int, help="images of a step")
    parser.add_argument("--steps", type=int, help="left out: as many passes as in lenet.toml")
    parser.add_argument("--name", default="lenet-large-batch", help="of the job")
    given = parser.parse_args(arguments)
    torch.use_deterministic_algorithms(True)
    data: DataSet = load(given.data)
    job = {**job_for(len(data.train), given.batch, given.steps), "name": given.name}
    job["data"]["fingerprint"] = data.fingerprint
    model = lenet5()
    agreed = {"data_samples": len(data.train), "data_fingerprint": data.fingerprint}
    with sheepfold.attach(model, config=job, threads=1, **agreed) as run:
        train(run, model, data.train)
        print(f"version {run.version}: accuracy {accuracy(model, data.test):.3f} on {data.name}")


if __name__ == "__main__":
    try:
        main()
    except DataSetError as error:
        print(f"{Path(__file__).name}: {error}", file=sys.stderr)
        sys.exit(EXIT_NEVER_RETRY)
