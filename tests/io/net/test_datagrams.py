"""The data socket on loopback: runs out and in, both IP versions, TTL, and what goes wrong."""

from __future__ import annotations

import errno
import select
import socket
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from ipaddress import ip_address
from random import Random
from typing import Any

import pytest

from nconnect.errors import HostError
from nconnect.io.net.datagrams import MAX_RUN, SO_RXQ_OVFL, DatagramSocket, Sent
from nconnect.model import Endpoint

LOOPBACK = {4: ip_address("127.0.0.1"), 6: ip_address("::1")}
Pair = tuple[DatagramSocket, DatagramSocket, Endpoint]
IP_RECVTTL = 12


@pytest.fixture(params=[4, 6])
def version(request: pytest.FixtureRequest) -> int:
    assert isinstance(request.param, int)
    return request.param


@pytest.fixture
def bind() -> Iterator[Callable[[int], DatagramSocket]]:
    with ExitStack() as stack:

        def make(version: int, port: int = 0) -> DatagramSocket:
            made = DatagramSocket.bind(version, port)
            stack.callback(made.close)
            return made

        yield make


@pytest.fixture
def pair(version: int, bind: Callable[[int], DatagramSocket]) -> Pair:
    here, there = bind(version), bind(version)
    return here, there, Endpoint(LOOPBACK[version], there.port)


def arrived(there: DatagramSocket, size: int) -> list[tuple[Endpoint, bytes, int]]:
    """All runs until `size` bytes are there."""
    found: list[tuple[Endpoint, bytes, int]] = []
    while sum(len(data) for _, data, _ in found) < size:
        assert select.select([there], [], [], 10)[0], f"only {found} arrived"
        found += [(source, bytes(view), segment) for source, view, segment in there.receive(100)]
    return found


@pytest.mark.parametrize("segment", [0, 700])
def test_the_ecn_bits_arrive_and_runs_with_others_stay_apart(pair: Pair, segment: int) -> None:
    here, there, to = pair
    for ecn in (0, 2, 3, 3, 1):
        here.send(to, [bytes(700)] * (2 if segment else 1), segment, ecn=ecn)
    found, size = [], 0
    whole = 5 * 700 * (2 if segment else 1)
    while size < whole:
        assert select.select([there], [], [], 10)[0]
        for _, run, _ in there.receive(100):
            found.append((there.ecn, len(run)))
            size += len(run)
    bits = [ecn for ecn, _ in found]
    assert [ecn for n, ecn in enumerate(bits) if bits[n - 1 : n] != [ecn]] == [0, 2, 3, 1]


def test_an_empty_datagram_is_passed_over(pair: Pair) -> None:
    here, there, to = pair
    here.send(to, [b""])
    here.send(to, [b"next"])
    assert [data for _, data, _ in arrived(there, 4)] == [b"next"]


def test_what_comes_while_a_run_is_dealt_with_is_read_too(pair: Pair) -> None:
    """The rest of a super-packet, without which it would be written in two pieces."""
    here, there, to = pair
    here.send(to, [bytes(2100)], 700)
    assert select.select([there], [], [], 10)[0]
    sizes = []
    for _, run, _ in there.receive(100):
        sizes.append(len(run))
        if len(sizes) == 1:
            here.send(to, [bytes(600)])
        elif len(sizes) == 2:  # behind one datagram nothing belongs to it
            here.send(to, [bytes(500)])
    assert sizes == [2100, 600]
    assert there.is_dry
    assert [len(run) for _, run, _ in there.receive(100)] == [500]


def cut(runs: list[tuple[Endpoint, bytes, int]]) -> list[bytes]:
    return [data[at : at + size] for _, data, size in runs for at in range(0, len(data), size)]


def test_one_datagram(pair: Pair, version: int) -> None:
    here, there, to = pair
    assert here.send(to, [b"head", bytearray(b"body")]) is Sent.SENT
    assert arrived(there, 8) == [(Endpoint(LOOPBACK[version], here.port), b"headbody", 8)]
    assert list(there.receive(5)) == []


