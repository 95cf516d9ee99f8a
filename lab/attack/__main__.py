"""`scripts/attack`: what hostile nodes, peers, strangers and local users can do, while a chat goes on.

Prints a table: the attack, what the product did, the chat's longest pause meanwhile. Exits with 1 if an
attack worked or took too long, the chat paused for over a second, or a daemon grew by over 20 MB.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from types import FrameType

from lab.attack.attack import Attack, Result
from lab.attack.report import Outcome, Report, table
from lab.attack.rows import PARTS
from lab.attack.stage import Stage, stage
from lab.command import give_back, interrupt_once
from lab.netns import LabError, require_root

SETTLE_S = 1.2  # how long the chat is watched after each attack: longer than the longest pause allowed


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Raise `LabError` in the block when it takes longer. Main thread only."""

    def late(_number: int, _frame: FrameType | None) -> None:
        raise LabError(f"it was not done after {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def run(part: str, attack: Attack, built: Stage) -> Outcome:
    started = time.monotonic()
    try:
        with at_most(attack.bound_s):
            result = attack.run(built)
    except LabError as error:
        result = Result(achieved=f"the row failed: {error}")
    took = time.monotonic() - started
    time.sleep(SETTLE_S)
    return Outcome(
        part, attack.by, attack.name, attack.what, attack.fault, result.achieved, result.seen,
        round(built.pause_s(started), 3), round(took, 2),
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="scripts/attack",
        description="Attacks a live tunnel in every way that a hostile node, peer, stranger or local user"
        " has, while a chat goes on through it, and prints what became of each.",
    )
    parser.add_argument(
        "--json", action="store_true", help="one JSON object on standard output, the rest on stderr"
    )
    parser.add_argument("--only", metavar="NAME", action="append", help="this attack alone; may be repeated")
    parser.add_argument(
        "--part", choices=PARTS, action="append", help="the attacks on this part; may be repeated"
    )
    parser.add_argument("--list", action="store_true", help="print what there is, and attack nothing")
    options = parser.parse_args()
    rows = [(part, attack) for part in options.part or PARTS for attack in PARTS[part]]
    unknown = set(options.only or ()) - {attack.name for _, attack in rows}
    if unknown:
        parser.error(f"there is no attack {', '.join(sorted(unknown))}")
    if options.only:
        rows = [(part, attack) for part, attack in rows if attack.name in options.only]
    if options.list:
        for part, attack in rows:
            print(f"{part:10}{attack.by:9}{attack.name:22}{attack.fault:4}{attack.what}")
        return
    require_root("scripts/attack")
    interrupt_once()
    out = sys.stderr if options.json else sys.stdout
    report = Report()
    try:
        with stage() as built:
            before = built.rss()
            for part, attack in rows:
                report.outcomes.append(run(part, attack, built))
                print(table(report.outcomes[-1:]), file=out, flush=True)
            report.grown_bytes = {name: size - before[name] for name, size in built.rss().items()}
            if not report.ok:
                print(built.world.logs(), file=sys.stderr)
    except LabError as error:
        print(f"attack: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
    finally:
        give_back()
    print(report.verdict(), file=out)
    if options.json:
        print(json.dumps({"ok": report.ok, **asdict(report), "problems": report.problems()}))
    sys.exit(0 if report.ok else 1)


if __name__ == "__main__":
    main()
