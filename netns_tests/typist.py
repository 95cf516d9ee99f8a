"""A person at terminals: how long what they type and wait for takes.

Typing is counted, 5 characters a second; what they copy and paste is counted as `PASTE_S`; waiting is
measured, on a terminal of 80 columns (a pty), where a prompt is answered when it is there.
"""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from lab import CHECKOUT, environment
from lab.netns import LabError, Namespace

PER_S = 5  # characters
PASTE_S = 2.0
COLUMNS, ROWS = 80, 24
PASTED = re.compile(r"«(.*?)»")  # in what is typed: this part is copied from elsewhere


def typing_s(text: str) -> float:
    """How long a line takes, with the Enter at its end."""
    return (len(PASTED.sub("", text)) + 1) / PER_S + PASTE_S * len(PASTED.findall(text))


@dataclass(frozen=True, slots=True)
class Step:
    who: str
    typed: str
    typing_s: float
    waited_s: float


@dataclass
class Typist:
    steps: list[Step] = field(default_factory=list)

    @property
    def typing_s(self) -> float:
        return sum(step.typing_s for step in self.steps)

    @property
    def waited_s(self) -> float:
        return sum(step.waited_s for step in self.steps)

    def run(
        self,
        who: str,
        namespace: Namespace,
        text: str,
        *,
        env: Mapping[str, str],
        within: Sequence[str] = (),
        answers: Sequence[tuple[str, str]] = (),
        ends: str | None = None,
        timeout_s: float = 120,
    ) -> str:
        """Type a line into a shell, and answer its prompts (a pattern, and what is typed then) in order.

        `within`: the command in which the shell runs. `ends`: leave when this pattern is there, else when
        the command has ended, which must succeed. Returns what the terminal was sent. Raises `LabError`.
        """
        command = PASTED.sub(r"\1", text).replace("sudo ", "")
        ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
        full = environment(**env, TERM="xterm-256color")
        began = time.monotonic()
        process = subprocess.Popen(
            ["setsid", "--ctty", *namespace.command([*within, "sh", "-c", command])],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env=full,
            cwd=CHECKOUT,
        )
        os.close(theirs)
        try:
            shown = _watch(ours, list(answers), ends, began + timeout_s)
            waited_s = time.monotonic() - began
            status = 0 if ends is not None else process.wait(10)
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
                process.wait()
            os.close(ours)
        if status:
            raise LabError(f"{who}$ {text}: status {status}: {shown}")
        typed_s = typing_s(text) + sum(typing_s(answer) for _, answer in answers)
        words = " ⏎ ".join((text, *(answer or "(Enter)" for _, answer in answers)))
        self.steps.append(Step(who, PASTED.sub("(paste)", words), typed_s, waited_s))
        return shown

    def table(self) -> str:
        """A line for each step, in seconds."""
        rows = [f"{step.typing_s:7.1f} {step.waited_s:7.2f}  {step.who}$ {step.typed}" for step in self.steps]
        total = f"{self.typing_s:7.1f} {self.waited_s:7.2f}  {self.typing_s + self.waited_s:.1f} s in all"
        return "\n".join((" typing  waiting", *rows, total))


def _watch(terminal: int, answers: list[tuple[str, str]], ends: str | None, deadline: float) -> str:
    """Read, and answer each prompt, until the end."""
    shown, from_here = "", 0
    while select.select([terminal], [], [], max(0.0, deadline - time.monotonic()))[0]:
        try:
            data = os.read(terminal, 1 << 16)
        except OSError:  # EIO: nobody has the terminal open any more
            data = b""
        if not data:
            if answers or ends is not None:
                raise LabError(f"it ended before {answers or ends}: {shown}")
            return shown
        shown += data.decode(errors="replace")
        if answers and re.search(answers[0][0], shown[from_here:]):
            from_here = len(shown)
            os.write(terminal, f"{answers.pop(0)[1]}\n".encode())
        elif not answers and ends is not None and re.search(ends, shown):
            return shown
    raise LabError(f"waited in vain for {answers or ends or 'its end'}: {shown}")
