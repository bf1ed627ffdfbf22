"""sheepfold.loading: loaders that follow the leases, and what they guess."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

import sheepfold_wire.messages as m
from sheepfold.errors import Refused
from sheepfold.fingerprint import data_fingerprint
from sheepfold.loading import FreeFeed, IndexedFeed, SequentialFiles, SlotSampler, feed_of
from sheepfold_wire.ids import AttemptId
from sheepfold_wire.job import Job, parse_job
from sheepfold_wire.samples import stream_indices

# Of a library that another test may have imported into this process: DataLoaders fork here.
pytestmark = pytest.mark.filterwarnings(r"ignore:os\.fork\(\) was called")
SAMPLES = 64


def job_of(**sections: Any) -> Job:
    values = {
        "name": "j",
        "batch": {"samples": 32, "slot_samples": 8},
        "data": {"samples": SAMPLES, "seed": 2},
        "optimizer": {"lr": {"peak": 0.1}},
        "stop": {"steps": 9},
    }
    return parse_job({**values, **sections})


def lease_at(start: int, stride: int = 0, count: int = 8, files: tuple[m.FileRange, ...] = ()) -> m.Lease:
    return m.Lease(AttemptId(1, 1), False, 0, start, count, 0, 30.0, stride=stride, files=files)


def loader_of(sampler: SlotSampler, workers: int = 0) -> DataLoader[Any]:
    data_set = TensorDataset(torch.arange(SAMPLES))
    return DataLoader(data_set, batch_sampler=sampler, num_workers=workers)  # type: ignore[arg-type]


def never() -> bool:
    return False


def indices_of(batches: Iterator[Any]) -> list[int]:
    return [int(i) for batch in batches for i in batch[0]]


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_a_slot_gets_its_own_samples_whatever_was_guessed(workers: int) -> None:
    job = job_of()
    sampler = SlotSampler(job, micro_batch=4)
    feed = IndexedFeed(loader_of(sampler, workers), sampler)
    #      first, guessed, guessed, not guessed, back, the same again, guessed, another stride, guessed
    for start, stride in (
        (0, 16), (16, 16), (32, 16), (40, 24), (8, 8), (8, 8), (16, 24), (40, 8), (48, 8), (120, 0), (128, 0)
    ):  # fmt: skip
        got = indices_of(feed.batches(lease_at(start, stride), never))
        assert got == list(stream_indices(SAMPLES, 2, start, 8)), f"slot at {start}"


def asked(sampler: SlotSampler, count: int) -> list[tuple[int, int]]:
    """What a loader that runs ahead is given: (first sample in the stream, samples)."""
    it = iter(sampler)
    for _ in range(count):
        next(it)
    return [(batch.start, batch.samples) for batch in sampler._asked]


def test_what_is_guessed_are_the_slots_one_stride_apart() -> None:
    sampler = SlotSampler(job_of(), micro_batch=4)
    sampler.lease(lease_at(8, stride=24))
    assert asked(sampler, 6) == [(8, 4), (12, 4), (32, 4), (36, 4), (56, 4), (60, 4)]


def test_without_a_stride_the_next_slot_is_guessed() -> None:
    sampler = SlotSampler(job_of(), micro_batch=8)
    sampler.lease(lease_at(8))
    assert asked(sampler, 3) == [(8, 8), (16, 8), (24, 8)]


def test_right_guesses_are_not_loaded_twice_and_wrong_ones_are_counted() -> None:
    sampler = SlotSampler(job_of(), micro_batch=4)
    feed = IndexedFeed(Ahead(sampler, 4), sampler)
    for start in (0, 16, 32, 48):
        list(feed.batches(lease_at(start, 16), never))
    assert sampler.dropped == 0
    list(feed.batches(lease_at(72, 16), never))  # 64 was expected
    assert sampler.dropped == 4
    list(feed.batches(lease_at(88, 16), never))
    assert sampler.dropped == 4


class Ahead:
    """A loader that asks for batches before it hands over the first, as DataLoader's processes do."""

    def __init__(self, sampler: SlotSampler, count: int) -> None:
        self.sampler, self.count = sampler, count

    def __iter__(self) -> Iterator[Any]:
        source = iter(self.sampler)
        queue = [next(source) for _ in range(self.count)]
        while True:
            queue.append(next(source))
            yield queue.pop(0)


