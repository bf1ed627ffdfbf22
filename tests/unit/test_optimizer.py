"""sheepfold.optimizer: the conventions of torch.optim, over a fake server."""

from __future__ import annotations

import copy
import pickle
import warnings
from typing import Any

import pytest
import torch
from tests.fake_server import FakeServer, job_of
from tests.unit.test_run import linear, loss_of, trained_locally
from torch import nn

from sheepfold.errors import JobEnded, Refused
from sheepfold.optimizer import RemoteOptimizer

ONE_SLOT: dict[str, Any] = {"batch": {"samples": 8, "slot_samples": 8}}


def started(model: nn.Module, server: FakeServer | None = None, **sections: Any) -> RemoteOptimizer:
    used = server or FakeServer(job_of(**{**ONE_SLOT, **sections}))
    return RemoteOptimizer(model.named_parameters(), "toy", address=used.connect())


def backward(model: nn.Module, optimizer: RemoteOptimizer) -> float:
    assert optimizer.run.slot is not None
    loss = loss_of(model, optimizer.run.slot.indices)
    loss.backward()  # type: ignore[no-untyped-call]
    return loss.item()


def test_a_loop_for_a_local_optimizer_trains_and_learns_that_the_job_has_ended() -> None:
    model = linear()
    optimizer = started(model)
    while not optimizer.has_ended:
        optimizer.zero_grad()
        backward(model, optimizer)
        optimizer.step()
    for mine, theirs in zip(model.parameters(), trained_locally(3).parameters(), strict=True):
        torch.testing.assert_close(mine, theirs)
    assert optimizer.run.version == 3
    with pytest.raises(JobEnded):
        optimizer.step()
    optimizer.run.close()


def test_step_leaves_gradients_to_the_caller_and_returns_nothing_without_a_closure() -> None:
    model = linear()
    optimizer = started(model)
    backward(model, optimizer)
    assert optimizer.step() is None
    assert model.weight.grad is not None
    optimizer.zero_grad()
    assert model.weight.grad is None
    optimizer.run.close()


def test_a_closure_runs_with_gradients_and_its_loss_is_returned_and_stated() -> None:
    model = linear()
    server = FakeServer(job_of(**ONE_SLOT))
    optimizer = started(model, server)

    def closure() -> Any:
        optimizer.zero_grad()
        assert optimizer.run.slot is not None
        loss = loss_of(model, optimizer.run.slot.indices)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    with torch.no_grad():
        loss: Any = optimizer.step(closure)
    facts = server.pushed[-1].facts
    assert facts is not None
    assert facts.loss == pytest.approx(loss.item())
    optimizer.run.close()


def test_accumulated_micro_batches_are_the_callers_mean() -> None:
    whole, pieces = linear(), linear()
    one, two = started(whole), started(pieces)
    backward(whole, one)
    assert two.run.slot is not None
    for piece in two.run.slot.indices.reshape(2, 4):
        (loss_of(pieces, piece) / 2).backward()  # type: ignore[no-untyped-call]
    for optimizer in (one, two):
        optimizer.step()
    torch.testing.assert_close(pieces.weight, whole.weight)
    for optimizer in (one, two):
        optimizer.run.close()


def test_groups_show_the_servers_values() -> None:
    optimizer = started(linear(), optimizer={"lr": {"peak": 0.25}, "beta1": 0.8, "weight_decay": 0.1})
    group = optimizer.param_groups[0]
    assert (group["lr"], group["betas"], group["weight_decay"]) == (0.25, (0.8, 0.999), 0.1)
    optimizer.run.close()


def test_a_local_learning_rate_is_named_once_and_ignored() -> None:
    model = linear()
    server = FakeServer(job_of(**ONE_SLOT))
    optimizer = started(model, server)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.1)
    named = 0
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(3):
            backward(model, optimizer)
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
    named = sum("the server owns lr (peak 0.5" in str(warning.message) for warning in caught)
    assert named == 1
    assert server.version == 3
    optimizer.run.close()


def test_a_learning_rate_given_in_a_group_is_named_too() -> None:
    groups = [{"params": list(linear().named_parameters()), "lr": 3.0}]
    with pytest.warns(UserWarning, match=r"param_groups\[0\]\['lr'\] = 3.0 has no effect"):
        optimizer = RemoteOptimizer(groups, "toy", address=FakeServer(job_of()).connect())
    assert optimizer.param_groups[0]["lr"] == 0.5
    optimizer.run.close()


