"""Holes in a router's IPv6 firewall by UPnP, in virtual time."""

from __future__ import annotations

import re
from ipaddress import IPv6Address
from random import Random

import pytest

from nconnect.nat.port_mapping import AGAIN_AFTER_S, LIFETIME_S, PortRequest
from nconnect.nat.upnp_holes import UpnpHoles
from nconnect.nat.upnp_mapping import HttpCall, MSearch
from tests.wire.test_upnp import description, soap

ROUTER, OWN, PORT = IPv6Address("fe80::1"), IPv6Address("2001:db8:1::7"), 41641
FIREWALL = "urn:schemas-upnp-org:service:WANIPv6FirewallControl:1"
AT = "http://[2001:db8:1::1]:5000"
BOTH = {"udp": (OWN, PORT), "tcp": (OWN, PORT)}


class Bench:
    """A machine, and a router that names its global address."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.at = AT
        self.description = description((FIREWALL, "/ctl/IP6FCtl"))
        self.fault = 0
        self.number = "7"
        self.holes: dict[str, str] = {}  # number -> protocol
        self.calls: list[str] = []
        self.machine = UpnpHoles(PortRequest(ROUTER, OWN, PORT), now=self.now, rng=Random(7).randbytes)

    def exchange(self) -> Bench:
        while (output := self.machine.poll_output()) is not None:
            if isinstance(output, MSearch):
                found = f"HTTP/1.1 200 OK\r\nLOCATION: {self.at}/d.xml\r\n\r\n".encode()
                assert self.machine.receive(found, ROUTER, self.now)
            else:
                self.machine.answered(self.answer(output), self.now)
        return self

    def answer(self, call: HttpCall) -> bytes:
        if not call.body:
            return self.description
        assert call.url == f"{AT}/ctl/IP6FCtl"
        action = dict(call.headers)["SOAPAction"].strip('"').rpartition("#")[2]
        self.calls.append(action)
        said = dict(re.findall(r"<(\w+)>([^<]*)</", call.body.decode()))
        inner = ""
        if action == "AddPinhole":
            if self.fault:
                error = f"<errorCode>{self.fault}</errorCode>"
                return soap(f"<s:Fault><UPnPError>{error}</UPnPError></s:Fault>")
            assert (said["InternalClient"], said["InternalPort"]) == (str(OWN), str(PORT))
            assert (said["RemoteHost"], said["RemotePort"]) == ("", "0")
            assert said["LeaseTime"] == str(LIFETIME_S)
            number = self.number + said["Protocol"]
            self.holes[number] = said["Protocol"]
            inner = f"<UniqueID>{number}</UniqueID>"
        else:
            assert action == "DeletePinhole"
            del self.holes[said["UniqueID"]]
        return soap(f'<u:{action}Response xmlns:u="{FIREWALL}">{inner}</u:{action}Response>')

    def told(self) -> dict[str, tuple[object, int]]:
        return {p: (m.address, m.port) for p, m in self.machine.mappings.items()}

    def step(self) -> None:
        deadline = self.machine.poll_timeout()
        assert deadline is not None
        self.now = deadline.at
        self.machine.handle_timeout(self.now)
        self.exchange()


def test_both_protocols_are_let_through_renewed_and_closed_at_the_end() -> None:
    bench = Bench().exchange()
    assert bench.told() == BOTH
    assert bench.machine.problem == ""
    assert set(bench.holes.values()) == {"6", "17"}
    bench.step()
    assert bench.now == 1000.0 + LIFETIME_S / 2
    assert bench.calls == ["AddPinhole"] * 4
    assert bench.told() == BOTH
    bench.machine.close()
    bench.exchange()
    assert bench.holes == {}
    assert bench.told() == {}
    assert bench.machine.poll_timeout() is None


def test_a_refusal_is_one_line_and_asked_again_in_ten_minutes() -> None:
    bench = Bench()
    bench.fault = 703
    bench.exchange()
    assert bench.told() == {}
    assert bench.machine.problem == "the router refuses to open a port by UPnP: error 703"
    bench.fault = 0
    bench.step()
    assert bench.now == 1000.0 + AGAIN_AFTER_S
    assert bench.told() == BOTH


@pytest.mark.parametrize("number", ["x", "-1", "12345"])
def test_a_hole_without_a_number_is_nonsense(number: str) -> None:
    bench = Bench()
    bench.number = number
    bench.exchange()
    assert bench.told() == {}
    assert "a hole without a number" in bench.machine.problem


def test_a_router_without_such_a_firewall_is_one_line() -> None:
    bench = Bench()
    bench.description = description(("urn:schemas-upnp-org:service:WANIPConnection:1", "/ctl/IPConn"))
    bench.exchange()
    assert bench.calls == []
    assert "the router opens no ports for IPv6" in bench.machine.problem


@pytest.mark.parametrize(
    "at",
    [
        "http://[2001:db8:2::1]:5000",
        f"http://[{OWN}]:5000",
        "http://192.168.1.1:5000",
        "http://[fe80::2]:5000",
    ],
)
def test_a_description_elsewhere_is_not_asked_for(at: str) -> None:
    bench = Bench()
    bench.at = at
    bench.exchange()
    assert bench.told() == {}
    assert "a URL that is not on the router" in bench.machine.problem
