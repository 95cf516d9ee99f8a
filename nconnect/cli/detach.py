"""Running in the background: a double fork before any thread exists, and a report of how the start went."""

from __future__ import annotations

import json
import os
import select
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from nconnect.errors import ConfigError, NconnectError
from nconnect.io.errors import as_host_error
from nconnect.io.files.trusted import Folder

ReadyCallback = Callable[[], None]


class DetachedFailure(NconnectError):
    """The daemon ended before it was ready; the text is the daemon's error."""

    def __init__(self, text: str, exit_status: int) -> None:
        super().__init__(text)
        self.exit_status = exit_status


def detached(log: Path, run: Callable[[ReadyCallback], int], *, timeout_s: float) -> bool:
    """Run `run` in a process with a session of its own, with `log` as its output.

    Returns in the first process only: True once `run` has called its argument, False if it still tries after
    `timeout_s`. Raises `DetachedFailure` if it ended before that.
    """
    # The folder is the daemon's, which may not be root.
    with as_host_error(f"cannot write the log {log}"), Folder.open(log.parent) as folder:
        output = folder.open_file(log.name, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    result, word = os.pipe2(os.O_CLOEXEC)
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        os.close(result)
        _second_fork(output, word, run)
    os.close(output)
    os.close(word)
    os.waitpid(child, 0)
    try:
        return _hear(result, timeout_s)
    finally:
        os.close(result)


def _second_fork(output: int, word: int, run: Callable[[ReadyCallback], int]) -> NoReturn:
    """In the first child: become a session leader, fork the daemon, and exit so that init adopts it."""
    status = 1
    try:
        os.setsid()
        if os.fork():
            os._exit(0)
        os.chdir("/")
        os.umask(0o077)
        nothing = os.open(os.devnull, os.O_RDWR)
        for source, target in ((nothing, 0), (output, 1), (output, 2)):
            os.dup2(source, target)
        status = _run(word, run)
    finally:
        os._exit(status)  # so that no handler, buffer or test runner of the first process runs twice


def _run(word: int, run: Callable[[ReadyCallback], int]) -> int:
    """In the daemon: run it. Until it is ready, the first process prints its errors."""
    told = False

    def tell(content: dict[str, object]) -> None:
        nonlocal told
        if not told:
            told = True
            try:
                os.write(word, json.dumps(content).encode() + b"\n")
            except BrokenPipeError:
                pass  # the first process has stopped waiting
            os.close(word)

    try:
        status = run(lambda: tell({"ready": True}))
        tell({"error": "the daemon ended before it was up: see its log", "exit_status": status or 1})
    except NconnectError as error:
        text = "\n".join(error.problems) if isinstance(error, ConfigError) else str(error)
        print(f"nconnect: error: {text}", file=sys.stderr)
        status = error.exit_status
        tell({"error": text, "exit_status": status})
    except KeyboardInterrupt:
        status = 130
        tell({"error": "interrupted", "exit_status": status})
    except BaseException as error:
        import traceback

        traceback.print_exc()
        status = 1
        tell({"error": f"unexpected {type(error).__name__}: the log has the traceback", "exit_status": 1})
    sys.stdout.flush()
    sys.stderr.flush()
    return status


def _hear(result: int, timeout_s: float) -> bool:
    deadline = time.monotonic() + timeout_s
    data = b""
    while not data.endswith(b"\n"):
        readable, _, _ = select.select([result], [], [], max(0.0, deadline - time.monotonic()))
        if not readable:
            return False
        chunk = os.read(result, 65_536)
        if not chunk:
            raise DetachedFailure("the daemon was killed before it was up: see its log", 1)
        data += chunk
    content = json.loads(data)
    if content.get("ready"):
        return True
    raise DetachedFailure(str(content["error"]), int(content["exit_status"]))
