"""Chart and program cannot disagree: every rendered argument is parsed by the program's own command line."""

from __future__ import annotations

import re
import runpy
import tomllib
from typing import Any

import pytest
import typer
import yaml
from tests.chart.rendering import (
    CHART,
    Object,
    containers,
    of_kind,
    render,
    rendered_text,
    shard_container,
)
from tests.chart.test_rendering import WORKER_JOB, every_example

from sheepfold.exits import EXIT_NEVER_RETRY, EXIT_TRY_AGAIN
from sheepfold_server.cli.app import app
from sheepfold_wire.connection import parse_connection
from sheepfold_wire.job import parse_job

EXPANDED = {"POD_INDEX": "0", "POD_NAME": "fold-sheepfold-shard-0", "THREADS": "2"}


def expanded(text: str) -> str:
    """As the kubelet puts environment variables into arguments."""
    return re.sub(r"\$\((\w+)\)", lambda match: EXPANDED[match[1]], text)


class Misunderstood(Exception):
    """The program would end with a usage error."""


def parsed(arguments: list[str]) -> tuple[str, dict[str, Any]]:
    """(command, what it is called with), without running it. Raises Misunderstood."""
    command: Any = typer.main.get_command(app)
    context, path = None, []
    while hasattr(command, "commands"):
        name, *arguments = arguments
        if name not in command.commands:
            raise Misunderstood(f"no command {name}")
        path.append(name)
        command = command.commands[name]
    try:
        context = command.make_context(path[-1], arguments)
    except Exception as error:
        if getattr(error, "exit_code", None) != 2:
            raise
        raise Misunderstood(str(error)) from None
    return " ".join(path), context.params


@every_example
def test_program_understands_every_argument_it_is_given(values: str) -> None:
    understood = set()
    for _, container in containers(render(values)):
        if container.get("command") == ["sheepfold"]:
            command, told = parsed([expanded(each) for each in container["args"]])
            assert told
            understood.add(command)
    assert understood >= {"coordinator", "shard", "dashboard"}


def test_shard_is_told_what_the_values_say() -> None:
    command, told = parsed([expanded(each) for each in shard_container("shards: {count: 3}")["args"]])
    assert (command, told["index"], told["shards"], told["threads"]) == ("shard", 0, 3, 2)
    assert told["coordinator"].target == "fold-sheepfold-coordinator-0.fold-sheepfold.training.svc:7072"
    assert told["advertise"] == "fold-sheepfold-shard-0.fold-sheepfold.training.svc:7071"
    assert (told["device"], told["insecure"]) == ("cpu", False)
    _, on_gpu = parsed([expanded(each) for each in shard_container("gpu: {enabled: true}")["args"]])
    assert on_gpu["device"] == "cuda"


def test_dashboard_asks_for_a_login_and_knows_its_names() -> None:
    def told(values: str) -> dict[str, Any]:
        (each,) = (c for name, c in containers(of_kind(render(values), "Deployment")) if "dashboard" in name)
        return parsed(each["args"])[1]

    found = told("dashboard: {hosts: [a.example], ingress: {enabled: true, host: b.example}}")
    assert found["host"] == ["fold-sheepfold-dashboard.training.svc", "b.example", "a.example"]
    assert (found["behind_proxy"], found["insecure"], found["token_keys"].name) == (True, False, "token.pub")
    plain = told("{tls: {mode: none}, allowInsecure: true}")
    assert (plain["behind_proxy"], plain["insecure"], plain["token_keys"]) == (False, True, None)


@pytest.mark.parametrize("argument", ["--no-such-option=1", "--shards=65", "--listen=nowhere"])
def test_argument_that_the_program_does_not_know_is_seen(argument: str) -> None:
    arguments = [expanded(each) for each in shard_container()["args"]]
    with pytest.raises(Misunderstood):
        parsed([*arguments, argument])


def test_files_that_servers_are_given_are_mounted() -> None:
    for name, container in containers(of_kind(render(), "StatefulSet", "Deployment")):
        mounts = [mount["mountPath"] for mount in container["volumeMounts"]]
        files = [each.partition("=")[2] for each in container["args"] if re.match(r"--\S+=/", each)]
        assert len(files) >= 3, name
        assert all(any(each.startswith(f"{mount}/") for mount in mounts) for each in files), name


def test_hook_scripts_understand_their_arguments() -> None:
    script = runpy.run_path(str(CHART / "files" / "credentials.py"))
    commands = [
        container["args"] for name, container in containers(of_kind(render(), "Job")) if "/job" not in name
    ]
    assert len(commands) == 3  # made once; then the line of workers, and that of administrators
    for arguments in commands:
        script["parser"]().parse_args(arguments)


def test_worker_of_the_notes_and_of_the_example_reads_the_line_by_a_path_that_is_mounted() -> None:
    for text in (WORKER_JOB.read_text(), (CHART / "templates" / "NOTES.txt").read_text()):
        assert "file:/etc/sheepfold/connect/connection" in text
        assert "mountPath: /etc/sheepfold/connect" in text


def test_plain_text_line_is_a_connection() -> None:
    secrets = of_kind(render("{tls: {mode: none}, allowInsecure: true}"), "Secret")
    assert [each["metadata"]["name"] for each in secrets] == [
        "fold-sheepfold-connect",
        "fold-sheepfold-admin",
    ]
    for secret in secrets:
        line = parse_connection(secret["stringData"]["connection"])
        assert line.target == "fold-sheepfold-coordinator-0.fold-sheepfold.training.svc:7070"


@every_example
def test_job_of_the_values_is_a_job(values: str) -> None:
    given = (yaml.safe_load(values) or {}).get("job", "")
    if given:
        (config,) = (each for each in of_kind(render(values), "ConfigMap") if "job.toml" in each["data"])
        assert tomllib.loads(config["data"]["job.toml"]) == tomllib.loads(given)
        parse_job(tomllib.loads(given))


def test_spot_workers_end_with_the_exit_codes_of_the_client() -> None:
    (job,) = yaml.safe_load_all(WORKER_JOB.read_text())
    rules: list[Object] = job["spec"]["podFailurePolicy"]["rules"]
    by_code = {each["onExitCodes"]["values"][0]: each["action"] for each in rules if "onExitCodes" in each}
    assert by_code == {EXIT_NEVER_RETRY: "FailJob", EXIT_TRY_AGAIN: "Ignore"}
    assert "completions" not in job["spec"]
    assert job["spec"]["template"]["spec"]["restartPolicy"] == "Never"
    label = job["spec"]["template"]["metadata"]["labels"]["sheepfold/worker-of"]
    assert f"sheepfold/worker-of: {label}" in rendered_text()
