"""What every suite shares: the rule for tests whose tools are not installed."""

from __future__ import annotations

import os

import hypothesis
import pytest

# A busy machine is no failure. In CI Hypothesis takes its own profile, which has no deadline either.
hypothesis.settings.register_profile("without deadline", deadline=None)
if "CI" not in os.environ:
    hypothesis.settings.load_profile("without deadline")

# Before any test module imports grpc: servers and clients live in one process here, and DataLoaders fork.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")


def require(name: str, reason: str) -> None:
    """Skip the calling test for want of the tool `name`, or fail it where $SHEEPFOLD_REQUIRE names it.

    SHEEPFOLD_REQUIRE is a comma-separated list of names (protos, browser, ...), or `all`; CI sets `all`, so
    that a suite cannot silently stop running. Call it once it is known that the tool is missing.
    """
    required = {word.strip() for word in os.environ.get("SHEEPFOLD_REQUIRE", "").split(",")}
    if required & {name, "all"}:
        pytest.fail(f"{name} is required (SHEEPFOLD_REQUIRE) but missing: {reason}", pytrace=False)
    pytest.skip(f"{name}: {reason}")
