"""Which addresses the daemon may connect to outside of the tunnel: seeds, nodes and proxies.

A node's address comes from a seed, and whoever is on the way to a plain-HTTP seed chooses it; a name's comes
from a name server. One inside a peer's prefix would make the daemon send there what is meant for the tunnel,
or take the prefix out of it. So it is refused, and the link goes on to another seed and node, unless the
configuration names that very address as a seed or proxy. Then its port is opened in the rules of
`fail_closed` before it is connected to, and a host route leads to it (`nconnect.host.bypass`).

Without `fail_closed` only prefixes that are routed into the tunnel count, since a skipped one (the user is at
home in that network) is reached directly anyway; and a proxy named by a host name gets its host route too.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from ipaddress import ip_address

from nconnect.config.proxy import Proxies
from nconnect.daemon.events import PlanInForce
from nconnect.daemon.settings import InForce
from nconnect.host.bypass import is_named
from nconnect.host.plan import peers_prefixes, tunnel_prefixes
from nconnect.io.net.resolve import stream_addresses
from nconnect.io.nkn.links import LinkCameUp, LinkWentDown
from nconnect.model import Address, Endpoint, Prefix, Proxy, join_addr
from nconnect.nkn.outputs import DownReason

MAX_ENDPOINTS = 16  # guessed: ports of nodes at addresses that the configuration names
LOOK_UP_S = 2.0  # guessed; the link asks for the same name at the same time
SAID_FOR_S = 600.0  # how long `status` names a refused address


class Endpoints:
    """What the host's plan excepts besides the seeds and the proxy that are named by address."""

    def __init__(self, in_force: InForce, proxies: Proxies) -> None:
        self.opened: deque[Endpoint] = deque(maxlen=MAX_ENDPOINTS)  # other ports there, such as a node's
        self.proxy_addresses: tuple[Address, ...] = ()  # of a proxy that is named by a host name
        self._in_force = in_force
        self._proxies = proxies

    def all(self) -> tuple[Endpoint, ...]:
        return (*self.opened, *self.proxy())

    def proxy(self) -> tuple[Endpoint, ...]:
        """A named proxy's endpoints; none with `fail_closed`: a name server must not open the firewall."""
        proxy = self._proxies.proxy
        if proxy is None or self._in_force.config.fail_closed:
            return ()
        return tuple(Endpoint(address, proxy.port) for address in self.proxy_addresses)


class WayOut:
    """One daemon's."""

    def __init__(
        self,
        in_force: InForce,
        proxies: Proxies,
        endpoints: Endpoints,
        *,
        plan_again: Callable[[], Awaitable[None]],
        clock: Callable[[], float],
    ) -> None:
        """`plan_again`: with other `endpoints`."""
        self._in_force = in_force
        self._proxies = proxies
        self._endpoints = endpoints
        self._plan_again = plan_again
        self._clock = clock
        self._routed: tuple[Prefix, ...] = ()
        self._closed: tuple[Prefix, ...] = ()
        self._elsewhere: tuple[Prefix, ...] = ()
        self._is_planned = asyncio.Event()
        self._refused: dict[str, tuple[float, str]] = {}  # why, by endpoint; and when last

    def plan_in_force(self, event: PlanInForce) -> None:
        plan = event.plan
        self._routed, self._closed = tuple(tunnel_prefixes(plan.state)), plan.closed
        self._elsewhere = plan.elsewhere
        self._is_planned.set()

    def refusal(self, address: Address) -> str:
        """Why this address may not be connected to; "" when it may."""
        if address.is_loopback or is_named(address, self._in_force.config, self._proxies):
            return ""
        if any(address == other for other, _ in self._endpoints.proxy()):
            return ""
        prefix = self._holder(address)
        if prefix is None:
            return ""
        return (
            f"{address} lies in {prefix}, which is reached through the tunnel: it is not used as a node, seed"
            " or proxy unless [network] names that address"
        )

    async def admit(self, address: Address, port: int) -> str:
        """As `refusal`, before the daemon connects: where it may, the firewall's rules are opened first.

        An address in a peer's prefix waits for the first plan, which says whether that prefix is routed.
        """
        config = self._in_force.config
        if is_named(address, config, self._proxies):
            if (address, port) not in self._endpoints.opened:
                self._endpoints.opened.append(Endpoint(address, port))
                if config.fail_closed and self._holder(address) is not None:
                    await self._plan_again()
            return ""
        if not self._is_planned.is_set() and _longest(address, peers_prefixes(config)):
            await self._is_planned.wait()
        why = self.refusal(address)
        if why:
            self._refused[join_addr(str(address), port)] = self._clock(), why
        return why

    def problems(self) -> list[str]:
        """Sentences for `status`: what was refused within `SAID_FOR_S`."""
        since = self._clock() - SAID_FOR_S
        self._refused = {place: said for place, said in self._refused.items() if said[0] > since}
        return [f"{place} was refused: {why}" for place, (_, why) in sorted(self._refused.items())]

    def _holder(self, address: Address) -> Prefix | None:
        """The prefix that the address belongs to: a closed one, or the longest of those that are routed."""
        closed = _longest(address, self._closed)
        if closed is not None:
            return closed
        routed, other = _longest(address, self._routed), _longest(address, self._elsewhere)
        if routed is None or (other is not None and other.prefixlen > routed.prefixlen):
            return None
        return routed


class ProxyAddresses:
    """Looks up a proxy that has a name, for `Endpoints`: no route may lead the way to it into the tunnel.

    Done before the first plan, and again whenever links come, fail or the network changes: without a route
    that hides it the link comes back, and with one it never would.
    """

    def __init__(
        self, proxies: Proxies, endpoints: Endpoints, plan_again: Callable[[], Awaitable[None]]
    ) -> None:
        """`plan_again`: with other `endpoints`."""
        self._endpoints = endpoints
        self._named = proxies.proxy if proxies.proxy is not None and _is_name(proxies.proxy.host) else None
        self._plan_again = plan_again
        self._task: asyncio.Task[None] | None = None

    async def look_up(self) -> None:
        """Never raises: without an answer the earlier one stays."""
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


def _longest(address: Address, prefixes: Iterable[Prefix]) -> Prefix | None:
    holding = (prefix for prefix in prefixes if prefix.version == address.version and address in prefix)
    return max(holding, key=lambda prefix: prefix.prefixlen, default=None)


async def _addresses(proxy: Proxy) -> tuple[Address, ...]:
    infos = await stream_addresses(proxy.host, proxy.port)
    return tuple(sorted({ip_address(info[4][0]) for info in infos}, key=lambda a: (a.version, a)))


def _is_name(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return True
    return False
