"""What the dashboard tells after its process, or everything but its file, was replaced."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.browser.training import Training
from tests.integration.test_cli_up import Up, eventually, sheepfold

pytestmark = pytest.mark.slow


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Up]:
    running = Up(tmp_path / "state")
    yield running
    running.close()


def tiny_weights() -> torch.nn.Module:
    """Of norm 6e-6: LAMB's ratio is outside of what `RatioOutside` takes for plausible."""
    model = torch.nn.Linear(6, 6, bias=False)
    torch.nn.init.constant_(model.weight, 1e-6)
    return model


def answer(up: Up, path: str) -> Any:
    """None while the dashboard or the job is not there."""
    response = up.get(f"/api/v1/jobs/tiny{path}")
    return response.json() if response is not None and response.status_code == 200 else None


def alerts(up: Up) -> list[dict[str, Any]]:
    """Of trust ratios: a busy machine may have others, such as a straggler's."""
    found = (answer(up, "/alerts") or {}).get("alerts", [])
    return [alert for alert in found if alert["name"] == "RatioOutside"]


def without_text(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The text of an active alert has the numbers of now."""
    return [{key: value for key, value in alert.items() if key != "text"} for alert in found]


def leave_history_alone(directory: Path) -> None:
    """Train a few steps in a state directory, and take everything from it but the dashboard's history."""
    up = Up(directory)
    try:
        training = Training(up.address, "tiny", tiny_weights(), 6)
        training.advance(3)
        eventually(lambda: len(answer(up, "/steps") or ()) == 3, "its steps on the dashboard")
        training.close()
        up.process.send_signal(signal.SIGTERM)
        up.end()
    finally:
        up.close()
    for part in ("coordinator", "shard-0", "shard-1", "checkpoints"):
        shutil.rmtree(directory / part, ignore_errors=True)


def kill_dashboard(up: Up) -> None:
    old = up.facts()["dashboard"]["pid"]
    os.kill(old, signal.SIGKILL)
    eventually(lambda: up.facts()["dashboard"]["pid"] != old, "another dashboard")
    eventually(lambda: answer(up, "/shards"), "that has read the job")


def test_alerts_outlive_the_dashboard_and_are_told_once(up: Up) -> None:
    training = Training(up.address, "tiny", tiny_weights(), 6)
    training.advance(3)
    (begun,) = eventually(lambda: alerts(up), "the alert")
    assert (begun["name"], begun["subject"], begun["ended_seconds"]) == ("RatioOutside", "weight", None)

    kill_dashboard(up)
    assert without_text(alerts(up)) == without_text([begun])
    training.advance(3)
    eventually(lambda: len(answer(up, "/steps") or ()) == 6, "the newest step")
    assert without_text(alerts(up)) == without_text([begun])

    assert sheepfold("job", "stop", "tiny", address=up.address).returncode == 0
    training.advance(1)  # the open step is the last one
    training.close()
    (ended,) = eventually(lambda: [a for a in alerts(up) if a["ended_seconds"] is not None], "its end")
    kill_dashboard(up)
    assert alerts(up) == [ended]
    told = [event["text"] for event in answer(up, "/events?kind=alert")["events"]]
    told = [text for text in told if text.startswith("RatioOutside")]
    assert [" ".join(text.split()[:4]).rstrip(":") for text in told] == [
        "RatioOutside of weight began",
        "RatioOutside of weight ended",
    ]


def test_job_of_another_coordinator_is_told_of_as_far_as_it_was_kept(tmp_path: Path) -> None:
    leave_history_alone(tmp_path / "state")
    up = Up(tmp_path / "state")
    try:

        def not_listed() -> list[dict[str, Any]]:
            response = up.get("/api/v1/jobs")
            found = [] if response is None else response.json()
            return [job for job in found if job["state"] == "not listed"]

        (job,) = eventually(not_listed, "the job that only the history tells of")
        assert (job["job"], job["version"], job["stop_steps"]) == ("tiny", 3, None)
        assert [step["step"] for step in answer(up, "/steps")] == [0, 1, 2]
        assert len(answer(up, "/slices/weight/series")["step"]) == 3
        refused = up.get("/api/v1/jobs/tiny/workers")
        assert refused is not None
        assert refused.status_code == 404
        assert "the coordinator does not list this job (any more)" in refused.json()["detail"]
    finally:
        up.close()
