"""Why there is no direct path, in words for `status`."""

from __future__ import annotations

from nconnect.model import DirectMode
from nconnect.wire.direct import Candidates, NatVerdict

OFF = 'direct = "off" in the configuration of this device'
PEER_OFF = 'the peer has direct = "off"'
NO_ANSWER = "the peer offers no direct path (an earlier version, or the relay lost its answer)"
BLOCKED = "UDP is blocked here"
PEER_BLOCKED = "UDP is blocked at the peer's side"
HARD = "hard NAT on both sides: each destination gets another port"
HARD_HERE = "hard NAT here (each destination gets another port), and the peer's side lets nothing in"
HARD_THERE = "hard NAT at the peer's side (each destination gets another port), and ours lets nothing in"
NO_ADDRESS = "no address of the peer's can be reached from here"
NO_ECHO = "nothing comes through between the two devices (a firewall on the way?)"
IDLE = "idle"
NO_SESSION = "no session with the peer"
INTO_TUNNEL = "the address in use is no place to send to any more: a tunnel's route covers it, or none does"
NETWORK_CHANGED = "the network has changed"
SEARCHING = "searching"
SILENT = "the direct path went silent"
LOSSY = "the direct path loses too many packets"


def slower(direct_s: float, relay_s: float) -> str:
    return (
        f"the direct path is slower than the relay ({direct_s * 1e3:.0f} ms against {relay_s * 1e3:.0f} ms)"
    )


def why_failed(mode: DirectMode, verdict: NatVerdict, theirs: Candidates | None, *, probed: bool) -> str:
    """Why a search found nothing. `probed`: at least one probe was sent."""
    if mode == "off":
        return OFF
    if verdict is NatVerdict.BLOCKED:
        return BLOCKED
    if theirs is None:
        return NO_ANSWER
    if theirs.verdict is NatVerdict.OFF:
        return PEER_OFF
    if theirs.verdict is NatVerdict.BLOCKED:
        return PEER_BLOCKED
    hard_here, hard_there = verdict is NatVerdict.HARD, theirs.verdict is NatVerdict.HARD
    if hard_here or hard_there:
        return HARD if hard_here and hard_there else HARD_HERE if hard_here else HARD_THERE
    return NO_ECHO if probed else NO_ADDRESS
