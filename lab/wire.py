"""A cable with faults: two packet sockets and between them a relay in user space, a thread each way.

    left ── [left  wire  right] ── right

It carries whole Ethernet frames, ARP too. The ends send without offloads, so that a frame is what a real
cable would carry, and so that the fault falls on packets and not on 64 KiB of them.
"""

from __future__ import annotations

import array
import fcntl
import random
import socket
import struct
import threading
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from enum import Enum

from lab.netns import Namespace, cable

ETH_P_ALL = 0x0003
PACKET_IGNORE_OUTGOING = 23  # linux/if_packet.h
SIOCETHTOOL = 0x8946
_OFFLOADS = (0x17, 0x1F, 0x24)  # linux/ethtool.h: set tx checksums, TSO, GSO
HELD_S = 0.02  # seconds after which a frame that waits for later ones is sent without them
BEHIND = 3  # so many
BUFFER_BYTES = 8 << 20


class Action(Enum):
    DROP = "dropped"
    DUPLICATE = "duplicated"
    REORDER = "reordered"


@dataclass(frozen=True, slots=True)
class Fault:
    """What happens to frames of both directions: to a random share of them, or to every nth."""

    action: Action
    share: float = 0.0
    every: int = 0

    def __str__(self) -> str:
        which = f"{self.share * 100:g} % of all frames" if self.share else f"every {self.every}th frame"
        return f"{which} {self.action.value}"


class Wire:
    """Set `fault` at any time; None carries everything as it came. `fired` counts what was done."""

    def __init__(self, namespace: Namespace, left: str, right: str, *, seed: int = 1) -> None:
        self.fault: Fault | None = None
        self.fired: Counter[Action] = Counter()
        self._random = random.Random(seed)
        self._ending = threading.Event()
        self._sockets = [_packet_socket(namespace, name) for name in (left, right)]
        ways = (self._sockets, self._sockets[::-1])
        self._threads = [
            threading.Thread(target=self._carry, args=way, name=f"wire-{n}", daemon=True)
            for n, way in enumerate(ways)
        ]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        self._ending.set()
        for thread in self._threads:
            thread.join()
        for end in self._sockets:
            end.close()

    def _carry(self, source: socket.socket, sink: socket.socket) -> None:
        held: list[tuple[int, bytes]] = []  # (the count at which it leaves, frame)
        count = 0
        while not self._ending.is_set():
            try:
                frame = source.recv(1 << 17)
            except TimeoutError:
                _send(sink, [frame for _, frame in held])
                held.clear()
                continue
            except OSError:
                continue  # the interface is down for the moment
            count += 1
            action = self._action(count)
            if action is Action.REORDER:
                held.append((count + BEHIND, frame))
            elif action is not Action.DROP:
                _send(sink, [frame] * (2 if action is Action.DUPLICATE else 1))
            while held and held[0][0] <= count:
                _send(sink, [held.pop(0)[1]])

    def _action(self, count: int) -> Action | None:
        fault = self.fault
        if fault is None:
            return None
        hit = self._random.random() < fault.share if fault.share else count % fault.every == 0
        if not hit:
            return None
        self.fired[fault.action] += 1
        return fault.action


def splice(
    undo: ExitStack,
    left: tuple[Namespace, str, Sequence[str]],
    right: tuple[Namespace, str, Sequence[str]],
    name: str,
) -> Wire:
    """Put a wire in place of the cable between two interfaces, each given with its addresses.

    Routes over the old cable are gone with it; the caller sets them again.
    """
    middle = Namespace(name)
    undo.callback(middle.remove)
    middle.sysctl("net.ipv6.conf.default.disable_ipv6", "1")
    left[0].ip(f"link del {left[1]}")
    cable(*left, middle, "left", [])
    cable(*right, middle, "right", [])
    for namespace, interface, _ in (left, right):
        namespace.enter(lambda interface=interface: _without_offloads(interface))
    wire = Wire(middle, "left", "right")
    undo.callback(wire.close)
    return wire


def _packet_socket(namespace: Namespace, interface: str) -> socket.socket:
    end = namespace.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
    end.setsockopt(263, PACKET_IGNORE_OUTGOING, 1)  # SOL_PACKET
    end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)
    end.bind((interface, 0))
    end.settimeout(HELD_S)
    return end


def _send(sink: socket.socket, frames: Sequence[bytes]) -> None:
    for frame in frames:
        try:
            sink.send(frame)
        except OSError:
            pass  # the frame is lost, as on a cable


def _without_offloads(interface: str) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        for command in _OFFLOADS:
            value = array.array("I", [command, 0])  # struct ethtool_value
            request = struct.pack("16sP", interface.encode(), value.buffer_info()[0])
            fcntl.ioctl(any_socket, SIOCETHTOOL, request + bytes(16))
