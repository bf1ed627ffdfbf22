"""Gradient descent with momentum, as torch.optim.SGD has it.

d = g + decay w      b <- momentum b + (1 - dampening) d, the first time b <- d      w <- w - lr b
Nesterov: w <- w - lr (d + momentum b)
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from sheepfold_server.optim.rules.rule import Root, Rule
from sheepfold_wire.optimizer import TensorSettings
from sheepfold_wire.rules import Settings, Sgd


class SgdRule(Rule):
    """One buffer: the momentum. Without momentum it holds the last gradient."""

    name = "sgd"
    state = ("momentum",)
    columns = ("decay", "momentum", "gain")

    @staticmethod
    def formula(settings: Settings) -> tuple[str, ...]:
        assert isinstance(settings, Sgd)
        return ("nesterov" if settings.nesterov else "plain",)

    def scalars(self, tensor: TensorSettings, applied: int, learning_rate: float) -> Sequence[float]:
        s = tensor.settings
        assert isinstance(s, Sgd)
        return tensor.weight_decay, s.momentum, 1.0 if applied == 1 else 1.0 - s.dampening

    def direct(
        self,
        weights: Tensor,
        gradient: Tensor,
        state: Sequence[Tensor],
        columns: Sequence[Tensor],
        root: Root,
    ) -> None:
        decay, momentum, gain = columns
        gradient.add_(weights * decay)
        state[0].mul_(momentum).add_(gradient * gain)
        if "nesterov" in self.kind:
            gradient.add_(state[0] * momentum)
        else:
            gradient.copy_(state[0])
