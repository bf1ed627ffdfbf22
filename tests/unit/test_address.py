"""sheepfold.address"""

from __future__ import annotations

import pytest

from sheepfold.address import Address, BadAddress, find_address, parse_address
from sheepfold_wire.connection import Connection, masked


def grpc(target: str, network: str = "") -> Address:
    return Address("grpc", Connection(target, network=network))


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("host:1234", grpc("host:1234")),
        ("sheepfold://host.example:1234", grpc("host.example:1234")),
        ("sheepfold://host/", grpc("host:7070")),
        ("10.0.0.7", grpc("10.0.0.7:7070")),
        ("[::1]:80", grpc("[::1]:80")),
        ("local:", Address("local", shards=1)),
        ("local:?shards=2", Address("local", shards=2)),
        ("host:1?network=external", grpc("host:1", network="external")),
        ("  host:1 ", grpc("host:1")),
    ],
)
def test_addresses_are_read_and_written_alike(text: str, address: Address) -> None:
    assert parse_address(text) == address
    assert parse_address(str(address)) == address


def test_argument_goes_before_variable_before_default() -> None:
    assert find_address("a:1", {"SHEEPFOLD": "b:2"}).target == "a:1"
    assert find_address(None, {"SHEEPFOLD": "b:2"}).target == "b:2"
    assert find_address(None, {}).target == "127.0.0.1:7070"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("http://host:1", "scheme 'http'"),
        ("sheepfold://host:1?tokne=secret", "unknown key 'tokne'"),
        ("local:?shrads=2", "unknown key 'shrads', known here: shards"),
        ("local:?shards=0", "give a number from 1 to 64"),
        ("local:?shards=two", "give a number from 1 to 64"),
        ("local:?shards", "no list of key=value"),
        ("local:there", "nothing may stand between"),
        ("host:70700", "port 70700, give 1 to 65535"),
        ("host:0", "port 0"),
        ("host:1:2", "no host and port"),
        ("", "no host and port"),
        ("ho st:1", "no host and port"),
    ],
)
def test_bad_address_is_one_sentence_naming_the_text_and_the_remedy(text: str, said: str) -> None:
    with pytest.raises(BadAddress, match=said) as caught:
        parse_address(text, "$SHEEPFOLD")
    assert str(caught.value).startswith(f"$SHEEPFOLD={masked(text)!r}: ")
    assert "\n" not in str(caught.value)
