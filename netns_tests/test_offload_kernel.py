"""What the kernel emits passes our check, and the kernel accepts what passes our check, also after we cut it.

namespace A                       this process                      namespace B
tun1 10.9.0.1, fd09::1  --read--> check, then as it is, --write-->  tun2 10.9.0.2, fd09::2
                                  cut, or split
"""

from __future__ import annotations

import fcntl
import os
import select
import socket
import struct
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager

import pytest
import pytun

from lab.netns import Namespace, namespaces
from nconnect.ip import offload
from nconnect.ip.packet import is_well_formed
from nconnect.wire.tunnel import VIRTIO_HEADER_BYTES

IFF_VNET_HDR = 0x4000
TUNSETOFFLOAD, TUNSETVNETHDRSZ = 0x400454D0, 0x400454D8
CSUM, TSO4, TSO6, TSO_ECN, USO4, USO6 = 1, 2, 4, 8, 0x20, 0x40
UDP_SEGMENT = 103
TIMEOUT_S = 20
ALL = CSUM | TSO4 | TSO6 | USO4 | USO6
ADDRESSES = {4: "10.9.0.%d", 6: "fd09::%d"}


class Side:
    """A namespace with a TUN device in it."""

    def __init__(self, namespace: Namespace, number: int, offloads: int) -> None:
        self.namespace = namespace
        self.number = number
        self.device: pytun.TunTapDevice = namespace.enter(self._set_up, offloads)
        self.fd: int = self.device.fileno()
        os.set_blocking(self.fd, False)

    def close(self) -> None:
        self.device.close()

    def address(self, version: int) -> str:
        return ADDRESSES[version] % self.number

    def _set_up(self, offloads: int) -> pytun.TunTapDevice:
        name = f"tun{self.number}"
        device = pytun.TunTapDevice(name, pytun.IFF_TUN | pytun.IFF_NO_PI | IFF_VNET_HDR)
        fcntl.ioctl(device, TUNSETVNETHDRSZ, struct.pack("i", VIRTIO_HEADER_BYTES))
        try:
            fcntl.ioctl(device, TUNSETOFFLOAD, offloads)
        except OSError:
            device.close()
            pytest.skip("this kernel does not offer these offloads")
        for command in (
            f"link set {name} up",
            f"addr add {self.address(4)}/24 dev {name}",
            f"addr add {self.address(6)}/64 dev {name} nodad",
        ):
            subprocess.run(["ip", *command.split()], check=True)
        self._wait_until_local()
        return device

    def _wait_until_local(self) -> None:
        """Even without DAD an IPv6 address can be used only a moment after it was added."""
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
            probe.bind((self.address(6), 0))
            probe.settimeout(0.05)
            for _ in range(100):
                probe.sendto(b"", probe.getsockname()[:2])
                try:
                    probe.recv(1)
                except TimeoutError:
                    continue
                return
        pytest.fail("an IPv6 address never became usable")


class Pump(threading.Thread):
    """Carries every record from one device to the other and back, and keeps all of them."""

    def __init__(self, a: Side, b: Side, deal: Callable[[memoryview], list[bytes]]) -> None:
        super().__init__()
        self.records: list[bytes] = []
        self.refused: list[bytes] = []
        self.failures: list[tuple[OSError, bytes]] = []
        self._ways = {a.fd: b.fd, b.fd: a.fd}
        self._deal = deal
        self._wake, self._stop_fd = os.pipe()
        self.start()

    def run(self) -> None:
        while True:
            ready, _, _ = select.select([*self._ways, self._wake], [], [])
            if self._wake in ready:
                return
            for fd in ready:
                try:
                    record = os.read(fd, 70_000)
                except BlockingIOError:
                    continue
                self.records.append(record)
                view = memoryview(bytearray(record))
                if not (offload.check(view) and is_well_formed(view[VIRTIO_HEADER_BYTES:])):
                    self.refused.append(record)
                    continue
                for piece in self._deal(view):
                    try:
                        os.write(self._ways[fd], piece)
                    except OSError as error:
                        self.failures.append((error, piece))

    def close(self) -> None:
        os.close(self._stop_fd)
        self.join(TIMEOUT_S)
        os.close(self._wake)


def as_it_is(record: memoryview) -> list[bytes]:
    return [bytes(record)]


def cut_small(record: memoryview) -> list[bytes]:
    return offload.cut(record, 4000)


def cut_to_segments(record: memoryview) -> list[bytes]:
    return offload.cut(record, 1)


def split_up(record: memoryview) -> list[bytes]:
    return offload.split(record)


