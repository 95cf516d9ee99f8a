"""Applying to a provider with a token, over a link that lives only that long."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from typing import Any

from nconnect.config.proxy import UNPROXIED, Proxies
from nconnect.crypto.keys import Identity
from nconnect.errors import NetworkError
from nconnect.invite.applicant import Applicant
from nconnect.invite.token import Token
from nconnect.invite.welcome import Welcome
from nconnect.io.clock import boottime
from nconnect.io.nkn.link import LinkRunner
from nconnect.model import AcceptRoutes, NknAddress
from nconnect.nkn.link import Link
from nconnect.nkn.outputs import DownReason
from nconnect.wire.jsonrpc import NodeInfo
from nconnect.wire.login_page import without_query
from nconnect.wire.nkn import InboundMessage


class NoNode(NetworkError):
    """No node was reached in time."""


MAX_SAID = 3  # different pages that are told; whoever is on the way could make them up


async def apply(
    token: Token,
    identity: Identity,
    address: NknAddress,
    seeds: Sequence[str],
    *,
    timeout_s: float,
    proxies: Proxies = UNPROXIED,
    say: Callable[[str], None] = lambda why: None,
    accept: AcceptRoutes = "private",
) -> Welcome:
    """The provider's welcome. Raises `Refused` with its reason (`RoutesNotAccepted` when it has more to route
    than `accept`), or `NetworkError` when none comes in time.

    It goes on trying until then. `say` is told, once each, of a login page that somebody must open meanwhile.
    """
    return await _Application(token, identity, address, seeds, proxies, say, accept).run(timeout_s)


class _Application:
    """The handler of the link."""

    def __init__(
        self,
        token: Token,
        identity: Identity,
        address: NknAddress,
        seeds: Sequence[str],
        proxies: Proxies,
        say: Callable[[str], None],
        accept: AcceptRoutes,
    ) -> None:
        self._say = say
        self._said: set[str] = set()
        self._applicant = Applicant(token, identity, address, os.urandom, accept)
        link = Link(identity, address, seeds, now=boottime(), rng=os.urandom)
        self._runner = LinkRunner(link, self, proxies=proxies)
        self._up = asyncio.Event()
        self._was_up = False
        self._answer: asyncio.Future[Welcome]

    async def run(self, timeout_s: float) -> Welcome:
        loop = asyncio.get_running_loop()
        self._answer = loop.create_future()
        tasks: list[asyncio.Task[None]] = [
            loop.create_task(self._runner.run(), name="link"),
            loop.create_task(self._ask(), name="apply"),
        ]
        try:
            async with asyncio.timeout(timeout_s):
                waited_for: list[asyncio.Future[Any]] = [*tasks, self._answer]
                await asyncio.wait(waited_for, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                if task.done():
                    task.result()  # raises: neither ends by itself
            return await self._answer
        except TimeoutError:
            raise self._nothing(timeout_s) from None
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            if self._answer.done() and not self._answer.cancelled():
                self._answer.exception()  # it has been looked at

    async def _ask(self) -> None:
        while True:
            await self._up.wait()
            payload = self._applicant.poll_send(boottime())
            if payload is not None:
                self._runner.send(self._applicant.dest, (payload,))
            await asyncio.sleep(max(0.01, self._applicant.poll_timeout() - boottime()))

    def _nothing(self, timeout_s: float) -> NetworkError:
        if not self._was_up:
            why = self._runner.link.last_error or "still connecting"
            return NoNode(f"no node could be reached within {timeout_s:g} s: {why}")
        return NetworkError(
            f"no answer within {timeout_s:g} s: the provider is offline, or this is not its invitation"
            " (on its side, see `nconnect status` and `nconnect invite list`)"
        )

    def on_message(self, message: InboundMessage) -> None:
        if self._answer.done():
            return
        try:
            welcome = self._applicant.receive(message.src, message.payload)
        except NetworkError as refused:
            self._answer.set_exception(refused)
        else:
            if welcome is not None:
                self._answer.set_result(welcome)

    def on_up(self, node: NodeInfo) -> None:
        self._was_up = True
        self._up.set()

    def on_down(self, why: str, reason: DownReason) -> None:
        self._up.clear()
        what = without_query(why)
        if reason is DownReason.LOGIN_PAGE and what not in self._said and len(self._said) < MAX_SAID:
            self._said.add(what)
            self._say(why)

    def on_writable(self) -> None: ...
