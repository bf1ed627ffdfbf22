"""Command lines of the documents: cut into commands, and each checked in the way of its program.

`sheepfold` lines are parsed by the real command line, options and all. Those in RUN are then run, against a
small `sheepfold up` whose jobs have made two steps. Those in PARSED_ONLY are not, for the reason that stands
there; one in neither table is an error. Lines of other programs are never run; what they name must be there:

* `make`: the target;
* `helm install`: the chart, which renders with the options of the line;
* `kubectl`: the files, and the objects of the chart;
* `python`, `sbatch`: the script;
* `.`, `base64`, `docker`, `export`, `sed`: nothing more than that bash can read the line.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import typer.main
import yaml
from tests.chart.rendering import CHART, helm, rendered_text
from typer.core import TyperGroup

from sheepfold_server.cli.app import app

ROOT = Path(__file__).parents[2]
RUN = (
    *("audit", "certs", "checkpoint list", "checkpoint save", "checkpoint verify", "doctor"),
    *("job check", "job create", "job example", "job freeze", "job history", "job pause", "job resume"),
    *("job set", "plan", "status", "support-bundle", "token"),
)
PARSED_ONLY = {
    "up": "runs until ctrl-C; the lines that are run here have one beside them",
    "status --watch": "the same",
    "export": "runs until the job has ended; tests/integration/test_export.py runs it",
    "checkpoint restore": "wants a job that is not here; tests/integration/test_deleting.py runs it",
    "job delete": "deletes the job that the other lines need; tests/integration/test_deleting.py runs it",
    "job rewind": "goes back hundreds of steps; tests/integration/test_rewinding.py runs it",
    "job stop": "ends the job that the other lines need; tests/integration/test_contract.py runs it",
    "kernels": "compiles for a minute; tests/oracle/test_compiled.py does",
    "replay": "reads what a server has ended with; tests/integration/test_replay.py runs it",
}
OPERATORS = ("&&", "||", "|", ";", "&")
SUBSTITUTED = re.compile(r"\$\(((?:[^()]|\n)*)\)")


class Wrong(AssertionError):
    """A line that would not do what the document says; the text names it and why."""


@dataclass(frozen=True)
class Command:
    """One command without the assignments before it; `into`: the file that its output goes to."""

    words: tuple[str, ...]
    into: str = ""

    @property
    def program(self) -> str:
        return self.words[0]

    def __str__(self) -> str:
        return shlex.join(self.words)


# --- from text to commands ----------------------------------------------------------------------------


def commands_of(text: str) -> Iterator[Command]:
    """All commands of a block, those within $(...) before the one that they are part of."""
    done = subprocess.run(["bash", "-n"], input=text, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Wrong(f"bash cannot read it: {done.stderr}")
    joined = re.sub(r"\\\n|(?<=[|&])\n", " ", text)
    for inner in SUBSTITUTED.findall(joined):
        yield from commands_of(inner)
    for line in SUBSTITUTED.sub("substituted", joined).splitlines():
        yield from _commands(line)


def _commands(line: str) -> Iterator[Command]:
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;<>")
    lexer.whitespace_split = True
    words: list[str] = []
    for word in [*lexer, ";"]:
        if word not in OPERATORS:
            words.append(word)
            continue
        while words and re.match(r"\w+=", words[0]):
            words.pop(0)
        if words:
            place = words.index(">") if ">" in words else len(words)
            yield Command(tuple(words[:place]), "".join(words[place + 1 :]))
        words = []


# --- sheepfold ----------------------------------------------------------------------------------------


def parse(command: Command) -> None:
    """By the command line itself: an unknown command, option or value is an error. Nothing is run."""
    name: str | None = "sheepfold"
    arguments = list(command.words[1:])
    found: Any = typer.main.get_command(app)
    context: Any = None
    try:
        while True:
            context = found.make_context(name, list(arguments), parent=context)
            if not isinstance(found, TyperGroup):
                return
            name, found, arguments = found.resolve_command(context, [*context._protected_args, *context.args])
    except Exception as error:
        raise Wrong(f"{command}: {getattr(error, 'message', error)!s}") from error


def is_to_run(command: Command) -> bool:
    """Raises Wrong for what is in neither table."""
    words = " ".join(word for word in command.words[1:])

    def names(entry: str) -> bool:
        first, *options = entry.split(" --")
        return f"{words} ".startswith(f"{first} ") and all(f"--{option}" in words for option in options)

    if any(names(entry) for entry in PARSED_ONLY):
        return False
    if any(names(entry) for entry in RUN):
        return True
    raise Wrong(f"{command}: put it into RUN, or with a reason into PARSED_ONLY of {__name__}")


# --- other programs -----------------------------------------------------------------------------------


def _make(command: Command) -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    for word in command.words[1:]:
        if "=" not in word and word not in targets:
            raise Wrong(f"{command}: the Makefile has no {word}")


def _helm(command: Command) -> None:
    """`install` as `template`, with the same chart, values and settings; anything else names a release."""
    if command.words[1] != "install":
        return
    dropped = ("--create-namespace", "--wait")
    kept = [word for word in command.words[2:] if word not in dropped]
    words = [str(CHART) if ROOT / word == CHART else word for word in kept]
    if str(CHART) not in words:
        raise Wrong(f"{command}: no chart at the path it names")
    done = helm(4, "template", *words)
    if done.returncode:
        raise Wrong(f"{command}: {done.stderr}")


def _kubectl(command: Command) -> None:
    for option, value in pairwise(command.words):
        if option in ("-f", "--filename"):
            list(yaml.safe_load_all(_there(command, value).read_text("utf-8")))
    objects = rendered_text("model: {parameters: 1000000}")
    for name in re.findall(r"\bfold-sheepfold-[a-z-]+?(?=-\d|\b(?!-))", " ".join(command.words)):
        if name not in objects:
            raise Wrong(f"{command}: the chart makes no {name}")


def _script(command: Command) -> None:
    """The first word that is no option is a script of the repository, or the user's own train.py."""
    scripts = [word for word in command.words[1:] if not word.startswith("-")]
    if scripts[:1] != ["train.py"]:
        _there(command, scripts[0])