@pytest.mark.parametrize("last", [1, 600, 1200])
def test_a_run_is_cut_and_comes_whole(pair: Pair, last: int) -> None:
    here, there, to = pair
    sent = [bytes([n]) * 1200 for n in range(MAX_RUN // 2)] + [b"x" * last]
    whole = b"".join(sent)
    assert here.send(to, [whole[:5000], memoryview(whole)[5000:]], 1200) is Sent.SENT
    runs = arrived(there, len(whole))
    assert cut(runs) == sent
    assert len(runs) < len(sent), "the kernel did not join them"


def test_where_the_kernel_cannot_cut_we_do(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    here, there, to = pair
    real, calls = here._socket, []

    class Refusing:
        """A socket whose interface has no checksum offload."""

        def sendmsg(self, parts: Any, control: Any, flags: int, address: Any) -> int:
            calls.append(control)
            if control:
                raise OSError(errno.EIO, "EIO")
            return real.sendmsg(parts, control, flags, address)

        def close(self) -> None:
            real.close()

    monkeypatch.setattr(here, "_socket", Refusing())
    sent = [b"a" * 700, b"b" * 700, b"c" * 10]
    for _ in range(2):
        assert here.send(to, [b"".join(sent)], 700) is Sent.SENT
        assert cut(arrived(there, 1410)) == sent
    assert [bool(control) for control in calls] == [True] + [False] * 6, "it was tried once"
    here.route_changed()
    here.send(to, [b"".join(sent)], 700)
    assert calls[7]


def test_a_ttl_for_one_datagram(version: int, bind: Callable[[int], DatagramSocket]) -> None:
    here = bind(version)
    with socket.socket(socket.AF_INET if version == 4 else socket.AF_INET6, socket.SOCK_DGRAM) as there:
        there.bind((str(LOOPBACK[version]), 0))
        there.settimeout(10)
        if version == 4:
            there.setsockopt(socket.IPPROTO_IP, IP_RECVTTL, 1)
        else:
            there.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVHOPLIMIT, 1)
        seen = []
        for ttl in (2, None, 4):
            here.send(Endpoint(LOOPBACK[version], there.getsockname()[1]), [b"x"], ttl=ttl)
            _, control, _, _ = there.recvmsg(10, 100)
            seen.append(int.from_bytes(control[0][2], "little"))
    assert (seen[0], seen[2]) == (2, 4)
    assert seen[1] > 4, "the system's own"


def test_too_big_is_said_and_nothing_raises(pair: Pair) -> None:
    here, there, to = pair
    assert here.send(to, [bytes(66_000)]) is Sent.TOO_BIG
    assert here.send(Endpoint(to.address, 0), [b"x"]) is Sent.REFUSED
    assert here.counts == {Sent.TOO_BIG: 1, Sent.REFUSED: 1}
    assert list(there.receive(1)) == []


def test_an_unreachable_port_harms_nothing(version: int, bind: Callable[[int], DatagramSocket]) -> None:
    here, there = bind(version), bind(version)
    gone = Endpoint(LOOPBACK[version], there.port)
    there.close()
    for _ in range(3):
        assert here.send(gone, [b"x"]) is Sent.SENT
    assert list(here.receive(5)) == []


def test_a_full_socket_drops_and_says_so(monkeypatch: pytest.MonkeyPatch, pair: Pair) -> None:
    here, _, to = pair
    real = here._socket

    class Full:
        def sendmsg(self, *arguments: object) -> int:
            raise BlockingIOError

        def close(self) -> None:
            real.close()

    monkeypatch.setattr(here, "_socket", Full())
    assert here.send(to, [b"x"]) is Sent.FULL


def test_what_nobody_read_is_counted(version: int, bind: Callable[[int], DatagramSocket]) -> None:
    here, there = bind(version), bind(version)
    there._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)  # the kernel's least
    assert there._socket.getsockopt(socket.SOL_SOCKET, SO_RXQ_OVFL)
    to = Endpoint(LOOPBACK[version], there.port)
    for _ in range(20):
        here.send(to, [bytes(1000)])
    kept = sum(1 for _ in there.receive(100))
    assert kept < 20
    here.send(to, [b"x"])
    arrived(there, 1)
    assert there.lost == 20 - kept


def test_a_port_in_use_is_one_line(version: int, bind: Callable[[int], DatagramSocket]) -> None:
    port = bind(version).port
    with pytest.raises(HostError, match=rf"UDP port {port} .*in use \(choose another direct_port\)"):
        DatagramSocket.bind(version, port)


def test_both_versions_have_one_port(bind: Callable[..., DatagramSocket]) -> None:
    port = bind(4).port
    assert bind(6, port).port == port


def test_what_comes_one_by_one_is_a_run_too(pair: Pair) -> None:
    here, there, to = pair
    for data in (b"aaaa", b"bbbb", b"cc", b"dd", b"eeeeee"):
        assert here.send(to, [data]) is Sent.SENT
    found: list[tuple[bytes, int]] = []
    while sum(len(run) for run, _ in found) < 18:
        select.select([there], [], [], 5)
        found += [(bytes(view), segment) for _, view, segment in there.receive(100)]
    assert b"".join(run for run, _ in found) == b"aaaabbbbccddeeeeee"
    apart = [run[at : at + segment] for run, segment in found for at in range(0, len(run), segment)]
    assert apart == [b"aaaa", b"bbbb", b"cc", b"dd", b"eeeeee"]
    assert there.is_dry


def test_no_more_is_read_than_there_is_time_for(pair: Pair) -> None:
    here, there, to = pair
    for _ in range(10):
        assert here.send(to, [bytes(100)]) is Sent.SENT
    select.select([there], [], [], 5)
    assert sum(len(view) for _, view, _ in there.receive(100, 300)) == 300
    assert not there.is_dry
    assert sum(len(view) for _, view, _ in there.receive(2)) == 200


def test_a_small_datagram_does_not_wait_for_a_look_for_more(pair: Pair) -> None:
    here, there, to = pair
    for _ in range(3):
        assert here.send(to, [bytes(100)]) is Sent.SENT
    select.select([there], [], [], 5)
    received = there.receive(100)
    assert len(next(received)[1]) == 100
    assert [len(view) for _, view, _ in received] == [200], "the others are a run"
    for _ in range(3):
        assert here.send(to, [bytes(1000)]) is Sent.SENT
    select.select([there], [], [], 5)
    assert [len(view) for _, view, _ in there.receive(100)] == [3000]


def one_by_one(here: DatagramSocket, to: Endpoint, sizes: Iterable[int], ecn: int = 0) -> None:
    """Datagrams that the kernel does not join."""
    for size in sizes:
        assert here.send(to, [bytes([size & 0xFF]) * size], ecn=ecn) is Sent.SENT


def test_datagrams_that_come_one_by_one_are_a_run_in_few_calls(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there, to = pair
    calls = 0
    receive = there._many.receive

    def count(*args: Any) -> Any:
        nonlocal calls
        calls += 1
        return receive(*args)

    monkeypatch.setattr(there._many, "receive", count)
    one_by_one(here, to, [1400] * 150 + [99])
    ((_, data, segment),) = arrived(there, 150 * 1400 + 99)
    assert (data, segment) == (bytes([1400 & 0xFF]) * 1400 * 150 + bytes([99]) * 99, 1400)
    assert 1 < calls <= 5
    assert there.is_dry


def test_runs_that_end_within_one_call_stay_where_they_lie(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there, to = pair
    calls: list[str] = []
    many, told = there._many.receive, there._told

    def receive(*args: Any) -> Any:
        calls.append("receive")
        return many(*args)

    def tell(*args: Any) -> Any:
        calls.append("tell")  # once for each datagram that is dealt with by itself, and once for each call
        return told(*args)

    monkeypatch.setattr(there._many, "receive", receive)
    monkeypatch.setattr(there, "_told", tell)
    sizes = ([1400] * 20 + [500]) * 8 + [1400] * 3
    one_by_one(here, to, sizes)
    assert select.select([there], [], [], 10)[0]
    found = [(bytes(view), segment) for _, view, segment in there.receive(1000)]
    apart = [run[at : at + segment] for run, segment in found for at in range(0, len(run), segment)]
    assert [len(each) for each in apart] == sizes
    assert all(each == bytes([len(each) & 0xFF]) * len(each) for each in apart)
    assert len(found) <= 10
    assert calls.count("receive") <= 5
    assert calls.count("tell") < 15
    one_by_one(here, to, [700])
    assert select.select([there], [], [], 10)[0]
    assert [(len(view), segment) for _, view, segment in there.receive(1000)] == [(700, 700)]


@pytest.mark.parametrize("seed", range(20))
def test_datagrams_of_any_sizes_come_as_they_were_sent(
    pair: Pair, bind: Callable[[int], DatagramSocket], version: int, seed: int
) -> None:
    here, there, to = pair
    rng = Random(seed)
    other = bind(version)
    sent: list[tuple[int, int, bytes]] = []
    while sum(len(data) for *_, data in sent) < 200_000:
        sender, ecn = rng.choices([(here, 0), (other, 0), (here, 1)], [8, 1, 1])[0]
        size = rng.choice((1400, 1400, 1400, 1200))
        for each in [size] * rng.randrange(30) + [rng.randrange(1, 3000)] * rng.randrange(3):
            data = rng.randbytes(each)
            assert sender.send(to, [data], ecn=ecn) is Sent.SENT
            sent.append((sender.port, ecn, data))
    assert select.select([there], [], [], 10)[0]
    came: list[tuple[int, int, bytes]] = []
    for _ in range(100):
        for source, view, segment in there.receive(rng.randrange(1, 300), rng.randrange(1, 1 << 20)):
            assert 0 < segment <= len(view)
            apart = (bytes(view[at : at + segment]) for at in range(0, len(view), segment))
            came += [(source.port, there.ecn, data) for data in apart]
    assert came == sent


def test_what_differs_within_one_call_is_no_part_of_the_run(
    pair: Pair, bind: Callable[[int], DatagramSocket], version: int
) -> None:
    here, there, to = pair
    other = bind(version)
    sent: list[tuple[DatagramSocket, int, int]] = [
        *[(here, 1200, 0)] * 6,
        *[(other, 1200, 0)] * 5,  # another source
        *[(here, 1200, 2)] * 4,  # other ECN bits
        *[(here, 1200, 0)] * 4,
        (here, 9000, 0),  # larger
        *[(here, 1200, 0)] * 3,
        (here, 600, 0),  # smaller: the end of the run
        *[(here, 600, 0)] * 5,
    ]
    for sender, size, ecn in sent:
        one_by_one(sender, to, [size], ecn)
    found, came = [], b""
    for source, view, segment in there.receive(1000):
        found.append((source.port, len(view), segment, there.ecn))
        came += view
    assert came == b"".join(bytes([size & 0xFF]) * size for _, size, _ in sent)
    assert found == [
        (here.port, 7200, 1200, 0),
        (other.port, 6000, 1200, 0),
        (here.port, 4800, 1200, 2),
        (here.port, 4800, 1200, 0),
        (here.port, 9000 + 1200, 9000, 0),  # the last of a run may be shorter
        (here.port, 2400 + 600, 1200, 0),
        (here.port, 3000, 600, 0),
    ]


def test_what_was_read_ahead_is_given_though_enough_was_read(pair: Pair) -> None:
    here, there, to = pair
    one_by_one(here, to, [1000] * 8 + [500, 1000, 1000])
    found = [(len(view), segment) for _, view, segment in there.receive(3, most_bytes=4000)]
    assert found == [(8500, 1000), (2000, 1000)]
