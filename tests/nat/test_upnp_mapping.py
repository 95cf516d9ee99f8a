"""UPnP mappings in virtual time, at a router that does as it is told, and at others."""

from __future__ import annotations

import re
from ipaddress import IPv4Address
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nconnect.nat.port_mapping import AGAIN_AFTER_S, LIFETIME_S, TRY_FOR_S, PortRequest
from nconnect.nat.upnp_mapping import CALL_S, MAX_PORTS, HttpCall, MSearch, UpnpMapper
from tests.nat.test_port_mapping import in_silence
from tests.wire.test_upnp import FOUND, IP1, ROUTER, description, soap

OWN, OUTSIDE, PORT, START = IPv4Address("192.168.1.7"), "203.0.113.9", 41641, 1000.0


class Bench:
    """A mapper, and a router with what may be wrong with it, on one clock."""

    def __init__(self) -> None:
        self.now = START
        self.answers_search = True
        self.answers_calls = True
        self.description = description((IP1, "/ctl/IPConn"))
        self.address = OUTSIDE
        self.own = str(OWN)
        self.faults: list[int] = []  # of the next calls of AddPortMapping
        self.mapped: dict[str, tuple[str, str]] = {}  # protocol -> outer port, lease
        self.calls: list[str] = []
        self.mapper = UpnpMapper(PortRequest(ROUTER, OWN, PORT), now=self.now, rng=Random(7).randbytes)

    def exchange(self) -> Bench:
        while (output := self.mapper.poll_output()) is not None:
            if isinstance(output, MSearch):
                if self.answers_search:
                    assert self.mapper.receive(FOUND, ROUTER, self.now)
            elif self.answers_calls:
                self.mapper.answered(self.answer(output), self.now)
            else:
                self.mapper.failed("connection refused", self.now)
        return self

    def answer(self, call: HttpCall) -> bytes:
        if not call.body:
            self.calls.append("GET")
            return self.description
        action = dict(call.headers)["SOAPAction"].strip('"').rpartition("#")[2]
        self.calls.append(action)
        said = dict(re.findall(r"<(New\w+)>([^<]*)</", call.body.decode()))
        inner = f"<NewExternalIPAddress>{self.address}</NewExternalIPAddress>"
        if action == "AddPortMapping":
            inner = ""
            if self.faults:
                code = self.faults.pop(0)
                return soap(f"<s:Fault><UPnPError><errorCode>{code}</errorCode></UPnPError></s:Fault>")
            assert (said["NewInternalPort"], said["NewInternalClient"]) == (str(PORT), self.own)
            self.mapped[said["NewProtocol"].lower()] = (said["NewExternalPort"], said["NewLeaseDuration"])
        elif action == "DeletePortMapping":
            inner = ""
            assert self.mapped.pop(said["NewProtocol"].lower())[0] == said["NewExternalPort"]
        return soap(f'<u:{action}Response xmlns:u="{IP1}">{inner}</u:{action}Response>')

    def step(self) -> None:
        deadline = self.mapper.poll_timeout()
        assert deadline is not None
        self.now = deadline.at
        self.mapper.handle_timeout(self.now)
        self.exchange()

    def told(self) -> dict[str, tuple[str, int]]:
        return {p: (str(m.address), m.port) for p, m in self.mapper.mappings.items()}


BOTH = {"udp": (OUTSIDE, PORT), "tcp": (OUTSIDE, PORT)}


def test_both_protocols_are_mapped_one_after_the_other() -> None:
    bench = Bench().exchange()
    assert bench.told() == BOTH
    assert bench.mapped == {"udp": (str(PORT), str(LIFETIME_S)), "tcp": (str(PORT), str(LIFETIME_S))}
    assert bench.calls == ["GET", "GetExternalIPAddress", "AddPortMapping", "AddPortMapping"]
    assert bench.mapper.problem == ""


def test_renewed_at_half_of_the_time_which_also_finds_what_a_restart_lost() -> None:
    bench = Bench().exchange()
    bench.mapped.clear()
    bench.step()
    assert bench.now == START + LIFETIME_S / 2
    assert set(bench.mapped) == {"udp", "tcp"}
    assert bench.told() == BOTH


def test_a_silent_router_is_searched_three_times_and_again_after_ten_minutes() -> None:
    bench = Bench()
    bench.answers_search = False
    bench.exchange()
    for _ in TRY_FOR_S:
        bench.step()
    assert bench.now == START + sum(TRY_FOR_S)
    assert bench.mapper.problem == "the router does not answer by UPnP"
    bench.answers_search = True
    bench.step()
    assert bench.now == START + sum(TRY_FOR_S) + AGAIN_AFTER_S
    assert bench.told() == BOTH


def test_a_router_that_takes_permanent_mappings_only() -> None:
    bench = Bench()
    bench.faults = [725]
    bench.exchange()
    assert bench.told() == BOTH
    assert {lease for _, lease in bench.mapped.values()} == {"0"}
    bench.step()
    assert bench.now == START + LIFETIME_S / 2


def test_an_outer_port_that_another_device_has() -> None:
    bench = Bench()
    bench.faults = [718, 718]
    bench.exchange()
    assert bench.told()["tcp"] == BOTH["tcp"]
    port = bench.told()["udp"][1]
    assert port >= 49152
    assert bench.mapped["udp"][0] == str(port)
    bench.mapper.close()
    bench.exchange()
    assert bench.mapped == {}


