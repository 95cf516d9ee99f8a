"""Kernel settings, in a folder in place of /proc/sys."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from nconnect.errors import HostError
from nconnect.io.system import sysctl


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
    with pytest.raises(HostError, match=r"cannot set net\.ipv4\.nothing.here to 1: "):
        sysctl.write("net/ipv4/nothing/here", "1")


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("net/ipv4/ip_forward", "(start this container with --sysctl net.ipv4.ip_forward=1)"),
        ("net/ipv6/conf/all/forwarding", "--sysctl net.ipv6.conf.all.forwarding=1"),
        ("net/ipv4/conf/nc0.7/route_localnet", "--sysctl net.ipv4.conf.default.route_localnet=1"),
    ],
)
def test_the_advice_is_one_that_can_be_followed(
    root: Path, monkeypatch: pytest.MonkeyPatch, name: str, advice: str
) -> None:
    """A device of ours does not exist yet when a container starts: the default is what it takes over."""

    def refused_with(code: int) -> str:
        def refuse(*_: object) -> None:
            raise OSError(code, os.strerror(code))

        monkeypatch.setattr(Path, "write_text", refuse)
        with pytest.raises(HostError) as refused:
            sysctl.write(name, "1")
        return str(refused.value)

    assert advice in refused_with(errno.EROFS)
    assert "run as root" not in refused_with(errno.EROFS)
    assert "(run as root; if that is a container, " in refused_with(errno.EACCES)


@pytest.mark.parametrize(
    ("code", "locked"),
    [(0, False), (errno.EROFS, True), (errno.EACCES, True), (errno.EPERM, True), (errno.ENOENT, False)],
)
def test_whether_anything_may_be_set(
    root: Path, monkeypatch: pytest.MonkeyPatch, code: int, locked: bool
) -> None:
    def refuse(*_: object) -> int:
        if code:
            raise OSError(code, os.strerror(code))
        return os.dup(0)

    monkeypatch.setattr(os, "open", refuse)
    assert sysctl.is_read_only() is locked


def test_one_setting_for_each_interface(root: Path) -> None:
    assert sysctl.interfaces_with("accept_ra") == [
        "net/ipv6/conf/all/accept_ra",
        "net/ipv6/conf/eth0.7/accept_ra",
    ]
    assert sysctl.interfaces_with("disable_ipv6") == []
