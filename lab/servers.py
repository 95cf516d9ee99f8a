"""`python -m lab.servers PORT…`: on each port, over TCP and UDP and over IPv4 and IPv6, a server for tests.

Over UDP it sends every datagram back. Over TCP the first line of a connection says what is wanted:
`echo` sends all that follows back, `whoami` answers with the client's address, `source N` sends N bytes of
`pattern`, `sink` takes all that follows, `digest N` takes N bytes and answers with their SHA-256.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import socket
import subprocess
from pathlib import Path
from typing import cast

PATTERN_BYTES = 1 << 16


def pattern(size: int) -> bytes:
    """`size` bytes that are never the same at two offsets near one another."""
    block = b"".join(n.to_bytes(4, "big") for n in range(PATTERN_BYTES // 4))
    return (block * (size // PATTERN_BYTES + 1))[:size]


def self_signed(path: Path) -> Path:
    """Write a self-signed certificate and its key into one file."""
    made = path.with_suffix(".crt")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
         "-days", "2", "-subj", "/CN=server", "-keyout", str(path), "-out", str(made)],
        check=True, capture_output=True,
    )  # fmt: skip
    with path.open("a") as both:
        both.write(made.read_text())
    return path


async def _serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        wanted = (await reader.readline()).split()
        if wanted[:1] == [b"echo"]:
            while data := await reader.read(1 << 16):
                writer.write(data)
                await writer.drain()
        elif wanted[:1] == [b"sink"]:
            while await reader.read(1 << 16):
                pass
        elif wanted[:1] == [b"digest"]:
            digest, left = hashlib.sha256(), int(wanted[1])
            while left and (data := await reader.read(min(left, 1 << 20))):
                digest.update(data)
                left -= len(data)
            writer.write(digest.hexdigest().encode())
        elif wanted[:1] == [b"whoami"]:
            writer.write(writer.get_extra_info("peername")[0].removeprefix("::ffff:").encode())
        elif wanted[:1] == [b"source"]:
            left = int(wanted[1])
            block = pattern(PATTERN_BYTES)
            while left:
                writer.write(block[:left])
                left -= min(left, PATTERN_BYTES)
                await writer.drain()
        writer.close()
        await writer.wait_closed()


class _UdpEcho(asyncio.DatagramProtocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str | int, int]) -> None:
        self._transport.sendto(data, addr)


async def _run(ports: list[int]) -> None:
    for port in ports:
        listening = socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
        await asyncio.start_server(_serve, sock=listening)
        datagrams = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        datagrams.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        datagrams.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        datagrams.bind(("::", port))
        await asyncio.get_running_loop().create_datagram_endpoint(_UdpEcho, sock=datagrams)
    print("serving", flush=True)
    await asyncio.Event().wait()


def main() -> None:
    parser = argparse.ArgumentParser(prog="lab.servers", description=__doc__)
    parser.add_argument("port", type=int, nargs="+")
    asyncio.run(_run(parser.parse_args().port))


if __name__ == "__main__":
    main()
