"""tailcat: Tailscale's data plane as one program, without control server or TUN, relayed and direct.

It carries TCP through a SOCKS proxy at the user's end.
"""

from __future__ import annotations

import itertools
import json
import re
import socket
import struct
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager

from lab.bench.bed import ECHO_PORT, Bed
from lab.bench.contenders import tailscale
from lab.bench.contenders.base import TCP_ONLY, Running, answers, by_cable, ping_over_tcp, tcp_round_trips
from lab.bench.contenders.built import cache_folder, go_programs
from lab.bench.contenders.tailscale import REGION, start_derper
from lab.netns import LabError
from lab.process import Process, until
from lab.world import NODE_HOST

MODULE, VERSION = "github.com/tailscale/tailcat", "v0.3.0"  # the last that Go 1.26 builds
PROGRAMS = cache_folder() / f"tailcat-{VERSION}"
MAP_PORT = 8081
SOCKS_PORT = 1080
SERVER = b"server.tailcat"  # the name by which its proxy knows the other end
CHUNK_BYTES = 1 << 18
WARM_UP_S = 1.0
ENDLESS = 1 << 50
_number = itertools.count()


class Tailcat:
    """`way` is derp or direct."""

    def __init__(self, way: str) -> None:
        self.way = way
        self.name = f"tailcat-{way}"
        self.version = f"{VERSION[1:]}, Tailscale {tailscale.VERSION[1:]}"
        by = "directly" if way == "direct" else "through derper, TLS"
        self.about = f"tailcat, TCP by its SOCKS proxy, {by}"

    def measures(self, case: str) -> bool:
        return case in TCP_ONLY - {"start"}

    def missing(self) -> str | None:
        return tailscale.build("derper") or go_programs(
            PROGRAMS, {MODULE: VERSION, tailscale.MODULE: tailscale.VERSION}, f"{MODULE}/cmd/tailcat"
        )

    @contextmanager
    def running(self, bed: Bed) -> Iterator[Running]:
        folder = bed.folder / f"tailcat-{next(_number)}"
        folder.mkdir()
        with ExitStack() as undo:
            if self.way == "derp":
                undo.enter_context(bed.without_cable())
            derper, entry = start_derper(bed, folder)
            undo.callback(derper.stop)
            region = {"RegionID": REGION, "RegionCode": "bench", "RegionName": "bench", "Nodes": [entry]}
            (folder / "map.json").write_text(json.dumps({"Regions": {REGION: region}}))
            web = [sys.executable, "-m", "http.server", str(MAP_PORT), "--directory", str(folder)]
            maps = Process(bed.internet, web, folder / "maps.log")
            undo.callback(maps.stop)
            until(lambda: bed.internet.listens(MAP_PORT), "the map", process=maps)
            # Its own folder for keys and caches: it keeps none of the machine's.
            environment = {"XDG_CACHE_HOME": str(folder), "XDG_CONFIG_HOME": str(folder)}
            program = [str(PROGRAMS / "tailcat"), f"--derpmap-url=http://{NODE_HOST}:{MAP_PORT}/map.json"]
            serve = [*program, f"--serve={ECHO_PORT}", "--full-address"]
            server = Process(bed.provider, serve, folder / "server.log", env=environment)
            undo.callback(server.stop)
            until(lambda: re.search(r"\btc\S{40,}\s", server.text()), "tailcat", process=server)
            token = re.findall(r"\btc\S{40,}", server.text())[0]
            proxy = [*program, "socks", "--listen", f"127.0.0.1:{SOCKS_PORT}", token]
            client = Process(bed.user, proxy, folder / "client.log", env=environment)
            undo.callback(client.stop)

            def goes_direct() -> bool:
                return by_cable(bed, lambda: len(tcp_round_trips(bed, to_echo_by_socks, 20)))

            try:
                answers(lambda: bool(tcp_round_trips(bed, to_echo_by_socks, 1)), self.name)
                if self.way == "direct":
                    until(goes_direct, "a direct path")
            except LabError as error:
                tails = "\n".join(process.tail() for process in (derper, server, client))
                raise LabError(f"{error}\n{tails}") from None
            processes = (derper, server, client)

            def stream(way: str, seconds: float) -> dict[str, float]:
                worked = running.cpu_s()
                rate, all_bytes = bed.user.enter(bulk, way, seconds)
                cpu_s = running.cpu_s() - worked
                return {f"tcp_{way}": rate * 8 / 1e9, f"cpu_{way}": cpu_s * 1e9 / all_bytes}

            running = Running(
                bed,
                "",
                "",
                processes,
                None,
                daemons=(client, server),
                own={
                    "ping": lambda seconds: ping_over_tcp(bed, to_echo_by_socks, seconds),
                    "tcp-up": lambda seconds: stream("up", seconds),
                    "tcp-down": lambda seconds: stream("down", seconds),
                },
            )
            yield running
            if self.way == "direct" and not goes_direct():
                raise LabError("packets did not go directly any more")


def to_echo_by_socks() -> socket.socket:
    """Connect to the provider's echo server by the proxy (RFC 1928, a name, no authentication)."""
    connection = socket.create_connection(("127.0.0.1", SOCKS_PORT), timeout=5)
    try:
        connection.sendall(b"\x05\x01\x00")
        if _exactly(connection, 2) != b"\x05\x00":
            raise OSError("the proxy wants authentication")
        name = bytes([len(SERVER)]) + SERVER + struct.pack("!H", ECHO_PORT)
        connection.sendall(b"\x05\x01\x00\x03" + name)
        _, refused, _, kind = _exactly(connection, 4)
        if refused:
            raise OSError(f"the proxy refuses: {refused}")
        _exactly(connection, {1: 4, 4: 16}.get(kind) or _exactly(connection, 1)[0])
        _exactly(connection, 2)
        return connection
    except BaseException:
        connection.close()
        raise


def _exactly(connection: socket.socket, size: int) -> bytes:
    data = connection.recv(size, socket.MSG_WAITALL)
    if len(data) < size:
        raise OSError("the proxy closed the connection")
    return data


def bulk(way: str, seconds: float) -> tuple[float, int]:
    """One stream: bytes a second after the warm-up, and all its bytes."""
    chunk = bytearray(CHUNK_BYTES)
    with closing(to_echo_by_socks()) as connection:
        connection.sendall(b"sink\n" if way == "up" else b"source %d\n" % ENDLESS)
        move = connection.send if way == "up" else connection.recv_into
        all_bytes, began = 0, time.monotonic()
        warm_bytes, warm_at = 0, began
        while (now := time.monotonic()) < began + WARM_UP_S + seconds:
            if now < began + WARM_UP_S:
                warm_bytes, warm_at = all_bytes, now
            moved = move(chunk)
            if not moved:
                raise LabError(f"the stream {way} ended early")
            all_bytes += moved
    return (all_bytes - warm_bytes) / (now - warm_at), all_bytes
