"""What cannot be right is refused: by the schema, or by a guard whose sentence says what to do."""

from __future__ import annotations

import json
from collections.abc import Iterator

import jsonschema
import pytest
import yaml
from tests.chart.rendering import CHART, VALUES, Object, refusal, render, schema

DIGEST = "sha256:" + "0" * 64
GUARDS = {
    "shards: {autoscaling: {enabled: true}}": "their number never follows the load",
    "tls: {mode: none}": "tls.mode=none: weights and gradients would cross the network in plain text",
    "{tls: {mode: none}, allowInsecure: true, token: {existingSecret: t}}": (
        "servers refuse a token in plain text"
    ),
    "tls: {mode: existingSecret}": (
        "name the secret with tls.crt, tls.key and ca.crt; its certificate must be for *.fold-"
        "sheepfold.training.svc"
    ),
    "tls: {mode: certManager}": "name the issuer",
    "hooks: {enabled: false}": "nobody would make the certificate",
    "{hooks: {enabled: false}, tls: {mode: existingSecret, existingSecret: c}}": (
        "nobody would make the token"
    ),
    "{hooks: {enabled: false}, tls: {mode: none}, allowInsecure: true, job: x}": (
        "nobody would create the job"
    ),
    "{hooks: {enabled: false}, tls: {mode: none}, allowInsecure: true, restore: {job: x}, "
    "checkpoints: {existingClaim: c}}": "nobody would restore the job",
    "restore: {job: x}": "restore.job=x: there are no checkpoints to restore it from",
    "external: {mode: loadBalancerPerShard}": "give the domain",
    "external: {mode: loadBalancerPerShard, domain: a.example}": "tls.mode=generated has none",
    "external: {mode: tlsPassthrough, domain: a.example}\ntls: {mode: existingSecret, existingSecret: c}": (
        "give the one by which your ingress passes TLS through"
    ),
    "external: {mode: tlsPassthrough, domain: a.example, annotations: {a: b}, sourceRanges: [10.0.0.0/8]}\n"
    "tls: {mode: existingSecret, existingSecret: c}": "behind an ingress it is the ingress that connects",
    "checkpoints: {url: 's3://a/b', existingClaim: c}": "they are kept at one place",
    "checkpoints: {url: 's3://a/b'}": "say in networkPolicy.objectStore where it is",
    "networkPolicy: {enabled: false}": "the dashboard speaks plain HTTP, and would speak it to the whole",
    "dashboard: {ingress: {enabled: true, host: a.example}}\n"
    "tls: {mode: none}\nallowInsecure: true": "the dashboard asks for no login",
    "dashboard: {ingress: {enabled: true, hasLogin: true}}": (
        "it needs dashboard.enabled=true and dashboard.ingress.host"
    ),
    "dashboard: {httpRoute: {enabled: true, host: a.example, parentRefs: [{name: g}]}}\n"
    "tls: {mode: none}\nallowInsecure: true": ("have the gateway ask for one"),
    "dashboard: {httpRoute: {enabled: true, hasLogin: true, host: a.example}}": (
        "a gateway in dashboard.httpRoute.parentRefs"
    ),
    "dashboard: {ingress: {enabled: true, hasLogin: true, host: a.example}, "
    "httpRoute: {enabled: true, hasLogin: true, host: a.example, parentRefs: [{name: g}]}}": (
        "enable dashboard.ingress or dashboard.httpRoute, not both"
    ),
    "gpu: {enabled: true, count: 2}": "gpu.count=2: a shard uses one GPU; raise shards.count",
    "shards: {extraEnv: [{name: POD_INDEX, value: '0'}]}": "shards.extraEnv: POD_INDEX is the chart's own",
    "dashboard: {extraEnv: [{name: A, value: a}, {name: A, value: b}]}": (
        "dashboard.extraEnv: A is there twice"
    ),
    "shards: {resources: {limits: {cpu: null}}}": "threads follow from it",
    "shards: {resources: {requests: {memory: 4Gi}}}": (
        "shards.resources.requests.memory=4Gi: 110000000 parameters on 2 shards need 6Gi each"
    ),
    "shards: {resources: {limits: {memory: 4000M}}}": "shards.resources.limits.memory=4000M",
    "shards: {stagingBytes: 1000000}": "two contributions to a shard take up to 484000000 bytes",
    "shards: {storage: {size: 5Gi}}": "shards.storage.size=5Gi: the log of 60500000 parameters needs 10Gi",
}
SCHEMA = {
    "shard: {count: 2}": "a key that is not there",
    "shards: {coutn: 2}": "a misspelt key",
    "shards: {count: 0}": "too few",
    "shards: {count: 65}": "more than the program takes",
    "shards: {count: '2'}": "a wrong type",
    "tls: {mode: tls}": "an unknown mode",
    "tls: {certManager: {issuerRef: {nam: ca}}}": "a misspelt key deep down",
    "shards: {storage: {size: 5 GB}}": "no quantity",
    "image: {digest: latest}": "no digest",
    "model: {parameters: 1.5}": "no whole number",
    "checkpoints: {url: /somewhere}": "a folder, which no two pods share: a claim is",
    "restore: {job: Bert}": "no name of a job",
    "restore: {version: -1}": "no version",
    "gpu: {count: 0}": "no GPU for a shard",
    "shards: {shmSize: lots}": "no quantity",
    "dashboard: {httpRoute: {parentRefs: [{namespace: gateways}]}}": "a gateway without a name",
    "dashboard: {trackers: [neptune]}": "a tracker that the program does not know",
    "coordinator: {extraEnv: [{nam: A}]}": "a misspelt key of a list's entry",
    "listenHost: 127.0.0.1": "where no other pod reaches it",
}


