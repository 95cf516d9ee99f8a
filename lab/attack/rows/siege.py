"""Our node under load: floods to a provider, and everything that a client can have it keep.

Each load is one of `lab.attack.stranger`, for a few seconds. It works if an honest login takes over a second,
half of the pings through the tunnel take longer than `SLOW_MS`, one is lost, or the node grows by more than
it may (docs/node.md). `netns_tests/test_siege.py` measures the same more closely, from ten addresses.
"""

from __future__ import annotations

import json
import os
import sys
from functools import partial

from lab.attack.attack import Attack, Result
from lab.attack.client import login_s
from lab.attack.stage import NODE_FOR_ATTACKER, Stage
from lab.cluster import know_one_another, nats_server, node_of
from lab.netns import LabError
from lab.ping import round_trips
from lab.process import until
from lab.sides import RPC_PORT, WS_PORT, nconnect_command
from lab.world import SERVER
from nconnect.crypto.keys import Identity

HONEST_WITHIN_S = 1.0
PINGS = 100
SLOW_MS = 300.0
MAY_GROW = (64 + 40) * 1_000_000  # for half messages 64 MiB, 16 receive buffers, and the allocator's slack
CLUSTER_HOSTS = ("127.0.0.2", "127.0.0.3")
GHOST_HOST = "203.0.113.66"


def _load(attack: str, rate: int, stage: Stage) -> Result:
    world, node = stage.world, stage.programs["node"]
    before = node.do("measure")["rss_bytes"]
    command = ["nice", "-n", "19", sys.executable, "-m", "lab.attack.stranger", attack, NODE_FOR_ATTACKER]
    command += [str(WS_PORT), str(RPC_PORT), str(rate), world.provider_side.address()]
    stranger = world.run_in(stage.attacker, command, attack)
    try:
        until(lambda: "ready" in stranger.text(), "the load", timeout_s=30, process=stranger)
        trips = round_trips(world.user, SERVER, count=PINGS)
        took_s = world.internet.enter(lambda: login_s("127.0.0.1", WS_PORT))
        grown = node.do("measure")["rss_bytes"] - before
    except (LabError, OSError, ValueError) as error:
        return Result(f"the tunnel or an honest login fails: {error}")
    finally:
        stranger.kill()
    achieved = ""
    if trips.lost or trips.p50_ms > SLOW_MS:
        achieved = f"pings take {trips.p50_ms:.0f} ms, {trips.lost} of {PINGS} are lost"
    elif took_s > HONEST_WITHIN_S:
        achieved = f"an honest login takes {took_s:.1f} s"
    elif grown > MAY_GROW:
        achieved = f"the node grew by {grown >> 20} MiB"
    seen = f"ping {trips.p50_ms:.0f} ms, login {took_s * 1e3:.0f} ms, {grown / (1 << 20):+.0f} MiB"
    return Result(achieved, seen)


def _forged_member(stage: Stage) -> Result:
    """Two nodes of a cluster on the server's machine, and somebody else who publishes on its NATS server."""
    program = nats_server()
    if program is None:
        return Result("", "no nats-server here: not tried")
    world, machine = stage.world, stage.world.server
    key = world.folder / "cluster.key"
    key.touch(0o600)
    key.write_text(os.urandom(32).hex())
    started = [world.run_in(machine, [program, "-a", "127.0.0.1", "-p", "4222"], "nats")]
    try:
        for host in CLUSTER_HOSTS:
            command = [
                *nconnect_command(),
                "node",
                "--listen",
                host,
                "--advertise",
                host,
                "--rate-limit",
                "0",
            ]
            command += ["--cluster", "nats://127.0.0.1:4222", "--cluster-key", str(key)]
            started.append(world.run_in(machine, command, "cluster-node"))
        until(lambda: know_one_another(machine, CLUSTER_HOSTS), "the nodes", timeout_s=20)
        ghost = Identity(os.urandom(32)).public_key.hex()
        info = {"addr": f"{GHOST_HOST}:30002", "rpcAddr": f"{GHOST_HOST}:30003", "pubkey": ghost}
        info["id"] = "ab" * 32
        alive = {"t": "alive", "node": ghost, "run": "66" * 8, "seq": 0, "ws": info, "wss": None}
        forger = [sys.executable, "-m", "lab.attack.forger", json.dumps(alive)]
        done = machine.run(forger, timeout_s=20)
        if done.returncode:
            return Result(f"the row failed: {done.stderr[-200:]}")
        named = {node_of(machine, CLUSTER_HOSTS[0], f"x{n}.{'ab' * 32}") for n in range(30)}
    finally:
        for process in started:
            process.kill()
    return Result(
        "clients are sent to the forger" if GHOST_HOST in named else "", f"named: {len(named)} nodes"
    )


def _row(name: str, attack: str, rate: int, what: str, fault: str = "") -> Attack:
    return Attack("client", name, what, partial(_load, attack, rate), fault)


ROWS: tuple[Attack, ...] = (
    _row("small_flood", "small", 25_000_000, "small messages to the provider, as fast as it goes", "D2"),
    _row("kilobyte_flood", "kilobyte", 25_000_000, "25 MB/s of kilobytes to the provider", "D2"),
    _row("half_messages", "frame_halves", 90, "90 clients, each with most of a large message"),
    _row("half_requests", "rpc_halves", 64, "RPC requests that do not end"),
    _row("request_flood", "requests", 500_000, "RPC requests, one behind the other"),
    _row("chunk_flood", "chunks", 500_000, "RPC requests in chunks of one byte"),
    _row("deaf_clients", "deaf", 50_000_000, "50 clients that read nothing of 50 MB/s"),
    _row("mail_flood", "mail", 1_000_000, "mail for clients that do not exist"),
    Attack("client", "forged_member", "a node that is none, on the NATS server", _forged_member),
)
