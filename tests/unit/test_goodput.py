"""tests/bench/goodput: when workers die, what a window counts as, and what its peers train."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.bench.goodput.account import Account, Told, account, kills, quantile
from tests.bench.goodput.system import Fleet, ProgressFile, children
from tests.bench.goodput.training import COLUMNS, RATE, ROWS, Progress, Training
from tests.integration.harness import until
from tests.oracle.lamb_float64 import Lamb


def steps(*pairs: tuple[float, int]) -> list[Told]:
    return [Told(at, step) for at, step in pairs]


def test_kills_are_as_many_as_their_distance_says_and_the_same_of_one_seed() -> None:
    drawn = kills(7, 10.0, 600.0)
    assert len(drawn) == 60
    assert drawn == kills(7, 10.0, 600.0) != kills(8, 10.0, 600.0)
    assert [kill.at for kill in drawn] == sorted(kill.at for kill in drawn)
    assert all(0 <= kill.at < 600 and 0 <= kill.victim < 1 for kill in drawn)


def test_kills_meet_all_workers_and_all_moments() -> None:
    drawn = kills(1, 1.0, 1000.0)
    assert {int(kill.victim * 4) for kill in drawn} == {0, 1, 2, 3}
    assert {int(kill.at / 100) for kill in drawn} == set(range(10))


def test_steps_made_again_are_lost_and_not_useful() -> None:
    told = steps((11.0, 8), (12.0, 9), (18.0, 8), (19.0, 9), (20.0, 10))
    found = account(Told(10.0, 7), told, [12.5], 20.0)
    assert (found.useful, found.repeated, found.seconds) == (3.0, 2.0, 10.0)
    assert found.steps_per_second == pytest.approx(0.3)


def test_recovery_ends_with_the_next_step_even_one_made_again() -> None:
    found = account(Told(10.0, 7), steps((11.0, 8), (18.0, 8), (19.0, 9)), [11.5, 12.0, 18.5], 19.0)
    assert found.recoveries == pytest.approx([6.5, 6.0, 0.5])


def test_kill_without_a_step_after_it_takes_until_the_end() -> None:
    assert account(Told(0.0, 1), steps((1.0, 2)), [5.0], 60.0).recoveries == [55.0]


def test_shares_of_steps_count_as_such_and_what_a_vote_threw_away_does_not() -> None:
    told = [Told(1.0, 2, 0.75), Told(2.0, 2, 0.25, is_counted=False), Told(3.0, 3, 1.0)]
    found = account(Told(0.0, 1), told, [1.5], 4.0)
    assert (found.useful, found.discarded, found.repeated) == (1.75, 0.25, 0.0)
    assert found.recoveries == [1.5]


def test_windows_add_up() -> None:
    both = Account(10.0, 5.0, 1.0, 0.5, [1.0]) + Account(30.0, 5.0, 0.0, 0.25, [2.0, 3.0])
    assert both == Account(40.0, 10.0, 1.0, 0.75, [1.0, 2.0, 3.0])
    assert both.steps_per_second == 0.25


def test_quantile_is_a_value_that_was_measured() -> None:
    assert quantile([], 0.5) is None
    assert [quantile([3.0, 1.0, 2.0], share) for share in (0.01, 0.5, 0.95)] == [1.0, 2.0, 3.0]
    assert quantile([float(value) for value in range(1, 101)], 0.95) == 95.0


def test_progress_is_read_as_it_was_told_and_a_line_once(tmp_path: Path) -> None:
    read, tell = ProgressFile(tmp_path / "progress"), Progress(tmp_path / "progress")
    assert read.told() == []
    tell.tell(1)
    tell.tell(1, 0.25, is_counted=False)
    first, second = read.told()
    assert (first.step, first.share, first.is_counted) == (1, 1.0, True)
    assert (second.step, second.share, second.is_counted) == (1, 0.25, False)
    assert read.told() == []
    read.close()


def test_half_a_line_waits_for_its_rest(tmp_path: Path) -> None:
    line = Told(1.5, 4).line()
    read = ProgressFile(tmp_path / "progress")
    with (tmp_path / "progress").open("a") as written:
        for part in (line[:3], line[3:]):
            assert read.told() == []
            written.write(part)
            written.flush()
    assert read.told() == [Told(1.5, 4)]
    read.close()


def test_peers_train_by_lamb() -> None:
    weights = torch.randn(3, 40, generator=torch.Generator().manual_seed(1))
    training, oracle = Training(weights), Lamb({"wide": weights.numpy()})
    for seed in range(2, 7):
        gradient = torch.randn(3, 40, generator=torch.Generator().manual_seed(seed))
        training.apply(gradient)
        oracle.step({"wide": gradient.numpy().astype(np.float64)}, RATE)
    assert np.allclose(training.weights.numpy(), oracle.x["wide"], rtol=0, atol=1e-6)
    assert not np.allclose(training.weights.numpy(), weights.numpy(), rtol=0, atol=1e-4)


def test_what_was_saved_goes_on_as_if_nothing_had_happened(tmp_path: Path) -> None:
    whole, saved, again = Training(), tmp_path / "state.pt", Training()
    again.load(saved)
    assert again.steps == 0
    for _ in range(2):
        whole.apply(torch.full((ROWS, COLUMNS), 0.001))
    whole.save(saved)
    again.load(saved)
    for each in (whole, again):
        each.apply(torch.full((ROWS, COLUMNS), 0.002))
    assert again.steps == 3
    assert torch.equal(whole.weights, again.weights)
    assert [path.name for path in tmp_path.iterdir()] == ["state.pt"]


def test_worker_that_was_killed_is_replaced_and_no_other(tmp_path: Path) -> None:
    never = tmp_path / "never"
    os.mkfifo(never)
    waiting = [sys.executable, "-c", "import sys; open(sys.argv[1]).read()", str(never)]
    fleet = Fleet(lambda number: waiting, 3, tmp_path / "log")
    try:
        # One that has just been started has no command line for a moment.
        until(lambda: len(children(os.getpid(), str(never))) == 3, "three workers")
        before = children(os.getpid(), str(never))
        fleet.kill(0.5)
        until(lambda: len(children(os.getpid(), str(never))) == 3, "three workers again")
        after = children(os.getpid(), str(never))
        assert set(before) - set(after) == {before[1]}
    finally:
        fleet.close()
    assert children(os.getpid(), str(never)) == []
