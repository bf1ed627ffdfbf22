"""Kinds that no Kubernetes knows by itself, against what their operators say of them."""

from __future__ import annotations

from typing import Any

import jsonschema
import pydantic
import pytest
from tests.chart.rendering import VALUES, Object, named, of_kind, render
from tests.chart.test_rendering import NOT_KUBERNETES, every_example

NAME = {"type": "string", "minLength": 1, "maxLength": 253}
PORT = {"type": "integer", "minimum": 1, "maximum": 65535}
HOST = {
    "type": "string",
    "pattern": r"^(\*\.)?[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$",
}


def closed(required: list[str], **properties: Any) -> Object:
    return {
        "type": "object",
        "additionalProperties": False,
        "required": required,
        "properties": properties,
    }


HTTP_ROUTE = closed(
    ["apiVersion", "kind", "metadata", "spec"],
    apiVersion={"const": "gateway.networking.k8s.io/v1"},
    kind={"const": "HTTPRoute"},
    metadata={"type": "object"},
    spec=closed(
        ["parentRefs", "hostnames", "rules"],
        parentRefs={
            "type": "array",
            "minItems": 1,
            "maxItems": 32,
            "items": closed(
                ["name"],
                name=NAME,
                namespace=NAME,
                sectionName=NAME,
                port=PORT,
                kind=NAME,
                group={"type": "string"},
            ),
        },
        hostnames={"type": "array", "maxItems": 16, "items": HOST},
        rules={
            "type": "array",
            "items": closed(
                ["matches", "backendRefs"],
                matches={
                    "type": "array",
                    "items": closed(
                        ["path"],
                        path=closed(
                            ["type", "value"],
                            type={"enum": ["Exact", "PathPrefix", "RegularExpression"]},
                            value={"type": "string", "pattern": "^/"},
                        ),
                    ),
                },
                backendRefs={"type": "array", "items": closed(["name", "port"], name=NAME, port=PORT)},
            ),
        },
    ),
)
"""What of Gateway API v1 the chart uses; there are no typed models of it among Python's packages."""


def refused(each: Object) -> str:
    """Why an operator would refuse an object; empty if it takes it."""
    if each["kind"] == "HTTPRoute":
        errors = jsonschema.Draft202012Validator(HTTP_ROUTE).iter_errors(each)
        return "; ".join(f"{list(error.path)}: {error.message}" for error in errors)
    from cloudcoil.models.cert_manager import v1 as cert_manager
    from cloudcoil.models.prometheus_operator import v1 as prometheus

    module = cert_manager if each["kind"] == "Certificate" else prometheus
    try:
        taken = getattr(module, each["kind"]).model_validate(each)
    except pydantic.ValidationError as error:
        return str(error)
    # The models drop what they do not know, so an object that comes back whole has nothing of the kind.
    kept = taken.model_dump(by_alias=True, exclude_unset=True, mode="json")
    return "" if kept == each else f"unknown fields: {each} became {kept}"


@pytest.mark.slow
def test_operators_would_take_every_object_of_their_kinds() -> None:
    checked = set()
    for values in ["", *(path.read_text() for path in VALUES)]:
        for each in of_kind(render(values), *NOT_KUBERNETES):
            assert not refused(each), refused(each)
            checked.add(each["kind"])
    assert checked == NOT_KUBERNETES


def with_spec(each: Object, **changes: Any) -> Object:
    return each | {"spec": each["spec"] | changes}


@pytest.mark.slow
def test_faults_in_objects_of_operators_are_seen() -> None:
    objects = render("".join(path.read_text() for path in VALUES if "passthrough" in path.name))
    route = named(objects, "HTTPRoute", "fold-sheepfold-dashboard")
    (monitor,) = of_kind(objects, "ServiceMonitor")
    (rule,) = of_kind(objects, "PrometheusRule")
    (certificate,) = of_kind(objects, "Certificate")
    endpoint = monitor["spec"]["endpoints"][0]
    for faulty, word in [
        (with_spec(route, hostname="a.example"), "hostname"),
        (with_spec(route, hostnames=["https://a.example"]), "a.example"),
        (with_spec(route, parentRefs=[{"namespace": "gateways"}]), "name"),
        (with_spec(monitor, endpoints=[endpoint | {"interval": "15 seconds"}]), "interval"),
        (with_spec(monitor, endpoints=[endpoint | {"honourLabels": True}]), "honourLabels"),
        (with_spec(rule, groups=[{"rules": []}]), "name"),
        (with_spec(certificate, usages=["server"]), "usages"),
        (with_spec(certificate, dnsName="a.example"), "dnsName"),
    ]:
        assert word in refused(faulty), word


@every_example
def test_every_route_leads_to_a_port_of_a_service(values: str) -> None:
    objects = render(values)
    for route in of_kind(objects, "HTTPRoute"):
        for rule in route["spec"]["rules"]:
            (backend,) = rule["backendRefs"]
            service = named(objects, "Service", backend["name"])
            assert backend["port"] in {port["port"] for port in service["spec"]["ports"]}
