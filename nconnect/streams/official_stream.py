"""A stream of the official nConnect, at either end: NCP's bytes in shadowsocks' cipher."""

from __future__ import annotations

import asyncio
import logging
import os

from nconnect.crypto.shadowsocks import ShadowCipher, ShadowOpener, ShadowSealer
from nconnect.errors import RemoteProtocolError, StreamClosed, StreamError
from nconnect.model import Buffer
from nconnect.sdk import stream as nkn
from nconnect.sdk.tunnel import QUIET_END_S
from nconnect.wire import official_nconnect as official

log = logging.getLogger(__name__)


class OfficialStream:
    """A stream in shadowsocks' cipher; the shape of `nconnect.streams.dialler.Stream`.

    One direction cannot end alone: after `write_eof` it is closed when nothing has come for a while.
    """

    def __init__(self, stream: nkn.Stream, cipher: ShadowCipher, key: bytes) -> None:
        self._stream = stream
        self._sealer = ShadowSealer(cipher, key, rng=os.urandom)
        self._opener = ShadowOpener(cipher, key)
        self._ending: asyncio.Task[None] | None = None
        self._ended = False
        self._left = b""  # what came behind the target

    async def target(self) -> tuple[str, int]:
        """A server's first read: the host and port that stand before the stream.

        Raises `RemoteProtocolError` for what is none, such as in another cipher, and `StreamError`.
        """
        got = b""
        while (found := official.read_target(got)) is None:
            data = await self._stream.read()
            if not data:
                raise StreamError(f"{self._stream.remote}: the stream ended before its target")
            got += self._opener.open(data)
        host, port, end = found
        self._left = got[end:]
        return host, port

    async def read(self, most: int = nkn.READ_BYTES) -> bytes:
        """Up to `most` bytes, rounded up to a chunk."""
        if left := self._left:
            self._left = b""
            return left
        while not self._ended:
            try:
                data = b"" if self._opener.is_broken else await self._stream.read(most)
                if not data and self._opener.is_between_chunks:
                    break
                if plain := self._opener.open(data):
                    return plain
                if not data:
                    raise StreamError(f"{self._stream.remote}: the stream was cut")
            except StreamClosed:
                if not self._ended:
                    raise
            except RemoteProtocolError as error:
                self._stream.abort()
                raise StreamError(f"{self._stream.remote}: {error}") from None
        return b""

    def write(self, data: Buffer) -> None:
        if len(data):
            self._stream.write(self._sealer.seal(data))

    async def drain(self) -> None:
        await self._stream.drain()

    def write_eof(self) -> None:
        self._stream.write_eof()
        if self._ending is None and not self._stream.can_end:
            self._ending = asyncio.get_running_loop().create_task(self._end_when_quiet())

    async def close(self) -> None:
        self._stop_ending()
        await self._stream.close()

    async def wait_closed(self) -> None:
        await self._stream.wait_closed()

    def abort(self) -> None:
        self._stop_ending()
        self._stream.abort()

    async def _end_when_quiet(self) -> None:
        await self._stream.wait_quiet(QUIET_END_S)
        self._ended = True
        try:
            await self._stream.close()
        except StreamError as error:
            log.debug("%s", error)

    def _stop_ending(self) -> None:
        if self._ending is not None and self._ending is not asyncio.current_task():
            self._ending.cancel()
