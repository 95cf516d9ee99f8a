"""With `fail_closed`, no packet for a peer leaves by another interface, whatever happens to the machine.

    container ── user ─┬─ wan0 ── internet (node) ── provider ── server 192.168.50.10, fd50::10
    br0 172.18.0.2     ├─ alt0 ── internet
                       └─ cafe0 ─ neighbour: a network with the provider's addresses, and a gateway

Random events happen to the user's machine, from a seed that is printed, while programs of every kind send to
the peer's prefixes (`netns_tests.leaking`). NCONNECT_LEAK_SEED repeats a sequence.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field

import pytest

from lab.netns import LabError, Namespace, cable, namespaces
from lab.process import until
from lab.traffic import pings
from lab.world import LAN, LAN6, SERVER, WAN_INTERFACE, World, world
from netns_tests.leaking import MARK, MARKED_PORT, Listener, Senders

EVENTS = 40
PAUSE_S = 0.03  # at least, after each event
TABLE = 100

# Rules of other programs: a mark that another routing table serves, and a rule that accepts established flows
# before our rules are asked.
OTHERS = f"""
add table inet other
add chain inet other marks {{ type route hook output priority mangle; }}
add rule inet other marks udp dport {MARKED_PORT} meta mark set {MARK}
add chain inet other out {{ type filter hook output priority filter - 10; }}
add rule inet other out ct state established,related accept
add chain inet other through {{ type filter hook forward priority filter - 10; }}
add rule inet other through ct state established,related accept
"""


@dataclass
class Machine:
    """The user's machine. Each event is a method that may be called at any time; `log` names those so far."""

    world: World
    neighbour: Namespace
    random: random.Random
    log: list[str] = field(default_factory=list)
    cafe: bool = False
    networks: set[str] = field(default_factory=set)

    def step(self) -> None:
        event = self.random.choice(EVERYTHING)
        self.log.append(event.__name__)
        event(self)

    def ip(self, arguments: str) -> None:
        """Run `ip`, and ignore an error: the address may be there already, or the route not."""
        with suppress(LabError):
            self.world.user.ip(arguments)

    @property
    def is_running(self) -> bool:
        daemon = self.world.user_side.daemon
        return daemon is not None and daemon.running

    # Daemon and node

    def kill_or_start(self) -> None:
        side = self.world.user_side
        if self.is_running:
            assert side.daemon is not None
            side.daemon.kill()
        else:
            self.world.user_side.start("--keep-trying")
            until(side.listens, "the control socket", timeout_s=30, process=side.daemon)

    def reload(self) -> None:
        """Change the rules, so that one set replaces another."""
        config = self.world.user_side.config
        text = config.read_text()
        other = text.replace("inbound = true", "inbound = false")
        config.write_text(other if other != text else text.replace("inbound = false", "inbound = true"))
        if self.is_running:
            assert self.world.user_side.daemon is not None
            self.world.user_side.daemon.signal(1)

    def stop_or_start_the_node(self) -> None:
        node = self.world.node
        if node.process is None:
            node.start()
        else:
            node.stop()

    def delete_the_device(self) -> None:
        self.ip("link delete nc0")

    def rename_the_device(self) -> None:
        self.ip("link set nc0 down")
        self.ip(f"link set nc0 name odd{self.random.randrange(9)}")

    def take_its_name(self) -> None:
        """When our device is gone, give its name to one that leads to the neighbour."""
        if not self.is_running:
            self.ip("link set cafe0 down")
            self.ip("link set cafe0 name nc0")
            self.ip("link set nc0 up")
            self.ip(f"route add {LAN} dev nc0")
            time.sleep(PAUSE_S)
            self.ip("link set nc0 down")
            self.ip("link set nc0 name cafe0")

    # Networks

    def enter_or_leave_the_cafe(self) -> None:
        if self.cafe:
            self.ip("address flush dev cafe0")
            self.ip("link set cafe0 down")
        else:
            self.ip("link set cafe0 up")
            self.ip("address add 192.168.50.77/24 dev cafe0")
            self.ip("-6 address add fd50::77/64 dev cafe0 nodad")
            self.ip(f"route add default via 192.168.50.1 dev cafe0 metric {self.random.randrange(5)}")
        self.cafe = not self.cafe

    def lose_or_find_the_uplink(self) -> None:
        up = "state UP" in self.world.user.ip(f"link show {WAN_INTERFACE}")
        self.ip(f"link set {WAN_INTERFACE} {'down' if up else 'up'}")
        if not up:
            self.ip("route add default via 198.51.100.1")

    def change_the_default_route(self) -> None:
        metric = self.random.randrange(5)
        self.ip(f"route add default via 198.18.7.1 dev alt0 metric {metric}")
        self.ip(f"-6 route add default via fd07::1 dev alt0 metric {metric + 1}")

    def drop_a_default_route(self) -> None:
        self.ip("route delete default dev alt0")
        self.ip("-6 route delete default dev alt0")

    def change_the_address(self) -> None:
        host = self.random.randrange(3, 9)
        self.ip(f"address add 198.51.100.{host}/24 dev {WAN_INTERFACE}")

    def get_or_leave_an_overlapping_network(self) -> None:
        network = self.random.choice(
            ["192.168.50.99/24", "192.168.50.9/25", "192.168.48.1/20", "10.86.0.9/24", "fd50::9/64"]
        )
        verb = "delete" if network in self.networks else "add"
        self.networks ^= {network}
        self.ip(f"address {verb} {network} dev alt0{' nodad' if verb == 'add' and ':' in network else ''}")

    # Routes

    def delete_our_routes(self) -> None:
        self.ip(f"route delete {LAN} dev nc0")
        self.ip(f"-6 route delete {LAN6} dev nc0")

    def route_it_elsewhere(self) -> None:
        part = self.random.choice([LAN, "192.168.50.0/25", f"{SERVER}/32", "10.86.0.1/32"])
        self.ip(f"route add {part} via 198.51.100.1 metric {self.random.randrange(3)}")
        self.ip(f"-6 route add {LAN6} via fd07::1 dev alt0 metric 1")

    def delete_those_routes(self) -> None:
        for _ in range(3):
            self.ip("route flush proto boot root 192.168.50.0/24")

    def rule_it_elsewhere(self) -> None:
        self.ip(f"rule add pref 50 lookup {TABLE}")
        self.ip(f"-6 rule add pref 50 lookup {TABLE}")

    def delete_that_rule(self) -> None:
        self.ip("rule delete pref 50")
        self.ip("-6 rule delete pref 50")


