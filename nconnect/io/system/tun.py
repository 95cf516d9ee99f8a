"""The TUN device: super-packets with their virtio-net headers, straight to and from our own buffers.

A packet on a descriptor is a 10-byte virtio-net header and an IP packet (<linux/if_tun.h>, IFF_VNET_HDR).
The device is not persistent: it vanishes with its descriptors, and its addresses and routes with it.

It has several queues, a descriptor each (IFF_MULTI_QUEUE), because a full queue drops packets of all flows
in it. The kernel puts packets of a flow into the queue to which packets of that flow were written, and
other flows into queues by their hash. We write everything to one queue. So flows that are answered, TCP's
above all, share that queue only with the few one-way flows whose hash leads there.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import struct
from pathlib import Path

import pytun

from nconnect.errors import HostError
from nconnect.io.errors import reason
from nconnect.wire.tunnel import VIRTIO_HEADER_BYTES, Feature

DEVICE = "/dev/net/tun"
QUEUES = 8  # a flood that is not answered is in the way of those that are once in so many times

_IFF_VNET_HDR, _IFF_PERSIST, _IFF_MULTI_QUEUE, _IFF_TUN_EXCL = 0x4000, 0x0800, 0x0100, 0x8000
_FLAGS = pytun.IFF_TUN | pytun.IFF_NO_PI | _IFF_VNET_HDR | _IFF_MULTI_QUEUE
_NEW = _FLAGS | _IFF_TUN_EXCL  # a queue of a device that is there would be given to whoever asks
_TUNSETIFF = 0x400454CA
_TUNGETIFF = 0x800454D2
_IFREQ = struct.Struct("16sH22x")  # ifreq: name, flags
_TUNSETOFFLOAD = 0x400454D0
_TUNSETVNETHDRSZ = 0x400454D8
_TUNSETVNETLE = 0x400454DC
_F_CSUM, _F_TSO4, _F_TSO6, _F_TSO_ECN, _F_USO4, _F_USO6 = 0x01, 0x02, 0x04, 0x08, 0x20, 0x40

_NOTHING = Feature(0)

# What to ask the kernel for, best first: USO exists from Linux 6.2 on, and only both at once.
_OFFLOADS = (
    (_F_CSUM | _F_TSO4 | _F_TSO6 | _F_TSO_ECN | _F_USO4 | _F_USO6, Feature.ALL),
    (_F_CSUM | _F_TSO4 | _F_TSO6 | _F_TSO_ECN, Feature.CHECKSUM | Feature.TSO4 | Feature.TSO6),
    (0, _NOTHING),
)

# A seam for tests: what a kernel without it would not grant. Each word refuses what rests on it, too.
REFUSE_VARIABLE = "NCONNECT_REFUSE_OFFLOAD"
_REFUSALS = {
    "": _NOTHING,
    "uso": Feature.USO,
    "tso": Feature.TSO4,
    "csum": Feature.CHECKSUM,
    "all": Feature.ALL,
}


class Tun:
    """An open TUN device. `features` is what it accepts and emits.

    Read all of `fds`, and write everything to one of them, at first `fd`. If you change to another one, flows
    that are answered move to it.
    """

    def __init__(self, name: str, *, refuse: Feature | None = None) -> None:
        """Create it; raises `HostError` in one line.

        `refuse` is a seam for tests: offload not to ask for; None: what the environment says.
        """
        if refuse is None:
            refuse = _refused_by_the_environment()
        try:
            self._device = pytun.TunTapDevice(name=name, flags=_NEW)
        except pytun.Error as error:
            raise HostError(_create_failure(name, error)) from error
        self.name = name
        self.fd: int = self._device.fileno()
        self.fds = [self.fd]
        self._refuse = refuse
        try:
            for _ in range(1, QUEUES):
                self.fds.append(os.open(DEVICE, os.O_RDWR))
                self._attach(self.fds[-1], _FLAGS)
        except OSError as error:
            self.close()
            raise HostError(_create_failure(name, error)) from error
        for fd in self.fds:
            os.set_blocking(fd, False)
            os.set_inheritable(fd, False)
        self.features = self._set_up()

    def renew(self) -> None:
        """Make the device again, after somebody deleted it; raises `HostError`.

        The descriptors stay: to open /dev/net/tun once more may take rights that were given up.
        """
        if self._current_name():
            raise HostError(
                f"{self.name} was moved to another network namespace: move it back, or run"
                " `nconnect down` and `nconnect up`"
            )
        try:
            for fd in self.fds:
                self._attach(fd, _NEW if fd == self.fd else _FLAGS)
        except OSError as error:
            raise HostError(_create_failure(self.name, error)) from error
        self.features = self._set_up()

    def index(self) -> int:
        """The device's interface index, whatever it is called now; 0 when it is gone from this namespace."""
        try:
            return socket.if_nametoindex(self._current_name())
        except OSError:
            return 0

    def _current_name(self) -> str:
        """What the device is called now; "" when it was deleted."""
        try:
            name, _ = _IFREQ.unpack(fcntl.ioctl(self.fd, _TUNGETIFF, bytes(_IFREQ.size)))
        except OSError:
            return ""
        return bytes(name).rstrip(b"\0").decode(errors="surrogateescape")

    def _attach(self, fd: int, flags: int) -> None:
        """Make this descriptor a queue of the device, which the first one creates."""
        fcntl.ioctl(fd, _TUNSETIFF, _IFREQ.pack(self.name.encode(), flags))

    def _set_up(self) -> Feature:
        fcntl.ioctl(self.fd, _TUNSETVNETHDRSZ, struct.pack("i", VIRTIO_HEADER_BYTES))
        fcntl.ioctl(
            self.fd, _TUNSETVNETLE, struct.pack("i", 1)
        )  # the header is little-endian on every machine
        return self._set_offload(self._refuse)

    def _set_offload(self, refuse: Feature) -> Feature:
        for flags, features in _OFFLOADS:
            if features & refuse:
                continue
            try:
                fcntl.ioctl(self.fd, _TUNSETOFFLOAD, flags)
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise HostError(
                        f"{self.name}: the kernel refuses TUN offload: {reason(error)}"
                    ) from error
            else:
                return features
        return _NOTHING

    def close(self) -> None:
        """Give the device up; the kernel removes it, its addresses and its routes."""
        fds, self.fds = self.fds, []
        for fd in fds[1:]:
            os.close(fd)
        if fds:
            self._device.close()


