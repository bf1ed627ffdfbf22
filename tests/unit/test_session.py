"""sheepfold.session: what a worker does next, and what it tries again."""

from __future__ import annotations

from typing import TypeVar

import pytest

import sheepfold_wire.messages as m
from sheepfold import events as s
from sheepfold.session import BACKOFF_SECONDS_FIRST, BACKOFF_SECONDS_MAX, Session
from sheepfold_wire.errors import (
    AttemptNotAnnounced,
    ChunkChecksumMismatch,
    JobHasEnded,
    LeaseEnded,
    ManifestMismatch,
    NonFinite,
    NotReady,
    Overloaded,
    PushInProgress,
    StaleIncarnation,
    StaleTerm,
    StepClosed,
    VersionGone,
    WorkerUnknown,
)
from sheepfold_wire.ids import AttemptId

T = TypeVar("T")
NETWORK = ConnectionError("no route")


def attached(lineage: str = "l", shards: int = 2, restarts: int = 0) -> m.AttachReply:
    """`restarts`: how often the last shard was started again."""
    addresses = tuple(
        m.ShardAddress(i, f"shard-{i}", i + 1 + restarts * (i == shards - 1)) for i in range(shards)
    )
    return m.AttachReply("j", "a", 1, lineage, 0, "", "", addresses, 2.0)


def lease_of(counter: int, base_version: int = 0, is_init: bool = False) -> m.Lease:
    return m.Lease(AttemptId(1, counter), is_init, base_version, 0, 4, 1, 10.0, 0, 0)


def leased(lease: m.Lease) -> s.LeaseAnswer:
    return s.LeaseAnswer(m.LeaseReply("leased", lease.base_version, "", lease))


class Bench:
    """One session; time stands still unless moved."""

    def __init__(self, jitter: float = 1.0, takes_newer_versions: bool = False) -> None:
        self.session = Session(lambda: jitter, 60.0, takes_newer_versions)
        self.now = 0.0

    def tell(self, event: s.SessionEvent) -> list[s.SessionAction]:
        return self.session.handle(event, self.now)

    def made(self, actions: list[s.SessionAction]) -> list[tuple[s.Call, int]]:
        return [(action.call, action.shard) for action in actions if isinstance(action, s.Make)]

    def want_lease(self) -> Bench:
        self.tell(s.Want(s.Goal.LEASE))
        self.tell(s.Attached(attached()))
        return self

    def with_lease(self, lease: m.Lease | None = None) -> Bench:
        """A lease is held and its weights are in place."""
        lease = lease or lease_of(1)
        self.want_lease().tell(leased(lease))
        for shard in range(2):
            self.tell(s.Pulled(shard, lease.base_version, self.session.round))
        return self

    def failed(self, call: s.Call, error: Exception, shard: int = -1) -> list[s.SessionAction]:
        return self.tell(s.CallFailed(call, shard, error, self.session.round))


def only(actions: list[s.SessionAction], kind: type[T]) -> T:
    found = [action for action in actions if isinstance(action, kind)]
    assert len(found) == 1, actions
    return found[0]


# --- the usual course ------------------------------------------------------------------------------------


def test_first_want_attaches() -> None:
    bench = Bench()
    assert bench.made(bench.tell(s.Want(s.Goal.LEASE))) == [(s.Call.ATTACH, -1)]


def test_attached_session_asks_for_a_lease() -> None:
    bench = Bench()
    bench.tell(s.Want(s.Goal.LEASE))
    assert bench.made(bench.tell(s.Attached(attached()))) == [(s.Call.LEASE, -1)]


def test_lease_pulls_its_version_from_every_shard() -> None:
    actions = Bench().want_lease().tell(leased(lease_of(1, base_version=3)))
    pulls = [(a.shard, a.version) for a in actions if isinstance(a, s.Make)]
    assert pulls == [(0, 3), (1, 3)]


def test_lease_is_ready_once_every_shard_has_served() -> None:
    bench = Bench().want_lease()
    bench.tell(leased(lease_of(1)))
    assert bench.tell(s.Pulled(0, 0, bench.session.round)) == []
    assert bench.tell(s.Pulled(1, 0, bench.session.round)) == [s.Ready(s.Goal.LEASE, lease_of(1))]


