"""Several links of one client: link 0 logs in with the bare address, link `k` as sub-client `k`.

Each connects to the node that the network names for its address. If two are named the same node, the one
with the higher number is *shared*: it leaves, and the lower one stands in for it. From time to time, and
whenever a link is lost, it asks whether it has a node of its own by now.

Spare links follow them (`nconnect.nkn.spares`), which run only while no other link can reach its node.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from nconnect.config.proxy import UNPROXIED, Proxies
from nconnect.crypto.keys import Identity
from nconnect.errors import NconnectError
from nconnect.io.clock import boottime
from nconnect.io.net import resolve
from nconnect.io.nkn import rpc
from nconnect.io.nkn.link import LinkRunner
from nconnect.model import Address, Buffer, NknAddress, Rng
from nconnect.nkn.link import RESOLVE_S, Link
from nconnect.nkn.outputs import DownReason
from nconnect.nkn.spares import Spares
from nconnect.wire.jsonrpc import NodeInfo
from nconnect.wire.nkn import InboundMessage
from nconnect.wire.tunnel import MAX_LINKS, SPARES

# Guessed. Who serves an address changes when nodes come and go.
_ASK_AGAIN_S = 60.0
AFTER_LOSS_S = 1.0  # a link was lost: its node may be out of the seeds' answers soon
DRAIN_S = 1.0  # guessed: several round trips to a peer
_LOOK_S = 0.25  # how often it is seen whether a link is stuck

_NO_NODE = (DownReason.NO_SEED, DownReason.LOGIN_PAGE, DownReason.NETWORK_CHANGED, DownReason.STOPPED)


@dataclass(frozen=True, slots=True)
class NodeFound:
    """A link is about to connect to this node."""

    node: NodeInfo


@dataclass(frozen=True, slots=True)
class LinkCameUp:
    """A link is up, at a node where no other link is."""

    node: NodeInfo


@dataclass(frozen=True, slots=True)
class LinkWentDown:
    """This link broke, or another attempt to connect it failed."""

    why: str
    reason: DownReason
    link: int


LinkEvent = NodeFound | LinkCameUp | LinkWentDown


class Links:
    """The links of one client. `runners` are for the driver, by number: `count`, and the spare ones.

    Messages are dropped until somebody sets `on_message` of the runners.
    """

    def __init__(
        self,
        identity: Identity,
        address: NknAddress,
        seeds: Sequence[str],
        tell: Callable[[LinkEvent], None],
        *,
        count: int,
        rng: Rng,
        clock: Callable[[], float] = boottime,
        ask_again_s: float = _ASK_AGAIN_S,
        after_loss_s: float = AFTER_LOSS_S,
        proxies: Proxies = UNPROXIED,
    ) -> None:
        """`tell` is called synchronously, on the loop."""
        self.proxies = proxies
        self.tell = tell
        spares = min(SPARES, MAX_LINKS - count)
        self.count = count
        self._spares = Spares(count, spares)
        self._clock = clock
        self._look_timer: asyncio.TimerHandle | None = None
        self._ones = [
            _One(
                self,
                number,
                Link(
                    identity,
                    address.sub_client(number) if number else address,
                    # A seed that names a dead node is not what a spare asks first.
                    seeds if number < count else [*seeds[1:], *seeds[:1]],
                    now=clock(),
                    rng=rng,
                ),
                clock,
            )
            for number in range(count + spares)
        ]
        self.spare_was_up = False
        self.runners = [one.runner for one in self._ones]
        self.ask_again_s, self.after_loss_s = ask_again_s, after_loss_s
        self.closed = False

    # What an owner asks

    @property
    def links(self) -> list[Link]:
        """By number; without the spare ones that do not run."""
        return [runner.link for runner in self.runners[: self._shown]]

    @property
    def link(self) -> Link:
        """The first link that is up, or link 0."""
        return next((one.runner.link for one in self._ones if one.is_up), self.runners[0].link)

    @property
    def is_up(self) -> bool:
        return any(one.is_up for one in self._ones)

    def spare_may_help(self) -> bool:
        """Whether a spare link may come up yet, where the node of another was not reached."""
        return self._spares.may_help(self._clock())

    @property
    def shared_with(self) -> list[int | None]:
        """For each link the number of the one that stands in for it."""
        return [one.shared_with for one in self._ones[: self._shown]]

    @property
    def _shown(self) -> int:
        return max((one.number + 1 for one in self._ones if one.wanted.is_set()), default=self.count)

    def tags(self) -> dict[int, int]:
        """The links that are up, and a tag of each one's node, the same for all clients of that node."""
        return {one.number: tag_of(one.node) for one in self._ones if one.is_up and one.node is not None}

    def leg_s(self, link: int) -> float | None:
        """The newest round trip of this link to its node. Who asks has a newer one soon."""
        runner = self.runners[link]
        runner.measure()
        return runner.link.rtt_s

    def send(self, dest: str, parts: Sequence[Buffer]) -> bool:
        """Send one message over any link; False when all are down and it was dropped."""
        return any(one.is_up and one.runner.send(dest, parts) for one in self._ones)

    # Control

    def tasks(self) -> list[tuple[str, Callable[[], Awaitable[None]]]]:
        """What is to run, with names; each ends when `close` is called."""
        return [(f"link {one.number}" if one.number else "link", one.run) for one in self._ones]

    def close(self) -> None:
        self.closed = True
        if self._look_timer is not None:
            self._look_timer.cancel()
            self._look_timer = None
        for one in self._ones:
            one.recheck.set()
            one.wanted.set()
            one.runner.close()

    def network_changed(self) -> None:
        resolve.forget()
        for one in self._ones:
            if one.shared_with is None:
                one.runner.network_changed()
            one.recheck.set()

    def leave(self, refusal: Callable[[Address], str]) -> None:
        """Give up connections to addresses for which `refusal` has a reason."""
        for one in self._ones:
            one.runner.leave(refusal)

    def other_at(self, node: NodeInfo, number: int) -> _One | None:
        """The link that is up at this node, other than `number`."""
        for one in self._ones:
            if one.number != number and one.is_up and one.node and one.node.public_key == node.public_key:
                return one
        return None

    def stand_in(self, old: int, new: int) -> None:
        """`new` stands in for all for which `old` did, which becomes shared itself."""
        for one in self._ones:
            if one.shared_with == old:
                one.shared_with = new

    def lost_one(self) -> None:
        for one in self._ones:
            one.recheck.set()

    def found(self, number: int, node: NodeInfo) -> None:
        """A link goes to this node."""
        if self.runners[number].link.is_named:
            self._spares.named(number, node.public_key, self._clock())
            self._look()
        self.tell(NodeFound(node))

    def came_up(self, number: int) -> None:
        self._spares.up(number, self._clock())
        self.spare_was_up |= number >= self.count
        self._look()

    def went(self, number: int, reason: DownReason) -> None:
        """A link broke, was stopped, or failed to come up."""
        if reason in _NO_NODE:
            self._spares.went(number)
        else:
            self._spares.failed(number)
        self._look()

    def _look(self) -> None:
        """Start and stop the spares, now and, as long as time may change that, every `_LOOK_S`."""
        if self.closed:
            return
        wanted = self._spares.wanted(self._clock())
        for one in self._ones[self.count :]:
            if one.number in wanted:
                one.wanted.set()
            elif one.wanted.is_set():
                one.wanted.clear()
                # Later: what calls this may be the link itself.
                asyncio.get_running_loop().call_soon(one.runner.close)
        if self._look_timer is None and self._spares.is_watching():
            self._look_timer = asyncio.get_running_loop().call_later(_LOOK_S, self._on_look_timer)

    def _on_look_timer(self) -> None:
        self._look_timer = None
        self._look()


