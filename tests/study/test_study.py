"""The study's own arithmetic, and one real run of each kind at the smallest size."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy import stats  # type: ignore[import-untyped]
from tests.study.__main__ import of_other_data, work_off
from tests.study.budget import Costs, costs, total, trial_runs
from tests.study.contenders import ADAMW, LAMB, UNTUNED, Peak, schedule
from tests.study.engine import perform
from tests.study.found import Found, better_by, scales_to
from tests.study.intervals import T_975, interval, paired, t_quantile
from tests.study.plan import SIZES, Cell, Size, grid, repeated, runs, tables, tuned
from tests.study.report import PAGE, newest, page
from tests.study.runs import Mode, Result, Run, canonical, result_from
from tests.study.sections import lag
from tests.study.store import Store
from tests.study.tasks import MEASURES

import sheepfold
from sheepfold_wire.schedule import check_plan

TINY = Run("lenet", LAMB.optimizer("lenet"), schedule(UNTUNED["lenet"], 64), batch=32, samples=64, seed=1)
FREE = {"lenet": Costs(0.0, 0.0, 0.0)}
PLOT_BYTES_MAX = 60_000


def result_of(run: Run, value: float) -> Result:
    """A result as it would be stored, of a run that nobody made."""
    return Result(run.key, asdict(run), value, 0.5, ((64, 0.5),), 1.0, 2, 0, "digest", 100.0, 0.0, "data")


@pytest.fixture
def empty(tmp_path: Path) -> Store:
    return Store(tmp_path)


# --- intervals ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("freedom", range(1, len(T_975) + 1))
def test_quantile_is_that_of_students_t(freedom: int) -> None:
    assert t_quantile(freedom) == pytest.approx(stats.t.ppf(0.975, freedom), abs=6e-4)


def test_interval_of_three_values_is_the_textbooks() -> None:
    found = interval([1.0, 2.0, 3.0])
    assert (found.mean, found.deviation) == (2.0, 1.0)
    assert found.half == pytest.approx(4.303 / math.sqrt(3))


def test_one_seed_has_no_interval_and_excludes_nothing() -> None:
    assert interval([7.0]).half is None
    assert not interval([7.0]).excludes_zero


@pytest.mark.parametrize("diverged", [math.nan, math.inf])
def test_mean_with_a_seed_that_diverged_has_no_interval(diverged: float) -> None:
    assert interval([1.0, diverged, 2.0]).half is None


def test_more_seeds_than_the_table_has_are_refused_with_their_number() -> None:
    with pytest.raises(ValueError, match="11 degrees of freedom"):
        interval([float(i) for i in range(12)])


def test_difference_by_seed_does_not_see_what_seeds_have_in_common() -> None:
    assert paired([1.1, 5.1, 9.1], [1.0, 5.0, 9.0]).excludes_zero


# --- runs and plans ----------------------------------------------------------------------------------------


def test_key_changes_with_every_field() -> None:
    changes: dict[str, Any] = {
        "task": "bert",
        "optimizer": "{}",
        "lr": "{}",
        "batch": 64,
        "samples": 128,
        "seed": 2,
        "up": "fp32",
        "mode": Mode(delay=1),
        "stages": canonical([{"steps": 1, "samples": 32, "slot_samples": 16, "sequence": 32}]),
        "servers": "gRPC, 2 shards",
    }
    assert changes.keys() == asdict(TINY).keys()
    keys = {replace(TINY, **{name: value}).key for name, value in changes.items()}
    assert len(keys | {TINY.key}) == len(changes) + 1


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
def test_every_planned_run_is_a_job_and_is_planned_once(size: Size, empty: Store) -> None:
    planned = [run for _, run in runs(size, empty)]
    assert len({run.key for run in planned}) == len(planned)
    for run in {replace(run, seed=0, servers="") for run in planned}:
        job = run.job(data_samples=10_000, weight="samples")
        check_plan(job)
        assert job.stop.steps == run.steps > 0


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
def test_every_table_is_in_every_size_with_equal_samples_for_all_its_runs(size: Size, empty: Store) -> None:
    found = tables(size, empty)
    assert found.keys() == tables(SIZES["full"], empty).keys()
    for name, cells in found.items():
        trained = {sum(part.steps * part.batch for part in cell.runs[0].stretches) for cell in cells}
        assert len(trained) == 1, name


def test_run_that_is_made_again_over_grpc_is_never_one_that_depends_on_who_was_quick(empty: Store) -> None:
    modes = tables(SIZES["quick"], empty)["modes"]
    assert repeated(modes).mode == Mode(delay=1, workers=4)


def test_middle_of_the_grid_stands_in_until_every_rate_is_tried_then_the_best(empty: Store) -> None:
    quick = SIZES["quick"]
    tried = grid(quick, "lenet", ADAMW, 64)
    for number, (_, run) in enumerate(tried):
        assert tuned(quick, empty, "lenet", ADAMW, 64) == Peak(tried[len(tried) // 2][0], 64)
        empty.add("tuning", result_of(run, 0.9 - number / 10))
    assert tuned(quick, empty, "lenet", ADAMW, 64) == Peak(tried[0][0], 64)


def test_lower_loss_is_the_better_one_when_a_rate_is_tuned(empty: Store) -> None:
    quick = SIZES["quick"]
    tried = grid(quick, "bert", ADAMW, 64)
    for number, (_, run) in enumerate(tried):
        empty.add("tuning", result_of(run, 6.0 - number / 10))
    assert tuned(quick, empty, "bert", ADAMW, 64) == Peak(tried[-1][0], 64)


@pytest.mark.parametrize("diverged", [math.nan, math.inf])
def test_rate_under_which_training_diverged_is_never_the_tuned_one(diverged: float, empty: Store) -> None:
    quick = SIZES["quick"]
    (_, first), (lr, second) = grid(quick, "bert", ADAMW, 64)
    empty.add("tuning", result_of(first, diverged))
    empty.add("tuning", result_of(second, 7.0))
    assert tuned(quick, empty, "bert", ADAMW, 64) == Peak(lr, 64)


# --- budget ------------------------------------------------------------------------------------------------


def test_two_trials_give_back_the_costs_they_were_made_of() -> None:
    given = Costs(sample=1e-4, slot=3e-3, run=0.0)
    found = costs([(run, given.seconds(run)) for run in trial_runs("lenet")], run_seconds=0.5)
    assert (found.sample, found.slot) == pytest.approx((1e-4, 3e-3))
    assert found.run == 0.5


@pytest.mark.parametrize("seconds", [(1.0, 0.01), (0.001, 1.0)])
def test_no_cost_is_negative_however_odd_the_trials(seconds: tuple[float, float]) -> None:
    found = costs(list(zip(trial_runs("lenet"), seconds, strict=True)), 0.0)
    assert min(found.sample, found.slot) == 0.0
    assert max(found.sample, found.slot) > 0.0


def test_budget_is_the_sum_over_runs_of_samples_slots_and_starts() -> None:
    by_task = {"lenet": Costs(sample=0.01, slot=0.1, run=1.0)}
    assert total([TINY, replace(TINY, seed=2)], by_task) == pytest.approx(2 * (64 * 0.01 + 4 * 0.1 + 1.0))


def test_long_windows_cost_what_their_tokens_are() -> None:
    stages = canonical([{"steps": 3, "samples": 8, "slot_samples": 4, "sequence": 128}])
    assert replace(TINY, stages=stages).work == 3 * 8 * 4


# --- results -----------------------------------------------------------------------------------------------


def test_result_is_the_same_after_it_was_stored(tmp_path: Path) -> None:
    Store(tmp_path).add("table", kept := result_of(TINY, 0.25))
    assert Store(tmp_path)[TINY] == kept == result_from(json.loads(kept.to_json()))


def test_line_that_a_kill_cut_short_is_run_again(tmp_path: Path) -> None:
    store, other = Store(tmp_path), replace(TINY, seed=2)
    store.add("table", result_of(TINY, 0.25))
    with (tmp_path / "table.jsonl").open("a") as file:
        file.write(result_of(other, 0.5).to_json()[:100])
    again = Store(tmp_path)
    assert again.missing([TINY, other]) == [other]
    again.add("table", result_of(other, 0.5))
    assert not Store(tmp_path).missing([TINY, other])


def points(values: list[float]) -> list[Found]:
    made = [replace(TINY, batch=32 << number) for number in range(len(values))]
    return [Found(Cell("", "", (run,)), (result_of(run, v),)) for run, v in zip(made, values, strict=True)]


@pytest.mark.parametrize(
    ("values", "reached"),
    [([0.9, 0.895, 0.85], (64, True)), ([0.9, 0.91, 0.905], (128, False)), ([0.9, 0.8, 0.9], (32, True))],
)
def test_scaling_ends_before_the_first_batch_that_is_worse_than_the_best(
    values: list[float], reached: tuple[int, bool]
) -> None:
    assert MEASURES["lenet"].tolerance == 0.01
    assert scales_to(points(values)) == reached


def test_lower_loss_counts_as_better() -> None:
    low, high = (
        Found(Cell("", "", (run,)), (result_of(run, value),))
        for run, value in ((replace(TINY, task="bert"), 5.0), (replace(TINY, task="bert"), 6.0))
    )
    assert better_by(low, high).mean == 1.0


@pytest.mark.parametrize(("behind", "is_said"), [(3.7, False), (11.5, True)])
def test_lag_is_told_where_taking_turns_does_not_explain_it(behind: float, is_said: bool) -> None:
    run = replace(TINY, mode=Mode(max_staleness="unbounded", workers=4))
    told = lag(Found(Cell("", "", (run,)), (replace(result_of(run, 0.5), staleness=behind),)))
    assert bool(told) == is_said


def test_report_is_what_the_stored_results_give() -> None:
    store = Store()
    assert PAGE.read_text("utf-8") == page(newest(store), store), "python -m tests.study.report"


def test_every_picture_of_the_report_is_there_and_small() -> None:
    text = PAGE.read_text("utf-8")
    named = {part.partition(")")[0] for part in text.split("](")[1:] if part.startswith("plots/")}
    kept = {f"plots/{path.name}" for path in (PAGE.parent / "plots").iterdir()}
    assert named == kept
    assert all((PAGE.parent / name).stat().st_size <= PLOT_BYTES_MAX for name in named)


@pytest.mark.slow
def test_stored_results_are_of_the_data_that_the_tasks_have() -> None:
    store = Store()
    planned = runs(newest(store), store)
    assert not of_other_data(planned, store)


def test_result_of_other_data_is_told_by_its_table(empty: Store) -> None:
    empty.add("table", result_of(TINY, 0.5))
    assert of_other_data([("table", TINY), ("other", replace(TINY, seed=2))], empty) == ["table"]


# --- real runs ---------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("task", MEASURES)
def test_run_in_this_process_has_the_bits_of_the_same_run_over_grpc_with_two_shards(task: str) -> None:
    """BERT-micro's embeddings are cut over both shards: their norms are exchanged."""
    run = replace(TINY, task=task, optimizer=LAMB.optimizer(task))
    here, there = perform(run), perform(run.over_grpc())
    assert here.digest == there.digest
    assert (here.value, here.losses, here.steps) == (there.value, there.losses, 2)


