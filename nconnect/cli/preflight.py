"""What a daemon needs on this machine before it starts. Each refusal is one line that says what to do."""

from __future__ import annotations

import errno
import logging
import os
import shutil
import time
from pathlib import Path

from nconnect.errors import HostError
from nconnect.io.errors import reason
from nconnect.io.process.privileges import CAP_NET_ADMIN, may_administer
from nconnect.io.system import nftables

log = logging.getLogger(__name__)


TUN_DEVICE = Path("/dev/net/tun")
PROCESS_STATUS = Path("/proc/self/status")
SYSTEM_PATH = "/usr/sbin:/sbin:/usr/local/sbin"
RELEASED_AT = 1_767_225_600.0  # 2026-01-01: no clock that is right shows less


def check() -> None:
    """Raise `HostError` for the first thing that is missing: privilege, TUN device or nft.

    An ordinary user's tunnel is in a namespace of its own: what that needs shows when it is made.
    """
    is_rootless = os.geteuid() != 0 and not may_administer()
    if not is_rootless:
        check_privilege()
    require_tun()
    require_nft(in_kernel=not is_rootless)


def check_privilege() -> None:
    """Check for CAP_NET_ADMIN, which root has except in some containers."""
    if not _effective_capabilities() >> CAP_NET_ADMIN & 1:
        if os.geteuid() == 0:
            raise HostError(
                "root lacks CAP_NET_ADMIN here: start the container with --cap-add NET_ADMIN"
                " --device /dev/net/tun"
            )
        raise HostError("the tunnel needs root (CAP_NET_ADMIN): try with sudo")


def require_tun() -> None:
    """Check for the kernel's TUN driver, by opening its device."""
    try:
        os.close(os.open(TUN_DEVICE, os.O_RDWR | os.O_CLOEXEC))
    except FileNotFoundError:
        raise HostError(
            f"{TUN_DEVICE} does not exist: load the driver with `modprobe tun`,"
            " in a container start it with --device /dev/net/tun"
        ) from None
    except OSError as error:
        if error.errno in (errno.ENODEV, errno.ENXIO):
            raise HostError("this kernel has no TUN driver: load it with `modprobe tun`") from None
        raise HostError(
            f"{TUN_DEVICE} cannot be opened ({reason(error)}): have root let users open it (chmod 0666"
            f" {TUN_DEVICE}, as most distributions have it); in a container allow it the device"
        ) from None


def require_nft(*, in_kernel: bool = True) -> None:
    """Check for the program that sets the firewall's rules, and for a kernel that supports them.

    `in_kernel`: whether this process may ask the kernel.
    """
    if shutil.which("nft", path=f"{os.environ.get('PATH', '')}:{SYSTEM_PATH}") is None:
        raise HostError(nftables.NO_NFT)
    if in_kernel and (why := nftables.kernel_problem()):
        raise HostError(why)


def warn_of_the_clock() -> None:
    """Log a warning if the wall clock is before this program's release: access would end at a wrong time."""
    now = time.time()
    if now < RELEASED_AT:
        log.warning(
            "the clock says %s, which is long past: set it, or peers' access ends at the wrong time",
            time.strftime("%Y-%m-%d", time.gmtime(now)),
        )


def _effective_capabilities() -> int:
    for line in PROCESS_STATUS.read_text().splitlines():
        if line.startswith("CapEff:"):
            return int(line.split()[1], 16)
    return 0
