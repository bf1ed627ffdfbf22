"""Changes a join token for a pass."""

from __future__ import annotations

import time
from dataclasses import replace

import sheepfold_wire.messages as m
from sheepfold_server.shell.security import Security
from sheepfold_server.shell.tokens import CLOCK_SKEW_SECONDS, PASS_SECONDS, Grant, Use
from sheepfold_wire.errors import NotReady


def give_pass(security: Security, grant: Grant | None, now: float | None = None) -> m.AdmitReply:
    """For the same caller, job and certificate; 15 minutes, or what is left of the join token's own time.

    Without token keys (`grant` is None) there is nothing to show. Raises NotReady without a signing key.
    """
    if grant is None:
        return m.AdmitReply("", PASS_SECONDS)
    if security.signer is None:
        raise NotReady(
            "this coordinator signs no passes: start it with --token-signer, or give the caller a pass in "
            "place of a join token (`sheepfold token --minutes`)"
        )
    now = time.time() if now is None else now
    seconds = min(float(PASS_SECONDS), grant.expires_at + CLOCK_SKEW_SECONDS - now)
    given = replace(grant, use=Use.PASS, expires_at=now + seconds)
    return m.AdmitReply(security.signer.sign(given, now), seconds)
