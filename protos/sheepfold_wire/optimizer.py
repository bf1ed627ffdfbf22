"""The [optimizer] table of a job file: learning rate, clipping, the rule's settings, groups by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Discriminator, Field, Tag, ValidationError, model_validator

from sheepfold_wire import rules
from sheepfold_wire.errors import BadConfig
from sheepfold_wire.manifest import Manifest, ManifestError, TensorSpec
from sheepfold_wire.rules import Layerwise, NotNegative, Patterns, Settings
from sheepfold_wire.validation import Count, Positive, Section, sentences

TABLE_STEPS_MAX = 200_000
DEFAULT_RULE = "lamb"


class LearningRate(Section):
    """Of step t: a linear warm-up, then `schedule` until `stop.steps`; see `core.schedule.learning_rate`."""

    peak: NotNegative
    schedule: Literal["constant", "poly", "cosine", "piecewise", "table"] = "constant"
    power: Annotated[float, Field(gt=0, strict=False)] = 1.0
    final: NotNegative = 0.0
    boundaries: Annotated[tuple[Positive, ...], Field(strict=False)] = ()
    """`piecewise`: from step boundaries[i] on the rate is peak * factors[i]."""
    factors: Annotated[tuple[NotNegative, ...], Field(strict=False)] = ()
    values: Annotated[tuple[NotNegative, ...], Field(strict=False, max_length=TABLE_STEPS_MAX)] = ()
    """`table`: the rate of each step, the last one for all later ones; see `sheepfold.tabulated`."""
    warmup_steps: Count = 0
    warmup_from: Annotated[int, Field(le=0, ge=-(2**31))] = -1
    """Step at which the ramp would be 0: peak * (t - warmup_from) / warmup_steps while below the peak."""
    warmup_epochs: NotNegative | None = None
    """Linear-epoch warm-up: passes over the data at `base_batch`; grows with the batch. Excludes steps."""
    base_batch: Positive | None = None
    """The batch that `peak` is meant for: at batch B it becomes peak * sqrt(B / base_batch)."""
    decay_from: Literal["warmup", "start"] = "warmup"
    """Where the decay's progress is 0: at the end of the warm-up, or at step 0 (ALBERT, MLPerf)."""

    @model_validator(mode="after")
    def _check(self) -> LearningRate:
        if self.schedule != "piecewise" and (self.boundaries or self.factors):
            raise ValueError(
                f'optimizer.lr.boundaries and factors need schedule = "piecewise", not "{self.schedule}"'
            )
        if self.schedule == "piecewise" and not 0 < len(self.boundaries) == len(self.factors):
            raise ValueError(
                f"optimizer.lr has {len(self.boundaries)} boundaries and {len(self.factors)} factors: give "
                "one factor for each boundary, at least one"
            )
        if (self.schedule == "table") != bool(self.values):
            raise ValueError(
                f'optimizer.lr.schedule = "{self.schedule}" with {len(self.values)} values: "table" needs '
                "them, the other schedules have none"
            )
        if self.values and (self.warmup_steps or self.warmup_epochs or self.base_batch):
            raise ValueError(
                "optimizer.lr.values are the rates as they are: leave warm-up and base_batch out"
            )
        if list(self.boundaries) != sorted(set(self.boundaries)):
            raise ValueError(f"optimizer.lr.boundaries = {list(self.boundaries)}: give ascending steps")
        if self.warmup_epochs is not None and self.warmup_steps:
            raise ValueError(
                f"optimizer.lr.warmup_steps = {self.warmup_steps} and warmup_epochs = {self.warmup_epochs:g} "
                "exclude each other; leave one out"
            )
        if self.warmup_epochs is not None and self.base_batch is None:
            raise ValueError("optimizer.lr.warmup_epochs are passes at a batch: give optimizer.lr.base_batch")
        return self


class Group(Section):
    """Parameters chosen by name: what is given here replaces the job's value for them.

    Besides the keys below, any setting of the group's rule may be given.
    """

    model_config = ConfigDict(extra="allow")

    match: Annotated[Patterns, Field(min_length=1)]
    rule: Literal["lamb", "lars", "adamw", "adam", "adagrad", "sgd"] | None = None
    adapt: bool | None = None
    lr_scale: NotNegative = 1.0


Parts = Positive | Annotated[tuple[Positive, ...], Field(strict=False, min_length=1)]


