"""The cases: what is measured of each contender."""

from __future__ import annotations

import importlib.util
import json
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from math import ceil
from typing import Any

from lab.bench import shaped, udp
from lab.bench.bed import CHAT_PORT, QUIC_PORT, iperf
from lab.bench.contenders import Running
from lab.bench.metrics import FLOWS, Values, flows_name
from lab.chat import chat_from
from lab.netns import LabError
from lab.ping import round_trips

PROMPT = "In one sentence: what is a tunnel?"
PING_INTERVAL_S = 0.005
IPERF_BUSY_S = 15.0
FLOOD_BYTES = 1400
FLOOD_PING_S = 0.05
UDP_STEADY_BITS = 50e6
QUIC_BYTES = 16_000_000


@dataclass(frozen=True, slots=True)
class Settings:
    """How long each measurement takes."""

    seconds: int  # iperf3 takes whole seconds
    warm_up_s: int  # not counted
    pings: int
    chats: int
    udp_s: float = 1.0
    probe_s: float = 0.6  # for one rate, in the search for the highest one
    probes: int = 3
    settle_s: float = 3.0  # on the slow link
    shaped_s: float = 4.0
    links_s: int = 8
    links_settle_s: int = 4
    volume_gb: float = 10.0  # bytes before the memory is measured again; 0: left out


@dataclass(frozen=True, slots=True)
class Case:
    name: str
    measure: Callable[[Running, Settings], Values]
    quick: bool
    missing: Callable[[], str | None] = lambda: None
    congestion: str | None = None  # congestion control on a slow link; the contender is started again for it
    once: bool = False  # in the first round only


def _iperf(running: Running, settings: Settings, *options: str, host: str | None = None) -> dict[str, Any]:
    length = ("-t", str(settings.seconds), "-O", str(settings.warm_up_s))
    command = iperf(host or running.host, "-J", *length, *options)
    # The server runs one test at a time, and over a slow link ends the last one late.
    again = ("busy", "closed unexpectedly") if running.closes_early else ("busy",)
    deadline = time.monotonic() + IPERF_BUSY_S
    while True:
        done = running.bed.user.run(command, timeout_s=settings.seconds + settings.warm_up_s + 30)
        try:
            found: dict[str, Any] = json.loads(done.stdout)
        except ValueError:
            raise LabError(f"{' '.join(command)}: {done.stderr.strip() or done.stdout.strip()}") from None
        if "error" not in found and "sum_received" in found.get("end", {}):
            return found
        why = str(found.get("error", "no result"))
        if not any(words in why for words in again) or time.monotonic() > deadline:
            raise LabError(f"{' '.join(command)}: {why}")
        time.sleep(0.5)


def _gbps(found: dict[str, Any], end: str = "sum_received") -> float:
    return float(found["end"][end]["bits_per_second"]) / 1e9


def _stream(running: Running, settings: Settings, direction: str, *options: str) -> Values:
    """One TCP stream, and the processor time of the tunnel for it."""
    before = running.cpu_s()
    own = running.own.get(f"tcp-{direction}")
    if own is not None:
        values = own(settings.seconds)
        counted = 1.0
    else:
        values = {f"tcp_{direction}": _gbps(_iperf(running, settings, *options))}
        # The processor time includes the warm-up, whose bytes iperf3 leaves out: scale to the whole time.
        counted = settings.seconds / (settings.seconds + settings.warm_up_s)
    worked = running.cpu_s() - before
    carried_gb = values[f"tcp_{direction}"] * settings.seconds / 8
    if running.processes and carried_gb:
        values.setdefault(f"cpu_{direction}", worked * counted / carried_gb)
    return values


def tcp_up(running: Running, settings: Settings) -> Values:
    return _stream(running, settings, "up")


def tcp_down(running: Running, settings: Settings) -> Values:
    return _stream(running, settings, "down", "-R")


def tcp_segments(running: Running, settings: Settings) -> Values:
    with running.bed.segments_only():
        found = {**tcp_up(running, settings), **tcp_down(running, settings)}
    return {f"segments_{name}": value for name, value in found.items() if name.startswith("tcp")}


