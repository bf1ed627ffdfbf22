"""Answers as CSV: a header, then one line per row; a number that is not known is an empty field."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Sequence

from fastapi import Response


class CsvResponse(Response):
    media_type = "text/csv"


def csv_of(fields: Sequence[str], rows: Iterable[Iterable[object]]) -> CsvResponse:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(fields)
    for row in rows:
        writer.writerow([_cell(value) for value in row])
    return CsvResponse(text.getvalue())


def _cell(value: object) -> object:
    if isinstance(value, float) and not math.isfinite(value):
        return ""
    return str(value).lower() if isinstance(value, bool) else value
