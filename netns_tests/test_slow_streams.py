"""Streams through a cable of 20 Mbit/s arrive whole, between two of ours and with nkn-tunnel.

    user ────(20 Mbit/s)──── internet ──── provider
    dials                    node          listens; a server

Between two programs of nkn-tunnel 5 of 6 downloads of 20 MB through such a link lost their end. Two streams
run at once, not more: an official sender keeps 4 MiB under way for each, the node queues 12 MiB for one
receiver, and what it drops after an official sender has closed is lost.
"""

from __future__ import annotations

import hashlib
import os
import random
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import official
from lab.process import until
from lab.sides import nconnect_command
from lab.traffic import connect, shape
from lab.world import SEED_RPC, WAN_INTERFACE, World, world
from nconnect.crypto.keys import Identity

MBIT = 20
BYTES = int(os.environ.get("NCONNECT_SLOW_STREAM_BYTES", 20_000_000))
AT_ONCE = int(os.environ.get("NCONNECT_SLOW_STREAMS", 2))
SERVER_PORT = 9000
CABLE = "user"  # the end of the user's cable at the internet
TIMEOUT_S = 60 + 3 * AT_ONCE * BYTES * 8 / (MBIT * 1e6)
# The first byte says which way; a download is over when it closes, an upload when its digest comes back.
SERVER = f"""
import hashlib, random, socket, threading
def serve(connection):
    with connection:
        way, seed = connection.recv(1), connection.recv(1)
        if way == b"d":
            connection.sendall(random.Random(seed).randbytes({BYTES}))
            connection.shutdown(socket.SHUT_WR)
            connection.recv(1)
        elif way == b"u":
            digest, left = hashlib.sha256(), {BYTES}
            while left and (data := connection.recv(min(left, 1 << 18))):
                digest.update(data)
                left -= len(data)
            connection.sendall(digest.digest() + left.to_bytes(4, "big"))
            connection.recv(1)
listener = socket.create_server(("127.0.0.1", {SERVER_PORT}), backlog=128)
print("serving", flush=True)
while True:
    threading.Thread(target=serve, args=listener.accept()[:1], daemon=True).start()
"""
PAIRS = (("ours", "ours"), ("ours", "theirs"), ("theirs", "ours"))

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(official.missing("nkn-tunnel")), reason="needs nkn-tunnel (scripts/setup --dev)"),
]


@pytest.fixture(scope="module")
def slow() -> Iterator[World]:
    with world("ncslow") as made:
        made.node.start()
        shape(made.internet, CABLE, MBIT)
        shape(made.user, WAN_INTERFACE, MBIT)
        server = made.run_in(made.provider, [sys.executable, "-c", SERVER], "server")
        until(lambda: "serving" in server.text(), "the server", process=server)
        yield made


def tunnel(made: World, dials: str, listens: str, mtu: int) -> int:
    """Start both ends; the user's TCP port that leads to the provider's server."""
    seed = os.urandom(32)
    address, port = Identity(seed).public_key.hex(), random.randrange(20_000, 30_000)
    programs = {
        "ours": [*nconnect_command(), "tunnel", "--seed-rpc", SEED_RPC, "--mtu", str(mtu)],
        "theirs": [str(official.program("nkn-tunnel")), "-rpc", SEED_RPC, "-mtu", str(mtu)],
    }
    kept = Path(made.folder, f"seed-{port}")
    kept.write_text(seed.hex())
    kept.chmod(0o600)
    target = f"127.0.0.1:{SERVER_PORT}"
    listening = {
        "ours": ["--from", "nkn", "--to", target, "--seed-file", str(kept), "--accept", "all"],
        "theirs": ["-from", "nkn", "-to", target, "-s", seed.hex(), "-v"],
    }
    listener = made.run_in(made.provider, [*programs[listens], *listening[listens]], "listener")
    until(lambda: "istening at" in listener.text(), "the listener", process=listener)
    dash = "--" if dials == "ours" else "-"
    ends = [f"{dash}from", f"127.0.0.1:{port}", f"{dash}to", address]
    dialler = made.run_in(made.user, [*programs[dials], *ends], "dialler")
    until(lambda: _answers(made, port), "the dialler", process=dialler)
    return port


def _answers(made: World, port: int) -> bool:
    try:
        connect(made.user, "127.0.0.1", port).close()
    except OSError:
        return False
    return True


def transfer(made: World, port: int, way: str, seed: bytes, data: bytes, wrong: list[str]) -> None:
    with connect(made.user, "127.0.0.1", port) as connection:
        connection.settimeout(TIMEOUT_S)
        try:
            connection.sendall(way.encode() + seed)
            if way == "d":
                got = bytearray()
                while more := connection.recv(1 << 18):
                    got += more
                if got != data:
                    wrong.append(f"{len(got)} of {BYTES} bytes, altered: {not data.startswith(bytes(got))}")
            else:
                connection.sendall(data)
                answer = b""
                while len(answer) < 36 and (more := connection.recv(36)):
                    answer += more
                if answer[:32] != hashlib.sha256(data).digest():
                    wrong.append(f"upload: {answer[32:].hex() or 'no'} bytes are missing")
        except OSError as error:
            wrong.append(str(error))


@pytest.mark.parametrize("way", ["d", "u"], ids=["down", "up"])
@pytest.mark.parametrize("mtu", [60_000, 1024])
@pytest.mark.parametrize(("dials", "listens"), PAIRS)
def test_streams_through_a_slow_link_arrive_whole(
    slow: World, dials: str, listens: str, mtu: int, way: str
) -> None:
    port = tunnel(slow, dials, listens, mtu)
    side, device = (slow.internet, CABLE) if way == "d" else (slow.user, WAN_INTERFACE)
    wrong: list[str] = []
    seeds = [bytes((n,)) for n in range(AT_ONCE)]
    given = [(slow, port, way, seed, random.Random(seed).randbytes(BYTES), wrong) for seed in seeds]
    threads = [threading.Thread(target=transfer, args=each) for each in given]
    carried, began = side.counters(device)["tx_bytes"], time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    took_s = time.monotonic() - began
    carried = side.counters(device)["tx_bytes"] - carried
    for program in slow.programs[-2:]:
        program.stop()
    goodput = AT_ONCE * BYTES * 8 / took_s / (MBIT * 1e6)
    busy = carried * 8 / took_s / (MBIT * 1e6)
    print(f"{dials} to {listens}, MTU {mtu}, {way}: goodput {goodput:.3f}, busy {busy:.3f}, wrong {wrong}")
    assert not wrong
    assert goodput > 0.15, "on a busy machine the link waits for programs, but not for so long"
