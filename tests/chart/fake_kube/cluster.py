"""The objects of a fake cluster, and every change to them in order, for those who watch."""

from __future__ import annotations

import copy
import re
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from typing import NamedTuple

from tests.chart.fake_kube.controllers import check_change, replica_set_of, settled_status
from tests.chart.fake_kube.kinds import BY_NAME, Kind, Object, Refusal
from tests.chart.fake_kube.patches import repeated_entries


class Key(NamedTuple):
    kind: Kind
    namespace: str
    name: str


class Change(NamedTuple):
    revision: int
    what: str
    """ADDED, MODIFIED or DELETED."""
    kind: Kind
    obj: Object


class Wanted(NamedTuple):
    """What a list or a watch is about."""

    kind: Kind
    namespace: str = ""
    labels: str = ""
    fields: str = ""

    def covers(self, obj: Object) -> bool:
        metadata = obj["metadata"]
        if self.namespace and metadata.get("namespace") != self.namespace:
            return False
        labels = metadata.get("labels") or {}
        terms = [term.strip() for term in re.split(r",(?![^(]*\))", self.labels) if term]
        if not all(_label_fits(labels, term) for term in terms):
            return False
        return all(_field_fits(obj, term) for term in self.fields.split(",") if term)


def _label_fits(labels: dict[str, str], term: str) -> bool:
    if among := re.fullmatch(r"(\S+)\s+(in|notin)\s+\((.*)\)", term):
        values = [value.strip() for value in among[3].split(",")]
        return (labels.get(among[1]) in values) is (among[2] == "in")
    name, operator, value = re.fullmatch(r"(!?[^!=]+)(!=|==?)?(.*)", term).groups()
    if operator is None:
        return (name.lstrip("!") in labels) is not name.startswith("!")
    return (labels.get(name) == value) is (operator != "!=")


def _field_fits(obj: Object, term: str) -> bool:
    path, operator, value = re.split(r"(!=|==?)", term, maxsplit=1)
    found: object = obj
    for part in path.split("."):
        found = found.get(part) if isinstance(found, dict) else None
    return (str(found or "") == value) is (operator != "!=")


class Cluster:
    """Any thread may use it; each method is one transaction."""

    def __init__(self) -> None:
        self._objects: dict[Key, Object] = {}
        self._changes: list[Change] = []
        self._changed = threading.Condition(threading.RLock())
        self.create(Key(BY_NAME["Namespace"], "", "training"), {"metadata": {}})

    def objects(self, kind: str) -> dict[str, Object]:
        """By name."""
        _, found = self.select(Wanted(BY_NAME[kind]))
        return {each["metadata"]["name"]: each for each in found}

    def ever(self, kind: str) -> set[str]:
        """Names of all that were there, also of what is gone."""
        with self._changed:
            return {each.obj["metadata"]["name"] for each in self._changes if each.kind.name == kind}

    def get(self, key: Key) -> Object:
        with self._changed:
            if key not in self._objects:
                raise Refusal(404, "NotFound", f'{key.kind.plural} "{key.name}" not found')
            return copy.deepcopy(self._objects[key])

    def select(self, wanted: Wanted) -> tuple[int, list[Object]]:
        with self._changed:
            keys = sorted(key for key in self._objects if key.kind == wanted.kind)
            found = [self._objects[key] for key in keys if wanted.covers(self._objects[key])]
            return len(self._changes), copy.deepcopy(found)

    def create(self, key: Key, obj: Object, is_dry: bool = False) -> Object:
        with self._changed:
            if key in self._objects:
                raise Refusal(409, "AlreadyExists", f'{key.kind.plural} "{key.name}" already exists')
            return self._write(key, obj, is_dry)

    def replace(self, key: Key, obj: Object, is_dry: bool = False) -> Object:
        with self._changed:
            self.get(key)
            return self._write(key, obj, is_dry)

    def patch(
        self, key: Key, patch: Object, how: Callable[[Object, Object], None], is_dry: bool = False
    ) -> Object:
        with self._changed:
            obj = self.get(key)
            how(obj, patch)
            return self._write(key, obj, is_dry)

    def apply(self, key: Key, obj: Object, is_dry: bool = False) -> Object:
        """Server-side, by one manager of all fields: what it leaves out is gone."""
        for place in repeated_entries(obj):
            raise Refusal(500, "InternalError", f"failed to create typed patch object ({key.name}): {place}")
        with self._changed:
            return self._write(key, obj, is_dry)

    def delete(self, key: Key) -> None:
        """With it goes what it owns."""
        with self._changed:
            uid = self.get(key)["metadata"]["uid"]
            self._record("DELETED", key.kind, self._objects.pop(key))
            for other, obj in list(self._objects.items()):
                owners = obj["metadata"].get("ownerReferences") or []
                if any(owner.get("uid") == uid for owner in owners):
                    self.delete(other)

    def _write(self, key: Key, obj: Object, is_dry: bool) -> Object:
        old = self._objects.get(key)
        if key.kind.is_namespaced and Key(BY_NAME["Namespace"], "", key.namespace) not in self._objects:
            raise Refusal(404, "NotFound", f'namespaces "{key.namespace}" not found')
        if old is not None:
            check_change(key.kind.name, old, obj)
        obj = copy.deepcopy(obj) | {"kind": key.kind.name, "apiVersion": key.kind.api}
        obj["metadata"] = _filled_metadata(key, obj, old)
        if key.kind.name == "Service":
            obj["spec"].setdefault("clusterIP", "10.0.0.1")
        status = settled_status(key.kind.name, obj)
        if status is not None:
            obj["status"] = status
        if not is_dry:
            self._objects[key] = obj
            self._record("ADDED" if old is None else "MODIFIED", key.kind, obj)
            if key.kind.name == "Deployment":
                owned = replica_set_of(obj)
                self._write(
                    Key(BY_NAME["ReplicaSet"], key.namespace, owned["metadata"]["name"]), owned, False
                )
        return copy.deepcopy(obj)

    def _record(self, what: str, kind: Kind, obj: Object) -> None:
        obj["metadata"]["resourceVersion"] = str(len(self._changes) + 1)
        self._changes.append(Change(len(self._changes) + 1, what, kind, copy.deepcopy(obj)))
        self._changed.notify_all()

    def watch(self, wanted: Wanted, since: int, seconds: float) -> Iterator[Change]:
        """Changes after revision `since`, as they come."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            with self._changed:
                if len(self._changes) == since:
                    self._changed.wait(left)
                fresh = self._changes[since:]
            since += len(fresh)
            yield from (each for each in fresh if each.kind == wanted.kind and wanted.covers(each.obj))


def _filled_metadata(key: Key, obj: Object, old: Object | None) -> Object:
    metadata = dict(obj.get("metadata") or {}) | {"name": key.name}
    metadata.pop("managedFields", None)
    if key.namespace:
        metadata["namespace"] = key.namespace
    if old is None:
        born = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        return metadata | {"uid": str(uuid.uuid4()), "creationTimestamp": born, "generation": 1}
    kept = old["metadata"]
    generation = kept["generation"] + (obj.get("spec") != old.get("spec"))
    return metadata | {name: kept[name] for name in ("uid", "creationTimestamp")} | {"generation": generation}
