"""What is measured of each contender, and what the figures mean."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from lab.bench.bed import CHAT_PORT, IPERF_PORT
from lab.bench.contenders import Running
from lab.chat import chat_from
from lab.netns import LabError
from lab.ping import round_trips

PROMPT = "In one sentence: what is a tunnel?"
Values = dict[str, float]


@dataclass(frozen=True, slots=True)
class Metric:
    """One column of the table."""

    name: str
    title: str
    unit: str
    digits: int
    more_is_better: bool


METRICS = (
    Metric("tcp_up", "TCP up", "Gbit/s", 2, True),
    Metric("tcp_down", "TCP down", "Gbit/s", 2, True),
    Metric("tcp_up_8", "8 streams up", "Gbit/s", 2, True),
    Metric("tcp_both", "both ways, sum", "Gbit/s", 2, True),
    Metric("tcp6_up", "TCP up, IPv6", "Gbit/s", 2, True),
    Metric("ping_p50", "ping p50", "ms", 3, False),
    Metric("ping_p99", "ping p99", "ms", 3, False),
    Metric("udp_64", "UDP 64 B", "packets/s", 0, True),
    Metric("udp_1400", "UDP 1400 B", "packets/s", 0, True),
    Metric("cpu_up", "CPU, up", "s/GB", 2, False),
    Metric("cpu_down", "CPU, down", "s/GB", 2, False),
    Metric("rss", "memory, largest process", "MB", 1, False),
    Metric("start", "start to first reply", "s", 3, False),
    Metric("ttft", "time to first token", "ms", 1, False),
    Metric("tokens", "tokens a second", "1/s", 1, True),
)


@dataclass(frozen=True, slots=True)
class Settings:
    """How long each measurement takes."""

    seconds: float
    warm_up_s: float  # not counted
    pings: int
    chats: int


@dataclass(frozen=True, slots=True)
class Case:
    name: str
    measure: Callable[[Running, Settings], Values]
    quick: bool
    missing: Callable[[], str | None] = lambda: None


def _iperf(running: Running, settings: Settings, *options: str, host: str | None = None) -> dict[str, Any]:
    command = ["iperf3", "-J", "-c", host or running.host, "-p", str(IPERF_PORT)]
    command += ["-t", str(settings.seconds), "-O", str(settings.warm_up_s), *options]
    done = running.bed.user.run(command, timeout_s=settings.seconds + settings.warm_up_s + 30)
    try:
        found: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        raise LabError(f"{' '.join(command)}: {done.stderr.strip() or done.stdout.strip()}") from None
    if "error" in found or "sum_received" not in found.get("end", {}):
        raise LabError(f"{' '.join(command)}: {found.get('error', 'no result')}")
    return found


def _gbps(found: dict[str, Any], end: str = "sum_received") -> float:
    return float(found["end"][end]["bits_per_second"]) / 1e9


def _stream(running: Running, settings: Settings, direction: str, *options: str) -> Values:
    """One TCP stream, and what the tunnel's processes worked for it."""
    before = sum(process.cpu_s() for process in running.processes)
    found = _iperf(running, settings, *options)
    worked = sum(process.cpu_s() for process in running.processes) - before
    values = {f"tcp_{direction}": _gbps(found)}
    if running.processes:
        # The processes also worked in the warm-up, whose bytes iperf3 leaves out: scale to the whole time.
        share = settings.seconds / (settings.seconds + settings.warm_up_s)
        values[f"cpu_{direction}"] = worked * share / (found["end"]["sum_received"]["bytes"] / 1e9)
        values["rss"] = max(process.rss_bytes() for process in running.processes) / 1e6
    return values


def tcp_up(running: Running, settings: Settings) -> Values:
    return _stream(running, settings, "up")


def tcp_down(running: Running, settings: Settings) -> Values:
    return _stream(running, settings, "down", "-R")


def tcp_up_8(running: Running, settings: Settings) -> Values:
    return {"tcp_up_8": _gbps(_iperf(running, settings, "-P", "8"))}


def tcp_both(running: Running, settings: Settings) -> Values:
    found = _iperf(running, settings, "--bidir")
    return {"tcp_both": _gbps(found) + _gbps(found, "sum_received_bidir_reverse")}


def tcp6_up(running: Running, settings: Settings) -> Values:
    return {"tcp6_up": _gbps(_iperf(running, settings, "-6", host=running.host6))}


def _udp(running: Running, settings: Settings, size: int) -> Values:
    """Flooded by the user; what arrives at the provider is counted there."""
    found = _iperf(running, settings, "-u", "-b", "0", "-l", str(size))
    return {f"udp_{size}": found["end"]["sum_received"]["bits_per_second"] / 8 / size}


def udp_64(running: Running, settings: Settings) -> Values:
    return _udp(running, settings, 64)


def udp_1400(running: Running, settings: Settings) -> Values:
    return _udp(running, settings, 1400)


def ping(running: Running, settings: Settings) -> Values:
    trips = round_trips(running.bed.user, running.host, count=settings.pings, interval_s=0.02)
    return {"ping_p50": trips.p50_ms, "ping_p99": trips.p99_ms}


def start(running: Running, settings: Settings) -> Values:
    return {} if running.start_s is None else {"start": running.start_s}


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


def _no_model() -> str | None:
    found = importlib.util.find_spec("xllamacpp")
    return None if found else "no model installed (scripts/setup --demo)"


CASES = (
    Case("start", start, quick=True),
    Case("ping", ping, quick=True),
    Case("tcp-up", tcp_up, quick=True),
    Case("tcp-down", tcp_down, quick=True),
    Case("tcp-up-8", tcp_up_8, quick=False),
    Case("tcp-both", tcp_both, quick=False),
    Case("tcp6-up", tcp6_up, quick=False),
    Case("udp-64", udp_64, quick=False),
    Case("udp-1400", udp_1400, quick=False),
    Case("chat", chat, quick=False, missing=_no_model),
)
