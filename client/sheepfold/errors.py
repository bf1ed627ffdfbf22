"""What a training script can see going wrong: the job is over, nobody answers, or it was refused.

Exception
├── JobEnded             there is no more work; a loop over `run.slots()` simply ends
├── ServerUnavailable    nobody answered for a stated number of seconds
├── GroupBroken          another rank of this host's process group has failed or gone
└── Refused              the server, or this client, says no: the text names the remedy
"""

from __future__ import annotations

from sheepfold_wire.errors import JobDeleted, JobUnknown, SheepfoldError


class JobEnded(Exception):
    """The job has no more work."""

    def __init__(self, why: str) -> None:
        self.why = why
        reason = why or "all its steps are committed"
        super().__init__(f"the job has ended: {reason}; leave the training loop")


class ServerUnavailable(Exception):
    """No usable answer `after` so many seconds; what was under way may or may not have counted, once."""

    def __init__(self, after: float, what: str) -> None:
        self.after = after
        self.what = what
        super().__init__(
            f"no answer for {after:.0f} s, last failure: {what}. Check that the server runs "
            "(`sheepfold status`) and that $SHEEPFOLD names its coordinator, then start the script again"
        )


class GroupBroken(Exception):
    """Another rank of the process group has failed or gone. What was under way counts once, or not at all."""

    def __init__(self, what: str) -> None:
        super().__init__(
            f"the process group is broken: {what}. No rank can go on alone: start all of them again, as "
            "torchrun --max-restarts does"
        )


class Refused(Exception):
    """Trying again would not help: the text says what was wrong, with values, and the remedy.

    `error` is the server's answer, None if the client itself refused. Where one value is at fault, `field`
    names it, `expected` and `got` are what it should have been and what it was, `remedy` is what to do.
    """

    def __init__(
        self,
        text: str,
        error: SheepfoldError | None = None,
        *,
        field: str = "",
        expected: object = None,
        got: object = None,
        remedy: str = "",
    ) -> None:
        self.error = error
        self.field, self.expected, self.got, self.remedy = field, expected, got, remedy
        super().__init__(f"{text}: {remedy}" if remedy else text)

    @classmethod
    def by(cls, error: SheepfoldError) -> Refused:
        """The refusal that a role answered with."""
        text = f"{error} [{error.reason}]"
        if isinstance(error, JobUnknown) and not isinstance(error, JobDeleted):
            text += (
                ". Check the name (`sheepfold status` lists the jobs), or create it: attach(config=Job(...))"
            )
        return cls(text, error)
