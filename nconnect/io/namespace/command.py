"""Becoming a command in the namespaces of this user's tunnel.

What `nconnect run` does, with few imports: those of the whole command line take longer than the work here.
"""

from __future__ import annotations

import os
import shutil
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

from nconnect.errors import ControlError, HostError, UsageError
from nconnect.io.files import config_file, paths
from nconnect.io.namespace import userns
from nconnect.io.process.privileges import drop_privileges

NOT_EXECUTABLE, NOT_FOUND = 126, 127  # as shells have it
_TIMEOUT_S = 10.0
_NAMESPACES = 3  # user, network, mounts


def start(command: Sequence[str], config: Path | None) -> int:
    """Become the command, in the tunnel's network; the exit status if it cannot be started.

    Raises `NconnectError` when there is no such network.
    """
    if not command:
        raise UsageError("give a command: nconnect run -- COMMAND [ARGUMENTS…]")
    here = os.getcwd()
    namespaces = _namespaces(config_file.interface_of(config_file.choose_path(config)))
    try:
        userns.enter(*namespaces)
        os.chdir(here)
    except OSError as error:
        raise HostError(f"cannot enter the tunnel's network: {error.strerror}") from None
    drop_privileges(core_dumps=True)
    program = command[0] if "/" in command[0] else shutil.which(command[0])
    try:
        if program is None:
            raise FileNotFoundError
        os.execv(program, list(command))
    except FileNotFoundError:
        print(f"nconnect: error: {command[0]}: there is no such command", file=sys.stderr)
        return NOT_FOUND
    except OSError as error:
        print(f"nconnect: error: {command[0]} cannot be run: {error.strerror}", file=sys.stderr)
        return NOT_EXECUTABLE


def _namespaces(interface: str) -> list[int]:
    """The tunnel's, as descriptors: user, network, mounts."""
    with socket.socket(socket.AF_UNIX) as door:
        door.settimeout(_TIMEOUT_S)
        try:
            door.connect(str(paths.door_path(interface)))
            _, fds, _, _ = socket.recv_fds(door, 1, _NAMESPACES)
        except (FileNotFoundError, ConnectionRefusedError):
            raise ControlError(_why_none(interface)) from None
        except OSError as error:
            raise ControlError(f"the tunnel's network cannot be entered: {error}") from None
    if len(fds) != _NAMESPACES:
        raise ControlError("the tunnel's network cannot be entered: its daemon belongs to another user")
    return fds


def _why_none(interface: str) -> str:
    if paths.socket_path(interface).exists():
        return (
            f"{interface} runs with root's rights, so every program on this machine has its network already:"
            " run the command by itself"
        )
    return f"{interface} is not up: start it with `nconnect up -d`"
