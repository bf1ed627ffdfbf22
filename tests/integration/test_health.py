"""Health is answered while the kernel thread is at work, and NOT_SERVING while a role is not ready."""

from __future__ import annotations

import threading

import grpc
import torch
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tests.integration.harness import running_fold, small_job, train, until

from sheepfold_server.shell.shard_main import ShardServer
from sheepfold_server.shell.shard_process import ShardConfig

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


def ask(address: str, service: str = "readiness") -> int:
    with grpc.insecure_channel(address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        return int(stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=10).status)


def test_health_is_answered_while_a_kernel_runs() -> None:
    """The kernel multiplies matrices until told to stop; both roles answer meanwhile."""
    stop, running = threading.Event(), threading.Event()

    def busy() -> None:
        big = torch.ones(1500, 1500)
        while not stop.is_set():
            torch.mm(big, big)
            running.set()

    with running_fold(1) as fold:
        until(lambda: ask(fold.shards[0].address) == SERVING, "the shard is ready")
        kernel = fold.shards[0].process._kernel.submit(busy)
        try:
            assert running.wait(30)
            for _ in range(5):
                assert ask(fold.shards[0].address) == SERVING
                assert ask(fold.address) == SERVING
            assert not kernel.done()
        finally:
            stop.set()


def test_shard_without_a_coordinator_is_alive_but_not_ready() -> None:
    server = ShardServer(ShardConfig(0, 1, "127.0.0.1:0", coordinator="127.0.0.1:1"))
    server.start()
    try:
        assert ask(server.address, "liveness") == SERVING
        assert ask(server.address) == NOT_SERVING
    finally:
        server.stop()


def test_link_that_breaks_is_opened_again_and_the_job_ends_with_the_same_bits() -> None:
    """The shard process lives on and keeps its state; undecided steps begin again."""
    from tests.integration.harness import digest_of

    with running_fold(2) as fold:
        train(fold.address, small_job())
        golden = digest_of(fold.address, "small")
    with running_fold(2) as fold:
        pushes = iter(range(1000))

        def break_link(slot: object) -> None:
            if next(pushes) in (3, 11, 20):
                call = fold.shards[1]._link._call
                assert call is not None
                call.cancel()

        train(fold.address, small_job(), break_link)
        assert digest_of(fold.address, "small") == golden
        assert fold.fleet.status("small").version == 4
