"""sheepfold.threads"""

from __future__ import annotations

import threading
from functools import partial

from sheepfold.threads import THREADS_MAX, CallThreads


def test_calls_run_side_by_side_up_to_the_limit_and_the_rest_afterwards() -> None:
    threads, done = CallThreads(), threading.Semaphore(0)
    together = threading.Barrier(THREADS_MAX)
    seen: set[int] = set()

    def work() -> None:
        seen.add(threading.get_ident())
        together.wait(10)
        done.release()

    for _ in range(2 * THREADS_MAX):
        threads.submit(work)
    for _ in range(2 * THREADS_MAX):
        assert done.acquire(timeout=10)
    assert len(seen) == THREADS_MAX


def test_work_is_never_lost_to_a_thread_that_is_just_ending() -> None:
    threads, done = CallThreads(idle_seconds=0.0), threading.Semaphore(0)
    for _ in range(500):
        threads.submit(done.release)
        assert done.acquire(timeout=10)


def test_threads_do_not_keep_python_from_ending() -> None:
    threads, kinds = CallThreads(), list[bool]()
    done = threading.Event()

    def work() -> None:
        kinds.append(threading.current_thread().daemon)
        done.set()

    threads.submit(work)
    assert done.wait(10)
    assert kinds == [True]


def test_closing_ends_idle_threads_and_does_not_wait_long_for_a_busy_one() -> None:
    threads, begun, goes_on = CallThreads(), threading.Semaphore(0), threading.Event()

    def busy() -> None:
        begun.release()
        goes_on.wait(30)

    threads.submit(busy)
    threads.submit(begun.release)
    for _ in range(2):
        assert begun.acquire(timeout=10)
    alive = list(threads._all)
    threads.close(seconds=0.5)
    assert sum(thread.is_alive() for thread in alive) == 1
    goes_on.set()
    threads.close(seconds=10.0)
    assert not any(thread.is_alive() for thread in alive)


def test_one_thread_keeps_the_order_and_settling_waits_for_the_last_piece() -> None:
    threads, done = CallThreads(threads_max=1), list[int]()
    threads.settle()
    for _ in range(3):
        done.clear()
        for number in range(200):
            threads.submit(partial(done.append, number))
        threads.settle()
        assert done == list(range(200))
    assert len(threads._all) == 1
    threads.close(seconds=10.0)