ClipNorm = Annotated[
    Annotated[float, Field(gt=0, le=3e38, strict=False)] | None,
    Field(json_schema_extra=lambda schema: schema["anyOf"].append({"const": "off"})),
]


class OptimizerKeys(Section):
    """What the job decides once for all rules, and the groups."""

    lr: LearningRate
    clip_norm: ClipNorm = None
    clip_place: Literal["sum", "slot"] = "sum"
    """Clip the mean of all slots, or each slot by its own norm before the sum: another algorithm."""
    clip_form: Literal["apex", "torch", "deepspeed"] = "apex"
    """1 / max(1, norm / c), min(1, c / (norm + 1e-6)), or 1 / max(1, (norm + 1e-6) / c)."""
    skipped_step: Literal["hold", "count"] = "hold"
    """Whether a skipped step advances the bias counters."""
    groups: Annotated[tuple[Group, ...], Field(strict=False)] = ()
    slices: dict[str, Parts] = Field(default_factory=dict)
    """Parameters whose parts have a trust ratio each, by pattern: a number of equal parts of the leading
    axis, or their sizes; for stacked layers and fused projections."""

    @model_validator(mode="before")
    @classmethod
    def _resolve(cls, values: Any) -> Any:
        """The preset's values where none is given, and `clip_norm = "off"`."""
        if not isinstance(values, dict):
            return values
        preset = values.get("preset")
        resolved = {**rules.PRESETS.get(preset, {}), **values} if isinstance(preset, str) else dict(values)
        if resolved.get("clip_norm") == "off":
            resolved["clip_norm"] = None
        return resolved

    @model_validator(mode="after")
    def _check_groups(self) -> OptimizerKeys:
        for number, group in enumerate(self.groups):
            group_settings(self, group, number)
        return self


class LambOptimizer(rules.Lamb, OptimizerKeys):
    """[optimizer] with rule = "lamb", the default."""


class LarsOptimizer(rules.Lars, OptimizerKeys):
    """[optimizer] with rule = "lars"."""


class AdamWOptimizer(rules.AdamW, OptimizerKeys):
    """[optimizer] with rule = "adamw"."""


class AdamOptimizer(rules.Adam, OptimizerKeys):
    """[optimizer] with rule = "adam"."""


class AdaGradOptimizer(rules.AdaGrad, OptimizerKeys):
    """[optimizer] with rule = "adagrad"."""


class SgdOptimizer(rules.Sgd, OptimizerKeys):
    """[optimizer] with rule = "sgd"."""


def _rule_of(values: Any) -> str | None:
    is_table = isinstance(values, dict)
    rule = values.get("rule", DEFAULT_RULE) if is_table else getattr(values, "rule", DEFAULT_RULE)
    return rule if isinstance(rule, str) else None


Optimizer = Annotated[
    Annotated[LambOptimizer, Tag("lamb")]
    | Annotated[LarsOptimizer, Tag("lars")]
    | Annotated[AdamWOptimizer, Tag("adamw")]
    | Annotated[AdamOptimizer, Tag("adam")]
    | Annotated[AdaGradOptimizer, Tag("adagrad")]
    | Annotated[SgdOptimizer, Tag("sgd")],
    Discriminator(
        _rule_of,
        custom_error_type="rule",
        custom_error_message=f"give one of {', '.join(rules.RULES)}",
    ),
]


def rule_settings(optimizer: OptimizerKeys) -> Settings:
    """The settings of the job's own rule, as the class of that rule alone."""
    assert isinstance(optimizer, Settings)
    rule = rules.RULES[optimizer.rule]
    return rule.model_validate({name: getattr(optimizer, name) for name in rule.model_fields})


def group_settings(optimizer: OptimizerKeys, group: Group, number: int) -> Settings:
    """A group's settings: those of the job where the rule is the same, that rule's defaults otherwise.

    Raises ValueError naming the group, the key and what is allowed.
    """
    base = rule_settings(optimizer)
    given = dict(group.model_extra or {})
    if group.rule is not None and group.rule != base.rule:
        values = given
        rule = rules.RULES[group.rule]
    else:
        values, rule = {**base.model_dump(), **given}, type(base)
    if "weight_decay" in given:
        values["no_decay"] = ()
    if group.adapt and not rule.is_layerwise:
        raise ValueError(f'optimizer.groups[{number}].adapt = true: "{rule_name(rule)}" has no trust ratio')
    if group.adapt is not None and rule.is_layerwise:
        values.update(adapt="all" if group.adapt else "none", no_adapt=())
    try:
        return rule.model_validate(values)
    except ValidationError as error:
        raise ValueError(sentences(error, rule, f"optimizer.groups[{number}].")) from None


