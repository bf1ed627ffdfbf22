"""Buffers of payloads are used again, and never while anybody can still see them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from sheepfold_wire.pooling import BufferPool

HOLDERS: dict[str, Callable[[bytearray], object]] = {
    "itself": lambda buffer: buffer,
    "a piece": lambda buffer: memoryview(buffer)[2:3],
    "numpy": lambda buffer: np.frombuffer(buffer, np.uint8)[1:],
    "torch": lambda buffer: torch.frombuffer(buffer, dtype=torch.uint8).view(2, 5)[1],
    "torch by way of numpy": lambda buffer: torch.from_numpy(np.frombuffer(buffer, np.uint8)).narrow(0, 1, 2),
}


def test_buffer_that_nobody_holds_is_given_again_as_it_was_left() -> None:
    pool = BufferPool(100)
    first = pool.take(10)
    assert first == bytes(10)
    first[3] = 7
    place = id(first)
    del first
    again = pool.take(10)
    assert (id(again), again[3]) == (place, 7)


@pytest.mark.parametrize("holder", HOLDERS)
def test_buffer_is_not_given_again_while_somebody_holds(holder: str) -> None:
    pool = BufferPool(100)
    place = id(buffer := pool.take(10))
    held = HOLDERS[holder](buffer)
    del buffer
    assert id(pool.take(10)) != place
    del held
    assert place in {id(pool.take(10)), id(pool.take(10))}


def test_no_more_than_its_bytes_are_kept() -> None:
    pool = BufferPool(25)
    three = [pool.take(10) for _ in range(3)]
    places = {id(buffer) for buffer in three[:2]}
    three.clear()
    assert {id(one := pool.take(10)), id(two := pool.take(10))} == places
    assert one is not two


def test_unused_buffers_of_another_size_make_room() -> None:
    pool = BufferPool(20)
    pool.take(20)
    place = id(one := pool.take(15))
    del one
    assert id(pool.take(15)) == place


def test_buffer_larger_than_the_pool_is_given_all_the_same() -> None:
    assert len(BufferPool(5).take(6)) == 6
