"""Traffic through a tunnel, and its checks: connections, echoes, transfers with their checksums, pings."""

from __future__ import annotations

import hashlib
import json
import select
import socket
import sys

from lab.netns import Namespace
from lab.process import Process, until
from lab.servers import PATTERN_BYTES, pattern, self_signed
from lab.world import SERVER, World

SERVICE = 7000
QUIC_PORT = 4433


def serve(namespace: Namespace, world: World, *ports: int) -> Process:
    """Start the lab's servers in a namespace, and return when they listen."""
    name = f"servers-{namespace.name.rpartition('-')[2]}"
    command = [sys.executable, "-m", "lab.servers", *map(str, ports)]
    process = world.run_in(namespace, command, name)
    until(lambda: "serving" in process.text(), f"the servers in {namespace.name}", process=process)
    return process


def serve_model(namespace: Namespace, world: World, host: str, port: int, *options: str) -> Process:
    """Start the lab's language model in a namespace, and return when it answers."""
    command = [sys.executable, "-m", "lab.model_server", host, str(port), *options]
    model = world.run_in(namespace, command, f"model-{port}")
    until(lambda: "serving" in model.text(), "the model", timeout_s=90, process=model)
    return model


def shape(namespace: Namespace, interface: str, mbit: int) -> None:
    """Make a cable slow in the direction that leaves the namespace here."""
    bucket = ["tbf", "rate", f"{mbit}mbit", "burst", "32kb", "latency", "100ms"]
    namespace.must("tc", "qdisc", "add", "dev", interface, "root", *bucket)


def quic_download(world: World, size: int) -> None:
    """`size` bytes by QUIC from the server, whole and unchanged; needs aioquic."""
    certificate = self_signed(world.folder / "quic.pem")
    program = [sys.executable, "-m", "lab.quic"]
    server = world.run_in(world.server, [*program, "serve", str(QUIC_PORT), str(certificate)], "quic")
    until(lambda: "serving" in server.text(), "the QUIC server", process=server)
    told = json.loads(world.user.must(*program, "fetch", SERVER, str(QUIC_PORT), str(size)))
    server.stop()
    assert told["echo"] == "over and out"
    assert told["sha256"] == hashlib.sha256(pattern(size)).hexdigest()


def family_of(host: str) -> int:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def connect(namespace: Namespace, host: str, port: int, *, timeout_s: float = 10) -> socket.socket:
    """A TCP connection from inside a namespace; raises OSError."""
    connection = namespace.socket(family_of(host), socket.SOCK_STREAM)
    try:
        connection.settimeout(timeout_s)
        connection.connect((host, port))
    except OSError:
        connection.close()
        raise
    return connection


def tcp_echo(namespace: Namespace, host: str, port: int, data: bytes) -> bytes:
    """Send `data` and read as much back, at the same time."""
    with connect(namespace, host, port) as connection:
        connection.sendall(b"echo\n")
        connection.setblocking(False)
        return _exchange(connection, data)


def _exchange(connection: socket.socket, data: bytes) -> bytes:
    out, received = memoryview(data), bytearray()
    while len(received) < len(data):
        readable, writable, _ = select.select([connection], [connection] if out else [], [], 10)
        assert readable or writable, f"stalled after {len(received)} of {len(data)} bytes"
        if writable:
            out = out[connection.send(out[: 1 << 16]) :]
        if readable:
            got = connection.recv(1 << 16)
            assert got, f"closed after {len(received)} of {len(data)} bytes"
            received += got
    return bytes(received)


def udp_echo(namespace: Namespace, host: str, port: int, data: bytes, *, timeout_s: float = 5) -> bytes:
    """Send one datagram and return the answer; raises TimeoutError."""
    with namespace.socket(family_of(host), socket.SOCK_DGRAM) as datagrams:
        datagrams.settimeout(timeout_s)
        datagrams.sendto(data, (host, port))
        return datagrams.recv(1 << 16)


def gibibyte(namespace: Namespace, host: str, way: str) -> None:
    """1 GiB `down`, `up` or as `udp` both ways, and its checksum."""
    size = 1 << 30
    if way == "udp":
        udp_volume(namespace, host, size)
        return
    with connect(namespace, host, SERVICE, timeout_s=60) as connection:
        moved = download(connection, size) if way == "down" else upload(connection, size)
    assert moved == expected_download(size)


def whoami(namespace: Namespace, host: str, port: int) -> str:
    """The address as which the server sees a connection from `namespace`."""
    with connect(namespace, host, port) as connection:
        connection.sendall(b"whoami\n")
        return connection.recv(100).decode()


def download(connection: socket.socket, size: int) -> str:
    """Read `size` bytes that the server makes, and return their SHA-256."""
    connection.sendall(b"source %d\n" % size)
    digest, left = hashlib.sha256(), size
    while left:
        data = connection.recv(1 << 20)
        assert data, f"closed with {left} bytes to come"
        digest.update(data)
        left -= len(data)
    return digest.hexdigest()


def expected_download(size: int) -> str:
    digest, block = hashlib.sha256(), pattern(PATTERN_BYTES)
    for _ in range(size // PATTERN_BYTES):
        digest.update(block)
    digest.update(block[: size % PATTERN_BYTES])
    return digest.hexdigest()


def upload(connection: socket.socket, size: int) -> str:
    """Send `size` bytes of the pattern, and return the SHA-256 of what the server received."""
    connection.sendall(b"digest %d\n" % size)
    block, left = pattern(PATTERN_BYTES), size
    while left:
        part = block[:left]
        connection.sendall(part)
        left -= len(part)
    answer = b""
    while data := connection.recv(100):
        answer += data
    return answer.decode()


def udp_volume(namespace: Namespace, host: str, size: int, *, datagram_bytes: int = 1400) -> None:
    """`size` bytes there and back in numbered datagrams, 64 under way at a time: each comes back once."""
    block = pattern(2 * PATTERN_BYTES)
    count = -(-size // datagram_bytes)

    def datagram(number: int) -> bytes:
        at = number % PATTERN_BYTES
        return number.to_bytes(4) + block[at : at + datagram_bytes - 4]

    with namespace.socket(family_of(host), socket.SOCK_DGRAM) as client:
        client.settimeout(10)
        client.connect((host, SERVICE))
        for first in range(0, count, 64):
            numbers = range(first, min(first + 64, count))
            for number in numbers:
                client.send(datagram(number))
            missing = set(numbers)
            while missing:
                got = client.recv(1 << 16)
                number = int.from_bytes(got[:4])
                missing.remove(number)  # raises for one that comes twice
                assert got == datagram(number)


def reaches(namespace: Namespace, host: str, port: int, kind: int = socket.SOCK_STREAM) -> bool:
    """Whether a server answers there; a refusal and silence (for a second) are both no."""
    try:
        if kind == socket.SOCK_DGRAM:
            return udp_echo(namespace, host, port, b"?", timeout_s=1) == b"?"
        with connect(namespace, host, port, timeout_s=1) as connection:
            connection.sendall(b"whoami\n")
            return bool(connection.recv(100))
    except OSError:
        return False


def pings(namespace: Namespace, host: str, *options: str) -> bool:
    done = namespace.run(["ping", "-n", "-c", "1", "-W", "2", *options, host])
    return done.returncode == 0
