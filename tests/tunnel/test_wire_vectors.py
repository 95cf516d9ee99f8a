"""Every message of whole sessions, compared with a recording: not one byte on the wire may change unnoticed.

Two cores talk in virtual time over a network that is the same in each run; seeds, clock and wall clock are
fixed. `tests/vectors/tunnel_session.txt` has one line for each message: sender, its link, destination,
bytes, and a hash of them. At the end of a session stands what was delivered and what was dropped. A change
that is meant to alter the wire records anew (and says so in docs/protocol.md):

    .venv/bin/python -m tests.tunnel.test_wire_vectors
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from hashlib import blake2b
from itertools import cycle
from pathlib import Path

import pytest

from nconnect.crypto.aead import CipherSuite
from nconnect.tunnel.outputs import Settings
from nconnect.wire.tunnel import RECORD_HEADER, Feature
from tests.ip.packets import tcp_super, udp_super
from tests.sim.lanes import LaneHost, LaneNet, joined
from tests.sim.load import SERVER, USER, Load, put
from tests.sim.network import Host, ip, packet

VECTORS = Path(__file__).parent.parent / "vectors" / "tunnel_session.txt"
SESSION_S = 121.0  # the initiator renews its keys after 120 s


class RecordedNet(LaneNet):
    """Lanes that note each message; `delays`, if there are any, are those of one message after another."""

    def __init__(self, *delays: float) -> None:
        super().__init__()
        self.messages: list[str] = []
        self._delays = cycle(delays) if delays else None

    def send(self, source: Host, link: int, dest: str, payload: bytes) -> None:
        for address, host in self.hosts.items():
            dest = dest.replace(address, host.name)
        self.messages.append(f"{source.name} {link} {dest} {len(payload)} {hashed(payload)}")
        for address, host in self.hosts.items():
            dest = dest.replace(host.name, address)
        if self._delays is not None:
            for path in self.paths.values():
                path.delay_s = next(self._delays)
        super().send(source, link, dest, payload)

    def lines(self) -> list[str]:
        """The messages, and what came of them."""
        ends = [
            f"{host.name} delivered {len(host.delivered)} {hashed(b''.join(host.delivered))} "
            f"dropped {sorted(host.dropped().items())}"
            for host in self.hosts.values()
        ]
        return self.messages + ends


def hashed(data: bytes) -> str:
    return blake2b(data, digest_size=6).hexdigest()


def at_once(user: LaneHost, provider: LaneHost, *records: bytes) -> None:
    """A batch that leaves ahead of the queue, as the driver sends what it has just read."""
    tunnel, peer, now = user.tunnel, user.peer(provider), user.sim.now
    batch = b"".join(RECORD_HEADER.pack(len(record)) + record for record in records)
    assert tunnel.may_bypass(peer, len(batch), now)
    lane, out = peer.path.lane, memoryview(bytearray(len(batch) + 100))
    prefix, size = tunnel.seal(peer, batch, out, lane)
    user.net.send(user, lane.link, lane.dest, prefix + bytes(out[:size]))
    tunnel.sent(peer, lane, len(batch), now)
    user.drain()


def ping(host: LaneHost, other: LaneHost) -> None:
    assert host.tunnel.ping(host.peer(other), host.sim.now) is not None
    host.drain()


def bulk(user: LaneHost, provider: LaneHost, packets: int, flow: int = 1) -> None:
    for number in range(packets):
        put(user, provider, flow, number)
    user.flush()


def close(host: LaneHost) -> None:
    host.tunnel.close(host.sim.now)
    host.drain()


def one_link() -> RecordedNet:
    """Single packets, batches, super-packets, feedback, pings, silence, a rekey on the way, and the end."""
    net = RecordedNet()
    net.paths[0, 0].rate = 5e6
    user, provider = joined(net, 1, 1)
    there = packet(USER, SERVER, b"there")
    at_once(user, provider, there)
    net.run(0.1)
    at_once(user, provider, there, there, bytes(tcp_super(30_000, 1400)))
    provider.send_packet(packet(SERVER, USER, b"back"), ip(USER))
    user.send_packet(bytes(udp_super(30_000, 1200)), ip(SERVER))
    net.run(0.1)
    bulk(user, provider, 600)
    net.run(1)
    provider.leg_s = {0: 0.0125}.get
    ping(user, provider)
    ping(provider, user)
    net.run(40)  # keepalives
    begin = net.now
    while net.now < begin + SESSION_S:
        user.send_packet(there, ip(SERVER))
        provider.send_packet(packet(SERVER, USER, b"and back"), ip(USER))
        net.run(7)
    close(user)
    net.run(1)
    return net


def nothing_granted() -> RecordedNet:
    """The provider's TUN takes no super-packets, another cipher suite, and the provider ends the session."""
    net = RecordedNet()
    user, provider = joined(net, 1, 1)
    settings = Settings(CipherSuite.CHACHA20POLY1305, persistent=False, features=Feature(0), mtu=1280)
    provider.start([peer.config for peer in provider.tunnel.peers.values()], settings)  # without its counters
    user.send_packet(packet(USER, SERVER, b"lost, and tells the user"), ip(SERVER))
    net.run(1)
    user.send_packet(bytes(tcp_super(5_000, 1400)), ip(SERVER))
    user.send_packet(bytes(udp_super(5_000, 1200)), ip(SERVER))
    provider.send_packet(packet(SERVER, USER, b"back"), ip(USER))
    net.run(1)
    close(provider)
    net.run(20)
    return net


