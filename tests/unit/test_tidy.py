"""The largest modules, functions and constructors stay small: growth is a decision and not an accident."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("client", "server", "protos")

MAXIMA = {
    "lines of a module": 350,
    "lines of a function": 70,
    "arguments of a constructor": 7,
}
# (what, "path" or "path:Class.function") -> the size agreed on. An entry that is no longer needed fails too.
EXCEPTIONS: dict[tuple[str, str], int] = {
    # What `attach` takes, and `buffers` and `weight`: an optimizer is given neither a model nor slots.
    ("arguments of a constructor", "client/sheepfold/optimizer.py:RemoteOptimizer.__init__"): 8,
}

NAMELESS_ROOMS = {"utils.py", "util.py", "helpers.py", "common.py", "misc.py"}
# A path of one developer's machine. Written apart, so that this file does not match itself.
MACHINE_PATH = re.compile(r"(?<![\w.)}/])/(?:" + r"work/|root/|tmp/dev/|home/\w+/|Users/\w+/)")
TEXT_SUFFIXES = {".py", ".pyi", ".proto", ".toml", ".md", ".txt", ".sh", ".yaml", ".yml", ".json", ".cfg", ""}

EIGHT_ARGUMENTS = "self, a, b, c, d, e, *, f, g, h"
EIGHT_FIELDS = "".join(f"  field{number}: int\n" for number in range(8))
METHOD = "  def act(self): ..."

Sizes = Iterator[tuple[str, int]]


def hand_written_modules() -> list[Path]:
    found = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    return sorted(path for path in found if not path.stem.endswith(("_pb2", "_pb2_grpc")))


def module_lines(place: str, source: str) -> Sizes:
    yield place, len(source.splitlines())


def definitions(place: str, node: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    """Every class and function under `node`, with a name such as `client/a.py:Outer.inner`."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            separator = "." if ":" in place else ":"
            yield f"{place}{separator}{child.name}", child
            yield from definitions(f"{place}{separator}{child.name}", child)
        else:
            yield from definitions(place, child)


def function_lines(place: str, source: str) -> Sizes:
    for name, node in definitions(place, ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield name, (node.end_lineno or node.lineno) - node.lineno + 1


def constructor_arguments(place: str, source: str) -> Sizes:
    """Arguments of each `__init__`, and the fields a caller must give of each dataclass that acts.

    A dataclass that is frozen or has no methods is a value or a record: many settings in one are the remedy,
    not the illness.
    """
    for name, node in definitions(place, ast.parse(source)):
        if isinstance(node, ast.FunctionDef) and node.name == "__init__":
            given = node.args
            yield name, len(given.posonlyargs) + len(given.args) + len(given.kwonlyargs) - 1
        elif isinstance(node, ast.ClassDef) and is_acting_dataclass(node):
            yield name, sum(isinstance(field, ast.AnnAssign) and field.value is None for field in node.body)


def is_acting_dataclass(node: ast.ClassDef) -> bool:
    written = [ast.unparse(decorator) for decorator in node.decorator_list]
    is_mutable = any("dataclass" in decorator and "frozen=True" not in decorator for decorator in written)
    return is_mutable and any(isinstance(member, ast.FunctionDef) for member in node.body)


MEASURES: dict[str, Callable[[str, str], Sizes]] = {
    "lines of a module": module_lines,
    "lines of a function": function_lines,
    "arguments of a constructor": constructor_arguments,
}


def oversized(what: str, place: str, source: str) -> dict[str, int]:
    return {name: size for name, size in MEASURES[what](place, source) if size > MAXIMA[what]}


def checked_in_texts() -> Iterator[Path]:
    """What a reader of the repository sees as text; never a cache, a build or a generated stub."""
    for folder in (*PACKAGES, "tests", "deploy", ".ci"):
        for path in (ROOT / folder).rglob("*"):
            if path.is_file() and "node_modules" not in path.parts:
                yield path
    yield from (path for path in ROOT.glob("*") if path.is_file() and path.suffix != ".log")


@pytest.mark.parametrize("what", sorted(MAXIMA))
def test_nothing_outgrows_its_room(what: str) -> None:
    """Split it, or add it to EXCEPTIONS with the size agreed on."""
    found: dict[str, int] = {}
    for path in hand_written_modules():
        found |= oversized(what, path.relative_to(ROOT).as_posix(), path.read_text())
    agreed = {name: size for (kind, name), size in EXCEPTIONS.items() if kind == what}
    too_large = {name: size for name, size in found.items() if size > agreed.get(name, MAXIMA[what])}
    assert not too_large, f"{what}, at most {MAXIMA[what]}: {too_large}"
    assert not agreed.keys() - found.keys(), f"{what}: no longer an exception, remove it from EXCEPTIONS"


def test_every_module_has_a_name_that_says_what_lives_in_it() -> None:
    nameless = [path for path in hand_written_modules() if path.name in NAMELESS_ROOMS]
    assert not nameless, f"{nameless}: name the room after what lives in it"


def test_no_file_names_a_path_of_one_machine() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()[:80]}"
        for path in checked_in_texts()
        if path.suffix in TEXT_SUFFIXES
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), start=1)
        if MACHINE_PATH.search(line)
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("what", "source", "name"),
    [
        ("lines of a module", "x = 1\n" * 351, "m.py"),
        ("lines of a function", "class A:\n  async def f(self):\n" + "    x = 1\n" * 70, "m.py:A.f"),
        (
            "arguments of a constructor",
            f"class A:\n  def __init__({EIGHT_ARGUMENTS}): ...",
            "m.py:A.__init__",
        ),
        ("arguments of a constructor", f"@dataclass\nclass A:\n{EIGHT_FIELDS}{METHOD}", "m.py:A"),
    ],
)
def test_watch_sees_one_line_or_argument_too_many(what: str, source: str, name: str) -> None:
    assert list(oversized(what, "m.py", source)) == [name]


@pytest.mark.parametrize(
    ("what", "source"),
    [
        ("lines of a module", "x = 1\n" * 350),
        ("lines of a function", "class A:\n  async def f(self):\n" + "    x = 1\n" * 69),
        (
            "arguments of a constructor",
            f"class A:\n  def __init__({EIGHT_ARGUMENTS.removesuffix(', h')}): ...",
        ),
        ("arguments of a constructor", f"@dataclass(frozen=True)\nclass A:\n{EIGHT_FIELDS}{METHOD}"),
        ("arguments of a constructor", f"@dataclass\nclass A:\n{EIGHT_FIELDS}"),
    ],
)
def test_watch_lets_pass_what_just_fits(what: str, source: str) -> None:
    assert not oversized(what, "m.py", source)


@pytest.mark.parametrize("line", ["cd /" + "work/main", '"/' + 'root/.cache"', "/" + "home/ada/src"])
def test_watch_sees_a_machine_path(line: str) -> None:
    assert MACHINE_PATH.search(line)


@pytest.mark.parametrize("line", ["$(CURDIR)/root/x", "https://example.org/home/ada/x", "/var/lib/sheepfold"])
def test_watch_lets_relative_and_public_paths_pass(line: str) -> None:
    assert not MACHINE_PATH.search(line)
