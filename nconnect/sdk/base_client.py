"""What `Client` and `MultiClient` have in common: links, an inbox, and messages that wait for an answer.

Memory is bounded: the inbox in messages and bytes (if it is full, the newest message is dropped, counted, and
not acknowledged, so that its sender learns of it), unsent bytes by the links' websockets (`send` waits for
room), remembered ids and keys by number.
"""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from types import TracebackType
from typing import Self, TypedDict, overload

from nconnect.crypto.keys import Identity
from nconnect.errors import ClientClosed, ConfigError, LocalProtocolError, NetworkError, NotConnected
from nconnect.io.clock import boottime
from nconnect.model import MAX_ADDRESS_CHARS, PUBLIC_SEED_RPC, Buffer, NknAddress
from nconnect.nkn.envelope import Batch
from nconnect.nkn.exchange import Exchange, Incoming, IncomingAnswer, IncomingPacket, MessageDrop
from nconnect.nkn.link import Link
from nconnect.nkn.message import Message, Reply
from nconnect.sdk.chain import NknChain, proxies_of
from nconnect.sdk.inbox import INBOX_BYTES, INBOX_MESSAGES, Inbox
from nconnect.sdk.streaming import Streaming
from nconnect.sdk.sub_link import LinkStatus, SubLink
from nconnect.sdk.waiting import PendingReplies
from nconnect.wire import chain
from nconnect.wire.chain import MAX_DURATION_BLOCKS
from nconnect.wire.jsonrpc import NodeInfo
from nconnect.wire.nkn import MAX_DESTS, InboundMessage

REPLY_TIMEOUT_S = 5.0  # the official SDKs' responseTimeout
CONNECT_TIMEOUT_S = 20.0  # guessed: three attempts, each bounded by 5 s
LINGER_S = 2.0  # guessed: how long leaving waits for the kernel to take the last messages


class Options(TypedDict, total=False):
    """Keyword arguments that `Client` and `MultiClient` take besides their own."""

    seed_rpc: str | Iterable[str]
    """The seeds to ask for a node. They are asked in parallel, a third of a second apart."""
    chain_rpc: str | Iterable[str] | None
    """The seeds to ask for names and topics; None: those of `seed_rpc`. `nconnect node` has no chain."""
    tls: bool | ssl.SSLContext
    """True, or an `ssl.SSLContext`: use wss, with this context."""
    proxy: str | None
    """http://[USER:PASSWORD@]HOST:PORT, socks5://… or "none"; None: the environment's HTTPS_PROXY, ALL_PROXY
    and NO_PROXY."""
    accept_unencrypted: bool
    """Accept unencrypted messages, which anybody on the way can read, change and forge."""
    connect_timeout_s: float | None
    """How long entering waits for a link, in seconds; None: without limit."""
    inbox_messages: int
    """How many messages may wait to be received; beyond that the newest is dropped."""
    inbox_bytes: int
    """The same in bytes."""


