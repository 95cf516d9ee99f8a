"""Streams by the control socket of a daemon in another process, which holds the sessions (`Dialler`).

`POST /v1/streams` is upgraded to one stream, framed as `nconnect.streams.framed` says.
"""

from __future__ import annotations

import asyncio
import json
from asyncio import IncompleteReadError, LimitOverrunError, StreamReader, StreamWriter
from pathlib import Path

from nconnect.io.errors import plain_reason
from nconnect.streams.dialler import (
    OPEN_TIMEOUT_S,
    DatagramChannel,
    RefusalCode,
    Stream,
    StreamRefused,
)
from nconnect.streams.framed import FramedStream
from nconnect.wire.text import visible

UPGRADE = "nconnect-stream"
_MAX_HEAD_BYTES = 1 << 14
_SLACK_S = 2.0  # the daemon gives up first, and says why


class SocketDialler:
    """Asks the daemon that listens at a path."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def open(self, host: str, port: int) -> Stream:
        """`StreamRefused` and `TimeoutError` as `Dialler` says."""
        try:
            reader, writer = await asyncio.open_unix_connection(str(self._path), limit=1 << 18)
        except OSError as error:
            raise StreamRefused(f"the daemon is gone: {plain_reason(error)}", RefusalCode.NO_PEER) from None
        try:
            async with asyncio.timeout(OPEN_TIMEOUT_S + _SLACK_S):
                await _ask(reader, writer, host, port)
        except TimeoutError:  # is an OSError
            writer.transport.abort()
            raise
        except (IncompleteReadError, LimitOverrunError, OSError, ValueError):
            writer.transport.abort()
            raise StreamRefused("the daemon's answer cannot be read: is it of another version?") from None
        except BaseException:
            writer.transport.abort()
            raise
        return FramedStream(reader, writer)

    async def datagrams(self) -> DatagramChannel:
        """Raises `StreamRefused`."""
        raise StreamRefused("UDP is not carried by another process's tunnel", RefusalCode.FAILED)


async def _ask(reader: StreamReader, writer: StreamWriter, host: str, port: int) -> None:
    """Raises `StreamRefused`, `TimeoutError`, `ValueError` and what `reader` raises."""
    body = json.dumps({"host": host, "port": port}).encode()
    head = (
        "POST /v1/streams HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\n"
        f"Upgrade: {UPGRADE}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    writer.write(head.encode() + body)
    answer = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    status = int(answer[0].split(" ", 2)[1])
    if status == 101:
        return
    sizes = [line.partition(":")[2] for line in answer if line.lower().startswith("content-length:")]
    content = json.loads(await reader.readexactly(min(int(sizes[0]) if sizes else 0, _MAX_HEAD_BYTES)))
    if not isinstance(content, dict):
        raise ValueError("no object")
    reason, code = visible(str(content.get("error") or f"status {status}")), content.get("code")
    if status == 504:
        raise TimeoutError(reason)
    raise StreamRefused(reason, RefusalCode(code) if code in set(RefusalCode) else RefusalCode.FAILED)
