"""`sheepfold job ...`: create, look at and steer jobs."""

from __future__ import annotations

import getpass
import json
import uuid
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from sheepfold_server.cli.address import DEFAULT, Address, Wait
from sheepfold_server.cli.job_table import job_table
from sheepfold_server.cli.parameters import names_in, parameter_table
from sheepfold_server.cli.refusals import Group
from sheepfold_wire import messages as m
from sheepfold_wire.control import Control
from sheepfold_wire.errors import BadConfig
from sheepfold_wire.job import LIVE_KEYS, job_from_json, job_from_toml, job_schema
from sheepfold_wire.schedule import check_plan

app = typer.Typer(cls=Group, no_args_is_help=True, help="Create, look at and steer jobs.")

REWIND_SECONDS = 3_600.0
"""Every file of the checkpoint is read first."""
DELETE_SECONDS = 3_600.0
"""The same."""

JobFile = Annotated[Path, typer.Option("--file", "-f", metavar="JOB.TOML", help="The job file.")]
JobName = Annotated[str, typer.Argument(metavar="NAME", help="Name of the job.")]
AtStep = Annotated[
    int,
    typer.Option(min=-1, metavar="N", help="First step it holds for; -1: the first that is not decided yet."),
]


@app.command(epilog="Example: `sheepfold job example > job.toml`")
def example() -> None:
    """Print a commented job file with every key, to begin with."""
    typer.echo((files("sheepfold_server.cli") / "job_example.toml").read_text("utf-8"), nl=False)


@app.command(epilog="Example: `sheepfold job check -f job.toml`")
def check(
    file: JobFile,
    parameters: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Names of the model's parameters, one per line; - reads standard input."
        ),
    ] = None,
) -> None:
    """Print every value of a job file as it will be used; needs no server.

    With the names of the model's parameters: also the group, decay and trust ratio that each name decides.
    """
    job = job_from_toml(file)
    check_plan(job)
    tables = [job_table(job)]
    if parameters is not None:
        tables.append(parameter_table(job, names_in(parameters)))
    Console().print(*tables, sep="\n\n")


@app.command(epilog="Example: `sheepfold job schema > job.schema.json`")
def schema() -> None:
    """Print the JSON Schema of a job file: every key, its type and what is allowed."""
    typer.echo(json.dumps(job_schema(), indent=2))


@app.command(epilog="Example: `sheepfold job create -f job.toml --wait 30`")
def create(file: JobFile, address: Address = DEFAULT, wait: Wait = 0.0) -> None:
    """Create a job, or confirm that the same job exists; its model comes with the first worker."""
    job = job_from_toml(file)
    with Control(address) as control:
        reply = control.create(m.CreateJobRequest(uuid.uuid4().hex, job.to_json()), wait)
    typer.echo(
        f"job {reply.job} {'created' if reply.is_new else 'exists already, with the same configuration'}"
    )


@app.command(epilog="Example: `sheepfold job show lenet`")
def show(name: JobName, address: Address = DEFAULT) -> None:
    """Print the configuration of a job as the server has it, changes included."""
    with Control(address) as control:
        found = control.status(name)
    Console().print(job_table(job_from_json(found.config_json)))


@app.command(epilog="Example: `sheepfold job history lenet`")
def history(name: JobName, address: Address = DEFAULT) -> None:
    """Print what was changed while the job ran: from which step, by whom, old and new value."""
    with Control(address) as control:
        changes = control.status(name).changes
    if not changes:
        typer.echo(f"job {name}: nothing was changed since it was created")
    for change in changes:
        typer.echo(f"step {change.from_step:,}  {change.author}: {change.text}")


@app.command(epilog="Example: `sheepfold job freeze 'encoder.*' lenet --at-step 500`")
def freeze(
    pattern: Annotated[
        str, typer.Argument(metavar="PATTERN", help="Names of parameters; * and ? stand for any.")
    ],
    name: JobName,
    at_step: AtStep = -1,
    thaw: Annotated[bool, typer.Option("--thaw", help="Let them train again, by the same pattern.")] = False,
    address: Address = DEFAULT,
) -> None:
    """Leave parameters as they are from a step on; the others train as before."""
    with Control(address) as control:
        frozen = list(job_from_json(control.status(name).config_json).frozen)
        if thaw and pattern not in frozen:
            raise BadConfig(f"{pattern!r} is not frozen; frozen are: {', '.join(frozen) or 'none'}")
        changed = [p for p in frozen if p != pattern] + ([] if thaw else [pattern])
        changes = json.dumps({"frozen": changed})
        reply = control.change(m.ConfigChangeRequest(uuid.uuid4().hex, name, at_step, changes, author()))
    typer.echo(f"job {name}: frozen from step {reply.from_step} on: {', '.join(changed) or 'nothing'}")


@app.command(epilog="Example: `sheepfold job pause lenet`")
def pause(name: JobName, address: Address = DEFAULT) -> None:
    """Give out no more work; what is leased is finished."""
    _control(name, "pause", address)


@app.command(epilog="Example: `sheepfold job resume lenet`")
def resume(name: JobName, address: Address = DEFAULT) -> None:
    """Go on after a pause."""
    _control(name, "resume", address)


