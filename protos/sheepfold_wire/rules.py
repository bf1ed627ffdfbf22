"""The settings of each optimizer: every choice that public implementations disagree on is a field here.

One class per rule, with its defaults and ranges; a preset is a table of values that differ from them.
What the fields do stands in server/OPTIMIZERS.md; the mathematics in `sheepfold_server.optim.rules`, one
file per rule. Nothing here computes on tensors, so that a client reads a job file without torch.
"""

from __future__ import annotations

import struct
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field, model_validator

from sheepfold_wire.validation import Section


def _is_positive_fp32(value: float) -> float:
    """An epsilon that fp32 rounds to 0 would make 0 / 0 of every gradient that is always zero."""
    if value > 3e38 or struct.unpack("<f", struct.pack("<f", value))[0] <= 0:
        raise ValueError("give a positive fp32 number, e.g. 1e-6")
    return value


Beta = Annotated[float, Field(ge=0, lt=1, strict=False)]
NotNegative = Annotated[float, Field(ge=0, le=3e38, strict=False)]
Epsilon = Annotated[float, Field(strict=False), AfterValidator(_is_positive_fp32)]
Bounds = Annotated[tuple[NotNegative, NotNegative], Field(strict=False)]
Patterns = Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(strict=False)]
EpsPlace = Literal["outside", "inside"]
NormOrder = Literal["1", "2", "inf"]


class Settings(Section):
    """What every rule has: decay, and lists of names that a preset leaves out of decay and adaptation."""

    rule: str
    weight_decay: NotNegative = 0.0
    no_decay: Patterns = ()
    """Parameters whose names match are not decayed; a pattern may match nothing, for presets bring some."""

    is_layerwise: ClassVar[bool] = False
    """Whether the rule multiplies each slice's update by a trust ratio."""
    needs_whole: ClassVar[bool] = False
    """Whether a tensor must lie on one shard as a whole."""

    @property
    def norm_order(self) -> NormOrder:
        """Order of the norms a trust ratio is made of."""
        return "2"


class Layerwise(Settings):
    """What the layer-wise rules have: how the trust ratio is formed, and of which slices."""

    adapt: Literal["all", "decayed", "none"] = "all"
    """Slices with a trust ratio: all, those with weight_decay > 0, or none; the others have ratio 1."""
    no_adapt: Patterns = ()
    phi: Bounds | None = None
    """phi(||w||) = min(max(||w||, low), high); left out: the norm itself."""
    ratio_bounds: Bounds | None = None
    """The quotient is kept in [low, high]; acts only where both norms are above 0."""
    zero_norm_ratio: NotNegative = 1.0
    """The ratio where phi(||w||) or ||u|| is 0."""

    is_layerwise: ClassVar[bool] = True

    @model_validator(mode="after")
    def _check_bounds(self) -> Layerwise:
        for name in ("phi", "ratio_bounds"):
            bounds = getattr(self, name)
            if bounds is not None and bounds[0] > bounds[1]:
                raise ValueError(
                    f"optimizer.{name} = [{bounds[0]:g}, {bounds[1]:g}]: low is above high; give [low, high]"
                )
        return self


class Lamb(Layerwise):
    """LAMB, N-LAMB and NN-LAMB: You et al. 2020 (arXiv:1904.00962), Algorithms 2 to 4."""

    rule: Literal["lamb"] = "lamb"
    preset: Literal["paper-v5", "albert", "nvlamb", "apex-default", "deepspeed", "tfa"] = "paper-v5"
    beta1: Beta = 0.9
    beta2: Beta = 0.999
    beta3: Literal["1-beta1", "1"] = "1-beta1"
    """Factor of the gradient in the first moment; "1" is apex's `grad_averaging=False`."""
    eps: Epsilon = 1e-6
    eps_place: EpsPlace = "outside"
    debias: Literal["moments", "step_size", "none"] = "moments"
    weight_decay: NotNegative = 0.01
    decay_form: Literal["in_update", "decoupled", "l2"] = "in_update"
    norm_ord: NormOrder = "2"
    nesterov: Literal["none", "constant", "scheduled"] = "none"
    nesterov_second: bool = False
    """NN-LAMB: the second moment looks ahead as well. Experimental, as is `nesterov = "scheduled"`."""
    nadam_beta2: bool = False
    """Dozat's extra factor beta2 on the debiased second moment."""

    @property
    def norm_order(self) -> NormOrder:
        return self.norm_ord

    @model_validator(mode="after")
    def _check_nesterov(self) -> Lamb:
        if self.nesterov == "none":
            for name in ("nesterov_second", "nadam_beta2"):
                if getattr(self, name):
                    raise ValueError(
                        f'optimizer.{name} = true needs nesterov = "constant" or "scheduled", not "none"'
                    )
        elif self.debias != "moments":
            raise ValueError(
                f'optimizer.nesterov = "{self.nesterov}" debiases the moments itself: give '
                f'debias = "moments", not "{self.debias}"'
            )
        if self.nesterov_second and self.nadam_beta2:
            raise ValueError("optimizer.nesterov_second and nadam_beta2 exclude each other: set one")
        return self


