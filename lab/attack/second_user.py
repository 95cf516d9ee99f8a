"""A second user of the provider's, on a machine of its own, for rows that harm or stop one.

victim 198.51.101.2 ── internet
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from lab.attack.stage import Stage
from lab.netns import Namespace, cable, namespaces
from lab.sides import Side
from lab.world import LAN, PROVIDER_PEER, PROVIDER_TUNNEL, SEED_RPC, WAN_INTERFACE

NAME = "victim"
HOST, GATEWAY = "198.51.101.2", "198.51.101.1"
TUNNEL = "10.86.0.77"


def admit(provider: Side, user: Side) -> None:
    """Make it a peer of the provider's."""
    provider.nconnect("peer", "add", NAME, user.address(), "--allowed-ips", f"{TUNNEL}/32")


@contextmanager
def second_user(stage: Stage, *seeds: str, fail_closed: bool = False) -> Iterator[tuple[Namespace, Side]]:
    """It is up and has a session. `seeds`: RPC addresses, else the world's."""
    provider = stage.world.provider_side
    with ExitStack() as undo:
        (machine,) = namespaces(undo, "ncattack", NAME)
        cable(
            *(machine, WAN_INTERFACE, [f"{HOST}/24"]),
            *(stage.world.internet, NAME, [f"{GATEWAY}/24"]),
        )
        machine.ip(f"route add default via {GATEWAY}")
        side = Side(NAME, machine, stage.world.folder / NAME)
        side.nconnect(
            *("init", "--force", "--identifier", NAME, "--address", f"{TUNNEL}/24"),
            *("--seed-rpc", ",".join(seeds or (SEED_RPC,))),
        )
        side.nconnect(
            *("peer", "add", PROVIDER_PEER, provider.address()),
            *("--allowed-ips", f"{PROVIDER_TUNNEL}/32,{LAN}"),
        )
        if fail_closed:
            text = side.config.read_text()
            side.config.write_text(text.replace("[interface]\n", "[interface]\nfail_closed = true\n", 1))
        admit(provider, side)
        undo.callback(provider.try_nconnect, "peer", "remove", NAME)  # the row may have done so
        undo.callback(side.stop)
        side.start()
        side.wait(PROVIDER_PEER)
        yield machine, side
