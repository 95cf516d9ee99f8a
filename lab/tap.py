"""A capture of one interface, in memory: to show that a text is, or is not, on a wire."""

from __future__ import annotations

import socket
import threading
from types import TracebackType

from lab.netns import Namespace

ETH_P_ALL = 0x0003
LIMIT_BYTES = 64 << 20  # more than a demo or a test sends; what comes later is not kept


class Tap:
    """Every frame that passes `interface` while the `with` block runs, both ways, joined in `data`."""

    def __init__(self, namespace: Namespace, interface: str) -> None:
        self.data = bytearray()
        self._socket = namespace.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
        self._socket.bind((interface, 0))
        self._socket.settimeout(0.05)
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._read, name=f"tap-{interface}", daemon=True)

    def __enter__(self) -> Tap:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ending.set()
        self._thread.join()
        self._socket.close()

    def _read(self) -> None:
        # After the end is asked for, read on until nothing is waiting: what has passed is in `data`.
        while True:
            try:
                frame = self._socket.recv(1 << 17)
            except TimeoutError:
                if self._ending.is_set():
                    return
                continue
            if len(self.data) < LIMIT_BYTES:
                self.data += frame
