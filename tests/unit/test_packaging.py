"""What pip reads of us: requirements, the pinned environment, and what ends up in the package."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PYPROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
EXTRAS: dict[str, list[str]] = PYPROJECT["project"]["optional-dependencies"]
PINS = {
    canonicalize_name(pin.name): pin.specifier
    for pin in map(Requirement, re.findall(r"^[^#\s].*$", (ROOT / "constraints.txt").read_text(), flags=re.M))
}
OWNERS = packages_distributions()
OUR_PACKAGES = {"sheepfold", "sheepfold_server", "sheepfold_wire"}


def requirements(extra: str) -> list[Requirement]:
    """Those of an extra, with our own extras named in it unfolded."""
    found = []
    for requirement in map(Requirement, EXTRAS[extra]):
        if requirement.name == "sheepfold":
            found += [inner for name in sorted(requirement.extras) for inner in requirements(name)]
        else:
            found.append(requirement)
    return found


def base_requirements() -> list[Requirement]:
    return [Requirement(line) for line in PYPROJECT["project"]["dependencies"]]


def torch_specifiers() -> list[SpecifierSet]:
    return [found.specifier for extra in EXTRAS for found in requirements(extra) if found.name == "torch"]


@pytest.mark.parametrize(
    "version",
    ["2.6.0a0+x.nv25.01", "2.6.0a0+ecf3bae40a.nv25.01", "2.6.0", "2.13.0+cpu", "2.14.0a0+b.nv26.10"],
)
def test_every_torch_since_2_6_is_accepted_as_is(version: str) -> None:
    """A vendor's image must not have its torch replaced: its builds are pre-releases to PEP 440."""
    assert torch_specifiers()
    assert all(specifier.contains(version) for specifier in torch_specifiers())


@pytest.mark.parametrize("version", ["2.5.1", "2.5.0a0+b465a5843b.nv24.09", "1.13.1"])
def test_torch_before_2_6_is_refused(version: str) -> None:
    assert not any(specifier.contains(version) for specifier in torch_specifiers())


def test_plain_lower_bound_would_refuse_the_vendor_build() -> None:
    """Why the bound reads 2.6.0a0: with 2.6 the vendor build is too old, and not merely a pre-release."""
    assert not SpecifierSet(">=2.6").contains("2.6.0a0+x.nv25.01", prereleases=True)


def test_torch_is_never_required_without_an_extra() -> None:
    assert "torch" not in {found.name for found in base_requirements()}


def test_every_declared_dependency_is_pinned_within_its_range() -> None:
    for requirement in requirements("dev") + base_requirements():
        pinned = PINS.get(canonicalize_name(requirement.name))
        assert pinned is not None, f"{requirement.name} is not in constraints.txt"
        version = str(pinned).removeprefix("==")
        assert requirement.specifier.contains(version), f"{requirement} does not allow {version}"


def test_every_pin_is_exact_and_without_a_local_version() -> None:
    """`torch==2.13.0+cpu` could be satisfied from one kind of index only."""
    assert [str(pin) for pin in PINS.values() if not re.fullmatch(r"==[0-9][0-9a-z.]*", str(pin))] == []


@pytest.mark.parametrize(
    ("package", "extras"),
    [
        ("protos/sheepfold_wire", []),
        ("client/sheepfold", ["torch", "hf", "lightning"]),
        ("server/sheepfold_server", ["server", "cli", "tensorboard", "wandb", "mlflow"]),
    ],
)
def test_every_import_comes_from_a_declared_dependency(package: str, extras: list[str]) -> None:
    """What only happens to be installed through another package is missing on the day that one drops it."""
    declared = base_requirements() + [found for extra in extras for found in requirements(extra)]
    allowed = {module for found in declared for module in modules_of(found.name)} | OUR_PACKAGES
    undeclared = {
        f"{path.relative_to(ROOT)}: {name}"
        for path in (ROOT / package).rglob("*.py")
        for name in imported_modules(path)
        if name.split(".")[0] not in sys.stdlib_module_names
        and not any(is_within(name, root) for root in allowed)
    }
    assert not undeclared, f"not among the dependencies of {package}: {sorted(undeclared)}"


def modules_of(distribution: str) -> set[str]:
    """The modules a distribution brings; for those that share `google`, the package below it.

    One that is not installed here, a tracker of somebody's choice, is taken to bring a module of its name.
    """
    shared = {"protobuf": "google.protobuf", "googleapis-common-protos": "google.rpc"}
    if distribution in shared:
        return {shared[distribution]}
    name = canonicalize_name(distribution)
    owned = {module for module, owners in OWNERS.items() if name in map(canonicalize_name, owners)}
    return owned or {name}


def imported_modules(path: Path) -> set[str]:
    nodes = list(ast.walk(ast.parse(path.read_text())))
    plain = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    return plain | {
        node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module and not node.level
    }


def is_within(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


def test_packages_are_typed() -> None:
    for package in ("sheepfold", "sheepfold_server", "sheepfold_wire"):
        assert (files(package) / "py.typed").is_file(), package


def test_protocol_travels_with_the_package() -> None:
    """Any protobuf client can be built from an installed sheepfold."""
    names = {entry.name for entry in (files("sheepfold_wire") / "v1").iterdir()}
    assert {"coordinator.proto", "shard.proto"} <= names


def test_demo_data_travels_with_its_licence() -> None:
    notice = (files("sheepfold.demo") / "data" / "LICENSE").read_text()
    assert "Copyright (c) 2017 Zalando SE" in notice
    assert "Permission is hereby granted, free of charge" in notice
