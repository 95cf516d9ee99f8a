"""Port mappings in virtual time, at a router that does as it is told, and at others."""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterator
from ipaddress import IPv4Address, ip_address
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nconnect.model import Address
from nconnect.nat.port_mapping import (
    AGAIN_AFTER_S,
    LIFETIME_S,
    MIN_RENEW_S,
    TRY_FOR_S,
    PortMapper,
    PortRequest,
)
from nconnect.nat.upnp_mapping import UpnpMapper
from nconnect.wire.pcp import SERVER_PORT

ROUTER, OWN, OUTSIDE = IPv4Address("192.168.1.1"), IPv4Address("192.168.1.7"), IPv4Address("203.0.113.9")
OWN6 = ip_address("2001:db8:101::2")
PORT = 41641
START = 1000.0
PROTOCOLS = {17: "udp", 6: "tcp"}


class Router:
    """Answers as the RFCs say; each attribute is something that can be wrong with it."""

    def __init__(self) -> None:
        self.speaks_pcp = True
        self.speaks_pmp = True
        self.says_version = True  # else it ignores the version that it does not know
        self.started_at = START - 600
        self.outside: Address = OUTSIDE
        self.granted_s = LIFETIME_S
        self.shift = 0  # of the outer port against the inner one
        self.result = 0
        self.refuses: set[str] = set()  # protocols; with PCP's NO_RESOURCES
        self.mapped: dict[str, int] = {}  # protocol -> outer port
        self.requests: Counter[str] = Counter()
        self.asked_ports: list[int] = []  # outer ones, by PCP

    def restart(self, now: float) -> None:
        self.started_at = now
        self.mapped.clear()

    def answer(self, data: bytes, now: float) -> list[bytes]:
        epoch = int(now - self.started_at)
        if data[0] == 2:
            self.requests["pcp"] += 1
            if not self.speaks_pcp:
                return [struct.pack("!BBHI", 0, data[1] | 128, 1, epoch)] * self.says_version
            return [self._pcp(data, epoch)]
        self.requests["pmp"] += 1
        if not self.speaks_pmp:
            return []
        if data == b"\0\0":
            return [struct.pack("!BBHI", 0, 128, self.result, epoch) + self.outside.packed]
        _, opcode, _, inner, _, lifetime = struct.unpack("!BBHHHI", data)
        protocol = "udp" if opcode == 1 else "tcp"
        lifetime = self._map(protocol, inner, lifetime)
        return [
            struct.pack("!BBHIHHI", 0, opcode | 128, self.result, epoch, inner, inner + self.shift, lifetime)
        ]

    def _pcp(self, data: bytes, epoch: int) -> bytes:
        lifetime = int.from_bytes(data[4:8], "big")
        protocol = PROTOCOLS[data[36]]
        inner = int.from_bytes(data[40:42], "big")
        self.asked_ports.append(int.from_bytes(data[42:44], "big"))
        result = 8 if protocol in self.refuses else self.result
        lifetime = 30 if result else self._map(protocol, inner, lifetime)  # 30 s: of a short-lived error
        outside = (
            bytes(10) + b"\xff\xff" + self.outside.packed
            if self.outside.version == 4
            else self.outside.packed
        )
        head = struct.pack("!BBBBII12x", 2, 129, 0, result, lifetime, epoch)
        return head + data[24:42] + (inner + self.shift).to_bytes(2, "big") + outside

    def _map(self, protocol: str, inner: int, lifetime: int) -> int:
        if not lifetime:
            self.mapped.pop(protocol, None)
            return 0
        self.mapped[protocol] = inner + self.shift
        return self.granted_s


