"""`import sheepfold` is fast, and takes along neither torch nor grpc."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

import sheepfold

PROGRAM = """
import json, sys, time
began = time.perf_counter()
import sheepfold
{more}
seconds = time.perf_counter() - began
import os
found = [name for name in ("torch", "grpc", "pydantic") if name in sys.modules]
print(json.dumps([seconds, found, os.environ.get("GRPC_ENABLE_FORK_SUPPORT")]))
"""


def imported(more: str = "", before: str = "", **environ: str) -> tuple[float, list[str], str]:
    import os

    kept = {key: value for key, value in os.environ.items() if key != "GRPC_ENABLE_FORK_SUPPORT"}
    done = subprocess.run(
        [sys.executable, "-c", before + PROGRAM.format(more=more)],
        env={**kept, **environ},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    seconds, found, switch = json.loads(done.stdout)
    assert not done.stderr or before, done.stderr
    return seconds, found, switch + done.stderr


def test_import_takes_less_than_a_second_and_a_half_without_torch_and_grpc() -> None:
    seconds, found, _ = imported()
    assert found == []
    assert seconds < 1.5


def test_numpy_client_and_errors_do_without_torch() -> None:
    _, found, _ = imported("sheepfold.Client; sheepfold.JobEnded; sheepfold.Job")
    assert "torch" not in found


def test_fork_support_of_grpc_is_off_unless_the_user_set_it() -> None:
    assert imported()[2] == "0"
    assert imported(GRPC_ENABLE_FORK_SUPPORT="1")[2] == "1"


def test_grpc_imported_before_with_fork_support_is_named_with_the_remedy() -> None:
    text = imported(before="import grpc")[2]
    assert "Import sheepfold first" in text
    assert text.count("RuntimeWarning") == 1


def test_every_name_that_is_promised_is_there() -> None:
    assert all(getattr(sheepfold, name) is not None for name in sheepfold.__all__)
    assert set(sheepfold.__all__) <= set(dir(sheepfold))


def test_an_unknown_name_is_an_attribute_error_that_lists_the_known_ones() -> None:
    with pytest.raises(AttributeError, match=r"'atach'; it has .*attach"):
        _ = sheepfold.atach
