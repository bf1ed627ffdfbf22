"""The optimizers that the study compares: their settings, and where each one's learning rate comes from."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tests.study.runs import canonical

WARMUP_SHARE, WARMUP_BATCH = 0.2, 8_192
"""A fifth of the run is warm-up at this batch, and as many steps at every other: linear-epoch warm-up."""

BIASES = {
    "lenet": ["*.bias"],
    "bert": ["*.bias", "*LayerNorm.weight"],
}
"""Neither decayed nor adapted, as in BERT's code and all presets that came of it."""


@dataclass(frozen=True, slots=True)
class Peak:
    """A learning rate meant for a batch; at another one the server scales it by the square root."""

    lr: float
    base_batch: int


UNTUNED = {"lenet": Peak(0.02, 1_024), "bert": Peak(0.01, 128)}
"""LAMB's: the rate of `sheepfold demo`, and of client/examples/bert_mlm.toml, set before this study."""


@dataclass(frozen=True, slots=True)
class Contender:
    """A rule with everything but its learning rate. Without a grid its rate is UNTUNED's."""

    name: str
    rule: Mapping[str, Any]
    grid: tuple[float, ...] = ()
    """Peaks tried, ascending, each twice the one before."""

    def optimizer(self, task: str) -> str:
        """[optimizer] without lr, as canonical JSON; biases are left alone by every contender."""
        excluded: dict[str, Any] = {"match": BIASES[task], "weight_decay": 0.0}
        if self.rule["rule"] in ("lamb", "lars"):
            excluded["adapt"] = False
        clipped = {"clip_norm": 1.0} if task == "bert" else {}
        return canonical({**clipped, "groups": [excluded], **self.rule})


def doubling(first: float, count: int) -> tuple[float, ...]:
    return tuple(first * 2**i for i in range(count))


LAMB = Contender("LAMB, untuned", {"rule": "lamb"})
ADAMW = Contender("AdamW, tuned at the small batch", {"rule": "adamw"}, doubling(5e-4, 4))
ADAMW_TUNED = Contender("AdamW, tuned at that batch", {"rule": "adamw"}, doubling(1e-3, 6))
TUNED = (
    ADAMW_TUNED,
    Contender("LAMB, tuned", {"rule": "lamb"}, doubling(2.5e-3, 7)),
    Contender("LARS, tuned", {"rule": "lars"}, doubling(1.0, 7)),
    Contender("momentum, tuned", {"rule": "sgd", "momentum": 0.9}, doubling(6.25e-3, 7)),
    Contender("AdaGrad, tuned", {"rule": "adagrad"}, doubling(2.5e-3, 7)),
)


def schedule(peak: Peak, samples: int, factor: float = 1.0) -> str:
    """[optimizer.lr] of a run over so many samples: warm-up, then linearly to 0; canonical JSON.

    `factor` multiplies the peak. The server scales it by sqrt(batch / base_batch).
    """
    return canonical(
        {
            "peak": peak.lr * factor,
            "base_batch": peak.base_batch,
            "warmup_steps": math.ceil(WARMUP_SHARE * samples / WARMUP_BATCH),
            "schedule": "poly",
        }
    )
