"""The kinds a fake cluster knows: what a chart installs must be among them."""

from __future__ import annotations

from typing import Any, NamedTuple

Object = dict[str, Any]


class Kind(NamedTuple):
    """As discovery tells it."""

    api: str
    """Group and version: v1, apps/v1."""
    plural: str
    name: str
    is_namespaced: bool = True


KINDS = [
    Kind("v1", "namespaces", "Namespace", is_namespaced=False),
    Kind("v1", "pods", "Pod"),
    Kind("v1", "services", "Service"),
    Kind("v1", "configmaps", "ConfigMap"),
    Kind("v1", "secrets", "Secret"),
    Kind("v1", "serviceaccounts", "ServiceAccount"),
    Kind("v1", "persistentvolumeclaims", "PersistentVolumeClaim"),
    Kind("v1", "events", "Event"),
    Kind("apps/v1", "deployments", "Deployment"),
    Kind("apps/v1", "statefulsets", "StatefulSet"),
    Kind("apps/v1", "replicasets", "ReplicaSet"),
    Kind("batch/v1", "jobs", "Job"),
    Kind("policy/v1", "poddisruptionbudgets", "PodDisruptionBudget"),
    Kind("networking.k8s.io/v1", "networkpolicies", "NetworkPolicy"),
    Kind("networking.k8s.io/v1", "ingresses", "Ingress"),
    Kind("rbac.authorization.k8s.io/v1", "roles", "Role"),
    Kind("rbac.authorization.k8s.io/v1", "rolebindings", "RoleBinding"),
    Kind("monitoring.coreos.com/v1", "servicemonitors", "ServiceMonitor"),
    Kind("monitoring.coreos.com/v1", "prometheusrules", "PrometheusRule"),
    Kind("cert-manager.io/v1", "certificates", "Certificate"),
    Kind("gateway.networking.k8s.io/v1", "httproutes", "HTTPRoute"),
]
BY_PATH = {(kind.api, kind.plural): kind for kind in KINDS}
BY_NAME = {kind.name: kind for kind in KINDS}
VERBS = ["create", "delete", "get", "list", "patch", "update", "watch"]


class Refusal(Exception):
    """What an API server answers instead of an object."""

    def __init__(self, code: int, reason: str, text: str) -> None:
        super().__init__(text)
        self.code, self.reason = code, reason

    def status(self) -> Object:
        return {
            "kind": "Status",
            "apiVersion": "v1",
            "status": "Failure",
            "code": self.code,
            "reason": self.reason,
            "message": str(self),
        }


def discovery(path: str) -> Object | None:
    """Answers of the paths by which a client learns what kinds there are; None: another path."""
    apis = list(dict.fromkeys(kind.api for kind in KINDS))
    groups = [api for api in apis if "/" in api]
    fixed: dict[str, Object] = {
        "/version": {"major": "1", "minor": "37", "gitVersion": "v1.37.0"},
        "/openapi/v3": {"paths": {}},
        "/api": {"kind": "APIVersions", "versions": ["v1"]},
        "/apis": {"kind": "APIGroupList", "apiVersion": "v1", "groups": [_group(api) for api in groups]},
    }
    for api in apis:
        fixed[f"/{'apis' if '/' in api else 'api'}/{api}"] = {
            "kind": "APIResourceList",
            "apiVersion": "v1",
            "groupVersion": api,
            "resources": [_resource(kind) for kind in KINDS if kind.api == api],
        }
    return fixed.get(path)


def _group(api: str) -> Object:
    group, version = api.split("/")
    entry = {"groupVersion": api, "version": version}
    return {"name": group, "versions": [entry], "preferredVersion": entry}


def _resource(kind: Kind) -> Object:
    return {
        "name": kind.plural,
        "singularName": kind.name.lower(),
        "kind": kind.name,
        "namespaced": kind.is_namespaced,
        "verbs": VERBS,
    }