class Bench:
    """A mapper and a router on one clock."""

    def __init__(self, router: Router | None = None, own: Address = OWN) -> None:
        self.router = router or Router()
        self.now = START
        self.is_there = True
        self.mapper = PortMapper(PortRequest(ROUTER, own, PORT), now=self.now, rng=Random(7).randbytes)
        self.exchange()

    def exchange(self) -> int:
        """Carry everything at once; how many datagrams were sent."""
        sent = 0
        while (data := self.mapper.poll_output()) is not None:
            sent += 1
            for answer in self.router.answer(data, self.now) if self.is_there else ():
                assert self.mapper.receive(answer, (ROUTER, SERVER_PORT), self.now)
        return sent

    def step(self) -> int:
        """To the next deadline."""
        deadline = self.mapper.poll_timeout()
        assert deadline is not None
        assert deadline.at > self.now
        self.now = deadline.at
        self.mapper.handle_timeout(self.now)
        return self.exchange()

    def until_rest(self) -> None:
        while self.mapper.poll_timeout() is not None and self.mapper._state.value in ("PCP", "NAT-PMP"):
            self.step()

    def run(self, seconds: float) -> int:
        end, sent = self.now + seconds, 0
        while (deadline := self.mapper.poll_timeout()) is not None and deadline.at <= end:
            sent += self.step()
        self.now = end
        return sent

    def told(self) -> dict[str, tuple[str, int, str]]:
        return {p: (str(m.address), m.port, m.by) for p, m in self.mapper.mappings.items()}


def in_silence(mapper: PortMapper | UpnpMapper, now: float, deadlines: int) -> Iterator[float]:
    """Nobody answers any more: the time after each of so many deadlines, which must rise."""
    for _ in range(deadlines):
        while mapper.poll_output() is not None:
            pass
        deadline = mapper.poll_timeout()
        assert deadline is not None
        assert deadline.at > now
        now = deadline.at
        mapper.handle_timeout(now)
        yield now


BOTH = {"udp": (str(OUTSIDE), PORT, "PCP"), "tcp": (str(OUTSIDE), PORT, "PCP")}
BOTH_PMP = {protocol: (address, port, "NAT-PMP") for protocol, (address, port, _) in BOTH.items()}


def test_pcp_maps_both_protocols_at_once() -> None:
    bench = Bench()
    assert bench.told() == BOTH
    assert bench.mapper.problem == ""
    assert not bench.mapper.mappings["udp"].is_behind_another_nat
    assert bench.router.requests == {"pcp": 2}


@pytest.mark.parametrize("says_version", [True, False])
def test_a_router_of_nat_pmp_alone(says_version: bool) -> None:
    router = Router()
    router.speaks_pcp, router.says_version = False, says_version
    bench = Bench(router)
    bench.until_rest()
    assert bench.told() == BOTH_PMP
    assert bench.now - START == pytest.approx(0.0 if says_version else sum(TRY_FOR_S))
    router.requests.clear()
    bench.run(LIFETIME_S / 2)  # what it speaks is known now
    assert router.requests == {"pmp": 3}
    assert bench.told() == BOTH_PMP


def test_renewed_at_half_of_what_is_granted_and_nothing_in_between() -> None:
    bench = Bench()
    assert bench.run(LIFETIME_S / 2 - 1) == 0
    assert bench.run(2) == 2
    assert bench.run(10 * LIFETIME_S) == 40
    assert bench.told() == BOTH


def test_a_router_that_is_silent() -> None:
    router = Router()
    router.speaks_pcp = router.speaks_pmp = router.says_version = False
    bench = Bench(router)
    bench.until_rest()
    assert bench.now - START == pytest.approx(2 * sum(TRY_FOR_S))
    assert bench.mapper.problem == "the router answers neither PCP nor NAT-PMP"
    assert bench.run(AGAIN_AFTER_S - 1) == 0
    router.speaks_pcp = True
    bench.run(2)
    assert bench.told() == BOTH
    assert bench.mapper.problem == ""


def test_a_router_that_restarts_is_seen_at_the_next_renewal() -> None:
    bench = Bench()
    bench.run(100)
    bench.router.restart(bench.now)
    bench.run(LIFETIME_S)
    assert bench.router.mapped == {"udp": PORT, "tcp": PORT}


