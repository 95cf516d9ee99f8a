"""The command line of `scripts/bench`. A subcommand each kind of measurement; without one: `compare`."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol, TypeVar

from rich.console import Console
from rich.text import Text

from lab import leftovers
from lab.bench import report
from lab.bench.bed import PREFIX
from lab.bench.cases import CASES, Settings
from lab.bench.compare import Results, Tell, compare
from lab.bench.contenders import BASELINE, CONTENDERS
from lab.bench.contenders import QUICK as QUICK_CONTENDERS
from lab.bench.scale import Plan, label, scale
from lab.command import give_back, interrupt_once
from lab.netns import LabError, require_root

FULL = Settings(seconds=2, warm_up_s=1, pings=200, chats=5)
QUICK = Settings(seconds=2, warm_up_s=1, pings=100, chats=3)


class Named(Protocol):
    @property
    def name(self) -> str: ...


T = TypeVar("T", bound=Named)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/bench",
        description="Measure nconnect beside other tunnels, in network namespaces of its own. Needs root.",
        epilog=f"contenders: {', '.join(found.name for found in CONTENDERS)};"
        f" cases: {', '.join(found.name for found in CASES)}",
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    comparing = commands.add_parser("compare", help="throughput, round trip, memory, CPU: the default")
    scaling = commands.add_parser(
        "scale", help="1, 100 and 1,000 peers of a provider; 10,000 clients of a node"
    )
    for target in (parser, comparing, scaling):
        target.add_argument("--quick", action="store_true", help="the main cases only, under 90 s")
        target.add_argument("--rounds", type=int, help="how often each contender has its turn (3; quick: 2)")
        target.add_argument(
            "--only", action="append", default=[], metavar="NAMES", help="contenders and cases, by name"
        )
        target.add_argument("--json", metavar="FILE", help="write all values there (- for standard output)")
        target.add_argument("--markdown", metavar="FILE", help="write the table there")
    return parser.parse_args(arguments)


def chosen(items: Sequence[T], names: set[str]) -> list[T]:
    """Those that are named; all, when none is."""
    named = [item for item in items if item.name in names]
    return named or list(items)


def run_compare(options: argparse.Namespace, console: Console) -> int:
    names = {name for value in options.only for name in value.split(",") if name}
    known = {found.name for found in CONTENDERS} | {found.name for found in CASES}
    if names - known:
        console.print(
            f"bench: unknown: {', '.join(sorted(names - known))} (known: {', '.join(sorted(known))})"
        )
        return 2
    contenders = chosen(CONTENDERS, names)
    cases = chosen(CASES, names)
    if options.quick and not names & {case.name for case in CASES}:
        cases = [case for case in cases if case.quick]
    if options.quick and not names & {contender.name for contender in CONTENDERS}:
        contenders = [contender for contender in contenders if contender.name in QUICK_CONTENDERS]
    settings = QUICK if options.quick else FULL
    rounds = options.rounds or (2 if options.quick else 3)
    results = compare(contenders, cases, settings, rounds, teller(console))
    show(results, BASELINE, options, {**asdict(settings), "rounds": rounds}, console)
    return 1 if results.failures else 0


def teller(console: Console) -> Tell:
    started = time.monotonic()

    def tell(line: str) -> None:
        console.print(Text(f"[{time.monotonic() - started:6.1f} s] {line}"), soft_wrap=True)

    return tell


def show(
    results: Results, baseline: str, options: argparse.Namespace, settings: dict[str, Any], console: Console
) -> None:
    """On the terminal, and in the files that were asked for."""
    for table in report.tables(results, baseline):
        console.print(table)
    for line in (
        *(f"skipped: {what}" for what in results.skipped),
        *(f"failed: {what}" for what in results.failures),
    ):
        console.print(Text(line), soft_wrap=True)
    if options.json:
        text = json.dumps(report.as_json(results, baseline, settings), indent=1)
        if options.json == "-":
            print(text)
        else:
            Path(options.json).write_text(text + "\n")
    if options.markdown:
        Path(options.markdown).write_text(report.markdown(results, baseline))


def run_scale(options: argparse.Namespace, console: Console) -> int:
    plan = Plan(
        peers=(1, 100) if options.quick else (1, 100, 1000),
        clients=1000 if options.quick else 10_000,
        rounds=options.rounds or (1 if options.quick else 3),
        settings=QUICK,
    )
    results = scale(plan, teller(console))
    show(results, label(1), options, {"clients": plan.clients, "rounds": plan.rounds}, console)
    return 1 if results.failures else 0


COMMANDS: dict[str | None, Callable[[argparse.Namespace, Console], int]] = {
    None: run_compare,
    "compare": run_compare,
    "scale": run_scale,
}


def main() -> None:
    options = parse(sys.argv[1:])
    require_root("scripts/bench")
    interrupt_once()
    console = Console(stderr=options.json == "-", highlight=False, emoji=False)
    machine = leftovers.machine()
    status = 1
    try:
        status = COMMANDS[options.command](options, console)
    except LabError as error:
        console.print(Text(f"bench: {error}"), soft_wrap=True)
    except KeyboardInterrupt:
        console.print("interrupted")
        status = 130
    left = leftovers.of_lab(f"{PREFIX}{os.getpid()}-")
    left += sorted(leftovers.machine() - machine)
    if left:
        console.print(Text(f"left behind: {'; '.join(left)}"), soft_wrap=True)
        status = status or 1
    give_back()
    sys.exit(status)


if __name__ == "__main__":
    main()