@pytest.mark.slow
def test_delayed_run_has_the_same_bits_with_one_worker_and_with_several() -> None:
    run = replace(TINY, samples=128)
    digests = {perform(replace(run, mode=Mode(delay=1, workers=workers))).digest for workers in (1, 3)}
    assert len(digests) == 1


@pytest.mark.slow
def test_second_start_of_the_study_computes_nothing(tmp_path: Path) -> None:
    def plan(store: Store) -> list[tuple[str, Run]]:
        return [("tuning", TINY), ("table", replace(TINY, seed=2)), ("other", TINY)]

    assert work_off(plan, Store(tmp_path), FREE) == 2
    stored = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert work_off(plan, Store(tmp_path), FREE) == 0
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == stored


def test_rate_scaled_on_adapted_slices_is_the_trust_ratio_scaled_and_leaves_biases_alone() -> None:
    """What the table of perturbed ratios rests on: one step with and without `lr_scale`."""
    groups = json.loads(LAMB.optimizer("lenet"))["groups"]
    scaled = [*groups, {"match": ["*weight"], "lr_scale": 1.25}]
    groups[0]["match"] = scaled[0]["match"] = ["*bias"]
    (weight, bias), (scaled_weight, scaled_bias) = (
        one_step(f"ratio-{n}", given) for n, given in zip(itertools.count(), (groups, scaled))
    )
    torch.testing.assert_close(scaled_weight, 1.25 * weight, rtol=1e-4, atol=1e-7)
    assert torch.equal(scaled_bias, bias)


def one_step(name: str, groups: list[dict[str, Any]]) -> tuple[torch.Tensor, torch.Tensor]:
    """By how much one step moves the weight and the bias of a layer."""
    torch.manual_seed(0)
    model, x = torch.nn.Linear(5, 3), torch.ones(4, 5)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    job = {
        "name": name,
        "batch": {"samples": 4, "slot_samples": 4},
        "data": {"samples": 4},
        "optimizer": {"lr": {"peak": 0.1}, "groups": groups},
        "wire": {"up": "fp32"},
        "stop": {"steps": 1},
    }
    with sheepfold.attach(model, address="local:", config=job) as run:
        for slot in run.slots():
            slot.backward((model(x[slot.indices]) ** 2).mean())
            run.step()
    weight, bias = (now.detach() - then for now, then in zip(model.parameters(), before, strict=True))
    return weight, bias
