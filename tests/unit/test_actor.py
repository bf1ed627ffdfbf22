"""sheepfold_server.shell.actor: one event at a time, effects in order, and an end once trust is lost."""

from __future__ import annotations

from sheepfold_server.shell.actor import Actor


def test_event_submitted_by_an_effect_waits_until_the_effects_before_it_are_done() -> None:
    seen: list[str] = []

    def perform(effect: str) -> None:
        seen.append(effect)
        if effect == "first of a":
            actor.submit("b")

    actor: Actor[str, str] = Actor(
        lambda event: [f"first of {event}", f"second of {event}"], perform, lambda error: None
    )
    actor.submit("a")
    assert seen == ["first of a", "second of a", "first of b", "second of b"]


def test_failure_is_told_once_and_nothing_is_handled_afterwards() -> None:
    """The submitter may be anybody's thread: the error is not its own, and what follows cannot be trusted."""
    failures: list[Exception] = []
    handled: list[str] = []

    def handle(event: str) -> list[str]:
        handled.append(event)
        raise RuntimeError("bookkeeping")

    actor: Actor[str, str] = Actor(handle, lambda effect: None, failures.append)
    actor.submit("a")
    actor.submit("b")
    assert (handled, [str(error) for error in failures]) == (["a"], ["bookkeeping"])
