"""The events that a user would look for in the log, each as one line."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable

from nconnect.config.values import format_allow_rule
from nconnect.daemon.events import PeerStated, PlanInForce, Ready, Resumed
from nconnect.daemon.settings import InForce
from nconnect.host.offered import provides
from nconnect.host.plan import HostPlan
from nconnect.io.clock import boottime
from nconnect.io.nkn.links import LinkCameUp, Links, LinkWentDown, NodeFound
from nconnect.model import NknAddress
from nconnect.nkn.outputs import DownReason
from nconnect.tunnel.outputs import DirectChanged, ExpiryChanged, SessionLost, SessionUp
from nconnect.tunnel.peer import Peer
from nconnect.wire.login_page import without_query

log = logging.getLogger(__name__)

# Guessed: somebody who looks at the log finds a recent line, and a night without a network fills no disk.
FIRST_S, LONGEST_S = 15.0, 900.0
MAX_RULES = 8  # in a line
MAX_TEXTS = 16  # that are remembered; a node could make them up


class EventLog:
    """One interface's. Each method takes one event."""

    def __init__(
        self,
        in_force: InForce,
        address: NknAddress,
        links: Links,
        *,
        keep_trying: bool,
        clock: Callable[[], float] = boottime,
    ) -> None:
        """`keep_trying`: a first login that fails does not end the daemon, so the log has to tell of it."""
        self._in_force = in_force
        self._address = address
        self._links = links
        self._keep_trying = keep_trying
        self._clock = clock
        self._is_ready = False
        self._plan: HostPlan | None = None
        self._found = LogRateLimit()  # a link that tries again finds the same node each time
        self._outage = LogRateLimit()  # no link at all
        self._up: dict[str, Peer] = {}  # those with a session: new keys for one are no news
        self._direct: set[str] = set()  # the peers to whom packets go directly
        self._allowed: defaultdict[str, LogRateLimit] = defaultdict(LogRateLimit)  # by peer
        self._paths: defaultdict[str, LogRateLimit] = defaultdict(LogRateLimit)  # by peer
        # One link, while others are up.
        self._link_outages: defaultdict[int, LogRateLimit] = defaultdict(LogRateLimit)

    def node_found(self, event: NodeFound) -> None:
        if self._found.is_news(event.node.addr, self._clock()):
            self._step(f"node found: {event.node.addr}", event="node_found", node=event.node.addr)

    def link_came_up(self, event: LinkCameUp) -> None:
        self._step(f"logged in at node {event.node.addr}", event="logged_in", node=event.node.addr)
        for said in (self._found, self._outage, *(self._link_outages[link] for link in self._links.tags())):
            said.end()

    def link_went_down(self, event: LinkWentDown) -> None:
        if event.reason is DownReason.STOPPED or not (self._is_ready or self._keep_trying):
            return
        what = without_query(event.why)
        if self._links.is_up:
            if self._link_outages[event.link].is_news(what, self._clock()):
                log.info("link %d is down, others are up: %s", event.link, event.why)
        elif self._outage.is_news(what, self._clock()):
            log.warning("no link to a node: %s", event.why)

    def session_up(self, event: SessionUp) -> None:
        peer, config = event.peer, self._in_force.config
        if self._up.get(peer.name) is peer:
            return
        self._up[peer.name] = peer
        skipped = self._skipped()
        reach = [str(prefix) for prefix in peer.config.allowed_ips if str(prefix) not in skipped]
        fields = {"event": "peer_up", "peer": peer.name, "allowed_ips": [] if provides(config) else reach}
        log.info("%s: session up", peer.name, extra=fields)

    def session_lost(self, event: SessionLost) -> None:
        self._up.pop(event.peer.name, None)
        if not event.peer.expired:  # else `expiry_changed` has told it
            log.info("%s", event.why, extra={"peer": event.peer.name})

    def direct_changed(self, event: DirectChanged) -> None:
        """A direct path is used, or no more. Addresses are in `status`, and not in the log."""
        name, path = event.peer.name, event.peer.direct
        is_up = path is not None and path.carries_direct
        if path is None or is_up == (name in self._direct):
            return
        if is_up:
            self._direct.add(name)
            what = "packets go directly"
        else:
            self._direct.discard(name)
            what = f"packets go by a node again: {path.why}"
        if self._paths[name].is_news(what, self._clock()):
            log.info("%s: %s", name, what, extra={"peer": name})

    def stated(self, event: PeerStated) -> None:
        """A peer says what of its networks may be reached, where that is not all."""
        name, allow = event.peer.name, event.statement.allow
        if allow is None:
            return
        more = f" and {len(allow) - MAX_RULES} more" if len(allow) > MAX_RULES else ""
        what = f"{', '.join(map(format_allow_rule, allow[:MAX_RULES])) or 'nothing'}{more}"
        if self._allowed[name].is_news(what, self._clock()):
            log.info("%s lets this device reach %s", name, what, extra={"peer": name})

    def expiry_changed(self, event: ExpiryChanged) -> None:
        peer = event.peer
        log.info("%s", f"{peer.name} has expired" if peer.expired else f"{peer.name} may pass again")

    def plan_in_force(self, event: PlanInForce) -> None:
        """The first plan is a step of the start."""
        if self._plan is None:
            routes = ", ".join(map(str, event.plan.state.routes)) or "none"
            self._step(f"routes set: {routes}", event="routes_set", routes=routes)
        self._plan = event.plan

    def ready(self, _: Ready) -> None:
        self._is_ready = True
        interface, node = self._in_force.config.interface, self._links.link.node
        where = f", logged in at node {node.addr}" if node is not None and self._links.is_up else ""
        fields = {
            "event": "up",
            "interface": interface,
            "address": str(self._address),
            "skipped": self._skipped(),
        }
        log.info("%s is up as %s%s", interface, self._address, where, extra=fields)

    def resumed(self, event: Resumed) -> None:
        log.info("this machine slept, or was held up, for %.0f s", event.away_s)

    def _skipped(self) -> list[str]:
        return [str(skipped.route) for skipped in self._plan.skipped_routes] if self._plan else []

    def _step(self, text: str, **fields: str) -> None:
        """Until all is up, a step is shown in a terminal alone: a start that fails is one line in the log."""
        log.log(logging.INFO if self._is_ready else logging.DEBUG, "%s", text, extra=fields)


class LogRateLimit:
    """When what repeats is worth a line: at once when it is another, then ever more rarely, until it ends.

    A link without a node tries again every second or so, for as long as it takes: it finds a node, and fails.
    """

    def __init__(self) -> None:
        self._said: set[str] = set()
        self._interval_s = FIRST_S
        self._again_at = 0.0

    def is_news(self, text: str, now: float) -> bool:
        """It happened again: whether to say so."""
        is_new = text not in self._said and len(self._said) < MAX_TEXTS
        if not self._said:
            self._interval_s = FIRST_S
        elif now >= self._again_at:
            self._interval_s = min(2 * self._interval_s, LONGEST_S)
        elif not is_new:
            return False
        if is_new:
            self._said.add(text)
        self._again_at = now + self._interval_s
        return True

    def end(self) -> None:
        """It is over: whatever comes next is news again."""
        self._said.clear()
