"""A masked language model weighed by tokens: slots of unequal counts equal one big batch, in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tests.integration.harness import running_fold

import sheepfold
from sheepfold_wire.job import parse_job

VOCABULARY, LENGTH, SAMPLES, PEAK = 23, 12, 32, 0.5
IGNORED = -100


class TinyMaskedLM(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = torch.nn.Embedding(VOCABULARY, 8)
        self.mix = torch.nn.Linear(8, 8)
        self.head = torch.nn.Linear(8, VOCABULARY)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        hidden = self.embedding(tokens)
        return self.head(torch.tanh(self.mix(hidden + hidden.mean(1, keepdim=True))))  # type: ignore[no-any-return]


def batch(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens and targets; from none to all tokens of a sample are masked."""
    draw = torch.Generator().manual_seed(seed)
    tokens = torch.randint(0, VOCABULARY, (SAMPLES, LENGTH), generator=draw)
    share = torch.rand(SAMPLES, 1, generator=draw) ** 2
    masked = torch.rand(SAMPLES, LENGTH, generator=draw) < share
    masked[5:9] = False  # two whole micro-batches without a single masked token
    return tokens, torch.where(masked, tokens, IGNORED)


def loss_of(model: torch.nn.Module, tokens: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    logits = model(tokens)
    return F.cross_entropy(logits.reshape(-1, VOCABULARY), targets.reshape(-1), ignore_index=IGNORED)


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("slot_samples", [4, 16])
def test_slots_weighed_by_tokens_are_one_big_batch(seed: int, slot_samples: int) -> None:
    tokens, targets = batch(seed)
    torch.manual_seed(seed)
    model = TinyMaskedLM()
    exact = TinyMaskedLM().double()
    exact.load_state_dict(model.state_dict())
    loss_of(exact, tokens, targets).backward()  # type: ignore[no-untyped-call]
    due = {n: (p - PEAK * p.grad).detach() for n, p in exact.named_parameters() if p.grad is not None}

    job = parse_job(
        {
            "name": "mlm",
            "batch": {"samples": SAMPLES, "slot_samples": slot_samples, "weight": "tokens"},
            "data": {"samples": SAMPLES},
            "optimizer": {"rule": "sgd", "momentum": 0.0, "weight_decay": 0.0, "lr": {"peak": PEAK}},
            "wire": {"up": "fp32"},
            "stop": {"steps": 1},
        }
    )
    with running_fold(2) as fold, sheepfold.attach(model, address=fold.address, config=job) as run:
        for slot in run.slots():
            for indices in np.split(slot.indices, slot_samples // 2):
                chosen = torch.from_numpy(indices.copy())
                count = (targets[chosen] != IGNORED).sum()
                slot.backward(loss_of(model, tokens[chosen], targets[chosen]), weight=count)
            run.step()
    found: dict[str, Any] = dict(model.named_parameters())
    for name, value in due.items():
        worst = (found[name].double() - value).abs().max().item()
        assert worst < 2e-7 * max(1.0, value.abs().max().item()), f"{name}: {worst}"


def test_the_same_weighed_by_samples_is_not() -> None:
    """The mean of the slots' means is another gradient: this test would notice if weights were ignored."""
    tokens, targets = batch(1)
    torch.manual_seed(1)
    model = TinyMaskedLM()
    loss_of(model, tokens, targets).backward()  # type: ignore[no-untyped-call]
    assert model.head.bias.grad is not None
    whole = model.head.bias.grad.clone()
    model.zero_grad()
    pieces = [p for p in torch.arange(SAMPLES).split(4) if (targets[p] != IGNORED).any()]
    for piece in pieces:
        (loss_of(model, tokens[piece], targets[piece]) / len(pieces)).backward()  # type: ignore[no-untyped-call]
    assert (model.head.bias.grad - whole).abs().max() > 1e-3
