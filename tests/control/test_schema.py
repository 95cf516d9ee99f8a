from __future__ import annotations

import json
from dataclasses import replace

import pytest

from nconnect.control.schema import MappedRoute, SkippedRoute, Status
from tests.control.fake import STATUS

# What the contract promises; fields may be added, never renamed.
STATUS_FIELDS = {"interface", "address", "public_key", "links", "peers", "routes", "skipped_routes"}
LINK_FIELDS = {"node", "state", "rtt_ms"}
PEER_FIELDS = {
    "name",
    "address",
    "allowed_ips",
    "allow",
    "state",
    "path",
    "cipher",
    "last_handshake_at",
    "expires",
    "rtt_ms",
    "rx_bytes",
    "tx_bytes",
    "rx_packets",
    "tx_packets",
    "drops",
}


def test_the_names_of_the_contract() -> None:
    content = STATUS.to_json()
    assert set(content) >= STATUS_FIELDS
    assert set(content["links"][0]) >= LINK_FIELDS
    assert set(content["peers"][0]) >= PEER_FIELDS
    assert set(content["skipped_routes"][0]) == {"route", "why"}
    assert content["peers"][0]["drops"] == {"spoofed_source": 3, "replayed": 0}
    assert content["peers"][1]["allow"] is None


def test_it_passes_through_json() -> None:
    assert Status.from_json(json.loads(json.dumps(STATUS.to_json()))) == STATUS


def test_a_daemon_of_an_earlier_version_tells_nothing_of_a_direct_path() -> None:
    content = STATUS.to_json()
    assert content["peers"][0]["direct"] == {
        "state": "off", "kind": None, "local": None, "remote": None, "rtt_ms": None, "mtu": None, "why": "",
    }  # fmt: skip
    for peer in content["peers"]:
        del peer["direct"]
    assert Status.from_json(content) == STATUS


def test_unknown_fields_are_passed_over() -> None:
    content = STATUS.to_json() | {"colour": "blue"}
    content["peers"][0]["mood"] = "good"
    assert Status.from_json(content) == STATUS


@pytest.mark.parametrize("missing", sorted(STATUS_FIELDS))
def test_a_field_that_is_missing_is_an_error(missing: str) -> None:
    content = STATUS.to_json()
    del content[missing]
    with pytest.raises((KeyError, TypeError)):
        Status.from_json(content)


def test_a_peer_s_mapped_and_waiting_networks_pass_through_json() -> None:
    mapped = (MappedRoute("192.168.1.0/24", "10.200.9.0/24"),)
    waiting = (SkippedRoute("8.8.8.0/24", "it is not private"),)
    status = replace(STATUS, peers=(replace(STATUS.peers[0], mapped=mapped, waiting=waiting),))
    assert Status.from_json(json.loads(json.dumps(status.to_json()))) == status
    assert status.to_json()["peers"][0]["mapped"] == [{"real": "192.168.1.0/24", "seen": "10.200.9.0/24"}]
