"""Nothing that two daemons do from start to end blocks their event loops: every such call would be a pause.

user ── node ── provider ── server
"""

from __future__ import annotations

import json
import signal
import sys

import pytest

from lab.process import Process, until
from lab.sides import Side
from lab.traffic import pings
from lab.world import LAN, PROVIDER_TUNNEL, SEED_RPC, SERVER, World
from netns_tests.watching import FOUND, WATCHED


def start(side: Side) -> Process:
    command = [sys.executable, "-m", "netns_tests.watching", "up", "-c", str(side.config)]
    log = side.folder / f"{side.name}-watched.log"
    side.daemon = Process(side.namespace, command, log, env=side.env)
    side.wait()
    return side.daemon


@pytest.mark.slow
def test_no_daemon_blocks_its_loop(fresh: World) -> None:
    provider, user = fresh.provider_side, fresh.user_side
    fresh.node.start()
    provider.nconnect(
        *("init", "--identifier", "gpu-box", "--address", f"{PROVIDER_TUNNEL}/24"),
        *("--provide", LAN, "--seed-rpc", SEED_RPC),
    )
    daemons = [start(provider)]
    # A device joins: the book of invitations, the table of peers, the firewall.
    token = json.loads(provider.nconnect("invite", "laptop", "--json"))["token"]
    user.nconnect("join", token)
    daemons.append(start(user))
    until(lambda: pings(fresh.user, SERVER), "a ping's answer", process=user.daemon)
    for side, daemon in zip((provider, user), daemons, strict=True):
        # What commands ask, and a configuration that changes.
        side.nconnect("status")
        side.nconnect("ping", "laptop" if side is provider else "gpu-box")
        side.nconnect("reload")
        daemon.signal(signal.SIGHUP)
        # What others do to the machine, and to the run folder.
        side.namespace.ip("address add 203.0.113.9 dev lo")
        side.namespace.ip(f"link delete {side.interface}")
        until(lambda d=daemon: "set again" in d.text(), "the device", process=daemon)
        (side.folder / "run" / f"{side.interface}.sock").unlink()
        until(lambda d=daemon: "made again" in d.text(), "the control socket", process=daemon)
    until(lambda: pings(fresh.user, SERVER), "a ping's answer", process=user.daemon)
    for side, daemon in zip((provider, user), daemons, strict=True):
        side.down()
        said = daemon.text().splitlines()
        assert WATCHED in said
        assert [line for line in said if line.startswith(FOUND)] == []
