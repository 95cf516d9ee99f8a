"""`python -m lab.attack.sender SEED_RPC SEED IDENTIFIER DEST ADDRESS`: a peer or a stranger that misbehaves.

It has the real tunnel core: with an authorised key it gets a real session, and seals into it what no honest
peer would send.
"""

from __future__ import annotations

import asyncio
import os
import struct
import sys
import time
from ipaddress import ip_address, ip_network

from lab.attack.commands import obey
from nconnect.crypto.aead import TAG_BYTES, CipherSuite
from nconnect.crypto.keys import Box, Identity
from nconnect.io.clock import boottime
from nconnect.io.nkn.link import LinkRunner
from nconnect.ip.checksum import checksum
from nconnect.model import Endpoint, NknAddress, PeerConfig
from nconnect.nkn.link import Link
from nconnect.nkn.outputs import DownReason
from nconnect.tunnel.constants import MAX_BATCH_BYTES
from nconnect.tunnel.core import Tunnel
from nconnect.tunnel.handshake import Attempt, boxed
from nconnect.tunnel.outputs import Send, Settings
from nconnect.wire.direct import Candidate, CandidateKind, Candidates, NatVerdict
from nconnect.wire.jsonrpc import NodeInfo
from nconnect.wire.nkn import InboundMessage
from nconnect.wire.tunnel import (
    DATA_HEADER,
    VERSION,
    Feature,
    Hello,
    RecordKind,
    control_batch,
    data_frame,
    put_record,
)

MANY = 200
NO_OFFLOAD = bytes(10)


