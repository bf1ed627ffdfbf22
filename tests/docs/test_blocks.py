"""Every block of code in README, guide, contract, deploy and SECURITY does what it says.

Python is run in a process of its own. Job files are checked by `sheepfold job check`, parts of them within a
job that has the rest. Lines of shells are parsed, and run or not, as `shell_lines` says: PARSED_ONLY there
lists those that are only parsed, which are `sheepfold up`, `export`, `job rewind`, `job stop`, `kernels`,
`replay` and `status --watch`; lines of other programs are looked at, and never run. Diffs and outputs are
what the files and commands that they name make. `text` is for people. Any other kind of block fails.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from tests.docs import generated
from tests.docs.blocks import BLOCKS, DOCUMENTS, GUIDE, ROOT, Block, of_kind
from tests.docs.shell_lines import RUN, Command, Wrong, check, commands_of, is_to_run, parse
from tests.integration.test_cli_up import Up
from torch import nn
from typer.testing import CliRunner

import sheepfold
from sheepfold.demo.lenet import lenet5
from sheepfold_server.cli.app import app
from sheepfold_wire.job import parse_job

KINDS = {"diff", "python", "sh", "text", "toml", "yaml"}
REST = {"data": {"samples": 1_000}, "optimizer": {"lr": {"peak": 0.01}}, "stop": {"steps": 10_000}}
BATCH = {"samples": 64, "slot_samples": 8}
STEPS_MADE = 2
WHOLE = ("existing_loop.py", "plain_loop.py")
"""Programs that the guide begins with, and that need nothing which is not installed here."""


def by_name(block: Block) -> str:
    return block.name


def test_every_block_is_of_a_kind_that_is_checked() -> None:
    assert {block.name: block.kind for block in BLOCKS if block.kind not in KINDS} == {}


def test_no_document_is_without_a_look() -> None:
    """A page that is added is found by itself; the rest are named."""
    assert len({document for document in DOCUMENTS if document.is_relative_to(GUIDE)}) >= 10
    assert len(BLOCKS) > 40


# --- generated parts ----------------------------------------------------------------------------------


@pytest.mark.parametrize("page", sorted(generated.PAGES.glob("*.md")), ids=lambda page: page.name)
def test_generated_parts_are_what_they_are_made_from(page: Path) -> None:
    """To renew them: python -m tests.docs.generated."""
    text = page.read_text("utf-8")
    assert text == generated.renewed(text)


def test_every_diff_is_generated_or_counted() -> None:
    """Those of ADAPTING.md are sketches, whose counts tests/unit/test_adapting.py checks."""
    for block in of_kind("diff"):
        text = block.document.read_text("utf-8").splitlines()
        assert block.document.name == "ADAPTING.md" or "generated: diff" in text[block.line - 3], block.name


# --- job files ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("block", of_kind("toml"), ids=by_name)
def test_job_file_is_one_or_a_part_of_one(block: Block, tmp_path: Path) -> None:
    given = tomllib.loads(block.text)
    if "name" in given:
        path = tmp_path / "job.toml"
        path.write_text(block.text)
        done = CliRunner().invoke(app, ["job", "check", "-f", str(path)], env={"COLUMNS": "200"})
        assert done.exit_code == 0, done.output
    else:
        optimizer = REST["optimizer"] | given.get("optimizer", {})
        parse_job({"name": "part", **REST, "batch": BATCH, **given, "optimizer": optimizer})


@pytest.mark.parametrize("block", of_kind("yaml"), ids=by_name)
def test_yaml_is_a_configuration_of_prometheus(block: Block, tmp_path: Path) -> None:
    assert yaml.safe_load(block.text).keys() == {"scrape_configs"}
    promtool = shutil.which("promtool")
    if promtool:
        path = tmp_path / "prometheus.yml"
        path.write_text(block.text)
        command = [promtool, "check", "config", path]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


# --- Python -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def errors() -> dict[str, str]:
    """By block or program, what went wrong; one process runs them all, one after the other."""
    programs = {name: (GUIDE / "before" / name).read_text("utf-8") for name in WHOLE}
    done = subprocess.run(
        [sys.executable, "-m", "tests.docs.python_blocks"],
        input=json.dumps({block.name: block.text for block in of_kind("python")} | programs),
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.slow
@pytest.mark.parametrize("block", of_kind("python"), ids=by_name)
def test_python_block_runs_to_its_end(block: Block, errors: dict[str, str]) -> None:
    assert errors[block.name] == ""


@pytest.mark.slow
@pytest.mark.parametrize("name", WHOLE)
def test_what_the_guide_changes_is_a_program_that_works(name: str, errors: dict[str, str]) -> None:
    assert errors[name] == ""


# --- shells -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """With the jobs that lines are about: `lenet` from the example file, and `bert`."""
    folder = tmp_path_factory.mktemp("shell")
    running = Up(folder / "state", "--checkpoints", str(folder / "checkpoints"))
    try:
        example = tomllib.loads(CliRunner().invoke(app, ["job", "example"]).stdout)
        train(running.address, lenet5(), example, (1, 28, 28))
        train(running.address, Bert(), {**REST, "name": "bert", "batch": BATCH}, (4,))
        yield running
    finally:
        running.close()


class Bert(nn.Module):
    """With a tensor of the name that lines freeze."""

    def __init__(self) -> None:
        super().__init__()
        self.bert = nn.ModuleDict({"embeddings": nn.Linear(4, 4), "head": nn.Linear(4, 2)})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.bert["head"](self.bert["embeddings"](x))


def train(address: str, model: nn.Module, config: dict[str, Any], shape: tuple[int, ...]) -> None:
    """So many steps of a job, on noise."""
    with sheepfold.attach(model, address=address, config=config, threads=1) as run:
        for slot in run.slots():
            slot.backward(model(torch.randn(slot.samples, *shape)).square().mean())
            if run.version == STEPS_MADE:
                break
            run.step()


def prepared(folder: Path, up: Up, text: str) -> None:
    """What lines of a block find in the folder that they are run in: what the lines before them have made."""
    (folder / "state").symlink_to(up.directory)
    (folder / "job.toml").write_text(CliRunner().invoke(app, ["job", "example"]).stdout)
    if "sheepfold token" in text and "sheepfold certs" not in text:
        run(Command(("sheepfold", "certs", "--dir", "tls", "--name", "localhost")), up)


def run(command: Command, up: Up) -> None:
    done = CliRunner().invoke(app, list(command.words[1:]), env={"SHEEPFOLD": up.address, "COLUMNS": "200"})
    assert done.exit_code == 0, f"{command}: {done.output}"
    if command.into:
        Path(command.into).write_text(done.stdout)


@pytest.mark.slow
@pytest.mark.parametrize("block", of_kind("sh"), ids=by_name)
def test_every_line_is_one_that_works(
    block: Block, up: Up, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    prepared(tmp_path, up, block.text)
    for command in commands_of(block.text):
        if command.program != "sheepfold":
            check(command)
            continue
        parse(command)
        if is_to_run(command):
            run(command, up)


def test_every_command_that_is_run_stands_in_some_document() -> None:
    """A table that outlives its lines would promise too much."""
    text = "\n".join(block.text for block in of_kind("sh"))
    assert [entry for entry in RUN if f"sheepfold {entry}" not in text] == []


@pytest.mark.parametrize(
    "line",
    [
        "sheepfold status --wach",
        "sheepfold job sett optimizer.lr.peak=1 bert",
        "sheepfold plan --workers 3",
        "sheepfold demo",
        "make tea",
        "kubectl apply -f deploy/examples/none.yaml",
        "sbatch --ntasks=2 deploy/slurm/none.sbatch",
        "wget http://127.0.0.1/",
        "if true; then",
        "export A=$(make tea | base64 -d)",
    ],
)
def test_line_that_would_not_work_is_seen(line: str) -> None:
    def look() -> None:
        for command in commands_of(line + "\n"):
            if command.program == "sheepfold":
                parse(command)
                is_to_run(command)
            else:
                check(command)

    with pytest.raises(Wrong):
        look()
