"""The tables of steps and of roll-ups, read as rows of series and written as records. Not thread-safe."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sheepfold_server.dashboard.history.lineages import STEP_BITS, STEP_LAST, Lineage
from sheepfold_server.dashboard.history.record import CLAMP, METRIC_PREFIX, SCALARS, SLICE_VALUES, Record
from sheepfold_server.dashboard.history.rows import Floats, Rows, exact, joined, no_rows

LEVELS = (16, 64, 256, 1024, 4096)
"""Steps per roll-up. A factor of 4 between two: a chart reads at most 4 times the rows it shows."""
LEVEL_BITS = 3
VALUES = len(SLICE_VALUES)
ALL_VALUES = tuple(range(VALUES))
STEP_SLICE_BYTES = 8 * VALUES
ROLLUP_SLICE_BYTES = 4 * 3 * VALUES


@dataclass(frozen=True, slots=True)
class Scalars:
    """Which series are read: all scalars and metrics of a lineage."""

    lineage: Lineage

    def names(self) -> list[str]:
        return [*SCALARS, *(METRIC_PREFIX + name for name in self.lineage.metrics)]

    def width(self) -> int:
        return len(SCALARS) + len(self.lineage.metrics)


@dataclass(frozen=True, slots=True)
class Slices:
    """Which series are read: values of one slice, or of all of them, slice by slice."""

    lineage: Lineage
    number: int | None = None
    values: tuple[int, ...] = ALL_VALUES

    def width(self) -> int:
        return len(self.values) * self.slices()

    def slices(self) -> int:
        return len(self.lineage.slices) if self.number is None else 1

    def chosen(self, stored: Floats) -> Floats:
        """(rows, slices, 5, ...) as stored -> (rows, series, ...)."""
        if self.values != ALL_VALUES:
            stored = np.stack([stored[:, :, value] for value in self.values], axis=2)
        return stored.reshape(len(stored), self.width(), *stored.shape[3:])


class Tables:
    """Reads and writes; what is kept and when a roll-up is due is `History`'s to say."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    # --- steps ------------------------------------------------------------------------------------

    def insert(
        self, lineage: Lineage, record: Record, seconds: float, samples: float, is_flagged: bool
    ) -> None:
        self._connection.execute(
            "INSERT INTO steps(key, seconds, samples, is_flagged, scalars, report, slices) "
            "VALUES (?, ?, ?, ?, ?, ?, ?)",
            (
                lineage.key(record.step),
                seconds,
                samples,
                is_flagged,
                record.scalars.tobytes(),
                record.report,
                record.slices.tobytes(),
            ),
        )

    def flag(self, lineage: Lineage, step: int) -> None:
        """Keep that step whole for as long as flagged ones are kept."""
        self._connection.execute("UPDATE steps SET is_flagged = 1 WHERE key = ?", (lineage.key(step),))

    def report(self, lineage: Lineage, step: int) -> tuple[bytes, NDArray[np.float64]] | None:
        found = self._connection.execute(
            "SELECT report, slices FROM steps WHERE key = ?", (lineage.key(step),)
        ).fetchone()
        return None if found is None else (found[0], np.frombuffer(found[1]).reshape(-1, VALUES))

    def reports(self, lineage: Lineage, first: int, last: int, limit: int, *, newest: bool) -> list[bytes]:
        """Reports of steps in [first, last], oldest first: the newest `limit` of them, or the oldest."""
        order = "DESC" if newest else "ASC"
        found = self._connection.execute(
            f"SELECT report FROM steps WHERE key BETWEEN ? AND ? ORDER BY key {order} LIMIT ?",
            (lineage.key(first), lineage.key(last), limit),
        ).fetchall()
        return [row[0] for row in (reversed(found) if newest else found)]

    def newest_seconds(self, lineage: Lineage) -> float | None:
        """Unix time of its newest step; None before one."""
        found = self._connection.execute(
            "SELECT seconds FROM steps WHERE key = ?", (lineage.key(lineage.newest),)
        ).fetchone()
        return None if found is None else float(found[0])

    def newest_slices(self, lineage: Lineage, count: int, first: int = 0) -> list[Floats]:
        """Of the newest applied steps from `first` on, oldest first: (slices, 5) each, as stored."""
        found = self._connection.execute(
            "SELECT slices FROM steps WHERE key BETWEEN ? AND ? AND length(slices) > 0 "
            "ORDER BY key DESC LIMIT ?",
            (lineage.key(first), lineage.key(STEP_LAST), count),
        ).fetchall()
        return [np.frombuffer(row[0]).reshape(-1, VALUES) for row in reversed(found)]

    def steps(self, wanted: Scalars | Slices, first: int, last: int) -> Rows:
        """One row per kept step in [first, last]; of slices, per applied one."""
        column = "scalars"
        if isinstance(wanted, Slices):
            column = "slices"
            if wanted.number is not None:
                column = f"substr(slices, {wanted.number * STEP_SLICE_BYTES + 1}, {STEP_SLICE_BYTES})"
        only = "" if column == "scalars" else " AND length(slices) > 0"
        found = self._connection.execute(
            f"SELECT key, seconds, samples, {column} FROM steps WHERE key BETWEEN ? AND ?{only} ORDER BY key",
            (wanted.lineage.key(first), wanted.lineage.key(last)),
        ).fetchall()
        if not found:
            return no_rows(wanted.width())
        step, seconds, samples, blobs = _columns(found)
        if isinstance(wanted, Scalars):
            return exact(step & STEP_LAST, seconds, samples, _matrix(blobs, wanted.width(), np.float64))
        stored = _matrix(blobs, VALUES * wanted.slices(), np.float64)
        # The number of the bound becomes whether there is one.
        stored = np.where(np.arange(stored.shape[1]) % VALUES == CLAMP, np.minimum(stored, 1.0), stored)
        values = wanted.chosen(stored.reshape(len(found), -1, VALUES))
        return exact(step & STEP_LAST, seconds, samples, values)

    def delete_steps(self, lineage: Lineage, first: int, last: int) -> None:
        """Delete the steps in [first, last] that are not flagged."""
        self._connection.execute(
            "DELETE FROM steps WHERE key BETWEEN ? AND ? AND NOT is_flagged",
            (lineage.key(first), lineage.key(last)),
        )

    def delete_flagged(self, lineage: Lineage, last: int, kept: int) -> None:
        """Delete the flagged steps up to `last`, but for the newest `kept`."""
        self._connection.execute(
            "DELETE FROM steps WHERE key IN (SELECT key FROM steps WHERE is_flagged AND key BETWEEN ? AND ? "
            "ORDER BY key DESC LIMIT -1 OFFSET ?)",
            (lineage.key(0), lineage.key(last), kept),
        )

    # --- roll-ups ---------------------------------------------------------------------------------

    def rollups(self, wanted: Scalars | Slices, level: int, first: int, last: int) -> Rows:
        """One row per roll-up of LEVELS[level] steps that begins in [first, last]."""
        bounds = _bounds(wanted.lineage, level, first, last)
        if isinstance(wanted, Scalars):
            found = self._connection.execute(
                "SELECT step, seconds, samples, body FROM rollups WHERE key BETWEEN ? AND ? ORDER BY key",
                bounds,
            ).fetchall()
            if not found:
                return no_rows(wanted.width())
            step, seconds, samples, blobs = _columns(found)
            body = _matrix(blobs, 4 * wanted.width(), np.float64).reshape(len(found), -1, 4)
            low, mean, high, count = (body[..., part] for part in range(4))
            return Rows(step, seconds, samples, low, mean, high, np.nan_to_num(count))
        return self._slice_rollups(wanted, bounds)

    def _slice_rollups(self, wanted: Slices, bounds: tuple[int, int]) -> Rows:
        column = "body"
        if wanted.number is not None:
            column = f"substr(body, {wanted.number * ROLLUP_SLICE_BYTES + 1}, {ROLLUP_SLICE_BYTES})"
        found = self._connection.execute(
            f"SELECT step, seconds, samples, {column}, steps FROM slice_rollups WHERE key BETWEEN ? AND ? "
            "ORDER BY key",
            bounds,
        ).fetchall()
        if not found:
            return no_rows(wanted.width())
        step, seconds, samples, blobs = _columns(found)
        stored = _matrix(blobs, 3 * VALUES * wanted.slices(), np.float32)
        body = wanted.chosen(stored.reshape(len(found), -1, VALUES, 3))
        steps = np.array([row[4] for row in found], np.float32)[:, None]
        mean = body[..., 1]
        count = np.where(np.isfinite(mean), steps, np.float32(0))
        return Rows(step, seconds, samples, body[..., 0], mean, body[..., 2], count)

    def insert_rollup(self, lineage: Lineage, level: int, scalars: Rows, slices: Rows) -> None:
        """Keep one row of each as the roll-up that its first step lies in; `slices` may have none."""
        key = _key(lineage, level, int(scalars.step[0]))
        body = np.stack([scalars.low[0], scalars.mean[0], scalars.high[0], scalars.count[0]], axis=-1)
        self._connection.execute(
            "INSERT OR REPLACE INTO rollups(key, step, seconds, samples, body) VALUES (?, ?, ?, ?, ?)",
            (key, int(scalars.step[0]), scalars.seconds[0], scalars.samples[0], body.tobytes()),
        )
        if not len(slices):
            return
        packed = np.stack([slices.low[0], slices.mean[0], slices.high[0]], axis=-1).astype(np.float32)
        self._connection.execute(
            "INSERT OR REPLACE INTO slice_rollups(key, step, seconds, samples, steps, body) "
            "VALUES (?, ?, ?, ?, ?, ?)",
            (
                key,
                int(slices.step[0]),
                slices.seconds[0],
                slices.samples[0],
                int(slices.count[0].max(initial=0)),
                packed.tobytes(),
            ),
        )

    def delete_rollups(self, lineage: Lineage, level: int, before: int) -> None:
        """Delete the roll-ups of a level that begin before a step."""
        for table in ("rollups", "slice_rollups"):
            self._connection.execute(
                f"DELETE FROM {table} WHERE key BETWEEN ? AND ?", _bounds(lineage, level, 0, before - 1)
            )

    # --- all of a lineage -------------------------------------------------------------------------

    def open_rows(self, wanted: Scalars | Slices, level: int, newest: int) -> Rows:
        """What a level has not rolled up yet: its newest, unfinished stretch, from finer levels and steps."""
        parts, first = [], newest // LEVELS[level] * LEVELS[level]
        for finer in reversed(range(level)):
            end = newest // LEVELS[finer] * LEVELS[finer]
            if first < end:
                parts.append(self.rollups(wanted, finer, first, end - 1))
            first = end
        return joined([*parts, self.steps(wanted, first, newest)], wanted.width())

    def forget(self, lineage: Lineage) -> None:
        self._connection.execute(
            "DELETE FROM steps WHERE key BETWEEN ? AND ?", (lineage.key(0), lineage.key(STEP_LAST))
        )
        for level in range(len(LEVELS)):
            self.delete_rollups(lineage, level, STEP_LAST)


