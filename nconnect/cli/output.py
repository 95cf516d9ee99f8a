"""How things are printed: aligned tables, quantities for people, JSON for programs."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import textwrap
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import IO

_KEY = re.compile(r"\b([0-9a-f]{6})[0-9a-f]{52}([0-9a-f]{6})\b")


def print_json(value: object) -> None:
    """One object on standard output, on one line."""
    print(json.dumps(value), flush=True)


DIRECT_NOTE = (
    "peers learn this device's addresses, so that packets can go to them directly;\n"
    '[network] direct = "no-host" or "off" prevents it'
)


def use_colour(stream: IO[str] | None = None) -> bool:
    """Whether standard output (or `stream`) is a terminal, and NO_COLOR is not set (https://no-color.org)."""
    return can_move(stream) and not os.environ.get("NO_COLOR")


def can_move(stream: IO[str] | None = None) -> bool:
    """Whether standard output (or `stream`) is a terminal whose lines can be written again."""
    return (sys.stdout if stream is None else stream).isatty() and os.environ.get("TERM") != "dumb"


def table(header: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[int] = ()) -> list[str]:
    """Lines with aligned columns, two spaces between them; `right` are the columns of numbers."""
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]
    lines = []
    for row in (header, *rows):
        cells = [
            c.rjust(w) if i in right else c.ljust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return lines


def columns() -> int | None:
    """The width of the terminal on standard output; None if there is no terminal."""
    return shutil.get_terminal_size().columns if can_move() else None


def fits(lines: Sequence[str], width: int | None) -> bool:
    """Whether no line is longer than `width`; None is no limit."""
    return width is None or max(map(len, lines), default=0) <= width


def short_keys(text: str) -> str:
    """The text with public keys shortened to their ends."""
    return _KEY.sub(r"\1…\2", text)


def indented(text: str, width: int = 80) -> list[str]:
    """The text on indented lines of at most `width` columns; only a longer word exceeds them."""
    margin = "  "
    return textwrap.wrap(
        text,
        width,
        initial_indent=margin,
        subsequent_indent=margin,
        break_long_words=False,
        break_on_hyphens=False,
    )


def bytes_text(count: float) -> str:
    """1536 -> 1.5 KiB."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def duration_text(seconds: float) -> str:
    """45 s, 3 min, 2 h 10 min, 3 d 4 h."""
    whole = max(0, int(seconds))
    if whole < 60:
        return f"{whole} s"
    minutes, hours, days = whole // 60, whole // 3600, whole // 86_400
    if minutes < 60:
        return f"{minutes} min"
    if hours < 24:
        return f"{hours} h {minutes % 60} min"
    return f"{days} d {hours % 24} h"


def ms_text(milliseconds: float | None) -> str:
    if milliseconds is None:
        return "-"
    return f"{milliseconds:.2f} ms" if milliseconds < 10 else f"{milliseconds:.0f} ms"


def time_text(at: float | None) -> str:
    """Seconds since the Unix epoch as a UTC time; None is never."""
    return "never" if at is None else f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M} UTC"
