"""`sheepfold plan`: its numbers, its JSON, its refusals."""

from __future__ import annotations

import json
import re
from dataclasses import fields
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from tests.unit.test_cli import Outcome

from sheepfold_server.cli import quantities
from sheepfold_server.planning.setting import Costs, Machines
from sheepfold_server.shell.options import READ_AHEAD_BYTES
from sheepfold_wire.errors import BadConfig

ASKED = ("plan", "--parameters", "340M", "--workers", "64", "--down", "bf16")


def told(*more: str) -> dict[str, Any]:
    outcome = Outcome(*ASKED, "--json", *more)
    assert outcome.code == 0, outcome.stderr
    (line,) = outcome.stdout.splitlines()
    found: dict[str, Any] = json.loads(line)
    return found


def seconds_of(found: dict[str, Any], phase: str, resource: str) -> float:
    (term,) = (t for t in found["terms"] if (t["phase"], t["resource"]) == (phase, resource))
    return float(term["seconds"])


def test_links_memory_and_logs_are_those_of_the_options() -> None:
    """340 M in bf16 are 0.68 GB: 54.4 ms at 100 Gb/s; 8 shards have 1.1 * 8 of them each, rounded up."""
    found = told("--shards", "8", "--nic", "100G", "--server-nic", "400G", "--worker-memory-bandwidth", "1T")
    assert seconds_of(found, "push", "a worker's link") == pytest.approx(0.0544)
    assert seconds_of(found, "push", "a shard's link") == pytest.approx(1.1 * 8 * 0.0544 / 4)
    assert found["all_reduce"]["step_s"] == pytest.approx(63 / 64 * 2 * 0.0544 + 340e6 * 40 / 1e12)
    assert found["memory_bytes"]["worker"] == 340e6 * 12
    assert found["log_bytes"]["shards_per_step"] == 1.36e9
    assert found["log_bytes"]["disk_of_a_shard"] == (256 << 20) + 200 * 46_750_001
    assert (found["shards"], found["shards_are_given"], found["workers_per_shard"]) == (8, True, 8.0)


def test_what_is_waited_for_adds_up_to_the_step_and_names_the_longest() -> None:
    found = told("--shards", "4")
    assert found["step_s"] == pytest.approx(sum(term["seconds"] for term in found["waited"]))
    longest = max(found["waited"], key=lambda term: term["seconds"])
    assert found["dominant"] == {"phase": longest["phase"], "resource": longest["resource"]}


def test_without_shards_it_finds_their_number_and_says_so() -> None:
    found = told("--compute-seconds", "2")
    given = told("--compute-seconds", "2", "--shards", str(found["shards"]))
    assert not found["shards_are_given"]
    assert found["step_s"] == given["step_s"]
    assert found["shards_that_keep_up"] > 1


def test_text_names_shards_step_and_longest_term() -> None:
    asked = ("--shards", "8", "--slots", "128")
    text, longest = Outcome(*ASKED, *asked).stdout, told(*asked)["dominant"]
    assert re.search(r"shards +8 \(as given; 8 workers each\)", text)
    assert re.search(rf"longest +{longest['phase']}: {longest['resource']}, \d", text)
    assert re.search(rf"\* {longest['phase']} +\d\S* m?s +{longest['resource']}", text)
    assert re.search(r"K +128: 2 for each of 64 workers, 2 rounds", text)
    assert re.search(r"a worker +4\.1 GB and its activations", text)


def test_delay_makes_phases_overlap_and_says_that_it_is_a_bound() -> None:
    apart, behind = (
        told("--shards", "8", "--compute-seconds", "1"),
        told("--shards", "8", "--compute-seconds", "1", "--delay", "1"),
    )
    assert behind["step_s"] < apart["step_s"]
    assert any("is a bound" in note for note in behind["notes"])


def test_too_little_staging_is_noted_with_what_lets_all_work() -> None:
    found = told("--shards", "8", "--staging-bytes", "1Gi")
    (note,) = (note for note in found["notes"] if "workers wait" in note)
    enough = re.search(r"--staging-bytes (\d+)", note)
    assert enough
    again = told("--shards", "8", "--staging-bytes", enough[1])
    assert (found["slots"]["at_a_time"], again["slots"]["at_a_time"]) == (10, 64)


