"""Asking STUN servers from the data sockets: whom, what the surroundings learn, and what is no answer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from ipaddress import ip_address
from math import inf
from typing import cast

import pytest

from nconnect.daemon import reflexive
from nconnect.daemon.reflexive import Reflexive
from nconnect.io.clock import boottime
from nconnect.io.net.datagrams import DatagramSocket, Sent
from nconnect.model import Endpoint
from nconnect.nat import stun as client
from nconnect.tunnel.paths.direct.surroundings import Surroundings
from nconnect.wire import stun
from nconnect.wire.direct import NatVerdict


def at(address: str, port: int) -> Endpoint:
    return Endpoint(ip_address(address), port)


NODE = at("192.0.2.1", 30006), at("192.0.2.1", 30007)
NODE6 = at("2001:db8::1", 30006), at("2001:db8::1", 30007)
SEEN, ELSEWHERE = at("198.51.100.7", 41000), at("198.51.100.7", 41001)
SEEN6 = at("2001:db8:7::7", 5000)


class Net:
    """Data sockets of both IP versions, and what the servers answer to each question."""

    def __init__(
        self, *places: tuple[str, int], may_ask: Callable[[Endpoint], bool] = lambda _: True
    ) -> None:
        self.asked: list[Endpoint] = []
        self.requests: list[tuple[Endpoint, stun.StunMessage]] = []
        self.refuses = False
        self.found = asyncio.Event()
        self.surroundings = Surroundings(5000)
        self.reflexive = Reflexive(
            self.surroundings,
            lambda: places or [(str(server.address), server.port) for server in (*NODE, *NODE6)],
            may_ask=may_ask,
            found=self.found.set,
        )
        self.reflexive.datagrams = dict.fromkeys((4, 6), cast(DatagramSocket, self))

    def send(self, to: Endpoint, parts: list[bytes]) -> Sent:
        if self.refuses:
            return Sent.REFUSED
        self.asked.append(to)
        self.requests.append((to, stun.decode(parts[0])))
        return Sent.SENT

    def answer(self, server: Endpoint, seen: Endpoint) -> bool:
        """The server's answer to its newest question, as the driver hands it over."""
        request = next(message for to, message in reversed(self.requests) if to == server)
        data = stun.encode_response(request.transaction, *seen)
        return self.reflexive.received(server, memoryview(data), len(data), 0.0)


def played(work: Callable[[Net], Awaitable[None]], *places: tuple[str, int]) -> Net:
    async def main() -> Net:
        net = Net(*places)
        await net.reflexive.look_up()
        await work(net)
        net.reflexive.forget()
        return net

    return asyncio.run(main())


async def easy(net: Net) -> None:
    net.reflexive.ask()
    for server in NODE:
        assert net.answer(server, SEEN)
    assert not net.found.is_set()  # IPv6 is asked too
    for server in NODE6:
        assert net.answer(server, SEEN6)
    assert net.found.is_set()


def test_equal_answers_are_an_easy_nat_and_each_ip_version_has_an_address() -> None:
    net = played(easy)
    assert net.surroundings.reflexive == (SEEN, SEEN6)
    assert net.surroundings.verdict is NatVerdict.EASY
    assert net.surroundings.has_stun
    assert set(net.asked) == {*NODE, *NODE6}


def test_different_answers_are_a_hard_nat() -> None:
    async def hard(net: Net) -> None:
        net.reflexive.ask()
        net.answer(NODE[0], SEEN)
        net.answer(NODE[1], ELSEWHERE)
        for server in NODE6:
            net.answer(server, SEEN6)

    assert played(hard).surroundings.verdict is NatVerdict.HARD


def test_silence_is_blocked_udp(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "RETRANSMIT_AFTER_S", (0.001, 0.001, 0.001))
    monkeypatch.setattr(reflexive, "LATE_S", inf)  # this machine may be busy

    async def silent(net: Net) -> None:
        net.reflexive.ask()
        await asyncio.wait_for(net.found.wait(), 20)

    net = played(silent)
    assert (net.surroundings.verdict, net.surroundings.reflexive) == (NatVerdict.BLOCKED, ())
    assert len(net.asked) == 3 * 4  # three tries each


