"""sheepfold_wire.connection: one string is read whole, and its token is never shown."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sheepfold.address import find_address, parse_address
from sheepfold.joining import Joining
from sheepfold_wire.connection import BadAddress, Connection, is_loopback, masked, parse_connection

CA = "0f" * 32
TOKEN = "Zk3-a_token.of~some-length-43-letters-and-so"
LINE = f"sheepfold://10.0.0.5:7070?ca=sha256:{CA}&token={TOKEN}"
ROOT = Path(__file__).parents[2]


def test_line_names_place_ca_and_token() -> None:
    assert parse_connection(LINE) == Connection("10.0.0.5:7070", CA, TOKEN)
    assert parse_connection(f"{LINE}&network=external").network == "external"
    assert parse_connection(LINE.replace(CA, CA.upper())).ca == CA


@pytest.mark.parametrize("network", ["", "cluster", "external"])
@pytest.mark.parametrize("token", ["", TOKEN])
def test_what_is_written_for_the_user_is_read_back(network: str, token: str) -> None:
    written = Connection("[fd00::5]:7070", CA, token, network)
    assert parse_connection(written.secret) == written


def test_plain_address_is_written_without_a_scheme() -> None:
    assert str(Connection("10.0.0.5:7070")) == Connection("10.0.0.5:7070").secret == "10.0.0.5:7070"


def test_file_holds_the_line(tmp_path: Path) -> None:
    (tmp_path / "connection").write_text(LINE + "\n")
    address = f"file:{tmp_path / 'connection'}"
    assert parse_connection(address).secret == LINE
    assert find_address(None, {"SHEEPFOLD": address}).connection == parse_connection(LINE)


@pytest.mark.parametrize(
    "content", ["", f"{LINE}\n{LINE}", "file:elsewhere", f"{LINE}x" * 100, "\0", "host:port:x"]
)
def test_file_with_anything_else_is_refused_without_its_content(tmp_path: Path, content: str) -> None:
    (tmp_path / "connection").write_text(content)
    with pytest.raises(BadAddress, match="connection") as refused:
        parse_connection(f"file:{tmp_path / 'connection'}", "$SHEEPFOLD")
    assert str(refused.value).startswith("$SHEEPFOLD=file:")
    assert TOKEN not in str(refused.value)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadAddress, match=r"nowhere: the file cannot be read \(No such file"):
        parse_connection(f"file:{tmp_path / 'nowhere'}")


# --- what is refused ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (f"h:1?ca={CA}", "give sha256: and 64 hex digits"),
        (f"h:1?ca=sha256:{CA[:-1]}", "ca has 70 characters"),
        (f"h:1?ca=sha256:{CA}&token=short", "token has 5 characters"),
        (f"h:1?ca=sha256:{CA}&token=with%20a%20space%20in%20it", "letters, digits"),
        ("h:1?network=moon", "give cluster or external"),
        ("h:1?password=x", "unknown key 'password', known here: ca, token, network"),
        ("h:1?ca", "no list of key=value"),
        (f"https://h:1?token={TOKEN}", "scheme 'https'"),
    ],
)
def test_wrong_value_is_named_with_its_remedy(text: str, said: str) -> None:
    with pytest.raises(BadAddress, match=re.escape(said)):
        parse_connection(text)


@pytest.mark.parametrize("host", ["10.0.0.5", "gpu-3.lab", "[fd00::5]", "127.example.com", "0.0.0.0"])
def test_token_in_plain_text_beyond_loopback_is_refused(host: str) -> None:
    with pytest.raises(BadAddress, match="in plain text") as refused:
        parse_connection(f"{host}:7070?token={TOKEN}")
    assert TOKEN not in str(refused.value)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.3.2.1", "localhost", "[::1]"])
def test_token_in_plain_text_on_loopback_is_taken(host: str) -> None:
    assert parse_connection(f"{host}:7070?token={TOKEN}").token == TOKEN
    assert is_loopback(f"{host}:7070")


# --- masking --------------------------------------------------------------------------------------------


def test_nothing_that_shows_a_connection_shows_its_token() -> None:
    connection, address = parse_connection(LINE), parse_address(LINE)
    for shown in (str(connection), repr(connection), str(address), repr(address), f"{address}"):
        assert "Zk3" not in shown
        assert CA in shown
    assert str(connection).endswith("&token=***")
    assert "Zk3" not in repr(Joining(address=LINE))


MISTAKES = [
    "{line}&oops=1",
    "{line}&oops",
    "http://h?token={token}",
    "h:1?tokne={token}",
    "h:1?Token={token}",
    "h:1?tok%65n={token}&x=1",
    "h:1?network=cluster;token={token}",
    "h:1?ca=sha256:0;token={token}",
    "h:1?{token}",
    "h:1?ca={token}",
    "h:1?{token}=",
    "h:1&token={token}",
    "h:1 token={token}",
    "h:1 token: {token}",
    "sheepfold://{token}@h:1",
    "sheepfold://user:{token}@h:1",
    "local:?token={token}",
    "local:?shards={token}",
]


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistake_beside_a_token_is_told_without_it(mistake: str) -> None:
    text = mistake.format(line=LINE, token=TOKEN)
    with pytest.raises(BadAddress) as refused:
        parse_address(text, "$SHEEPFOLD")
    assert TOKEN[8:] not in str(refused.value)
    assert "***" in str(refused.value)


@given(st.text(max_size=30), st.text(max_size=30))
def test_value_after_token_is_masked_wherever_it_stands(before: str, after: str) -> None:
    assert TOKEN not in masked(f"{before}token={TOKEN}{after}")


def test_no_code_spells_the_token_out_but_for_the_user_and_the_header() -> None:
    """`secret` is for `up` and `sheepfold token` alone; whoever adds a reader decides so here."""
    readers = {
        path.relative_to(ROOT).as_posix()
        for package in ("client", "server", "protos")
        for path in (ROOT / package).rglob("*.py")
        if re.search(r"\.secret\b", path.read_text())
    }
    readers.remove("protos/sheepfold_wire/connection.py")  # its docstring
    cli = "server/sheepfold_server/cli"
    supervisor = "server/sheepfold_server/shell/supervisor.py"
    assert readers == {f"{cli}/up.py", f"{cli}/credentials.py", supervisor}