class _One:
    """One of them, and the handler of its runner."""

    def __init__(self, links: Links, number: int, link: Link, clock: Callable[[], float]) -> None:
        self.number = number
        self.node: NodeInfo | None = None  # while up
        self.shared_with: int | None = None
        self.recheck = asyncio.Event()
        self.wanted = asyncio.Event()  # of a spare: it is to run
        if number < links.count:
            self.wanted.set()
        self._links = links
        self.runner = LinkRunner(link, self, clock=clock, proxies=links.proxies)
        self.runner.on_found = lambda node: links.found(number, node)

    @property
    def is_up(self) -> bool:
        return self.shared_with is None and self.runner.is_up

    async def run(self) -> None:
        """Keep the link, or ask for a node of its own while it is shared."""
        while not self._links.closed:
            self.shared_with = None
            if self.number >= self._links.count:
                await self.wanted.wait()
                if self.wanted.is_set() and not self._links.closed:
                    await self.runner.run()
                    self._links.went(self.number, DownReason.STOPPED)
                continue
            await self.runner.run()
            if self.shared_with is None:
                return
            await self._until_it_has_its_own()

    def on_message(self, message: InboundMessage) -> None: ...
    def on_writable(self) -> None: ...

    def on_up(self, node: NodeInfo) -> None:
        self.node = node
        if self.shared_with is not None:  # it came up again while it drained
            return
        other = self._links.other_at(node, self.number)
        if other is not None and other.number < self.number:
            self._share(other)
            self.runner.close()
            return
        if other is not None:
            other._share(self)
            # Peers know of it: what they sent before they hear of this link still arrives.
            asyncio.get_running_loop().call_later(DRAIN_S, other.runner.close)
        self._links.came_up(self.number)
        self._links.tell(LinkCameUp(node))

    def on_down(self, why: str, reason: DownReason) -> None:
        self.node = None
        self._links.went(self.number, reason)
        if self.shared_with is None:
            self._links.tell(LinkWentDown(why, reason, self.number))
            self._links.lost_one()

    def _share(self, other: _One) -> None:
        self._links.stand_in(self.number, other.number)
        self.shared_with = other.number
        self.recheck.clear()

    async def _until_it_has_its_own(self) -> None:
        link = self.runner.link
        while not self._links.closed:
            try:
                async with asyncio.timeout(self._links.ask_again_s):
                    await self.recheck.wait()
                if self._links.closed:
                    return
                await asyncio.sleep(self._links.after_loss_s)
            except TimeoutError:
                pass
            self.recheck.clear()
            try:
                node = await rpc.resolve(
                    link.seeds, str(link.address), timeout_s=RESOLVE_S, proxies=self._links.proxies
                )
            except NconnectError:
                continue
            other = self._links.other_at(node, self.number)
            if other is None:
                return
            self.shared_with = other.number


def tag_of(node: NodeInfo) -> int:
    """32 bits that tell nodes apart; never 0."""
    return int.from_bytes(hashlib.sha256(node.public_key_bytes).digest()[:4]) or 1
