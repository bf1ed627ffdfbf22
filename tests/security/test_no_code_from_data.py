"""Nothing that servers, clients or the wire read can become code: by the syntax tree of every module."""

from __future__ import annotations

import ast
from collections.abc import Iterator

import pytest
from tests.unit.test_tidy import ROOT, hand_written_modules

MODULES = frozenset({"pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve", "yaml"})
BUILTINS = frozenset({"eval", "exec", "compile", "__import__"})
LOADERS = frozenset({"torch.load", "np.load", "numpy.load", "yaml.load"})
EXCEPTIONS: dict[tuple[str, str], str] = {}
"""(module, name) -> why it may stand there. An entry that is no longer needed fails too."""


def dangers(source: str) -> Iterator[str]:
    """Names of what could run data, as they are written."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.partition(".")[0] in MODULES)
        elif isinstance(node, ast.ImportFrom):
            name = node.module or ""
            yield from (name for _ in node.names if name.partition(".")[0] in MODULES)
            yield from (f"{name}.{a.name}" for a in node.names if f"{name}.{a.name}" in LOADERS)
        elif isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if called in BUILTINS | LOADERS or any(k.arg == "allow_pickle" for k in node.keywords):
                yield called


def test_no_module_can_run_what_it_reads() -> None:
    modules = {str(path.relative_to(ROOT)): path.read_text("utf-8") for path in hand_written_modules()}
    found = {(place, name) for place, source in modules.items() for name in dangers(source)}
    assert found == EXCEPTIONS.keys()


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "import yaml.loader",
        "from marshal import loads",
        "from torch import load",
        "torch.load(path, weights_only=True)",
        "np.load(path)",
        "read(path, allow_pickle=True)",
        "eval(text)",
        "exec(text)",
    ],
)
def test_each_of_them_would_be_found(source: str) -> None:
    assert list(dangers(source))


def test_calls_of_the_same_name_elsewhere_are_not_meant() -> None:
    assert not list(dangers("model.eval()\nre.compile(text)\njson.load(file)"))
