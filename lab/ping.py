"""Round trips: the first answer after a start, and the distribution when idle."""

from __future__ import annotations

import re
import select
import socket
import struct
import time
from dataclasses import dataclass

from lab.netns import LabError, Namespace


@dataclass(frozen=True, slots=True)
class RoundTrips:
    """Round trips of answered echo requests, in milliseconds."""

    p50_ms: float
    p99_ms: float
    lost: int


def round_trips(namespace: Namespace, host: str, *, count: int = 50, interval_s: float = 0.02) -> RoundTrips:
    """Measured by the system's `ping`; `LabError` when nothing is answered."""
    done = namespace.run(
        ["ping", "-n", "-c", str(count), "-i", str(interval_s), "-W", "1", host],
        timeout_s=count * interval_s + 30,
    )
    times = sorted(float(found) for found in re.findall(r"time=([\d.]+) ms", done.stdout))
    if not times:
        raise LabError(f"{namespace.name}: no answer from {host}: {done.stdout}{done.stderr}")
    return RoundTrips(quantile(times, 0.5), quantile(times, 0.99), count - len(times))


def quantile(ordered: list[float], share: float) -> float:
    """The smallest value that at least `share` of all values do not exceed."""
    return ordered[min(len(ordered) - 1, max(0, -int(-share * len(ordered) // 1) - 1))]


def first_reply(namespace: Namespace, host: str, *, timeout_s: float) -> float:
    """Send an IPv4 echo request every 10 ms until one is answered; return `time.monotonic()` of the answer.

    Errors such as "no route" are ignored until then. Raises `LabError` after `timeout_s`.
    """
    deadline = time.monotonic() + timeout_s
    with namespace.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as echo:
        echo.setblocking(False)
        identifier = id(echo) & 0xFFFF
        sequence = 0
        while time.monotonic() < deadline:
            sequence = (sequence + 1) & 0xFFFF
            try:
                echo.sendto(echo_request(identifier, sequence), (host, 0))
            except OSError:
                pass
            ready, _, _ = select.select([echo], [], [], 0.01)
            while ready:
                try:
                    packet, source = echo.recvfrom(2048)
                except OSError:
                    break
                at = (packet[0] & 15) * 4
                if (
                    source[0] == host
                    and packet[at] == 0
                    and packet[at + 4 : at + 6] == identifier.to_bytes(2, "big")
                ):
                    return time.monotonic()
    raise LabError(f"{namespace.name}: no answer from {host} in {timeout_s} s")


def echo_request(identifier: int, sequence: int) -> bytes:
    """RFC 792: type 8, code 0, checksum, identifier, sequence number."""
    total = 0x0800 + identifier + sequence
    total = (total & 0xFFFF) + (total >> 16)
    return struct.pack("!BBHHH", 8, 0, ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF, identifier, sequence)
