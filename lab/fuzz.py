"""`scripts/fuzz SECONDS`: every parser and every machine under a coverage-guided fuzzer, in turn.

Each target gets its share of the time, and starts from its corpus in tests/fuzz/corpus. Prints executions and
edges for each. What makes a target fail is kept in tests/fuzz/corpus too, so that it is tested from then on.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from queue import SimpleQueue

from lab import CHECKOUT
from lab.command import give_back, interrupt_once

CORPUS = CHECKOUT / "tests" / "fuzz" / "corpus"
MAX_INPUT_BYTES = 4096
RSS_LIMIT_MB = 1024
UNIT_S = 60  # for one input: each takes milliseconds, but the machine may be busy
STARTUP_S = 120  # to import everything instrumented, and to run the corpus

_STATUS = re.compile(r"#(\d+)\s+\w+\s+cov: (\d+)")


@dataclass(frozen=True, slots=True)
class Outcome:
    target: str
    executions: int
    edges: int
    finding: str  # a file, or empty
    words: str  # the end of the fuzzer's output, if there is a finding


def names() -> list[str]:
    code = "from tests.fuzz.targets import TARGETS; print(*TARGETS)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=CHECKOUT
    )
    return done.stdout.split()


class Fuzzer:
    """A process that has imported all targets, and runs one after the other. Use it in a `with` block."""

    def __enter__(self) -> Fuzzer:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.fuzz"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=CHECKOUT,
            env={**os.environ, "PYTHONHASHSEED": "0"},
            start_new_session=True,  # so that its children end with it
        )
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        with self._process:
            pass

    def fuzz(self, target: str, seconds: float, *, keep: bool, seed: int = 0) -> Outcome:
        """Run one target from a seed (0: another each time).

        With `keep` new inputs that reach new edges go into the corpus.
        """
        own = CORPUS / target
        with tempfile.TemporaryDirectory(prefix=f"fuzz-{target}-") as name:
            found, crashes = Path(name, "found"), Path(name, "crash")
            found.mkdir()
            crashes.mkdir()
            options = [
                f"-max_total_time={max(1, round(seconds))}", f"-max_len={MAX_INPUT_BYTES}",
                f"-timeout={UNIT_S}", f"-report_slow_units={UNIT_S}", f"-rss_limit_mb={RSS_LIMIT_MB}",
                f"-artifact_prefix={crashes}/", "-print_final_stats=0", f"-seed={seed}",
            ]  # fmt: skip
            folders = [str(found), *([str(own)] if own.is_dir() else [])]
            log = Path(name, "log")
            failed = self._run(log, [target, *options, *folders], seconds + STARTUP_S) != 0
            text = log.read_text(errors="replace")
            finding = ""
            for crash in sorted(crashes.iterdir()):
                own.mkdir(parents=True, exist_ok=True)
                kept = own / crash.name
                shutil.copy(crash, kept)
                finding = str(kept.relative_to(CHECKOUT))
            if keep and not finding and any(found.iterdir()):
                own.mkdir(parents=True, exist_ok=True)
                self._run(log, [target, *options, "-merge=1", str(own), str(found)], STARTUP_S)
        runs = [(int(count), int(edges)) for count, edges in _STATUS.findall(text)]
        executions, edges = runs[-1] if runs else (0, 0)
        if failed and not finding:
            finding = "the fuzzer itself failed"
        return Outcome(target, executions, edges, finding, text[-3000:] if finding else "")

    def _run(self, log: Path, arguments: list[str], timeout_s: float) -> int:
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write(json.dumps([str(log), timeout_s, *arguments]) + "\n")
        stdin.flush()
        answer = stdout.readline()
        if not answer:
            raise RuntimeError(f"the fuzzer ended with status {self._process.wait()}")
        return int(answer)


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/fuzz", description=__doc__)
    parser.add_argument("seconds", type=float, help="of processor time's worth for all targets together")
    parser.add_argument("--target", action="append", help="this one alone; may be repeated")
    parser.add_argument("--keep", action="store_true", help="keep inputs that reach new edges in the corpus")
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="begin from this one (another each time)"
    )
    parser.add_argument(
        "--workers", type=int, metavar="N", help="fuzz so many targets at once (one for each processor)"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    options = parser.parse_args()
    if options.seconds <= 0:
        parser.error("SECONDS must be above 0")
    if options.workers is not None and options.workers < 1:
        parser.error("--workers must be 1 or more")
    if importlib.util.find_spec("atheris") is None:
        sys.exit("fuzz: atheris is not installed: run scripts/setup --dev")
    interrupt_once()
    known = names()
    unknown = set(options.target or ()) - set(known)
    if unknown:
        parser.error(f"there is no target {', '.join(sorted(unknown))}: choose from {', '.join(known)}")
    chosen = options.target or known
    workers = min(len(chosen), options.workers or len(os.sched_getaffinity(0)))
    share = max(1.0, options.seconds * workers / len(chosen))
    out = sys.stderr if options.json else sys.stdout
    print(f"{'target':22}{'executions':>12}{'edges':>8}", file=out, flush=True)
    outcomes = []
    fuzzers: SimpleQueue[Fuzzer] = SimpleQueue()

    def fuzz(target: str) -> Outcome:
        fuzzer = fuzzers.get()
        try:
            return fuzzer.fuzz(target, share, keep=options.keep, seed=options.seed)
        finally:
            fuzzers.put(fuzzer)

    try:
        with ThreadPoolExecutor(workers) as pool, contextlib.ExitStack() as stack:
            for _ in range(workers):
                fuzzers.put(stack.enter_context(Fuzzer()))
            for outcome in pool.map(fuzz, chosen):
                outcomes.append(outcome)
                word = f"  FOUND: {outcome.finding}" if outcome.finding else ""
                print(
                    f"{outcome.target:22}{outcome.executions:12}{outcome.edges:8}{word}", file=out, flush=True
                )
                if outcome.words:
                    print(outcome.words, file=sys.stderr)
    except KeyboardInterrupt:
        sys.exit(130)
    finally:
        give_back()
    ok = not any(outcome.finding for outcome in outcomes)
    total = sum(outcome.executions for outcome in outcomes)
    found = sum(bool(outcome.finding) for outcome in outcomes)
    print(f"{total} executions, {len(outcomes)} targets, {found} findings", file=out)
    if options.json:
        print(json.dumps({"ok": ok, "targets": [asdict(outcome) for outcome in outcomes]}))
    sys.exit(0 if ok else 1)


if __name__ == "__main__":
    main()
