"""What links and driver report, taken to whom it concerns, and said in the log where a user would want it."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable

from nconnect.daemon.counters import CounterKeeper
from nconnect.daemon.driver import Driver
from nconnect.daemon.enrolment import Enrolment
from nconnect.daemon.expiry import ExpiryNotices
from nconnect.daemon.host_state import HostState
from nconnect.daemon.log_rate_limit import LogRateLimit
from nconnect.daemon.waiting import Waiting
from nconnect.host.nft import provides
from nconnect.io.clock import boottime
from nconnect.io.nkn.links import Links
from nconnect.model import Config
from nconnect.nkn.outputs import DownReason
from nconnect.tunnel.outputs import Pong
from nconnect.tunnel.peer import Peer
from nconnect.wire.jsonrpc import NodeInfo
from nconnect.wire.login_page import without_query
from nconnect.wire.nkn import InboundMessage

log = logging.getLogger(__name__)


class Reports:
    """What a `Links` and a `Driver` call (`LinksHandler`, `Events`).

    Both are made with it, so it gets them, and what is made after them, by the attributes below.
    """

    links: Links
    driver: Driver
    waiting: Waiting
    reception: Enrolment

    def __init__(
        self,
        config: Callable[[], Config],
        *,
        enforcement: HostState,
        expiry: ExpiryNotices,
        counters: CounterKeeper,
        keep_trying: bool,
        clock: Callable[[], float] = boottime,
    ) -> None:
        """`keep_trying`: a first login that fails is not the end, so it is said in the log."""
        self.link_changed: Callable[[], None] = lambda: None  # a link is up, or failed
        self._config = config
        self._host_state = enforcement
        self._expiry = expiry
        self._counters = counters
        self._keep_trying = keep_trying
        self._why_link_0 = ""  # it could not come up; a spare link might
        self._clock = clock
        self._found = LogRateLimit()  # a link that is tried again finds the same node, each time
        self._outage = LogRateLimit()  # no link at all
        # One link, while others are up.
        self._link_outages: defaultdict[int, LogRateLimit] = defaultdict(LogRateLimit)

    # Of the links

    def on_message(self, message: InboundMessage) -> None:
        self.driver.on_message(message)

    def on_writable(self) -> None:
        self.driver.flush()

    def on_found(self, node: NodeInfo) -> None:
        if self._found.is_news(node.addr, self._clock()):
            self._step(f"node found: {node.addr}", event="node_found", node=node.addr)

    def on_up(self, node: NodeInfo) -> None:
        self._step(f"logged in at node {node.addr}", event="logged_in", node=node.addr)
        self.waiting.notify()
        self._tell_links()
        self.link_changed()
        tags = self.links.tags()
        for said in (self._found, self._outage, *(self._link_outages[link] for link in tags)):
            said.end()
        if len(tags) == 1:
            self.driver.on_link_up()

    def on_down(self, why: str, reason: DownReason, link: int) -> None:
        if reason is not DownReason.STOPPED and (self.waiting.is_ready or self._keep_trying):
            self._say_outage(why, link)
        if reason is not DownReason.STOPPED:
            self.link_changed()
            if not link:
                self._why_link_0 = why
        at_the_node = reason in (DownReason.UNREACHABLE, DownReason.TIMED_OUT, DownReason.STOPPED)
        if self._why_link_0 and not (at_the_node and self.links.spare_may_help()):
            self.waiting.link_failed(self._why_link_0)
        self.waiting.notify()
        self._tell_links()

    def _say_outage(self, why: str, link: int) -> None:
        what = without_query(why)
        if self.links.is_up:
            if self._link_outages[link].is_news(what, self._clock()):
                log.info("link %d is down, others are up: %s", link, why)
        elif self._outage.is_news(what, self._clock()):
            log.warning("no link to a node: %s", why)

    def _tell_links(self) -> None:
        if self.links.count > 1 or self.links.spare_was_up:
            self.driver.set_links(self.links.tags())

    # Of the driver

    def on_session_up(self, peer: Peer) -> None:
        plan = self._host_state.plan
        skipped = {skipped.route for skipped in plan.skipped_routes} if plan else set()
        reach = [
            str(prefix)
            for prefix in peer.config.allowed_ips
            if prefix not in skipped and not provides(self._config())
        ]
        log.info(
            "%s: session up",
            peer.name,
            extra={"event": "peer_up", "peer": peer.name, "allowed_ips": reach},
        )
        self.reception.session_up(peer.dest)
        self.waiting.notify()

    def on_session_lost(self, peer: Peer, why: str) -> None:
        if not peer.expired:  # else that was said already
            log.info("%s", why, extra={"peer": peer.name})
        self.waiting.notify()

    def on_expiry_changed(self, peer: Peer) -> None:
        log.info("%s", f"{peer.name} has expired" if peer.expired else f"{peer.name} may pass again")
        self._expiry.moved.set()

    def on_pong(self, pong: Pong) -> None:
        self.waiting.answered(pong)

    def on_counters_moved(self) -> None:
        self._counters.moved()

    # Of the host

    def routes_set(self) -> None:
        plan = self._host_state.plan
        routes = ", ".join(map(str, plan.state.routes if plan else ())) or "none"
        self._step(f"routes set: {routes}", event="routes_set", routes=routes)

    def _step(self, text: str, **fields: str) -> None:
        """Before all is up this is for who watches the start: one that fails is one line in the log."""
        level = logging.INFO if self.waiting.is_ready else logging.DEBUG
        log.log(level, "%s", text, extra=fields)
