"""sheepfold.driver: a session's decisions carried out, over a fake server."""

from __future__ import annotations

import itertools
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from tests.fake_server import FakeServer, FakeTransport, job_of

import sheepfold_wire.messages as m
from sheepfold.calls import Contribution, WorkerCalls
from sheepfold.driver import Driver
from sheepfold.errors import JobEnded, Refused, ServerUnavailable
from sheepfold.events import Call, Ended, Make, Ready
from sheepfold.session import Session
from sheepfold.transport import Ranges, TransportError
from sheepfold_wire.codecs import Buffer, Codec
from sheepfold_wire.errors import JobHasEnded, ShapeMismatch, StaleIncarnation, VersionGone, WorkerUnknown
from sheepfold_wire.manifest import Manifest, TensorSpec

MANIFEST = Manifest(
    (TensorSpec("a", (3,), "float32", "parameter"), TensorSpec("b", (2, 2), "float32", "parameter"))
)
PRESENT = bytes([0b11])


def opening(worker: str = "w1") -> m.AttachRequest:
    return m.AttachRequest("toy", worker, "host", 1, MANIFEST.to_json())


def no_jitter() -> float:
    """Every backoff is over at once: no test waits."""
    return 0.0


@pytest.fixture
def server() -> FakeServer:
    return FakeServer(job_of())


@pytest.fixture
def make(server: FakeServer) -> Iterator[Callable[..., Driver]]:
    made: list[Driver] = []

    def build(transport: FakeTransport | None = None, **settings: Any) -> Driver:
        clock = settings.pop("clock", None)
        calls = WorkerCalls(transport or server.connect(), opening(settings.pop("worker", "w1")), Codec.FP32)
        session = Session(no_jitter, **settings)
        made.append(Driver(calls, session, clock) if clock else Driver(calls, session))
        return made[-1]

    yield build
    for driver in made:
        driver.close()


def contribution(server: FakeServer, version: int) -> Contribution:
    parts = tuple(layout.new_part(Codec.FP32).data for layout in server.layouts)
    return Contribution(parts, Codec.FP32, m.Facts(4, 4.0, version, PRESENT))


def initialised(driver: Driver, server: FakeServer) -> None:
    """Attach and make version 0."""
    driver.attach()
    assert driver.next_lease().is_init
    assert driver.push(contribution(server, -1)) == COUNTED