def test_a_slot_that_was_left_half_way_disturbs_no_later_one() -> None:
    job = job_of()
    sampler = SlotSampler(job, micro_batch=2)
    feed = IndexedFeed(Ahead(sampler, 3), sampler)
    half = feed.batches(lease_at(0, 8), never)
    next(half)
    for start in (8, 16, 0):
        got = [i for batch in feed.batches(lease_at(start, 8), never) for i in batch]
        assert got == list(stream_indices(SAMPLES, 2, start, 8))


@pytest.mark.parametrize(("micro_batch", "nearest"), [(3, 2), (16, 8), (0, 1), (5, 4)])
def test_a_micro_batch_that_does_not_divide_the_slot_is_refused_with_the_nearest(
    micro_batch: int, nearest: int
) -> None:
    with pytest.raises(Refused, match=f"the nearest that does is {nearest}") as caught:
        SlotSampler(job_of(), micro_batch)
    assert (caught.value.field, caught.value.expected, caught.value.got) == (
        "micro_batch",
        nearest,
        micro_batch,
    )
    assert caught.value.remedy == f"the nearest that does is {nearest}"


def test_a_micro_batch_must_divide_the_slots_of_every_stage() -> None:
    stages = {"samples": 32, "slot_samples": 8, "stage": [{"steps": 1}, {"steps": 1, "slot_samples": 2}]}
    with pytest.raises(Refused, match="slot_samples = 2"):
        SlotSampler(job_of(batch=stages), 4)


def test_a_loader_that_chooses_its_own_samples_is_refused() -> None:
    sampler = SlotSampler(job_of(), 4)
    own: DataLoader[Any] = DataLoader(TensorDataset(torch.arange(SAMPLES)), batch_size=4)
    for given in (sampler, None):
        with pytest.raises(Refused, match=r"batch_sampler=run\.batch_sampler"):
            feed_of(own, job_of(), given)


def test_a_loader_of_another_data_set_is_refused_by_size_and_by_fingerprint() -> None:
    data_set = TensorDataset(torch.arange(SAMPLES))
    mark = data_fingerprint(data_set)
    job = job_of(data={"samples": SAMPLES, "fingerprint": mark})
    for values, said in ((torch.arange(63), "has 63 samples"), (torch.arange(1, 65), "the fingerprint")):
        sampler = SlotSampler(job, 4)
        other: DataLoader[Any] = DataLoader(TensorDataset(values), batch_sampler=sampler)  # type: ignore[arg-type]
        with pytest.raises(Refused, match=said):
            feed_of(other, job, sampler)
    sampler = SlotSampler(job, 4)
    assert isinstance(feed_of(loader_of(sampler), job, sampler), IndexedFeed)


def test_a_loader_out_of_order_is_refused() -> None:
    sampler = SlotSampler(job_of(), 4)
    loader = loader_of(sampler)
    loader.in_order = False
    with pytest.raises(Refused, match="in_order"):
        feed_of(loader, job_of(), sampler)


# --- free ------------------------------------------------------------------------------------------------

FREE = {"data": {"mode": "free"}}


def test_a_free_loader_gives_as_many_batches_as_fill_a_slot_and_begins_again() -> None:
    loader: DataLoader[Any] = DataLoader(TensorDataset(torch.arange(12)), batch_size=4)
    feed = FreeFeed(loader, job_of(**FREE))
    slots = [indices_of(feed.batches(lease_at(0), never)) for _ in range(3)]
    assert slots == [[0, 1, 2, 3, 4, 5, 6, 7], [8, 9, 10, 11, 0, 1, 2, 3], [4, 5, 6, 7, 8, 9, 10, 11]]