def tcp_up_8(running: Running, settings: Settings) -> Values:
    return {"tcp_up_8": _gbps(_iperf(running, settings, "-P", "8"))}


def tcp_both(running: Running, settings: Settings) -> Values:
    found = _iperf(running, settings, "--bidir")
    return {"tcp_both": _gbps(found) + _gbps(found, "sum_received_bidir_reverse")}


def tcp6_up(running: Running, settings: Settings) -> Values:
    return {"tcp6_up": _gbps(_iperf(running, settings, "-6", host=running.host6))}


def udp_flood(size: int, running: Running, settings: Settings) -> Values:
    """Send as fast as the sender can; the provider counts what arrives."""
    return {f"udp_{size}": udp.flood(running.bed, running.host, size, settings.udp_s)[0]}


def udp_rate(size: int, running: Running, settings: Settings) -> Values:
    def measure(rate: float) -> tuple[float, float]:
        return udp.flood(running.bed, running.host, size, settings.probe_s, rate)

    most = 1.2 * udp.flood(running.bed, running.host, size, settings.probe_s)[0]
    return {f"udp_rate_{size}": udp.highest_rate(measure, 0.0, most, settings.probes)}


def quic_down(running: Running, settings: Settings) -> Values:
    """A stream of aioquic, whose own work is most of the cost; reordering slows it down."""
    command = [
        sys.executable,
        "-m",
        "lab.quic",
        "fetch",
        running.host,
        str(QUIC_PORT),
        str(QUIC_BYTES),
    ]
    done = running.bed.user.run(command, timeout_s=60)
    if done.returncode:
        raise LabError(f"quic: {done.stderr.strip()}")
    found = json.loads(done.stdout)
    return {"quic_down": found["bytes"] * 8 / found["seconds"] / 1e6}


def udp_steady(running: Running, settings: Settings) -> Values:
    """Datagrams of 1,400 bytes at the rate of a video."""
    rate = UDP_STEADY_BITS / 8 / FLOOD_BYTES
    _, loss = udp.flood(running.bed, running.host, FLOOD_BYTES, settings.seconds, rate)
    return {"udp_50_lost": 100 * loss}


def udp_tcp(running: Running, settings: Settings) -> Values:
    """A TCP stream and a ping beside a flood of UDP; the start of the stream is not counted."""
    steady = replace(settings, seconds=ceil(settings.udp_s), warm_up_s=1)
    with ThreadPoolExecutor(2) as pool:
        stream = pool.submit(_gbps_beside, running, steady)
        trips = pool.submit(_trips_beside, running, steady)
        packets, _ = udp.flood(running.bed, running.host, FLOOD_BYTES, steady.warm_up_s + steady.seconds)
    gbps = stream.result()
    all_gbps = gbps + packets * FLOOD_BYTES * 8 / 1e9
    share = 100 * gbps / all_gbps if all_gbps else 0.0  # some tunnels let nothing through
    return {"flood_tcp": gbps, "flood_share": share} | trips.result()


def _gbps_beside(running: Running, settings: Settings) -> float:
    try:
        return _gbps(_iperf(running, settings))
    except LabError:  # nothing came through
        return 0.0


def _trips_beside(running: Running, settings: Settings) -> Values:
    count = int(settings.seconds / FLOOD_PING_S)
    time.sleep(settings.warm_up_s)  # both have their rate by then; no event tells of it
    try:
        trips = round_trips(running.bed.user, running.host, count=count, interval_s=FLOOD_PING_S)
    except LabError:  # none was answered
        return {"flood_ping_lost": 100.0}
    return {"flood_ping": trips.p50_ms, "flood_ping_lost": 100 * trips.lost / count}


def ping(running: Running, settings: Settings) -> Values:
    own = running.own.get("ping")
    if own is not None:
        return own(settings.pings * PING_INTERVAL_S)
    trips = round_trips(running.bed.user, running.host, count=settings.pings, interval_s=PING_INTERVAL_S)
    return {"ping_p50": trips.p50_ms, "ping_p99": trips.p99_ms}