def test_a_job_with_a_codec_that_this_client_does_not_know_is_refused_with_those_it_knows(
    server: FakeServer, make: Callable[..., Driver], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker of an earlier version: it must neither crash nor push in another format."""
    transport = server.connect()

    def call(request: Any) -> Any:
        reply = server.call(request)
        if not isinstance(reply, m.AttachReply):
            return reply
        return replace(reply, config_json=reply.config_json.replace('"up":"fp32"', '"up":"int4"'))

    monkeypatch.setattr(transport, "call", call)
    with pytest.raises(Refused) as caught:
        make(transport).attach()
    for words in ("job toy", "wire.up = 'int4'", "'bf16', 'fp16' or 'int8'", "install the server's version"):
        assert words in str(caught.value)


class _Counted:
    def __eq__(self, other: object) -> bool:
        return isinstance(other, Ready) and other.is_counted


COUNTED = _Counted()


def test_attaching_asks_for_neither_lease_nor_weights(
    server: FakeServer, make: Callable[..., Driver]
) -> None:
    terms = make().attach()
    assert terms.job == job_of()
    assert terms.plan.shard_count == 2
    assert [type(call).__name__ for call in server.calls] == ["AttachRequest"]


def test_a_lease_comes_with_the_weights_of_its_version_from_every_shard(
    server: FakeServer, make: Callable[..., Driver]
) -> None:
    driver = make()
    initialised(driver, server)
    lease = driver.next_lease()
    parts = driver.take_weights()
    assert (lease.step, lease.slot, lease.base_version, driver.version) == (0, 0, 0, 0)
    assert parts is not None
    assert [len(part) for part in parts] == [server.plan.part_bytes(shard, Codec.FP32) for shard in range(2)]
    assert driver.take_weights() is None


def test_weights_that_did_not_get_into_place_are_pulled_again(
    server: FakeServer, make: Callable[..., Driver]
) -> None:
    """The script was interrupted while it copied them: the model is of no version, whatever arrived."""
    driver = make()
    initialised(driver, server)
    driver.next_lease()
    driver.push(contribution(server, 0))
    before = len(server.named("PullRequest"))
    assert driver.next_lease().slot == 1
    assert len(server.named("PullRequest")) == before + 2
    assert driver.take_weights() is not None


def test_weights_that_are_there_already_are_not_pulled_again(
    server: FakeServer, make: Callable[..., Driver]
) -> None:
    driver = make()
    initialised(driver, server)
    driver.next_lease()
    driver.take_weights()
    driver.confirm_weights()
    driver.push(contribution(server, 0))
    before = len(server.named("PullRequest"))
    assert driver.next_lease().slot == 1
    assert len(server.named("PullRequest")) == before
    assert driver.take_weights() is None


def test_a_push_reaches_every_shard_with_equal_facts_and_its_own_digest(
    server: FakeServer, make: Callable[..., Driver]
) -> None:
    driver = make()
    initialised(driver, server)
    headers = server.named("PushHeader")
    assert sorted(header.shard for header in headers) == [0, 1]
    assert len({header.facts for header in headers}) == 1
    assert {header.codec for header in headers} == {"fp32"}


def test_a_network_failure_repeats_the_same_attempt(server: FakeServer, make: Callable[..., Driver]) -> None:
    driver = make()
    server.failures["push"].extend([TransportError("reset"), TransportError("reset")])
    initialised(driver, server)
    assert len(server.named("PushHeader")) == 4
    assert len({header.attempt for header in server.named("PushHeader")}) == 1
    assert server.version == 0


def test_a_restarted_shard_is_found_by_attaching_again_and_gets_the_part_again(
    server: FakeServer, make: Callable[..., Driver]
) -> None:
    driver = make()
    initialised(driver, server)
    driver.next_lease()
    server.restart_shard(1)
    assert driver.push(contribution(server, 0)) == COUNTED
    assert len(server.named("AttachRequest")) == 2
    assert driver.terms.reply.shards[1].incarnation == 2


def test_a_worker_that_was_forgotten_attaches_again(server: FakeServer, make: Callable[..., Driver]) -> None:
    driver = make()
    initialised(driver, server)
    server.workers.clear()
    assert driver.next_lease().step == 0
    assert len(server.named("AttachRequest")) == 2


def test_a_lost_lease_is_no_failure_and_says_why(server: FakeServer, make: Callable[..., Driver]) -> None:
    driver = make()
    initialised(driver, server)
    driver.next_lease()
    server.end_leases()
    answer = driver.push(contribution(server, 0))
    assert isinstance(answer, Ready)
    assert not answer.is_counted
    assert "has ended; lease again" in answer.why
    assert driver.next_lease().slot == 0


def test_a_late_answer_of_an_earlier_push_is_not_taken_for_the_next_goal(
    server: FakeServer, make: Callable[..., Driver]
) -> None:
    """Shard 0 refuses; shard 1 answers only during the next goal, where that must not count as a pull."""
    held = threading.Event()

    class Slow(FakeTransport):
        def push(
            self, address: m.ShardAddress, header: m.PushHeader, payload: Buffer, brought: Ranges = ()
        ) -> m.PushReply:
            if header.shard == 1 and not header.facts.base_version < 0:
                held.wait(10)
            return super().push(address, header, payload)

        def pull(self, address: m.ShardAddress, request: m.PullRequest) -> tuple[int, Buffer]:
            if request.shard == 1:
                held.set()
            return super().pull(address, request)

    driver = make(Slow(server))
    initialised(driver, server)
    driver.next_lease()
    server.failures["push"].append(ShapeMismatch("the part has 1 bytes, shard 0 expects 2"))
    with pytest.raises(Refused, match="SHAPE_MISMATCH"):
        driver.push(contribution(server, 0))
    assert driver.pull() == 0
    parts = driver.take_weights()
    assert parts is not None
    assert len(parts) == 2


def test_a_version_that_is_gone_gives_the_lease_back_and_takes_another(
    server: FakeServer, make: Callable[..., Driver]
) -> None:
    driver = make()
    initialised(driver, server)
    server.failures["pull"].append(VersionGone("version 0 is no longer served"))
    lease = driver.next_lease()
    assert len(server.named("ReleaseRequest")) == 1
    assert server.named("ReleaseRequest")[0].attempts != (lease.attempt,)
    assert driver.take_weights() is not None


def test_the_end_of_the_job_is_an_answer_while_pushing_and_an_exception_while_leasing(
    server: FakeServer, make: Callable[..., Driver]
) -> None:
    driver = make()
    initialised(driver, server)
    driver.next_lease()
    server.failures["push"].append(JobHasEnded("the job is over"))
    assert isinstance(driver.push(contribution(server, 0)), Ended)
    server.ended = "stopped by ada"
    with pytest.raises(JobEnded, match="stopped by ada"):
        driver.next_lease()


def test_nobody_answering_ends_in_server_unavailable_with_the_time_and_the_last_failure(
    server: FakeServer, make: Callable[..., Driver]
) -> None:
    server.failures["AttachRequest"].extend([TransportError("connection refused")] * 1000)
    ticks = itertools.count()
    driver = make(clock=lambda: float(next(ticks)), give_up_seconds=50.0)
    with pytest.raises(ServerUnavailable, match=r"no answer for \d+ s, last failure: connection refused"):
        driver.attach()


def test_a_pull_with_a_limit_gives_up_when_it_has_passed(
    server: FakeServer, make: Callable[..., Driver]
) -> None:
    ticks = itertools.count()
    driver = make(clock=lambda: float(next(ticks)))
    initialised(driver, server)
    server.failures["pull"].extend([TransportError("gone")] * 1000)
    with pytest.raises(ServerUnavailable, match="the newest weights did not come"):
        driver.pull(limit_seconds=30.0)


def test_a_refusal_is_not_repeated(server: FakeServer, make: Callable[..., Driver]) -> None:
    make().attach()
    other = FakeServer(job_of(name="other"))
    with pytest.raises(Refused, match=r"no job toy here \[JOB_UNKNOWN\]"):
        make(other.connect()).attach()
    assert len(other.named("AttachRequest")) == 1


def test_an_error_nobody_foresaw_reaches_the_script_as_it_is(
    server: FakeServer, make: Callable[..., Driver]
) -> None:
    server.failures["AttachRequest"].append(ZeroDivisionError("a bug"))
    with pytest.raises(ZeroDivisionError, match="a bug"):
        make().attach()


def test_a_part_of_the_wrong_length_is_refused_before_it_is_unpacked(
    server: FakeServer, make: Callable[..., Driver]
) -> None:
    class Short(FakeTransport):
        def pull(self, address: m.ShardAddress, request: m.PullRequest) -> tuple[int, Buffer]:
            version, part = super().pull(address, request)
            return version, part[:-4]

    driver = make(Short(server))
    initialised(driver, server)
    with pytest.raises(Refused, match="SHAPE_MISMATCH"):
        driver.pull()


def test_ctrl_c_interrupts_a_wait_and_the_driver_can_go_on(
    server: FakeServer, make: Callable[..., Driver]
) -> None:
    entered, leave = threading.Event(), threading.Event()

    class Stuck(FakeTransport):
        def call(self, request: Any) -> Any:
            if isinstance(request, m.LeaseRequest) and not leave.is_set():
                entered.set()
                leave.wait(10)
            return super().call(request)

    driver = make(Stuck(server))
    driver.attach()
    main = threading.main_thread().ident
    assert main is not None

    def interrupt() -> None:
        entered.wait(10)
        signal.pthread_kill(main, signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    # A shell that starts the tests in the background ignores SIGINT for them; a script's terminal does not.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        thread.start()
        with pytest.raises(KeyboardInterrupt):
            driver.next_lease()
        thread.join()
    finally:
        signal.signal(signal.SIGINT, before)
    assert driver.take_weights() is None
    leave.set()
    assert driver.next_lease().is_init


def test_a_heartbeat_tells_progress_of_the_lease_held(
    server: FakeServer, make: Callable[..., Driver]
) -> None:
    driver = make()
    initialised(driver, server)
    lease = driver.next_lease()
    driver.beat_once()
    driver.note_progress()
    driver.beat_once()
    first, second = server.named("HeartbeatRequest")
    assert first.progress[0].attempt == second.progress[0].attempt == lease.attempt
    assert second.progress[0].done == first.progress[0].done + 1


def test_an_attempt_that_a_heartbeat_reports_as_ended_is_dropped_while_it_is_pushed(
    server: FakeServer, make: Callable[..., Driver]
) -> None:
    pushing, leave = threading.Event(), threading.Event()

    class Stuck(FakeTransport):
        def push(
            self, address: m.ShardAddress, header: m.PushHeader, payload: Buffer, brought: Ranges = ()
        ) -> m.PushReply:
            if header.facts.base_version >= 0:
                pushing.set()
                leave.wait(10)
            return super().push(address, header, payload)

        def call(self, request: Any) -> Any:
            if isinstance(request, m.HeartbeatRequest):
                held = request.progress if pushing.is_set() else ()  # its own beats may come before
                ends = tuple(m.AttemptEnd(item.attempt, "expired") for item in held)
                return m.HeartbeatReply("running", 0, ends)
            return super().call(request)

    driver = make(Stuck(server))
    initialised(driver, server)
    driver.next_lease()

    def beat() -> None:
        pushing.wait(10)
        driver.beat_once()

    thread = threading.Thread(target=beat)
    thread.start()
    answer = driver.push(contribution(server, 0))
    thread.join()
    leave.set()
    assert isinstance(answer, Ready)
    assert not answer.is_counted
    assert answer.why == "expired"


def test_leaving_names_what_was_pushed_so_that_it_is_not_handed_back(
    server: FakeServer, make: Callable[..., Driver]
) -> None:
    driver = make()
    initialised(driver, server)
    lease = driver.next_lease()
    assert driver.push(contribution(server, 0)) == COUNTED
    driver.next_lease()
    driver.close()
    assert server.named("ReleaseRequest")[-1].staged[-1] == lease.attempt


def test_closing_hands_leases_back_once_and_closes_the_transport(
    server: FakeServer, make: Callable[..., Driver]
) -> None:
    transport = server.connect()
    driver = make(transport)
    initialised(driver, server)
    driver.next_lease()
    driver.close()
    driver.close()
    assert [call.is_leaving for call in server.named("ReleaseRequest")] == [True]
    assert server.workers == set()
    assert transport.is_closed
    with pytest.raises(Refused, match="closed; attach again"):
        driver.pull()


def test_a_goal_that_was_left_is_pursued_no_further(server: FakeServer, make: Callable[..., Driver]) -> None:
    """The lease arrives after the script gave up on it: nobody pulls weights for it."""
    refused = threading.Event()

    class Late(FakeTransport):
        def call(self, request: Any) -> Any:
            reply = super().call(request)
            if isinstance(request, m.LeaseRequest) and server.version == 0:
                refused.wait(10)
            return reply

    driver = make(Late(server))
    initialised(driver, server)

    class Left(Exception):
        pass

    def leave(_number: int, _frame: object) -> None:
        raise Left

    before = signal.signal(signal.SIGALRM, leave)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        with pytest.raises(Left):
            driver.next_lease()
    finally:
        signal.signal(signal.SIGALRM, before)
    refused.set()
    assert driver.next_lease().step == 0
    assert len(server.named("PullRequest")) == 2, "one pull of each shard, for the lease that was wanted"


def test_closing_in_a_forked_child_leaves_the_parents_leases_alone(
    server: FakeServer, make: Callable[..., Driver], monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = make()
    initialised(driver, server)
    with monkeypatch.context() as child:
        child.setattr("os.getpid", lambda: -1)
        driver.close()
    assert server.named("ReleaseRequest") == []
    assert driver.next_lease().step == 0


def test_bytes_of_an_earlier_round_are_dropped(server: FakeServer, make: Callable[..., Driver]) -> None:
    """A pull that was left and arrives late must not replace the bytes of the version asked for since."""

    class Altered(FakeTransport):
        is_late = False

        def pull(self, address: m.ShardAddress, request: m.PullRequest) -> tuple[int, Buffer]:
            version, part = super().pull(address, request)
            return version, bytes(len(part) - 1) + b"x" if self.is_late else part

    transport = Altered(server)
    driver = make(transport)
    initialised(driver, server)
    driver.next_lease()
    transport.is_late = True
    driver._make(Make(Call.PULL, shard=0, version=0, round=1), None)  # as its thread would, at last
    parts = driver.take_weights()
    assert parts is not None
    assert bytes(parts[0])[-1:] != b"x"


def test_closing_a_driver_whose_server_is_gone_raises_nothing(
    server: FakeServer, make: Callable[..., Driver]
) -> None:
    driver = make()
    driver.attach()
    server.failures["ReleaseRequest"].append(TransportError("connection refused"))
    driver.close()


def test_a_change_of_state_is_logged_once(
    server: FakeServer, make: Callable[..., Driver], caplog: pytest.LogCaptureFixture
) -> None:
    server.failures["AttachRequest"].extend([TransportError("connection refused")] * 6)
    make().attach()
    lines = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert lines == [
        "job toy: attach fails, trying again: connection refused",
        "job toy: attach works again after 6 tries",
    ]


def test_errors_that_ask_to_attach_again_do_so_from_any_call(
    server: FakeServer, make: Callable[..., Driver]
) -> None:
    driver = make()
    initialised(driver, server)
    server.failures["LeaseRequest"].append(WorkerUnknown("silent for too long"))
    server.failures["pull"].append(StaleIncarnation("restarted"))
    driver.next_lease()
    assert len(server.named("AttachRequest")) == 3