class BaseClient:
    """The base of `Client` and `MultiClient`; do not use it directly."""

    def __init__(
        self,
        seed: bytes | str | None,
        identifier: str,
        sub_clients: Sequence[int | None],
        *,
        seed_rpc: str | Iterable[str] = PUBLIC_SEED_RPC,
        chain_rpc: str | Iterable[str] | None = None,
        tls: bool | ssl.SSLContext = False,
        proxy: str | None = None,
        accept_unencrypted: bool = False,
        connect_timeout_s: float | None = CONNECT_TIMEOUT_S,
        inbox_messages: int = INBOX_MESSAGES,
        inbox_bytes: int = INBOX_BYTES,
        last_nodes: Sequence[NodeInfo] = (),
    ) -> None:
        self._identity = Identity(_seed_bytes(seed))
        self._address = NknAddress(_checked(identifier), self._identity.public_key)
        self._multi = list(sub_clients) != [None]
        self._exchange = Exchange(self._identity, rng=os.urandom, accept_unencrypted=accept_unencrypted)
        self._connect_timeout_s = connect_timeout_s
        self._inbox = Inbox(inbox_messages, inbox_bytes)
        self._waiting: dict[bytes, PendingReplies] = {}
        self._streaming: Streaming | None = None  # of clients that have streams
        self._in_hand: Message | None = None  # the message that `async for` yielded last
        self._changed = asyncio.Event()  # of a link; replaced each time it is set
        self._entered = self._closed = False
        self._tasks = asyncio.TaskGroup()
        seeds = (seed_rpc,) if isinstance(seed_rpc, str) else tuple(seed_rpc)
        if not seeds:
            raise ConfigError("seed_rpc is empty: name at least one seed (http://HOST:30003)")
        now, proxies = boottime(), proxies_of(proxy)
        self._chain = NknChain(seeds if chain_rpc is None else chain_rpc, proxy=proxy)
        self._links = tuple(
            SubLink(
                index,
                Link(
                    self._identity,
                    self._address if index is None else self._address.sub_client(index),
                    seeds,
                    now=now,
                    rng=os.urandom,
                    last_node=last_nodes[place] if place < len(last_nodes) else None,
                    tls_only=bool(tls),
                ),
                tls,
                proxies=proxies,
                on_message=self._on_message,
                on_change=self._on_change,
            )
            for place, index in enumerate(sub_clients)
        )

    # Who, and how it is

    @property
    def address(self) -> str:
        """This client's NKN address, which others send to."""
        return str(self._address)

    @property
    def public_key(self) -> bytes:
        """Ed25519, 32 bytes."""
        return self._identity.public_key

    @property
    def seed(self) -> bytes:
        """The secret from which this client's key is made, 32 bytes: keep it to keep the address."""
        return self._identity.seed

    @property
    def is_up(self) -> bool:
        """Whether at least one link is logged in to a node."""
        return any(sub.runner.is_up for sub in self._links)

    @property
    def links(self) -> tuple[LinkStatus, ...]:
        """The status of each link: first the one with the bare address, then by sub-client."""
        return tuple(sub.status() for sub in self._links)

    @property
    def drops(self) -> dict[str, int]:
        """How many messages were not delivered, by reason (`MessageDrop`); only reasons that occurred.

        `bad_frame`: malformed frames from nodes.
        """
        drops = {reason.value: count for reason, count in self._exchange.drops.items() if count}
        bad_frames = sum(sub.link.counters.bad_frames for sub in self._links)
        return {**drops, "bad_frame": bad_frames} if bad_frames else drops

    @property
    def last_nodes(self) -> tuple[NodeInfo, ...]:
        """The nodes that accepted this client last. A new client with these tries them if no seed answers."""
        return tuple(sub.link.last_node for sub in self._links if sub.link.last_node is not None)

    @property
    def chain(self) -> NknChain:
        """What NKN's chain says: subscribers of topics, registrants of names. It can be used at any time."""
        return self._chain

    async def wait_up(self, links: int = 1, *, timeout_s: float | None = None) -> None:
        """Wait until so many links are up. Raises `NotConnected` if it takes longer than `timeout_s`."""
        try:
            async with asyncio.timeout(timeout_s):
                while sum(sub.runner.is_up for sub in self._links) < links:
                    self._must_be_open()
                    await self._changed.wait()
        except TimeoutError:
            raise NotConnected(self._why_not(timeout_s)) from None

    # Sending

    @overload
    async def send(
        self,
        dest: str,
        data: str | Buffer,
        *,
        encrypt: bool = True,
        no_reply: bool = False,
        max_holding_s: int = 0,
        reply_timeout_s: float = REPLY_TIMEOUT_S,
    ) -> Reply | None: ...
    @overload
    async def send(
        self,
        dest: list[str] | tuple[str, ...],
        data: str | Buffer,
        *,
        encrypt: bool = True,
        no_reply: bool = False,
        max_holding_s: int = 0,
        reply_timeout_s: float = REPLY_TIMEOUT_S,
    ) -> dict[str, Reply]: ...
    async def send(
        self,
        dest: str | list[str] | tuple[str, ...],
        data: str | Buffer,
        *,
        encrypt: bool = True,
        no_reply: bool = False,
        max_holding_s: int = 0,
        reply_timeout_s: float = REPLY_TIMEOUT_S,
    ) -> Reply | dict[str, Reply] | None:
        """Send one message, and wait until each destination replied or acknowledged it.

        `dest`: an address, for which the `Reply` is returned; or several, for which a dict of replies by
        address is returned. An address may end in a registered name instead of a key (`gpu.NAME`): the
        chain is asked for the name's key once (`chain.resolve`). With `no_reply` the receivers are told not
        to answer, and None (or an empty dict) is returned as soon as the message is sent. `data`: a `str` is
        sent as text, anything else as binary. `encrypt=False` sends it unencrypted, which receivers refuse
        unless they are configured to accept it. `max_holding_s`: how long nodes may keep it for a
        destination that is offline.
        `reply_timeout_s` limits the whole call, including a reconnect.

        Raises `NoReply` (with the replies that came), `NotConnected` if no link came up in that time,
        `TooBig`, `ConfigError` for an invalid address, `ClientClosed`; for a name also what `chain.resolve`
        raises.
        """
        one = isinstance(dest, str)
        end = asyncio.get_running_loop().time() + reply_timeout_s
        dests = await self._dests([dest] if isinstance(dest, str) else dest, reply_timeout_s)
        id = self._exchange.message_id()
        batches = self._exchange.message(list(dests), data, id=id, encrypt=encrypt, no_reply=no_reply)
        waiting = PendingReplies(dests)
        if not no_reply:
            self._exchange.expect(id, list(dests), encrypted=encrypt)
            self._waiting[id] = waiting
        sent = False
        try:
            async with asyncio.timeout_at(end):
                await self._transmit(batches, max_holding_s)
                sent = True
                if not no_reply:
                    await waiting.done
                    self._must_be_open()
        except TimeoutError:
            raise (
                waiting.no_reply(reply_timeout_s) if sent else NotConnected(self._why_not(reply_timeout_s))
            ) from None
        finally:
            self._waiting.pop(id, None)
            self._exchange.forget(id)
        return next(iter(waiting.replies.values()), None) if one else waiting.replies

    # Topics

    async def subscribe(self, topic: str, meta: str = "", *, duration: int = MAX_DURATION_BLOCKS) -> str:
        """Subscribe this client to a topic for `duration` blocks of about 20 s, with a fee of 0.

        `meta`: up to 1,024 bytes that everybody can read. A second call replaces the meta and extends the
        subscription. Returns the transaction's hash (hex). It is in force with one of the next blocks;
        until then `chain.subscribers(topic, pending=True)` has it. A subscription needs no link to be up.

        Raises `ConfigError` for what nodes refuse, `RemoteProtocolError` if the node refused it (one that
        is pending can be neither repeated nor ended), `NetworkError` if no seed answered.
        """
        return await self._chain.submit(chain.subscribe(self._address, topic, duration, meta), self._identity)

    async def unsubscribe(self, topic: str) -> str:
        """End this client's subscription to a topic, with a fee of 0; otherwise as `subscribe`."""
        return await self._chain.submit(chain.unsubscribe(self._address, topic), self._identity)

    # Receiving

    async def receive(self) -> Message:
        """Wait for the next message. You answer or acknowledge it yourself. Raises `ClientClosed`."""
        self._must_be_open()
        while (incoming := self._inbox.take()) is None:
            await self._inbox.wait()
            self._must_be_open()
        return Message(incoming, str(self._shown(incoming.src)), self._answer)

    def __aiter__(self) -> AsyncIterator[Message]:
        """Yield messages as they arrive, until the client is closed.

        A message that has not been answered when the next one is requested is acknowledged. Several loops at
        once would acknowledge each other's messages: use `receive` instead.
        """
        return self

    async def __anext__(self) -> Message:
        await self._put_down()
        try:
            self._in_hand = await self.receive()
        except ClientClosed:
            raise StopAsyncIteration from None
        return self._in_hand

    # Life

    async def __aenter__(self) -> Self:
        """Connect. Raises `NotConnected` unless a link is up within `connect_timeout_s`."""
        if self._entered:
            raise LocalProtocolError("a client can be entered only once: make another one")
        self._entered = True
        await self._tasks.__aenter__()
        for sub in self._links:
            self._tasks.create_task(self._run(sub), name=f"link of {sub.link.address}")
        try:
            await self.wait_up(timeout_s=self._connect_timeout_s)
        except BaseException as error:
            self.close()
            await self._tasks.__aexit__(None, None, None)
            if isinstance(error, ClientClosed):
                raise NotConnected(self._why_not(None)) from None
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Acknowledge the last yielded message, give the last bytes to the kernel, and disconnect."""
        try:
            if kind is None:
                await self._finish()
        finally:
            self.close()
            if kind is not None and issubclass(kind, asyncio.CancelledError):
                await self._tasks.__aexit__(kind, error, trace)
            else:
                await self._tasks.__aexit__(None, None, None)

    def close(self) -> None:
        """End all links at once; waiting `send` and `receive` calls raise `ClientClosed`."""
        self._closed = True
        if self._streaming is not None:
            self._streaming.close()
        for sub in self._links:
            sub.runner.close()
        for waiting in self._waiting.values():
            waiting.end()
        self._inbox.wake()
        self._changed_now()

    # What links tell

    def _on_change(self, sub: SubLink) -> None:
        """A link came up, went down, or takes data again."""
        if self._streaming is not None:
            self._streaming.on_change(sub)
        self._changed_now()

    def _changed_now(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def _on_message(self, sub: SubLink, message: InboundMessage) -> None:
        """A message, borrowed until this returns."""
        found = self._exchange.receive(
            message.src, message.payload, boottime(), has_room=self._inbox.has_room
        )
        if isinstance(found, IncomingPacket):
            if self._streaming is None:
                self._exchange.drops[MessageDrop.SESSION] += 1
            else:
                self._streaming.on_packet(sub, found)
        elif isinstance(found, Incoming):
            self._inbox.put(found)
        elif isinstance(found, IncomingAnswer) and (waiting := self._waiting.get(found.to_id)) is not None:
            waiting.take(found)

    # Below: details

    async def _dests(self, given: Sequence[str], timeout_s: float) -> dict[NknAddress, str]:
        """Address -> as it was given; names are looked up. Raises `ConfigError`, `NetworkError`."""
        self._must_be_open()
        if not 0 < len(given) <= MAX_DESTS:
            raise ConfigError(f"a message goes to 1 to {MAX_DESTS} destinations, not to {len(given)}")
        dests: dict[NknAddress, str] = {}
        for text in given:
            address = NknAddress.parse(await self._chain.resolve(text, timeout_s=timeout_s))
            dests.setdefault(self._shown(address), text)
        return dests

    def _shown(self, address: NknAddress) -> NknAddress:
        """The address as applications see it: without a sub-client's prefix in a `MultiClient`."""
        return address.bare if self._multi else address

    async def _answer(self, to: Incoming, data: str | Buffer | None) -> None:
        """Send a reply to `to`, or an ACK for None."""
        self._must_be_open()
        dest = self._shown(to.src)
        batches = self._exchange.ack(to, dest) if data is None else self._exchange.reply(to, dest, data)
        try:
            async with asyncio.timeout(REPLY_TIMEOUT_S):
                await self._transmit(batches, 0)
        except TimeoutError:
            raise NotConnected(self._why_not(REPLY_TIMEOUT_S)) from None

    async def _transmit(self, batches: Iterator[Batch], max_holding_s: int) -> None:
        """Send each batch over every link that takes data now; wait until there is one."""
        for batch in batches:
            for sub in await self._ready_links():
                sub.send(batch, max_holding_s)

    async def _ready_links(self) -> list[SubLink]:
        while True:
            self._must_be_open()
            ready = [sub for sub in self._links if sub.runner.writable]
            if ready:
                return ready
            await self._changed.wait()

    def _why_not(self, timeout_s: float | None) -> str:
        reasons = [sub.link.last_error for sub in self._links if sub.link.last_error]
        why = reasons[0] if reasons else "no node took the connection"
        return why if timeout_s is None else f"not connected within {timeout_s:g} s: {why}"

    async def _run(self, sub: SubLink) -> None:
        if not self._closed:  # before it began: nothing would end it
            await sub.runner.run()

    def _must_be_open(self) -> None:
        if self._closed:
            raise ClientClosed("the client was closed")
        if not self._entered:
            raise ClientClosed("the client is not connected: use it in `async with`")

    async def _put_down(self) -> None:
        """Acknowledge the last yielded message, unless it was answered or no link is up."""
        in_hand, self._in_hand = self._in_hand, None
        if in_hand is not None and in_hand.wants_answer and self.is_up and not self._closed:
            try:
                await in_hand.ack()
            except (NetworkError, ClientClosed):
                pass  # the sender's time-out tells it; the loop goes on

    async def _finish(self) -> None:
        if self._streaming is not None:
            await self._streaming.finish()
        try:
            async with asyncio.timeout(LINGER_S):
                await self._put_down()
                while any(sub.runner.is_up and not sub.runner.writable for sub in self._links):
                    await self._changed.wait()
        except TimeoutError:
            pass  # the node does not read


def _seed_bytes(seed: bytes | str | None) -> bytes:
    if seed is None:
        return os.urandom(32)
    try:
        found = bytes.fromhex(seed) if isinstance(seed, str) else bytes(seed)
    except ValueError:
        found = b""
    if len(found) != 32:
        raise ConfigError("a seed is 32 bytes, or 64 hex digits")
    return found


def _checked(identifier: str) -> str:
    if identifier != identifier.strip() or len(identifier) > MAX_ADDRESS_CHARS - 128:
        raise ConfigError("an identifier has no space around it, and fewer than 900 characters")
    return identifier
