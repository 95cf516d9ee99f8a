"""What somebody hostile can send, and genuine messages to compare with."""

from __future__ import annotations

from nconnect.crypto.aead import TAG_BYTES, CipherSuite
from nconnect.model import NknAddress
from nconnect.tunnel.handshake import Attempt, boxed
from nconnect.wire.message import Message, Payload, PayloadType
from nconnect.wire.tunnel import DATA_HEADER, VERSION, Feature, FrameKind, Hello, data_frame, put_record
from tests.sim.network import WALL_EPOCH_NS, Host, Simulation, ip, packet, pair


def connected(seed: int = 0, **settings: object) -> tuple[Simulation, Host, Host]:
    """A user and a provider with a session in both directions."""
    sim = Simulation(seed)
    user, provider = pair(sim, **settings)  # type: ignore[arg-type]
    assert passes(sim, user, provider)
    assert passes(sim, provider, user)
    sim.run(0.1)  # so that another initiation is no flood
    return sim, user, provider


def passes(sim: Simulation, source: Host, destination: Host, within_s: float = 2.0) -> bool:
    """Whether a genuine packet gets through now."""
    mark = sim.random_bytes(8)
    addresses = ("10.86.0.2", "192.168.50.10") if source.name == "user" else ("192.168.50.10", "10.86.0.2")
    sent = packet(*addresses, mark)
    source.send_packet(sent, ip(addresses[1]))
    return sim.run(within_s, lambda: sent in destination.delivered)


def data_message(
    index: int, counter: int, sealed: bytes, *, version: int = VERSION, kind: int = FrameKind.DATA
) -> bytes:
    header = DATA_HEADER.pack(version, kind, 0, index, counter)
    return data_frame(header, len(sealed)) + sealed


def sealed_by(source: Host, destination: Host, batch: bytes) -> bytes:
    """A message with any batch in it, under the keys that `source` really holds."""
    pair = source.peer(destination).session.current
    assert pair is not None
    out = bytearray(len(batch) + TAG_BYTES)
    header, size = pair.seal_into(batch, memoryview(out))
    return data_frame(header, size) + bytes(out)


def batch_of(*records: bytes) -> bytes:
    arena, at = bytearray(sum(map(len, records)) + 4 * len(records)), 0
    for record in records:
        at = put_record(arena, at, record)
    return bytes(arena[:at])


def in_box(source: Host, destination: Host, data: bytes, kind: PayloadType = PayloadType.BINARY) -> bytes:
    """Any data in the NaCl box that `source`'s NKN key really makes."""
    payload = Payload(kind, message_id=bytes(8), data=data, no_reply=True).encode()
    nonce = source.sim.random_bytes(24)
    return Message(
        source.peer(destination).handshake.box.seal(payload, nonce), encrypted=True, nonce=nonce
    ).encode()


def attempt(
    source: Host,
    destination: Host,
    *,
    counter: int | None = None,
    suite: CipherSuite = CipherSuite.AES256GCM,
    address: NknAddress | None = None,
    to: NknAddress | None = None,
    index: int = 77,
    psk: bytes | None = None,
    features: Feature = Feature.ALL,
) -> Attempt:
    """A genuine initiation of `source`, unless told otherwise, which `source` itself knows nothing of."""
    peer = source.peer(destination)
    sim = source.sim
    return Attempt(
        identity=source.identity,
        address=address or source.address,
        peer=to or destination.address,
        peer_dh_key=peer.handshake.dh_key,
        preshared_key=psk,
        suite=suite,
        local_index=index,
        hello=Hello(
            WALL_EPOCH_NS + int((sim.now + 1) * 1e9) if counter is None else counter,
            features,
            1,
            1500,
            1 << 18,
        ),
        started_at=sim.now,
        rng=sim.random_bytes,
    )


def initiation(source: Host, destination: Host, made: Attempt) -> bytes:
    return boxed(source.peer(destination).handshake.box, made.frame, source.sim.random_bytes)


def captured(sim: Simulation, source: Host, *, boxed_ones: bool) -> list[bytes]:
    """What the wiretap has of a host: its handshake messages, or its data."""
    return [
        payload
        for sender, _, payload in sim.sent
        if sender == str(source.address) and (len(Message.decode(payload).nonce) == 24) is boxed_ones
    ]


def count(host: Host, reason: str) -> int:
    return host.dropped().get(reason, 0)


__all__ = [
    "attempt", "batch_of", "captured", "connected", "count", "data_message", "in_box", "initiation",
    "passes", "sealed_by",
]  # fmt: skip