@pytest.mark.parametrize(("values", "sentence"), GUARDS.items())
def test_guard_says_what_to_do(values: str, sentence: str) -> None:
    said = refusal(values)
    assert "guards.yaml" in said
    assert sentence in said


@pytest.mark.parametrize("major", [3, 4])
@pytest.mark.parametrize("values", SCHEMA)
def test_schema_refuses(values: str, major: int) -> None:
    assert "values don't meet the specifications of the schema" in refusal(values, major)


def test_every_guard_has_a_test() -> None:
    """Those that look at a running release are in test_lifecycle."""
    written = (CHART / "templates" / "guards.yaml").read_text()
    before, _, _ = written.partition("lookup ")
    assert before.count("fail ") == len(GUARDS) - 1  # memory is refused in requests and in limits by one


def objects_of(part: Object, place: str = "") -> Iterator[tuple[str, Object]]:
    if part.get("type") == "object":
        yield place, part
    for key, child in part.items():
        if isinstance(child, dict):
            yield from objects_of(child, f"{place}/{key}")


def test_schema_closes_every_object_but_those_of_kubernetes() -> None:
    open_places = {
        place for place, each in objects_of(schema()) if each.get("additionalProperties", True) is True
    }
    assert open_places == {"/properties/global", "/$defs/kubernetesObject"}


def test_schema_and_values_name_the_same_keys() -> None:
    def keys(part: Object, place: str = "") -> Iterator[str]:
        for key, child in part.get("properties", {}).items():
            yield f"{place}.{key}"
            yield from keys(child, f"{place}.{key}")

    def given(part: Object, place: str = "") -> Iterator[str]:
        for key, child in part.items():
            yield f"{place}.{key}"
            if isinstance(child, dict) and f"{place}.{key}" in parents:
                yield from given(child, f"{place}.{key}")

    known = set(keys(schema()))
    parents = {key.rpartition(".")[0] for key in known}
    assert set(given(yaml.safe_load((CHART / "values.yaml").read_text()))) == known - {".global"}


def test_schema_is_a_schema_and_takes_the_defaults_and_every_example() -> None:
    jsonschema.Draft202012Validator.check_schema(schema())
    validator = jsonschema.Draft202012Validator(schema())
    validator.validate(yaml.safe_load((CHART / "values.yaml").read_text()))
    for path in VALUES:
        given = yaml.safe_load(path.read_text())
        given.pop("podSecurityContext", None)  # null takes a default away: helm drops it before it looks
        validator.validate(given)


def test_what_guards_let_pass_renders() -> None:
    """Each guard has a way through that its sentence names."""
    for values in (
        "{tls: {mode: none}, allowInsecure: true}",
        "{hooks: {enabled: false}, tls: {mode: existingSecret, existingSecret: c}, "
        "token: {existingSecret: t}}",
        "{networkPolicy: {enabled: false}, dashboard: {enabled: false}}",
        "{dashboard: {ingress: {enabled: true, host: a.example}}}",
        "{networkPolicy: {enabled: false}, dashboard: {allowOpen: true}}",
        "{restore: {job: bert}, checkpoints: {existingClaim: c}}",
        "shards: {resources: {requests: {memory: 6Gi}}}",
        "shards: {stagingBytes: 484000000}",
        "shards: {storage: {size: 10Gi}}",
        f"image: {{digest: '{DIGEST}'}}",
    ):
        assert render(values), json.dumps(values)
