"""Takes secrets out of texts before they leave the machine."""

from __future__ import annotations

import re
from collections.abc import Mapping

from sheepfold_wire.connection import TOKEN

MASK = "***"
_SECRET_NAME = re.compile(r"(?i)(token|secret|password|passwd|credential|private|api_?key|access_?key)")
_ASSIGNED = re.compile(
    r"(?i)(?P<name>[\w-]*(?:token|secret|password|passwd|api_?key|access_?key)[\w-]*[\"']?\s*[=:]\s*[\"']?)"
    r"(?P<value>[^\s\"'&,;]+)"
)
_BEARER = re.compile(r"(?i)(bearer\s+)[A-Za-z0-9._~+/=-]+")
_USER = re.compile(r"//[^/@\s]+@")
_KEY = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?-----END [A-Z ]*PRIVATE KEY-----", re.DOTALL)


def masked_text(text: str, known: tuple[str, ...] = ()) -> str:
    """`known`: secrets that are masked wherever they stand."""
    for secret in sorted((one for one in known if TOKEN.fullmatch(one)), key=len, reverse=True):
        text = text.replace(secret, MASK)
    text = _KEY.sub(MASK, text)
    text = _BEARER.sub(rf"\g<1>{MASK}", text)
    text = _USER.sub(f"//{MASK}@", text)
    return _ASSIGNED.sub(rf"\g<name>{MASK}", text)


def masked_environment(environ: Mapping[str, str], prefixes: tuple[str, ...]) -> dict[str, str]:
    """The variables that concern us, by name; values of those whose name speaks of a secret are left out."""
    return {
        name: MASK if _SECRET_NAME.search(name) else masked_text(value)
        for name, value in sorted(environ.items())
        if name.startswith(prefixes)
    }
