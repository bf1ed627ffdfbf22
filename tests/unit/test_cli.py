"""The command line: help that reads, values that are shown, and refusals of one line."""

from __future__ import annotations

import json
import re
import socket
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest
import typer
from tests.unit.monitored import STATUS
from typer.testing import CliRunner

from sheepfold_server.cli.address import connection, host_port
from sheepfold_server.cli.app import app
from sheepfold_server.cli.demo.progress import Lines
from sheepfold_server.cli.jobs import parse_assignment
from sheepfold_server.cli.listen import listen_host
from sheepfold_server.cli.status import all_jobs, one_job
from sheepfold_server.dashboard.history.history import History
from sheepfold_wire import messages as m
from sheepfold_wire.connection import Connection
from sheepfold_wire.errors import BadConfig
from sheepfold_wire.job import Job, LossScale, job_from_toml

COMMANDS = [
    *(
        [name]
        for name in (
            *("demo", "up", "status", "doctor", "support-bundle", "replay", "plan"),
            *("coordinator", "shard", "dashboard"),
        )
    ),
    *(
        ["job", name]
        for name in ("example", "check", "schema", "create", "show", "history", "freeze", "rewind")
    ),
    *(["job", name] for name in ("pause", "resume", "stop", "set", "delete")),
]


class Outcome:
    """What a command line printed and how it ended."""

    def __init__(self, *arguments: str) -> None:
        result = CliRunner().invoke(
            app, list(arguments), env={"COLUMNS": "100", "TERM": "dumb", "SHEEPFOLD": ""}
        )
        self.code, self.stdout, self.stderr = result.exit_code, result.stdout, result.stderr
        self.error = result.exception
        assert self.error is None or isinstance(self.error, SystemExit), f"a traceback: {self.error!r}"

    def refusal(self) -> str:
        """The one line on stderr of a command that refused."""
        lines = self.stderr.splitlines()
        assert self.code == 2, self.stderr
        assert len(lines) == 1, self.stderr
        assert lines[0].startswith("sheepfold: ")
        return lines[0]


@pytest.fixture
def job_file(tmp_path: Path) -> Path:
    path = tmp_path / "job.toml"
    path.write_text(Outcome("job", "example").stdout)
    return path


