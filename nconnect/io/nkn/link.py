"""Runs one `nkn.link.Link`: does its outputs with seeds and websockets, and tells it what happened.

It decides nothing. The cycle: an input, then every output, then one timer for the next deadline.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable, Coroutine, Sequence
from ipaddress import ip_address
from typing import Any, Protocol

from nconnect.config.proxy import UNPROXIED, Proxies
from nconnect.errors import LoginPageError, NconnectError
from nconnect.io.clock import boottime
from nconnect.io.net.listening import is_orphan
from nconnect.io.net.websocket import WebSocket
from nconnect.io.nkn import rpc
from nconnect.io.nkn.ways import open_first
from nconnect.model import Address, Buffer
from nconnect.nkn.link import Link
from nconnect.nkn.outputs import (
    Connect,
    Disconnect,
    DownReason,
    LinkDown,
    LinkUp,
    Output,
    Resolve,
    SendBinary,
    SendPing,
    SendText,
    Waived,
)
from nconnect.nkn.states import LinkState
from nconnect.wire.jsonrpc import NodeInfo
from nconnect.wire.nkn import InboundMessage

# A timer that is armed no more than this before the deadline stays; the link then waits that little longer.
_TIMER_SLACK_S = 0.001

# Receipts are signed a little later than the message came, so that its answer (a ping's) goes out first: the
# delay is above a busy loop's turn, and far below what a node waits for a receipt. Both guessed.
RECEIPT_DELAY_S = 0.003
MAX_WAITING_RECEIPTS = 64  # more are sent at once


_UP = LinkState.UP  # an enum's member costs a look-up in its class
_ORPHANED = "this machine has another address now"


class LinkHandler(Protocol):
    """What a link tells its owner, synchronously, on the loop."""

    def on_message(self, message: InboundMessage) -> None:
        """A message; its payload is borrowed until this returns."""

    def on_up(self, node: NodeInfo) -> None: ...
    def on_down(self, why: str, reason: DownReason) -> None:
        """The link broke, or another attempt failed: may come several times without an `on_up`."""

    def on_writable(self) -> None:
        """`writable` is True again."""


class LinkRunner:
    """One link on the event loop. `run()` is its task; everything else may be called while that runs."""

    def __init__(
        self,
        link: Link,
        handler: LinkHandler,
        *,
        tls: ssl.SSLContext | None = None,
        clock: Callable[[], float] = boottime,
        proxies: Proxies = UNPROXIED,
    ) -> None:
        """`tls`: what verifies certificates, in place of the system's authorities.

        `proxies`: the way out.
        """
        self.link = link
        self.on_found: Callable[[NodeInfo], None] | None = None  # told of each node that is tried
        self.signs = True  # the node wants each message signed
        self.websocket: WebSocket | None = None  # while one is open, for its TCP_INFO and options
        self.on_message: Callable[[InboundMessage], None] = handler.on_message
        self.on_writable: Callable[[], None] = handler.on_writable
        self._handler = handler
        self._tls = tls
        self._clock = clock
        self._proxies = proxies
        self._loop: asyncio.AbstractEventLoop
        self._work: asyncio.Task[None] | None = None  # a resolve or a connect, never both
        self._connection: _Connection | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._receipt_timer: asyncio.TimerHandle | None = None
        self._ended: asyncio.Future[None] | None = None

    @property
    def is_up(self) -> bool:
        return self.link.is_up

    @property
    def writable(self) -> bool:
        """Whether the link is up and the kernel took all that was sent so far."""
        return self.link.is_up and self.websocket is not None and self.websocket.writable

    @property
    def room(self) -> int:
        """How many bytes the link takes now without a queue standing in it; one packet may exceed it."""
        return self.websocket.room if self.websocket is not None else 0

    @property
    def rate(self) -> float | None:
        """Bytes a second that the link is paced at; None when it is faster than we are."""
        return self.websocket.rate if self.websocket is not None else None

    def is_clear(self) -> bool:
        """Whether what is sent now leaves at once: up, nothing waits in front, and faster than we are."""
        socket = self.websocket
        return socket is not None and socket.writable and socket.rate is None and self.link.state is _UP

    def is_backlogged(self) -> bool:
        """Whether more has arrived than we had time to read."""
        return self.websocket is not None and self.websocket.is_backlogged()

    def send(self, dest: str, parts: Sequence[Buffer]) -> bool:
        """Send one message whose payload is `parts`; False when the link is down and it was dropped.

        The parts may be reused as soon as this returns.
        """
        socket, prefixes = self.websocket, self.link.prefixes
        if socket is None or prefixes is None:
            return False
        size = 0
        for part in parts:
            size += len(part)
        socket.send_binary((prefixes.prefix(dest, size), *parts))
        return True

    def send_message(
        self, dests: Sequence[str], payloads: Sequence[bytes], *, max_holding_seconds: int = 0
    ) -> bool:
        """Send one message to several, or one to be held; False when the link is down and it was dropped."""
        socket = self.websocket
        if socket is None or not self.link.is_up:
            return False
        frame = self.link.outbound(dests, payloads, max_holding_seconds=max_holding_seconds)
        socket.send_binary((frame,))
        return True

    def measure(self) -> None:
        """Measure the round trip to the node in the loop's next turn, for `link.rtt_s`."""
        if self.link.is_up:
            self.link.measure(self._clock())
            self._arm()

    def network_changed(self) -> None:
        """Find out now whether the link lives; one whose address this machine has no more does not."""
        if self.websocket is not None and is_orphan(self.websocket.socket):
            self._abandon(_ORPHANED)
            self._tell(lambda now: self.link.disconnected(_ORPHANED, now))
        self._tell(self.link.network_changed)

    def leave(self, refusal: Callable[[Address], str]) -> None:
        """Give up a connection to an address for which `refusal` has a reason."""
        peer = _peer(self.websocket.socket) if self.websocket is not None else None
        if peer is not None:
            why = refusal(peer)
            if why:
                self._abandon(why)
                self._tell(lambda now: self.link.disconnected(why, now))

    async def run(self) -> None:
        """Keep the link until cancelled or closed; ends with the exception of a handler that failed.

        May be called again afterwards.
        """
        self._loop = asyncio.get_running_loop()
        self._ended = self._loop.create_future()
        try:
            self._tell(self.link.start)
            await self._ended
        finally:
            self._ended = None
            work = self._work
            self._stop()
            if work is not None:
                await asyncio.wait([work])

    def close(self) -> None:
        """End `run()`."""
        if self._ended is not None and not self._ended.done():
            self._ended.set_result(None)

    def _stop(self) -> None:
        try:
            self._do_outputs()  # receipts
            self.link.stop(self._clock())
            self._do_outputs()
        finally:
            self._abandon("stopped")
            if self._receipt_timer is not None:
                self._receipt_timer.cancel()
                self._receipt_timer = None
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

    # The cycle

    def _tell(self, tell: Callable[[float], None]) -> None:
        """An input to the machine, and all that follows from it. A failure of ours ends `run()`."""
        if self._ended is None:
            return
        try:
            tell(self._clock())
            self._do_outputs()
            self._arm()
        except Exception as error:
            self._crash(error)

    def _crash(self, error: Exception) -> None:
        if self._ended is not None and not self._ended.done():
            self._ended.set_exception(error)

    def _do_outputs(self) -> None:
        while (output := self.link.poll_output()) is not None:
            self._do(output)

    def _do(self, output: Output) -> None:
        match output:
            case SendBinary(data):
                if self.websocket is not None:
                    self.websocket.send_binary((data,))
            case SendPing():
                if self.websocket is not None:
                    self.websocket.ping()
            case SendText(text):
                if self.websocket is not None:
                    self.websocket.send_text(text)
            case Resolve():
                self._begin(self._resolve(output), "resolve")
            case Connect(node=node):
                if self.on_found is not None:
                    self.on_found(node)
                self._begin(self._connect(output), "connect")
            case Disconnect(why):
                self._abandon(why)
            case Waived(signatures, mask):
                self.signs = not signatures
                if self.websocket is not None:
                    self.websocket.mask = not mask
            case LinkUp(node):
                if self.websocket is not None:
                    self.websocket.pace()
                self._handler.on_up(node)
            case LinkDown(why, reason):
                self._handler.on_down(why, reason)

    def _send_receipts_soon(self) -> None:
        if len(self.link.receipts) >= MAX_WAITING_RECEIPTS:
            self._do_outputs()
        elif self._receipt_timer is None:
            self._receipt_timer = self._loop.call_later(RECEIPT_DELAY_S, self._on_receipt_timer)

    def _on_receipt_timer(self) -> None:
        self._receipt_timer = None
        try:
            self._do_outputs()
        except Exception as error:
            self._crash(error)

    def _arm(self) -> None:
        deadline = self.link.poll_timeout()
        if deadline is None:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
        elif self._timer is None or abs(deadline.at - self._timer_at) > _TIMER_SLACK_S:
            if self._timer is not None:
                self._timer.cancel()
            self._timer_at = deadline.at
            self._timer = self._loop.call_later(max(0.0, deadline.at - self._clock()), self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self._tell(self.link.handle_timeout)

    # What takes time: at most one task

    def _begin(self, work: Coroutine[Any, Any, None], what: str) -> None:
        assert self._work is None
        self._work = self._loop.create_task(work, name=f"link {self.link.address.identifier or '-'}: {what}")

    def _abandon(self, why: str) -> None:
        """Nothing of what is in flight will be heard of again."""
        work, self._work = self._work, None
        if work is not None:
            work.cancel()
        connection, self._connection = self._connection, None
        if connection is not None:
            self.websocket = None
            connection.leave(why)

    async def _resolve(self, ask: Resolve) -> None:
        try:
            found = await rpc.first_answer(
                ask.seeds,
                ask.address,
                timeout_s=ask.timeout_s,
                tls=self.link.tls_only,
                proxies=self._proxies,
            )
        except NconnectError as error:
            why = str(error)
            reason = DownReason.LOGIN_PAGE if isinstance(error, LoginPageError) else DownReason.NO_SEED
            self._done(lambda now: self.link.resolve_failed(why, now, reason=reason))
        except Exception as error:
            self._crash(error)
        else:
            self._done(lambda now: self.link.resolved(found.node, now, seed=found.seed))

    async def _connect(self, to: Connect) -> None:
        try:
            opened = await open_first(
                to,
                str(self.link.address),
                tls=self._tls,
                proxies=self._proxies,
                on_found=lambda node: self.on_found and self.on_found(node),
            )
        except NconnectError as error:
            why = str(error)
            self._done(lambda now: self.link.disconnected(why, now))
        except Exception as error:
            self._crash(error)
        else:
            socket = opened.socket
            self._connection = _Connection(self, socket)
            self.websocket = socket
            self._done(lambda now: self.link.connected(now, node=opened.node, way=opened.way))
            if self.websocket is socket:
                socket.start()

    def _done(self, tell: Callable[[float], None]) -> None:
        self._work = None  # this very task: nothing is left to cancel
        self._tell(tell)


class _Connection:
    """The handler of one websocket, until the link leaves it."""

    def __init__(self, runner: LinkRunner, socket: WebSocket) -> None:
        self._runner = runner
        self._socket = socket
        self._left = False
        self._acked = 0
        socket.handler = self

    def leave(self, why: str) -> None:
        self._left = True
        self._socket.close(1000, why)

    def on_binary(self, data: memoryview) -> None:
        runner = self._runner
        if self._left:
            return
        try:
            link = runner.link
            message = link.receive_binary(data, runner._clock())
            if message is not None:
                runner.on_message(message)
            if link.outputs:
                runner._do_outputs()
                runner._arm()
            elif link.receipts:
                runner._send_receipts_soon()
            if link.deadline_moved:
                runner._arm()
        except Exception as error:
            runner._crash(error)

    def on_text(self, data: memoryview) -> None:
        if not self._left:
            self._runner._tell(lambda now: self._runner.link.receive_text(data, now))

    def on_pong(self) -> None:
        if not self._left:
            self._runner._tell(self._runner.link.pong)

    def on_writable(self) -> None:
        if self._left:
            return
        try:
            # The other side's kernel has confirmed what was sent: a sign of life that a pong, behind a long
            # upload on a slow line, cannot give in time. (The pacer's turn alone is none.)
            acked = self._socket.acked_bytes
            if acked > self._acked:
                self._acked = acked
                self._runner.link.heard(self._runner._clock())
            self._runner.on_writable()
        except Exception as error:
            self._runner._crash(error)

    def on_closed(self, why: str) -> None:
        if self._left:
            return
        self._left = True
        self._runner._connection = self._runner.websocket = None
        self._runner._tell(lambda now: self._runner.link.disconnected(why, now))


def _peer(sock: socket.socket) -> Address | None:
    try:
        return ip_address(sock.getpeername()[0])
    except OSError:
        return None  # it has just closed
