"""AdaGrad: Duchi, Hazan and Singer 2011, as torch.optim.Adagrad has it.

g has + decay w      s <- s + g^2      u = g / (sqrt(s) + eps)      w <- w - lr / (1 + (n - 1) lr_decay) u
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from sheepfold_server.optim.rules.adam import denominator
from sheepfold_server.optim.rules.rule import Root, Rule
from sheepfold_wire.optimizer import TensorSettings
from sheepfold_wire.rules import AdaGrad, Settings


class AdaGradRule(Rule):
    """One buffer: the sum of squared gradients, which begins at `initial_accumulator`."""

    name = "adagrad"
    state = ("sum_of_squares",)
    columns = ("decay", "eps")

    @staticmethod
    def formula(settings: Settings) -> tuple[str, ...]:
        assert isinstance(settings, AdaGrad)
        return (settings.eps_place,)

    def scalars(self, tensor: TensorSettings, applied: int, learning_rate: float) -> Sequence[float]:
        s = tensor.settings
        assert isinstance(s, AdaGrad)
        return tensor.weight_decay, s.eps

    def direct(
        self,
        weights: Tensor,
        gradient: Tensor,
        state: Sequence[Tensor],
        columns: Sequence[Tensor],
        root: Root,
    ) -> None:
        decay, eps = columns
        gradient.add_(weights * decay)
        state[0].add_(gradient * gradient)
        is_inside = "inside" in self.kind
        gradient.div_(denominator(state[0].clone(), eps, is_inside, root))

    def rate_factor(self, tensor: TensorSettings, applied: int) -> float:
        s = tensor.settings
        assert isinstance(s, AdaGrad)
        return 1.0 / (1.0 + (applied - 1) * s.lr_decay)

    def initial_state(self, tensor: TensorSettings) -> float:
        s = tensor.settings
        assert isinstance(s, AdaGrad)
        return s.initial_accumulator