class Sender:
    """A link, a tunnel core, and attacks by name."""

    def __init__(self, seed_rpc: str, seed: str, identifier: str, dest: str, tunnel_address: str) -> None:
        self._identity = Identity(bytes.fromhex(seed))
        self._address = NknAddress(identifier, self._identity.public_key)
        self._dest = NknAddress.parse(dest)
        self._source = bytes(map(int, tunnel_address.split(".")))
        everything = (ip_network("0.0.0.0/0"),)
        self._tunnel = Tunnel(
            self._identity, self._address, (PeerConfig("victim", self._dest, everything),),
            Settings(CipherSuite.CHACHA20POLY1305, persistent=False),
            now=boottime(), rng=os.urandom, wall_clock_ns=time.time_ns,
        )  # fmt: skip
        self._peer = self._tunnel.peer_named("victim")
        link = Link(self._identity, self._address, (seed_rpc,), now=boottime(), rng=os.urandom)
        self._runner = LinkRunner(link, self)
        self._up = asyncio.Event()
        self._writable = asyncio.Event()
        self._out = memoryview(bytearray(4_100_000))

    # Events of the link

    def on_up(self, node: NodeInfo) -> None:
        self._up.set()
        self._writable.set()

    def on_down(self, why: str, reason: DownReason) -> None:
        print(f"no link: {why}", file=sys.stderr, flush=True)

    def on_writable(self) -> None:
        self._writable.set()

    def on_message(self, message: InboundMessage) -> None:
        self._tunnel.receive(message.src, memoryview(message.payload), self._out, boottime())
        self._drain()

    def _drain(self) -> None:
        while (output := self._tunnel.poll_output()) is not None:
            if isinstance(output, Send):
                self._runner.send(output.dest, (output.payload,))

    # Attacks

    async def run(self) -> None:
        running = asyncio.create_task(self._runner.run(), name="link")
        async with asyncio.timeout(10):
            await self._up.wait()
        await obey(self.attack)
        self._runner.close()
        await running

    async def attack(self, name: str, *words: str) -> None:
        await getattr(self, name)(*words)

    async def session(self) -> None:
        """Get a session, as an ordinary peer does."""
        await self._seal(self._packet(b"\x0a\x56\x00\x01"))  # proves the keys to the other side

    async def spoofed_sources(self) -> None:
        for source in ("10.86.0.2", "10.86.0.1", "127.0.0.1", "224.0.0.1", "169.254.1.1", "192.168.50.10"):
            for _ in range(20):
                packet = self._packet(b"\xc0\xa8\x32\x0a", source=bytes(map(int, source.split("."))))
                await self._seal(packet)

    async def mapped_sources(self) -> None:
        """IPv6 packets whose source is an IPv4-mapped address."""
        for _ in range(MANY):
            source = bytes(10) + b"\xff\xff" + self._source
            body = struct.pack(">IHBB", 0x60000000, 8, 59, 64) + source + bytes(15) + b"\x01" + bytes(8)
            await self._seal(NO_OFFLOAD + body)

    async def no_packets(self) -> None:
        for n in range(1, 100):
            await self._seal(NO_OFFLOAD + os.urandom(n))

    async def bad_offload(self) -> None:
        for kind, size in ((1, 0), (1, 65535), (5, 20000), (3, 1), (77, 1000)):
            packet = self._packet(b"\xc0\xa8\x32\x0a")[10:]
            await self._seal(struct.pack("<BBHHHH", 1, kind, 65000, size, 60000, 60000) + packet)

    async def bad_records(self) -> None:
        for _ in range(MANY):
            await self._seal_batch(struct.pack("<I", 0xFFFFFF) + os.urandom(40))

    async def forbidden(self) -> None:
        """TCP connections to destinations that this peer may not reach."""
        for host in (b"\xc0\xa8\x32\x0a", b"\xc0\xa8\x32\x01", b"\x0a\x56\x00\x02", b"\x08\x08\x08\x08"):
            for port in range(20, 70):
                await self._seal(self._packet(host, port=port))

    async def seal(self, *packets: str) -> None:
        """Packets in hexadecimal, each in a batch of its own."""
        for packet in packets:
            await self._seal(NO_OFFLOAD + bytes.fromhex(packet))

    async def frames(self, *frames: str) -> None:
        """Frames of streams in hexadecimal, each in a batch of its own."""
        for frame in frames:
            await self._seal(bytes.fromhex(frame))

    async def many_flows(self, port: str, count: str) -> None:
        """Send a datagram from each of many source ports to one port of the server."""
        for n in range(int(count)):
            await self._seal(self._datagram(b"\xc0\xa8\x32\x0a", 20_000 + n, int(port)))
            if n % 100 == 99:
                await asyncio.sleep(0.02)

    async def tiny_packets(self) -> None:
        """Batches of as many packets as fit: 20-byte packets and datagrams that are allowed, in turn."""
        empty = _ipv4(self._source, b"\xc0\xa8\x32\x0a", 253, b"")
        for record in (empty, self._datagram(b"\xc0\xa8\x32\x0a", 30_000, 9000)):
            arena = bytearray(len(record) + 4)
            size = put_record(arena, 0, bytearray(record))
            for _ in range(12):
                await self._seal_batch(bytes(arena[:size]) * (MAX_BATCH_BYTES // size))

    async def link_changes(self) -> None:
        """A batch full of changes of our links; each asks for eight answers."""
        entries = b"".join(struct.pack("<BI", n, n) for n in range(8))
        body = struct.Struct(f"<II{len(entries)}s")
        head = RecordKind.LINKS << 24 | 4 + len(entries)
        count = MAX_BATCH_BYTES // body.size
        await self._seal_batch(b"".join(body.pack(head, n + 2, _with_tag(entries, n)) for n in range(count)))

    async def ping_flood(self) -> None:
        arena, at = bytearray(12 * 20_000), 0
        for n in range(20_000):
            struct.pack_into("<IQ", arena, at, RecordKind.PING << 24 | 8, n)
            at += 12
        await self._seal_batch(bytes(arena))

    async def candidates(self, revision: str, *named: str) -> None:
        """Say that we are at these addresses, "KIND HOST PORT" (`CandidateKind`), in a search of ours."""
        entries = [
            Candidate(CandidateKind[kind], Endpoint(ip_address(host), int(port)))
            for kind, host, port in map(str.split, named)
        ]
        search_id = int.from_bytes(os.urandom(8))
        told = Candidates(int(revision), NatVerdict.EASY, 1472, search_id, tuple(entries))
        await self._seal_batch(control_batch((RecordKind.CANDIDATES, told.encode())))

    async def big_garbage(self) -> None:
        """30 MB that do not authenticate, under keys that exist."""
        assert self._peer is not None
        pair = self._peer.session.current
        assert pair is not None
        for n in range(100):
            header = DATA_HEADER.pack(VERSION, 0, 0, pair.remote_index, pair.counter + 100 + n)
            await self._send(data_frame(header, 300_000) + os.urandom(300_000))

    async def no_session(self) -> None:
        for n in range(MANY):
            await self._send(data_frame(DATA_HEADER.pack(VERSION, 0, 0, n, 1), 64) + os.urandom(64))

    async def wrong_version(self) -> None:
        for n in range(MANY):
            await self._send(data_frame(DATA_HEADER.pack(2 + n % 200, 0, 0, n, 1), 64) + os.urandom(64))

    async def handshake_flood(self) -> None:
        for _ in range(500):
            await self._send(self._initiation())

    async def other_key(self) -> None:
        """A handshake with another key than the address has."""
        await self._send(self._initiation(Identity(os.urandom(32))))

    async def unknown_key(self) -> None:
        for _ in range(1000):
            await self._send(self._initiation())
            await self._send(os.urandom(100))

    def _initiation(self, identity: Identity | None = None) -> bytes:
        assert self._peer is not None
        hello = Hello(time.time_ns(), Feature.ALL, 1, 1500, 1 << 18)
        made = Attempt(
            identity=identity or self._identity, address=self._address, peer=self._dest,
            peer_dh_key=self._peer.handshake.dh_key, preshared_key=None, suite=CipherSuite.CHACHA20POLY1305,
            local_index=7, hello=hello, started_at=boottime(), rng=os.urandom,
        )  # fmt: skip
        return boxed(Box(self._identity, self._dest.public_key), made.frame, os.urandom)

    def _packet(self, destination: bytes, *, source: bytes | None = None, port: int = 80) -> bytes:
        """A SYN behind a virtio-net header without offloads."""
        source = source or self._source
        tcp = struct.pack(">HHIIBBHHH", 40000 + port, port, 1, 0, 0x50, 2, 65535, 0, 0)
        total = checksum(source + destination + struct.pack(">BBH", 0, 6, len(tcp)) + tcp)
        return _ipv4(source, destination, 6, tcp[:16] + struct.pack(">H", total) + tcp[18:])

    def _datagram(self, destination: bytes, source_port: int, port: int) -> bytes:
        """A datagram of one byte without a checksum, behind such a header."""
        return _ipv4(self._source, destination, 17, struct.pack(">HHHHx", source_port, port, 9, 0))

    async def _seal(self, record: bytes) -> None:
        arena = bytearray(len(record) + 4)
        size = put_record(arena, 0, bytearray(record))
        await self._seal_batch(bytes(arena[:size]))

    async def _seal_batch(self, batch: bytes) -> None:
        assert self._peer is not None
        async with asyncio.timeout(10):
            while not self._tunnel.can_seal(self._peer, boottime()):  # at the start, and when keys have ended
                self._tunnel.handle_timeout(boottime())
                self._drain()
                await asyncio.sleep(0.02)
        out = memoryview(bytearray(len(batch) + TAG_BYTES))
        lane = self._peer.path.lane
        prefix, size = self._tunnel.seal(self._peer, batch, out, lane)
        await self._send(prefix + bytes(out[:size]))
        self._tunnel.sent(self._peer, lane, len(batch), boottime())

    async def _send(self, payload: bytes) -> None:
        while not self._runner.writable:
            self._writable.clear()
            await self._writable.wait()
        self._runner.send(str(self._dest), (payload,))


def _with_tag(entries: bytes, tag: int) -> bytes:
    """The same links, but the first one at another node."""
    return entries[:1] + tag.to_bytes(4, "little") + entries[5:]


def _ipv4(source: bytes, destination: bytes, protocol: int, body: bytes) -> bytes:
    """A packet behind a virtio-net header without offloads."""
    head = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(body), 0, 0, 64, protocol, 0) + source + destination
    return NO_OFFLOAD + head[:10] + struct.pack(">H", checksum(head)) + head[12:] + body


if __name__ == "__main__":
    asyncio.run(Sender(*sys.argv[1:6]).run())
