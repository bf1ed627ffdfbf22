"""Credentials are made once and never again; the workers' line is derived from them."""

from __future__ import annotations

import base64
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from cryptography import x509
from tests.chart.fake_kube.api import FakeKubeApi
from tests.chart.rendering import CHART, containers, of_kind, pods, render, rendered_text

from sheepfold_server.core.permissions import Role
from sheepfold_server.shell.security import SecurityFiles, read_security
from sheepfold_server.shell.tokens import Use
from sheepfold_wire.connection import parse_connection

SCRIPT = CHART / "files" / "credentials.py"
TLS, TOKEN, LINE = "fold-sheepfold-tls", "fold-sheepfold-token", "fold-sheepfold-connect"
ADMIN = "fold-sheepfold-admin"


class Hooks:
    """Runs the Jobs of a rendering as the kubelet would, against a fake cluster."""

    def __init__(self, api: FakeKubeApi, folder: Path) -> None:
        self.cluster, self._folder = api.cluster, folder
        self._api = ["--api", api.url, "--account", str(folder / "account")]
        (folder / "account").mkdir()
        (folder / "account" / "token").write_text("of the account\n")

    def run(self, name: str, values: str = "") -> str:
        commands = [
            container["args"]
            for owner, container in containers(of_kind(render(values), "Job"))
            if owner.startswith(f"Job/fold-sheepfold-{name}/")
        ]
        assert commands
        return "".join(self._done(arguments) for arguments in commands)

    def _done(self, arguments: list[str]) -> str:
        given = [each.replace("/etc/sheepfold", str(self._folder)) for each in arguments]
        done = subprocess.run(
            [sys.executable, str(SCRIPT), *self._api, *given],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def content(self, secret: str) -> dict[str, bytes]:
        data = self.cluster.objects("Secret")[secret]["data"]
        return {key: base64.b64decode(value) for key, value in data.items()}

    def mount(self, secret: str, at: str) -> Path:
        folder = self._folder / at
        folder.mkdir(exist_ok=True)
        for key, value in self.content(secret).items():
            (folder / key).write_bytes(value)
        return folder


@pytest.fixture
def hooks(tmp_path: Path) -> Iterator[Hooks]:
    with FakeKubeApi() as api:
        yield Hooks(api, tmp_path)


def test_second_installation_leaves_credentials_as_they_are(hooks: Hooks) -> None:
    assert f"secret {TOKEN}: made" in hooks.run("credentials")
    before = {name: hooks.content(name) for name in (TLS, TOKEN)}
    said = hooks.run("credentials")
    assert f"secret {TOKEN}: was there, kept as it is" in said
    assert f"secret {TLS}: was there, kept as it is" in said
    assert {name: hooks.content(name) for name in (TLS, TOKEN)} == before


def test_no_credential_stands_in_what_is_rendered_so_two_rounds_are_equal() -> None:
    rendered_text.cache_clear()
    first = rendered_text()
    rendered_text.cache_clear()
    assert rendered_text() == first
    assert [each for each in yaml.safe_load_all(first) if each and each["kind"] == "Secret"] == []


def test_servers_can_use_what_the_hooks_make_and_workers_the_line(hooks: Hooks) -> None:
    hooks.run("credentials")
    tls, token = hooks.mount(TLS, "tls"), hooks.mount(TOKEN, "token")
    hooks.run("connect")
    files = SecurityFiles(tls / "tls.crt", tls / "tls.key", tls / "ca.crt")
    security = read_security(replace(files, token_keys=token / "token.pub", token_signer=token / "token.key"))
    assert security.verifier is not None
    for secret, role in ((LINE, Role.WORKER), (ADMIN, Role.ADMIN)):
        line = parse_connection(hooks.content(secret)["connection"].decode())
        assert line.ca == security.ca
        assert line.target == "fold-sheepfold-coordinator-0.fold-sheepfold.training.svc:7070"
        grant = security.verifier.grant(line.token)
        assert (grant.caller.role, grant.use) == (role, Use.JOIN)


def test_one_certificate_is_for_all_servers_and_says_so(hooks: Hooks) -> None:
    hooks.run("credentials")
    certificate = x509.load_pem_x509_certificate(hooks.content(TLS)["tls.crt"])
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    assert uris == ["spiffe://sheepfold/coordinator", "spiffe://sheepfold/shard"]
    (made,) = of_kind(render("tls: {mode: certManager, certManager: {issuerRef: {name: ca}}}"), "Certificate")
    assert made["spec"]["uris"] == uris
    assert {"server auth", "client auth"} <= set(made["spec"]["usages"])


def test_each_pod_mounts_no_more_of_the_token_secret_than_it_needs() -> None:
    mounted = {
        pod["metadata"]["labels"]["app.kubernetes.io/component"]: {
            item["key"] for item in volume["secret"]["items"]
        }
        for _, pod in pods(render())
        for volume in pod["spec"]["volumes"]
        if volume["name"] == "token"
    }
    assert mounted == {
        "coordinator": {"token.pub", "token.key"},
        "shard": {"token.pub"},
        "dashboard": {"token.pub", "reader.token"},
        "hook": {"worker.token", "admin.token"},
    }


def shake_hands(tls: Path, name: str) -> None:
    """As client and server would, in memory; raises SSLCertVerificationError."""
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(tls / "tls.crt", tls / "tls.key")
    trusting = ssl.create_default_context(cafile=str(tls / "ca.crt"))
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        trusting.wrap_bio(down, up, server_hostname=name),
        serving.wrap_bio(up, down, server_side=True),
    ]
    while ends:
        for end in list(ends):
            with suppress(ssl.SSLWantReadError):
                end.do_handshake()
                ends.remove(end)


