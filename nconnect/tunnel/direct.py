"""Direct paths of all peers: what their machines say is done, and they are told what happens. Pure.

A peer's `DirectPath` (`nconnect.tunnel.paths.direct`) decides; `settle` is called after everything that may
have moved it, sends what it wants to send, and keeps its next deadline among the peer's timers.
"""

from __future__ import annotations

from collections.abc import Callable

from nconnect.tunnel.control_frames import ControlFrames
from nconnect.tunnel.outputs import Context, DirectChanged, Pong
from nconnect.tunnel.paths.datagrams import UDP_LINK
from nconnect.tunnel.paths.direct import outputs as said
from nconnect.tunnel.paths.direct.blocks import BlockRoom
from nconnect.tunnel.paths.manager import PathManager
from nconnect.tunnel.peer import Peer
from nconnect.tunnel.timers import NEVER, Timer
from nconnect.wire.tunnel import RecordKind

TRAFFIC_EVERY_S = 0.02  # the machine need not know of each packet


class DirectPaths:
    """Peers without one are passed over."""

    def __init__(self, context: Context, path_manager: PathManager, control_frames: ControlFrames) -> None:
        self._outputs, self._timer_heap, self._rng = context.outputs, context.timer_heap, context.rng
        self._send_datagram = context.send_datagram
        self.relay_is_up = True  # any link to a node
        self.is_busy: Callable[[], bool] = bool  # whether we are late in reading what comes by UDP
        self.blocks = BlockRoom()
        self._settings = context.settings
        self._path_manager = path_manager
        self._control_frames = control_frames

    # What happens

    def session_up(self, peer: Peer, now: float) -> None:
        """There are new keys, the first or not."""
        if (datagrams := peer.datagrams) is not None and not datagrams.has_session:
            datagrams.has_session = True
            datagrams.machine.session_started(now)
            self.settle(peer, now)

    def session_ended(self, peer: Peer, now: float) -> None:
        """There are no keys any more."""
        if (datagrams := peer.datagrams) is not None and datagrams.has_session:
            datagrams.session_ended()
            datagrams.machine.session_ended(now)
            self.settle(peer, now)

    def packets_sent(self, peer: Peer, now: float) -> None:
        """Packets have left, by whichever path."""
        datagrams = peer.datagrams
        if datagrams is None:
            return
        machine = datagrams.machine
        if now >= datagrams.traffic_at + TRAFFIC_EVERY_S:
            datagrams.traffic_at = now
            machine.traffic(now)
        elif not machine.carries_direct:
            return  # it was told nothing
        elif not machine.has_output and machine.next_at >= datagrams.wakes_at:
            return
        self.settle(peer, now)

    def batch_received(self, peer: Peer, now: float) -> None:
        """A batch came, by whichever path: it may have had packets."""
        datagrams = peer.datagrams
        if datagrams is not None and datagrams.rx_packets != peer.traffic.rx_packets:
            datagrams.rx_packets = peer.traffic.rx_packets
            if now >= datagrams.traffic_at + TRAFFIC_EVERY_S:
                datagrams.traffic_at = now
                datagrams.machine.traffic(now)
                self.settle(peer, now)

    def configured(self, peer: Peer, now: float) -> None:
        """The configuration was read again."""
        if (datagrams := peer.datagrams) is not None:
            datagrams.machine.set_mode(self._settings.direct_mode(peer.config), now)
            self.settle(peer, now)

    def network_changed(self, peer: Peer, now: float) -> None:
        """This device's addresses or routes have changed."""
        if (datagrams := peer.datagrams) is not None:
            datagrams.machine.network_changed(now)
            self.settle(peer, now)

    def relay_came_back(self, peer: Peer, now: float) -> None:
        """A link to a node is up again."""
        if (datagrams := peer.datagrams) is not None:
            datagrams.machine.relay_came_back(now)
            self.settle(peer, now)

    def candidates_changed(self, peer: Peer, now: float) -> None:
        """What peers are told has changed."""
        if (datagrams := peer.datagrams) is not None:
            datagrams.machine.candidates_changed(now)
            self.settle(peer, now)

    def too_big(self, peer: Peer, size: int, now: float) -> None:
        """The kernel refused a datagram of this size (EMSGSIZE)."""
        if (datagrams := peer.datagrams) is not None:
            datagrams.machine.too_big(size, now)
            self.settle(peer, now)

    def on_timer(self, peer: Peer, now: float) -> None:
        """The machine's deadline has come."""
        if (datagrams := peer.datagrams) is not None:
            datagrams.wakes_at = NEVER
            datagrams.machine.relay_is_up = self.relay_is_up
            datagrams.machine.handle_timeout(now)
            self.settle(peer, now)

    # What it leads to

    def settle(self, peer: Peer, now: float) -> None:
        """Do what the peer's machine wants, and note its next deadline."""
        datagrams = peer.datagrams
        if datagrams is None:
            return
        machine = datagrams.machine
        machine.relay_is_up = self.relay_is_up
        machine.relay_rtt_s = peer.relayed.lane.rtt_s or peer.rtt_s
        while (output := machine.poll_output()) is not None:
            if isinstance(output, said.Transmit):
                records = output.records
                if output.wants_report and datagrams.arrivals.total_bytes:
                    records += (
                        (RecordKind.DIRECT_FEEDBACK, datagrams.arrivals.report(now, busy=self.is_busy())),
                    )
                self._send_datagram(peer, output.to, records, now, output.ttl)
            elif isinstance(output, said.SendCandidates):
                # How long the relay takes says whether the direct path is better, and how long what is under
                # way by the relay is waited for once it carries.
                self._control_frames.ping(peer, now, None, (RecordKind.CANDIDATES, output.body))
            elif isinstance(output, said.AskReflexive):
                self._outputs.append(output)
            elif isinstance(output, said.Answered):
                self._outputs.append(Pong(peer, output.ping_id, output.rtt_s, UDP_LINK))
            else:
                self._path_manager.choose_path(peer, now)
                self._outputs.append(DirectChanged(peer))
        at = machine.next_at
        if at != datagrams.wakes_at:
            datagrams.wakes_at = at
            peer.timers.set(Timer.DIRECT, at)
            self._timer_heap.schedule(peer)

    def ping(self, peer: Peer, now: float) -> int | None:
        """As `ControlFrames.ping`, by datagrams; None while packets to this peer do not go by them."""
        if peer.datagrams is None or peer.path is not peer.datagrams:
            return None
        ping_id = int.from_bytes(self._rng(8))
        is_sent = peer.datagrams.machine.ping(ping_id, now)
        self.settle(peer, now)
        return ping_id if is_sent else None

    def say_keepalive(self, peer: Peer, now: float) -> None:
        """Send an empty batch under the current keys."""
        if peer.direct is not None and (remote := peer.direct.remote) is not None:
            self._send_datagram(peer, remote, (), now)

    def report(self, peer: Peer, now: float) -> None:
        """Tell the peer what has arrived of its datagrams, by the way that our packets go."""
        datagrams = peer.datagrams
        if datagrams is None:
            return
        record = RecordKind.DIRECT_FEEDBACK, datagrams.arrivals.report(now, busy=self.is_busy())
        if (remote := datagrams.machine.remote) is not None:
            self._send_datagram(peer, remote, (record,), now)
        if datagrams.machine.carries_relay:
            self._control_frames.send(peer, now, record)
