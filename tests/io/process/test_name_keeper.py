"""Where the helper puts names: systemd-resolved where programs ask it, else the hosts file."""

from __future__ import annotations

import socket
from collections.abc import Iterable
from ipaddress import ip_address
from pathlib import Path

import pytest

from nconnect.errors import HostError
from nconnect.io.process import name_keeper
from nconnect.io.process.name_keeper import HOSTS_FILE, RESOLVED, UNCHANGED, NameKeeper
from nconnect.io.system import resolved
from nconnect.offers.name_codec import Names

NAMES: Names = {
    "gpu-box.internal": (ip_address("10.86.0.1"),),
    "nas.gpu-box.internal": (ip_address("10.5.0.1"),),
}
OTHERS = "127.0.0.1 localhost\n"


class FakeResolved:
    """`calls`: what it was told; "revert" when it was to forget. `refuses`: with these words."""

    def __init__(self) -> None:
        self.calls: list[object] = []
        self.is_asked = True
        self.refuses = ""

    def set_names(self, interface: str, server: tuple[str, int], domains: Iterable[str]) -> None:
        self.calls.append((interface, server[0], *domains))
        if self.refuses:
            raise HostError(self.refuses)

    def revert(self, interface: str) -> None:
        self.calls.append("revert")


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeResolved:
    made = FakeResolved()
    monkeypatch.setattr(resolved, "is_asked", lambda: made.is_asked)
    monkeypatch.setattr(resolved, "set_names", made.set_names)
    monkeypatch.setattr(resolved, "revert", made.revert)
    monkeypatch.setattr(name_keeper, "_PAUSE_S", 0.0)
    return made


@pytest.fixture
def hosts(tmp_path: Path) -> Path:
    path = tmp_path / "hosts"
    path.write_text(OTHERS)
    return path


TOLD = ("lo", "127.0.0.1", "gpu-box.internal")


def test_systemd_resolved_is_told_once_in_a_while_and_the_file_stays(
    fake: FakeResolved, hosts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keeper = NameKeeper("lo", hosts)
    assert [keeper.put(NAMES), keeper.put(NAMES)] == [RESOLVED, RESOLVED]
    assert fake.calls == [TOLD]
    monkeypatch.setattr(name_keeper, "_AGAIN_S", -1.0)
    assert keeper.put(NAMES) == RESOLVED
    assert fake.calls == [TOLD, TOLD], "another program may have taken them back"
    assert hosts.read_text() == OTHERS
    keeper.take_back()
    keeper.take_back()
    assert fake.calls == [TOLD, TOLD, "revert"]


def test_if_it_refuses_they_go_into_the_hosts_file(fake: FakeResolved, hosts: Path) -> None:
    keeper = NameKeeper("lo", hosts)
    fake.refuses = "systemd-resolved refused SetLinkDNSEx: unknown method"
    assert keeper.put(NAMES) == HOSTS_FILE
    assert fake.calls == [TOLD, "revert"], "it may have taken a part"
    assert "gpu-box.internal" in hosts.read_text()
    fake.refuses = ""
    assert keeper.put(NAMES) == RESOLVED
    assert hosts.read_text() == OTHERS, "they are in one place"
    fake.is_asked = False
    assert keeper.put(NAMES) == HOSTS_FILE
    assert fake.calls[-1] == "revert"
    assert keeper.put(NAMES) == UNCHANGED
    keeper.take_back()
    assert hosts.read_text() == OTHERS


def test_if_neither_takes_them_both_reasons_are_said(fake: FakeResolved, tmp_path: Path) -> None:
    fake.refuses = "systemd-resolved does not answer: timeout"
    keeper = NameKeeper("lo", tmp_path)
    with pytest.raises(
        HostError, match=r"^cannot write names into .*; systemd-resolved does not answer: timeout$"
    ):
        keeper.put(NAMES)
    with pytest.raises(HostError, match="cannot write names"):
        keeper.take_back()
    with pytest.raises(HostError, match=r"; there is no no-such$"):
        NameKeeper("no-such", tmp_path).put(NAMES)


def test_who_is_asked_stands_in_resolv_conf_or_nsswitch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nconnect.io.net import name_servers
    from nconnect.io.system import hosts_file

    conf, switch = tmp_path / "resolv.conf", tmp_path / "nsswitch.conf"
    monkeypatch.setattr(name_servers, "RESOLV_CONF", conf)
    monkeypatch.setattr(hosts_file, "NSSWITCH", switch)
    assert not resolved.is_asked(), "there is neither"
    conf.write_text("nameserver 127.0.0.53\noptions edns0\n")
    assert resolved.is_asked()
    conf.write_text("nameserver 127.0.0.53\nnameserver 192.168.1.1\n")
    assert not resolved.is_asked(), "others are asked besides"
    switch.write_text("hosts: mymachines resolve [!UNAVAIL=return] files dns\n")
    assert resolved.is_asked()


def test_without_a_bus_that_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", f"unix:path={tmp_path / 'none'}")
    with pytest.raises(HostError, match="systemd-resolved cannot be told"):
        resolved.set_names("lo", ("127.0.0.1", 53), ["a.internal"])
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(tmp_path / "none"))
        silent.listen()
        monkeypatch.setattr(resolved, "_TIMEOUT_S", 0.1)
        with pytest.raises(HostError, match="systemd-resolved cannot be told"):
            resolved.set_names("lo", ("127.0.0.1", 53), ["a.internal"])
    resolved.revert("lo")
