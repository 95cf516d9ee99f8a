"""A flame graph of each process while a transfer runs. Needs py-spy."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

from lab.bench.bed import bed, iperf
from lab.bench.compare import Tell
from lab.bench.contenders import CONTENDERS
from lab.bench.contenders.nconnect import Nconnect
from lab.netns import LabError

OURS = tuple(found.name for found in CONTENDERS if isinstance(found, Nconnect))
NAMES = ("node", "provider", "user")  # the order in which the contender starts its processes
SAMPLES_PER_S = 200
WARM_UP_S = 1


def profile(
    folder: Path, seconds: int, tell: Tell, *, of: str, down: bool = False, native: bool = False
) -> list[Path]:
    """Write `profile-user.svg`, `-node.svg` and `-provider.svg`; `native` shows C functions as well.

    `of` is one of `OURS`.
    """
    program = shutil.which("py-spy", path=str(Path(sys.prefix, "bin"))) or shutil.which("py-spy")
    if program is None:
        raise LabError("no py-spy: run scripts/setup --dev")
    ours = next(found for found in CONTENDERS if found.name == of)
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    with bed() as machines:
        machines.serve_iperf()
        with ours.running(machines) as running:
            tell(f"{seconds} s of transfer {'down' if down else 'up'}")
            length = ("-t", str(seconds + 2 * WARM_UP_S))
            command = iperf(running.host, *length, *(["-R"] if down else []))
            with subprocess.Popen(
                machines.user.command(command),
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            ) as transfer:
                recorders = []
                try:
                    for name, process in zip(NAMES, running.processes, strict=True):
                        path = folder / f"profile-{name}.svg"
                        recorders.append((name, path, _record(program, process.pid, path, seconds, native)))
                    for name, path, recorder in recorders:
                        words, _ = recorder.communicate(timeout=seconds + 30)
                        if recorder.returncode or not path.exists():
                            raise LabError(f"py-spy, {name}: {words.strip()}")
                        title = f"{name}, {seconds} s of TCP {'down' if down else 'up'}"
                        path.write_text(readable(path.read_text(), title))
                        written.append(path)
                        tell(f"wrote {path}")
                except subprocess.TimeoutExpired:
                    raise LabError("py-spy does not end") from None
                finally:
                    for _, _, recorder in recorders:
                        if recorder.poll() is None:
                            recorder.kill()
                            recorder.wait()
                    transfer.terminate()
    return written


def readable(svg: str, title: str) -> str:
    """py-spy's picture with a better title, and with long names cut at their ends."""
    svg = re.sub(r'(<text id="title"[^>]*>)[^<]*', rf"\g<1>{title}", svg, count=1)
    return svg.replace("truncate_text_right = false", "truncate_text_right = true")


def _record(program: str, pid: int, path: Path, seconds: int, native: bool) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [
            *(program, "record", "--pid", str(pid), "--duration", str(seconds), "--rate", str(SAMPLES_PER_S)),
            "--function",  # a bar for each function, not for each line
            *("--format", "flamegraph", "--output", str(path), *(["--native"] if native else [])),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
