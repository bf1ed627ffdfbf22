"""sheepfold.read_ahead"""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator

import pytest

from sheepfold.read_ahead import ReadAhead


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "sheepfold-read-ahead"]


def test_items_come_in_their_order_and_end_with_the_source() -> None:
    reader = ReadAhead(iter(range(50)))
    assert list(reader) == list(range(50))
    assert list(reader) == []


def test_one_item_is_read_ahead_and_no_more() -> None:
    read = threading.Semaphore(0)
    seen: list[int] = []

    def source() -> Iterator[int]:
        for number in range(10):
            seen.append(number)
            read.release()
            yield number

    reader = ReadAhead(source())
    for taken in range(4):
        assert read.acquire(timeout=10)  # the next one is read while the script has not asked for it
        assert seen == list(range(taken + 1))
        assert next(reader) == taken
    reader.close()


def test_what_the_source_raises_comes_in_the_place_of_its_item() -> None:
    def source() -> Iterator[int]:
        yield 1
        raise ValueError("sample 2 is broken")

    reader = ReadAhead(source())
    assert next(reader) == 1
    with pytest.raises(ValueError, match="sample 2 is broken"):
        next(reader)
    assert list(reader) == []


def test_a_closed_reader_has_no_thread_any_more() -> None:
    before = threads()
    reader = ReadAhead(iter(range(10)))
    assert next(reader) == 0
    reader.close()
    reader.close()
    assert threads() == before


def test_a_reader_that_is_forgotten_ends_its_thread() -> None:
    before = threads()
    reader = ReadAhead(iter(range(10)))
    assert next(reader) == 0
    del reader
    gc.collect()
    assert threads() == before


def test_a_source_that_never_answers_is_left_behind() -> None:
    asked, goes_on = threading.Event(), threading.Event()

    def source() -> Iterator[int]:
        asked.set()
        goes_on.wait(30)
        yield 1

    reader = ReadAhead(source())
    assert asked.wait(10)
    reader.close()  # within half a second
    goes_on.set()
