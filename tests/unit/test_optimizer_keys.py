"""sheepfold_wire.optimizer and rules: presets, groups and slices of the job file, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
from tests.oracle.settings import optimizer_of
from tests.unit.desk import Desk, job_of
from tests.unit.test_job import with_value

import sheepfold_wire.messages as m
from sheepfold_wire import rules
from sheepfold_wire.errors import BadConfig
from sheepfold_wire.job import parse_job
from sheepfold_wire.manifest import Manifest, TensorSpec
from sheepfold_wire.optimizer import tensor_settings, with_slices

NAMES = ["encoder.0.weight", "encoder.0.bias", "encoder.0.LayerNorm.weight", "head.weight"]


def refusal(key: str, value: Any) -> str:
    with pytest.raises(BadConfig) as caught:
        parse_job(with_value(key, value))
    return str(caught.value)


def test_every_preset_is_its_row_of_the_reference_table() -> None:
    """Sources of the rows stand in server/OPTIMIZERS.md."""
    shown = ("debias", "eps", "ratio_bounds", "adapt", "weight_decay", "clip_norm", "clip_form")
    rows = {
        "paper-v5": ("moments", 1e-6, None, "all", 0.01, None, "apex"),
        "albert": ("none", 1e-6, None, "all", 0.01, 1.0, "apex"),
        "nvlamb": ("moments", 1e-6, None, "all", 0.01, 1.0, "apex"),
        "apex-default": ("moments", 1e-6, None, "decayed", 0.01, 1.0, "apex"),
        "deepspeed": ("step_size", 1e-8, (0.01, 10.0), "all", 0.0, None, "deepspeed"),
        "tfa": ("moments", 1e-6, None, "all", 0.0, None, "apex"),
    }
    assert rows.keys() == rules.PRESETS.keys()
    for preset, row in rows.items():
        optimizer = optimizer_of(preset=preset)
        assert tuple(getattr(optimizer, key) for key in shown) == row, preset


def test_a_value_given_wins_over_the_presets() -> None:
    optimizer = optimizer_of(preset="nvlamb", clip_norm="off", eps=1e-5)
    assert (optimizer.clip_norm, optimizer.eps) == (None, 1e-5)  # type: ignore[attr-defined]


def test_alberts_lists_take_biases_and_norms_out_of_decay_and_adaptation() -> None:
    found = tensor_settings(optimizer_of(preset="albert"), NAMES)
    assert [s.weight_decay for s in found] == [0.01, 0.0, 0.0, 0.01]
    assert [s.adapts for s in found] == [True, False, False, True]


def test_apex_adapts_what_is_decayed() -> None:
    found = tensor_settings(optimizer_of(preset="apex-default"), NAMES)
    assert [s.adapts for s in found] == [True, False, False, True]
    assert all(s.adapts for s in tensor_settings(optimizer_of(preset="nvlamb"), NAMES))


def test_a_group_replaces_what_it_names_and_keeps_the_rest() -> None:
    group = {"match": ["*.bias"], "weight_decay": 0.5, "adapt": False, "lr_scale": 3.0}
    found = tensor_settings(optimizer_of(beta1=0.8, groups=[group]), NAMES)[1]
    assert (found.weight_decay, found.adapts, found.lr_scale) == (0.5, False, 3.0)
    assert isinstance(found.settings, rules.Lamb)
    assert found.settings.beta1 == 0.8


def test_a_group_of_another_rule_begins_with_that_rules_defaults() -> None:
    group = {"match": ["*.bias"], "rule": "sgd", "momentum": 0.5}
    found = tensor_settings(optimizer_of(groups=[group]), NAMES)
    assert found[1].settings == rules.Sgd(momentum=0.5)
    assert isinstance(found[0].settings, rules.Lamb)


def test_a_group_wins_over_a_presets_lists() -> None:
    group = {"match": ["*.bias"], "weight_decay": 0.3, "adapt": True}
    found = tensor_settings(optimizer_of(preset="albert", groups=[group]), NAMES)[1]
    assert (found.weight_decay, found.adapts) == (0.3, True)


def test_a_pattern_that_matches_nothing_is_refused_by_name() -> None:
    optimizer = optimizer_of(groups=[{"match": ["*.bais"], "adapt": False}])
    with pytest.raises(BadConfig, match=r"groups\[0\]\.match: '\*\.bais' matches none of the 4 parameters"):
        tensor_settings(optimizer, NAMES)


def test_groups_that_overlap_are_refused_with_the_tensor_and_both_groups() -> None:
    optimizer = optimizer_of(groups=[{"match": ["*.bias"]}, {"match": ["encoder.*"]}])
    with pytest.raises(BadConfig, match=r"encoder\.0\.bias matches .*groups\[0\].*groups\[1\]"):
        tensor_settings(optimizer, NAMES)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("optimizer.preset", "papr", ["optimizer.preset = 'papr'", "'paper-v5', 'albert'"]),
        ("optimizer.rule", "adamax", ["optimizer.rule = 'adamax'", "lamb, lars, adamw"]),
        ("optimizer.bata1", 0.9, ["optimizer.bata1: unknown key", "beta1, beta2"]),
        ("optimizer.beta1", 1.0, ["optimizer.beta1 = 1.0", "less than 1"]),
        ("optimizer.beta2", -0.1, ["optimizer.beta2 = -0.1", "greater than or equal to 0"]),
        ("optimizer.eps", -1e-6, ["optimizer.eps = -1e-06", "positive fp32 number"]),
        ("optimizer.eps", 1e-60, ["optimizer.eps = 1e-60", "positive fp32 number"]),
        ("optimizer.weight_decay", -1.0, ["optimizer.weight_decay = -1.0"]),
        ("optimizer.lr.peak", -1.0, ["optimizer.lr.peak = -1.0"]),
        ("optimizer.phi", [2.0, 1.0], ["optimizer.phi = [2, 1]", "low is above high"]),
        ("optimizer.ratio_bounds", [0.5, 0.1], ["optimizer.ratio_bounds", "low is above high"]),
        ("optimizer.clip_form", "apx", ["optimizer.clip_form = 'apx'", "'apex', 'torch' or 'deepspeed'"]),
        ("optimizer.nadam_beta2", True, ["nadam_beta2 = true needs nesterov"]),
        ("optimizer.nesterov_second", True, ["nesterov_second = true needs nesterov"]),
        ("optimizer.groups", [{"match": []}], ["optimizer.groups[0].match = []", "at least 1"]),
        ("optimizer.groups", [{"match": ["a"], "bata1": 1}], ["optimizer.groups[0].bata1: unknown key"]),
        (
            "optimizer.groups",
            [{"match": ["a"], "rule": "sgd", "momentum": 2.0}],
            ["groups[0].momentum = 2.0"],
        ),
        ("optimizer.groups", [{"match": ["a"], "rule": "adam", "adapt": True}], ["has no trust ratio"]),
        ("optimizer.slices", {"a": 0}, ["optimizer.slices"]),
        ("optimizer.lr.schedule", "cosin", ["optimizer.lr.schedule = 'cosin'", "'cosine'"]),
        ("optimizer.lr.boundaries", [3], ['need schedule = "piecewise"']),
        ("optimizer.lr.warmup_epochs", 0.5, ["give optimizer.lr.base_batch"]),
        ("numerics.kernel", "fast", ["numerics.kernel = 'fast'", "'auto', 'eager' or 'compiled'"]),
    ],
)
def test_a_refusal_names_field_value_and_what_is_allowed(key: str, value: Any, said: list[str]) -> None:
    told = refusal(key, value)
    for words in said:
        assert words in told


def test_nesterov_with_another_debias_is_refused() -> None:
    values = with_value("optimizer.nesterov", "constant")
    values["optimizer"]["debias"] = "none"
    with pytest.raises(BadConfig, match='give debias = "moments"'):
        parse_job(values)


def test_a_preset_of_lamb_is_refused_for_another_rule() -> None:
    values = with_value("optimizer.rule", "adamw")
    values["optimizer"]["preset"] = "albert"
    with pytest.raises(BadConfig, match=r"optimizer\.preset: unknown key"):
        parse_job(values)


# --- slices ------------------------------------------------------------------------------------------

FUSED = Manifest(
    (TensorSpec("qkv.weight", (6, 4), "float32", "parameter"), TensorSpec("b", (6,), "float32", "parameter"))
)


@pytest.mark.parametrize(("parts", "sizes"), [(3, (2, 2, 2)), ((1, 5), (1, 5))])
def test_parts_are_cut_along_the_leading_axis(parts: Any, sizes: tuple[int, ...]) -> None:
    assert with_slices(FUSED, {"qkv.*": parts}).tensors[0].slices == sizes
    assert with_slices(FUSED, {"qkv.*": parts}).tensors[1].slices == ()


@pytest.mark.parametrize(
    ("slices", "said"),
    [
        ({"*.qkv": 3}, "'\\*.qkv' matches no parameter"),
        ({"qkv.*": 4}, r"leading axis of 6 cannot be cut into 4 equal parts"),
        ({"qkv.*": (1, 4)}, r"add up to 5, but the leading axis has 6"),
        ({"qkv.*": 3, "*": 2}, r"qkv\.weight matches 'qkv\.\*' and '\*'"),
    ],
)
def test_slices_that_overlap_or_do_not_cover_are_refused(slices: dict[str, Any], said: str) -> None:
    with pytest.raises(BadConfig, match=said):
        with_slices(FUSED, slices)


def test_a_job_declares_the_slices_and_every_worker_gets_them() -> None:
    desk = Desk(job_of(optimizer={"lr": {"peak": 0.1}, "slices": {"qkv.*": 3}}))
    for shard in desk.shards:
        desk.connect(shard)
    reply = desk.attach("a", FUSED)
    assert Manifest.from_json(reply.manifest_json).tensors[0].slices == (2, 2, 2)
    assert desk.attach("b", FUSED).manifest_json == reply.manifest_json


def test_groups_that_do_not_fit_the_model_are_refused_when_the_job_is_created() -> None:
    desk = Desk(job_of(optimizer={"lr": {"peak": 0.1}, "groups": [{"match": ["*.bais"], "adapt": False}]}))
    for shard in desk.shards:
        desk.connect(shard)
    with pytest.raises(BadConfig, match="bais"):
        desk.attach("a", FUSED)
    assert not desk.sent(m.OpenJob)
