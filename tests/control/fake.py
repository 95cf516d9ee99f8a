"""A daemon's backend that records what it was asked, served from its own thread."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nconnect.control.schema import (
    LinkStatus,
    OfferLine,
    PeerStatus,
    PeerUsage,
    PendingPeer,
    PingReply,
    SkippedRoute,
    Status,
    UsageReport,
    UsedPeriod,
)
from nconnect.control.server import ControlServer
from nconnect.errors import ConfigError, ControlError
from nconnect.io.net.listening import bind_unix
from nconnect.streams.dialler import RefusalCode, Stream, StreamRefused

KEY = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"  # RFC 8032, 7.1, test 1

STATUS = Status(
    interface="nc0",
    address=f"gpu-box.{KEY}",
    public_key=KEY,
    links=(LinkStatus("203.0.113.7:30002", "up", 0.53),),
    peers=(
        PeerStatus(
            "laptop",
            f"laptop.{KEY}",
            ("10.86.0.2/32",),
            ("192.168.50.10:8000/tcp",),
            "up",
            cipher="aes256gcm",
            last_handshake_at=1_790_000_000.0,
            expires=1_798_675_200.0,
            rtt_ms=12.3,
            rx_bytes=1536,
            tx_bytes=5_000_000,
            drops={"spoofed_source": 3, "replayed": 0},
            handshake_age_s=45.0,
        ),
        PeerStatus("phone", f"phone.{KEY}", ("10.86.0.3/32",), None, "never"),
    ),
    routes=("10.86.0.2/32", "10.86.0.3/32"),
    skipped_routes=(SkippedRoute("192.168.1.0/24", "it is this machine's own network"),),
    addresses=("10.86.0.1/24",),
    started_at=1_789_999_000.0,
    drops={"unknown_peer": 2},
)

_HOURS = (
    UsedPeriod(1_789_999_200.0, 3000, 4_000_000, 5, 1800.0),
    UsedPeriod(1_790_002_800.0, 0, 1024, 1, 9.0),
)
USED = UsageReport(
    "nc0",
    1_788_220_800.0,
    (
        PeerUsage(
            "laptop", f"laptop.{KEY}", 3000, 4_001_024, 6, 1809.0, 1_790_003_000.0, _HOURS,
            (UsedPeriod(1_789_948_800.0, 3000, 4_001_024, 6, 1809.0),),
        ),
        PeerUsage("phone", f"phone.{KEY}", 0, 0, 0, 0.0, None, (), ()),
    ),
)  # fmt: skip


READER = 1005
OFFERS = [
    OfferLine(
        "gpu-box",
        "ollama",
        "http://ollama.gpu-box.internal:11434",
        ("ollama.gpu-box.internal",),
        ("a", "b", "c", "d"),
        allowed=True,
    ),
    OfferLine("attic", "vllm", "http://10.9.1.7:8000", (), (), allowed=False),
]


class FakeBackend:
    def __init__(self, socket: Path) -> None:
        self.socket = socket
        self.state = STATUS
        self.asked: list[Any] = []
        self.waiting: list[PendingPeer] = []
        self.refuse_reload: str | None = None
        self.loses_reload = False  # it breaks, and may have done it or not
        self.answers = True
        self.breaks = False
        self.stop = threading.Event()
        self.stream: Stream | None = None

    async def status(self) -> Status:
        if self.breaks:
            raise ZeroDivisionError
        return self.state

    def pending(self) -> list[PendingPeer]:
        return self.waiting

    def offers(self) -> list[OfferLine]:
        self.asked.append("offers")
        return OFFERS

    async def may_read(self, uid: int) -> bool:
        return uid == READER

    async def used(self, since: float) -> UsageReport:
        self.asked.append(("usage", since))
        return USED

    async def reload(self) -> None:
        self.asked.append("reload")
        if self.loses_reload:
            raise ZeroDivisionError
        if self.refuse_reload:
            raise ConfigError([self.refuse_reload, "and more"])

    def request_stop(self) -> None:
        self.asked.append("stop")
        self.stop.set()

    async def wait(self, peer: str | None, timeout_s: float) -> None:
        self.asked.append(("wait", peer, timeout_s))
        if not self.answers:
            raise TimeoutError("no link is up")

    async def open_stream(self, host: str, port: int) -> Stream:
        self.asked.append(("stream", host, port))
        if port == 22:
            raise StreamRefused("gpu: not among what this peer may reach", RefusalCode.NOT_ALLOWED)
        if port == 23:
            raise TimeoutError("gpu does not answer")
        assert self.stream is not None
        return self.stream

    async def ping(self, peer: str, timeout_s: float) -> PingReply:
        self.asked.append(("ping", peer, timeout_s))
        if peer not in {p.name for p in self.state.peers}:
            raise ControlError(f"there is no peer {peer!r}")
        if not self.answers:
            raise TimeoutError
        return PingReply(peer, 1.25, 0.5, peer_node_ms=0.25, rest_ms=0.5)


@contextmanager
def running(socket: Path) -> Iterator[FakeBackend]:
    """Serve a `FakeBackend` at `socket` until the block ends, or until it was asked to stop."""
    backend = FakeBackend(socket)
    ready = threading.Event()

    socket.parent.mkdir(parents=True, exist_ok=True)
    listener = bind_unix(socket)

    async def serve() -> None:
        server = await ControlServer.on(listener, socket, backend)
        ready.set()
        await asyncio.to_thread(backend.stop.wait)
        await asyncio.to_thread(socket.unlink, missing_ok=True)
        await server.close()

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    try:
        assert ready.wait(10)
        yield backend
    finally:
        backend.stop.set()
        thread.join(10)
        assert not thread.is_alive()
