"""Clients of the official nConnect: a server for them beside the tunnel, with our rights in front.

    official client --getInfo--> nConnect.IDENTIFIER.KEY  (a MultiClient of this device's key)
                    --NCP stream: cipher(target || bytes)--> `OfficialStream` --> `StreamAcceptor.serve`

It is there while `[streams] nconnect` and at least one `[[peer]] nconnect` say so. The official server checks
no target; here the acceptor judges each as it does a packet of that peer. A key that is not let in gets no
answer, not even an acknowledgement. The cipher is the official default with an empty password: the messages
below are sealed already, by NCP's rules without forward secrecy.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Protocol

from nconnect.crypto.shadowsocks import ShadowCipher
from nconnect.daemon.settings import InForce
from nconnect.errors import ClientClosed, NetworkError, RemoteProtocolError, StreamClosed
from nconnect.model import Config, NknAddress, Proxy
from nconnect.streams.dialler import Stream, StreamRefused
from nconnect.wire import official_nconnect as official
from nconnect.wire.official_nconnect import InfoRequest, ServerInfo

if TYPE_CHECKING:
    from nconnect.nkn import Message, MultiClient
    from nconnect.sdk import stream as nkn

log = logging.getLogger(__name__)

IDENTIFIER = "nConnect"  # before ours, as in the official server's address for requests
MAX_STREAMS_OF_A_KEY = 256
TARGET_S = 10.0  # until a stream has named its target

ServeStream = Callable[[bytes, str, int, Stream], Awaitable[None]]  # `StreamAcceptor.serve`


class MakeClient(Protocol):
    """Makes the client that serves; the caller enters it."""

    def __call__(self, identifier: str) -> MultiClient: ...


def address_of(config: Config, public_key: bytes) -> NknAddress:
    """Where official clients send their requests, and open streams."""
    identifier = f"{IDENTIFIER}.{config.identifier}" if config.identifier else IDENTIFIER
    return NknAddress(identifier, public_key)


def let_in(config: Config) -> frozenset[bytes]:
    """The keys of the peers that may come with the official client."""
    if not config.streams.nconnect:
        return frozenset()
    return frozenset(peer.address.public_key for peer in config.peers if peer.nconnect)


def own_client(config: Config, identifier: str, seeds: tuple[str, ...]) -> MultiClient:
    """A client of this device's key; the caller enters it, which takes until the network is there."""
    from nconnect.nkn import MultiClient  # the daemon needs it for this alone

    proxy = config.network.proxy
    return MultiClient(
        config.seed,
        identifier=identifier,
        seed_rpc=seeds,
        proxy=proxy.url if isinstance(proxy, Proxy) else proxy,
        connect_timeout_s=None,
    )


class OfficialClients:
    """One interface's, in the loop's thread."""

    def __init__(self, in_force: InForce, serve: ServeStream, make_client: MakeClient) -> None:
        self._in_force = in_force
        self._serve = serve
        self._make_client = make_client
        self._changed = asyncio.Event()
        self._streams: dict[asyncio.Task[None], bytes] = {}  # -> the peer's key

    def config_changed(self, _: object = None) -> None:
        """Somebody may be let in who was not, and the other way round; the latter's streams end now."""
        keys = let_in(self._in_force.config)
        for task, key in self._streams.items():
            if key not in keys:
                task.cancel()
        self._changed.set()

    async def run(self) -> None:
        """ServeStream while somebody is let in."""
        while True:
            self._changed.clear()
            if not let_in(self._in_force.config):
                await self._changed.wait()
                continue
            async with asyncio.TaskGroup() as tasks:
                serving = tasks.create_task(self._serve_all())
                while let_in(self._in_force.config):
                    await self._changed.wait()
                    self._changed.clear()
                serving.cancel()

    async def _serve_all(self) -> None:
        config = self._in_force.config
        identifier = address_of(config, bytes(32)).identifier
        async with self._make_client(identifier) as client:
            log.info("clients of the official nConnect are served at %s", client.address)
            try:
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(self._answer(client))
                    tasks.create_task(self._accept(client))
            finally:
                for task in self._streams:
                    task.cancel()
                await asyncio.gather(*self._streams, return_exceptions=True)

    async def _answer(self, client: MultiClient) -> None:
        while True:
            message = await client.receive()
            sender = NknAddress.parse(message.src).public_key
            if sender not in let_in(self._in_force.config):
                continue
            try:
                request = official.read_admin_request(message.data)
            except RemoteProtocolError as error:
                log.debug("%s: %s", message.src, error)
                continue
            if isinstance(request, official.DirectRequest):
                continue  # there is no direct path
            await self._reply(message, client, isinstance(request, InfoRequest))

    async def _reply(self, message: Message, client: MultiClient, is_info: bool) -> None:
        ips = tuple(str(address.ip) for address in self._in_force.config.address if address.version == 4)
        info = ServerInfo(NknAddress.parse(client.address), ips)
        try:
            await message.reply(
                official.info_answer(info) if is_info else official.error_answer("permission denied")
            )
        except (NetworkError, ClientClosed) as error:
            log.debug("%s: %s", message.src, error)

    async def _accept(self, client: MultiClient) -> None:
        # The accept list is asked for each stream, so that a change counts at once.
        async with client.listen("all") as server:
            async for stream in server:
                key = NknAddress.parse(stream.remote).public_key
                open_here = sum(other == key for other in self._streams.values())
                if key not in let_in(self._in_force.config) or open_here >= MAX_STREAMS_OF_A_KEY:
                    stream.abort()
                    continue
                task = asyncio.get_running_loop().create_task(self._stream(key, stream))
                self._streams[task] = key
                task.add_done_callback(lambda done: self._streams.pop(done, None))

    async def _stream(self, key: bytes, raw: nkn.Stream) -> None:
        from nconnect.streams.official_stream import OfficialStream  # as `own_client`

        cipher = ShadowCipher.CHACHA20
        stream = OfficialStream(raw, cipher, cipher.key(""))
        try:
            async with asyncio.timeout(TARGET_S):
                host, port = await stream.target()
            await self._serve(key, host, port, stream)
        except StreamRefused as refused:
            log.debug("%s: %s", raw.remote, refused.reason)
        except (NetworkError, RemoteProtocolError, StreamClosed, OSError) as error:
            log.debug("%s: %s", raw.remote, error)
        finally:
            stream.abort()