def test_weights_already_in_place_are_not_pulled_again() -> None:
    bench = Bench().with_lease()
    bench.tell(s.Want(s.Goal.LEASE))
    assert bench.tell(leased(lease_of(2))) == [s.Ready(s.Goal.LEASE, lease_of(2))]


def test_init_lease_needs_no_weights() -> None:
    init = lease_of(1, -1, is_init=True)
    assert Bench().want_lease().tell(leased(init)) == [s.Ready(s.Goal.LEASE, init)]


def test_contribution_goes_to_every_shard_under_its_attempt() -> None:
    actions = Bench().with_lease().tell(s.Offer())
    assert [(a.call, a.shard, a.attempt) for a in actions if isinstance(a, s.Make)] == [
        (s.Call.PUSH, 0, AttemptId(1, 1)),
        (s.Call.PUSH, 1, AttemptId(1, 1)),
    ]


def test_push_counts_once_every_shard_has_staged_it() -> None:
    bench = Bench().with_lease()
    bench.tell(s.Offer())
    assert bench.tell(s.Pushed(1, bench.session.round)) == []
    assert bench.tell(s.Pushed(0, bench.session.round)) == [
        s.Ready(s.Goal.PUSH, lease_of(1), is_counted=True)
    ]
    assert bench.session.lease is None


def test_no_lease_yet_asks_again() -> None:
    bench = Bench().want_lease()
    actions = bench.tell(s.LeaseAnswer(m.LeaseReply("wait", 0, "slot 3")))
    assert bench.made(actions) == [(s.Call.LEASE, -1)]


def test_lease_call_names_attempts_heard_of() -> None:
    bench = Bench().with_lease()
    action = only(bench.tell(s.Want(s.Goal.LEASE)), s.Make)
    assert action.holding == (AttemptId(1, 1),)


def test_paused_job_is_said() -> None:
    actions = Bench().want_lease().tell(s.LeaseAnswer(m.LeaseReply("paused", 0, "by ann")))
    assert only(actions, s.Say).text == "the job is paused: by ann"


def test_ended_job_ends_the_goal() -> None:
    actions = Bench().want_lease().tell(s.LeaseAnswer(m.LeaseReply("ended", 5, "all 5 steps")))
    assert actions == [s.Ended("all 5 steps")]


def test_refusal_because_the_job_has_ended_ends_the_goal() -> None:
    assert Bench().want_lease().failed(s.Call.LEASE, JobHasEnded("over")) == [s.Ended("over")]


# --- one version -----------------------------------------------------------------------------------------


def test_pull_of_two_versions_asks_the_older_shard_again() -> None:
    """A pull is never torn."""
    bench = Bench().want_lease()
    bench.tell(s.Want(s.Goal.WEIGHTS))
    bench.tell(s.Pulled(0, 4, bench.session.round))
    assert bench.tell(s.Pulled(1, 5, bench.session.round)) == [s.WaitUntil(0.0)]
    again = only(bench.tell(s.Tick()), s.Make)
    assert (again.shard, again.version) == (0, 5)
    assert bench.tell(s.Pulled(0, 5, bench.session.round)) == [s.Ready(s.Goal.WEIGHTS)]
    assert bench.session.version == 5


def test_pull_given_up_half_way_leaves_no_version() -> None:
    """Some weights are replaced: the old version may not be taken for what is there."""
    bench = Bench().with_lease()
    bench.tell(s.Want(s.Goal.WEIGHTS, 7))
    bench.tell(s.Pulled(0, 7, bench.session.round))
    bench.tell(s.Want(s.Goal.LEASE))
    assert bench.made(bench.tell(leased(lease_of(2)))) == [(s.Call.PULL, 0), (s.Call.PULL, 1)]


def test_version_gone_hands_the_lease_back_and_asks_for_another() -> None:
    bench = Bench().want_lease()
    bench.tell(leased(lease_of(1)))
    actions = bench.failed(s.Call.PULL, VersionGone("gone"), 0)
    assert bench.made(actions) == [(s.Call.RELEASE, -1), (s.Call.LEASE, -1)]


