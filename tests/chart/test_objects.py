"""What the rendered objects promise each other: selectors, ports, probes, secrets, rights."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from tests.chart.rendering import (
    NAMESPACE,
    VALUES,
    Object,
    containers,
    named,
    of_kind,
    pods,
    render,
    selects,
    shard_container,
)
from tests.chart.test_rendering import every_example

from sheepfold_server.shell import coordinator_main, shard_main

MADE_BY_HOOKS = ("-token", "-tls", "-connect")
SERVERS = ("coordinator", "shard")


@every_example
def test_every_selector_finds_pods(values: str) -> None:
    objects = render(values)
    all_pods = [pod for _, pod in pods(objects)]
    for service in of_kind(objects, "Service"):
        wanted = dict(service["spec"]["selector"])
        wanted.pop("statefulset.kubernetes.io/pod-name", None)  # set by the StatefulSet's controller
        assert any(selects(wanted, pod) for pod in all_pods), service["metadata"]["name"]
    for each in of_kind(objects, "StatefulSet", "Deployment", "PodDisruptionBudget"):
        wanted = each["spec"]["selector"]["matchLabels"]
        assert any(selects(wanted, pod) for pod in all_pods), each["metadata"]["name"]
    for policy in of_kind(objects, "NetworkPolicy"):
        wanted = policy["spec"]["podSelector"]["matchLabels"]
        is_hook = policy["metadata"]["name"].endswith("-hook")  # with the secrets given there is none
        assert is_hook or any(selects(wanted, pod) for pod in all_pods), policy["metadata"]["name"]


@every_example
def test_every_workload_selects_its_own_pods_alone(values: str) -> None:
    objects = render(values)
    for each in of_kind(objects, "StatefulSet", "Deployment"):
        wanted = each["spec"]["selector"]["matchLabels"]
        chosen = [owner for owner, pod in pods(objects) if selects(wanted, pod)]
        assert chosen == [f"{each['kind']}/{each['metadata']['name']}"]


@every_example
def test_every_external_service_leads_to_a_pod_that_exists(values: str) -> None:
    objects = render(values)
    existing = {
        f"{each['metadata']['name']}-{ordinal}"
        for each in of_kind(objects, "StatefulSet")
        for ordinal in range(each["spec"]["replicas"])
    }
    selectors = [each["spec"]["selector"] for each in of_kind(objects, "Service")]
    led_to = {each.get("statefulset.kubernetes.io/pod-name") for each in selectors} - {None}
    assert led_to == (existing if "external:" in values else set())


@every_example
def test_every_ingress_leads_to_a_port_of_a_service(values: str) -> None:
    objects = render(values)
    for ingress in of_kind(objects, "Ingress"):
        for rule in ingress["spec"]["rules"]:
            (path,) = rule["http"]["paths"]
            backend = path["backend"]["service"]
            service = named(objects, "Service", backend["name"])
            assert backend["port"]["name"] in {port["name"] for port in service["spec"]["ports"]}


def test_shard_tells_workers_outside_the_port_of_the_ingress() -> None:
    (path,) = (each for each in VALUES if "passthrough" in each.name)
    assert "--external=shard-$(POD_INDEX).fold.example.com:443" in shard_container(path.read_text())["args"]
    (path,) = (each for each in VALUES if "everything" in each.name)
    assert "--external=shard-$(POD_INDEX).fold.example.com:7071" in shard_container(path.read_text())["args"]


def port_numbers(container: Object) -> dict[Any, int]:
    """By name and by number."""
    ports = container.get("ports", [])
    return {key: port["containerPort"] for port in ports for key in (port.get("name"), port["containerPort"])}


@every_example
def test_every_service_and_every_probe_meets_a_port(values: str) -> None:
    objects = render(values)
    for service in of_kind(objects, "Service"):
        wanted = dict(service["spec"]["selector"])
        wanted.pop("statefulset.kubernetes.io/pod-name", None)
        serving = [pod for _, pod in pods(objects) if selects(wanted, pod)]
        known = {key for pod in serving for c in pod["spec"]["containers"] for key in port_numbers(c)}
        for port in service["spec"]["ports"]:
            assert port.get("targetPort", port["port"]) in known, service["metadata"]["name"]
    for name, container in containers(objects):
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            asked = container.get(probe, {})
            if asked:
                assert probed_port(asked) in port_numbers(container), f"{name} {probe}"


def probed_port(probe: Object) -> int | str:
    for kind in ("grpc", "httpGet"):
        if kind in probe:
            port: int | str = probe[kind]["port"]
            return port
    raise AssertionError(f"neither gRPC nor HTTP: {probe}")


@every_example
def test_port_that_a_server_listens_on_is_declared(values: str) -> None:
    for name, container in containers(render(values)):
        listened = [each.rpartition(":")[2] for each in container.get("args", []) if "listen=" in each]
        if listened:
            declared = [each["containerPort"] for each in container["ports"]]
            assert sorted(map(int, listened)) == sorted(declared), name


@every_example
def test_no_environment_variable_or_mount_is_there_twice(values: str) -> None:
    for name, container in containers(render(values)):
        variables = [each["name"] for each in container.get("env", [])]
        mounts = [each["mountPath"] for each in container.get("volumeMounts", [])]
        assert len(variables) == len(set(variables)), name
        assert len(mounts) == len(set(mounts)), name


def test_environment_given_by_the_user_replaces_ours() -> None:
    container = shard_container("shards: {extraEnv: [{name: HOME, value: /elsewhere}]}")
    assert [each["value"] for each in container["env"] if each["name"] == "HOME"] == ["/elsewhere"]


@every_example
def test_every_mount_has_its_volume_and_every_volume_its_source(values: str) -> None:
    objects = render(values)
    maps = {each["metadata"]["name"] for each in of_kind(objects, "ConfigMap")}
    claims = {each["metadata"]["name"] for each in of_kind(objects, "PersistentVolumeClaim")}
    claims |= {(yaml.safe_load(values) or {}).get("checkpoints", {}).get("existingClaim")}
    for each in objects:
        for name, pod in pods([each]):
            volumes = {volume["name"]: volume for volume in pod["spec"].get("volumes", [])}
            templates = {claim["metadata"]["name"] for claim in each["spec"].get("volumeClaimTemplates", [])}
            for _, container in containers([each]):
                mounted = {mount["name"] for mount in container.get("volumeMounts", [])}
                assert mounted <= volumes.keys() | templates, name
            for volume in volumes.values():
                assert volume.get("configMap", {}).get("name") in maps | {None}, name
                assert volume.get("persistentVolumeClaim", {}).get("claimName") in claims | {None}, name


def test_checkpoints_are_where_the_coordinator_is_told_they_are_for_all_servers() -> None:
    objects = render("checkpoints: {existingClaim: shared}")
    place = "/var/lib/sheepfold-checkpoints"
    coordinator = named(objects, "StatefulSet", "fold-sheepfold-coordinator")
    assert f"--checkpoints={place}" in coordinator["spec"]["template"]["spec"]["containers"][0]["args"]
    for server in of_kind(objects, "StatefulSet"):
        spec = server["spec"]["template"]["spec"]
        (volume,) = (each["name"] for each in spec["volumes"] if "persistentVolumeClaim" in each)
        assert {"name": volume, "mountPath": place} in spec["containers"][0]["volumeMounts"]
    assert "--checkpoints" not in str(render())


@every_example
def test_every_secret_is_named_by_the_user_or_made_by_the_chart(values: str) -> None:
    """Made: rendered, by cert-manager, or by a hook whose arguments name it."""
    objects, given = render(values), yaml.safe_load(values) or {}
    made = {each["metadata"]["name"] for each in of_kind(objects, "Secret")}
    made |= {each["spec"]["secretName"] for each in of_kind(objects, "Certificate")}
    for _, container in containers(of_kind(objects, "Job")):
        made |= {text.rpartition("=")[2] for text in container.get("args", []) if "secret=" in text}
    made |= {given.get(key, {}).get("existingSecret") for key in ("tls", "token")}
    for name, pod in pods(objects):
        for volume in pod["spec"].get("volumes", []):
            if "secret" in volume and not volume["secret"].get("optional"):
                assert volume["secret"]["secretName"] in made, name


@every_example
def test_no_container_may_do_more_than_it_needs(values: str) -> None:
    objects = render(values)
    for name, pod in pods(objects):
        context = pod["spec"]["securityContext"]
        assert context["runAsNonRoot"] is True, name
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert pod["spec"]["enableServiceLinks"] is False, name
        talks_to_api = name.endswith(("-credentials", "-connect"))
        assert pod["spec"]["automountServiceAccountToken"] is talks_to_api, name
    for name, container in containers(objects):
        own = container["securityContext"]
        assert own["allowPrivilegeEscalation"] is False, name
        assert own["readOnlyRootFilesystem"] is True, name
        assert own["capabilities"] == {"drop": ["ALL"]}, name
    for account in of_kind(objects, "ServiceAccount"):
        assert account["automountServiceAccountToken"] is False


def test_hooks_may_make_secrets_and_change_the_lines_alone() -> None:
    (role,) = of_kind(render(), "Role")
    create, change = role["rules"]
    assert (create["resources"], create["verbs"]) == (["secrets"], ["create"])
    assert (change["resourceNames"], change["verbs"]) == (
        ["fold-sheepfold-connect", "fold-sheepfold-admin"],
        ["update"],
    )


def test_openshift_is_left_to_choose_users_and_groups() -> None:
    (path,) = (each for each in VALUES if "openshift" in each.name)
    for name, pod in pods(render(path.read_text())):
        assert not {"runAsUser", "runAsGroup", "fsGroup"} & pod["spec"]["securityContext"].keys(), name


def test_dashboard_is_not_given_the_servers_key() -> None:
    deployment = named(render(), "Deployment", "fold-sheepfold-dashboard")
    (volume,) = (each for each in deployment["spec"]["template"]["spec"]["volumes"] if each["name"] == "tls")
    assert volume["secret"]["items"] == [{"key": "ca.crt", "path": "ca.crt"}]


@every_example
def test_grace_period_is_longer_than_the_program_takes_to_stop(values: str) -> None:
    """A shard ends its calls, its link and an opener, each within its own time; the coordinator its calls."""
    due = {
        "coordinator": coordinator_main.GRACE_SECONDS,
        "shard": shard_main.GRACE_SECONDS + 5.0 + 5.0,
    }
    for each in of_kind(render(values), "StatefulSet"):
        component = each["metadata"]["labels"]["app.kubernetes.io/component"]
        granted = each["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
        assert granted >= 2 * due[component]


@pytest.mark.parametrize("server", SERVERS)
def test_servers_keep_off_preemptible_nodes_in_every_term(server: str) -> None:
    given = """
