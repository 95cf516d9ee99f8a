"""Networks in which people really sit: `join`, `up` and a chat over the only way out that there is.

All in one world (see `ways_out`), each on a machine of its own; `up` takes at most 2 s more than on a plain
network.
"""

from __future__ import annotations

import importlib.util
import socket
from collections.abc import Iterator

import pytest

from lab.world import NODE_HOST, world
from netns_tests.ways_out import NAME, NAMED_SEED, Base, base, swallow

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("xllamacpp") is None, reason="no model: scripts/setup --demo"
)

NODE_HOST6 = "2001:db8::1"


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
