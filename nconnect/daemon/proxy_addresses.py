"""Where the proxy is, when its URL has a name: no route may lead the way to it into the tunnel.

It is looked up before the first plan, and again whenever links come, fail or the network changes: without a
route that hides it the link comes back, and with one it never would.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from ipaddress import ip_address

from nconnect.config.proxy import Proxies
from nconnect.daemon.way_out import Endpoints
from nconnect.io.net.resolve import stream_addresses
from nconnect.io.nkn.links import LinkCameUp, LinkWentDown
from nconnect.model import Address, Proxy
from nconnect.nkn.outputs import DownReason

LOOK_UP_S = 2.0  # guessed; the link asks for the same name at the same time


class ProxyAddresses:
    """One daemon's. Keeps the newest answer in `Endpoints`; does nothing for a proxy that is an address."""

    def __init__(
        self, proxies: Proxies, endpoints: Endpoints, plan_again: Callable[[], Awaitable[None]]
    ) -> None:
        """`plan_again`: with other `endpoints`."""
        self._endpoints = endpoints
        self._named = proxies.proxy if proxies.proxy is not None and _is_name(proxies.proxy.host) else None
        self._plan_again = plan_again
        self._task: asyncio.Task[None] | None = None

    async def look_up(self) -> None:
        """Never fails: without an answer the one before stays."""
        if self._named is not None:
            try:
                async with asyncio.timeout(LOOK_UP_S):
                    self._endpoints.proxy_addresses = await _addresses(self._named)
            except (OSError, TimeoutError):
                pass

    def link_changed(self, event: LinkCameUp | LinkWentDown) -> None:
        """A link is up, or an attempt has failed: look and plan again, unless that is under way."""
        if isinstance(event, LinkWentDown) and event.reason is DownReason.STOPPED:
            return
        if self._named is not None and (self._task is None or self._task.done()):
            self._task = asyncio.get_running_loop().create_task(self._again(), name="find the proxy")

    async def _again(self) -> None:
        before = self._endpoints.proxy_addresses
        await self.look_up()
        if self._endpoints.proxy_addresses != before:
            await self._plan_again()


async def _addresses(proxy: Proxy) -> tuple[Address, ...]:
    infos = await stream_addresses(proxy.host, proxy.port)
    return tuple(sorted({ip_address(info[4][0]) for info in infos}, key=lambda a: (a.version, a)))


def _is_name(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return True
    return False
