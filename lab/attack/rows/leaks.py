"""Attacks that make packets leave in the clear, or that plant routes.

The victim is a second user with `fail_closed` (`lab.attack.second_user`).
"""

from __future__ import annotations

import json
import socket
import sys
import time

from lab.attack.attack import Attack, Result
from lab.attack.second_user import second_user
from lab.attack.stage import Stage
from lab.netns import Namespace, cable
from lab.process import until
from lab.sides import Side
from lab.tap import Tap
from lab.world import SEED_RPC, SERVER, WAN_INTERFACE

SECRET = b"what the tunnel is for"
LYING_PORT, NODE_PORT = 30005, 30002
LYING_SEED = f"http://192.0.2.1:{LYING_PORT}"
PUBLIC = "8.8.8.8/32,1.0.0.0/8,128.0.0.0/1"


def _send(machine: Namespace) -> None:
    """Send the secret to the server behind the provider; a sink looks for it elsewhere."""
    with machine.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
        for _ in range(20):
            try:
                datagrams.sendto(SECRET, (SERVER, NODE_PORT))
            except OSError:
                pass  # rejected
            time.sleep(0.01)


def _judged(tap: Tap, problem: str, side: Side) -> Result:
    if SECRET in tap.data:
        return Result("the secret left in the clear")
    said = [each for each in side.status()["problems"] if problem in each]
    return Result(seen=said[0][:60]) if said else Result("`status` does not say it")


def _node_inside(stage: Stage) -> Result:
    """A seed in plain HTTP names a node inside the peer's prefix, so that its route is withdrawn."""
    command = [sys.executable, "-m", "lab.lying_seed", str(LYING_PORT), f"{SERVER}:{NODE_PORT}"]
    liar = stage.world.run_in(stage.world.internet, command, "lying-seed")
    until(lambda: "serving" in liar.text(), "the lying seed", process=liar)
    try:
        with second_user(stage, LYING_SEED, SEED_RPC, fail_closed=True) as (machine, side):
            if "asked" not in liar.text():
                return Result("the row failed: the seed was not asked")
            with Tap(machine, WAN_INTERFACE) as tap:
                _send(machine)
            return _judged(tap, f"{SERVER}:{NODE_PORT} was refused", side)
    finally:
        liar.stop()


def _own_network(stage: Stage) -> Result:
    """A DHCP server gives the victim's second interface the provider's addresses."""
    with second_user(stage, fail_closed=True) as (machine, side):
        cable(machine, "cafe0", [], stage.attacker, "cafe", [f"{SERVER}/24"])
        with Tap(machine, "cafe0") as tap:
            machine.ip("address add 192.168.50.77/24 dev cafe0")
            _send(machine)
            until(lambda: any("shut off" in each for each in side.status()["problems"]), "the problem")
            _send(machine)
        return _judged(tap, "shut off", side)


def _public_routes(stage: Stage) -> Result:
    """A provider asks whoever joins to route half of the internet to it."""
    provider = stage.world.provider_side
    joining = Side("joining", stage.world.user, stage.world.folder / "joining", interface="nc9")
    provider.nconnect("provide", "add", "--subnet", PUBLIC)
    try:
        token = json.loads(provider.nconnect("invite", "joining", "--json"))["token"]
        done = joining.try_nconnect("join", token)
        (kept,) = json.loads(provider.nconnect("invite", "list", "--json"))["invitations"]
        provider.nconnect("invite", "revoke", "joining")
    finally:
        provider.nconnect("provide", "remove", "--subnet", PUBLIC)
    if joining.config.exists():
        return Result("it joined, and routes what the provider named")
    if done.returncode != 1 or "--accept-routes" not in done.stderr:
        return Result(f"status {done.returncode}: {done.stderr}")
    if kept["state"] != "open":
        return Result(f"the token is {kept['state']}")
    return Result(seen="refused, and the token is unused")


ROWS: tuple[Attack, ...] = (
    Attack("node", "node_inside_prefix", "a seed names a node inside a peer's prefix", _node_inside, "C1"),
    Attack("node", "own_network", "a network with the provider's addresses", _own_network, "C2"),
    Attack("provider", "public_routes", "an invitation to half of the internet", _public_routes, "C3"),
)
