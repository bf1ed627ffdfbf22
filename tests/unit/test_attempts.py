"""sheepfold_server.core.attempts: what is kept in indices is what a look at every attempt finds."""

from __future__ import annotations

import random

import pytest

from sheepfold_server.core.attempts import Attempt, Attempts

STEPS, SLOTS, CHANGES = 3, 5, 400


def check(attempts: Attempts) -> None:
    live = list(attempts)
    assert attempts.unadmitted() == sum(not attempt.is_admitted for attempt in live)
    assert list(attempts.unstaged()) == [attempt for attempt in live if not attempt.is_staged]
    for worker in ("a", "b"):
        assert attempts.of_worker(worker) == [x for x in live if x.worker == worker and not x.is_staged]
    for step in range(STEPS):
        places = [[x for x in live if (x.step, x.slot) == (step, slot)] for slot in range(SLOTS)]
        found = [attempts.of_slot(step, slot) for slot in range(SLOTS)]
        assert [{x.id for x in group} for group in found] == [{x.id for x in group} for group in places]
        assert list(attempts.free_slots(step, SLOTS)) == [k for k, group in enumerate(places) if not group]


def changes_of(attempt: Attempt) -> list[str]:
    """What may happen to a live attempt."""
    known = attempt.step is not None
    return [
        *(["stage"] if not attempt.is_staged else []),
        *(["admit"] if attempt.is_staged and known and not attempt.is_admitted else []),
        *(["withdraw", "commit"] if attempt.is_admitted else []),
        *(["know"] if not known and not attempt.is_init else []),
        *(["forget"] if known else []),
        "end",
    ]


@pytest.mark.parametrize("seed", range(20))
def test_indices_agree_with_a_look_at_every_attempt_after_any_change(seed: int) -> None:
    chance, attempts = random.Random(seed), Attempts(term=1)
    for now in range(CHANGES):
        live = list(attempts)
        if not live or (len(live) < 3 * SLOTS and chance.random() < 0.4):
            step = chance.choice([None, *range(STEPS)])
            attempts.grant(chance.choice("ab"), step, chance.randrange(SLOTS), 0, now, 30.0, False)
        else:
            attempt = chance.choice(live)
            match chance.choice(changes_of(attempt)):
                case "stage":
                    attempts.stage(attempt)
                case "admit":
                    attempts.admit(attempt)
                case "withdraw":
                    attempts.withdraw(attempt)
                case "know":
                    attempts.move(attempt, chance.randrange(STEPS))
                case "forget":
                    attempts.move(attempt, None)
                case "commit":
                    attempts.commit(attempt, is_skip=False)
                case "end":
                    attempts.end(attempt, "expired")
        check(attempts)
    counts = attempts.counts()
    assert counts.leased == counts.committed + counts.dropped + counts.outstanding


def test_what_was_admitted_in_an_earlier_term_takes_its_place_and_no_room() -> None:
    old, attempts = Attempts(term=1), Attempts(term=2)
    attempt = old.grant("a", 1, 2, 0, 0.0, 30.0, False)
    old.stage(attempt)
    old.admit(attempt)
    attempts.adopt(attempt)
    check(attempts)
    assert (attempts.unadmitted(), attempts.of_slot(1, 2)) == (0, [attempt])
