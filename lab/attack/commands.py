"""How the lab controls a hostile program: a line with a command in, a line with its result out."""

from __future__ import annotations

import asyncio
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from lab import CHECKOUT
from lab.netns import LabError, Namespace

READY_S = 20.0


async def obey(do: Callable[..., Awaitable[object]]) -> None:
    """In the program: call `do(*words)` for each line of standard input, and print the result."""
    print("ready", flush=True)
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        result = await do(*json.loads(line))
        print(json.dumps(result), flush=True)


class Hostile:
    """A hostile program in a namespace."""

    def __init__(
        self, namespace: Namespace, module: str, arguments: Sequence[str], log: Path, env: dict[str, str]
    ) -> None:
        self.name = module
        with log.open("ab") as errors:
            self.process = subprocess.Popen(
                namespace.command([sys.executable, "-m", module, *arguments]),
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors,
                cwd=CHECKOUT, env={**os.environ, **env}, start_new_session=True,
            )  # fmt: skip
        self.log = log
        self._answers = b""

    def wait_ready(self) -> None:
        word = self._line(READY_S)
        if word != "ready":
            raise LabError(f"{self.name} said {word!r} first:\n{self.log.read_text()[-3000:]}")

    def do(self, *words: str, timeout_s: float = 20) -> Any:
        """Let it run a command to its end, and return the result."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps(words).encode() + b"\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # it has ended: `_line` says why
        return json.loads(self._line(timeout_s))

    def _line(self, timeout_s: float) -> str:
        """The next line of its output."""
        deadline = time.monotonic() + timeout_s
        assert self.process.stdout is not None
        while b"\n" not in self._answers:
            ready, _, _ = select.select([self.process.stdout], [], [], max(0, deadline - time.monotonic()))
            data = os.read(self.process.stdout.fileno(), 4096) if ready else b""
            if not data:
                raise LabError(f"{self.name} did not answer:\n{self.log.read_text()[-3000:]}")
            self._answers += data
        line, _, self._answers = self._answers.partition(b"\n")
        return line.decode()

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with suppress(BrokenPipeError):  # it had ended before
                    pipe.close()