def test_parameters_without_names_go_by_their_places() -> None:
    server = FakeServer(job_of())
    model = linear()
    groups = [{"params": [model.weight]}, {"params": [model.bias]}]
    RemoteOptimizer(groups, "toy", address=server.connect()).run.close()
    assert [tensor.name for tensor in server.plan.manifest.tensors] == ["group0.param0", "group1.param0"]


def test_state_goes_round_without_tensors_and_without_a_call() -> None:
    model = linear()
    server = FakeServer(job_of(**ONE_SLOT))
    optimizer = started(model, server)
    calls = len(server.calls)
    state = optimizer.state_dict()
    assert state["sheepfold"]["job"] == "toy"
    assert state["state"] == {}
    optimizer.load_state_dict(copy.deepcopy(state))
    optimizer.load_state_dict(state)
    assert optimizer.state_dict() == state
    assert len(server.calls) == calls
    backward(model, optimizer)
    optimizer.step()
    assert optimizer.state_dict()["sheepfold"]["step"] == 1
    optimizer.run.close()


def test_the_state_of_another_model_or_optimizer_is_refused() -> None:
    model = linear()
    optimizer = started(model)
    state = optimizer.state_dict()
    state["sheepfold"] = {**state["sheepfold"], "manifest": "f" * 64}
    with pytest.raises(Refused, match="of another model"):
        optimizer.load_state_dict(state)
    with pytest.raises(Refused, match="a local optimizer's"):
        optimizer.load_state_dict(torch.optim.SGD(model.parameters(), 0.1).state_dict())
    optimizer.run.close()


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))])
def test_a_copy_holds_no_connection_and_says_so_when_it_is_used(copied: Any) -> None:
    optimizer = started(linear())
    twin = copied(optimizer)
    assert twin.param_groups[0]["lr"] == 0.5
    with pytest.raises(Refused, match="copy of the optimizer of job toy"):
        twin.step()
    with pytest.raises(Refused, match="sealed"):
        twin.add_param_group({"params": [nn.Parameter(torch.zeros(1))]})
    assert optimizer.run.slot is not None
    optimizer.run.close()


def test_a_parameter_group_after_the_start_is_refused() -> None:
    optimizer = started(linear())
    with pytest.raises(Refused, match="sealed"):
        optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(1))]})
    optimizer.run.close()


def test_an_absent_gradient_is_absent_on_the_wire() -> None:
    model = linear()
    server = FakeServer(job_of(**ONE_SLOT))
    optimizer = started(model, server)
    backward(model, optimizer)
    model.bias.grad = None
    optimizer.step()
    facts = server.pushed[-1].facts
    assert facts is not None
    assert facts.present == bytes([0b01])
    optimizer.run.close()


def test_a_sparse_gradient_is_refused_by_name() -> None:
    table = nn.Embedding(4, 2, sparse=True)
    optimizer = started(table)
    table(torch.tensor([1])).sum().backward()
    with pytest.raises(Refused, match="weight has a sparse gradient"):
        optimizer.step()
    optimizer.run.close()


def test_tokens_need_the_weight_and_state_it() -> None:
    model = linear()
    server = FakeServer(job_of(batch={"samples": 8, "slot_samples": 8, "weight": "tokens"}))
    optimizer = started(model, server)
    backward(model, optimizer)
    with pytest.raises(Refused, match="weight="):
        optimizer.step()
    optimizer.weight = 21.0
    optimizer.step()
    facts = server.pushed[-1].facts
    assert facts is not None
    assert facts.weight == 21.0
    optimizer.run.close()


def test_step_hooks_and_isinstance_work_as_for_any_optimizer() -> None:
    model = linear()
    optimizer = started(model)
    seen: list[str] = []
    optimizer.register_step_pre_hook(lambda *_: seen.append("before"))
    optimizer.register_step_post_hook(lambda *_: seen.append("after"))
    backward(model, optimizer)
    optimizer.step()
    assert seen == ["before", "after"]
    assert isinstance(optimizer, torch.optim.Optimizer)
    optimizer.run.close()


def test_a_lost_lease_shows_in_the_result_and_raises_nothing() -> None:
    model = linear()
    server = FakeServer(job_of(**ONE_SLOT))
    optimizer = started(model, server)
    backward(model, optimizer)
    server.end_leases()
    optimizer.step()
    assert optimizer.result is not None
    assert not optimizer.result.counted
    assert optimizer.run.slot is not None
    optimizer.run.close()
