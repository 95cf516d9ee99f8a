"""NKN's SDKs as the other end of a test: sdk.mjs beside this file, and tests/official/nkn-sdk-go/main.go."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import itertools
import json
import os
import shutil
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from lab import official

MODULES = Path(os.environ.get("NCONNECT_NKN_SDK") or Path(__file__).parents[2] / "node_modules").resolve()
NODE_JS = shutil.which("node")
SCRIPT = Path(__file__).with_name("sdk.mjs")

needs_sdk = pytest.mark.skipif(
    NODE_JS is None or not (MODULES / "nkn-sdk").is_dir(),
    reason="needs Node.js and nkn-sdk (scripts/setup --dev; NCONNECT_NKN_SDK names another node_modules)",
)
GO = "nkn-sdk-go"
needs_go = pytest.mark.skipif(
    bool(official.missing(GO)), reason="NKN's SDK for Go is not built: scripts/setup --dev"
)
SDKS = [pytest.param("js", marks=needs_sdk), pytest.param("go", marks=needs_go)]
PAIRS = [
    pytest.param(("js", "js"), id="js", marks=needs_sdk),
    pytest.param(("go", "js"), id="go and js", marks=[needs_sdk, needs_go]),
]


def pattern(size: int) -> bytes:
    """What `{"bytes": size}` stands for."""
    return bytes((i * 31 + (i >> 8)) & 0xFF for i in range(size))


def seen(size: int) -> dict[str, object]:
    """How the script tells of `pattern(size)`."""
    return {"bytes": size, "digest": hashlib.sha256(pattern(size)).hexdigest()}


class SdkError(Exception):
    """What the SDK rejected with."""


class Sdk:
    """A process with clients in it."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._ids = itertools.count()
        self._asked: dict[int, asyncio.Future[Any]] = {}

    @classmethod
    @contextlib.asynccontextmanager
    async def running(
        cls, seed: str, kind: str = "js", *, env: Mapping[str, str] | None = None
    ) -> AsyncIterator[Sdk]:
        """`kind`: the SDK, "js" or "go"."""
        process = await asyncio.create_subprocess_exec(
            *((str(NODE_JS), str(SCRIPT)) if kind == "js" else (official.program(GO),)),
            seed,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env={**os.environ, "NCONNECT_NKN_SDK": str(MODULES), **(env or {})},
        )
        sdk = cls(process)
        reader = asyncio.create_task(sdk._read(), name="what the SDK says")
        try:
            yield sdk
        finally:
            assert process.stdin is not None
            process.stdin.close()
            try:
                async with asyncio.timeout(5.0):
                    await process.wait()
            except TimeoutError:
                process.kill()
                await process.wait()
            await reader

    async def ask(self, op: str, **options: object) -> Any:
        id = next(self._ids)
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._asked[id] = answer
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"id": id, "op": op, **options}).encode() + b"\n")
        return await answer

    async def open(self, name: str, *, multi: bool = False, **options: object) -> str:
        """The address of a new client, once it (or each of its sub-clients) is connected."""
        address = await self.ask("open", name=name, multi=multi, identifier=name, **options)
        assert isinstance(address, str)
        return address

    async def send(self, name: str, dest: str | list[str], data: str | int, **options: object) -> Any:
        """What came back for a text, or for so many bytes of the pattern."""
        content = {"text": data} if isinstance(data, str) else {"bytes": data}
        return await self.ask("send", name=name, dest=dest, data=content, **options)

    async def got(self, name: str) -> list[dict[str, Any]]:
        """The messages that a client got since this was asked last."""
        messages = await self.ask("got", name=name)
        assert isinstance(messages, list)
        return messages

    async def _read(self) -> None:
        assert self._process.stdout is not None
        while line := await self._process.stdout.readline():
            answer = json.loads(line)
            future = self._asked.pop(answer["id"])
            if "error" in answer:
                future.set_exception(SdkError(answer["error"]))
            else:
                future.set_result(answer.get("result"))
        for future in self._asked.values():
            if not future.done():
                future.set_exception(SdkError("the process ended"))