def test_version_gone_takes_newer_weights_where_the_job_allows_it() -> None:
    bench = Bench(takes_newer_versions=True).want_lease()
    bench.tell(leased(lease_of(1)))
    actions = bench.failed(s.Call.PULL, VersionGone("gone"), 0)
    assert [(a.shard, a.version) for a in actions if isinstance(a, s.Make)] == [(0, None), (1, None)]


def test_new_lineage_forgets_the_weights() -> None:
    bench = Bench().with_lease()
    bench.tell(s.Want(s.Goal.LEASE))
    bench.failed(s.Call.LEASE, WorkerUnknown("attach"))
    bench.tell(s.Attached(attached("other")))
    assert bench.session.version == -1


# --- answers that come too late --------------------------------------------------------------------------


def test_push_of_a_former_lease_does_not_count_for_this_one() -> None:
    bench = Bench().with_lease()
    bench.tell(s.Offer())
    old = bench.session.round
    bench.failed(s.Call.PUSH, StepClosed("late"), 0)
    bench.tell(s.Want(s.Goal.LEASE))
    bench.tell(leased(lease_of(2)))
    bench.tell(s.Offer())
    bench.tell(s.Pushed(1, old))
    assert bench.tell(s.Pushed(0, bench.session.round)) == []


def test_push_that_ends_late_is_no_pull() -> None:
    bench = Bench().with_lease()
    bench.tell(s.Offer())
    old = bench.session.round
    bench.failed(s.Call.PUSH, StepClosed("late"), 0)
    bench.tell(s.Want(s.Goal.LEASE))
    bench.tell(leased(lease_of(2, base_version=1)))
    bench.tell(s.Pushed(1, old))
    assert bench.tell(s.Pulled(0, 1, bench.session.round)) == []


def test_refusal_of_a_former_push_does_not_fail_the_next_goal() -> None:
    bench = Bench().with_lease()
    bench.tell(s.Offer())
    old = bench.session.round
    bench.failed(s.Call.PUSH, StepClosed("late"), 0)
    bench.tell(s.Want(s.Goal.LEASE))
    assert bench.tell(s.CallFailed(s.Call.PUSH, 1, StepClosed("late"), old)) == []


def test_pull_of_a_former_lease_is_no_pull_of_this_one() -> None:
    bench = Bench().want_lease()
    bench.tell(leased(lease_of(1)))
    old = bench.session.round
    bench.failed(s.Call.PULL, VersionGone("gone"), 0)
    bench.tell(leased(lease_of(2, base_version=1)))
    bench.tell(s.Pulled(1, 0, old))
    assert bench.tell(s.Pulled(0, 1, bench.session.round)) == []


# --- ended attempts --------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [StepClosed("late"), LeaseEnded("ended"), NonFinite("NaN")])
def test_contribution_that_does_not_count_is_dropped(error: Exception) -> None:
    bench = Bench().with_lease()
    bench.tell(s.Offer())
    ready = only(bench.failed(s.Call.PUSH, error, 0), s.Ready)
    assert (ready.goal, ready.is_counted, ready.why) == (s.Goal.PUSH, False, str(error))


def test_push_is_given_up_when_a_heartbeat_says_the_attempt_ended() -> None:
    bench = Bench().with_lease()
    bench.tell(s.Offer())
    ends = (m.AttemptEnd(AttemptId(1, 1), "superseded"),)
    ready = only(bench.tell(s.Heard(m.HeartbeatReply("running", 0, ends))), s.Ready)
    assert (ready.is_counted, ready.why) == (False, "superseded")


def test_end_of_another_attempt_is_no_matter() -> None:
    bench = Bench().with_lease()
    bench.tell(s.Offer())
    ends = (m.AttemptEnd(AttemptId(1, 9), "expired"),)
    assert bench.tell(s.Heard(m.HeartbeatReply("running", 0, ends))) == []