def start(running: Running, settings: Settings) -> Values:
    values = {} if running.start_s is None else {"start": running.start_s}
    if running.daemons:
        values["rss_idle"] = max(process.rss_bytes() for process in running.daemons) / 1e6
    return values


def memory(running: Running, settings: Settings) -> Values:
    """The memory after the cases before."""
    if not running.processes:
        return {}
    largest = (
        max(process.rss_bytes() for process in running.daemons) if running.daemons else running.rss_bytes()
    )
    return {"rss": largest / 1e6}


def volume(running: Running, settings: Settings) -> Values:
    """The memory after more bytes, in one stream each way."""
    if not running.daemons or not settings.volume_gb:
        return {}
    half = str(int(settings.volume_gb * 5e8))
    for options in ((), ("-R",)):
        command = iperf(running.host, "-n", half, *options)
        done = running.bed.user.run(command, timeout_s=300)
        if done.returncode:
            raise LabError(f"{' '.join(command)}: {done.stderr.strip() or done.stdout.strip()}")
    return {"rss_10gb": max(process.rss_bytes() for process in running.daemons) / 1e6}


def chat(running: Running, settings: Settings) -> Values:
    """The first completion fills the model's prompt cache and is not counted."""
    chats = [
        chat_from(running.bed.user, running.host, CHAT_PORT, PROMPT, max_tokens=64)
        for _ in range(1 + settings.chats)
    ][1:]
    middle = len(chats) // 2
    return {
        "ttft": sorted(found.ttft_ms for found in chats)[middle],
        "tokens": sorted(found.tokens_per_s for found in chats)[middle],
    }


def slow_link(congestion: str, running: Running, settings: Settings) -> Values:
    return shaped.measure(running, congestion, settings.settle_s, settings.shaped_s)


def several_links(congestion: str, running: Running, settings: Settings) -> Values:
    """Many flows, then one; a few seconds pass until each link's rate is known."""
    longer = replace(settings, seconds=settings.links_s, warm_up_s=settings.links_settle_s)
    values = {}
    for flows in FLOWS:
        values[flows_name(congestion, flows)] = 1e3 * _gbps(_iperf(running, longer, "-P", str(flows)))
    return values


def _no_model() -> str | None:
    found = importlib.util.find_spec("xllamacpp")
    return None if found else "no model installed (scripts/setup --demo)"


def _no_quic() -> str | None:
    return None if importlib.util.find_spec("aioquic") else "aioquic is not installed (scripts/setup --dev)"


CASES = (
    Case("start", start, quick=True),
    Case("ping", ping, quick=True),
    Case("tcp-up", tcp_up, quick=True),
    Case("tcp-down", tcp_down, quick=True),
    Case("tcp-segments", tcp_segments, quick=False),
    Case("tcp-up-8", tcp_up_8, quick=False),
    Case("tcp-both", tcp_both, quick=False),
    Case("tcp6-up", tcp6_up, quick=False),
    Case("udp-64", partial(udp_flood, 64), quick=False),
    Case("udp-1400", partial(udp_flood, 1400), quick=False),
    Case("udp-rate-64", partial(udp_rate, 64), quick=False),
    Case("udp-rate-1400", partial(udp_rate, 1400), quick=False),
    Case("udp-50", udp_steady, quick=False),
    Case("quic-down", quic_down, quick=False, missing=_no_quic),
    Case("udp-tcp", udp_tcp, quick=False),
    Case("chat", chat, quick=False, missing=_no_model),
    Case("memory", memory, quick=True),
    Case("volume", volume, quick=False, once=True),
    Case("shaped-cubic", partial(slow_link, "cubic"), quick=False, congestion="cubic"),
    Case("shaped-bbr", partial(slow_link, "bbr"), quick=False, congestion="bbr"),
    Case("links-cubic", partial(several_links, "cubic"), quick=False, congestion="cubic"),
    Case("links-bbr", partial(several_links, "bbr"), quick=False, congestion="bbr"),
)
