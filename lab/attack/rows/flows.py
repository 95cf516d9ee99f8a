"""What comes in from the tunnel, and the flows of peers."""

from __future__ import annotations

import time

from lab.attack.attack import Attack, Result
from lab.attack.stage import EVIL, EVIL_TUNNEL, FLOOD_PORT, PORT, Stage
from lab.world import SERVER

FLOWS = 4000
WITHIN_S = 5.0  # most of it is the start of the command, on a machine of two busy cores


def _keep_flows(stage: Stage) -> Result:
    """The peer opens 4,000 flows; then its right to them is taken away."""
    side = stage.world.provider_side
    stage.programs["peer"].do("many_flows", str(FLOOD_PORT), str(FLOWS))
    opened = _flows(stage)
    if opened < FLOWS / 2:
        return Result(f"the row failed: {opened} flows were opened")
    started = time.monotonic()
    changed = side.try_nconnect("peer", "set", EVIL, "--allow", f"{SERVER}:{PORT}/tcp")
    took_s = time.monotonic() - started
    left = _flows(stage)
    side.nconnect("peer", "set", EVIL, "--allow", f"{SERVER}:{PORT}/tcp,{SERVER}:{FLOOD_PORT}/udp")
    if changed.returncode:
        return Result(f"the change failed: {changed.stderr}")
    if left or took_s > WITHIN_S:
        return Result(f"{left} of {opened} flows are left after {took_s:.1f} s")
    return Result(seen=f"{opened} flows ended in {took_s:.1f} s")


def _flows(stage: Stage) -> int:
    words = ["conntrack", "-L", "-f", "ipv4", "-p", "udp", "--orig-src", EVIL_TUNNEL]
    return stage.world.provider.run(words).stdout.count("udp ")


ROWS: tuple[Attack, ...] = (
    Attack("peer", "flows_outlive_rights", "4,000 flows, kept after the right to them", _keep_flows, "C6"),
)
