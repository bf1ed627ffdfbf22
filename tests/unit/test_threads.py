"""sheepfold.threads"""

from __future__ import annotations

import threading

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
