"""Faults of a world whose tunnel is up: each breaks something, and returns when the cause is gone.

Which side a fault hits, and for how long, comes from the random numbers that it is given, so that a seed
repeats it. The caller checks what returns, and how fast.
"""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable

from lab.sides import Side
from lab.world import LAN, WAN_INTERFACE, World

USER_ADDRESSES = ("198.51.100.2", "198.51.100.77")
USER_GATEWAY = "198.51.100.1"
Fault = Callable[[World, random.Random], None]


def restart_node(lab: World, rng: random.Random) -> None:
    assert lab.node.process is not None
    lab.node.process.kill()
    time.sleep(rng.choice((0.1, 2.0, 12.0)))
    lab.node.start()


def kill_daemon(lab: World, rng: random.Random) -> None:
    side = _either(lab, rng)
    assert side.daemon is not None
    side.daemon.kill()
    time.sleep(rng.uniform(0, 2))
    side.start("--keep-trying")
    side.wait(timeout_s=30)


def stop_daemon(lab: World, rng: random.Random) -> None:
    side = _either(lab, rng)
    assert side.daemon is not None
    side.daemon.signal(signal.SIGSTOP)
    time.sleep(rng.choice((1.0, 6.0, 16.0)))
    side.daemon.signal(signal.SIGCONT)


def cut_user(lab: World, rng: random.Random) -> None:
    lab.user.ip(f"link set {WAN_INTERFACE} down")
    time.sleep(rng.uniform(0.1, 15))
    lab.user.ip(f"link set {WAN_INTERFACE} up")
    lab.user.ip(f"route add default via {USER_GATEWAY}")


def change_address(lab: World, rng: random.Random) -> None:
    had = lab.user.ip(f"-o -4 address show dev {WAN_INTERFACE}")
    old, new = USER_ADDRESSES if f" {USER_ADDRESSES[0]}/" in had else reversed(USER_ADDRESSES)
    lab.user.ip(f"address del {old}/24 dev {WAN_INTERFACE}")
    time.sleep(rng.uniform(0, 3))
    lab.user.ip(f"address add {new}/24 dev {WAN_INTERFACE}")
    lab.user.ip(f"route replace default via {USER_GATEWAY}")


def home(lab: World) -> None:
    """Give the user its first address again."""
    if f" {USER_ADDRESSES[0]}/" not in lab.user.ip(f"-o -4 address show dev {WAN_INTERFACE}"):
        change_address(lab, random.Random(0))


def lose_one_way(lab: World, rng: random.Random) -> None:
    side, direction = _either(lab, rng), rng.choice(("input", "output"))
    drop_all(side, direction)
    time.sleep(rng.choice((1.0, 5.0, 14.0)))
    drop_no_more(side)


def drop_all(side: Side, direction: str) -> None:
    """From now on drop what a side receives (`input`) from or sends (`output`) to the internet."""
    device = "iifname" if direction == "input" else "oifname"
    side.namespace.nft(f"""
        add table inet fault
        add chain inet fault lossy {{ type filter hook {direction} priority -500; }}
        add rule inet fault lossy {device} {WAN_INTERFACE} drop
    """)


def drop_no_more(side: Side) -> None:
    side.namespace.nft("delete table inet fault")


def remove_routes(lab: World, _: random.Random) -> None:
    lab.user.run(["ip", "route", "del", LAN, "dev", "nc0"])


def remove_table(lab: World, rng: random.Random) -> None:
    """Until the table is set again the kernel neither tracks nor translates connections: see `NEEDS_CALM`."""
    _either(lab, rng).namespace.run(["nft", "delete", "table", "inet", "nconnect_nc0"])
    time.sleep(0.5)


def remove_device(lab: World, rng: random.Random) -> None:
    _either(lab, rng).namespace.run(["ip", "link", "del", "nc0"])


FAULTS: dict[str, Fault] = {
    "node restarted": restart_node,
    "daemon killed": kill_daemon,
    "daemon stopped": stop_daemon,
    "network cut": cut_user,
    "address changed": change_address,
    "one-way loss": lose_one_way,
    "routes removed": remove_routes,
    "firewall table removed": remove_table,
    "device removed": remove_device,
}

# A connection that is opened meanwhile, or of which a segment arrives, is reset.
NEEDS_CALM = {"firewall table removed"}


def _either(lab: World, rng: random.Random) -> Side:
    return rng.choice((lab.user_side, lab.provider_side))