@contextmanager
def taken_port() -> Iterator[int]:
    """A port where something listens that is no coordinator and says nothing."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        yield taken.getsockname()[1]


def unused_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# --- help ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_and_option_says_what_it_does(command: list[str]) -> None:
    outcome = Outcome(*command, "--help")
    assert outcome.code == 0
    assert "Example:" in outcome.stdout
    assert "--announce-fd" not in outcome.stdout
    for line in re.findall(r"│ (?:\*\s+)?(--\S+.*)│", outcome.stdout):
        assert re.search(r"[A-Z][a-z]+.*", line.split(">", 1)[-1]), f"{line!r} has no sentence"


def test_help_lists_every_command() -> None:
    text = Outcome("--help").stdout + Outcome("job", "--help").stdout
    for command in COMMANDS:
        assert re.search(rf"│ {command[-1]} ", text), command


def test_version_is_printed() -> None:
    assert re.fullmatch(r"sheepfold \S.*\n", Outcome("--version").stdout)


# --- job files ----------------------------------------------------------------------------------------


def test_example_is_a_valid_job_that_names_every_key(job_file: Path) -> None:
    job = job_from_toml(job_file)
    text = job_file.read_text()
    for section, values in job.model_dump(mode="json").items():
        for key in values if isinstance(values, dict) else [section]:
            assert re.search(rf"\b{key}\b", text), f"{section}.{key} is missing from the example"


def test_commented_values_of_the_example_are_the_defaults(job_file: Path) -> None:
    """Uncommenting a line must change nothing; what is left out by default has no value to show."""
    text = job_file.read_text()
    stages = text[text.index("# [[batch.stage]]") : text.index("[data]")]
    scale = text[text.index("# [loss_scale]") : text.index("[init]")]
    full = re.sub(r"^# (\w+ = )", r"\1", text.replace(stages, "").replace(scale, ""), flags=re.MULTILINE)
    shown = "metric|patience|clip_norm|phi|ratio_bounds|warmup_epochs|base_batch"
    full = re.sub(rf"^({shown}) .*\n", "", full, flags=re.MULTILINE)
    job_file.write_text(full)
    assert job_from_toml(job_file) == _parsed(text, job_file)
    with_scale = _parsed(text.replace(scale, re.sub(r"^# ", "", scale, flags=re.MULTILINE)), job_file)
    assert with_scale.loss_scale == LossScale()


def test_the_schema_takes_what_the_parser_takes_and_refuses_what_it_refuses(job_file: Path) -> None:
    schema = json.loads(Outcome("job", "schema").stdout)
    check = jsonschema.Draft202012Validator(schema)
    check.check_schema(schema)
    example = tomllib.loads(job_file.read_text())
    assert not list(check.iter_errors(example))
    check.validate({**example, "optimizer": {**example["optimizer"], "clip_norm": "off"}})
    resolved = json.loads(job_from_toml(job_file).to_json())
    assert not list(check.iter_errors(resolved))
    for section, key, value in (
        ("batch", "samples", 0),
        ("batch", "sampels", 8),
        ("data", "mode", "tar"),
        ("optimizer", "rule", "lion"),
        ("init", "form", "file:x"),
    ):
        assert list(check.iter_errors({**example, section: {**example.get(section, {}), key: value}})), key


def _parsed(text: str, path: Path) -> Job:
    path.write_text(text)
    return job_from_toml(path)


def test_check_shows_every_value_and_what_follows(job_file: Path) -> None:
    shown = Outcome("job", "check", "-f", str(job_file)).stdout
    for line in (
        r"optimizer\.lr\.peak +0\.02 +live",
        r"slots per step \(K\) +8",
        r"steps +300",
        r"samples of all steps +307,200",
        r"passes over the data +30\.72",
    ):
        assert re.search(line, shown), line


def test_check_refuses_a_plan_that_its_job_does_not_reach(job_file: Path) -> None:
    text = job_file.read_text("utf-8")
    job_file.write_text(text.replace("[data]", "[[batch.stage]]\nsteps = 100_000\n\n[data]", 1))
    refusal = Outcome("job", "check", "-f", str(job_file)).refusal()
    assert "ends before the batch plan: its stages have 100000 = 100000 steps" in refusal


def test_check_shows_how_the_slots_grow_with_a_stage(job_file: Path) -> None:
    text = job_file.read_text()
    stages = "[[batch.stage]]\nsteps = 100\nsamples = 512\n[[batch.stage]]\nsteps = 200\n[data]"
    job_file.write_text(text.replace("[data]", stages))
    shown = Outcome("job", "check", "-f", str(job_file)).stdout
    assert "4 at step 0, 8 at the end" in shown
    assert "256,000" in shown


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ('name = "lenet"', 'name = "LeNet 5"', "name = 'LeNet 5'"),
        ('name = "lenet"', "", "name: missing"),
        ("slot_samples = 128", "slot_samples = 100", "is not divisible"),
        ("samples = 1_024", "samples = 0", "batch.samples = 0"),
        ("samples = 1_024", "sample = 1_024", "batch.sample: unknown key"),
        ("samples = 10_000", "", "data.samples = 0"),
        ("peak = 0.02", 'peak = "high"', "optimizer.lr.peak = 'high'"),
        ("peak = 0.02", "peak = nan", "optimizer.lr.peak"),
        ('schedule = "poly"', 'schedule = "cosin"', "optimizer.lr.schedule = 'cosin'"),
        ("warmup_steps = 30", "warmup_steps = 301", "warmup_steps = 301 is more than stop.steps = 300"),
        ("weight_decay = 0.01", "weight_decay = -1", "optimizer.weight_decay = -1"),
        ("steps = 300", "steps = 300.5", "stop.steps = 300.5"),
        ("[wire]", "[wires]", "wires: unknown key"),
        ("[wire]", "[wire", "job.toml: "),
    ],
)
def test_bad_job_file_is_refused_with_the_key(job_file: Path, old: str, new: str, expected: str) -> None:
    text = job_file.read_text()
    assert old in text
    job_file.write_text(text.replace(old, new, 1))
    for command in ("check", "create"):
        assert expected in Outcome("job", command, "-f", str(job_file)).refusal()


def test_missing_job_file_is_refused_with_the_remedy(tmp_path: Path) -> None:
    assert "`sheepfold job example`" in Outcome("job", "check", "-f", str(tmp_path / "job.toml")).refusal()


def test_two_mistakes_in_one_file_are_one_line(job_file: Path) -> None:
    text = (
        job_file.read_text().replace("samples = 1_024", "samples = 0", 1).replace("steps = 300", "steps = 0")
    )
    job_file.write_text(text)
    refusal = Outcome("job", "check", "-f", str(job_file)).refusal()
    assert "batch.samples = 0" in refusal
    assert "stop.steps = 0" in refusal


# --- live values --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("optimizer.lr.peak=0.01", {"optimizer.lr.peak": 0.01}),
        ("stop.steps = 500", {"stop.steps": 500}),
        ("optimizer.clip_norm=null", {"optimizer.clip_norm": None}),
    ],
)
def test_assignment_is_read_as_json(text: str, expected: dict[str, object]) -> None:
    assert parse_assignment(text) == expected


@pytest.mark.parametrize(
    "text", ["", "optimizer.lr.peak", "optimizer.lr.peak=", "beta1=0.5", "stop.steps=many"]
)
def test_bad_assignment_is_refused(text: str) -> None:
    with pytest.raises(BadConfig, match=r"KEY=VALUE|write e\.g\."):
        parse_assignment(text)


def test_sealed_key_is_refused_with_the_live_ones() -> None:
    assert "optimizer.lr.peak" in Outcome("job", "set", "optimizer.beta1=0.5", "lenet").refusal()


@pytest.mark.parametrize("given", ["4", "4:", "8:8", "9:8", "a:b", "-1:4"])
def test_samples_to_skip_are_two_numbers_of_which_the_second_is_more(given: str) -> None:
    refused = Outcome("job", "rewind", "lenet", "--to", "3", "--skip-samples", given).refusal()
    assert f"--skip-samples {given!r}: give A:B" in refused


# --- addresses and silence ----------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["10.0.0.1:7070", "sheepfold://10.0.0.1:7070", " 10.0.0.1:7070 "])
def test_address_may_be_written_as_workers_write_it(text: str) -> None:
    assert connection(text) == Connection("10.0.0.1:7070")


@pytest.mark.parametrize(
    "text", ["", "host", "host:", "host:99999", "http://host:1", "sheepfold://host:1", "a b:1"]
)
def test_bad_address_to_listen_on_is_refused(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="HOST:PORT"):
        host_port(text)


@pytest.mark.parametrize("text", ["", "host:", "http://host:1", "local:?shards=2", "a b:1"])
def test_bad_address_is_refused(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="HOST:PORT"):
        connection(text)


@pytest.mark.parametrize(
    "command", [["status"], ["job", "show", "lenet"], ["job", "stop", "lenet"]], ids=" ".join
)
def test_token_of_a_refused_address_is_not_printed(command: list[str]) -> None:
    for address in ("10.0.0.5:1?token=", "10.0.0.5:1?tokne=", "10.0.0.5:1&token="):
        outcome = Outcome(*command, "--address", f"{address}a-secret-that-nobody-may-see")
        assert outcome.code == 2
        assert "***" in outcome.stderr
        assert "a-secret" not in outcome.stdout + outcome.stderr


@pytest.mark.parametrize(
    "command",
    [
        ["status"],
        ["status", "lenet"],
        ["job", "show", "lenet"],
        ["job", "pause", "lenet"],
        ["job", "stop", "lenet"],
    ],
    ids=" ".join,
)
def test_no_coordinator_is_one_line_that_says_what_to_start(command: list[str]) -> None:
    address = f"127.0.0.1:{unused_port()}"
    refusal = Outcome(*command, "--address", address).refusal()
    assert address in refusal
    assert "`sheepfold up`" in refusal


def test_waiting_for_a_coordinator_ends_with_the_same_line() -> None:
    assert (
        "`sheepfold up`"
        in Outcome("status", "--address", f"127.0.0.1:{unused_port()}", "--wait", "0.2").refusal()
    )


# --- roles that cannot start --------------------------------------------------------------------------


def test_coordinator_on_a_taken_port_is_refused() -> None:
    with taken_port() as port:
        refusal = Outcome("coordinator", "--shards", "2", "--listen", f"127.0.0.1:{port}").refusal()
    assert f"127.0.0.1:{port}" in refusal
    assert "--listen" in refusal


def test_dashboard_on_a_taken_port_is_refused() -> None:
    with taken_port() as port:
        refusal = Outcome("dashboard", "--listen", f"127.0.0.1:{port}").refusal()
    assert f"127.0.0.1:{port}" in refusal
    assert "--listen" in refusal


def test_second_dashboard_on_the_same_history_is_refused(tmp_path: Path) -> None:
    first = History(tmp_path / "history.sqlite")
    refusal = Outcome(
        "dashboard", "--listen", "127.0.0.1:0", "--history", str(tmp_path / "history.sqlite")
    ).refusal()
    first.close()
    assert "in use by the dashboard with pid" in refusal
    assert "--history" in refusal


def test_up_in_a_directory_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "--dir" in Outcome("up", "--dir", str(tmp_path / "file" / "state")).refusal()


def test_shard_number_beyond_the_shard_count_is_refused() -> None:
    outcome = Outcome("shard", "--index", "2", "--shards", "2")
    assert outcome.code == 2
    assert "give 0 to 1" in outcome.stderr


# --- status -------------------------------------------------------------------------------------------


def rendered(renderable: object) -> str:
    from rich.console import Console

    console = Console(width=160, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(renderable)
    console.file.close()
    return console.export_text()


def test_status_shows_who_is_waited_for_and_where_every_slot_went() -> None:
    shown = rendered(one_job(STATUS))
    assert STATUS.waiting_for in shown
    assert "40 leased = 32 committed + 0 skipped + 3 dropped + 5 outstanding; 2 leased again" in shown
    assert "worker-a" in shown
    assert "down" in shown


def test_status_of_one_job_tells_why_slots_were_dropped_and_what_happened_last() -> None:
    worker = replace(STATUS.workers[0], usage=m.WorkerUsage(8.0, 0.4), refused=2)
    events = tuple(m.Event(n, 70.0 - n, n, "change", "ann", f"change {n}") for n in range(1, 12))
    drops = (m.Drop("expired", 2), m.Drop("refused", 1))
    shown = rendered(one_job(replace(STATUS, workers=(worker,), drops=drops, events=events)))
    assert "3 dropped (2 expired, 1 refused)" in " ".join(shown.split())
    assert re.search(r"worker-a .* 5\.0% +2 ", shown)
    assert re.search(r"11 +59 s +change +change 11, by ann", shown)
    assert "change 3," not in shown  # the newest eight


def test_status_of_all_jobs_has_a_line_each() -> None:
    shown = rendered(all_jobs([STATUS]))
    assert re.search(r"lenet +running +4 of 300 +2\.50 +2,560 +1 +1 of 2", shown)


def test_status_without_jobs_says_how_to_create_one() -> None:
    assert "sheepfold job create" in rendered(all_jobs([]))


# --- demo ---------------------------------------------------------------------------------------------


def test_demo_prints_a_few_lines_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    lines = Lines(300)
    for version in range(301):
        lines.show(version, "loss 1.0")
    printed = capsys.readouterr().err.splitlines()
    assert [line.split(" of ")[0] for line in printed] == [
        f"step {n}" for n in (0, 50, 100, 150, 200, 250, 300)
    ]


def test_demo_refuses_a_folder_without_the_data(tmp_path: Path) -> None:
    assert "--data-dir" in Outcome("demo", "--data-dir", str(tmp_path)).refusal()


@pytest.mark.parametrize(
    "role",
    [("coordinator", "--shards", "1"), ("shard", "--index", "0", "--shards", "1"), ("dashboard",)],
    ids=lambda role: role[0],
)
def test_role_beyond_loopback_is_refused_unless_it_is_said_aloud(role: tuple[str, ...]) -> None:
    """Loopback is a number or localhost: 127.example.com is a name like any other."""
    for listen in ("0.0.0.0:0", "127.example.com:0"):
        assert "--insecure" in Outcome(*role, "--listen", listen).refusal()


@pytest.mark.parametrize("listen", ["0.0.0.0", "::", "[::]"])
def test_up_on_every_address_is_refused_for_workers_could_not_be_sent_there(listen: str) -> None:
    refusal = Outcome("up", "--listen", listen, "--insecure").refusal()
    assert "give the address of this machine that workers reach" in refusal


@pytest.mark.parametrize("listen", ["10.0.0.5:7070", "0", "10.0.0", "300.1.1.1", "a b", ""])
def test_up_refuses_what_is_no_address_of_a_machine(listen: str) -> None:
    assert "without a port" in Outcome("up", "--listen", listen, "--insecure").refusal()


@pytest.mark.parametrize(
    ("given", "host"),
    [("10.0.0.5", "10.0.0.5"), ("::1", "[::1]"), ("[fd00::5]", "[fd00::5]"), ("gpu-3.lab", "gpu-3.lab")],
)
def test_address_to_listen_on_is_a_number_or_a_name(given: str, host: str) -> None:
    assert listen_host(given) == host