def rule_name(rule: type[Settings]) -> str:
    return str(rule.model_fields["rule"].default)


@dataclass(frozen=True, slots=True)
class TensorSettings:
    """What one parameter is updated with: its rule's settings, and what its name decides."""

    settings: Settings
    weight_decay: float
    adapts: bool
    """Whether its slices have a trust ratio; without one it is 1."""
    lr_scale: float


def tensor_settings(optimizer: OptimizerKeys, names: Sequence[str]) -> list[TensorSettings]:
    """Settings of each named parameter, in order.

    Raises BadConfig for a group's pattern that matches no name, and for a name that two groups match.
    """
    groups = _groups_of(optimizer, names)
    found = [rule_settings(optimizer)]
    found += [group_settings(optimizer, group, number) for number, group in enumerate(optimizer.groups)]
    scales = [1.0, *(group.lr_scale for group in optimizer.groups)]
    result = []
    for name in names:
        place = 0 if (group := groups.get(name)) is None else group + 1
        result.append(_of_name(found[place], name, scales[place]))
    return result


def with_slices(manifest: Manifest, slices: Mapping[str, Parts]) -> Manifest:
    """The manifest with its parameters' slices as the job file declares them.

    Raises BadConfig for a pattern that matches nothing, two that match one parameter, one that its model
    declares otherwise, and for parts that do not cover the leading axis.
    """
    specs = list(manifest.tensors)
    chosen: dict[str, str] = {}
    for pattern, parts in slices.items():
        places = [i for i in manifest.parameters if fnmatchcase(specs[i].name, pattern)]
        if not places:
            raise BadConfig(f"optimizer.slices: {pattern!r} matches no parameter; correct or remove it")
        for place in places:
            spec = specs[place]
            sizes = _sizes(spec, parts)
            if chosen.setdefault(spec.name, pattern) != pattern:
                raise BadConfig(
                    f"optimizer.slices: {spec.name} matches {chosen[spec.name]!r} and {pattern!r}; keep one"
                )
            if spec.slices not in ((), sizes):
                raise BadConfig(
                    f"optimizer.slices: {spec.name} comes with slices {spec.slices}, {pattern!r} says {sizes}"
                )
            specs[place] = replace(spec, slices=sizes)
    try:
        return Manifest(tuple(specs))
    except ManifestError as error:
        raise BadConfig(f"optimizer.slices: {error}") from None


def _sizes(spec: TensorSpec, parts: Parts) -> tuple[int, ...]:
    if not isinstance(parts, int):
        return parts
    leading = spec.shape[0] if spec.shape else 0
    if not leading or leading % parts:
        raise BadConfig(
            f"optimizer.slices: {spec.name} has shape {list(spec.shape)}: its leading axis of {leading} "
            f"cannot be cut into {parts} equal parts; give their sizes"
        )
    return (leading // parts,) * parts


def _groups_of(optimizer: OptimizerKeys, names: Sequence[str]) -> dict[str, int]:
    groups: dict[str, int] = {}
    for number, group in enumerate(optimizer.groups):
        for pattern in group.match:
            matched = [name for name in names if fnmatchcase(name, pattern)]
            if not matched:
                raise BadConfig(
                    f"optimizer.groups[{number}].match: {pattern!r} matches none of the {len(names)} "
                    f"parameters ({', '.join(names[:5])}, ...); correct or remove it"
                )
            for name in matched:
                if groups.setdefault(name, number) != number:
                    raise BadConfig(
                        f"parameter {name} matches optimizer.groups[{groups[name]}] and, with {pattern!r}, "
                        f"optimizer.groups[{number}]; make the patterns exclude each other"
                    )
    return groups


def _of_name(settings: Settings, name: str, lr_scale: float) -> TensorSettings:
    decay = 0.0 if _matches(name, settings.no_decay) else settings.weight_decay
    if not isinstance(settings, Layerwise):
        return TensorSettings(settings, decay, False, lr_scale)
    wanted = {"all": True, "none": False, "decayed": decay > 0}[settings.adapt]
    return TensorSettings(settings, decay, wanted and not _matches(name, settings.no_adapt), lr_scale)


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)