def out_of_order() -> RecordedNet:
    """A path that displaces messages, until nothing is held any more; then it is cut, and comes back."""
    net = RecordedNet(0.010, 0.022, 0.011, 0.013)
    user, provider = joined(net, 1, 1)
    for number in range(60):
        put(user, provider, number % 3, number, 100)
        user.flush()
        net.run(0.004)
    net.paths[0, 0].cut = True
    user.send_packet(packet(USER, SERVER, b"unanswered"), ip(SERVER))
    net.run(30)
    net.paths[0, 0].cut = False
    user.tunnel.link_up(net.now)
    user.drain()
    net.run(5)
    provider.send_packet(packet(SERVER, USER, b"after all"), ip(USER))
    net.run(1)
    return net


def crossed() -> RecordedNet:
    """Both sides begin at once, with a preshared key."""
    net = RecordedNet()
    user, provider = joined(net, 1, 1)
    for host in (user, provider):
        configs = [
            replace(peer.config, preshared_key=bytes(range(32))) for peer in host.tunnel.peers.values()
        ]
        close(host)
        host.start(configs, Settings(CipherSuite.AES256GCM), host.tunnel.counters())
    for host in (user, provider):
        host.tunnel.handle_timeout(net.now)
        host.drain()
    net.run(2)
    ping(provider, user)
    net.run(30)
    return net


def several_links() -> RecordedNet:
    """Three links against two: lists of links, one flow striped, several laid out, a lane dead, one gone."""
    net = RecordedNet()
    for n, key in enumerate((a, b) for a in range(3) for b in range(2)):
        net.paths[key].rate = 1.5e6
        net.paths[key].delay_s = 0.01 + 0.004 * n
    user, provider = joined(net, 3, 2)
    Load(user, provider, 1, 120_000).run(net, 0.25)
    net.run(0.3)
    Load(user, provider, 5, 30_000).run(net, 0.15)
    ping(user, provider)
    net.run(0.3)
    net.paths[1, 1].cut = True
    Load(user, provider, 3, 20_000).run(net, 0.3)
    net.run(3)
    net.paths[1, 1].cut = False
    user.tunnel.set_links({0: 1, 2: 3}, net.now)
    user.drain()
    net.run(2)
    Load(user, provider, 2, 30_000).run(net, 0.1)
    net.run(130)
    user.send_packet(packet(USER, SERVER, b"the keys are old"), ip(SERVER))
    net.run(1)
    close(user)
    net.run(1)
    return net


SESSIONS: list[Callable[[], RecordedNet]] = [one_link, nothing_granted, out_of_order, crossed, several_links]


def recorded() -> dict[str, list[str]]:
    sessions: dict[str, list[str]] = {}
    for line in VECTORS.read_text().splitlines():
        if line.startswith("# "):
            lines = sessions[line[2:]] = []
        else:
            lines.append(line)
    return sessions


@pytest.mark.parametrize("session", SESSIONS, ids=lambda session: session.__name__)
def test_each_message_is_the_recorded_one(session: Callable[[], RecordedNet]) -> None:
    said = session().lines()
    expected = recorded()[session.__name__]
    for number, (line, wanted) in enumerate(zip(said, expected, strict=False)):
        assert line == wanted, f"message {number} of {session.__name__}"
    assert len(said) == len(expected)


if __name__ == "__main__":
    with VECTORS.open("w") as file:
        for session in SESSIONS:
            print(f"# {session.__name__}", *session().lines(), sep="\n", file=file)
