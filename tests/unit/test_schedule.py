"""sheepfold_server.core.schedule"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.desk import job_of

from sheepfold_server.core.schedule import ConfigHistory
from sheepfold_wire.errors import BadConfig
from sheepfold_wire.schedule import check_plan, learning_rate, lr_for_batch, warmup_steps


def rates(steps: int = 10, batch: dict[str, object] | None = None, **lr: object) -> list[float]:
    """Learning rates of steps 0 to `steps`, which is one beyond the last."""
    job = job_of(optimizer={"lr": {"peak": 1.0, **lr}}, stop={"steps": steps}, batch=batch)
    return [learning_rate(job, t) for t in range(steps + 1)]


def test_warm_up_reaches_the_peak_at_its_last_step() -> None:
    assert rates(warmup_steps=4)[:6] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]


def test_a_warm_up_from_step_zero_wastes_the_first_step_as_alberts_does() -> None:
    assert rates(warmup_steps=4, warmup_from=0)[:6] == [0.0, 0.25, 0.5, 0.75, 1.0, 1.0]


def test_linear_decay_is_continuous_and_ends_at_the_final_rate() -> None:
    found = rates(steps=9, final=0.2, schedule="poly", warmup_steps=2)
    assert found[:2] == [0.5, 1.0]
    assert found[5] == pytest.approx(0.6)
    assert found[9] == pytest.approx(0.2)


def test_power_bends_the_decay() -> None:
    assert rates(schedule="poly", power=2.0)[5] == 0.25


def test_rate_beyond_the_last_step_stays_final() -> None:
    job = job_of(optimizer={"lr": {"peak": 1.0, "schedule": "poly"}}, stop={"steps": 10})
    assert learning_rate(job, 99) == 0.0


def test_cosine_is_half_way_in_the_middle() -> None:
    found = rates(schedule="cosine", final=0.2)
    assert found[::5] == pytest.approx([1.0, 0.6, 0.2])


def test_piecewise_takes_the_factor_of_the_last_boundary() -> None:
    found = rates(schedule="piecewise", boundaries=[3, 6], factors=[0.5, 0.1])
    assert found == [1.0] * 3 + [0.5] * 3 + [0.1] * 5


def test_mlperfs_ramp_from_a_negative_step_begins_high_and_drops_to_the_global_decay() -> None:
    """MLPerf BERT v2.1: start -100, warm-up 290, total 480."""
    found = rates(steps=480, schedule="poly", warmup_steps=290, warmup_from=-100, decay_from="start")
    assert found[0] == pytest.approx(0.345, abs=1e-3)
    assert found[189] == pytest.approx(289 / 290)
    assert found[190] == pytest.approx(1 - 190 / 480)
    assert found[480] == 0.0


def test_a_second_stage_warms_up_again_from_zero_with_its_own_peak() -> None:
    """NVIDIA's BERT recipe: 7,038 steps of 64K at 6e-3, then 1,563 of 32K at 4e-3."""
    second = {"peak": 4e-3, "schedule": "poly", "power": 0.5, "warmup_steps": 200}
    stages = [{"steps": 7_038, "samples": 8}, {"steps": 1_563, "samples": 4, "rewarm": True, "lr": second}]
    job = job_of(
        batch={"samples": 8, "slot_samples": 4, "stage": stages},
        optimizer={"lr": {"peak": 6e-3, "schedule": "poly", "power": 0.5, "warmup_steps": 2_001}},
        stop={"steps": 8_601},
    )
    assert learning_rate(job, 2_000) == 6e-3
    assert learning_rate(job, 7_037) == pytest.approx(6e-3 * (1 / 5_038) ** 0.5)
    assert learning_rate(job, 7_038) == 4e-3 / 200
    assert learning_rate(job, 7_237) == 4e-3
    assert learning_rate(job, 8_600) < 2e-4


def test_a_stage_without_rewarm_goes_on_with_the_schedule() -> None:
    stages = [{"steps": 4}, {"steps": 6, "samples": 8, "slot_samples": 4}]
    assert rates(schedule="poly", batch={"stage": stages}) == rates(schedule="poly")


def test_the_peak_grows_with_the_square_root_of_the_batch() -> None:
    stages = [{"steps": 4, "samples": 16}, {"steps": 6, "samples": 4}]
    found = rates(batch={"slot_samples": 4, "stage": stages}, base_batch=4)
    assert found == [2.0] * 4 + [1.0] * 7
    assert lr_for_batch(5e-3, 32_768, 512) == 5e-3 / 8


def test_linear_epoch_warm_up_is_the_same_number_of_steps_at_every_batch() -> None:
    """You et al. 2020: BERT warms up for 3,125 steps whatever the batch; 1/320 of all epochs at 512."""
    for batch in (512, 32_768):
        job = job_of(
            batch={"samples": batch, "slot_samples": 512},
            data={"samples": 512_000_000},
            optimizer={"lr": {"peak": 1.0, "base_batch": 512, "warmup_epochs": 1 / 320}},
            stop={"steps": 10_000},
        )
        assert warmup_steps(job.optimizer.lr, job.data.samples) == 3_125


