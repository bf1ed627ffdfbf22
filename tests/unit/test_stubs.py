"""The checked-in gRPC stubs are what the pinned generator makes of the .proto files."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from tests.conftest import require

ROOT = Path(__file__).parents[2]
PROTOS = ROOT / "protos"
GENERATOR = ROOT / ".tools" / "protos" / "bin" / "python"
REMEDY = "run `make protos` and check in the result"


def stubs_under(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): path.read_text()
        for path in folder.rglob("*_pb2*.py*")
        if path.suffix in {".py", ".pyi"}
    }


@pytest.mark.slow
def test_checked_in_stubs_are_those_of_the_pinned_generator(tmp_path: Path) -> None:
    """A .proto changed without its stubs, a stub edited by hand, and a stub left over all fail here."""
    if not GENERATOR.exists():
        require("protos", "the stub generator is not installed; run `make protos-tool`")
    sources = sorted(path.relative_to(PROTOS).as_posix() for path in PROTOS.rglob("*.proto"))
    assert sources, f"no .proto under {PROTOS}"
    outputs = [f"--{kind}_out={tmp_path}" for kind in ("python", "pyi", "grpc_python")]
    subprocess.run(
        [str(GENERATOR), "-m", "grpc_tools.protoc", "-I", "protos", *outputs, *sources],
        cwd=ROOT,
        check=True,
        timeout=60,
    )
    fresh, kept = stubs_under(tmp_path), stubs_under(PROTOS)
    assert sorted(kept) == sorted(fresh), REMEDY
    stale = [name for name in fresh if fresh[name] != kept[name]]
    assert not stale, f"{stale}: {REMEDY}"


def test_generator_version_is_the_one_of_the_makefile() -> None:
    """Stubs of a newer generator would demand a newer grpcio of every user at run time."""
    pinned = next(
        line.split(":=")[1].strip()
        for line in (ROOT / "Makefile").read_text().splitlines()
        if line.startswith("GRPCIO_TOOLS")
    )
    stubs = sorted(PROTOS.rglob("*_pb2_grpc.py"))
    assert stubs, f"no stubs under {PROTOS}: {REMEDY}"
    other = [path.name for path in stubs if f"GRPC_GENERATED_VERSION = '{pinned}'" not in path.read_text()]
    assert not other, f"{other} not made by grpcio-tools {pinned}: {REMEDY}"