@pytest.mark.parametrize("late", [True, False])
def test_silence_proves_nothing_to_who_was_late_or_has_peers_by_udp(
    monkeypatch: pytest.MonkeyPatch, late: bool
) -> None:
    """The answers may have been there; or the server is dead."""
    monkeypatch.setattr(client, "RETRANSMIT_AFTER_S", (0.001, 0.001, 0.001))
    monkeypatch.setattr(reflexive, "LATE_S", -1.0 if late else inf)

    async def silent(net: Net) -> None:
        around = net.surroundings
        around.set_reflexive([SEEN], NatVerdict.EASY)
        now = boottime()
        assert around.wants_reflexive(now)
        if not late:
            around.answered_at = now
        net.reflexive.ask()
        ended = asyncio.Event()
        monkeypatch.setattr(
            around, "nothing_learnt", lambda: (Surroundings.nothing_learnt(around), ended.set())
        )
        await asyncio.wait_for(ended.wait(), 20)
        assert around.wants_reflexive(now + 1.0), "it is asked again"

    net = played(silent)
    assert (net.surroundings.verdict, net.surroundings.reflexive) == (NatVerdict.EASY, (SEEN,))
    assert not net.found.is_set()


def test_without_a_route_nothing_is_learnt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "RETRANSMIT_AFTER_S", (0.001, 0.001, 0.001))

    async def nowhere(net: Net) -> None:
        net.refuses = True
        net.reflexive.ask()
        await asyncio.wait_for(net.found.wait(), 20)  # so that no search waits longer
        assert not net.surroundings.has_stun

    assert played(nowhere).surroundings.verdict is NatVerdict.UNKNOWN


def test_while_asking_nobody_asks_again_and_afterwards_no_source_is_special() -> None:
    async def twice(net: Net) -> None:
        assert net.reflexive.sources == frozenset()
        net.reflexive.ask()
        net.reflexive.ask()
        assert net.reflexive.sources == {*NODE, *NODE6}
        net.reflexive.forget()
        assert net.reflexive.sources == frozenset()
        assert not net.answer(NODE[0], SEEN)

    net = played(twice)
    assert len(net.asked) == 4
    assert net.surroundings.reflexive == ()


def test_what_a_server_sends_and_is_no_answer_is_a_peers() -> None:
    async def other(net: Net) -> None:
        net.reflexive.ask()
        forged = stun.encode_response(bytes(12), *ELSEWHERE)  # not the question's transaction
        for data in (b"a datagram of a peer behind that address", forged, b""):
            assert not net.reflexive.received(NODE[0], memoryview(data), max(1, len(data)), 0.0)
        request = next(message for to, message in net.requests if to == NODE[0])
        data = stun.encode_response(request.transaction, *ELSEWHERE)
        assert not net.reflexive.received(NODE[1], memoryview(data), len(data), 0.0)  # not who was asked

    assert played(other).surroundings.reflexive == ()


def test_an_answer_that_came_twice_in_one_run_is_one() -> None:
    async def joined(net: Net) -> None:
        net.reflexive.ask()
        request = next(message for to, message in net.requests if to == NODE[0])
        data = stun.encode_response(request.transaction, *SEEN)
        assert net.reflexive.received(NODE[0], memoryview(data * 2), len(data), 0.0)
        net.answer(NODE[1], SEEN)
        for server in NODE6:
            net.answer(server, SEEN6)

    assert played(joined).surroundings.verdict is NatVerdict.EASY


@pytest.mark.parametrize("seen", ["127.0.0.1", "169.254.1.1", "224.0.0.1"])
def test_an_address_that_nobody_can_reach_is_not_told(seen: str) -> None:
    async def lying(net: Net) -> None:
        net.reflexive.ask()
        for server in NODE:
            net.answer(server, at(seen, 5000))
        for server in NODE6:
            net.answer(server, SEEN6)

    assert played(lying).surroundings.reflexive == (SEEN6,)


def test_loopback_names_without_an_address_and_what_lies_in_the_tunnel_are_not_asked() -> None:
    places = ("127.0.0.1", 3478), ("stun.invalid", 3478), ("192.0.2.1", 3478), ("10.86.0.1", 3478)

    async def main() -> Net:
        net = Net(*places, may_ask=lambda server: server.address != ip_address("10.86.0.1"))
        await net.reflexive.look_up()
        return net

    assert asyncio.run(main()).reflexive.servers == (at("192.0.2.1", 3478),)


def test_a_name_that_is_not_found_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> Net:
        net = Net(("stun.invalid", 3478), ("192.0.2.1", 3478))
        for _ in range(3):
            await net.reflexive.look_up()
        return net

    assert asyncio.run(main()).reflexive.servers == (at("192.0.2.1", 3478),)
    (said,) = [record.getMessage() for record in caplog.records]
    assert said.startswith("STUN server stun.invalid is not asked: ")


def test_without_a_server_there_is_nobody_to_wait_for() -> None:
    async def nobody(net: Net) -> None:
        assert not net.surroundings.has_stun
        net.reflexive.ask()
        assert net.reflexive.sources == frozenset()

    assert played(nobody, ("127.0.0.1", 3478)).asked == []