@given(
    st.sampled_from(["constant", "poly", "cosine"]),
    st.integers(1, 50),
    st.integers(-50, 0),
    st.sampled_from(["warmup", "start"]),
    st.integers(0, 120),
)
def test_no_rate_is_below_zero_or_above_the_peak(
    schedule: str, warmup: int, begin: int, decay_from: str, step: int
) -> None:
    lr = {"schedule": schedule, "warmup_steps": warmup, "warmup_from": begin, "decay_from": decay_from}
    job = job_of(optimizer={"lr": {"peak": 0.3, **lr}}, stop={"steps": 100})
    assert 0.0 <= learning_rate(job, step) <= 0.3


def test_change_is_in_force_from_its_step_on() -> None:
    history = ConfigHistory(job_of())
    history.change(3, {"optimizer.lr.peak": 0.5})
    assert [history.at(t).optimizer.lr.peak for t in (0, 2, 3, 9)] == [0.1, 0.1, 0.5, 0.5]


def test_changes_add_up() -> None:
    history = ConfigHistory(job_of())
    history.change(1, {"optimizer.lr.peak": 0.5})
    history.change(2, {"stop.steps": 9})
    assert (history.newest.optimizer.lr.peak, history.newest.stop.steps) == (0.5, 9)


def test_change_before_a_later_one_is_refused() -> None:
    history = ConfigHistory(job_of())
    history.change(3, {"optimizer.lr.peak": 0.5})
    with pytest.raises(BadConfig, match="from step 3"):
        history.change(2, {"optimizer.lr.peak": 0.7})


def test_refused_change_changes_nothing() -> None:
    history = ConfigHistory(job_of())
    with pytest.raises(BadConfig, match="sealed"):
        history.change(1, {"optimizer.lr.peak": 0.5, "seed": 3})
    assert history.newest == job_of()


def refusal(**sections: object) -> str:
    with pytest.raises(BadConfig) as refused:
        check_plan(job_of(**sections))  # type: ignore[arg-type]
    return str(refused.value)


def test_a_job_that_ends_before_its_plan_is_refused_with_both() -> None:
    stages = [{"steps": 270}, {"steps": 60, "samples": 8}]
    said = refusal(batch={"stage": stages}, stop={"steps": 300})
    assert "stop.steps = 300 ends before the batch plan: its stages have 270 + 60 = 330 steps" in said
    check_plan(job_of(batch={"stage": stages}, stop={"steps": 330}))


def test_a_table_of_rates_that_ends_before_the_plan_is_refused_with_both() -> None:
    lr = {"peak": 1.0, "schedule": "table", "values": [0.1] * 4}
    said = refusal(optimizer={"lr": lr}, stop={"steps": 5})
    assert "table ends before the plan: 4 values for the 5 steps 0 to 4; give 5 values" in said
    check_plan(job_of(optimizer={"lr": lr}, stop={"steps": 4}))


def test_a_table_of_a_stage_is_compared_with_its_own_steps() -> None:
    table = {"peak": 1.0, "schedule": "table", "values": [0.1] * 5}
    stages = [{"steps": 3}, {"steps": 6, "rewarm": True, "lr": table}]
    assert "5 values for the 6 steps 3 to 8" in refusal(batch={"stage": stages}, stop={"steps": 9})


def test_a_warm_up_in_passes_that_outlasts_its_stage_is_refused_with_the_steps_it_takes() -> None:
    """1,000 samples, batches of 16: half a pass are 31 steps, in whichever stage."""
    lr = {"peak": 1.0, "base_batch": 16, "warmup_epochs": 0.5}
    stages = [{"steps": 40}, {"steps": 30, "rewarm": True}]
    said = refusal(optimizer={"lr": lr}, batch={"stage": stages}, stop={"steps": 70})
    assert "31 steps from -1 on (0.5 passes over 1000 samples at a batch of 16), but" in said
    assert "the 30 steps 40 to 69" in said
    stages[1]["steps"] = 31
    check_plan(job_of(optimizer={"lr": lr}, batch={"stage": stages}, stop={"steps": 71}))


def test_a_warm_up_that_reaches_its_peak_at_the_last_step_is_taken() -> None:
    lr = {"peak": 1.0, "warmup_steps": 5}
    check_plan(job_of(optimizer={"lr": lr}))
    assert learning_rate(job_of(optimizer={"lr": lr}), 4) == 1.0
    assert "5 steps from 0 on" in refusal(optimizer={"lr": {**lr, "warmup_from": 0}})


def test_data_smaller_than_the_largest_step_are_refused_with_both() -> None:
    stages = [{"steps": 2}, {"steps": 3, "samples": 64}]
    said = refusal(batch={"stage": stages}, data={"samples": 63})
    assert "data.samples = 63 is too small for the plan: a step reads 64" in said
    check_plan(job_of(batch={"stage": stages}, data={"samples": 64}))
    check_plan(job_of(batch={"stage": stages}, data={"mode": "free"}))


def test_all_that_contradicts_the_plan_is_told_at_once() -> None:
    lr = {"peak": 1.0, "schedule": "table", "values": [0.1]}
    assert len(refusal(optimizer={"lr": lr}, data={"samples": 3}).splitlines()) == 2
