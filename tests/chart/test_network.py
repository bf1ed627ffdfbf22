"""Network policies: each pod is under one, and only calls that are made are let through."""

from __future__ import annotations

import json

import yaml
from tests.chart.rendering import Object, containers, named, of_kind, pods, render, selects
from tests.chart.test_rendering import every_example


@every_example
def test_every_pod_of_the_release_is_under_a_policy_unless_they_are_off(values: str) -> None:
    objects = render(values)
    policies = of_kind(objects, "NetworkPolicy")
    if not policies:
        assert (yaml.safe_load(values) or {})["networkPolicy"]["enabled"] is False
        return
    for name, pod in pods(objects):
        covering = [p for p in policies if selects(p["spec"]["podSelector"]["matchLabels"], pod)]
        assert len(covering) == 1, name
        assert covering[0]["spec"]["policyTypes"] == ["Ingress", "Egress"]


def admits(peers: list[Object], pod: Object) -> bool:
    return any(selects(peer.get("podSelector", {}).get("matchLabels", {}), pod) for peer in peers)


def test_who_calls_whom_is_let_through_at_both_ends_and_nobody_else() -> None:
    objects = render("job: 'name = \"x\"'")
    by_component = {pod["metadata"]["labels"]["app.kubernetes.io/component"]: pod for _, pod in pods(objects)}
    policies = {
        component: named(objects, "NetworkPolicy", f"fold-sheepfold-{component}")["spec"]
        for component in by_component
    }

    def may_call(caller: str, called: str, port: int) -> bool:
        leaves = [
            each
            for each in policies[caller]["egress"]
            if {"port": port} in each["ports"] and admits(each.get("to", []), by_component[called])
        ]
        enters = [
            each
            for each in policies[called]["ingress"]
            if {"port": port} in each["ports"] and admits(each["from"], by_component[caller])
        ]
        return bool(leaves) and bool(enters)

    ports = [("coordinator", 7070), ("coordinator", 7072), ("shard", 7071), ("dashboard", 8070)]
    calls = {(caller, *called) for caller in policies for called in ports if may_call(caller, *called)}
    assert calls == {
        ("shard", "coordinator", 7072),
        ("dashboard", "coordinator", 7070),
        ("client", "coordinator", 7070),
        ("client", "shard", 7071),
    }


@every_example
def test_health_port_is_probed_and_open_to_nobody_else(values: str) -> None:
    """A kubelet on the pod's own node needs no rule."""
    objects = render(values)
    probed = 0
    for name, container in containers(of_kind(objects, "StatefulSet")):
        ports = {each["name"]: each["containerPort"] for each in container.get("ports", [])}
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            if probe in container:
                assert container[probe]["grpc"]["port"] == ports["health"] != ports["grpc"], name
                probed += 1
    assert probed == 6
    ruled = {
        port["port"]
        for policy in of_kind(objects, "NetworkPolicy")
        for rule in policy["spec"]["ingress"] + policy["spec"]["egress"]
        for port in rule["ports"]
    }
    served = {port["port"] for service in of_kind(objects, "Service") for port in service["spec"]["ports"]}
    assert 7073 not in ruled | served


def test_nobody_reads_the_dashboard_until_somebody_is_named() -> None:
    name = "fold-sheepfold-dashboard"
    assert named(render(), "NetworkPolicy", name)["spec"]["ingress"] == []
    (rule,) = named(
        render("networkPolicy: {prometheus: [{podSelector: {matchLabels: {app: prometheus}}}]}"),
        "NetworkPolicy",
        name,
    )["spec"]["ingress"]
    assert rule["ports"] == [{"port": 8070}]


def test_servers_alone_reach_the_store_of_checkpoints_and_the_coordinator_asks_for_its_name() -> None:
    store = {"ports": [{"port": 9000}], "to": [{"ipBlock": {"cidr": "192.0.2.1/32"}}]}
    objects = render(
        f"checkpoints: {{url: 's3://a/b'}}\nnetworkPolicy: {{objectStore: [{json.dumps(store)}]}}"
    )
    for policy in of_kind(objects, "NetworkPolicy"):
        is_server = policy["metadata"]["name"].endswith(("-coordinator", "-shard"))
        assert (store in policy["spec"]["egress"]) is is_server
    names = {"port": 53, "protocol": "UDP"}
    (asked,) = (
        rule
        for rule in named(objects, "NetworkPolicy", "fold-sheepfold-coordinator")["spec"]["egress"]
        if names in rule["ports"]
    )
    assert asked