SERVER:
  affinity:
    nodeAffinity:
      requiredDuringSchedulingIgnoredDuringExecution:
        nodeSelectorTerms:
          - matchExpressions: [{key: zone, operator: In, values: [a]}]
          - matchFields: [{key: metadata.name, operator: In, values: [n]}]
""".replace("SERVER", {"shard": "shards"}.get(server, server))
    pod = named(render(given), "StatefulSet", f"fold-sheepfold-{server}")["spec"]["template"]
    required = pod["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    terms = required["nodeSelectorTerms"]
    assert len(terms) == 2
    for term in terms:
        kept_off = {each["key"] for each in term["matchExpressions"] if each["operator"] == "NotIn"}
        assert {"cloud.google.com/gke-spot", "karpenter.sh/capacity-type"} <= kept_off
    assert [each for each in terms[0]["matchExpressions"] if each["key"] == "zone"]
    assert terms[1]["matchFields"]
    allowed = named(render("allowPreemptible: true"), "StatefulSet", f"fold-sheepfold-{server}")
    assert "affinity" not in allowed["spec"]["template"]["spec"]


def test_shards_find_each_other_before_they_are_ready_and_start_together() -> None:
    objects = render()
    shards = named(objects, "StatefulSet", "fold-sheepfold-shard")["spec"]
    assert shards["podManagementPolicy"] == "Parallel"
    service = named(objects, "Service", shards["serviceName"])["spec"]
    assert service["clusterIP"] == "None"
    assert service["publishNotReadyAddresses"] is True


@every_example
def test_every_address_of_a_server_is_the_name_of_a_pod_in_its_service(values: str) -> None:
    objects = render(values)
    domains = {}
    for each in of_kind(objects, "StatefulSet"):
        service = named(objects, "Service", each["spec"]["serviceName"])
        assert service["spec"]["clusterIP"] == "None"
        assert selects(service["spec"]["selector"], each["spec"]["template"])
        domains[each["metadata"]["name"]] = f"{each['spec']['serviceName']}.{NAMESPACE}.svc"
    used = 0
    for _, container in containers(of_kind(objects, "StatefulSet", "Deployment")):
        for argument in container.get("args", []):
            option, _, address = argument.partition("=")
            if option in ("--coordinator", "--advertise"):
                pod, _, domain = address.rpartition(":")[0].partition(".")
                (owner,) = (
                    name for name in domains if name.endswith("-shard" if "$" in pod else "-coordinator")
                )
                assert pod in ("$(POD_NAME)", f"{owner}-0")
                assert domain == domains[owner]
                used += 1
    assert used >= 2


def test_new_version_of_the_chart_alone_does_not_restart_servers() -> None:
    for name, pod in pods(of_kind(render(), "StatefulSet", "Deployment")):
        assert not {"helm.sh/chart", "app.kubernetes.io/version"} & pod["metadata"]["labels"].keys(), name


@pytest.mark.parametrize("changed", ["tls: {existingSecret: b}", "token: {existingSecret: b}"])
def test_pods_are_replaced_when_they_must_read_other_secrets(changed: str) -> None:
    def checksums(values: str) -> set[str]:
        sets = pods(of_kind(render(values), "StatefulSet"))
        return {pod["metadata"]["annotations"]["checksum/config"] for _, pod in sets}

    common = "tls: {mode: existingSecret, existingSecret: a}\n"
    before = checksums(common)
    if changed.startswith("tls"):
        common, changed = "", "tls: {mode: existingSecret, existingSecret: b}"
    assert before.isdisjoint(checksums(common + changed))


def test_service_monitor_keeps_our_label_and_finds_the_port() -> None:
    objects = render()
    (monitor,) = of_kind(objects, "ServiceMonitor")
    service = named(objects, "Service", "fold-sheepfold-dashboard")
    assert selects(monitor["spec"]["selector"]["matchLabels"], service)
    (endpoint,) = monitor["spec"]["endpoints"]
    assert endpoint["honorLabels"] is True
    assert endpoint["port"] in {port["name"] for port in service["spec"]["ports"]}


def test_metrics_are_asked_for_with_the_token_that_the_dashboard_asks_for() -> None:
    """Only where there are tokens, and from a secret of this release's namespace."""
    (monitor,) = of_kind(render(), "ServiceMonitor")
    (endpoint,) = monitor["spec"]["endpoints"]
    token = {"name": "fold-sheepfold-token", "key": "reader.token"}
    assert endpoint["authorization"] == {"credentials": token}
    (open_one,) = of_kind(render("{tls: {mode: none}, allowInsecure: true}"), "ServiceMonitor")
    assert "authorization" not in open_one["spec"]["endpoints"][0]


def test_certificate_is_for_every_name_that_servers_are_called_by() -> None:
    values = """
tls: {mode: certManager, certManager: {issuerRef: {name: ca}}}
external: {mode: loadBalancerPerShard, domain: fold.example.com}
"""
    (certificate,) = of_kind(render(values), "Certificate")
    names = certificate["spec"]["dnsNames"]
    arguments = shard_container(values)["args"]
    called = [
        each.partition("=")[2] for each in arguments if each.startswith(("--advertise", "--coordinator"))
    ]
    for address in called:
        assert f"*.{address.partition('.')[2].partition(':')[0]}" in names
    assert {"coordinator.fold.example.com", "shard-0.fold.example.com", "shard-1.fold.example.com"} <= set(
        names
    )


@every_example
def test_half_an_hour_is_granted_to_read_a_log_and_minutes_to_answer_late(values: str) -> None:
    for name, container in containers(of_kind(render(values), "StatefulSet")):
        if "startupProbe" in container:
            startup, liveness = container["startupProbe"], container["livenessProbe"]
            assert startup["periodSeconds"] * startup["failureThreshold"] >= 1800, name
            assert liveness["periodSeconds"] * liveness["failureThreshold"] >= 120, name
