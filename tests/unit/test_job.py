"""sheepfold_wire.job: what a user may write, and what is said about the rest."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sheepfold_wire.errors import BadConfig
from sheepfold_wire.job import LIVE_KEYS, Job, first_difference, job_from_json, job_from_toml, parse_job

MINIMAL: dict[str, Any] = {
    "name": "bert-large",
    "batch": {"samples": 65_536, "slot_samples": 512},
    "data": {"samples": 1_000_000, "seed": 7},
    "optimizer": {"lr": {"peak": 6e-3}},
    "stop": {"steps": 100},
}

TOML = """
name = "bert-large"
[batch]
samples = 65_536
slot_samples = 512
[[batch.stage]]
steps = 90
[[batch.stage]]
steps = 10
samples = 32_768
[data]
samples = 1_000_000
seed = 7
[optimizer]
lr = { peak = 6e-3, schedule = "poly", warmup_steps = 10 }
clip_norm = 1
[stop]
steps = 100
"""


def with_value(path: str, value: Any) -> dict[str, Any]:
    """MINIMAL with one dotted key set."""
    values = json.loads(json.dumps(MINIMAL))
    *sections, last = path.split(".")
    section = values
    for name in sections:
        section = section.setdefault(name, {})
    section[last] = value
    return dict(values)


def test_a_small_file_is_enough_and_every_default_is_resolved() -> None:
    job = parse_job(MINIMAL)
    assert (job.wire.up, job.batch.weight, job.optimizer.beta2) == ("bf16", "samples", 0.999)
    assert job.batch.open_steps == 1


def test_text_and_value_go_round_and_equal_jobs_have_equal_text(tmp_path: Path) -> None:
    (tmp_path / "job.toml").write_text(TOML)
    job = job_from_toml(tmp_path / "job.toml")
    assert job_from_json(job.to_json()) == job
    assert job_from_json(job.to_json()).to_json() == job.to_json()
    assert [stage.samples for stage in job.batch.stage] == [None, 32_768]
    assert job.optimizer.clip_norm == 1.0


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("bacth", {}, ["bacth: unknown key", "known here: name, batch"]),
        ("batch.slot_sample", 1, ["batch.slot_sample: unknown key", "slot_samples"]),
        ("optimizer.lr.pek", 1, ["optimizer.lr.pek: unknown key", "known here: peak, schedule"]),
        (
            "batch.slot_samples",
            500,
            ["samples = 65536", "slot_samples = 500", "nearest that divides it is 512"],
        ),
        ("batch.slot_samples", 0, ["batch.slot_samples = 0", "greater than 0"]),
        ("batch.samples", "65536", ["batch.samples = '65536'", "valid integer"]),
        ("batch.samples", 65_536.0, ["batch.samples = 65536.0", "valid integer"]),
        ("batch.weight", "loss", ["batch.weight = 'loss'", "'samples' or 'tokens'"]),
        ("batch.delay", 9, ["batch.delay = 9", "less than or equal to 8"]),
        ("batch.stage", [{"steps": 1, "slot_samples": 3}], ["[[batch.stage]] number 1", "slot_samples = 3"]),
        (
            "batch.stage",
            [{"steps": 1, "smaples": 3}],
            ["batch.stage[0].smaples: unknown key", "known here: steps"],
        ),
        ("data.samples", 0, ["data.samples = 0", 'data.mode = "free"']),
        ("data.mode", "tar", ["data.mode = 'tar'", "'indexed', 'shards' or 'free'"]),
        ("optimizer.lr.peak", -1.0, ["optimizer.lr.peak = -1.0", "greater than or equal to 0"]),
        ("optimizer.lr.peak", float("nan"), ["optimizer.lr.peak = nan", "finite"]),
        ("optimizer.beta1", 1.0, ["optimizer.beta1 = 1.0", "less than 1"]),
        ("optimizer.clip_norm", 0, ["optimizer.clip_norm = 0", "greater than 0"]),
        ("optimizer.lr.warmup_steps", 101, ["warmup_steps = 101", "stop.steps = 100"]),
        ("wire.up", "int4", ["wire.up = 'int4'", "'fp32', 'bf16', 'fp16' or 'int8'"]),
        ("leases.seconds", 0, ["leases.seconds = 0", "greater than 0"]),
        ("leases.attempts_max", 101, ["leases.attempts_max = 101", "less than or equal to 100"]),
        ("placement.split_above_bytes", 1, ["placement.split_above_bytes = 1", "4096"]),
        ("stop.steps", True, ["stop.steps = True", "valid integer"]),
        ("name", "Bert Large", ["name = 'Bert Large'", "a-z, 0-9 and inner dashes"]),
        ("name", 7, ["name = 7", "valid string"]),
    ],
)
def test_a_refusal_names_key_value_and_what_is_allowed(key: str, value: Any, said: list[str]) -> None:
    with pytest.raises(BadConfig) as caught:
        parse_job(with_value(key, value))
    for words in said:
        assert words in str(caught.value)


def test_a_missing_key_is_named() -> None:
    values = {key: value for key, value in MINIMAL.items() if key != "stop"}
    with pytest.raises(BadConfig, match="stop: missing"):
        parse_job(values)


def test_all_mistakes_are_named_at_once_one_per_line() -> None:
    values = with_value("batch.samples", 0) | {"nmae": 1}
    with pytest.raises(BadConfig) as caught:
        parse_job(values)
    assert len(str(caught.value).splitlines()) == 2


@pytest.mark.parametrize(
    ("batch", "said"),
    [
        ({"delay": 1, "max_staleness": 1}, "exclude each other"),
        ({"max_staleness": "unbounded"}, "slot_samples = 4 must equal samples = 8"),
        (
            {"max_staleness": "unbounded", "slot_samples": 8, "stage": [{"steps": 1, "samples": 8}]},
            "one batch size",
        ),
        ({"max_staleness": 9}, "max_staleness = 9"),
    ],
)
def test_modes_that_exclude_each_other_are_refused(batch: dict[str, Any], said: str) -> None:
    with pytest.raises(BadConfig, match=said):
        parse_job(MINIMAL | {"batch": {"samples": 8, "slot_samples": 4, **batch}})


@pytest.mark.parametrize(
    ("batch", "open_steps"),
    [({"delay": 2}, 3), ({"max_staleness": 1}, 2), ({"max_staleness": "unbounded"}, 1)],
)
def test_a_delay_of_s_opens_s_more_steps(batch: dict[str, Any], open_steps: int) -> None:
    job = parse_job(MINIMAL | {"batch": {"samples": 8, "slot_samples": 8, **batch}})
    assert job.batch.open_steps == open_steps


def test_a_live_key_changes_and_a_sealed_one_is_refused_with_the_live_ones() -> None:
    job = parse_job(MINIMAL)
    changed = job.changed({"optimizer.lr.peak": 0.01, "stop.steps": 200})
    assert (changed.optimizer.lr.peak, changed.stop.steps) == (0.01, 200)
    assert job.optimizer.lr.peak == 6e-3
    with pytest.raises(BadConfig, match=r"batch\.samples is sealed or unknown.*optimizer\.lr\.peak"):
        job.changed({"batch.samples": 1})
    with pytest.raises(BadConfig, match=r"optimizer\.lr\.peak = -1"):
        job.changed({"optimizer.lr.peak": -1})


def test_every_live_key_exists() -> None:
    for key in LIVE_KEYS:
        section: Any = parse_job(MINIMAL)
        for part in key.split("."):
            section = getattr(section, part)


def test_the_first_difference_is_named_with_both_values() -> None:
    job = parse_job(MINIMAL)
    assert first_difference(job, job) is None
    other = parse_job(with_value("optimizer.weight_decay", 0.1))
    assert first_difference(job, other) == "optimizer.weight_decay is 0.01 in the job and 0.1 in the request"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "no such file"),
        ("name = ", "job.toml: "),
        ("nmae = 1", "job.toml: "),
        (b"\xff", "job.toml: "),
        (b"seed = " + b"9" * 5000, "job.toml: "),
    ],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, content: Any, said: str) -> None:
    path = tmp_path / "job.toml"
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(BadConfig, match=said) as caught:
        job_from_toml(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "7", "null"])
def test_json_that_is_no_job_is_refused(text: str) -> None:
    with pytest.raises(BadConfig, match=r"^the job"):
        job_from_json(text)


def test_a_job_is_a_frozen_value() -> None:
    job = parse_job(MINIMAL)
    with pytest.raises(ValueError, match="frozen"):
        job.name = "other"
    assert isinstance(job, Job)


def test_a_job_of_a_notebook_a_file_and_a_charts_value_are_the_same(tmp_path: Path) -> None:
    """`sheepfold.Job(...)` by keywords, job.toml, and the JSON that a chart passes on."""
    init = {"from": "file:w0.safetensors", "fresh": ["head.*"]}
    by_hand = Job(
        name="lenet",
        batch={"samples": 64, "slot_samples": 8},  # type: ignore[arg-type]
        data={"samples": 1_000},  # type: ignore[arg-type]
        optimizer={"lr": {"peak": 0.01}, "weight_decay": 0.1},  # type: ignore[arg-type]
        init=init,  # type: ignore[arg-type]
        stop={"steps": 10, "metric": "accuracy", "patience": 3},  # type: ignore[arg-type]
    )
    file = tmp_path / "job.toml"
    file.write_text(
        'name = "lenet"\n[batch]\nsamples = 64\nslot_samples = 8\n[data]\nsamples = 1_000\n'
        "[optimizer]\nweight_decay = 0.1\nlr = { peak = 0.01 }\n"
        '[init]\nfrom = "file:w0.safetensors"\nfresh = ["head.*"]\n'
        '[stop]\nsteps = 10\nmetric = "accuracy"\npatience = 3\n'
    )
    assert job_from_toml(file) == by_hand == job_from_json(by_hand.to_json())
