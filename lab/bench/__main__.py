"""The command line of `scripts/bench`. A subcommand each kind of measurement; without one: `compare`."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

from rich.console import Console
from rich.text import Text

from lab import CHECKOUT, leftovers
from lab.bench import relays, report
from lab.bench.bed import PREFIX
from lab.bench.cases import CASES, Settings
from lab.bench.compare import Results, Tell, compare
from lab.bench.contenders import BASELINE, CONTENDERS
from lab.bench.contenders import QUICK as QUICK_CONTENDERS
from lab.bench.page import page, with_kept
from lab.bench.plots import plots
from lab.bench.profile import OURS, profile
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
    scaling = commands.add_parser("scale", help="1 to 1,000 peers of a provider, 10,000 clients of a node")
    documenting = commands.add_parser("docs", help="compare and scale, and write docs/benchmarks.md")
    profiling = commands.add_parser("profile", help="a flame graph of user, node and provider")
    relaying = commands.add_parser("relays", help="programs that go through a relay, side by side")
    for target in (parser, comparing, scaling, documenting):
        target.add_argument("--quick", action="store_true", help="the main cases only, under 90 s")
    for target in (parser, comparing, scaling, documenting, relaying):
        target.add_argument("--rounds", type=at_least_one, help="turns of each contender (3; quick: fewer)")
        target.add_argument("--json", metavar="FILE", help="write all values there (- for standard output)")
    for target in (parser, comparing, documenting, relaying):
        target.add_argument("--seconds", type=at_least_one, help="of each transfer (2)")
    for target in (parser, comparing, documenting):
        target.add_argument(
            "--only", action="append", default=[], metavar="NAMES", help="contenders and cases, by name"
        )
    for target in (parser, comparing, scaling, relaying):
        target.add_argument("--markdown", metavar="FILE", help="write the table there")
    for target in (parser, comparing, scaling):
        target.add_argument("--plots", metavar="FOLDER", help="write pictures there")
    for target in (documenting, relaying):
        target.add_argument(
            "--from",
            action="append",
            default=[],
            metavar="FILE",
            help="measure nothing: take these --json files",
        )
    documenting.add_argument("--note", default="", metavar="TEXT", help="what to say of the machine besides")
    documenting.add_argument("--folder", default=str(CHECKOUT / "docs"), help="where to write (docs)")
    profiling.add_argument("--folder", default=".", help="where to write profile-*.svg (here)")
    profiling.add_argument("--seconds", type=at_least_one, default=5, help="how long (5)")
    profiling.add_argument("--of", choices=OURS, default=OURS[0], help=f"which of ours ({OURS[0]})")
    profiling.add_argument("--down", action="store_true", help="from provider to user")
    profiling.add_argument("--native", action="store_true", help="show C functions too")
    return parser.parse_args(arguments)


def at_least_one(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return value


def chosen(items: Sequence[T], names: set[str]) -> list[T]:
    """Those that are named, or all if none is."""
    named = [item for item in items if item.name in names]
    return named or list(items)


def run_compare(options: argparse.Namespace, console: Console) -> int:
    if _unknown(options, console):
        return 2
    results, settings = measure_contenders(options, teller(console))
    show(results, BASELINE, options, settings, console)
    return 1 if results.failures else 0


def run_scale(options: argparse.Namespace, console: Console) -> int:
    results, settings = measure_scale(options, teller(console))
    show(results, label(1), options, settings, console)
    return 1 if results.failures else 0


def run_docs(options: argparse.Namespace, console: Console) -> int:
    """Run the comparison and the runs at scale as one set of results, and write the page about them."""
    folder = Path(options.folder)
    results, machine, settings = _earlier(options)
    if not getattr(options, "from"):
        if _unknown(options, console):
            return 2
        tell = teller(console)
        for measure in (measure_contenders, measure_scale):
            found, of_it = measure(options, tell)
            results.include(found)
            settings = {**of_it, **settings}
    pictures = plots(results, folder / "pictures")
    text, place = page(results, machine, settings, pictures, note=options.note), folder / "benchmarks.md"
    place.write_text(with_kept(text, place.read_text()) if place.exists() else text)
    options.markdown = options.plots = None
    show(results, BASELINE, options, settings, console)
    console.print(Text(f"wrote {place}"), soft_wrap=True)
    return 1 if results.failures else 0


def _earlier(options: argparse.Namespace) -> tuple[Results, dict[str, Any], dict[str, Any]]:
    """The results in the files of `--from`, with the last one's machine and the first one's settings."""
    results, machine, settings = Results(), report.machine(), dict[str, Any]()
    for file in getattr(options, "from"):
        try:
            value = json.loads(Path(file).read_text())
            results.include(report.from_json(value))
            machine, settings = value["machine"], {**value["settings"], **settings}
        except (OSError, ValueError, KeyError) as error:
            raise LabError(f"{file} is not what --json writes: {error!r}") from None
    return results, machine, settings


def run_relays(options: argparse.Namespace, console: Console) -> int:
    """Measure who goes through a relay, and print one table."""
    results, _, settings = _earlier(options)
    if not getattr(options, "from"):
        cases = [case for case in CASES if case.name in relays.NAMES]
        timing = replace(FULL, seconds=options.seconds or FULL.seconds)
        rounds = options.rounds or 3
        contenders = [contender for contender, _ in relays.RELAYED]
        results = compare(contenders, cases, timing, rounds, teller(console))
        settings = {**asdict(timing), "rounds": rounds}
    text = relays.table(results)
    console.print(Text(text), soft_wrap=True)
    if options.markdown:
        Path(options.markdown).write_text(text)
    _write_json(results, relays.RELAYED[0][0].name, options, settings)
    return 1 if results.failures else 0


def run_profile(options: argparse.Namespace, console: Console) -> int:
    profile(
        Path(options.folder),
        options.seconds,
        teller(console),
        of=options.of,
        down=options.down,
        native=options.native,
    )
    return 0


def names_of(options: argparse.Namespace) -> set[str]:
    """The names that were asked for; `links` stands for the case under each congestion control."""
    given = {name for value in options.only for name in value.split(",") if name}
    for case in CASES:
        if case.congestion and case.name.removesuffix(f"-{case.congestion}") in given:
            given.add(case.name)
    return given - {case.name.removesuffix(f"-{case.congestion}") for case in CASES if case.congestion}


def _unknown(options: argparse.Namespace, console: Console) -> bool:
    known = {found.name for found in CONTENDERS} | {found.name for found in CASES}
    unknown = names_of(options) - known
    if unknown:
        console.print(f"bench: unknown: {', '.join(sorted(unknown))} (known: {', '.join(sorted(known))})")
    return bool(unknown)


def measure_contenders(options: argparse.Namespace, tell: Tell) -> tuple[Results, dict[str, Any]]:
    names = names_of(options)
    contenders = chosen(CONTENDERS, names)
    cases = chosen(CASES, names)
    if options.quick and not names & {case.name for case in CASES}:
        cases = [case for case in cases if case.quick]
    if options.quick and not names & {contender.name for contender in CONTENDERS}:
        contenders = [contender for contender in contenders if contender.name in QUICK_CONTENDERS]
    settings = QUICK if options.quick else FULL
    if options.seconds:
        settings = replace(settings, seconds=options.seconds)
    rounds = options.rounds or (2 if options.quick else 3)
    results = compare(contenders, cases, settings, rounds, tell)
    return results, {**asdict(settings), "rounds": rounds}


def measure_scale(options: argparse.Namespace, tell: Tell) -> tuple[Results, dict[str, Any]]:
    plan = Plan(
        peers=(1, 100) if options.quick else (1, 100, 1000),
        direct=(1, 100) if options.quick else (1, 1000),
        clients=1000 if options.quick else 10_000,
        rounds=options.rounds or (1 if options.quick else 3),
        settings=QUICK,
    )
    return scale(plan, tell), {"clients": plan.clients, "rounds": plan.rounds}


def teller(console: Console) -> Tell:
    started = time.monotonic()

    def tell(line: str) -> None:
        console.print(Text(f"[{time.monotonic() - started:6.1f} s] {line}"), soft_wrap=True)

    return tell


def show(
    results: Results, baseline: str, options: argparse.Namespace, settings: dict[str, Any], console: Console
) -> None:
    """Print the results, and write the files that were asked for."""
    for table in report.tables(results, baseline):
        console.print(table)
    reached = report.reach_table(results)
    if reached is not None:
        console.print(reached)
    for line in (
        *(f"skipped: {what}" for what in results.skipped),
        *(f"failed: {what}" for what in results.failures),
    ):
        console.print(Text(line), soft_wrap=True)
    _write_json(results, baseline, options, settings)
    if options.markdown:
        Path(options.markdown).write_text(report.markdown(results, baseline))
    if options.plots:
        plots(results, Path(options.plots))


def _write_json(
    results: Results, baseline: str, options: argparse.Namespace, settings: dict[str, Any]
) -> None:
    if options.json:
        text = json.dumps(report.as_json(results, baseline, settings), indent=1)
        if options.json == "-":
            print(text)
        else:
            Path(options.json).write_text(text + "\n")


COMMANDS: dict[str | None, Callable[[argparse.Namespace, Console], int]] = {
    None: run_compare,
    "compare": run_compare,
    "scale": run_scale,
    "docs": run_docs,
    "relays": run_relays,
    "profile": run_profile,
}


def main() -> None:
    options = parse(sys.argv[1:])
    if not getattr(options, "from", None):
        require_root("scripts/bench")
    interrupt_once()
    console = Console(stderr=getattr(options, "json", None) == "-", highlight=False, emoji=False)
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
