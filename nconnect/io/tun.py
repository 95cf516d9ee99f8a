"""The TUN device: super-packets with their virtio-net headers, straight to and from our own buffers.

A packet on the descriptor is a 10-byte virtio-net header and an IP packet (<linux/if_tun.h>, IFF_VNET_HDR).
The device is not persistent: it vanishes with the descriptor, and its addresses and routes with it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from pathlib import Path

import pytun

from nconnect.errors import HostError
from nconnect.io.errors import reason
from nconnect.wire.tunnel import VIRTIO_HEADER_BYTES, Feature

_IFF_VNET_HDR, _IFF_PERSIST = 0x4000, 0x0800  # <linux/if_tun.h>
_FLAGS = pytun.IFF_TUN | pytun.IFF_NO_PI | _IFF_VNET_HDR
_TUNSETIFF = 0x400454CA
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
    """An open TUN device. `features` is what it takes and gives."""

    def __init__(self, name: str, *, refuse: Feature | None = None) -> None:
        """Create it; raises `HostError` in one line.

        `refuse` is a seam for tests: offload not to ask for; None: what the environment says.
        """
        if refuse is None:
            refuse = _refused_by_the_environment()
        try:
            self._device = pytun.TunTapDevice(name=name, flags=_FLAGS)
        except pytun.Error as error:
            raise HostError(_create_failure(name, error)) from error
        self.name = name
        self.fd: int = self._device.fileno()
        self._refuse = refuse
        os.set_blocking(self.fd, False)
        os.set_inheritable(self.fd, False)
        self.features = self._set_up()

    def renew(self) -> None:
        """Make the device again, after somebody deleted it; raises `HostError`.

        The descriptor stays: to open /dev/net/tun once more may take rights that were given up.
        """
        try:
            fcntl.ioctl(self.fd, _TUNSETIFF, struct.pack("16sH22x", self.name.encode(), _FLAGS))
        except OSError as error:
            raise HostError(_create_failure(self.name, error)) from error
        self.features = self._set_up()

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
        self._device.close()


def is_held(name: str) -> bool:
    """Whether some process has the TUN device of this name open: without one it would be gone."""
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
    if not os.path.exists("/dev/net/tun"):
        return (
            "there is no /dev/net/tun: load the kernel's tun module"
            " (`modprobe tun`), or give this container the device"
        )
    if code in (errno.EPERM, errno.EACCES):
        return f"not permitted to create the TUN device {name}: run as root (sudo nconnect up)"
    if code == errno.EBUSY:
        return (
            f"the TUN device {name} exists and is in use: stop the program that holds it, or use another name"
        )
    return f"cannot create the TUN device {name}: {error}"