def _activate(command: Command) -> None:
    if command.words[1] != ".venv/bin/activate":
        raise Wrong(f"{command}: make installs into .venv")


def _pip(command: Command) -> None:
    """This repository with extras that it has, by its constraints."""
    if command.words[1:5] != ("install", "-c", "constraints.txt", "-e") or len(command.words) != 6:
        raise Wrong(f"{command}: install this repository, by `pip install -c constraints.txt -e '.[EXTRA]'`")
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    asked = re.fullmatch(r"\.\[([\w,]+)\]", command.words[5])
    if asked is None or not set(asked[1].split(",")) <= extras.keys():
        raise Wrong(f"{command}: the extras are {', '.join(extras)}")


def _nothing_more(_command: Command) -> None:
    """Programs of the system."""


def _there(command: Command, path: str) -> Path:
    found = ROOT / path
    if not found.is_file():
        raise Wrong(f"{command}: there is no {path}")
    return found


CHECKS: dict[str, Callable[[Command], None]] = {
    ".": _activate,
    "base64": _nothing_more,
    "docker": _nothing_more,
    "export": _nothing_more,
    "helm": _helm,
    "kubectl": _kubectl,
    "make": _make,
    "pip": _pip,
    "python": _script,
    "sbatch": _script,
    "sed": _nothing_more,
}


def check(command: Command) -> None:
    """Raises Wrong; for `sheepfold` see `parse`."""
    if command.program not in CHECKS:
        raise Wrong(f"{command}: nobody has said how lines of {command.program} are checked")
    CHECKS[command.program](command)