# --- trying again ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error", [NETWORK, AttemptNotAnnounced("wait"), PushInProgress("wait"), NotReady("wait")]
)
def test_push_without_a_verdict_is_made_again_under_the_same_attempt(error: Exception) -> None:
    bench = Bench().with_lease()
    bench.tell(s.Offer())
    wait = only(bench.failed(s.Call.PUSH, error, 0), s.WaitUntil)
    bench.now = wait.at
    again = only(bench.tell(s.Tick()), s.Make)
    assert (again.call, again.shard, again.attempt) == (s.Call.PUSH, 0, AttemptId(1, 1))


def test_worker_without_a_place_says_so_waits_and_gives_up_like_one_without_a_server() -> None:
    full, bench = Overloaded("job bert has 256 workers, quota"), Bench()
    bench.tell(s.Want(s.Goal.LEASE))
    said: list[s.SessionAction] = []
    for bench.now in range(0, 60, 10):
        said += bench.failed(s.Call.ATTACH, full)
        bench.tell(s.Tick())
    assert any(isinstance(each, s.Say) and "256 workers" in each.text for each in said)
    assert not [each for each in said if isinstance(each, s.Failed)]
    bench.now = 61
    assert only(bench.failed(s.Call.ATTACH, full), s.Failed).error is full


def test_nothing_is_made_before_its_time() -> None:
    bench = Bench().with_lease()
    bench.tell(s.Offer())
    wait = only(bench.failed(s.Call.PUSH, NETWORK, 0), s.WaitUntil)
    bench.now = wait.at - 0.001
    assert bench.tell(s.Tick()) == [wait]


def waits(bench: Bench, failures: int) -> list[float]:
    found = []
    for _ in range(failures):
        wait = only(bench.failed(s.Call.LEASE, NotReady("not yet")), s.WaitUntil)
        found.append(wait.at - bench.now)
        bench.now = wait.at
        bench.tell(s.Tick())
    return found


def test_backoff_doubles_up_to_its_bound() -> None:
    found = waits(Bench().want_lease(), 8)
    assert found[:3] == pytest.approx([BACKOFF_SECONDS_FIRST * 2.0**n for n in (1, 2, 3)])
    assert max(found) == pytest.approx(BACKOFF_SECONDS_MAX)


def test_jitter_may_take_any_part_of_the_backoff() -> None:
    assert waits(Bench(jitter=0.5).want_lease(), 1) == pytest.approx([BACKOFF_SECONDS_FIRST])


def test_answer_resets_the_backoff() -> None:
    bench = Bench().want_lease()
    waits(bench, 5)
    bench.tell(s.LeaseAnswer(m.LeaseReply("wait", 0, "")))
    assert waits(bench, 1) == pytest.approx([2 * BACKOFF_SECONDS_FIRST])


def test_other_shards_do_not_wait_for_one_that_failed() -> None:
    bench = Bench().with_lease()
    bench.tell(s.Offer())
    bench.failed(s.Call.PUSH, NETWORK, 0)
    bench.now = 10.0
    assert bench.made(bench.tell(s.Tick())) == [(s.Call.PUSH, 0)]


def test_session_fails_when_nobody_answers_for_long() -> None:
    bench = Bench().want_lease()
    bench.failed(s.Call.LEASE, NETWORK)
    bench.now = 60.1
    assert only(bench.failed(s.Call.LEASE, NETWORK), s.Failed).error is NETWORK


def test_answer_of_a_call_ends_the_silence() -> None:
    bench = Bench().want_lease()
    bench.failed(s.Call.LEASE, NETWORK)
    bench.tell(s.LeaseAnswer(m.LeaseReply("wait", 0, "")))
    bench.now = 60.1
    assert not [a for a in bench.failed(s.Call.LEASE, NETWORK) if isinstance(a, s.Failed)]


def test_heartbeat_does_not_speak_for_a_shard_that_is_silent() -> None:
    bench = Bench().with_lease()
    bench.tell(s.Offer())
    bench.failed(s.Call.PUSH, NETWORK, 0)
    bench.tell(s.Heard(m.HeartbeatReply("running", 0)))
    bench.now = 60.1
    assert only(bench.failed(s.Call.PUSH, NETWORK, 0), s.Failed).error is NETWORK


