"""What the study trains: a model from a seed, the loss of a slot, and a number on held-out data."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sheepfold.demo.data import PACKAGED_DIR, load
from sheepfold.demo.lenet import lenet5
from sheepfold.slot import Slot

MICRO_BATCH = 256


class Task(Protocol):
    """One data set with one model. Same seed, same weights; same slot, same loss, whoever computes it."""

    name: str
    samples: int
    fingerprint: str
    weight: str
    """The unit of a contribution's weight: samples or tokens."""

    def model(self, seed: int) -> nn.Module: ...

    def backward(self, model: nn.Module, slot: Slot) -> None:
        """Add the gradient of the slot's samples."""

    def evaluate(self, model: nn.Module, length: int) -> float:
        """On held-out data, of so many tokens a sample where it is text."""


@dataclass(frozen=True, slots=True)
class Measure:
    """What a task's number is, for tables."""

    name: str
    is_better_above: bool
    scale: float
    """Factor for people: 100 makes a share a percentage."""
    unit: str
    tolerance: float
    """Beyond which it counts as worse, in the number's own unit. Agreed on before the study was run."""


MEASURES = {
    "lenet": Measure("test accuracy", True, 100.0, "%", 0.01),
    "bert": Measure("held-out masked-token loss", False, 1.0, "nats", 0.05),
}


class LeNet:
    """LeNet-5 on the 10,000 + 2,000 images of Fashion-MNIST that the demo brings, as they are."""

    name = "lenet"
    weight = "samples"

    def __init__(self) -> None:
        data = load(PACKAGED_DIR)
        self.samples, self.fingerprint = len(data.train), data.fingerprint
        self._images, self._labels = torch.from_numpy(data.train.images), torch.from_numpy(data.train.labels)
        self._test = torch.from_numpy(data.test.images), torch.from_numpy(data.test.labels)

    def model(self, seed: int) -> nn.Module:
        return lenet5(seed)

    def backward(self, model: nn.Module, slot: Slot) -> None:
        indices = torch.from_numpy(slot.indices)
        slot.backward(F.cross_entropy(model(self._images[indices]), self._labels[indices]))

    def evaluate(self, model: nn.Module, length: int) -> float:
        images, labels = self._test
        return _share_correct(model, images, labels)


@torch.inference_mode()
def _share_correct(model: nn.Module, images: Tensor, labels: Tensor, batch: int = 500) -> float:
    found = [model(part).argmax(1) for part in images.split(batch)]
    return int((torch.cat(found) == labels).sum()) / len(labels)


class BertMicro:
    """Masked-LM on the State of the Union: 2 layers, 64 wide, 2,048 pieces, windows of 32 or 128 tokens.

    All of it is the recipe's, client/examples/bert_mlm.py, without dropout.
    """

    name = "bert"
    weight = "tokens"
    lengths = (32, 128)
    tokens_evaluated = 65_536

    def __init__(self) -> None:
        self._recipe: Any = importlib.import_module("client.examples.bert_mlm")
        self._corpus = self._recipe.load_corpus(None, self.lengths, vocabulary=2_048)
        self.samples, self.fingerprint = self._corpus.samples, self._corpus.fingerprint

    def model(self, seed: int) -> nn.Module:
        made: nn.Module = self._recipe.build_model(
            (2, 64, 2), self._corpus.vocabulary, max(self.lengths), dropout=0.0, seed=seed
        )
        return made

    def backward(self, model: nn.Module, slot: Slot) -> None:
        """In parts of 256 windows, so that logits stay in the cache."""
        rows = self._corpus.rows(slot.indices, slot.sequence or self.lengths[0])
        inputs, labels = self._recipe.masked_batch(rows, self._corpus.vocabulary, slot.lease.seed)
        for x, y in zip(inputs.split(MICRO_BATCH), labels.split(MICRO_BATCH), strict=True):
            weight = int((y != self._recipe.IGNORED).sum())
            slot.backward(self._recipe.masked_loss(model, x, y), weight=weight)

    @torch.inference_mode()
    def evaluate(self, model: nn.Module, length: int) -> float:
        corpus, recipe = self._corpus, self._recipe
        last = (len(corpus.held_out) - max(self.lengths)) // corpus.stride
        chosen = np.linspace(0, last, self.tokens_evaluated // length).astype(np.int64)
        rows = corpus.rows(chosen, length, held_out=True)
        inputs, labels = recipe.masked_batch(rows, corpus.vocabulary, seed=0)
        total, count = 0.0, 0
        model.eval()
        for x, y in zip(inputs.split(MICRO_BATCH), labels.split(MICRO_BATCH), strict=True):
            asked = int((y != recipe.IGNORED).sum())
            total, count = total + float(recipe.masked_loss(model, x, y)) * asked, count + asked
        return total / count


_MAKERS: dict[str, Callable[[], Task]] = {"lenet": LeNet, "bert": BertMicro}


@cache
def task(name: str) -> Task:
    """The task of that name, its data read once."""
    return _MAKERS[name]()
