"""Targets for STUN: what anybody sends to a client, or to our node's server."""

from __future__ import annotations

from functools import partial
from ipaddress import IPv4Address, IPv6Address, ip_address
from random import Random

from nconnect.errors import RemoteProtocolError
from nconnect.model import Address, Endpoint
from nconnect.nat.stun import StunProbe
from nconnect.node.stun import PLAIN_BURST, PLAIN_RATE_PER_S, StunServer
from nconnect.wire import stun
from nconnect.wire.direct import NatVerdict
from tests.fuzz import oracles
from tests.fuzz.draw import Draw


def stun_messages(data: bytes) -> None:
    """Headers, attributes, FINGERPRINT and addresses, against a second reading of RFC 8489."""
    draw = Draw(data)
    transaction = draw.take(12)
    made = b""
    for _ in range(draw.below(5)):
        family = draw.of((1, 2, 2, 3))
        address = bytes([0, family]) + draw.take(6 if family == 1 else 18)
        value = draw.of((address, address, draw.piece(30)))
        kind = draw.of((0x0020, 0x0020, 0x0001, 0x0026, 0x8022, draw.number(2)))
        made += kind.to_bytes(2, "big") + len(value).to_bytes(2, "big") + value + bytes(-len(value) % 4)
    made = made[: len(made) - draw.of((0, 0, 0, 1))]  # the last one without its padding
    method, with_crc = draw.of((b"\1\1", b"\1\1", b"\0\1", b"\1\x11")), draw.flag()
    after = draw.of((b"", b"", b"\x80\x22\0\0"))  # FINGERPRINT must be the last
    size = len(made) + 8 * with_crc + len(after)
    message = method + size.to_bytes(2, "big") + b"\x21\x12\xa4\x42" + transaction + made
    if with_crc:
        crc = stun._fingerprint(message) if draw.flag() else draw.take(4)
        message += b"\x80\x28\0\4" + crc
    message += after
    for datagram in (data, message, draw.changed(message)):
        expected = oracles.stun_attributes(datagram)
        try:
            found = stun.decode(datagram)
        except RemoteProtocolError:
            assert expected is None
            continue
        assert (found.type, found.transaction) == (oracles.number(datagram, 0, 2), datagram[8:20])
        assert list(found.attributes) == expected
        oracles.agree(partial(_mapped, found), oracles.stun_address(datagram))
    own: Address = IPv4Address(draw.take(4)) if draw.flag() else IPv6Address(draw.take(16))
    port = draw.number(2)
    answer = stun.encode_response(transaction, own, port)
    assert oracles.stun_address(answer) == (own, port)
    assert len(answer) == stun.response_bytes(own.version)


def _mapped(message: stun.StunMessage) -> tuple[Address, int]:
    endpoint = stun.mapped_address(message)
    return endpoint.address, endpoint.port


# --- STUN's two ends ---

_SERVERS: tuple[Endpoint, ...] = tuple(
    Endpoint(ip_address(host), port)
    for host, port in (("192.0.2.1", 1), ("192.0.2.1", 2), ("2001:db8::1", 3))
)
_STRANGER = Endpoint(ip_address("192.0.2.66"), 1)


def stun_probe(data: bytes) -> None:
    """A verdict rests on answers to its questions from where those went, and is there after 0.7 s."""
    draw = Draw(data)
    now = 100.0
    probe = StunProbe(_SERVERS, now=now, rng=Random(7).randbytes)
    asked: dict[Endpoint, bytes] = {}
    told: dict[Endpoint, tuple[Address, int] | None] = {}  # by server, what its first answer tells
    while True:
        sends = []
        while (send := probe.poll_output()) is not None:
            sends.append(send)
            assert asked.setdefault(send.to, send.data[8:20]) == send.data[8:20]
        assert len(sends) <= len(_SERVERS)
        if probe.verdict is not None or not draw:
            break
        server = draw.of(_SERVERS)
        seen = draw.of((_STRANGER, (_STRANGER[0], draw.number(2)), (IPv4Address(draw.take(4)), 9)))
        datagram = draw.of((draw.piece(60), stun.encode_response(asked[server], *seen)))
        datagram = draw.changed(datagram) if draw.flag() and datagram else datagram
        source = draw.of((server, server, _STRANGER, _SERVERS[0]))
        is_answer = oracles.stun_attributes(datagram) is not None and asked.get(source) == datagram[8:20]
        assert probe.receive(datagram, source, now) is is_answer
        if is_answer:
            told.setdefault(source, oracles.stun_address(datagram))
        now += draw.of((0.0, 0.0, 0.05))
        probe.handle_timeout(now)
    while (deadline := probe.poll_timeout()) is not None:
        assert deadline.at <= 100.8
        probe.handle_timeout(max(now, deadline.at))
    verdict = probe.verdict
    assert verdict is not None
    useful = [
        each
        for each in told.values()
        if each is not None and each[1] and not each[0].is_unspecified and not each[0].is_multicast
    ]
    assert verdict.mapped == (useful[0] if useful else None)
    assert (verdict.nat is NatVerdict.HARD) is (len(set(useful)) > 1)
    assert (verdict.nat is NatVerdict.EASY) is (len(useful) > 1 and len(set(useful)) == 1)
    assert (verdict.nat is NatVerdict.BLOCKED) is (not told)


def stun_server(data: bytes) -> None:
    """What is answered is right, is counted, and multiplies nothing but within the rate."""
    draw, server = Draw(data), StunServer()
    now = came = extra = 0.0
    while draw:
        host = draw.of(("192.0.2.7", "192.0.2.8", "::ffff:192.0.2.9", "fe80::1%eth0", "2001:db8::7"))
        request = stun.encode_request(draw.take(12), size=draw.of((20, 24, 32, 44, 100)))
        request = draw.of((request, draw.changed(request), draw.piece(60)))
        port, copies = 1 + draw.number(2) % 65535, draw.of((1, 1, 60))
        for _ in range(copies):
            answer = server.answer(request, host, port, now)
            came += 1
            if answer is None:
                continue
            address = ip_address(host.partition("%")[0])
            plain = (isinstance(address, IPv6Address) and address.ipv4_mapped) or address
            assert oracles.stun_address(answer) == (plain, port)
            assert answer[8:20] == request[8:20]
            assert request[:2] == b"\0\1"
            extra += max(0, len(answer) - len(request))
        now += draw.of((0.0, 0.0, 0.1, 5.0))
        assert server.answers + server.drops.total() == came
    assert extra <= 24 * 3 * (PLAIN_BURST + PLAIN_RATE_PER_S * now), "three prefixes"
    good = stun.encode_request(bytes(12), size=44)
    assert server.answer(good, "192.0.2.7", 9, now) is not None, "a padded request is answered freely"
