"""A flow goes on within five seconds after the node has moved to another address.

user ──── internet ──── provider
          192.0.2.1     the node's old address: the user's packets to it are dropped
          192.0.2.2     the same node
"""

from __future__ import annotations

import time

from lab.ping import round_trips
from lab.process import until
from lab.world import NODE_HOST, PROVIDER_PEER, PROVIDER_TUNNEL, SEED_RPC, world

NAME = "node.example"
NEW_HOST = "192.0.2.2"
SILENT = (
    "add table inet lab; add chain inet lab in { type filter hook input priority 0; };"
    f' add rule inet lab in iifname "user" ip daddr {NODE_HOST} drop;'
    " add chain inet lab out { type filter hook output priority 0; };"
    f' add rule inet lab out oifname "user" ip saddr {NODE_HOST} drop'
)


def test_a_flow_goes_on_within_five_seconds() -> None:
    with world("ncmoved") as made:
        made.internet.ip(f"address add {NEW_HOST}/32 dev lo")
        made.user.etc("hosts", f"{NODE_HOST} {NAME}\n")
        made.configure()
        text = made.user_side.config.read_text()
        made.user_side.config.write_text(text.replace(SEED_RPC, SEED_RPC.replace(NODE_HOST, NAME)))
        made.node.start()
        made.up()
        assert round_trips(made.user, PROVIDER_TUNNEL, count=30, interval_s=0.05).p50_ms < 1000
        made.user.etc("hosts", f"{NEW_HOST} {NAME}\n")
        assert not made.internet.run(["nft", SILENT]).returncode
        began = time.monotonic()

        def answers() -> bool:
            ping = ["ping", "-c", "1", "-W", "0.2", PROVIDER_TUNNEL]
            return made.user.run(ping).returncode == 0

        until(answers, f"{PROVIDER_PEER} to answer", timeout_s=15)
        took = time.monotonic() - began
        print(f"pause: {took:.2f} s")
        assert took < 5
