"""The optimizers by name. A new one: a file here, its settings in `sheepfold_wire.rules`, a line below."""

from __future__ import annotations

from sheepfold_server.optim.rules.adagrad import AdaGradRule
from sheepfold_server.optim.rules.adam import AdamRule
from sheepfold_server.optim.rules.lamb import LambRule
from sheepfold_server.optim.rules.lars import LarsRule
from sheepfold_server.optim.rules.rule import Rule
from sheepfold_server.optim.rules.sgd import SgdRule
from sheepfold_wire.rules import Settings

RULES: dict[str, type[Rule]] = {
    "lamb": LambRule,
    "lars": LarsRule,
    "adamw": AdamRule,
    "adam": AdamRule,
    "adagrad": AdaGradRule,
    "sgd": SgdRule,
}


def rule_of(settings: Settings) -> Rule:
    """The rule that these settings ask for."""
    return RULES[settings.rule](settings)