@app.command(epilog="Example: `sheepfold job stop lenet`")
def stop(name: JobName, address: Address = DEFAULT) -> None:
    """End a job after its open step; its weights stay readable while the server runs."""
    _control(name, "stop", address)


@app.command(epilog="Example: `sheepfold job rewind lenet --to 400 --skip-samples 51200:52224`")
def rewind(
    name: JobName,
    to: Annotated[int, typer.Option("--to", min=0, metavar="V", help="Version to go on from.")],
    skip_samples: Annotated[
        list[str],
        typer.Option(
            metavar="A:B",
            help="Places A to B - 1 of the sample stream are not read this time; may be repeated.",
        ),
    ] = [],  # noqa: B006
    address: Address = DEFAULT,
) -> None:
    """Go back to an earlier version, as a new lineage; later steps are forgotten.

    To any version that a checkpoint holds or that the logs of coordinator and shards still lead to; else the
    refusal says which they do. One that no checkpoint holds is made again from the logs: training waits for
    the steps before it, and every shard needs the memory of its state once more."""
    skip = tuple(parse_range(text) for text in skip_samples)
    with Control(address, REWIND_SECONDS) as control:
        reply = control.rewind(m.RewindRequest(uuid.uuid4().hex, name, to, skip, author()))
    typer.echo(f"job {name}: goes on from version {reply.version} as lineage {reply.lineage}")


@app.command(epilog="Example: `sheepfold job delete lenet`")
def delete(
    name: JobName,
    without_checkpoint: Annotated[
        bool,
        typer.Option(
            "--without-checkpoint", help="Also if no checkpoint holds its newest version: it is lost."
        ),
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for the name again.")] = False,
    address: Address = DEFAULT,
) -> None:
    """Forget a job that has ended: its logs, and the memory it takes on shards. Its name is free then.

    Its checkpoints stay, always; `sheepfold checkpoint restore` takes it up from them. The newest is read
    whole first."""
    with Control(address, DELETE_SECONDS) as control:
        if not yes:
            _confirm(name, control.status(name).version)
        reply = control.delete(m.DeleteJobRequest(uuid.uuid4().hex, name, author(), without_checkpoint))
    typer.echo(f"job {name} is deleted; {_kept(name, reply)}")
    if reply.shards_away:
        away = ", ".join(map(str, reply.shards_away))
        typer.echo(f"not linked at present: shards {away}; they remove what they hold of it when they are")


def _confirm(name: str, version: int) -> None:
    """Raises BadConfig unless the name is typed once more."""
    try:
        typed = typer.prompt(f"Job {name}, at version {version}, is to be deleted. Its name again", err=True)
    except typer.Abort:
        raise BadConfig("nobody has typed the name again, nothing is deleted; --yes does not ask") from None
    if typed != name:
        raise BadConfig(f"{typed!r} is not {name!r}: nothing is deleted")


def _kept(name: str, reply: m.DeleteJobReply) -> str:
    if reply.kept_version < 0:
        return "nothing of it is kept"
    lost = "" if reply.kept_version == reply.version else f", and nothing after it up to {reply.version}"
    return (
        f"version {reply.kept_version} stays in {reply.checkpoint_url}{lost}: `sheepfold checkpoint restore "
        f"{name}` takes it up"
    )


def parse_range(text: str) -> m.SampleRange:
    """Of A:B, B excluded; raises BadConfig."""
    start, separator, end = text.partition(":")
    if not separator or not start.isdecimal() or not end.isdecimal() or int(end) <= int(start):
        raise BadConfig(f"--skip-samples {text!r}: give A:B, two numbers with A less than B")
    return m.SampleRange(int(start), int(end) - int(start))


def _control(name: str, action: str, address: Address) -> None:
    with Control(address) as control:
        reply = control.control(m.ControlRequest(name, action, author()))
    is_ending = action == "stop" and reply.state != "ended"
    typer.echo(f"job {name} is {reply.state}" + (", and ends after its open step" if is_ending else ""))


@app.command("set", epilog="Example: `sheepfold job set optimizer.lr.peak=0.01 lenet --at-step 500`")
def set_values(
    assignment: Annotated[str, typer.Argument(metavar="KEY=VALUE", help=f"One of {', '.join(LIVE_KEYS)}.")],
    name: JobName,
    at_step: AtStep = -1,
    address: Address = DEFAULT,
) -> None:
    """Change a live value of a running job from a step on."""
    changes = parse_assignment(assignment)
    with Control(address) as control:
        request = m.ConfigChangeRequest(uuid.uuid4().hex, name, at_step, json.dumps(changes), author())
        reply = control.change(request)
    typer.echo(f"job {name}: {assignment} from step {reply.from_step} on")


def parse_assignment(text: str) -> dict[str, Any]:
    """`{key: value}` of KEY=VALUE; the value is read as JSON (a number, null). Raises BadConfig."""
    key, separator, value = (part.strip() for part in text.partition("="))
    if not separator or not value or key not in LIVE_KEYS:
        raise BadConfig(f"{text!r}: give KEY=VALUE with one of the live keys {', '.join(LIVE_KEYS)}")
    try:
        return {key: json.loads(value)}
    except (ValueError, RecursionError):
        raise BadConfig(f"{text!r}: {value!r} is not a number; write e.g. {key}=0.01") from None


def author() -> str:
    """Who is named in the job's history of changes."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container's user without an entry
        return "unknown"
