"""The generated parts of the guide's pages: `python -m tests.docs.generated` writes them anew.

A page says what stands between its markers, and the repository is what it is made from:

    <!-- generated: diff client/guide/before/plain_loop.py client/examples/plain_loop.py -->
    <!-- generated: output sheepfold plan --parameters 1M --workers 2 -->
    <!-- generated: alerts -->
    <!-- end: generated -->
"""

from __future__ import annotations

import difflib
import re
import shlex
from pathlib import Path

from typer.testing import CliRunner

from sheepfold_server.cli.app import app
from sheepfold_server.dashboard.alerts.rules import RULES

ROOT = Path(__file__).parents[2]
PAGES = ROOT / "client" / "guide" / "pages"
MARKED = re.compile(r"(<!-- generated: (\S+) ?(.*?) -->\n).*?(?=<!-- end: generated -->)", re.DOTALL)
CONTEXT_LINES = 2
COLUMNS = "88"


def renewed(text: str) -> str:
    """A page with what its generated parts should be."""
    return MARKED.sub(lambda found: found[1] + MAKERS[found[2]](found[3]), text)


def fenced(kind: str, text: str) -> str:
    return f"\n```{kind}\n{text.rstrip()}\n```\n\n"


def diff(names: str) -> str:
    """Of two files of the repository."""
    before, after = names.split()
    old, new = ((ROOT / name).read_text("utf-8").splitlines() for name in (before, after))
    lines = difflib.unified_diff(old, new, before, after, lineterm="", n=CONTEXT_LINES)
    return fenced("diff", "\n".join(lines))


def output(command: str) -> str:
    """Of a `sheepfold` command that needs no server; each line without what fills it up."""
    program, *arguments = shlex.split(command)
    assert program == "sheepfold", command
    done = CliRunner().invoke(app, arguments, env={"COLUMNS": COLUMNS, "TERM": "dumb", "SHEEPFOLD": ""})
    assert done.exit_code == 0, done.output
    return fenced("text", "\n".join([f"$ {command}", *(line.rstrip() for line in done.stdout.splitlines())]))


def alerts(_nothing: str) -> str:
    """The dashboard's rules, as it names them, and what it says to do."""
    rows = [f"| {rule.name} | {rule.severity} | {rule.remedy} |" for rule in RULES]
    return "\n".join(["| alert | severity | what to do |", "|---|---|---|", *rows]) + "\n"


MAKERS = {"diff": diff, "output": output, "alerts": alerts}


def main() -> None:
    for page in sorted(PAGES.glob("*.md")):
        text = page.read_text("utf-8")
        page.write_text(renewed(text), "utf-8")


if __name__ == "__main__":
    main()