def is_held(name: str) -> bool:
    """Whether a process has the TUN device with this name open; otherwise it would not exist."""
    try:
        flags = int(Path(f"/sys/class/net/{name}/tun_flags").read_text(), 16)
    except (OSError, ValueError):
        return False
    return not flags & _IFF_PERSIST


def _refused_by_the_environment() -> Feature:
    word = os.environ.get(REFUSE_VARIABLE, "")
    if word not in _REFUSALS:
        words = ", ".join(filter(None, _REFUSALS))
        raise HostError(f"{REFUSE_VARIABLE} is {word!r}: take one of {words}, or unset it")
    return _REFUSALS[word]


def _create_failure(name: str, error: Exception) -> str:
    code = error.args[0] if error.args and isinstance(error.args[0], int) else getattr(error, "errno", None)
    if not os.path.exists(DEVICE):
        return (
            f"there is no {DEVICE}: load the kernel's tun module"
            " (`modprobe tun`), or give this container the device"
        )
    if code in (errno.EPERM, errno.EACCES):
        return f"not permitted to create the TUN device {name}: run as root (sudo nconnect up)"
    if code == errno.EBUSY:
        return (
            f"the TUN device {name} exists and is in use: stop the program that holds it, or use another name"
        )
    return f"cannot create the TUN device {name}: {error}"
