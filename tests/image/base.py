"""The image's base, made by debootstrap out of Debian's packages: what a registry would give, without one."""

from __future__ import annotations

import re
import subprocess
import tempfile
from pathlib import Path

TOOLS = Path(__file__).parents[2] / ".tools"
SUITE = "bookworm"
PACKAGES = ("python3", "python3-venv", "g++")
"""All that the Dockerfile would install with apt, so that the build asks nobody."""
APT = Path("/etc/apt")
URI = re.compile(r"^(?:URIs:|deb(?: \[[^\]]*\])?)\s+(\S+)", re.MULTILINE)
SECONDS_MAX = 1200


def mirror() -> str:
    """The first one that apt of this machine is told of. Raises ValueError."""
    for path in (*sorted(APT.glob("sources.list.d/debian*.sources")), APT / "sources.list"):
        if path.is_file() and (found := URI.search(path.read_text())):
            return found[1]
    raise ValueError(f"no Debian mirror in {APT}/sources.list or {APT}/sources.list.d/debian*.sources")


def made_base() -> Path:
    """An archive of the root file system, kept in .tools for the next time."""
    archive = TOOLS / f"base-{SUITE}.tar"
    if archive.exists():
        return archive
    TOOLS.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=TOOLS) as scratch:
        root, made = Path(scratch) / "root", Path(scratch) / archive.name
        bootstrap = ["debootstrap", "--variant=minbase", f"--include={','.join(PACKAGES)}", SUITE]
        done = subprocess.run(
            [*bootstrap, str(root), mirror()],
            capture_output=True,
            text=True,
            timeout=SECONDS_MAX,
            check=False,
        )
        if done.returncode != 0:
            raise RuntimeError(f"debootstrap ended with {done.returncode}:\n{done.stdout[-4000:]}")
        left_out = ["--exclude=./var/cache/apt/*", "--exclude=./var/lib/apt/lists/*"]
        subprocess.run(["tar", "-C", str(root), *left_out, "-cf", str(made), "."], check=True)
        made.rename(archive)
    return archive
