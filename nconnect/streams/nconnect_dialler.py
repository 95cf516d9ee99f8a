"""`NconnectDialler`: streams through an official nConnect server, which dials any target for us.

    open(host, port) -> MultiClient.dial(the server's address for streams)
                        cipher(target) || cipher(what is written)   ->
                                          cipher(what comes back)   <-

The server answers nothing of its own. With another cipher or password it reads on in silence, and a target
that it cannot reach is a stream that ends without a byte. So `check` opens one to a port of the server itself
where nothing listens: it ends at once if the cipher is right.
"""

from __future__ import annotations

import asyncio

from nconnect.config.values import parse_peer_address
from nconnect.crypto.shadowsocks import ShadowCipher
from nconnect.errors import NetworkError, NoReply, RemoteProtocolError, StreamError
from nconnect.model import NknAddress
from nconnect.sdk.multiclient import MultiClient
from nconnect.streams.dialler import (
    OPEN_TIMEOUT_S,
    DatagramChannel,
    RefusalCode,
    StreamRefused,
)
from nconnect.streams.official_stream import OfficialStream
from nconnect.wire import official_nconnect as official

_ANSWER_S = OPEN_TIMEOUT_S - 0.5  # so that the reason comes before the time is over
_NOBODY = ("127.0.0.1", 1)  # of the server itself: nothing listens there


class NconnectDialler:
    """A `Dialler` over one official server. The client is the caller's, who enters and closes it."""

    def __init__(
        self, client: MultiClient, admin_address: str, *, cipher: ShadowCipher, password: str
    ) -> None:
        """`admin_address`: what the server prints, such as nConnect.IDENT.KEY. Raises `ConfigError`."""
        self._client = client
        self._admin = str(parse_peer_address(admin_address))
        self._cipher = cipher
        self._key = cipher.key(password)
        self._server: NknAddress | None = None
        self._asking = asyncio.Lock()

    async def check(self) -> None:
        """Ask the server who it is, and whether it has the same cipher and password.

        Raises `NetworkError` with one clause if it does not answer within 10 s.
        """
        try:
            stream = await self.open(*_NOBODY)
        except TimeoutError:
            raise NetworkError(f"{self._admin} does not answer within {OPEN_TIMEOUT_S:g} s") from None
        try:
            async with asyncio.timeout(OPEN_TIMEOUT_S):
                await stream.read()
        except TimeoutError:
            raise NetworkError(
                f"{self._admin} does not answer within {OPEN_TIMEOUT_S:g} s: it has"
                " another cipher or password"
            ) from None
        except StreamError:
            pass  # it ended: the server has understood
        finally:
            stream.abort()

    async def open(self, host: str, port: int) -> OfficialStream:
        """As `Dialler.open`; the server resolves names, and reaches all that it can reach itself."""
        try:
            header = official.target_header(host, port)
        except ValueError as error:
            raise StreamRefused(f"{host[:80]}: {error}", RefusalCode.UNKNOWN_NAME) from None
        async with asyncio.timeout(OPEN_TIMEOUT_S):
            server = await self._where()
            try:
                stream = await self._client.dial(str(server), timeout_s=_ANSWER_S)
            except StreamError as error:
                self._server = None  # it may have another address when it is back
                raise StreamRefused(str(error), RefusalCode.NO_PEER) from None
            except NetworkError as error:
                raise StreamRefused(str(error), RefusalCode.NO_PEER) from None
        made = OfficialStream(stream, self._cipher, self._key)
        made.write(header)
        return made

    async def datagrams(self) -> DatagramChannel:
        """Official servers carry UDP only over paid relays."""
        raise StreamRefused("an official nConnect server carries no UDP", RefusalCode.FAILED)

    async def _where(self) -> NknAddress:
        async with self._asking:
            if self._server is None:
                try:
                    reply = await self._client.send(
                        self._admin, official.info_request(), reply_timeout_s=_ANSWER_S
                    )
                    if reply is None or not reply.data:
                        raise RemoteProtocolError("it acknowledges, but is no nConnect server")
                    self._server = official.read_info(reply.data).address
                except NoReply:
                    raise StreamRefused(
                        f"no answer from {self._admin} within {OPEN_TIMEOUT_S:g} s: it is not running,"
                        " or does not accept this client's key",
                        RefusalCode.NO_PEER,
                    ) from None
                except (NetworkError, RemoteProtocolError) as error:
                    raise StreamRefused(f"{self._admin}: {error}", RefusalCode.NO_PEER) from None
            return self._server
