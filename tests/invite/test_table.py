"""The table of peers from the file and from invitations, and what the daemon's part of it cannot do."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_interface, ip_network

import pytest

from nconnect.config.values import parse_allow_rule
from nconnect.crypto.keys import Identity
from nconnect.invite.book import Book, Invitation
from nconnect.invite.table import table_of
from nconnect.model import Config, NknAddress, PeerConfig
from tests.invite.examples import DEVICE, NOW, OTHER, TOKEN, invitation

OWN = Identity(bytes(31) + b"\x01")
CONFIG = Config(
    "nc0", OWN.seed, "gpu-box", (ip_interface("10.86.0.1/24"), ip_interface("fd86::1/64")),
    peers=(PeerConfig("phone", OTHER, (ip_network("10.86.0.9/32"),)),),
)  # fmt: skip
KEY = b"k" * 32


def used(*prefixes: str, device: object = DEVICE, **changes: object) -> Invitation:
    return replace(
        invitation(), device=str(device), is_added=True, used_at=NOW, allowed_ips=prefixes, peer_key=KEY,
        **changes,  # type: ignore[arg-type]
    )  # fmt: skip


def peers(*invitations: Invitation) -> tuple[list[PeerConfig], tuple[str, ...]]:
    table = table_of(CONFIG, Book(invitations), own_key=OWN.public_key)
    assert table.config.peers[: len(CONFIG.peers)] == CONFIG.peers, "the file's are as they are"
    assert table.config.provide == CONFIG.provide
    found = list(table.config.peers[len(CONFIG.peers) :])
    assert [peer.name for peer in found] == list(table.invited)
    return found, table.problems


def test_a_device_that_came_is_a_peer_as_its_invitation_says() -> None:
    (peer,), problems = peers(used("10.86.0.2/32", "fd86::2/128", allow=("192.168.50.10:8000/tcp",)))
    assert problems == ()
    assert peer == PeerConfig(
        "laptop", DEVICE, (ip_network("10.86.0.2/32"), ip_network("fd86::2/128")),
        (parse_allow_rule("192.168.50.10:8000/tcp"),), KEY,
    )  # fmt: skip


def test_what_was_changed_since_counts() -> None:
    changes = {
        "name": "x",
        "allow": None,
        "allowed_ips": ["10.99.0.0/16"],
        "expires": "2030-01-01T00:00:00+00:00",
    }
    (peer,), problems = peers(used("10.86.0.2/32", allow=(), changes=changes))
    assert problems == ()
    assert (peer.name, peer.allow, peer.expires_at) == ("x", None, 1893456000.0)
    assert peer.allowed_ips == (ip_network("10.99.0.0/16"),), "who invites may widen it"


@pytest.mark.parametrize(
    "prefixes",
    [
        ("0.0.0.0/0",), ("10.86.0.0/24",), ("10.86.0.2/31",), ("192.168.50.10/32",), ("10.86.0.1/32",),
        ("10.86.0.2/32", "10.86.0.3/32"), ("10.86.0.2/32", "fd99::1/128"), ("10.86.0.2",) * 2, ("nonsense",),
    ],
)  # fmt: skip
def test_the_daemons_half_widens_no_addresses(prefixes: tuple[str, ...]) -> None:
    found, problems = peers(used(*prefixes))
    assert found == []
    assert len(problems) == 1
    assert f"`nconnect peer remove {TOKEN.token_id.hex()}` forgets it" in problems[0]


def test_an_address_that_the_invitation_names_is_the_only_one() -> None:
    found, problems = peers(used("10.86.0.3/32", addresses=("10.86.0.2",)))
    assert (found, len(problems)) == ([], 1)
    found, problems = peers(used("10.86.0.2/32", addresses=("10.86.0.2",)))
    assert (len(found), problems) == (1, ())


@pytest.mark.parametrize(
    ("one", "says"),
    [
        (used("10.86.0.2/32", name="phone"), "the file has another peer of that name"),
        (used("10.86.0.2/32", device=OTHER), "it has the same key as phone"),
        (used("10.86.0.2/32", device=NknAddress("x", OWN.public_key)), "it has the same key as this device"),
        (used("10.86.0.9/32"), "10.86.0.9/32 also belongs to phone"),
        (used("10.86.0.2/32", device="nobody"), "is not an NKN address"),
        (used("10.86.0.2/32", device=DEVICE.sub_client(0)), "address"),
    ],
)
def test_the_file_wins(one: Invitation, says: str) -> None:
    found, problems = peers(one)
    assert found == []
    assert says in problems[0]


def test_of_two_that_collide_the_first_stays() -> None:
    second = replace(used("10.86.0.3/32"), token_id=b"second__")
    (peer,), problems = peers(used("10.86.0.2/32"), second)
    assert peer.allowed_ips == (ip_network("10.86.0.2/32"),)
    assert "another invitation has another peer of that name" in problems[0]


@pytest.mark.parametrize("over", [{"is_removed": True}, {"revoked_at": NOW}, {"is_closed": True}])
def test_what_was_ended_is_no_peer(over: dict[str, object]) -> None:
    assert peers(used("10.86.0.2/32", **over)) == ([], ())


def test_one_that_stands_in_the_file_is_none_of_the_books() -> None:
    assert peers(used()) == ([], ())
