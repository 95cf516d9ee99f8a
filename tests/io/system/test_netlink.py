"""rtnetlink as the kernel of this machine answers it (reading needs no privilege)."""

from __future__ import annotations

import errno
import os
import socket
import struct
import subprocess
from ipaddress import ip_address, ip_interface, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nconnect.io.system import netlink, netlink_socket
from nconnect.io.system.netlink import Netlink
from nconnect.io.system.netlink_socket import NetlinkError, attribute
from tests.io.system.test_monitor import in_a_namespace, ip


def test_loopback_is_found() -> None:
    with Netlink() as kernel:
        lo = next(link for link in kernel.links() if link.name == "lo")
        assert lo.index == socket.if_nametoindex("lo")
        addresses = [held.address for held in kernel.addresses() if held.index == lo.index]
    if lo.up:
        assert ip_interface("127.0.0.1/8") in addresses


def test_every_interface_is_listed() -> None:
    with Netlink() as kernel:
        assert {(link.index, link.name) for link in kernel.links()} == set(socket.if_nameindex())


def test_a_refusal_is_an_error_and_the_socket_goes_on() -> None:
    with Netlink() as kernel:
        with pytest.raises(NetlinkError) as refused:
            kernel.add_address(2**31 - 1, ip_interface("192.0.2.1/32"))
        assert refused.value.errno in (errno.ENODEV, errno.EPERM)
        assert kernel.links()


def test_the_socket_is_not_inherited() -> None:
    with Netlink() as kernel:
        assert not os.get_inheritable(kernel.socket.fileno())


def test_multipath_routes_give_each_gateway() -> None:
    def hop(index: int, gateway: str) -> bytes:
        value = attribute(netlink._RTA_GATEWAY, ip_address(gateway).packed)
        return struct.pack("=HBBi", 8 + len(value), 0, 0, index) + value

    attributes = {netlink._RTA_MULTIPATH: memoryview(hop(3, "192.0.2.1") + hop(4, "192.0.2.2"))}
    assert list(netlink._hops(attributes)) == [(3, ip_address("192.0.2.1")), (4, ip_address("192.0.2.2"))]


@given(st.binary(max_size=200))
def test_any_bytes_are_read_as_attributes_or_not_at_all(data: bytes) -> None:
    for _, value in netlink_socket.read_attributes(memoryview(data)):
        assert len(value) <= len(data)


def test_bodies_are_laid_out_as_the_kernel_reads_them() -> None:
    assert netlink._route_body(7, ip_network("10.0.0.0/8"), 0x6E) == bytes.fromhex(
        "02080000fe6efd0100000000080001000a0000000800040007000000"
    )
    assert netlink._route_body(7, ip_network("192.0.2.1/32"), 0x6E, ip_address("10.0.0.1")) == bytes.fromhex(
        "02200000fe6e000104000000" + "08000100c0000201" + "0800040007000000" + "080005000a000001"
    )
    assert netlink._address_body(7, ip_interface("fd86::1/64")) == bytes.fromhex(
        "0a40000007000000"
        "14000200fd860000000000000000000000000001"
        "14000100fd860000000000000000000000000001"
        "0800080002000000"
    )


def test_a_dump_that_was_interrupted_is_asked_for_again() -> None:
    """The kernel may have passed over an entry of ours when others came and went meanwhile."""
    asked = 0

    class Kernel:
        """Names one link in the first dump, which is interrupted, and two in the second."""

        def send(self, request: bytes) -> None:
            nonlocal asked
            asked += 1
            (sequence,) = struct.unpack_from("=I", request, 8)
            flags = netlink_socket._DUMP_INTERRUPTED if asked == 1 else 0
            name = attribute(netlink._IFLA_IFNAME, b"nc0\0")
            body = bytes(16) + name + attribute(netlink._IFLA_MTU, struct.pack("=I", 1500))
            head = struct.pack("=IHHII", 16 + len(body), netlink.NEWLINK, flags, sequence, 0)
            done = struct.pack("=IHHIIi", 20, netlink_socket._DONE, flags, sequence, 0, 0)
            self.answer = (head + body) * asked + done

        def recv(self, size: int) -> bytes:
            return self.answer

        def close(self) -> None:
            pass

    with Netlink() as kernel:
        kernel.socket.close()
        kernel.socket = Kernel()  # type: ignore[assignment]
        assert len(kernel.links()) == 2
    assert asked == 2


@pytest.mark.parametrize("can_filter", [True, False])
def test_the_kernel_leaves_out_what_was_not_asked_for(
    monkeypatch: pytest.MonkeyPatch, can_filter: bool
) -> None:
    """One that cannot (before Linux 4.20) gives all of it, in which what was asked for is found."""

    def cannot(kernel: Netlink, wanted: bool) -> None:
        raise OSError(errno.ENOPROTOOPT, "Protocol not available")

    if not can_filter:
        monkeypatch.setattr(Netlink, "filter_dumps", cannot)

    def work() -> None:
        ip("link set lo up")
        ip("link add ours type veth peer name other")
        for name in ("ours", "other"):
            ip(f"link set {name} up")
        ip("address add 192.0.2.1/24 dev ours")
        ip("address add 198.51.100.1/24 dev other")
        ip("route add blackhole 203.0.113.0/24")
        ip("route add 10.0.0.0/24 dev ours")
        ip("route add 10.0.1.1/32 via 198.51.100.2 protocol 110")
        with Netlink() as kernel:
            names = {link.index: link.name for link in kernel.links()}
            (index,) = (index for index, name in names.items() if name == "ours")
            held = {str(each.address) for each in kernel.addresses(index) if each.address.version == 4}
            through = {str(r.prefix) for r in kernel.routes(names, through=index) if r.prefix.version == 4}
            by_us = {str(r.prefix) for r in kernel.routes(names, protocol=110) if r.prefix.version == 4}
            every = {str(r.prefix) for r in kernel.routes(names) if r.prefix.version == 4}
        assert held == {"192.0.2.1/24"}
        assert through == ({"192.0.2.0/24", "10.0.0.0/24"} if can_filter else every)
        assert by_us == ({"10.0.1.1/32"} if can_filter else every)
        assert len(every) == 5, "no filter is left behind"

    in_a_namespace(work)


def test_a_route_is_replaced_by_one_with_another_source() -> None:
    """In one step: none that was there is deleted, and a second one cannot be added."""

    def work() -> None:
        ip("link add ours type veth peer name other")
        ip("link set ours up")
        with Netlink() as kernel:
            (index,) = (link.index for link in kernel.links() if link.name == "ours")
            for networks in (("192.0.2.1/24", "192.0.2.2/24"), ("fd00::1/64", "fd00::2/64")):
                one, other = map(ip_interface, networks)
                prefix = ip_network("10.0.0.0/24" if one.version == 4 else "fd01::/64")
                kernel.add_address(index, one)
                kernel.add_address(index, other)
                kernel.add_route(index, prefix, 110, source=one.ip)
                with pytest.raises(NetlinkError, match="exists"):
                    kernel.add_route(index, prefix, 110, source=other.ip)
                for source in (other.ip, None):
                    kernel.add_route(index, prefix, 110, source=source, replaces=True)
                    command = ["ip", f"-{one.version}", "route", "show", str(prefix)]
                    shown = subprocess.run(command, check=True, capture_output=True, text=True).stdout
                    assert shown.count("dev ours") == 1
                    assert (f"src {other.ip}" in shown) == (source is not None)

    in_a_namespace(work)
