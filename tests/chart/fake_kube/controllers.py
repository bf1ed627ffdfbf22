"""What controllers would come to, at once; and what an API server does not let change."""

from __future__ import annotations

import copy
import hashlib
import json

from tests.chart.fake_kube.kinds import Object, Refusal

CHANGEABLE = {
    "StatefulSet": {
        "minReadySeconds",
        "ordinals",
        "persistentVolumeClaimRetentionPolicy",
        "replicas",
        "revisionHistoryLimit",
        "template",
        "updateStrategy",
    }
}
FIXED = {
    "Deployment": {"selector"},
    "ReplicaSet": {"selector"},
    "Job": {"selector", "template", "completionMode"},
    "PersistentVolumeClaim": {"accessModes", "storageClassName", "volumeName"},
}


def check_change(kind: str, old: Object, new: Object) -> None:
    """Raises Refusal for a field that stays as it was made."""
    before, after = old.get("spec") or {}, new.get("spec") or {}
    fixed = FIXED.get(kind, set())
    if kind in CHANGEABLE:
        fixed = (before.keys() | after.keys()) - CHANGEABLE[kind]
    changed = sorted(field for field in fixed if before.get(field) != after.get(field))
    if changed:
        name = new["metadata"]["name"]
        raise Refusal(422, "Invalid", f'{kind} "{name}" is invalid: spec.{changed[0]}: field is immutable')


def settled_status(kind: str, obj: Object) -> Object | None:
    """What its controller would report once all is well; None: it reports nothing."""
    spec = obj.get("spec") or {}
    seen = {"observedGeneration": obj["metadata"]["generation"]}
    count = spec.get("replicas", 1)
    running = seen | {name: count for name in ("replicas", "readyReplicas", "availableReplicas")}
    match kind:
        case "StatefulSet":
            revisions = {"currentRevision": "only", "updateRevision": "only"}
            return running | revisions | {"currentReplicas": count, "updatedReplicas": count}
        case "Deployment":
            conditions = [_true("Available", "Enough"), _true("Progressing", "NewReplicaSetAvailable")]
            return running | {"updatedReplicas": count, "conditions": conditions}
        case "ReplicaSet":
            return running | {"fullyLabeledReplicas": count}
        case "Job":
            return {"succeeded": 1, "conditions": [_true("Complete", "Done")]}
        case "Pod":
            ends = spec.get("restartPolicy") == "Never"
            return (
                {"phase": "Succeeded"} if ends else {"phase": "Running", "conditions": [_true("Ready", "")]}
            )
        case "Service":
            is_balanced = spec.get("type") == "LoadBalancer"
            return {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]} if is_balanced else {}}
        case "PersistentVolumeClaim":
            return {"phase": "Bound"}
        case "PodDisruptionBudget":
            healthy = {"currentHealthy": 1, "desiredHealthy": 1, "expectedPods": 1, "disruptionsAllowed": 1}
            return seen | healthy
        case "Certificate":
            return {"conditions": [_true("Ready", "Issued")]}
        case "Namespace":
            return {"phase": "Active"}
    return None


def _true(kind: str, reason: str) -> Object:
    return {"type": kind, "status": "True", "reason": reason}


def replica_set_of(deployment: Object) -> Object:
    """Helm 3 looks for it to see whether a Deployment is through."""
    metadata, spec = deployment["metadata"], deployment["spec"]
    template = copy.deepcopy(spec["template"])
    revision = hashlib.sha256(json.dumps(template, sort_keys=True).encode()).hexdigest()[:10]
    labels = template["metadata"].setdefault("labels", {})
    labels["pod-template-hash"] = revision
    owner = {"apiVersion": "apps/v1", "kind": "Deployment", "controller": True}
    owner |= {"name": metadata["name"], "uid": metadata["uid"]}
    return {
        "metadata": {
            "name": f"{metadata['name']}-{revision}",
            "labels": dict(labels),
            "ownerReferences": [owner],
        },
        "spec": {
            "replicas": spec.get("replicas", 1),
            "selector": {"matchLabels": dict(labels)},
            "template": template,
        },
    }
