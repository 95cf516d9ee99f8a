"""Reading `conntrack -L`, and deleting with a program in its place."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nconnect.host.judge import Flow
from nconnect.io import conntrack

LISTING = (
    "tcp      6 431999 ESTABLISHED src=10.86.0.3 dst=192.168.50.10 sport=48686 dport=8000"
    " src=192.168.50.10 dst=192.168.50.1 sport=8000 dport=48686 [ASSURED] mark=0 use=1\n"
    "icmpv6   58 29 src=fd86::2 dst=fd50::10 type=128 code=0 id=1"
    " src=fd50::10 dst=fd86::2 type=129 code=0 id=1\n"
)
TCP = Flow("tcp", ip_address("10.86.0.3"), ip_address("192.168.50.10"), 48686, 8000)
PING = Flow("icmp", ip_address("fd86::2"), ip_address("fd50::10"))


def test_the_original_direction_counts() -> None:
    assert list(conntrack.parse(LISTING)) == [TCP, PING]


@given(st.text())
def test_any_text_is_read(text: str) -> None:
    list(conntrack.parse(text))


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "list").write_text(LISTING)
    program = tmp_path / "conntrack"
    program.write_text(
        f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\n[ "$1" = -L ] && cat {tmp_path}/list\nexit 1\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return tmp_path / "asked"


def test_all_of_an_address(fake: Path) -> None:
    assert conntrack.forget([ip_network("10.86.0.3/32")])
    assert fake.read_text().splitlines() == [
        "-D -f ipv4 --orig-src 10.86.0.3/32",
        "-D -f ipv4 --orig-dst 10.86.0.3/32",
    ]


def test_what_may_stay_stays(fake: Path) -> None:
    prefixes = [ip_network(p) for p in ("10.86.0.2/32", "10.86.0.3/32")]
    assert conntrack.forget(prefixes, lambda flow: flow == PING)
    assert fake.read_text().splitlines()[1:] == [
        "-D -f ipv4 --orig-src 10.86.0.3 --orig-dst 192.168.50.10 -p tcp --sport 48686 --dport 8000"
    ]


def test_what_others_opened_stays(fake: Path) -> None:
    assert conntrack.forget([ip_network("10.86.0.2/32")], lambda flow: False)
    assert fake.read_text().splitlines() == ["-L -f ipv4"]


def test_without_the_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(conntrack, "_PATH", str(tmp_path))
    assert not conntrack.forget([ip_network("10.86.0.3/32")])
