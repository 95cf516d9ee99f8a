"""A slow link: 10 Mbit/s up, 50 down, each with one second of buffer, under a chosen congestion control.

Shaped is the user's own cable, where the tunnel's packets leave in each direction. While a bulk transfer
saturates it, a ping and a chat's stream of tokens go through the tunnel; and what the cable carried is
compared with its rate.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import ceil
from pathlib import Path

from lab.bench.bed import TOKEN_PORT, Bed, iperf
from lab.bench.contenders import Running
from lab.bench.metrics import Values, shaped_name
from lab.netns import LabError, Namespace
from lab.ping import round_trips
from lab.process import Process

UP_MBIT, DOWN_MBIT = 10, 50
BUFFER_MS = 1000
PING_INTERVAL_S = 0.05
SPARE_S = 4  # by which the bulk transfer outlasts the pings, on a machine that is busy
ALLOWED = Path("/proc/sys/net/ipv4/tcp_allowed_congestion_control")  # of the machine: lists all namespaces'


@contextmanager
def congestion_control(bed: Bed, name: str) -> Iterator[None]:
    """Let every new connection on the bed use `name` until the block ends."""
    before = ALLOWED.read_text().strip()
    machines = (bed.user, bed.internet, bed.provider)
    sysctl = "net.ipv4.tcp_congestion_control"
    used = [machine.sysctl(sysctl) for machine in machines]
    try:
        if name not in before.split():
            try:
                ALLOWED.write_text(f"{before} {name}\n")
            except OSError as error:
                raise LabError(f"this kernel has no {name} ({error.strerror})") from None
        for machine in machines:
            machine.sysctl(sysctl, name)
        yield
    finally:
        for machine, value in zip(machines, used, strict=True):
            machine.sysctl(sysctl, value)
        if ALLOWED.read_text().strip() != before:
            ALLOWED.write_text(f"{before}\n")


@contextmanager
def shaped(running: Running) -> Iterator[None]:
    """Make the user's cable slow until the block ends."""
    ends = _ends(running)
    try:
        for (namespace, interface), rate in zip(ends, (UP_MBIT, DOWN_MBIT), strict=True):
            # The burst has room for ten packets: more would go out at once after a pause.
            bucket = f"tbf rate {rate}mbit burst 15140 latency {BUFFER_MS}ms"
            namespace.must(*f"tc qdisc replace dev {interface} root {bucket}".split())
        yield
    finally:
        for namespace, interface in ends:
            subprocess.run(
                ["tc", "-n", namespace.name, "qdisc", "del", "dev", interface, "root"],
                capture_output=True,
                check=False,
            )


def measure(running: Running, congestion: str, settle_s: float, seconds: float) -> Values:
    """Measure idle, then during an upload, then during a download."""
    values: Values = {}
    up, down = _ends(running)
    with shaped(running):
        for load, options, end, mbit in (
            ("idle", None, up, UP_MBIT),
            ("up", (), up, UP_MBIT),
            ("down", ("-R",), down, DOWN_MBIT),
        ):
            for name, value in _under_load(running, options, end, mbit, settle_s, seconds).items():
                values[shaped_name(congestion, load, name)] = value
    return values


def _under_load(
    running: Running,
    options: Sequence[str] | None,
    end: tuple[Namespace, str],
    mbit: float,
    settle_s: float,
    seconds: float,
) -> Values:
    """Measure; with `options` during a bulk transfer that starts `settle_s` before."""
    bed = running.bed
    namespace, interface = end
    bulk = None
    values: Values = {}
    if options is not None:
        log = bed.folder / "bulk.log"
        command = iperf(running.host, "-t", str(ceil(settle_s + seconds + SPARE_S)), *options)
        bulk = Process(bed.user, command, log)
    tokens_log = bed.folder / "tokens-read.log"
    tokens_log.unlink(missing_ok=True)
    wait_s = settle_s if bulk else 0.2
    command = [sys.executable, "-m", "lab.bench.tokens", "read", running.host, str(TOKEN_PORT)]
    reader = Process(bed.user, [*command, str(wait_s), str(seconds)], tokens_log)
    try:
        time.sleep(wait_s)  # until the transfer has its rate; no event tells of it
        before, began = namespace.counters(interface)["tx_bytes"], time.monotonic()
        trips = round_trips(
            bed.user, running.host, count=int(seconds / PING_INTERVAL_S), interval_s=PING_INTERVAL_S
        )
        sent, passed = namespace.counters(interface)["tx_bytes"] - before, time.monotonic() - began
        if bulk is not None:
            if not bulk.running:
                raise LabError(f"the bulk transfer ended early:\n{bulk.tail()}")
            values["used"] = 100 * sent * 8 / (passed * mbit * 1e6)
        reader.wait(15)
        try:
            tokens = json.loads(reader.text())
            values |= {"gap_p50": tokens["gap_p50_ms"], "gap_p99": tokens["gap_p99_ms"]}
        except (ValueError, KeyError):
            raise LabError(f"the stream of tokens broke:\n{reader.tail()}") from None
        values |= {"ping_p50": trips.p50_ms, "ping_p99": trips.p99_ms}
    finally:
        reader.stop()
        if bulk is not None:
            try:
                bulk.wait(20)  # the server runs one test at a time
            finally:
                bulk.stop()
    return values


def _ends(running: Running) -> tuple[tuple[Namespace, str], tuple[Namespace, str]]:
    assert running.uplink is not None
    assert running.downlink is not None
    return running.uplink, running.downlink