def test_what_an_answer_shows_to_be_lost_is_mapped_again_at_once() -> None:
    """One mapping is renewed before the other: its answer tells that both are gone."""
    router = Router()
    router.refuses = {"tcp"}
    bench = Bench(router)
    router.refuses.clear()
    bench.run(AGAIN_AFTER_S)  # now TCP too, ten minutes later
    assert bench.told() == BOTH
    router.restart(bench.now)
    bench.run(LIFETIME_S / 2 - AGAIN_AFTER_S)  # the renewal of UDP
    assert bench.now < bench.mapper.mappings["tcp"].renew_at
    assert router.mapped == {"udp": PORT, "tcp": PORT}


@pytest.mark.parametrize("drift", [0.95, 1.05])
def test_a_clock_that_is_a_little_wrong_is_no_restart(drift: float) -> None:
    bench = Bench()
    began, real = bench.router.started_at, bench.router.answer
    bench.router.answer = lambda data, now: real(data, began + (now - began) * drift)  # type: ignore[method-assign]
    bench.run(20 * LIFETIME_S)
    assert bench.router.requests["pcp"] == 2 + 2 * 40


def test_a_router_that_is_away_for_a_while_loses_nothing() -> None:
    bench = Bench()
    bench.is_there = False
    bench.run(LIFETIME_S * 3 / 4)
    assert bench.told() == BOTH  # they are in force still
    assert bench.mapper.problem
    bench.is_there = True
    bench.run(LIFETIME_S / 4)
    assert bench.told() == BOTH
    assert bench.mapper.problem == ""


def test_a_router_that_is_gone_takes_its_mappings_with_it_in_time() -> None:
    bench = Bench()
    bench.is_there = False
    sent = bench.run(LIFETIME_S + 1)
    assert bench.told() == {}
    assert sent < 400  # RFC 6887: not closer together than four seconds
    assert bench.run(AGAIN_AFTER_S * 6) <= 7 * 16


def test_a_mapping_without_an_address_is_forgotten_with_the_search() -> None:
    """NAT-PMP told a port and not the address; PCP's address, ten minutes later, is not that mapping's."""
    router = Router()
    router.speaks_pcp = False
    real = router.answer
    router.answer = lambda data, now: [] if data == b"\0\0" else real(data, now)  # type: ignore[method-assign]
    bench = Bench(router)
    bench.until_rest()
    assert bench.told() == {}
    router.speaks_pcp, router.refuses = True, {"tcp"}
    bench.run(AGAIN_AFTER_S + 1)
    assert bench.told() == {"udp": BOTH["udp"]}


def test_one_protocol_that_is_refused_leaves_the_other() -> None:
    router = Router()
    router.refuses = {"tcp"}
    bench = Bench(router)
    assert bench.told() == {"udp": BOTH["udp"]}
    assert bench.mapper.problem == "the router refuses to map a port by PCP: no resources"


@pytest.mark.parametrize(
    ("result", "by_pcp", "why"),
    [
        (2, True, "the router refuses to map a port by PCP: not authorized"),
        (12, True, "the router refuses to map a port by PCP: address mismatch"),
        (2, False, "the router refuses to map a port by NAT-PMP: not authorized"),
        (99, False, "the router refuses to map a port by NAT-PMP: error 99"),
    ],
)
def test_a_refusal_is_one_line(result: int, by_pcp: bool, why: str) -> None:
    router = Router()
    router.result, router.speaks_pcp = result, by_pcp
    bench = Bench(router)
    assert (bench.told(), bench.mapper.problem) == ({}, why)
    assert bench.run(AGAIN_AFTER_S - 1) == 0


def test_another_outer_port_is_taken_and_asked_for_again() -> None:
    router = Router()
    router.shift = 5
    bench = Bench(router)
    assert bench.told()["udp"] == (str(OUTSIDE), PORT + 5, "PCP")
    router.asked_ports.clear()
    bench.run(LIFETIME_S / 2)
    assert router.asked_ports == [PORT + 5] * 2


