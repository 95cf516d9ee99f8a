"""The TUN device's errors, and what is asked of the kernel in which order; devices are in netns_tests."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
from collections.abc import Iterator

import pytest
import pytun

from nconnect.errors import HostError
from nconnect.io.system import tun
from nconnect.io.system.tun import Tun
from nconnect.wire.tunnel import Feature

TUNSETIFF = 0x400454CA
TUNSETOFFLOAD = 0x400454D0
TUNGETIFF = 0x800454D2


class Kernel:
    """A driver that knows some offloads."""

    def __init__(self) -> None:
        self.ends = socket.socketpair()
        self.knows = 0x7F
        self.asked: list[int] = []
        self.refuses_with = errno.EINVAL
        self.created: list[tuple[str, int]] = []
        self.create_error: Exception | None = None
        self.called = ""  # the device's name; "" once it is deleted

    def device(self, name: str, flags: int) -> Kernel:
        self.created.append((name, flags))
        if self.create_error is not None:
            raise self.create_error
        return self

    def fileno(self) -> int:
        return self.ends[0].fileno()

    def close(self) -> None:
        for end in self.ends:
            end.close()

    def ioctl(self, fd: int, request: int, argument: object = 0) -> int | bytes:
        if request == TUNGETIFF:
            if not self.called:
                raise OSError(errno.EBADFD, "File descriptor in bad state")
            return self.called.encode().ljust(40, b"\0")
        if request == TUNSETOFFLOAD:
            assert isinstance(argument, int)
            self.asked.append(argument)
            if argument & ~self.knows:
                raise OSError(self.refuses_with, os.strerror(self.refuses_with))
        return 0


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Iterator[Kernel]:
    made = Kernel()
    monkeypatch.setattr(pytun, "TunTapDevice", made.device)
    monkeypatch.setattr(fcntl, "ioctl", made.ioctl)
    monkeypatch.setattr(tun, "DEVICE", os.devnull)  # of the other queues
    yield made
    made.close()


def test_everything_is_asked_for_first(kernel: Kernel) -> None:
    device = Tun("nc7")
    assert device.features == Feature.ALL
    assert (device.name, device.fd) == ("nc7", kernel.fileno())
    assert kernel.asked == [0x6F]
    assert kernel.created == [("nc7", pytun.IFF_TUN | pytun.IFF_NO_PI | 0xC100)]
    assert len(set(device.fds)) == tun.QUEUES
    assert device.fds[0] == device.fd
    assert not any(os.get_blocking(fd) or os.get_inheritable(fd) for fd in device.fds)
    device.close()
    assert kernel.ends[0].fileno() == -1
    for fd in device.fds[1:]:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)


def test_a_device_that_was_deleted_is_made_again_on_the_same_descriptor(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = Tun("nc7")
    made: list[object] = []

    def ioctl(fd: int, request: int, argument: object = 0) -> int | bytes:
        if request == TUNSETIFF:
            made.append((fd, argument))
        return kernel.ioctl(fd, request, argument)

    monkeypatch.setattr(fcntl, "ioctl", ioctl)
    kernel.knows = 0x0F
    device.renew()
    flags = [b"\x01\xd1", *[b"\x01\x51"] * (tun.QUEUES - 1)]  # the first takes no device of somebody else's
    assert made == [
        (fd, b"nc7" + bytes(13) + asked + bytes(22)) for fd, asked in zip(device.fds, flags, strict=True)
    ]
    assert device.features == Feature.CHECKSUM | Feature.TSO4 | Feature.TSO6
    assert len(kernel.created) == 1


def test_a_device_that_cannot_be_made_again_is_an_error(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = Tun("nc7")

    def ioctl(fd: int, request: int, argument: object = 0) -> int:
        raise OSError(errno.EBUSY, "Device or resource busy")

    monkeypatch.setattr(fcntl, "ioctl", ioctl)
    with pytest.raises(HostError, match="nc7 exists and is in use"):
        device.renew()


def test_its_index_whatever_it_is_called(kernel: Kernel) -> None:
    device = Tun("nc7")
    assert device.index() == 0, "deleted"
    kernel.called = "lo"
    assert device.index() == socket.if_nametoindex("lo")
    kernel.called = "nc7"
    assert device.index() == 0, "in another namespace"


def test_one_in_another_namespace_is_not_made_again(kernel: Kernel) -> None:
    device = Tun("nc7")
    kernel.called = "nc7"
    with pytest.raises(HostError, match="nc7 was moved to another network namespace"):
        device.renew()


def test_an_older_kernel_without_udp_segmentation(kernel: Kernel) -> None:
    kernel.knows = 0x0F
    assert Tun("nc7").features == Feature.CHECKSUM | Feature.TSO4 | Feature.TSO6
    assert kernel.asked == [0x6F, 0x0F]


def test_a_kernel_without_any(kernel: Kernel) -> None:
    kernel.knows = 0
    assert Tun("nc7").features == Feature(0)
    assert kernel.asked == [0x6F, 0x0F, 0]


@pytest.mark.parametrize("refuse", [Feature.CHECKSUM, Feature.TSO4, Feature.TSO6, Feature.USO, Feature.ALL])
def test_what_is_refused_is_not_even_asked_for(kernel: Kernel, refuse: Feature) -> None:
    features = Tun("nc7", refuse=refuse).features
    assert not features & refuse
    assert 0x6F not in kernel.asked
    assert (0x0F in kernel.asked) is (refuse == Feature.USO)


def test_any_other_refusal_is_an_error(kernel: Kernel) -> None:
    kernel.knows, kernel.refuses_with = 0, errno.EPERM
    with pytest.raises(HostError, match="nc7: the kernel refuses TUN offload: operation not permitted"):
        Tun("nc7")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (pytun.Error(errno.EPERM, "Operation not permitted"), "run as root"),
        (pytun.Error(errno.EACCES, "Permission denied"), "run as root"),
        (pytun.Error(errno.EBUSY, "Device or resource busy"), "is in use: stop the program that holds it"),
        (pytun.Error("Interface name too long"), "cannot create the TUN device nc7"),
    ],
)
def test_why_it_cannot_be_made_is_one_line(
    kernel: Kernel, error: Exception, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os.path, "exists", lambda path: True)
    kernel.create_error = error
    with pytest.raises(HostError, match=said) as raised:
        Tun("nc7")
    assert "\n" not in str(raised.value)


def test_a_machine_without_tun(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os.path, "exists", lambda path: False)
    kernel.create_error = pytun.Error(errno.ENOENT, "No such file or directory")
    with pytest.raises(HostError, match=f"there is no {tun.DEVICE}"):
        Tun("nc7")


@pytest.mark.parametrize(
    ("word", "features"),
    [
        ("", Feature.ALL),
        ("uso", Feature.CHECKSUM | Feature.TSO4 | Feature.TSO6),
        ("tso", Feature(0)),
        ("csum", Feature(0)),
        ("all", Feature(0)),
    ],
)
def test_the_environment_can_refuse(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch, word: str, features: Feature
) -> None:
    monkeypatch.setenv(tun.REFUSE_VARIABLE, word)
    assert Tun("nc7").features == features
    assert Tun("nc7", refuse=Feature(0)).features == Feature.ALL


def test_a_word_in_the_environment_that_is_none(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(tun.REFUSE_VARIABLE, "gso")
    with pytest.raises(HostError, match="NCONNECT_REFUSE_OFFLOAD is 'gso': take one of uso, tso, csum, all"):
        Tun("nc7")
    assert kernel.created == []
