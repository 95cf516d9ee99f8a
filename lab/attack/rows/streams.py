"""What a client with an accepted key does to `nconnect tunnel`, which listens for streams of NKN."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from lab.attack.attack import Attack, Result
from lab.attack.commands import Hostile
from lab.attack.stage import LOCAL_SEED_RPC, Stage
from lab.process import Process, until
from lab.sides import nconnect_command
from lab.world import SEED_RPC
from nconnect.crypto.keys import Identity
from nconnect.ncp.sessions import MAX_SESSIONS_OF_A_KEY

SERVER_PORT = 9100
HANDSHAKES = 3000
SESSIONS = 4000
LIES_S = 5.0
HONEST_WITHIN_S = 3.0
MAY_GROW_BYTES = 20 << 20
SESSION_BYTES = 50_000  # of memory, each at most
# An echo; to "!" it sends without an end.
SERVER = f"""
import socket, threading
def serve(connection):
    with connection:
        try:
            while data := connection.recv(1 << 16):
                while data == b"!":
                    connection.sendall(bytes(1 << 16))
                connection.sendall(data)
        except OSError:
            pass
listener = socket.create_server(("127.0.0.1", {SERVER_PORT}), backlog=1024)
print("serving", flush=True)
while True:
    threading.Thread(target=serve, args=listener.accept()[:1], daemon=True).start()
"""


class _Listening:
    """A listener, the program that attacks it, and what the listener's memory was before."""

    def __init__(self, victim: Process, streamer: Hostile) -> None:
        self.victim = victim
        self.streamer = streamer
        self.served_before = streamer.do("ask")
        self._before = victim.rss_bytes()

    def grown_bytes(self) -> int:
        return self.victim.rss_bytes() - self._before

    def harm(self, may_grow_bytes: int) -> str:
        """What the attack did to the listener or to its honest client, "" for nothing."""
        if isinstance(self.served_before, str):
            return f"the honest client was not served before: {self.served_before}"
        if not self.victim.running:
            return f"the listener ended: {self.victim.text()[-500:]}"
        if (grown := self.grown_bytes()) > may_grow_bytes:
            return f"the listener grew by {grown >> 20} MiB"
        took_s = self.streamer.do("ask")
        if isinstance(took_s, str):
            return f"an honest client is not served: {took_s}"
        return f"an honest client waits {took_s:.1f} s" if took_s > HONEST_WITHIN_S else ""


@contextmanager
def _listening(stage: Stage) -> Iterator[_Listening]:
    world = stage.world
    seeds = [os.urandom(32) for _ in range(2)]
    server = world.run_in(world.provider, [sys.executable, "-c", SERVER], "stream-server")
    until(lambda: "serving" in server.text(), "the server", process=server)
    accept = ",".join(Identity(seed).public_key.hex() for seed in seeds)
    command = [*nconnect_command(), "tunnel", "--to", f"127.0.0.1:{SERVER_PORT}", "--accept", accept]
    victim = world.run_in(world.provider, [*command, "--seed-rpc", SEED_RPC], "stream-listener")
    try:
        until(lambda: "Listening at" in victim.text(), "the listener", timeout_s=20, process=victim)
        found = re.search(r"Listening at (\S+)", victim.text())
        assert found is not None
        log = world.folder / "streamer.log"
        words = (LOCAL_SEED_RPC, *(seed.hex() for seed in seeds), found[1])
        streamer = Hostile(world.internet, "lab.attack.streamer", words, log, {})
        try:
            streamer.wait_ready()
            yield _Listening(victim, streamer)
        finally:
            streamer.stop()
    finally:
        victim.stop()
        server.kill()


def _nothing(stage: Stage) -> Result:
    with _listening(stage) as it:
        sent = it.streamer.do("nothing", str(HANDSHAKES))
        harm = it.harm(MAY_GROW_BYTES)
        return Result(harm, f"{sent} refused, {it.grown_bytes() / (1 << 20):+.1f} MiB")


def _false_acks(stage: Stage) -> Result:
    with _listening(stage) as it:
        came = it.streamer.do("false_acks", str(LIES_S))
        harm = it.harm(MAY_GROW_BYTES) if came else "nothing was sent: the attack did not begin"
        return Result(harm, f"{came >> 20} MiB sent, {it.grown_bytes() / (1 << 20):+.1f} MiB")


def _sessions(stage: Stage) -> Result:
    with _listening(stage) as it:
        still_open = it.streamer.do("sessions", str(SESSIONS), timeout_s=50)
        if not still_open:
            return Result("no session was opened: the attack did not begin")
        if still_open > MAX_SESSIONS_OF_A_KEY:
            return Result(f"{still_open} sessions of one key are open")
        harm = it.harm(MAY_GROW_BYTES + still_open * SESSION_BYTES)
        return Result(harm, f"{still_open} of {SESSIONS}, {it.grown_bytes() / (1 << 20):+.1f} MiB")


ROWS: tuple[Attack, ...] = (
    Attack("client", "streams_of_nothing", "3,000 sessions with windows or packets of 0", _nothing),
    Attack("client", "false_stream_acks", "acknowledges what was not sent, reads nothing", _false_acks),
    Attack("client", "stream_flood", "4,000 sessions of one key", _sessions),
)
