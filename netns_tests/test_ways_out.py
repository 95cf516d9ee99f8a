"""Networks in which people really sit: `join`, `up` and a chat over the only way out that there is.

All in one world (see `ways_out`), each on a machine of its own; `up` takes at most 2 s more than on a plain
network.
"""

from __future__ import annotations

import importlib.util
import shutil
import socket
from collections.abc import Iterator

import pytest

from lab.world import NODE_HOST, WAN_INTERFACE, world
from netns_tests.ways_out import (
    NAME,
    NAMED_SEED,
    Base,
    base,
    name_server,
    nat64,
    swallow,
    use_name_servers,
)

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("xllamacpp") is None, reason="no model: scripts/setup --demo"
)

NODE_HOST6 = "2001:db8::1"
LIVING = "192.0.2.54"  # a name server


@pytest.fixture(scope="module")
def ways() -> Iterator[Base]:
    with world("ncways") as made:
        made.internet.ip(f"address add {NODE_HOST6}/128 dev lo nodad")
        with base(made) as running:
            yield running


def test_a_dual_stack_name_with_a_dead_half(ways: Base) -> None:
    """The name's IPv6 address is routed, and swallows everything; its IPv4 address is good (RFC 8305)."""
    with ways.traveller() as user:
        user.plug_in(ipv6=True)
        user.namespace.etc("hosts", f"{NODE_HOST6} {NAME}\n{NODE_HOST} {NAME}\n")
        swallow(ways.world.internet, f"ip6 daddr {NODE_HOST6}")
        times = user.do_all("--seed-rpc", NAMED_SEED)
        assert user.link()["node"] == f"{NAME}:30002"
        with user.namespace.socket(socket.AF_INET6, socket.SOCK_STREAM) as dead:
            dead.settimeout(0.3)
            with pytest.raises(TimeoutError):
                dead.connect((NODE_HOST6, 30003))
    ways.not_much_longer(times)


@pytest.mark.skipif(shutil.which("tayga") is None, reason="needs tayga (scripts/setup --dev)")
def test_ipv6_with_nat64(ways: Base) -> None:
    """The invitation's seed, and the node that it names, are IPv4 literals (RFC 7050)."""
    with ways.traveller() as user, ways.router(user, ["2001:db8:a::1/64"]) as router:
        user.namespace.ip(f"address add 2001:db8:a::2/64 dev {WAN_INTERFACE} nodad")
        user.namespace.ip("-6 route add default via 2001:db8:a::1")
        with nat64(ways.world, router, "2001:db8:64::/96"):
            name_server(ways.world, router, "2001:db8:a::1", {}, "--dns64", "2001:db8:64::/96")
            use_name_servers(user.namespace, "2001:db8:a::1")
            times = user.do_all()
            assert user.link()["node"] == f"{NODE_HOST}:30002"
    ways.not_much_longer(times)


def test_three_dead_name_servers_beside_a_living_one(ways: Base) -> None:
    """glibc reads three of them, so it never finds the node's name."""
    dead = [f"192.0.2.{host}" for host in (51, 52, 53)]
    with ways.traveller() as user:
        user.plug_in()
        for host in (*dead, LIVING):
            ways.world.internet.ip(f"address add {host}/32 dev lo")
        swallow(ways.world.internet, f"ip daddr {{ {', '.join(dead)} }}")
        name_server(ways.world, ways.world.internet, LIVING, {NAME: [NODE_HOST]})
        use_name_servers(user.namespace, *dead, LIVING)
        times = user.do_all("--seed-rpc", NAMED_SEED)
        assert user.link()["node"] == f"{NAME}:30002"
    ways.not_much_longer(times)
