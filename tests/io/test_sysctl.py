"""Kernel settings, in a folder that stands for /proc/sys."""

from __future__ import annotations

from pathlib import Path

import pytest

from nconnect.errors import HostError
from nconnect.io import sysctl


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for interface in ("all", "eth0.7"):
        (tmp_path / "net/ipv6/conf" / interface).mkdir(parents=True)
        (tmp_path / "net/ipv6/conf" / interface / "accept_ra").write_text("1\n")
    monkeypatch.setattr(sysctl, "ROOT", tmp_path)
    return tmp_path


def test_read_and_write(root: Path) -> None:
    name = "net/ipv6/conf/eth0.7/accept_ra"
    assert sysctl.read(name) == "1"
    sysctl.write(name, "2")
    assert sysctl.read(name) == "2"


def test_what_this_kernel_does_not_have(root: Path) -> None:
    assert sysctl.read("net/ipv4/nothing/here") is None
    with pytest.raises(HostError, match=r"cannot set net\.ipv4\.nothing to 1: .*run as root"):
        sysctl.write("net/ipv4/nothing", "1")


def test_one_setting_for_each_interface(root: Path) -> None:
    assert sysctl.interfaces_with("accept_ra") == [
        "net/ipv6/conf/all/accept_ra",
        "net/ipv6/conf/eth0.7/accept_ra",
    ]
    assert sysctl.interfaces_with("disable_ipv6") == []
