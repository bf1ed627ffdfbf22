"""Which models of this process are attached: one model has one place, and a notebook's cell may run again."""

from __future__ import annotations

import logging
import sys
import weakref
from collections.abc import Iterable
from typing import Protocol

from sheepfold.errors import Refused

log = logging.getLogger("sheepfold")


class Place(Protocol):
    """A Run, as far as it matters here."""

    @property
    def job(self) -> str: ...
    @property
    def version(self) -> int: ...
    @property
    def is_closed(self) -> bool: ...
    def close(self) -> None: ...


_places: weakref.WeakKeyDictionary[Place, frozenset[int]] = weakref.WeakKeyDictionary()
"""Open places, with the identities of their parameters."""


def is_interactive() -> bool:
    """A notebook, or Python's own prompt."""
    return "ipykernel" in sys.modules or hasattr(sys, "ps1")


def remember(place: Place, parameters: Iterable[object]) -> None:
    _places[place] = frozenset(map(id, parameters))


def leave_on_rerun(parameters: Iterable[object]) -> None:
    """Before a model is attached: where cells run again, what this process attached before is left.

    In a script, raises Refused if the model is attached already: two places would write over each other.
    """
    mine = set(map(id, parameters))
    for place, theirs in list(_places.items()):
        if place.is_closed:
            del _places[place]
        elif is_interactive():
            log.info("job %s: attached again, the earlier place in it is left", place.job)
            place.close()
        elif mine & theirs:
            raise Refused(
                f"this model is attached to job {place.job} already, at version {place.version}",
                remedy="go on with that run, or close() it first",
            )
