"""Runs Python of the documents in this process, each block in a namespace of its own, with `local:` servers.

Reads a JSON object of blocks by name from its input; its last line of output is one of errors by name, which
are empty for what ran to its end. What a block leaves to the reader (a model, data, a loss) is in GIVEN, by
the job that the block names; a block that uses any other unknown name fails.
"""

from __future__ import annotations

import json
import os
import re
import sys
import traceback
import warnings
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader

import sheepfold

SAMPLES = 256
JOBS: dict[str, dict[str, Any]] = {
    "lenet": {"batch": {"samples": 64, "slot_samples": 32}},
    "bert": {"batch": {"samples": 64, "slot_samples": 32, "weight": "tokens"}},
}
REST = {"data": {"samples": SAMPLES}, "optimizer": {"lr": {"peak": 0.01}}, "stop": {"steps": 3}}


class WithLoss(nn.Module):
    """As models of transformers are called: by keywords, with the loss in what they return."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(16, 4)

    def forward(self, x: torch.Tensor, labels: torch.Tensor) -> SimpleNamespace:
        return SimpleNamespace(loss=F.cross_entropy(self.head(x), labels))


def for_lenet() -> dict[str, Any]:
    draw = torch.Generator().manual_seed(0)
    return {
        "model": nn.Linear(16, 4),
        "images": torch.randn(SAMPLES, 16, generator=draw),
        "labels": torch.randint(0, 4, (SAMPLES,), generator=draw),
        "loss": nn.CrossEntropyLoss(),
    }


def for_bert() -> dict[str, Any]:
    draw = torch.Generator().manual_seed(0)
    x, labels = torch.randn(SAMPLES, 16, generator=draw), torch.randint(0, 4, (SAMPLES,), generator=draw)
    return {
        "sheepfold": sheepfold,
        "dist": torch.distributed,
        "DataLoader": DataLoader,
        "model": WithLoss(),
        "train_set": [{"x": x[i], "labels": labels[i]} for i in range(SAMPLES)],
        "tokens_in": lambda batch: len(batch["labels"]),
        "accuracy": 0.5,
        "evaluate": lambda model: 0.25,
    }


GIVEN: dict[str, Callable[[], dict[str, Any]]] = {"lenet": for_lenet, "bert": for_bert}


def declare() -> None:
    """The jobs that blocks attach to, as somebody has created them before."""
    for name, batch in JOBS.items():
        given = GIVEN[name]()
        sheepfold.attach(given["model"], config={"name": name, **batch, **REST}).close()


def error_of(text: str) -> str:
    """Empty if it ran to its end."""
    job = re.search(r'(?:job=|Reader\()"([\w-]+)"', text)
    names = GIVEN[job[1]]() if job is not None and job[1] in GIVEN else {}
    try:
        exec(compile(text, "<block>", "exec"), {"__name__": "__main__", **names})
    except Exception:
        return traceback.format_exc()
    return ""


def main() -> None:
    warnings.simplefilter("error")
    # Of eight loader processes, where there are two cores.
    warnings.filterwarnings("ignore", "This DataLoader will create", UserWarning)
    os.environ["SHEEPFOLD"] = "local:?shards=2"
    # As torchrun leaves it for a single process; port 0 is any that is free.
    os.environ.update({"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"})
    blocks: dict[str, str] = json.load(sys.stdin)
    declare()
    errors = {name: error_of(text) for name, text in blocks.items()}
    print(json.dumps(errors))


if __name__ == "__main__":
    main()
