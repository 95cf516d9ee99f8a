"""Our TUN device on the real kernel: what it grants, takes and refuses, and how a lost device is made again.

one namespace:   test ── nct0 (TUN) 10.9.1.1/24, fd09:1::1/64
"""

from __future__ import annotations

import os
import select
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from lab.netns import Namespace, namespaces
from nconnect.errors import HostError
from nconnect.io.system.tun import Tun
from nconnect.ip import offload
from nconnect.ip.packet import is_well_formed
from nconnect.wire.tunnel import Feature


@pytest.fixture
def namespace() -> Iterator[Namespace]:
    with ExitStack() as undo:
        (made,) = namespaces(undo, "nctun", "only")
        yield made


def ip(*commands: str) -> None:
    for command in commands:
        subprocess.run(["ip", *command.split()], check=True, capture_output=True)


def up(tun: Tun) -> None:
    ip(
        f"link set {tun.name} up",
        f"addr add 10.9.1.1/24 dev {tun.name}",
        f"addr add fd09:1::1/64 dev {tun.name} nodad",
    )


def records_of(tun: Tun, wanted: Callable[[bytes], bool], send: Callable[[], object]) -> list[bytes]:
    """Call `send`, and return what the kernel hands over until the first record that is wanted."""
    send()
    found: list[bytes] = []
    while readable := select.select(tun.fds, [], [], 5)[0]:
        found.append(os.read(readable[0], 70_000))
        if wanted(found[-1]):
            return found
    pytest.fail("the kernel handed nothing over")


def test_all_that_this_kernel_offers_is_granted(namespace: Namespace) -> None:
    def test() -> None:
        tun = Tun("nct0")
        try:
            release = tuple(map(int, os.uname().release.split(".")[:2]))
            expected = Feature.ALL if release >= (6, 2) else Feature.ALL & ~Feature.USO
            assert tun.features == expected
            with pytest.raises(BlockingIOError):
                os.read(tun.fd, 100)
        finally:
            tun.close()
        listed = subprocess.run(["ip", "-o", "link"], capture_output=True, text=True, check=True)
        assert "nct0" not in listed.stdout

    namespace.enter(test)


@pytest.mark.parametrize("refuse", [Feature(0), Feature.USO, Feature.TSO4, Feature.TSO6, Feature.CHECKSUM])
def test_the_kernel_keeps_to_what_was_agreed(namespace: Namespace, refuse: Feature) -> None:
    """A send with UDP_SEGMENT arrives as one super-packet only if USO was accepted."""

    def send() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
            udp.setsockopt(socket.IPPROTO_UDP, 103, 1000)
            udp.sendto(bytes(4000), ("10.9.1.2", 5000))

    def test() -> None:
        tun = Tun("nct0", refuse=refuse)
        try:
            up(tun)
            last = records_of(tun, lambda r: r[10] >> 4 == 4 and r[19] == 17, send)[-1]
            view = memoryview(last)
            assert is_well_formed(view[10:])
            assert offload.check(view)
            assert bool(last[0] & offload.NEEDS_CSUM) is bool(tun.features & Feature.CHECKSUM)
            assert (last[1] == offload.GSO_UDP_L4) is bool(tun.features & Feature.USO)
            assert len(last) == (4038 if tun.features & Feature.USO else 1038)
        finally:
            tun.close()

    namespace.enter(test)


def test_the_kernel_takes_what_it_is_given_and_refuses_the_rest(namespace: Namespace) -> None:
    def test() -> None:
        tun = Tun("nct0")
        try:
            up(tun)
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
                udp.bind(("10.9.1.1", 5000))
                udp.settimeout(5)
                body = b"hello"
                header = b"\x45\0" + (28 + len(body)).to_bytes(2) + bytes(4) + b"\x40\x11\0\0"
                addresses = bytes([10, 9, 1, 2, 10, 9, 1, 1])
                datagram = b"\x10\0\x13\x88" + (8 + len(body)).to_bytes(2) + b"\0\0" + body
                packet = bytearray(header + addresses + datagram)
                total = sum(packet[:20:2]) * 256 + sum(packet[1:20:2])
                packet[10:12] = (-total % 0xFFFF).to_bytes(2)
                os.write(tun.fd, bytes(10) + packet)
                assert udp.recv(100) == body
            for bad in (
                b"",
                bytes(9),
                bytes(10),
                bytes(10) + b"\x50" + bytes(40),
                b"\0\x09" + bytes(8) + packet,
            ):
                with pytest.raises(OSError, match=r"."):
                    os.write(tun.fd, bad)
        finally:
            tun.close()

    namespace.enter(test)


def test_a_device_in_use_is_refused_in_one_line(namespace: Namespace) -> None:
    def test() -> None:
        tun = Tun("nct0")
        try:
            with pytest.raises(HostError, match="nct0 exists and is in use: stop the program that holds it"):
                Tun("nct0")
        finally:
            tun.close()
        Tun("nct0").close()

    namespace.enter(test)


def test_the_name_of_an_ordinary_interface_is_refused(namespace: Namespace) -> None:
    def test() -> None:
        ip("link add nct0 type veth peer name nct1")
        with pytest.raises(HostError) as error:
            Tun("nct0")
        assert "nct0" in str(error.value)
        assert "\n" not in str(error.value)

    namespace.enter(test)


def test_without_the_right_it_says_run_as_root(namespace: Namespace) -> None:
    """Tried in a child process that gave up root."""

    def test() -> None:
        child = os.fork()
        if child == 0:
            status = 1
            try:
                os.setresuid(65534, 65534, 65534)
                Tun("nct0")
            except HostError as error:
                status = 0 if "run as root" in str(error) else 2
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0

    namespace.enter(test)


def test_a_deleted_device_is_made_again_without_the_right_to_open_one(namespace: Namespace) -> None:
    """The daemon keeps CAP_NET_ADMIN and its descriptor, and cannot open /dev/net/tun any more."""

    def test() -> None:
        tun = Tun("nct0")
        for _ in range(3):
            ip("link set nct0 up", "address add 10.9.1.1/24 dev nct0")
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
                records_of(
                    tun,
                    lambda record: record.endswith(b"x" * 100),
                    lambda: datagrams.sendto(b"x" * 100, ("10.9.1.2", 9)),
                )
            ip("link del nct0")
            for fd in tun.fds:
                with pytest.raises(OSError, match="File descriptor in bad state"):
                    os.read(fd, 100)
            before = len(os.listdir("/proc/self/fd"))
            tun.renew()
            assert len(os.listdir("/proc/self/fd")) == before, "nothing is opened"
        tun.close()

    namespace.enter(test)
