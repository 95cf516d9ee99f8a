"""Our node under abuse by clients from addresses of their own."""

from __future__ import annotations

from lab.attack.attack import Attack, Result
from lab.attack.client import login_s
from lab.attack.stage import (
    ATTACKER_ADDRESSES,
    ATTACKER_PREFIX6,
    LOCAL_SEED_RPC,
    NODE_FOR_ATTACKER,
    NODE_FOR_ATTACKER6,
    Stage,
)
from lab.sides import WS_PORT
from nconnect.node.stun import PLAIN_BURST, PLAIN_RATE_PER_S

ONE_ADDRESS = ATTACKER_ADDRESSES[0]
CONNECTIONS = 90
HALF_FRAMES_MAY_GROW = 20 << 20  # of 180 MB sent: 16 KiB a connection, and the allocator's slack
IDLE_RPC = 600
STUN_FLOOD_S = 3
LOGINS = 400  # the node has 256 places
HONEST_WITHIN_S = 1.0


def _inflating(stage: Stage) -> Result:
    before = stage.programs["node"].do("measure").get("inflates_too_far", 0)
    sent = stage.programs["abuser"].do("inflate", NODE_FOR_ATTACKER, ONE_ADDRESS, "4")
    refused = stage.programs["node"].do("measure").get("inflates_too_far", 0) - before
    return Result(
        "" if refused else f"the node decompressed all of {sent} frames",
        f"inflates_too_far +{refused} of {sent}",
    )


def _half_frames(stage: Stage) -> Result:
    node, abuser = stage.programs["node"], stage.programs["abuser"]
    before = node.do("measure")["rss_bytes"]
    sent = abuser.do("half_frames", NODE_FOR_ATTACKER, ONE_ADDRESS, str(CONNECTIONS), timeout_s=50)
    grown = node.do("measure")["rss_bytes"] - before
    abuser.do("let_go")
    achieved = f"the node grew by {grown >> 20} MiB" if grown > HALF_FRAMES_MAY_GROW else ""
    return Result(achieved, f"{sent >> 20} MiB taken, {grown / (1 << 20):+.1f} MiB")


def _idle_rpc(stage: Stage) -> Result:
    abuser = stage.programs["abuser"]
    opened = abuser.do("idle_rpc", NODE_FOR_ATTACKER6, ATTACKER_PREFIX6, str(IDLE_RPC), timeout_s=50)
    request = '{"jsonrpc":"2.0","id":"1","method":"getversion","params":{}}'
    asked = stage.world.internet.run(
        ["curl", "-s", "-m", "2", "-w", "%{http_code}", "-d", request, LOCAL_SEED_RPC], timeout_s=10
    )
    abuser.do("let_go")
    answered = asked.stdout.endswith("200")
    return Result(
        "" if answered else f"RPC is refused to others: {asked.stdout or 'no answer'}", f"{opened} opened"
    )


def _logins(stage: Stage) -> Result:
    abuser = stage.programs["abuser"]
    done = abuser.do("log_in_often", NODE_FOR_ATTACKER, ONE_ADDRESS, str(LOGINS), timeout_s=50)
    try:
        took_s = stage.world.internet.enter(lambda: login_s("127.0.0.1", WS_PORT))
    except (OSError, ValueError) as error:
        return Result(f"an honest client does not get in: {error}")
    finally:
        abuser.do("let_go")
    late = f"an honest login takes {took_s:.1f} s" if took_s > HONEST_WITHIN_S else ""
    return Result(late, f"{done} logins; an honest one {took_s * 1e3:.0f} ms")


def _stun_flood(stage: Stage) -> Result:
    seen = stage.programs["abuser"].do("stun_flood", NODE_FOR_ATTACKER, ONE_ADDRESS, str(STUN_FLOOD_S))
    answers, requests = seen["answers"], seen["requests"]
    allowed = PLAIN_BURST + PLAIN_RATE_PER_S * (STUN_FLOOD_S + 1)
    too_many = f"{answers} answers to {requests} forgeable requests" if answers > allowed else ""
    return Result(too_many if answers else "the node answers no STUN", f"{answers} answers to {requests}")


ROWS: tuple[Attack, ...] = (
    Attack("client", "inflating_frames", "frames of 4 KB that inflate to 4 MiB", _inflating, "D1"),
    Attack("client", "half_frames", "half a large frame on 90 connections, no login", _half_frames, "D3"),
    Attack("client", "idle_rpc", "600 idle RPC connections from one /64", _idle_rpc, "D4"),
    Attack("client", "login_flood", "400 logins with fresh keys from one address", _logins, "D5"),
    Attack("client", "stun_flood", "short STUN requests from one address, 3 s", _stun_flood),
)