def test_parts_finer_than_tensors_are_noted_until_the_tensors_are_known() -> None:
    assert any("--tensor says by how much" in note for note in told("--shards", "400")["notes"])
    known = told("--shards", "400", "--tensor", "1M")
    assert not any("--tensor" in note for note in known["notes"])
    assert known["memory_bytes"]["shard"] >= 40e6


def test_calibration_replaces_costs(tmp_path: Path) -> None:
    file = tmp_path / "costs.json"
    file.write_text(
        json.dumps({"message_s": 0.0, "slot_s": 0.0, "shard_s": 0.0, "block_s": 0, "step_s": 0.5})
    )
    found = told("--shards", "8", "--calibrate", str(file))
    assert seconds_of(found, "push", "the coordinator") == 0.0
    assert seconds_of(found, "round", "the coordinator") == pytest.approx(0.5 + 6 * 0.0002)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[]", "give an object of JSON with some of block_s"),
        ("{", "--calibrate"),
        ('{"pushes": 1}', "pushes is none of block_s"),
        ('{"slot_s": "1"}', "slot_s = '1': give seconds"),
        ('{"slot_s": true}', "slot_s = True: give seconds"),
        ('{"slot_s": -1}', "slot_s -1: give a finite number, 0 or more"),
        ('{"slot_s": NaN}', "slot_s nan: give a finite number, 0 or more"),
    ],
)
def test_calibration_that_is_none_is_refused(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "costs.json"
    file.write_text(text)
    assert words in Outcome(*ASKED, "--calibrate", str(file)).refusal()


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--workers", "0"), "--workers 0: give a finite number, more than 0"),
        (("--parameters", "340m"), "--parameters 340m: give a number such as 1024, 340M or 1.3B"),
        (("--parameters", "-5"), "--parameters -5: give a number"),
        (("--parameters", "1e9"), "--parameters 1e9: give a number"),
        (("--parameters", "0.5"), "--parameters 0.5 is 0.5: give a whole number"),
        (("--nic", "100Gb"), "--nic 100Gb: give bits per second such as 100G"),
        (("--nic", "0"), "--nic 0: give a finite number, more than 0"),
        (("--codec", "int4"), "--codec int4: give one of fp32, bf16, fp16, int8"),
        (("--slots", "63"), "--slots 63 for 64 workers: 1 of them would have nothing to do"),
        (("--spare-workers", "64"), "--spare-workers 64 of --workers 64 leaves nobody"),
        (("--worker-memory", "4G"), "a worker holds the whole model: 4.1 GB"),
        (("--tensor", "341M"), "--tensor 341000000 is larger than the model"),
        (("--shards", "0"), "--shards 0: give a finite number, more than 0"),
        (("--shards", "8", "--staging-bytes", "100M"), "has to hold its part in fp32"),
        (("--compute-seconds", "-1"), "--compute-seconds -1: give a finite number, 0 or more"),
    ],
)
def test_wrong_input_is_refused_in_one_line(more: tuple[str, ...], words: str) -> None:
    assert words in Outcome(*ASKED, *more).refusal()


@pytest.mark.parametrize(
    ("text", "value"),
    [("340M", 340_000_000), ("1.3B", 1_300_000_000), ("1024", 1024), ("0.007k", 7), ("2T", 2 * 10**12)],
)
def test_counts_are_exact(text: str, value: int) -> None:
    assert quantities.count("--parameters", text) == value


def test_links_are_in_bits_and_sizes_in_bytes() -> None:
    assert quantities.bit_rate("--nic", "100G") == 12.5e9
    assert quantities.byte_rate("--disk", "2.5G") == 2.5e9
    assert quantities.size("--staging-bytes", "1.5Gi") == Decimal("1.5") * (1 << 30)
    with pytest.raises(BadConfig, match="units are k, M, G, T, written so"):
        quantities.bit_rate("--nic", "1Gi")


def test_defaults_of_the_model_are_those_of_the_product() -> None:
    assert Machines().call_window_bytes == READ_AHEAD_BYTES
    assert {field.name for field in fields(Costs)} == set(told()["setting"]["costs"])
