"""sheepfold.numpy_client, over a fake server."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tests.fake_server import RATE, FakeServer, job_of

from sheepfold.errors import Refused
from sheepfold.numpy_client import Client
from sheepfold_wire.errors import NotReady

ONE_SLOT: dict[str, Any] = {"batch": {"samples": 8, "slot_samples": 8}}


def initial() -> dict[str, Any]:
    return {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.float32(2.0) * np.ones((), np.float32)}


def worker(server: FakeServer, **settings: Any) -> Client:
    return Client("toy", initial(), address=server.connect(), **settings)


def test_a_worker_uploads_its_arrays_pushes_gradients_and_sees_the_new_weights() -> None:
    server = FakeServer(job_of(**ONE_SLOT))
    with worker(server) as client:
        lease = client.lease()
        assert lease is not None
        assert lease.step == 0
        assert np.array_equal(client.weights["a"], initial()["a"])
        assert client.push({"a": np.ones((2, 3), np.float32), "b": np.array(4.0)}, loss=0.5)
        weights = client.pull()
    assert np.array_equal(weights["a"], initial()["a"] - RATE)
    assert weights["b"] == 0.0
    facts = server.pushed[-1].facts
    assert facts is not None
    assert (facts.samples, facts.weight, facts.loss, facts.present) == (8, 8.0, 0.5, bytes([0b11]))


def test_leases_end_with_the_job() -> None:
    server = FakeServer(job_of(**ONE_SLOT))
    with worker(server) as client:
        steps = []
        while (lease := client.lease()) is not None:
            steps.append(lease.step)
            client.push({})
    assert steps == [0, 1, 2]


def test_a_reader_pulls_without_bringing_a_model_and_may_not_lease() -> None:
    server = FakeServer(job_of())
    with worker(server) as one, Client("toy", address=server.connect()) as reader:
        one.lease()
        weights = reader.pull()
        assert {name: array.shape for name, array in weights.items()} == {"a": (2, 3), "b": ()}
        assert reader.version == 0
        with pytest.raises(Refused, match="reader: give parameters"):
            reader.lease()


def test_a_named_version_is_pulled() -> None:
    server = FakeServer(job_of(**ONE_SLOT))
    with worker(server) as client:
        while client.lease() is not None:
            client.push({"a": np.ones((2, 3), np.float32)})
        assert np.array_equal(client.pull(1)["a"], initial()["a"] - RATE)
        assert client.version == 1


def test_statistics_go_up_as_given_or_as_they_were() -> None:
    server = FakeServer(job_of(**ONE_SLOT, statistics={"policy": "mean"}))
    statistics = {"mean": np.array([1.0, 2.0], np.float32), "count": np.array(3, np.int64)}
    with worker(server, statistics=statistics) as client:
        client.lease()
        client.push({"mean": np.array([5.0, 6.0], np.float32)})
        weights = client.pull()
    assert weights["mean"].tolist() == [5.0, 6.0]
    assert weights["count"] == 3
    assert weights["count"].dtype == np.int64


def test_a_push_without_a_lease_an_unknown_name_and_a_wrong_shape_are_refused() -> None:
    with worker(FakeServer(job_of())) as client:
        with pytest.raises(Refused, match="call lease\\(\\) before each push"):
            client.push({})
        client.lease()
        with pytest.raises(Refused, match="c is no tensor of job toy"):
            client.push({"c": np.zeros(1, np.float32)})
        with pytest.raises(Refused, match=r"a has shape \(3,\), the job's is \(2, 3\)"):
            client.push({"a": np.zeros(3, np.float32)})
        assert client.push({})  # the lease is still held


def test_tokens_without_a_weight_are_refused_by_the_arguments_name() -> None:
    server = FakeServer(job_of(batch={"samples": 8, "slot_samples": 8, "weight": "tokens"}))
    with worker(server) as client:
        client.lease()
        with pytest.raises(Refused, match="weight="):
            client.push({})


def test_float64_arrays_are_refused_with_the_remedy() -> None:
    with pytest.raises(Refused, match=r"a is float64.*a\.astype\(np\.float32\)"):
        Client("toy", {"a": np.zeros(3)}, address=FakeServer(job_of()).connect())


def test_the_digest_is_the_same_for_any_number_of_shards_that_answer_alike_and_waits_for_one_version() -> (
    None
):
    server = FakeServer(job_of())
    with worker(server) as client:
        client.lease()
        version, first = client.digest()
        server.failures["digest"].append(NotReady("between two steps"))
        assert client.digest() == (version, first)
    assert version == 0
    assert len(first) == 64