@contextmanager
def pair(prefix: str, offloads: int) -> Iterator[tuple[Side, Side]]:
    """Two sides; the first one has these offloads, the second all."""
    with ExitStack() as undo:
        a, b = namespaces(undo, prefix, "a", "b")
        one = undo.enter_context(closing(Side(a, 1, offloads)))
        yield one, undo.enter_context(closing(Side(b, 2, ALL)))


@pytest.fixture(
    scope="module",
    params=[ALL, CSUM | TSO4 | TSO6, CSUM | TSO4 | TSO6 | TSO_ECN, CSUM, 0],
    ids="offloads{:#x}".format,
)
def sides(request: pytest.FixtureRequest) -> Iterator[tuple[Side, Side]]:
    with pair("ncoff", request.param) as made:
        yield made


@pytest.fixture(params=[as_it_is, cut_small, cut_to_segments, split_up], ids=lambda deal: deal.__name__)
def pump(request: pytest.FixtureRequest, sides: tuple[Side, Side]) -> Iterator[Pump]:
    running = Pump(*sides, request.param)
    try:
        yield running
    finally:
        running.close()
    assert running.refused == [], "the kernel emits what our check refuses"
    assert running.failures == [], "the kernel refuses what our check lets pass"


def family(version: int) -> socket.AddressFamily:
    return socket.AF_INET if version == 4 else socket.AF_INET6


def listen(side: Side, version: int, kind: socket.SocketKind) -> socket.socket:
    def make() -> socket.socket:
        made = socket.socket(family(version), kind)
        made.settimeout(TIMEOUT_S)
        made.bind((side.address(version), 0))
        if kind == socket.SOCK_STREAM:
            made.listen()
        return made

    return side.namespace.enter(make)


def exchange(a: Side, server: socket.socket, data: bytes, count: int, segment: int = 0) -> list[bytes]:
    """Send `data` as one datagram, or cut into segments by the kernel; return what arrives."""

    def send() -> None:
        with socket.socket(server.family, socket.SOCK_DGRAM) as client:
            client.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, segment)
            client.sendto(data, server.getsockname()[:2])

    a.namespace.enter(send)
    return [server.recv(65_535) for _ in range(count)]


def kinds(pump: Pump) -> set[int]:
    return {record[1] & ~offload.GSO_ECN for record in pump.records}


@pytest.mark.parametrize("version", [4, 6])
def test_a_tcp_stream_arrives_whole(sides: tuple[Side, Side], pump: Pump, version: int) -> None:
    a, b = sides
    data = os.urandom(1 << 20)
    with listen(b, version, socket.SOCK_STREAM) as server:

        def receive() -> bytes:
            taken, _ = server.accept()
            with taken:
                taken.settimeout(TIMEOUT_S)
                received = bytearray()
                while chunk := taken.recv(1 << 16):
                    received += chunk
                return bytes(received)

        def send() -> None:
            address = server.getsockname()[:2]
            with socket.create_connection(address, TIMEOUT_S) as client:
                client.sendall(data)

        with ThreadPoolExecutor(1) as pool:
            receiving = pool.submit(receive)
            a.namespace.enter(send)
            assert receiving.result(TIMEOUT_S) == data


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("segment", [100, 1200])
def test_segmented_datagrams_arrive_one_by_one(
    sides: tuple[Side, Side], pump: Pump, version: int, segment: int
) -> None:
    a, b = sides
    data = os.urandom(segment * 20 + 7)
    with listen(b, version, socket.SOCK_DGRAM) as server:
        received = exchange(a, server, data, 21, segment)
    assert [len(datagram) for datagram in received] == [segment] * 20 + [7]
    assert b"".join(received) == data


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("size", [0, 1, 1400, 5000])
def test_datagrams_and_fragments_arrive(
    sides: tuple[Side, Side], pump: Pump, version: int, size: int
) -> None:
    a, b = sides
    data = os.urandom(size)
    with listen(b, version, socket.SOCK_DGRAM) as server:
        assert exchange(a, server, data, 1) == [data]


def test_the_kernel_makes_super_packets_of_every_kind_that_we_know() -> None:
    """The control: the tests above have seen super-packets, not only ordinary packets."""
    with pair("ncoff-control", ALL) as (a, b), closing(Pump(a, b, as_it_is)) as pump:
        for version in (4, 6):
            test_a_tcp_stream_arrives_whole((a, b), pump, version)
            test_segmented_datagrams_arrive_one_by_one((a, b), pump, version, 1200)
        seen = kinds(pump)
    assert seen == {offload.GSO_NONE, offload.GSO_TCPV4, offload.GSO_TCPV6, offload.GSO_UDP_L4}