BERT_EXCLUDED = ("*LayerNorm*", "*layer_norm*", "*bias*")
APEX_UNDECAYED = ("*bias*", "*gamma*", "*beta*", "*LayerNorm*")

PRESETS: dict[str, dict[str, Any]] = {
    "paper-v5": {},
    "albert": {
        "debias": "none",
        "no_decay": BERT_EXCLUDED,
        "no_adapt": BERT_EXCLUDED,
        "clip_norm": 1.0,
    },
    "nvlamb": {"no_decay": APEX_UNDECAYED, "clip_norm": 1.0},
    "apex-default": {"no_decay": APEX_UNDECAYED, "adapt": "decayed", "clip_norm": 1.0},
    "deepspeed": {
        "debias": "step_size",
        "eps": 1e-8,
        "ratio_bounds": (0.01, 10.0),
        "weight_decay": 0.0,
        "clip_form": "deepspeed",
    },
    "tfa": {"weight_decay": 0.0},
}
"""What each preset sets differently from the defaults of `Lamb`; sources stand in server/OPTIMIZERS.md."""


class Lars(Layerwise):
    """LARS: You et al. 2017 (arXiv:1708.03888) in three forms; see server/OPTIMIZERS.md."""

    rule: Literal["lars"] = "lars"
    form: Literal["lr_outside", "lr_inside", "paper"] = "lr_outside"
    """Where the learning rate enters the momentum; `paper`: momentum normalised by its own norm."""
    momentum: Beta = 0.9
    trust_coefficient: Annotated[float, Field(gt=0, le=3e38, strict=False)] = 0.001
    denominator: Literal["sum_of_norms", "gradient_plus_decay"] = "sum_of_norms"
    """||g|| + weight_decay ||w|| (timm), or ||g + weight_decay w|| (optax)."""
    eps: NotNegative = 1e-8
    """Added to the denominator; the paper form has neither it, nor the coefficient, nor the denominator."""


class Adam(Settings):
    """Adam: Kingma and Ba 2015 (arXiv:1412.6980), decay added to the gradient."""

    rule: Literal["adam"] = "adam"
    beta1: Beta = 0.9
    beta2: Beta = 0.999
    eps: Epsilon = 1e-8
    eps_place: EpsPlace = "outside"


class AdamW(Adam):
    """AdamW: Loshchilov and Hutter 2019 (arXiv:1711.05101), decay decoupled from the gradient."""

    rule: Literal["adamw"] = "adamw"  # type: ignore[assignment]
    weight_decay: NotNegative = 0.01


class AdaGrad(Settings):
    """AdaGrad: Duchi et al. 2011; defaults of torch.optim.Adagrad."""

    rule: Literal["adagrad"] = "adagrad"
    eps: Epsilon = 1e-10
    eps_place: EpsPlace = "outside"
    lr_decay: NotNegative = 0.0
    """The n-th applied step uses lr / (1 + (n - 1) lr_decay)."""
    initial_accumulator: NotNegative = 0.0


class Sgd(Settings):
    """Gradient descent with (Nesterov) momentum, as torch.optim.SGD has it."""

    rule: Literal["sgd"] = "sgd"
    momentum: Beta = 0.9
    dampening: Beta = 0.0
    nesterov: bool = False

    @model_validator(mode="after")
    def _check_nesterov(self) -> Sgd:
        if self.nesterov and (self.momentum == 0 or self.dampening != 0):
            raise ValueError(
                f"optimizer.nesterov = true needs momentum above 0 and dampening = 0, not momentum = "
                f"{self.momentum:g} and dampening = {self.dampening:g}"
            )
        return self


RULES: dict[str, type[Settings]] = {
    "lamb": Lamb,
    "lars": Lars,
    "adamw": AdamW,
    "adam": Adam,
    "adagrad": AdaGrad,
    "sgd": Sgd,
}
