"""The destination and format of a process's log; `nconnect logs` shows a daemon's.

Records may have fields besides their text (`extra`: event, peer, node, …), which the JSON format prints. If
standard error is the journal, each line begins with its level (sd-daemon(3)), which the journal removes.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO

from nconnect.cli.log_limit import LogLimit
from nconnect.errors import ControlError
from nconnect.io.errors import reason
from nconnect.io.files.trusted import open_path, status_of
from nconnect.wire.text import visible

FORMATS = ("text", "json")
FIELDS = ("event", "interface", "peer", "node", "address", "allowed_ips", "routes")
UNIT = "nconnect@{}.service"
_STARTED = "ActiveEnterTimestampMonotonic"  # of systemctl show; 0: never
TAIL_BYTES = 16 << 20  # guessed: 100,000 lines
FOLLOW_S = 0.25  # interval at which a followed file is read

# syslog(3)'s levels, as sd-daemon(3) has them.
_JOURNAL_LEVELS = {
    logging.DEBUG: 7,
    logging.INFO: 6,
    logging.WARNING: 4,
    logging.ERROR: 3,
    logging.CRITICAL: 2,
}


def log_to_stderr(
    *, dated: bool = False, level: int = logging.INFO, form: str = "text", stream: IO[str] | None = None
) -> None:
    """Log to standard error; `dated`: with dates, for a file; `form`: one of `FORMATS`."""
    target = sys.stderr if stream is None else stream
    handler = logging.StreamHandler(target)
    handler.setFormatter(formatter(dated=dated, form=form, journal=is_journal(target, os.environ)))
    if level > logging.DEBUG:
        handler.addFilter(LogLimit())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)


def formatter(*, dated: bool, form: str, journal: bool) -> logging.Formatter:
    """The formatter of lines; the journal adds the time itself."""
    if form == "json":
        return JsonLines(journal=journal)
    if journal:
        return _JournalLines("%(message)s")
    return _OneLine("%(asctime)s %(levelname)s %(message)s", None if dated else "%H:%M:%S")


def is_journal(stream: IO[str], environment: Mapping[str, str]) -> bool:
    """Whether `stream` is the journal: `$JOURNAL_STREAM` names its device and inode (systemd.exec(5))."""
    device, _, inode = environment.get("JOURNAL_STREAM", "").partition(":")
    try:
        status = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return (device, inode) == (str(status.st_dev), str(status.st_ino))


class _OneLine(logging.Formatter):
    """Puts a message on one line, whatever a peer or a node put into it; a traceback follows unchanged."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        record.message = " ".join(record.message.splitlines())
        return super().formatMessage(record)


class _JournalLines(_OneLine):
    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        return "\n".join(f"{_prefix(record)}{line}" for line in text.split("\n"))


class JsonLines(logging.Formatter):
    """One object per line: time (seconds since the Unix epoch), level, logger, message, and the fields."""

    def __init__(self, *, journal: bool = False) -> None:
        super().__init__()
        self._journal = journal

    def format(self, record: logging.LogRecord) -> str:
        content: dict[str, object] = {
            "time": round(record.created, 6),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        content |= {name: value for name in FIELDS if (value := getattr(record, name, None)) is not None}
        if record.exc_info:
            content["traceback"] = self.formatException(record.exc_info)
        return (_prefix(record) if self._journal else "") + json.dumps(content, default=str)


def _prefix(record: logging.LogRecord) -> str:
    return f"<{_JOURNAL_LEVELS.get(record.levelno, 6)}>"


# Showing a daemon's log


def show_file(
    path: Path,
    count: int,
    *,
    follow: bool,
    write: Callable[[str], object],
    stop: Callable[[], bool] = lambda: False,
) -> None:
    """Print the last `count` lines; with `follow` also new ones, even if the file is replaced or truncated.

    The daemon's user can write anything into the file: characters that move the terminal's cursor are
    replaced, and at most the last 16 MiB are shown.
    """
    file = _open(path)
    try:
        write(visible(_tail(file, count)))
        while follow and not stop():
            text = file.read(TAIL_BYTES)
            if text:
                write(visible(text))
                continue
            time.sleep(FOLLOW_S)
            if _is_another(file, path):
                file.close()
                file = _open(path)
    finally:
        file.close()


def _open(path: Path) -> IO[str]:
    """Open the log without following links, because the daemon's user writes it. Raises `ControlError`."""
    try:
        return open(open_path(path), errors="replace")
    except FileNotFoundError:
        raise ControlError(
            f"there is no log at {path}: only `up -d` writes one; `up` logs to the terminal"
        ) from None
    except OSError as error:
        hint = " (try with sudo)" if isinstance(error, PermissionError) and os.geteuid() else ""
        raise ControlError(f"{path} cannot be read: {reason(error)}{hint}") from None


def show_journal(interface: str, count: int, *, follow: bool) -> int:
    """Run journalctl for the interface's unit; return its exit status."""
    command = ["journalctl", "--unit", UNIT.format(interface), "--lines", str(count), "--output", "short-iso"]
    try:
        return subprocess.run([*command, "--follow"] if follow else command, check=False).returncode
    except OSError as error:
        raise ControlError(f"journalctl cannot be run: {reason(error)}") from None


def has_unit(interface: str) -> bool:
    """Whether systemd runs, or ran, this interface."""
    if not Path("/run/systemd/system").is_dir() or not shutil.which("journalctl"):
        return False
    try:
        done = subprocess.run(
            ["systemctl", "show", f"--property={_STARTED},LoadState", UNIT.format(interface)],
            capture_output=True,
            text=True,
            timeout=5,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    values = dict(line.partition("=")[::2] for line in done.stdout.splitlines())
    return values.get("LoadState") == "loaded" and values.get(_STARTED, "0") != "0"


def _tail(file: IO[str], count: int) -> str:
    """The last lines, read from the end, because a log may be large."""
    size = os.fstat(file.fileno()).st_size
    step = 64 * 1024
    while True:
        file.seek(max(0, size - step))
        text = file.read()
        lines = text.splitlines(keepends=True)
        if len(lines) > count or step >= min(size, TAIL_BYTES):
            return "".join(lines[-count:]) if count else ""
        step *= 4


def _is_another(file: IO[str], path: Path) -> bool:
    """Whether `path` is a new file by now, or was truncated."""
    there, here = status_of(path), os.fstat(file.fileno())
    if there is None:
        return False
    return not os.path.samestat(there, here) or there.st_size < file.tell()
