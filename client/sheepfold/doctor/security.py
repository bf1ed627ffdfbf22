"""Who answers, and whether it takes us: certificates and the token."""

from __future__ import annotations

import time

from sheepfold.doctor.results import CheckResult, failed, ok, warning
from sheepfold_wire.connection import Connection, is_loopback
from sheepfold_wire.errors import ServerUntrusted
from sheepfold_wire.tls import ServerTls, examine_tls, speaks_tls

DAYS_MIN = 14
PROBE_SECONDS_MAX = 2.0
TLS, TOKEN = "TLS", "token"
WHOLE_LINE = "Take the whole line that `sheepfold up` prints there, quotes included"


def check_tls(connection: Connection) -> CheckResult:
    """The server's certificate, by the CA that the address names."""
    if not connection.ca:
        if is_loopback(connection.target):
            return ok(TLS, "none, calls go in plain text and stay on this machine")
        return warning(
            TLS,
            "none, calls go in plain text and without a token",
            "Outside a network you trust, run `sheepfold up --listen` without --insecure, and take its line",
        )
    try:
        return judge_tls(examine_tls(connection.target, connection.ca), time.time())
    except ServerUntrusted as error:
        return failed(TLS, str(error), WHOLE_LINE)
    except OSError as error:
        why = error.strerror or str(error)
        return failed(
            TLS,
            f"no TLS with {connection.target} ({why})",
            "See the log of the coordinator; something in between may let only other traffic pass",
        )


def judge_tls(seen: ServerTls, now: float) -> CheckResult:
    days = int((seen.expires_at - now) // 86_400)
    text = f"{seen.version}, certificate sha256:{seen.fingerprint} expires in {days:,} days"
    if days < DAYS_MIN:
        return warning(
            TLS,
            text,
            "Start `sheepfold up` again, which makes one; one of your own: renew it, start the roles again",
        )
    return ok(TLS, text)


def token_accepted(connection: Connection) -> CheckResult:
    """After a call that the server has answered."""
    if connection.token:
        return ok(TOKEN, "the server takes it")
    return ok(TOKEN, "none in the address, and the server asks for none")


def token_refused(error: Exception) -> CheckResult:
    return failed(TOKEN, str(error), WHOLE_LINE)


def is_secured(connection: Connection) -> bool:
    """Whether a server that does not answer plain calls would answer TLS."""
    return not connection.ca and speaks_tls(connection.target, PROBE_SECONDS_MAX)