def _key(lineage: Lineage, level: int, step: int) -> int:
    return ((lineage.id << LEVEL_BITS | level) << STEP_BITS) | min(max(step, 0), STEP_LAST) // LEVELS[level]


def _bounds(lineage: Lineage, level: int, first: int, last: int) -> tuple[int, int]:
    """Keys of the roll-ups that begin in [first, last]; no key at all if there is none."""
    if last < 0:
        return 0, -1
    begin = -(-max(first, 0) // LEVELS[level]) * LEVELS[level]
    return _key(lineage, level, begin), _key(lineage, level, last)


def _columns(
    found: Sequence[tuple[int, float, float, bytes]],
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64], list[bytes]]:
    return (
        np.array([row[0] for row in found], np.int64),
        np.array([row[1] for row in found], np.float64),
        np.array([row[2] for row in found], np.float64),
        [row[3] for row in found],
    )


def _matrix(blobs: Sequence[bytes], width: int, kind: type[np.floating]) -> NDArray[np.floating]:
    """(blobs, width); shorter ones, from before a series was known, end in NaN."""
    item = np.dtype(kind).itemsize
    if all(len(blob) == width * item for blob in blobs):
        return np.frombuffer(b"".join(blobs), kind).reshape(len(blobs), width)
    values = np.full((len(blobs), width), np.nan, kind)
    for row, blob in zip(values, blobs, strict=True):
        row[: len(blob) // item] = np.frombuffer(blob, kind)
    return values
