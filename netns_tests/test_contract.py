"""What `--json` prints about a running tunnel and node keeps to the contract (tests/cli checks the rest).

user ── node ── provider
"""

from __future__ import annotations

import json
from typing import Any

from lab.sides import Side
from netns_tests.topology import Provided
from tests.contract import JSON, LINK_STATES, PATHS, PEER_STATES, breaches


def kept(command: str, found: Any) -> Any:
    assert breaches(JSON[command], found) == []
    return found


def test_status_keeps_the_contract_on_both_sides(tunnel: Provided) -> None:
    for side in (tunnel.world.user_side, tunnel.world.provider_side):
        status = kept("status", side.status())
        (link,) = status["links"]
        (peer,) = status["peers"]
        assert link["state"] in LINK_STATES
        assert peer["state"] in PEER_STATES
        assert peer["path"] in PATHS
        assert (link["state"], peer["state"]) == ("up", "up")
        assert peer["last_handshake_at"] is not None


def test_commands_that_read_keep_the_contract(tunnel: Provided) -> None:
    side: Side = tunnel.world.user_side
    peer = side.status()["peers"][0]["name"]
    for command in ("address", "version", "peer list", "invite list"):
        kept(command, json.loads(side.nconnect(*command.split(), "--json")))
    kept("peer show", json.loads(side.nconnect("peer", "show", peer, "--json")))
    ping = kept("ping", json.loads(side.nconnect("ping", peer, "-n", "1", "--json")))
    assert ping["received"] == 1
    found = side.try_nconnect("doctor", "--json")
    assert kept("doctor", json.loads(found.stdout))["ok"] is (found.returncode == 0)


def test_node_status_keeps_the_contract(tunnel: Provided) -> None:
    status = kept("node status", tunnel.world.node.status())
    assert status["clients"] == 2
