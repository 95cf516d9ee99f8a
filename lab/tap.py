"""Captures of what passes the interfaces of a namespace, on a thread, while a `with` block runs."""

from __future__ import annotations

import socket
import threading
from types import TracebackType
from typing import Any, Self

from lab.netns import Namespace

ETH_P_ALL = 0x0003
SO_RCVBUFFORCE = 33
BUFFER_BYTES = 8 << 20
PACKET_BYTES = 1 << 17
LIMIT_BYTES = 64 << 20  # more than a demo or a test sends; what comes later is not kept


class Sniffer:
    """Hands every packet to `seen`: both ways, of `interface`, or of all interfaces if none is named.

    `kind` is SOCK_RAW for whole frames, or SOCK_DGRAM for packets without their Ethernet header (packet(7)).
    """

    def __init__(self, namespace: Namespace, interface: str = "", *, kind: int = socket.SOCK_RAW) -> None:
        self._socket = namespace.socket(socket.AF_PACKET, kind, socket.htons(ETH_P_ALL))
        if interface:
            self._socket.bind((interface, 0))
        self._socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER_BYTES)
        self._socket.settimeout(0.05)
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._read, name=f"sniffer-{interface}", daemon=True)

    def seen(self, packet: bytes, address: Any) -> None:
        """`address`: (interface, protocol, direction, hardware type, hardware address)."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ending.set()
        self._socket.setblocking(False)
        self._thread.join()
        self._socket.close()

    def _read(self) -> None:
        # After the end is asked for, read on until nothing is waiting: what has passed is seen.
        # More may pass.
        while True:
            try:
                packet, address = self._socket.recvfrom(PACKET_BYTES)
            except (TimeoutError, BlockingIOError):
                if self._ending.is_set():
                    return
            except OSError:  # ENETDOWN: an interface went down
                continue
            else:
                self.seen(packet, address)


class Tap(Sniffer):
    """Every frame that passes `interface`, joined in `data`: to show that a text is, or is not, on a wire."""

    def __init__(self, namespace: Namespace, interface: str) -> None:
        self.data = bytearray()
        super().__init__(namespace, interface)

    def seen(self, packet: bytes, address: Any) -> None:
        if len(self.data) < LIMIT_BYTES:
            self.data += packet
