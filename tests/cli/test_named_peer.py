from __future__ import annotations

from dataclasses import replace

import pytest

from nconnect.cli.named_peer import peer_of
from nconnect.control.schema import MappedRoute, PeerStatus
from nconnect.errors import ConfigError
from tests.control.fake import STATUS

ONE = PeerStatus("one", "one.aa", ("10.86.0.1/32", "192.168.1.0/24"), None, "up")
TWO = PeerStatus(
    "two",
    "two.bb",
    ("10.86.0.1/32", "192.168.1.0/24", "192.168.1.10/32"),
    None,
    "up",
    mapped=(MappedRoute("10.86.0.0/24", "10.201.7.0/24"), MappedRoute("192.168.1.0/24", "10.200.9.0/24")),
)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("two", "two"),
        ("10.86.0.1", "one"),
        ("192.168.1.10", "one"),  # the other one's is mapped
        ("10.201.7.1", "two"),
        ("10.200.9.10", "two"),
    ],
)
def test_an_address_is_the_peer_s_to_which_packets_go(text: str, name: str) -> None:
    assert peer_of(replace(STATUS, peers=(ONE, TWO)), text).name == name


def test_an_address_of_nobody() -> None:
    with pytest.raises(ConfigError):
        peer_of(replace(STATUS, peers=(ONE, TWO)), "10.9.9.9")
