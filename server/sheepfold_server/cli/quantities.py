"""Numbers with units on the command line, read strictly: 340M, 100G, 64Gi."""

from __future__ import annotations

import re
from decimal import Decimal

from sheepfold_wire.errors import BadConfig

DECIMAL = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
BINARY = {"Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30, "Ti": 1 << 40}
COUNTS = {**DECIMAL, "B": 10**9}
BITS_PER_BYTE = 8


def count(option: str, text: str) -> int:
    """A whole number such as 1024, 340M or 1.3B; raises BadConfig."""
    return _whole(option, text, COUNTS, "a number such as 1024, 340M or 1.3B")


def size(option: str, text: str) -> int:
    """Bytes, such as 64Gi or 80G; raises BadConfig."""
    return _whole(option, text, {**DECIMAL, **BINARY}, "bytes such as 64Gi or 80G")


def byte_rate(option: str, text: str) -> float:
    """Bytes per second, such as 25G; raises BadConfig."""
    return float(_value(option, text, DECIMAL, "bytes per second such as 25G"))


def bit_rate(option: str, text: str) -> float:
    """Bytes per second of a link that is given in bits per second, such as 100G; raises BadConfig."""
    return float(_value(option, text, DECIMAL, "bits per second such as 100G or 1.6T")) / BITS_PER_BYTE


def _whole(option: str, text: str, units: dict[str, int], wanted: str) -> int:
    value = _value(option, text, units, wanted)
    if value != int(value):
        raise BadConfig(f"{option} {text} is {value}: give a whole number")
    return int(value)


def _value(option: str, text: str, units: dict[str, int], wanted: str) -> Decimal:
    """Digits, a point and digits if wanted, one of these units; neither signs, spaces nor exponents."""
    match = re.fullmatch(r"([0-9]{1,18}(?:\.[0-9]{1,9})?)([A-Za-z]*)", text)
    if match is None or match[2] not in units:
        known = ", ".join(unit for unit in units if unit)
        raise BadConfig(f"{option} {text}: give {wanted}; units are {known}, written so")
    return Decimal(match[1]) * units[match[2]]
