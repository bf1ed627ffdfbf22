"""`sheepfold job check`: every value as it will be used, and what names decide."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from sheepfold_server.cli.job_table import consequences, flat, job_table, resolved
from sheepfold_server.cli.parameters import names_in, parameter_table
from sheepfold_wire.errors import BadConfig
from sheepfold_wire.job import Job, parse_job

NAMES = ["encoder.0.weight", "encoder.0.bias", "encoder.0.LayerNorm.weight"]


def job(**optimizer: Any) -> Job:
    return parse_job(
        {
            "name": "j",
            "batch": {
                "samples": 64,
                "slot_samples": 8,
                "stage": [{"steps": 10}, {"steps": 90, "samples": 16}],
            },
            "data": {"samples": 640},
            "optimizer": {"lr": {"peak": 0.1, "warmup_steps": 4}, **optimizer},
            "stop": {"steps": 100},
        }
    )


def printed(table: Any) -> str:
    console = Console(width=200)
    with console.capture() as captured:
        console.print(table)
    return captured.get()


def test_every_value_is_a_line_with_lists_in_one_and_groups_by_number() -> None:
    group = {"match": ["*.bias", "[ab]*"], "rule": "sgd"}
    rows = dict(flat(resolved(job(preset="albert", groups=[group], slices={"*.qkv": 3}))))
    assert rows["optimizer.no_decay"] == ["*LayerNorm*", "*layer_norm*", "*bias*"]
    assert rows["optimizer.groups[0].momentum"] == 0.9
    assert rows['optimizer.slices."*.qkv"'] == 3
    assert rows["batch.stage[0].samples"] == 64


def test_a_pattern_in_brackets_is_printed_and_not_read_as_markup() -> None:
    assert "*.bias, [ab]*" in printed(job_table(job(groups=[{"match": ["*.bias", "[ab]*"]}])))


def test_what_follows_for_the_rates_is_told_with_numbers() -> None:
    given = {"lr": {"peak": 0.1, "base_batch": 16, "warmup_epochs": 0.1, "schedule": "poly"}}
    told = dict(consequences(job(**given)))
    assert told["peak learning rate"] == "0.2 = 0.1 * sqrt(64 / 16), 0.1 = 0.1 * sqrt(16 / 16)"
    assert told["warm-up steps"] == "4 = 0.1 passes at a batch of 16"
    assert told["learning rate"].startswith("0.05 at step 0, 0.2 at step 3")


def test_names_are_told_their_group_rule_decay_and_ratio() -> None:
    group = {"match": ["*.bias"], "rule": "adamw", "lr_scale": 2.0}
    text = printed(parameter_table(job(preset="albert", groups=[group], slices={"*.0.weight": 2}), NAMES))
    rows = {line.split()[0]: line.split()[1:] for line in text.splitlines() if line.startswith("encoder")}
    assert rows["encoder.0.weight"] == ["-", "lamb", "0.01", "yes", "2"]
    assert rows["encoder.0.bias"] == ["0", "adamw", "0.01", "no", "times", "2"]
    assert rows["encoder.0.LayerNorm.weight"] == ["-", "lamb", "0", "no"]


def test_names_that_a_pattern_misses_are_refused_as_creation_would() -> None:
    with pytest.raises(BadConfig, match="bais"):
        parameter_table(job(groups=[{"match": ["*.bais"]}]), NAMES)
    with pytest.raises(BadConfig, match="qkv"):
        parameter_table(job(slices={"*.qkv": 3}), NAMES)


def test_a_file_without_names_is_refused_with_what_to_write(tmp_path: Path) -> None:
    (tmp_path / "names").write_text("\n\n")
    with pytest.raises(BadConfig, match=r"no names; write one per line, as in model\.named_parameters"):
        names_in(tmp_path / "names")
    with pytest.raises(BadConfig, match="No such file"):
        names_in(tmp_path / "missing")
