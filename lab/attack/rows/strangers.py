"""What somebody does to a provider who is in no table of peers."""

from __future__ import annotations

import json

from lab.attack.attack import Attack, Result
from lab.attack.node import HONEST
from lab.attack.stage import Stage
from lab.process import until

SENDERS = 5000


def _flush_waiting(stage: Stage) -> Result:
    """A device knocks; then 5,000 others do."""
    node, side = stage.programs["node"], stage.world.provider_side
    heard = side.drops("unknown_peer")
    node.do("knock", side.address())
    node.do("unknown_senders", side.address())
    node.do("knock", side.address())
    until(lambda: side.drops("unknown_peer") - heard >= SENDERS + 2, "all to be heard")
    waiting = json.loads(side.nconnect("peer", "pending", "--json"))["pending"]
    kept = [sender for sender in waiting if sender["address"] == HONEST and sender["count"] >= 2]
    return Result("" if kept else "the device is not in the list", f"kept among {len(waiting)}")


ROWS: tuple[Attack, ...] = (
    Attack("stranger", "flush_waiting_list", "5,000 keys, after a device that waits", _flush_waiting, "C7"),
)