def test_altered_bytes_are_sent_again_three_times() -> None:
    bench = Bench().with_lease()
    bench.tell(s.Offer())
    for _ in range(3):
        bench.now = only(bench.failed(s.Call.PUSH, ChunkChecksumMismatch("xxh"), 0), s.WaitUntil).at
        bench.tell(s.Tick())
    assert isinstance(only(bench.failed(s.Call.PUSH, ChunkChecksumMismatch("xxh"), 0), s.Failed), s.Failed)


@pytest.mark.parametrize("error", [StaleIncarnation("old"), WorkerUnknown("who")])
def test_worker_that_lost_its_place_attaches_again(error: Exception) -> None:
    bench = Bench().with_lease()
    bench.tell(s.Offer())
    assert bench.made(bench.failed(s.Call.PUSH, error, 0)) == [(s.Call.ATTACH, -1)]


def test_contribution_is_pushed_whole_after_attaching_again() -> None:
    bench = Bench().with_lease()
    bench.tell(s.Offer())
    bench.failed(s.Call.PUSH, StaleIncarnation("old"), 0)
    bench.now = 10.0
    assert (s.Call.PUSH, 0) in bench.made(bench.tell(s.Attached(attached())))


@pytest.mark.parametrize(("restarts", "again"), [(0, []), (1, [(s.Call.PUSH, 1)])])
def test_attaching_again_repeats_what_is_under_way_only_to_a_shard_that_was_started_again(
    restarts: int, again: list[tuple[s.Call, int]]
) -> None:
    bench = Bench().with_lease()
    bench.tell(s.Offer())
    bench.failed(s.Call.PUSH, NETWORK, 0)
    bench.now = 10.0
    bench.tell(s.Tick())
    assert bench.made(bench.failed(s.Call.PUSH, NETWORK, 0)) == [(s.Call.ATTACH, -1)]
    bench.now = 20.0
    assert bench.made(bench.tell(s.Attached(attached(restarts=restarts)))) == [(s.Call.PUSH, 0), *again]


def test_what_does_not_get_better_is_told_to_the_script() -> None:
    error = ManifestMismatch("another model")
    assert Bench().want_lease().failed(s.Call.LEASE, error) == [s.Failed(error)]


def test_one_call_of_a_kind_is_under_way_at_a_time() -> None:
    bench = Bench().want_lease()
    assert bench.tell(s.Tick()) == []


def test_long_trouble_is_said_when_it_begins_and_when_it_ends() -> None:
    bench = Bench().want_lease()
    said = []
    for _ in range(4):
        actions = bench.failed(s.Call.LEASE, NETWORK)
        said += [a.text for a in actions if isinstance(a, s.Say)]
        bench.now = only(actions, s.WaitUntil).at
        bench.tell(s.Tick())
    actions = bench.tell(s.LeaseAnswer(m.LeaseReply("wait", 0, "b")))
    said += [a.text for a in actions if isinstance(a, s.Say)]
    assert said == ["lease fails, trying again: no route", "lease works again after 4 tries", "waiting for b"]


def test_contribution_to_a_lineage_that_ended_does_not_count_and_nothing_is_pushed() -> None:
    """The job went back to a checkpoint while the script pulled, between its lease and its push."""
    bench = Bench().with_lease()
    bench.tell(s.Want(s.Goal.WEIGHTS))
    bench.now += 10.0
    bench.tell(s.CallFailed(s.Call.PULL, 0, StaleTerm("went back"), bench.session.round))
    bench.now += 10.0
    bench.tell(s.Tick())
    said = [action.text for action in bench.tell(s.Attached(attached("l2"))) if isinstance(action, s.Say)]
    assert said == ["the job went back to version 0, which was kept"]
    for shard in range(2):
        bench.tell(s.Pulled(shard, 0, bench.session.round))
    (done,) = bench.tell(s.Offer())
    assert isinstance(done, s.Ready)
    assert not done.is_counted
    assert "went back" in done.why
