"""No two interfaces of one machine use one key: they would have each peer's session in turns."""

from __future__ import annotations

from nconnect.control.client import ControlClient
from nconnect.errors import ControlError, HostError
from nconnect.io.files import paths


def refuse_shared_key(interface: str, public_key: bytes) -> None:
    """Raise `HostError` when another running interface has this key. Blocking.

    The others are asked by their control sockets; one that does not answer, or is another user's, is passed
    over (the peers notice it then: `nconnect.tunnel.shared_key`).
    """
    for path in sorted(paths.run_dir().glob("*.sock")):
        if path.stem == interface:
            continue
        try:
            other = ControlClient(path.stem, path).status()
        except ControlError:
            continue
        if other.public_key == public_key.hex():
            raise HostError(
                f"{other.interface} uses the same key, and only one interface can: give {interface} one of"
                " its own, by `nconnect join` with an invitation, or `nconnect init`"
            )