@pytest.mark.parametrize(("faults", "code"), [([718] * MAX_PORTS, 718), ([606], 606), ([725, 725], 725)])
def test_a_refusal_is_one_line_and_asked_again_in_ten_minutes(faults: list[int], code: int) -> None:
    bench = Bench()
    bench.faults = list(faults)
    bench.exchange()
    assert bench.faults == []
    assert bench.told() == {}
    assert bench.mapper.problem == f"the router refuses to map a port by UPnP: error {code}"
    deadline = bench.mapper.poll_timeout()
    assert deadline is not None
    assert deadline.at == START + AGAIN_AFTER_S


@pytest.mark.parametrize("address", ["0.0.0.0", "127.0.0.1", "224.0.0.1", "router"])
def test_an_address_that_nobody_has_is_nonsense(address: str) -> None:
    bench = Bench()
    bench.address = address
    bench.exchange()
    assert bench.told() == {}
    assert "makes no sense" in bench.mapper.problem
    assert "AddPortMapping" not in bench.calls


def test_a_description_without_the_service_is_nonsense() -> None:
    bench = Bench()
    bench.description = description()
    bench.exchange()
    assert bench.mapper.problem == "the router's answer makes no sense (UPnP: the router maps no ports)"
    assert bench.calls == ["GET"]


def test_calls_that_fail_or_never_end() -> None:
    bench = Bench()
    bench.answers_calls = False
    bench.exchange()
    assert bench.mapper.problem == "the router does not answer by UPnP: connection refused"
    mapper = Bench().mapper
    mapper.receive(FOUND, ROUTER, START)
    mapper.handle_timeout(START + CALL_S - 0.1)
    assert mapper.problem == ""
    mapper.handle_timeout(START + CALL_S)
    assert mapper.problem == "the router does not answer by UPnP"
    mapper.answered(description((IP1, "/ctl")), START + CALL_S + 1)  # late
    assert mapper.poll_output() is None


def test_a_router_that_is_gone_takes_its_mappings_with_it_in_time() -> None:
    bench = Bench().exchange()
    bench.answers_search = False
    while bench.now < START + LIFETIME_S - AGAIN_AFTER_S - 10:
        bench.step()
        assert bench.told() == BOTH
    while bench.now < START + LIFETIME_S:
        bench.step()
    assert bench.now == START + LIFETIME_S  # at once, not at the next search
    assert bench.told() == {}


def test_closing_gives_up_what_is_mapped_or_is_being_mapped() -> None:
    bench = Bench().exchange()
    bench.mapper.close()
    bench.exchange()
    assert (bench.mapped, bench.told(), bench.mapper.poll_timeout()) == ({}, {}, None)
    mapper = Bench().mapper
    mapper.receive(FOUND, ROUTER, START)
    mapper.answered(description((IP1, "/ctl")), START)
    told = f"<NewExternalIPAddress>{OUTSIDE}</NewExternalIPAddress>"
    answer = f'<u:GetExternalIPAddressResponse xmlns:u="{IP1}">{told}</u:GetExternalIPAddressResponse>'
    mapper.answered(soap(answer), START)
    mapper.close()  # AddPortMapping is under way
    output = mapper.poll_output()
    assert isinstance(output, HttpCall)
    assert b"DeletePortMapping" in output.body
    assert mapper.poll_output() is None


def test_closing_gives_up_a_permanent_mapping_whose_answer_was_lost() -> None:
    bench = Bench()
    bench.faults = [725]
    while (output := bench.mapper.poll_output()) is not None:
        if isinstance(output, MSearch):
            bench.mapper.receive(FOUND, ROUTER, bench.now)
            continue
        answer = bench.answer(output)
        if bench.mapped:
            bench.mapper.failed("the answer is lost", bench.now)
        else:
            bench.mapper.answered(answer, bench.now)
    assert bench.mapped == {"udp": (str(PORT), "0")}
    assert not bench.mapper.is_asking
    bench.mapper.close()
    bench.exchange()
    assert bench.mapped == {}


def test_without_protocols_the_address_is_asked_and_nothing_is_changed() -> None:
    bench = Bench()
    bench.mapper = UpnpMapper(PortRequest(ROUTER, OWN, 0, ()), now=START, rng=Random(7).randbytes)
    assert (bench.mapper.outside, bench.mapper.is_answered) == (None, False)
    bench.exchange()
    assert not bench.mapper.is_asking
    assert (str(bench.mapper.outside), bench.mapper.is_answered) == (OUTSIDE, True)
    bench.mapper.close()
    bench.exchange()
    assert bench.calls == ["GET", "GetExternalIPAddress"]


def test_what_is_not_from_the_router_is_not_ours() -> None:
    mapper = Bench().mapper
    assert not mapper.receive(FOUND, IPv4Address("192.168.1.66"), START)
    assert isinstance(mapper.poll_output(), MSearch)
    assert mapper.poll_output() is None


@given(
    st.lists(st.one_of(st.binary(max_size=50), st.sampled_from([FOUND, description(), soap("")])), max_size=8)
)
def test_whatever_the_router_says_it_goes_on_in_time(said: list[bytes]) -> None:
    mapper = Bench().mapper
    now = START
    for data in said:
        mapper.receive(data, ROUTER, now)
        mapper.answered(data, now)
        mapper.failed("it is no HTTP", now)
    assert len(list(in_silence(mapper, now, 8))) == 8
    assert mapper.mappings == {}
