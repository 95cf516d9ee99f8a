"""What peers may have this device connect to, for streams and datagrams: judged, counted, ended.

What is judged is the address that is connected to (`nconnect.host.dialling`). A right that ends, because the
configuration changes, the peer is paused, its access ends or its quota is used up, ends at once what stood on
it.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from typing import TypeVar
from weakref import WeakValueDictionary

from nconnect.daemon.settings import InForce
from nconnect.daemon.shut import with_shut
from nconnect.host.dialling import target_of
from nconnect.io.process import descriptors
from nconnect.model import Address, Config, Endpoint, PeerConfig, Prefix
from nconnect.streams.dialler import RefusalCode, StreamRefused

_T = TypeVar("_T")

_LOOPBACK: Mapping[int, Address] = {4: ip_address("127.0.0.1"), 6: ip_address("::1")}
MAX_DIALLING = 64  # connections of one peer that are being opened; others wait


@dataclass(eq=False, slots=True)
class Served:
    """A way to a target that a peer has, or asks for."""

    peer: str  # NKN address
    protocol: str  # "tcp" or "udp"
    wanted: Endpoint  # as the peer calls it
    end: Callable[[str], object]  # ends it; why, a clause


class StreamRights:
    """One interface's, in the loop's thread."""

    def __init__(
        self,
        in_force: InForce,
        *,
        shut: Callable[[], Collection[str]],
        why_shut: Callable[[PeerConfig], str],
        own_addresses: Callable[[], Awaitable[Collection[Address]]],
        max_flows: Callable[[], Mapping[str, int]],
        elsewhere: Callable[[], Collection[Prefix]] = tuple,
        is_apart: bool = False,
    ) -> None:
        """`shut`: peers (NKN addresses) whose access has ended, besides those that are paused. `why_shut`: a
        clause, or "". `own_addresses`: of this machine, at this moment. `max_flows`: by the peer's name.
        `elsewhere`: prefixes that this machine reaches by another way than the tunnel. `is_apart`: the
        tunnel's own addresses are in another network, and mean this machine."""
        self.opened: Counter[str] = Counter()  # by the peer's name
        self.refused: dict[str, Counter[str]] = {}  # by the peer's name and reason, as the firewall's
        self._in_force = in_force
        self._shut = shut
        self._why_shut = why_shut
        self._own_addresses = own_addresses
        self._max_flows = max_flows
        self._elsewhere = elsewhere
        self._is_apart = is_apart
        self._served: set[Served] = set()
        self._count: Counter[str] = Counter()
        self._dialling: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()
        self._looking: set[asyncio.Task[None]] = set()

    @property
    def count(self) -> Mapping[str, int]:
        """How many each peer (NKN address) has."""
        return self._count

    def address_of(self, key: bytes) -> str:
        """The NKN address of the peer with this public key; "" if there is none."""
        peers = self._in_force.config.peers
        return next((str(peer.address) for peer in peers if peer.address.public_key == key), "")

    async def connect(
        self, served: Served, connected: Callable[[Endpoint], Awaitable[_T]], abort: Callable[[_T], object]
    ) -> _T:
        """What `connected` makes of the target, if the peer may have it. Raises `StreamRefused`.

        `release` must follow, unless this raises. `abort` undoes `connected`.
        """
        peer = self._peer(served.peer)
        if peer is None:
            raise StreamRefused("there is no such peer", RefusalCode.NOT_ALLOWED)
        most = descriptors.limit() // 2  # the rest is for links, direct paths and programs that ask
        if len(self._served) >= most or self._count[served.peer] >= most // 2:
            self._refused(peer, "flow_limit")
            raise StreamRefused("this device can have no more connections open", RefusalCode.TOO_MANY)
        limit = self._max_flows().get(peer.name)
        if limit is not None and self.count.get(served.peer, 0) >= limit:
            self._refused(peer, "flow_limit")
            raise StreamRefused("this peer has as many connections open as it may have", RefusalCode.TOO_MANY)
        self._count[served.peer] += 1
        self._served.add(served)  # from here on it counts, and `look` ends it
        turns = self._dialling.setdefault(served.peer, asyncio.Semaphore(MAX_DIALLING))
        try:
            async with turns:
                found = await self._connect(peer, served, connected, abort)
        except BaseException:
            self.release(served)
            raise
        self.opened[peer.name] += 1
        return found

    async def _connect(
        self,
        peer: PeerConfig,
        served: Served,
        connected: Callable[[Endpoint], Awaitable[_T]],
        abort: Callable[[_T], object],
    ) -> _T:
        target = self._judged(peer, served, await self._own_addresses())
        if isinstance(target, str):
            self._refused(peer, "refused")
            raise StreamRefused(target, RefusalCode.NOT_ALLOWED)
        found = await connected(target)
        try:  # the rights may have changed while it was opened
            again = self._judged(self._peer(served.peer), served, await self._own_addresses())
            if again != target or served not in self._served:
                raise StreamRefused("this peer may not reach it any more", RefusalCode.NOT_ALLOWED)
        except BaseException:
            abort(found)
            raise
        return found

    def release(self, served: Served) -> None:
        """It has ended. May be called again."""
        if served in self._served:
            self._served.discard(served)
            self._count[served.peer] -= 1
            if not self._count[served.peer]:
                del self._count[served.peer]

    def look(self, _: object = None) -> None:
        """Rights may have changed: end what is not allowed any more. Waits for nothing."""
        task = asyncio.get_running_loop().create_task(self._look())
        self._looking.add(task)
        task.add_done_callback(self._looking.discard)

    async def _look(self) -> None:
        own = await self._own_addresses()
        for served in list(self._served):
            target = self._judged(self._peer(served.peer), served, own)
            if isinstance(target, str):
                self.release(served)
                served.end(target)

    def _judged(self, peer: PeerConfig | None, served: Served, own: Collection[Address]) -> Endpoint | str:
        if peer is None:
            return "there is no such peer any more"
        if why := self._why_shut(peer):
            return why
        config = self._config()
        tunnel = {address.ip for address in config.address}
        own, elsewhere = {*own, *tunnel}, self._elsewhere()
        target = target_of(peer, served.protocol, served.wanted, config, own, elsewhere)
        if self._is_apart and isinstance(target, Endpoint) and target.address in tunnel:
            return Endpoint(_LOOPBACK[target.address.version], target.port)
        return target

    def _config(self) -> Config:
        return with_shut(self._in_force.config, self._shut())

    def _peer(self, dest: str) -> PeerConfig | None:
        return next((peer for peer in self._config().peers if str(peer.address) == dest), None)

    def _refused(self, peer: PeerConfig, why: str) -> None:
        self.refused.setdefault(peer.name, Counter())[why] += 1
