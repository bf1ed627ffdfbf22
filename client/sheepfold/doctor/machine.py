"""What of this machine gets into a worker's way: rules over values that were measured elsewhere."""

from __future__ import annotations

from collections.abc import Mapping

from sheepfold.doctor.results import CheckResult, ok, size, warning

PROXY_VARIABLES = ("grpc_proxy", "https_proxy", "http_proxy")
"""Those that gRPC reads, in its order of preference."""
FORK_SUPPORT = "GRPC_ENABLE_FORK_SUPPORT"
SHARED_MEMORY_BYTES_MIN = 512 << 20
OPEN_FILES_MIN = 1024

PROXIES, FORK, SHARED_MEMORY, THREADS, FILES, VERSIONS = (
    "proxies",
    "fork support",
    "/dev/shm",
    "CPU threads",
    "open files",
    "versions",
)


def proxy_in_use(environ: Mapping[str, str]) -> str:
    """The variable whose proxy gRPC calls go through; empty if they are direct."""
    if environ.get("SHEEPFOLD_USE_PROXY") != "1":
        return ""
    return next((name for name in PROXY_VARIABLES if environ.get(name)), "")


def check_proxies(environ: Mapping[str, str]) -> CheckResult:
    """A proxy's address is shown without user and password."""
    found = [name for name in PROXY_VARIABLES if environ.get(name)]
    used = proxy_in_use(environ)
    if used:
        through = environ[used].rpartition("@")[2].removeprefix("http://").rstrip("/")
        return warning(
            PROXIES,
            f"calls go through {used} = {through}, because SHEEPFOLD_USE_PROXY=1",
            "If workers reach the servers directly, unset SHEEPFOLD_USE_PROXY: few proxies let gRPC pass",
        )
    if found:
        text = f"{' and '.join(found)} ignored: calls go to the servers directly"
        return ok(PROXIES, f"{text} (SHEEPFOLD_USE_PROXY=1 would use a proxy)")
    return ok(PROXIES, "none in the environment")


def check_fork_support(environ: Mapping[str, str]) -> CheckResult:
    value = environ.get(FORK_SUPPORT, "1")
    if value.lower() in ("0", "false", "no"):
        return ok(FORK, f"{FORK_SUPPORT}={value}: a DataLoader may fork once sheepfold is imported")
    return warning(
        FORK,
        f"{FORK_SUPPORT}={value} is in the environment: forked DataLoader workers may hang",
        f"`unset {FORK_SUPPORT}`, or set it to 0",
    )


def check_shared_memory(free_bytes: int | None) -> CheckResult:
    """`free_bytes` None: there is no /dev/shm."""
    if free_bytes is not None and free_bytes >= SHARED_MEMORY_BYTES_MIN:
        return ok(SHARED_MEMORY, f"{size(free_bytes)} free")
    return warning(
        SHARED_MEMORY,
        "there is none" if free_bytes is None else f"{size(free_bytes)} free",
        "DataLoader workers pass batches through it and die where it is full: give the container more, e.g. "
        "`docker run --shm-size=2g`",
    )


def check_threads(cpus: int, quota: float | None, environ: Mapping[str, str]) -> CheckResult:
    """`cpus`: those this process may run on; `quota`: CPU seconds per second that its cgroup may use."""
    usable = cpus if quota is None else max(1, min(cpus, int(quota)))
    have = f"{cpus} CPUs" + ("" if quota is None else f", of which the container may use {quota:g}")
    asked = environ.get("OMP_NUM_THREADS", "")
    first = asked.split(",")[0].strip()
    remedy = f"Set OMP_NUM_THREADS={usable}, or attach(..., threads={usable}), divided by workers per machine"
    if asked and not first.isdecimal():
        return warning(THREADS, f"{have}; OMP_NUM_THREADS={asked} is no number", remedy)
    if asked:
        text = f"{have}; OMP_NUM_THREADS={asked}"
        return warning(THREADS, text, remedy) if int(first) > usable else ok(THREADS, text)
    if usable < cpus:
        return warning(THREADS, f"{have}; torch would start a thread for each CPU", remedy)
    return ok(THREADS, f"{have}; OMP_NUM_THREADS is not set, so torch takes up to {cpus} threads")


def check_open_files(soft: int, hard: int) -> CheckResult:
    """Limits of this process; -1 is none."""
    if soft < 0 or soft >= OPEN_FILES_MIN:
        return ok(FILES, "no limit" if soft < 0 else f"up to {soft:,}")
    return warning(
        FILES,
        f"up to {soft:,}",
        f"Raise it with `ulimit -n {OPEN_FILES_MIN if hard < 0 else min(hard, OPEN_FILES_MIN)}`: sockets and "
        "DataLoader workers need one each, and more",
    )


def check_versions(python: str, packages: Mapping[str, str | None]) -> CheckResult:
    """`packages`: name to version, None where it is not installed. Only torch may be missing."""
    shown = ", ".join(f"{name} {version}" for name, version in packages.items() if version)
    text = f"Python {python}, {shown}"
    missing = [name for name, version in packages.items() if version is None]
    if not missing:
        return ok(VERSIONS, text)
    if missing == ["torch"]:
        return ok(VERSIONS, f"{text}; torch is not installed, sheepfold.Client does without")
    return warning(VERSIONS, f"{text}; not installed: {', '.join(missing)}", "Run `pip install sheepfold`")
