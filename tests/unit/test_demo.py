"""The demo's pieces that need no server: its job, what it observes, its account, its child processes."""

from __future__ import annotations

import json
import socket
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.unit.monitored import step_report

from sheepfold.demo.worker import augmented
from sheepfold_server.cli.demo.fleet import DemoFailed, Fleet, describe_data
from sheepfold_server.cli.demo.observer import Observer
from sheepfold_server.cli.demo.plan import ACCURACY_MIN, DataFacts, DemoPlan, demo_job
from sheepfold_server.cli.demo.show import free_or_any
from sheepfold_server.cli.demo.summary import Summary
from sheepfold_server.shell.start import StartError
from sheepfold_wire import messages as m
from sheepfold_wire.control import Control

DATA = DataFacts("Fashion-MNIST, packaged subset", 10_000, "f")
SUMMARY = Summary(
    data=DATA.name,
    accuracy=0.88,
    version=300,
    steps=300,
    seconds=60.0,
    training_seconds=50.0,
    step_seconds_p50=0.15,
    step_seconds_p95=0.2,
    counts=m.SlotCounts(leased=2401, committed=2400, leased_again=1, dropped=1),
    samples_committed=306_176,
    samples_skipped=1_024,
    trust_ratio_min=0.001,
    trust_ratio_max=5.0,
    digest="d",
)


def test_job_has_eight_slots_and_a_tenth_of_the_steps_as_warm_up() -> None:
    job = demo_job(DemoPlan(steps=300, seed=3), DATA)
    assert job.batch.samples // job.batch.slot_samples == 8
    assert (job.optimizer.lr.peak, job.optimizer.lr.warmup_steps) == (0.02, 30)
    assert (job.seed, job.data.seed, job.data.fingerprint, job.wire.up) == (3, 3, "f", "bf16")
    assert demo_job(DemoPlan(codec="int8"), DATA).wire.up == "int8"


def test_data_set_is_described_by_a_process_of_the_client() -> None:
    found = describe_data(DemoPlan())
    assert found.samples >= 10_000
    assert len(found.fingerprint) == 32


def test_folder_without_data_is_refused_in_the_clients_words(tmp_path: Path) -> None:
    with pytest.raises(StartError, match=r"not there; point --data-dir"):
        describe_data(DemoPlan(data_dir=tmp_path))


def test_account_is_balanced_by_committed_and_skipped_samples() -> None:
    assert SUMMARY.lost_samples() == 0
    assert replace(SUMMARY, samples_committed=306_048).lost_samples() == 128
    assert replace(SUMMARY, samples_committed=306_304).lost_samples() == -128


def test_facts_are_those_that_programs_read() -> None:
    facts = json.loads(json.dumps(SUMMARY.facts()))
    assert facts == {
        "accuracy": 0.88,
        "seconds": 60.0,
        "steps": 300,
        "version": 300,
        "samples_per_s": 6123.5,
        "slots": {"leased": 2401, "committed": 2400, "leased_again": 1, "dropped": 1, "skipped": 0},
        "trust_ratio": {"min": 0.001, "max": 5.0},
        "digest": "d",
    }


def test_text_states_where_every_slot_and_sample_went() -> None:
    text = SUMMARY.text()
    assert "2,401 leased = 2,400 committed + 0 skipped + 1 dropped; 1 leased again" in text
    assert "306,176 committed + 1,024 skipped = 300 steps x 1,024" in text
    assert "150 ms (p50), 200 ms (p95)" in text


def test_observer_keeps_the_range_of_trust_ratios_and_the_time_between_reports() -> None:
    with Control("127.0.0.1:1") as control:
        observer = Observer(control)
    for step, (ratio, at) in enumerate([(1.0, 10.0), (0.25, 10.1), (3.0, 10.3), (1.0, 10.4)]):
        observer.add(step_report(step, ratio), at)
    assert (observer.trust_ratio_min, observer.trust_ratio_max) == (0.25, 6.0)
    assert observer.training_seconds() == pytest.approx(0.4)
    assert observer.step_seconds(0.5) == pytest.approx(0.1)
    assert observer.step_seconds(0.95) == pytest.approx(0.2)


def test_observer_of_nothing_has_no_times() -> None:
    with Control("127.0.0.1:1") as control:
        observer = Observer(control)
    assert (observer.training_seconds(), observer.step_seconds(0.5)) == (0.0, 0.0)


def test_worker_that_fails_ends_the_demo_with_its_own_words(tmp_path: Path) -> None:
    fleet = Fleet(DemoPlan(data_dir=tmp_path / "nothing"), "127.0.0.1:1", tmp_path)
    fleet.start_worker()
    try:
        fleet._workers[0][1].wait(60.0)
        with pytest.raises(DemoFailed, match=r"worker-1 .* died with exit code 2: .*--data-dir"):
            fleet.check()
    finally:
        fleet.stop()


def test_worker_killed_on_purpose_is_no_failure(tmp_path: Path) -> None:
    fleet = Fleet(DemoPlan(), "127.0.0.1:1", tmp_path)
    pid = fleet.start_worker()
    fleet.kill(pid)
    fleet._workers[0][1].wait(60.0)
    fleet.check()
    assert fleet.pids() == []
    fleet.stop()


def test_taken_dashboard_port_is_replaced_by_any() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert free_or_any(taken.getsockname()[1]) == 0


def test_augmented_images_are_a_function_of_the_seed_and_keep_their_shape() -> None:
    images = torch.arange(2 * 784, dtype=torch.float32).reshape(2, 1, 28, 28)
    drawn = []
    for _ in range(2):
        torch.manual_seed(7)
        drawn.append(augmented(images))
    assert torch.equal(*drawn)
    assert drawn[0].shape == images.shape
    assert not torch.equal(drawn[0], augmented(images))


def test_accuracy_that_is_asked_for_is_what_the_help_says() -> None:
    from sheepfold_server.cli.demo import command

    assert str(ACCURACY_MIN) in (command.demo.__doc__ or "")