def test_a_loader_without_batch_size_goes_on_until_the_weights_fill_the_slot() -> None:
    taken: list[int] = []
    feed = FreeFeed(iter(range(100)), job_of(**FREE))
    for batch in feed.batches(lease_at(0), lambda: 3 * len(taken) >= 8):
        taken.append(batch)
    assert taken == [0, 1, 2]


def test_a_free_loader_that_does_not_fit_is_refused() -> None:
    loader: DataLoader[Any] = DataLoader(TensorDataset(torch.arange(12)), batch_size=3)
    with pytest.raises(Refused, match=r"the loader's batch_size = 3 does not divide .* 8"):
        feed_of(loader, job_of(**FREE), None)
    tokens = {"samples": 32, "slot_samples": 8, "weight": "tokens"}
    with pytest.raises(Refused, match=r"give run.slots.. a DataLoader with batch_size"):
        feed_of([1, 2], job_of(batch=tokens, **FREE), None)
    with pytest.raises(Refused, match="its data set is empty"):
        list(FreeFeed([], job_of(**FREE)).batches(lease_at(0), never))


# --- files -----------------------------------------------------------------------------------------------

FILES = {"data": {"mode": "shards", "files": [{"name": "a", "samples": 40}]}}


def opened(log: list[str]) -> SequentialFiles:
    def open_file(name: str) -> Iterator[str]:
        log.append(name)
        return (f"{name}{i}" for i in range(10))

    return SequentialFiles(open_file, micro_batch=2)


def test_files_are_read_on_without_opening_them_again() -> None:
    log: list[str] = []
    files = opened(log)
    first = lease_at(0, count=4, files=(m.FileRange("a", 2, 4),))
    second = lease_at(0, count=4, files=(m.FileRange("a", 6, 3), m.FileRange("b", 0, 1)))
    assert list(files.batches(first, never)) == [["a2", "a3"], ["a4", "a5"]]
    assert list(files.batches(second, never)) == [["a6", "a7"], ["a8", "b0"]]
    assert log == ["a", "b"]


def test_a_range_before_the_place_reached_opens_the_file_again() -> None:
    log: list[str] = []
    files = opened(log)
    for first in (4, 0):
        list(files.batches(lease_at(0, count=2, files=(m.FileRange("a", first, 2),)), never))
    assert log == ["a", "a"]


def test_a_file_that_is_too_short_is_refused_with_its_length() -> None:
    files = opened([])
    with pytest.raises(Refused, match="a ends after 10 samples"):
        list(files.batches(lease_at(0, count=4, files=(m.FileRange("a", 8, 4),)), never))


def test_ranges_of_files_are_for_sequential_files() -> None:
    with pytest.raises(Refused, match=r"give run.slots.. a sheepfold.SequentialFiles"):
        feed_of([1], job_of(**FILES), None)
    files = opened([])
    assert feed_of(files, job_of(**FILES), None) is files


# --- fingerprints ----------------------------------------------------------------------------------------


def test_a_fingerprint_tells_order_length_and_values_apart_and_nothing_else() -> None:
    base = [(torch.arange(3) + i, i, f"text {i}", {"b": [b"x"], "a": np.float32(i)}) for i in range(20)]
    mark = data_fingerprint(base)
    assert len(mark) == 16
    assert data_fingerprint(list(base)) == mark
    for other in (base[::-1], base[:-1], [*base[:-1], (torch.arange(3), 0, "", {})], []):
        assert data_fingerprint(other) != mark


def test_a_sample_without_bytes_of_its_own_has_no_fingerprint() -> None:
    with pytest.raises(TypeError, match="type object"):
        data_fingerprint([object()])