EVERYTHING: tuple[Callable[[Machine], None], ...] = (
    Machine.kill_or_start,
    Machine.kill_or_start,
    Machine.reload,
    Machine.stop_or_start_the_node,
    Machine.delete_the_device,
    Machine.rename_the_device,
    Machine.take_its_name,
    Machine.enter_or_leave_the_cafe,
    Machine.enter_or_leave_the_cafe,
    Machine.lose_or_find_the_uplink,
    Machine.change_the_default_route,
    Machine.drop_a_default_route,
    Machine.change_the_address,
    Machine.get_or_leave_an_overlapping_network,
    Machine.get_or_leave_an_overlapping_network,
    Machine.delete_our_routes,
    Machine.route_it_elsewhere,
    Machine.delete_those_routes,
    Machine.rule_it_elsewhere,
    Machine.delete_that_rule,
)


@contextmanager
def machine(seed: int, *, fail_closed: bool) -> Iterator[tuple[Machine, Listener, Senders]]:
    """The whole machine is up, the senders send and the listener listens."""
    with world("ncleak") as made, ExitStack() as undo:
        user = made.user
        neighbour, container = namespaces(undo, "ncleak", "neighbour", "container")
        alt = (["198.18.7.2/24", "fd07::2/64"], ["198.18.7.1/24", "fd07::1/64"])
        cable(user, "alt0", alt[0], made.internet, "alt", alt[1])
        cable(user, "cafe0", [], neighbour, "eth0", ["192.168.50.1/24", f"{SERVER}/24", "fd50::10/64"])
        cable(
            user, "br0", ["172.18.0.1/24", "fd18::1/64"], container, "eth0", ["172.18.0.2/24", "fd18::2/64"]
        )
        container.ip("route add default via 172.18.0.1")
        container.ip("-6 route add default via fd18::1")
        user.sysctl("net.ipv4.ip_forward", "1")
        user.sysctl("net.ipv6.conf.all.forwarding", "1")
        user.ip("link set cafe0 down")
        user.nft(OTHERS)
        user.ip(f"route add default via 198.51.100.1 table {TABLE}")
        user.ip(f"-6 route add default via fd07::1 dev alt0 table {TABLE}")
        for six in ("", "-6 "):
            user.ip(f"{six}rule add fwmark {MARK} pref 90 lookup {TABLE}")
        made.configure()
        config = made.user_side.config
        shut = f"[interface]\nfail_closed = {str(fail_closed).lower()}\ninbound = false\n"
        config.write_text(config.read_text().replace("[interface]\n", shut, 1))
        made.node.start()
        made.up()
        assert pings(user, SERVER)
        with (
            Listener(user) as listener,
            Senders(user, container, (WAN_INTERFACE, "alt0", "cafe0")) as senders,
        ):
            yield Machine(made, neighbour, random.Random(seed)), listener, senders


def play(seed: int, events: int) -> None:
    with machine(seed, fail_closed=True) as (here, listener, senders):
        for number in range(events):
            before = senders.rounds
            here.step()
            time.sleep(PAUSE_S)
            said = f"seed {seed}, event {number + 1}: {' '.join(here.log[-6:])}: {dict(listener.leaks)}"
            assert not listener.leaks, f"leaked with {said}"
            until(lambda n=before: senders.rounds > n + 4, f"the senders to send ({said})")
        print(f"seed {seed}: {events} events, {sum(senders.kinds.values())} packets tried, 0 seen")
    assert not listener.leaks, f"seed {seed}: {dict(listener.leaks)} after {here.log[-6:]}"
    assert len(senders.kinds) == 10
    assert listener.packets, "what is not for the peers is heard"


@pytest.mark.timeout(120)
def test_nothing_leaks_whatever_happens() -> None:
    play(int(os.environ.get("NCONNECT_LEAK_SEED") or random.SystemRandom().randrange(1 << 32)), EVENTS)


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_nothing_leaks_in_five_hundred_events() -> None:
    play(int(os.environ.get("NCONNECT_LEAK_SEED") or random.SystemRandom().randrange(1 << 32)), 500)


@pytest.mark.timeout(120)
def test_without_fail_closed_every_kind_of_leak_is_seen() -> None:
    """The control: the listener sees packets of each sender."""
    with machine(1, fail_closed=False) as (here, listener, _):
        until(lambda: any("7007" in seen for seen in listener.leaks), "what a rule marks")
        here.enter_or_leave_the_cafe()
        until(lambda: any(seen.startswith("cafe0: udp to 192.168.50") for seen in listener.leaks), "the cafe")
        here.enter_or_leave_the_cafe()
        here.change_the_default_route()
        here.kill_or_start()
        for kind in (
            "udp to 192.168.50.10 ",
            "tcp to 10.86.0.1 ",
            "icmp to 192.168.50.200 ",
            "icmpv6 to fd50::10",
        ):
            until(lambda kind=kind: any(kind in seen for seen in listener.leaks), kind)
