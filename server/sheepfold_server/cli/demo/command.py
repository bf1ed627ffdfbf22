"""The command itself: options in, progress on stderr, the summary on stdout."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from sheepfold_server.cli.demo.fleet import DemoFailed
from sheepfold_server.cli.demo.plan import ACCURACY_MIN, STEPS, DemoPlan
from sheepfold_server.cli.demo.progress import progress_for
from sheepfold_server.cli.demo.show import Show
from sheepfold_server.cli.demo.summary import Summary
from sheepfold_server.cli.refusals import EXIT_FAILED, say
from sheepfold_server.cli.up import stop_on_signals
from sheepfold_server.shell.child import Interrupted
from sheepfold_server.shell.supervisor import PartLost
from sheepfold_wire.codecs import Codec

EPILOG = "Example: `sheepfold demo --keep` and look at the dashboard until ctrl-C."
EXIT_INTERRUPTED = 130


def demo(
    data_dir: Annotated[
        Path | None,
        typer.Option(
            envvar="SHEEPFOLD_DATA",
            help="Folder with Fashion-MNIST's four .gz files; left out: what is installed.",
        ),
    ] = None,
    steps: Annotated[
        int, typer.Option(min=20, max=100_000, help="Optimizer steps of 1,024 samples.")
    ] = STEPS,
    shards: Annotated[int, typer.Option(min=1, max=64, help="Number of shard processes.")] = 2,
    workers: Annotated[
        int, typer.Option(min=1, max=64, help="Number of worker processes; one is killed half-way.")
    ] = 3,
    keep: Annotated[
        bool, typer.Option("--keep", help="Leave the dashboard up at the end, until ctrl-C.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the summary as one JSON line, last on stdout.")
    ] = False,
    seed: Annotated[
        int, typer.Option(min=0, max=2**31, help="Seed of the initial weights and the order of samples.")
    ] = 0,
    codec: Annotated[Codec, typer.Option(help="How gradients travel.")] = Codec.BF16,
) -> None:
    """Train LeNet-5 on Fashion-MNIST on this machine, kill a worker half-way, and show that nothing is lost.

    Takes one or two minutes on two cores and needs no network. Fails with exit code 1 if the accuracy stays
    below 0.87 (judged from 300 steps on), or if samples are lost or counted twice.
    """
    plan = DemoPlan(data_dir, steps, shards, workers, seed, codec.value)
    directory = Path(tempfile.mkdtemp(prefix="sheepfold-demo-"))
    stopped = stop_on_signals()
    keeps_logs = False
    show = Show(plan, directory, stopped, progress_for(steps))
    try:
        summary = show.run()
        _print(summary, as_json)
        if keep:
            show.keep()
    except (DemoFailed, PartLost) as error:
        keeps_logs = True
        say(f"{error} (logs: {directory / 'logs'})")
        raise typer.Exit(EXIT_FAILED) from None
    except Interrupted:
        say("stopped before the end")
        raise typer.Exit(EXIT_INTERRUPTED) from None
    finally:
        show.close()
        if not keeps_logs:
            shutil.rmtree(directory, ignore_errors=True)
    if summary.accuracy < ACCURACY_MIN and steps >= STEPS:
        say(f"accuracy {summary.accuracy:.4f} is below {ACCURACY_MIN}: something is wrong with the training")
        raise typer.Exit(EXIT_FAILED)


def _print(summary: Summary, as_json: bool) -> None:
    typer.echo(summary.text(), err=as_json)
    if as_json:
        typer.echo(json.dumps(summary.facts()))