@pytest.mark.parametrize(
    ("outside", "inner"),
    [
        ("203.0.113.9", False),
        ("10.1.2.3", True),
        ("100.64.1.2", True),
        ("192.168.0.2", True),
        ("2001:db8::9", False),
    ],
)
def test_an_inner_address_means_another_nat(outside: str, inner: bool) -> None:
    router = Router()
    router.outside = ip_address(outside)
    assert Bench(router).mapper.mappings["udp"].is_behind_another_nat is inner


@pytest.mark.parametrize("outside", ["0.0.0.0", "127.0.0.1", "224.0.0.1", "::"])
@pytest.mark.parametrize("by_pcp", [True, False])
def test_an_address_that_nobody_has_is_nonsense(outside: str, by_pcp: bool) -> None:
    router = Router()
    router.outside, router.speaks_pcp = ip_address(outside), by_pcp
    if not by_pcp and router.outside.version == 6:
        return  # NAT-PMP has no IPv6
    bench = Bench(router)
    assert bench.told() == {}
    bench.until_rest()
    assert "makes no sense" in bench.mapper.problem
    assert "\n" not in bench.mapper.problem


@pytest.mark.parametrize("at", [24, 40])  # the nonce; the inner port
def test_a_mapping_of_somebody_else_is_nonsense(at: int) -> None:
    router = Router()
    real = router._pcp

    def lying(data: bytes, epoch: int) -> bytes:
        answer = bytearray(real(data, epoch))
        answer[at] ^= 1
        return bytes(answer)

    router._pcp = lying  # type: ignore[method-assign]
    router.speaks_pmp = False
    bench = Bench(router)
    bench.until_rest()
    assert bench.told() == {}
    assert "it maps another port than ours" in bench.mapper.problem


@pytest.mark.parametrize(
    "forged",
    [
        b"\x02\x81nonsense",
        struct.pack("!BBBBII12x", 2, 128, 0, 0, 0, 0),  # ANNOUNCE, as of a router that has just started
        struct.pack("!BBBBII12x12sB3xHH16s", 2, 129, 0, 0, 7200, 0, b"n" * 12, 17, PORT, 9, OWN6.packed),
    ],
)
def test_what_was_not_asked_for_changes_nothing(forged: bytes) -> None:
    """In the router's name, and without the nonce: neither the mapping ends, nor is it asked for again."""
    bench = Bench()
    bench.run(100)
    assert bench.mapper.receive(forged, (ROUTER, SERVER_PORT), bench.now)
    assert bench.exchange() == 0
    assert (bench.told(), bench.mapper.problem) == (BOTH, "")
    deadline = bench.mapper.poll_timeout()
    assert deadline is not None
    assert deadline.at == START + LIFETIME_S / 2


@pytest.mark.parametrize("granted_s", [0, 1, 7])
def test_a_mapping_for_no_time_is_none(granted_s: int) -> None:
    router = Router()
    router.granted_s = granted_s
    bench = Bench(router)
    bench.until_rest()
    assert bench.told() == {}
    assert "for no time" in bench.mapper.problem


def test_a_short_lifetime_is_renewed_no_more_often_than_each_four_seconds() -> None:
    router = Router()
    router.granted_s = 8
    bench = Bench(router)
    assert bench.run(400) <= 2 * 400 / MIN_RENEW_S
    assert bench.told() == BOTH


# --- a hole in an IPv6 firewall ---


def ipv6_router() -> Router:
    router = Router()
    router.outside = OWN6  # no NAT
    return router


def test_an_ipv6_firewall_is_opened_for_our_own_address_and_port() -> None:
    router = ipv6_router()
    bench = Bench(router, OWN6)
    assert bench.told() == dict.fromkeys(("udp", "tcp"), (str(OWN6), PORT, "PCP"))
    assert router.asked_ports == [PORT] * 2
    router.restart(bench.now)
    bench.run(LIFETIME_S / 2)
    assert router.mapped == {"udp": PORT, "tcp": PORT}
    bench.mapper.close()
    bench.exchange()
    assert router.mapped == {}