def test_generated_certificate_is_for_the_names_of_pods_and_of_tunnels_alone(hooks: Hooks) -> None:
    """Python's ssl takes the wildcard as gRPC does (test_kubelet): clients use both."""
    hooks.run("credentials")
    tls = hooks.mount(TLS, "tls")
    for name in ("coordinator-0", "shard-1"):
        shake_hands(tls, f"fold-sheepfold-{name}.fold-sheepfold.training.svc")
    shake_hands(tls, "localhost")
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        shake_hands(tls, "fold-sheepfold-shard-1.fold-sheepfold.other.svc")


def test_line_follows_when_credentials_change(hooks: Hooks) -> None:
    hooks.run("credentials")
    hooks.mount(TLS, "tls")
    token = hooks.mount(TOKEN, "token") / "worker.token"
    hooks.run("connect")
    before = hooks.content(LINE)
    hooks.run("connect")
    assert hooks.content(LINE) == before
    token.write_text("another-token-of-some-length\n")
    hooks.run("connect")
    assert b"token=another-token-of-some-length" in hooks.content(LINE)["connection"]


@pytest.mark.parametrize(
    ("values", "made"),
    [
        ("token: {existingSecret: mine}", [TLS]),
        ("tls: {mode: existingSecret, existingSecret: mine}", [TOKEN]),
        ("tls: {mode: certManager, certManager: {issuerRef: {name: ca}}}", [TOKEN]),
    ],
)
def test_only_what_is_missing_is_made(hooks: Hooks, values: str, made: list[str]) -> None:
    hooks.run("credentials", values)
    assert list(hooks.cluster.objects("Secret")) == made


def test_no_hook_is_rendered_where_nothing_is_missing() -> None:
    given = "tls: {mode: existingSecret, existingSecret: a}\ntoken: {existingSecret: b}"
    jobs = [each["metadata"]["name"] for each in of_kind(render(given), "Job")]
    assert jobs == ["fold-sheepfold-connect"]
    assert of_kind(render(given + "\nhooks: {enabled: false}"), "Job", "Role", "RoleBinding") == []
