"""How the lab talks to a hostile program: a line in with what to do, a line out when it is done."""

from __future__ import annotations

import asyncio
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from lab import CHECKOUT
from lab.netns import LabError, Namespace


async def obey(do: Callable[..., Awaitable[None]]) -> None:
    """In the program: call `do(*words)` for each line of standard input, until it ends."""
    print("ready", flush=True)
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        await do(*json.loads(line))
        print("done", flush=True)


class Hostile:
    """One such program, in a namespace."""

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

    def wait(self, word: str, timeout_s: float = 20) -> None:
        """Until it says `word`."""
        deadline = time.monotonic() + timeout_s
        assert self.process.stdout is not None
        while f"{word}\n".encode() not in self._answers:
            ready, _, _ = select.select([self.process.stdout], [], [], max(0, deadline - time.monotonic()))
            data = os.read(self.process.stdout.fileno(), 4096) if ready else b""
            if not data:
                raise LabError(f"{self.name} did not say {word}:\n{self.log.read_text()[-3000:]}")
            self._answers += data
        self._answers = self._answers.partition(f"{word}\n".encode())[2]

    def do(self, *words: str) -> None:
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps(words).encode() + b"\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # it has ended: `wait` tells of what
        self.wait("done")

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()