@pytest.mark.parametrize(("outside", "shift"), [("2001:db8::9", 0), ("203.0.113.9", 0), (str(OWN6), 1)])
def test_an_ipv6_hole_for_another_address_or_port_is_nonsense(outside: str, shift: int) -> None:
    router = ipv6_router()
    router.outside, router.shift = ip_address(outside), shift
    bench = Bench(router, OWN6)
    bench.until_rest()
    assert bench.told() == {}
    assert "it opens another address or port than ours" in bench.mapper.problem


@pytest.mark.parametrize("says_version", [True, False])
def test_nat_pmp_is_not_asked_for_ipv6(says_version: bool) -> None:
    router = ipv6_router()
    router.speaks_pcp, router.says_version = False, says_version
    bench = Bench(router, OWN6)
    bench.until_rest()
    assert router.requests == {"pcp": 1 if says_version else 6}
    assert bench.mapper.problem == (
        "the router refuses to open a port by PCP: unsupported version"
        if says_version
        else "the router does not answer PCP"
    )
    assert bench.run(AGAIN_AFTER_S - 1) == 0
    assert "pmp" not in router.requests


@pytest.mark.parametrize("port", [0, -1, 65536])
def test_all_ports_are_never_asked_for(port: int) -> None:
    with pytest.raises(ValueError, match="no port to map"):
        PortRequest(ROUTER, OWN, port)
    assert PortRequest(ROUTER, OWN, 0, protocols=()).port == 0


def test_closing_gives_up_what_is_mapped() -> None:
    for by_pcp in (True, False):
        router = Router()
        router.speaks_pcp = by_pcp
        bench = Bench(router)
        assert router.mapped
        bench.mapper.close()
        assert bench.exchange() == 2
        assert router.mapped == {}
        assert (bench.told(), bench.mapper.poll_timeout()) == ({}, None)
        bench.mapper.close()
        assert bench.exchange() == 0


def test_closing_gives_up_what_may_be_mapped_though_no_answer_came() -> None:
    bench = Bench.__new__(Bench)
    bench.router, bench.now, bench.is_there = Router(), START, True
    bench.mapper = PortMapper(PortRequest(ROUTER, OWN, PORT), now=START, rng=Random(7).randbytes)
    while (data := bench.mapper.poll_output()) is not None:
        bench.router.answer(data, START)  # and the answers are lost
    assert bench.router.mapped
    bench.mapper.close()
    bench.exchange()
    assert bench.router.mapped == {}


def test_what_is_not_from_the_router_is_not_ours() -> None:
    mapper = PortMapper(PortRequest(ROUTER, OWN, PORT), now=START, rng=Random(7).randbytes)
    request = mapper.poll_output()
    assert request is not None
    (answer,) = Router().answer(request, START)
    assert not mapper.receive(answer, (ROUTER, 9), START)
    assert not mapper.receive(answer, (IPv4Address("192.168.1.66"), SERVER_PORT), START)
    assert mapper.mappings == {}


@given(
    st.lists(
        st.one_of(st.binary(max_size=70), st.binary(max_size=60).map(lambda b: b"\x02\x81\0\0" + b)),
        max_size=12,
    )
)
def test_whatever_the_router_says_nothing_is_mapped_by_it_and_time_goes_on(answers: list[bytes]) -> None:
    mapper = PortMapper(PortRequest(ROUTER, OWN, PORT), now=START, rng=Random(7).randbytes)
    now = START
    for answer in answers:
        mapper.receive(answer, (ROUTER, SERVER_PORT), now)
    for _ in in_silence(mapper, now, 20):
        assert "udp" not in mapper.mappings or mapper.mappings["udp"].by == "NAT-PMP"  # without the nonce
