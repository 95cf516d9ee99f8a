"""The faults that every tunnel can be given, and those of a node. Each returns at the fault's end.

All begin from a world as it was built and leave one in which all works again, if the tunnel does.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from lab.faults import USER_GATEWAY, drop_all, drop_no_more
from lab.recovery.tunnels import Tunnel
from lab.world import WAN_INTERFACE, World

ONE_WAY_S = 12.0  # long enough for each of ours to be noticed
STOPPED_S = 15.0
DOWN_S = 5.0
MOVING_S = 2.0
RESTART_S = 2.0


@dataclass(frozen=True)
class Fault:
    """`after` puts the world back, once the flows are."""

    name: str
    do: Callable[[World, Tunnel], None]
    after: Callable[[World], None] = lambda _: None
    needs_node: bool = False


def restart_node(world: World, _: Tunnel, gone_s: float) -> None:
    assert world.node.process is not None
    world.node.process.kill()
    time.sleep(gone_s)
    world.node.start()


def kill(_: World, tunnel: Tunnel, end: str) -> None:
    tunnel.process(end).kill()
    time.sleep(RESTART_S)
    tunnel.start(end)


def stop(_: World, tunnel: Tunnel, end: str) -> None:
    tunnel.process(end).signal(signal.SIGSTOP)
    time.sleep(STOPPED_S)
    tunnel.process(end).signal(signal.SIGCONT)


def cut(world: World, _: Tunnel) -> None:
    world.user.ip(f"link set {WAN_INTERFACE} down")
    time.sleep(DOWN_S)
    world.user.ip(f"link set {WAN_INTERFACE} up")
    world.user.ip(f"route add default via {USER_GATEWAY}")


def change_address(world: World, _: Tunnel) -> None:
    world.user.ip(f"address del 198.51.100.2/24 dev {WAN_INTERFACE}")
    world.user.ip(f"address add 198.51.100.77/24 dev {WAN_INTERFACE}")
    world.user.ip(f"route replace default via {USER_GATEWAY}")


def address_back(world: World) -> None:
    world.user.ip(f"address flush dev {WAN_INTERFACE}")
    world.user.ip(f"address add 198.51.100.2/24 dev {WAN_INTERFACE}")
    world.user.ip(f"route replace default via {USER_GATEWAY}")


def move(world: World, _: Tunnel) -> None:
    world.internet.ip("address add 100.64.9.1/24 dev user")
    world.user.ip(f"address flush dev {WAN_INTERFACE}")
    world.internet.ip(f"address del {USER_GATEWAY}/24 dev user")
    time.sleep(MOVING_S)
    world.user.ip(f"address add 100.64.9.2/24 dev {WAN_INTERFACE}")
    world.user.ip("route add default via 100.64.9.1")


def move_back(world: World) -> None:
    world.internet.ip(f"address add {USER_GATEWAY}/24 dev user")
    address_back(world)
    world.internet.ip("address del 100.64.9.1/24 dev user")


def lose(world: World, _: Tunnel, end: str, direction: str) -> None:
    side = world.user_side if end == "user" else world.provider_side
    drop_all(side, direction)
    time.sleep(ONE_WAY_S)
    drop_no_more(side)


def remove_device(world: World, tunnel: Tunnel) -> None:
    world.user.ip(f"link del {tunnel.device('user')}")


FAULTS = (
    Fault("node killed, back after 1 s", partial(restart_node, gone_s=1), needs_node=True),
    Fault("node killed, back after 10 s", partial(restart_node, gone_s=10), needs_node=True),
    Fault("user's daemon killed, started after 2 s", partial(kill, end="user")),
    Fault("provider's daemon killed, started after 2 s", partial(kill, end="provider")),
    Fault("user's daemon stopped for 15 s (SIGSTOP)", partial(stop, end="user")),
    Fault("provider's daemon stopped for 15 s", partial(stop, end="provider")),
    Fault("user's interface down for 5 s", cut),
    Fault("another address in the same network", change_address, address_back),
    Fault("another network with another gateway", move, move_back),
    Fault("what the user sends is lost for 12 s", partial(lose, end="user", direction="output")),
    Fault("what the user receives is lost for 12 s", partial(lose, end="user", direction="input")),
    Fault("what the provider sends is lost for 12 s", partial(lose, end="provider", direction="output")),
    Fault("what the provider receives is lost for 12 s", partial(lose, end="provider", direction="input")),
    Fault("user's TUN device deleted", remove_device),  # the last: not all survive it
)
