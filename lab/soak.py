"""`scripts/soak`: mixed traffic under random faults, for as long as is asked.

Two flows run all the time, TCP and UDP, and one checksummed download after the other. The faults come from
the seed, which is printed: the node restarted or gone for a while, a daemon killed or stopped, the user's
interface down, the user's routes or firewall table removed. After each, all flows must be back within
`BOUND_S`. At the end both daemons must have given back what they took: memory, descriptors, all that they
set on their machines.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field

from lab.command import interrupt_once
from lab.netns import LabError, require_root
from lab.sides import Side
from lab.snapshot import differences, snapshot
from lab.world import LAN, PROVIDER_PEER, SERVER, WAN_INTERFACE, World, world
from netns_tests.recovery import Tcp, Udp
from netns_tests.topology import SERVICE, connect, download, expected_download, serve

BOUND_S = 20.0
TCP_BOUND_S = 60.0  # its own backoff may take as long as the outage
CALM_S = (2.0, 8.0)  # between two faults
DOWNLOAD_BYTES = 4 << 20
MAX_GROWTH_BYTES = 16 << 20
MAX_MORE_DESCRIPTORS = 8


@dataclass
class Report:
    seed: int
    minutes: float
    faults: Counter[str] = field(default_factory=Counter)
    slowest_s: dict[str, float] = field(default_factory=dict)
    downloads: int = 0
    problems: list[str] = field(default_factory=list)


def restart_node(lab: World, rng: random.Random) -> None:
    assert lab.node.process is not None
    lab.node.process.kill()
    time.sleep(rng.choice((0.1, 2.0, 12.0)))
    lab.node.start()


def kill_daemon(lab: World, rng: random.Random) -> None:
    side: Side = rng.choice((lab.user_side, lab.provider_side))
    assert side.daemon is not None
    side.daemon.kill()
    time.sleep(rng.uniform(0, 2))
    side.start("--keep-trying")
    side.wait(timeout_s=30)


def stop_daemon(lab: World, rng: random.Random) -> None:
    side: Side = rng.choice((lab.user_side, lab.provider_side))
    assert side.daemon is not None
    side.daemon.signal(signal.SIGSTOP)
    time.sleep(rng.choice((1.0, 6.0, 16.0)))
    side.daemon.signal(signal.SIGCONT)


def cut_user(lab: World, rng: random.Random) -> None:
    lab.user.ip(f"link set {WAN_INTERFACE} down")
    time.sleep(rng.uniform(0.1, 15))
    lab.user.ip(f"link set {WAN_INTERFACE} up")
    lab.user.ip("route add default via 198.51.100.1")


def remove_routes(lab: World, rng: random.Random) -> None:
    lab.user.run(["ip", "route", "del", LAN, "dev", "nc0"])


def remove_table(lab: World, rng: random.Random) -> None:
    namespace = rng.choice((lab.user, lab.provider))
    namespace.run(["nft", "delete", "table", "inet", "nconnect_nc0"])


FAULTS: dict[str, Callable[[World, random.Random], None]] = {
    "node restarted": restart_node,
    "daemon killed": kill_daemon,
    "daemon stopped": stop_daemon,
    "network cut": cut_user,
    "routes removed": remove_routes,
    "firewall table removed": remove_table,
}


def soak(lab: World, report: Report, say: Callable[[str], None]) -> None:
    """Run to the end, or raise `LabError` at what must not happen."""
    rng = random.Random(report.seed)
    serve(lab.server, lab, SERVICE)
    lab.configure()
    before = {side.name: snapshot(side.namespace) for side in (lab.user_side, lab.provider_side)}
    lab.node.start()
    lab.up()
    ending = threading.Event()
    loader = threading.Thread(target=_download, args=(lab, report, ending), daemon=True)
    with Tcp(lab.user, SERVER) as tcp, Udp(lab.user, SERVER) as udp:
        loader.start()
        end = time.monotonic() + report.minutes * 60
        while time.monotonic() < end:
            time.sleep(rng.uniform(*CALM_S))
            name = rng.choice(list(FAULTS))
            FAULTS[name](lab, rng)
            back = time.monotonic()
            taken_s = max(
                udp.answered_after(back, within_s=BOUND_S), tcp.answered_after(back, within_s=TCP_BOUND_S)
            )
            report.faults[name] += 1
            report.slowest_s[name] = round(max(taken_s, report.slowest_s.get(name, 0.0)), 2)
            say(f"{name}: all flows were back after {taken_s:.2f} s")
            if report.problems:
                raise LabError(report.problems[0])
        ending.set()
        loader.join(120)
        if loader.is_alive():
            raise LabError("the last download did not end")
    lab.user_side.wait(PROVIDER_PEER, timeout_s=30)
    for side in (lab.user_side, lab.provider_side):
        report.problems += _leaks(side)
        side.down()
        report.problems += [
            f"{side.name}: {line}" for line in differences(before[side.name], snapshot(side.namespace))
        ]


def _download(lab: World, report: Report, ending: threading.Event) -> None:
    expected = expected_download(DOWNLOAD_BYTES)
    while not ending.is_set():
        try:
            with connect(lab.user, SERVER, SERVICE, timeout_s=120) as connection:
                if download(connection, DOWNLOAD_BYTES) != expected:
                    report.problems.append("a download was corrupted")
            report.downloads += 1
        except OSError:
            ending.wait(1)  # no route for the moment: the user's daemon was killed
        except AssertionError as error:
            report.problems.append(f"a download was cut off: {error}")


def _leaks(side: Side) -> list[str]:
    """What a daemon holds more of than a fresh one: a generous bound, for what a day would make of it."""
    assert side.daemon is not None
    descriptors = len(os.listdir(f"/proc/{side.daemon.pid}/fd"))
    found = []
    if descriptors > 20 + MAX_MORE_DESCRIPTORS:
        found.append(f"{side.name}: {descriptors} descriptors are open")
    if side.daemon.rss_bytes() > (64 << 20) + MAX_GROWTH_BYTES:
        found.append(f"{side.name}: {side.daemon.rss_bytes() >> 20} MiB of memory")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/soak", description=__doc__.partition("\n\n")[0])
    parser.add_argument("--minutes", type=float, default=3.0)
    parser.add_argument("--seed", type=int, help="the faults' order; printed, to be given again")
    parser.add_argument("--json", action="store_true", help="print one JSON object last (the rest to stderr)")
    options = parser.parse_args()
    require_root("scripts/soak")
    interrupt_once()
    out = sys.stderr if options.json else sys.stdout
    seed = options.seed if options.seed is not None else int.from_bytes(os.urandom(4))
    report = Report(seed, options.minutes)
    print(f"seed {seed}, {options.minutes:g} minutes", file=out, flush=True)
    started = time.monotonic()

    def say(text: str) -> None:
        print(f"{time.monotonic() - started:7.1f} s  {text}", file=out, flush=True)

    with world("ncsoak") as lab:
        try:
            soak(lab, report, say)
        except (LabError, AssertionError) as error:
            report.problems.append(str(error).partition("\n")[0])
            print(lab.logs(), file=out)
    print(f"{sum(report.faults.values())} faults, {report.downloads} downloads", file=out)
    for problem in report.problems:
        print(f"FAILED: {problem} (again: scripts/soak --seed {seed})", file=out)
    if options.json:
        print(json.dumps(asdict(report)))
    sys.exit(1 if report.problems else 0)


if __name__ == "__main__":
    main()
