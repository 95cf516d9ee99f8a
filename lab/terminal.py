"""What a person sees: a command on a terminal of its own (a pty), and what is left of all that it wrote."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Mapping, Sequence

from lab import CHECKOUT, environment
from lab.netns import LabError

WIDTH, ROWS = 104, 50

Ends = Callable[[str], bool]


def on_terminal(
    command: Sequence[str],
    *,
    env: Mapping[str, str],
    ends: Ends | None = None,
    key: str = "q",
    answers: Sequence[tuple[str, str]] = (),
    columns: int = WIDTH,
    may_fail: bool = False,
    timeout_s: float = 120,
) -> str:
    """The screen of a terminal when a command has ended, or when `ends` is true for it.

    `answers`: the prompts in their order, each a pattern and the line that is typed when it is there. Lines
    longer than `columns` are not broken. Raises `LabError` when the command fails, or asks for nothing.
    """
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, columns, 0, 0))
    full = environment(**env, TERM="xterm-256color", COLUMNS=str(columns))
    full.pop("NO_COLOR", None)
    # A session of its own, whose terminal this is: then Ctrl-C reaches it.
    process = subprocess.Popen(
        ["setsid", "--ctty", *command], stdin=theirs, stdout=theirs, stderr=theirs, env=full, cwd=CHECKOUT
    )
    os.close(theirs)
    written, taken = bytearray(), ""
    asks, answered = (
        list(answers),
        0,
    )  # the prompts that are to come; where the text since the last one begins
    deadline = time.monotonic() + timeout_s
    try:
        while select.select([ours], [], [], max(0.0, deadline - time.monotonic()))[0]:
            if not (data := os.read(ours, 1 << 16)):
                break
            written += data
            if asks and re.search(asks[0][0], written[answered:].decode(errors="replace")):
                answered = len(written)
                os.write(ours, f"{asks.pop(0)[1]}\n".encode())
            if ends is not None and not taken and ends(screen(written.decode(errors="replace"))):
                taken = screen(written.decode(errors="replace"))
                os.write(ours, key.encode())
    except OSError:
        pass  # EIO: nobody has the terminal open any more
    except BaseException:
        process.kill()
        raise
    finally:
        try:
            status = process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            raise LabError(f"{' '.join(command)} does not end") from None
        finally:
            os.close(ours)
    shown = screen(written.decode(errors="replace"))
    if (status and not may_fail) or (ends is not None and not taken) or asks:
        raise LabError(f"{' '.join(command)}: {shown}")
    return taken or shown


def screen(written: str) -> str:
    """What is left of all that was written, as a terminal shows it: lines that were written again, and a
    screen that was cleared. Colours stay. Enough of a terminal for what `nconnect` and rich send.
    """
    lines, row, begin = [""], 0, False  # `begin`: the cursor is at the line's begin
    for part in re.split(r"(\x1b\[[?\d;]*[A-Za-z]|\r|\n)", written):
        if part == "\n":
            row += 1
            lines += [""] * (row == len(lines))
        elif part == "\r":
            begin = True
        elif part == "\x1b[2J":
            lines, row, begin = [""], 0, False
        elif re.fullmatch(r"\x1b\[\d*A", part):
            row = max(0, row - int(part[2:-1] or 1))
        elif part in ("\x1b[2K", "\x1b[K", "\x1b[0K"):
            if begin or part == "\x1b[2K":
                lines[row] = ""
        elif part and (not part.startswith("\x1b") or part.endswith("m")):
            lines[row] = ("" if begin else lines[row]) + part
            begin = False
    return "\n".join(line.rstrip() for line in lines).rstrip()
