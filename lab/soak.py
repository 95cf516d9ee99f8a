"""`scripts/soak`: mixed traffic under random faults, for a given time.

Two flows run all the time, TCP over IPv4 and UDP over IPv6, and transfers one after the other, down and up,
each with its checksum. The faults (`lab.faults`) and their times come from the seed, which is printed. After
each, all flows must be back within their bound. At the end daemons and node must not hold more memory,
descriptors and threads than fresh ones, and the machines none of our settings.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import re
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

from lab.command import interrupt_once
from lab.faults import FAULTS, NEEDS_CALM, home
from lab.flows import Flow, Tcp, Udp
from lab.netns import LabError, require_root
from lab.official import OfficialNode, missing
from lab.process import Process
from lab.snapshot import differences, snapshot
from lab.traffic import SERVICE, connect, download, expected_download, serve, upload
from lab.world import PROVIDER_PEER, SERVER, SERVER6, World, world

BOUND_S = 20.0
TCP_BOUND_S = 60.0  # TCP's own backoff may take as long as the outage
CALM_S = (2.0, 8.0)  # between two faults
TRANSFER_BYTES = 4 << 20
TRANSFER_PAUSE_S = 0.25  # leaves processor time for the others
TRANSFER_TIMEOUT_S = 120.0
CONNECT_TIMEOUT_S = 5.0
# Generous bounds above a fresh process: a leak grows past them in a day.
MAX_RSS_BYTES = 80 << 20
MAX_DESCRIPTORS = 37  # a fresh daemon has 34: TUN queues, netlink, links, direct paths, control socket, log
MAX_THREADS = 16
SETTLE_S = 5.0


@dataclass
class Report:
    seed: int
    minutes: float
    faults: Counter[str] = field(default_factory=Counter)
    slowest_s: dict[str, float] = field(default_factory=dict)
    transfers: int = 0
    bytes_checked: int = 0
    problems: list[str] = field(default_factory=list)


def soak(lab: World, report: Report, say: Callable[[str], None]) -> None:
    """Run to the end. Raises `LabError` for what must not happen."""
    rng = random.Random(report.seed)
    serve(lab.server, lab, SERVICE)
    lab.configure()
    before = {side.name: snapshot(side.namespace) for side in (lab.user_side, lab.provider_side)}
    lab.node.start()
    lab.up()
    ending, moving = threading.Event(), threading.Lock()
    loader = threading.Thread(
        target=_transfer, args=(lab, report, ending, moving), name="transfers", daemon=True
    )
    with Tcp(lab.user, SERVER) as tcp, Udp(lab.user, SERVER6) as udp:
        loader.start()
        end = time.monotonic() + report.minutes * 60
        while time.monotonic() < end:
            time.sleep(rng.uniform(*CALM_S))
            name = rng.choice(list(FAULTS))
            with moving if name in NEEDS_CALM else nullcontext():
                taken_s = _break(lab, rng, name, tcp, udp)
            report.faults[name] += 1
            report.slowest_s[name] = round(max(taken_s, report.slowest_s.get(name, 0.0)), 2)
            say(f"{name}: all flows were back after {taken_s:.2f} s")
            if report.problems:
                raise LabError(report.problems[0])
        ending.set()
        loader.join(TRANSFER_TIMEOUT_S)
        if loader.is_alive():
            raise LabError("the last transfer did not end")
        for flow in (tcp, udp):
            flow.answered_after(time.monotonic(), within_s=BOUND_S)
    home(lab)
    lab.user_side.wait(PROVIDER_PEER, timeout_s=30)
    if not isinstance(lab.node, OfficialNode):  # the official node may hold what it wants
        assert lab.node.process is not None
        report.problems += _leaks(lab.node.process)
    for side in (lab.user_side, lab.provider_side):
        assert side.daemon is not None
        report.problems += _leaks(side.daemon)
        side.down()
        report.problems += [
            f"{side.name}: {line}" for line in differences(before[side.name], snapshot(side.namespace))
        ]


def _break(lab: World, rng: random.Random, name: str, tcp: Flow, udp: Flow) -> float:
    """Give one fault; return how many seconds after its end both flows were back."""
    try:
        FAULTS[name](lab, rng)
        back = time.monotonic()
        return max(udp.answered_after(back, within_s=BOUND_S), tcp.answered_after(back, within_s=TCP_BOUND_S))
    except LabError as error:
        raise LabError(f"{name}: {error}") from None


def _transfer(lab: World, report: Report, ending: threading.Event, moving: threading.Lock) -> None:
    """Transfer one file after the other; each holds `moving` meanwhile."""
    expected = expected_download(TRANSFER_BYTES)
    for number in itertools.count():
        if ending.wait(TRANSFER_PAUSE_S):
            return
        host, up = (SERVER, SERVER6)[number % 2], number // 2 % 2
        what = "an upload" if up else "a download"
        with moving:
            try:
                connection = connect(lab.user, host, SERVICE, timeout_s=CONNECT_TIMEOUT_S)
            except OSError:
                ending.wait(1)  # no route for the moment, or another one, because the daemon was killed
                continue
            try:
                connection.settimeout(TRANSFER_TIMEOUT_S)
                with connection:
                    found = upload(connection, TRANSFER_BYTES) if up else download(connection, TRANSFER_BYTES)
            except (OSError, AssertionError) as error:
                report.problems.append(f"{what} was cut off: {error}")
                continue
        report.transfers += 1
        report.bytes_checked += TRANSFER_BYTES
        if found != expected:
            report.problems.append(f"{what} was corrupted")


def _leaks(process: Process) -> list[str]:
    """What a process holds more of than a fresh one, after running answers and repairs have ended."""
    deadline = time.monotonic() + SETTLE_S
    while (found := _held_too_much(process)) and time.monotonic() < deadline:
        time.sleep(0.1)
    return found


def _descriptors(pid: int) -> tuple[int, str]:
    """How many a process has, and of which kinds."""
    found = list(Path(f"/proc/{pid}/fd").iterdir())
    kinds: Counter[str] = Counter()
    for each in found:
        with suppress(OSError):
            kinds[re.sub(r"\d+", "", os.readlink(each))] += 1
    return len(found), ", ".join(f"{number} {kind}" for kind, number in sorted(kinds.items()))


def _held_too_much(process: Process) -> list[str]:
    found = []
    descriptors, kinds = _descriptors(process.pid)
    threads = len(os.listdir(f"/proc/{process.pid}/task"))
    if descriptors > MAX_DESCRIPTORS:
        found.append(f"{process.name}: {descriptors} descriptors are open: {kinds}")
    if threads > MAX_THREADS:
        found.append(f"{process.name}: {threads} threads")
    if process.rss_bytes() > MAX_RSS_BYTES:
        found.append(f"{process.name}: {process.rss_bytes() >> 20} MiB of memory")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/soak", description=__doc__.partition("\n\n")[0])
    parser.add_argument("--minutes", type=float, default=3.0)
    parser.add_argument("--seed", type=int, help="the faults' order; printed, to be given again")
    parser.add_argument("--official", action="store_true", help="over NKN's own node, nknd")
    parser.add_argument("--json", action="store_true", help="print one JSON object last (the rest to stderr)")
    options = parser.parse_args()
    require_root("scripts/soak")
    if options.official and missing("nknd", "nknc"):
        sys.exit("scripts/soak: nknd is not built: run scripts/setup --dev")
    interrupt_once()
    out = sys.stderr if options.json else sys.stdout
    seed = options.seed if options.seed is not None else int.from_bytes(os.urandom(4))
    report = Report(seed, options.minutes)
    over = " --official" if options.official else ""
    print(f"seed {seed}, {options.minutes:g} minutes{over}", file=out, flush=True)
    started = time.monotonic()

    def say(text: str) -> None:
        print(f"{time.monotonic() - started:7.1f} s  {text}", file=out, flush=True)

    with world("ncsoak", official=options.official) as lab:
        try:
            soak(lab, report, say)
        except (LabError, AssertionError) as error:
            report.problems.append(str(error).partition("\n")[0])
            print(lab.logs(), file=out)
    for name, count in sorted(report.faults.items()):
        print(f"{name:24} {count:4} times, back within {report.slowest_s[name]:.2f} s", file=out)
    checked = f"{report.transfers} transfers, {report.bytes_checked >> 20} MiB checked"
    print(f"seed {seed}: {sum(report.faults.values())} faults, {checked}", file=out)
    for problem in report.problems:
        print(f"FAILED: {problem} (again: scripts/soak --seed {seed}{over})", file=out)
    if options.json:
        print(json.dumps(asdict(report)))
    sys.exit(1 if report.problems else 0)


if __name__ == "__main__":
    main()
