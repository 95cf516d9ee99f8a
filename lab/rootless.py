"""An installation of nconnect that belongs to an ordinary user, who is not root in any of its processes."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from lab.netns import Namespace
from lab.process import Process
from lab.sides import Side, nconnect_command

UID = 61_234  # in no list of users
# Most distributions let users open /dev/net/tun, this machine perhaps not: so a device of the same number,
# in a mount namespace of the command's own. $1 is a folder to mount it on, $2 the uid.
_AS_USER = """
mount -t tmpfs none "$1" && mkdir "$1/net" && mknod -m "$3" "$1/net/tun" c 10 200 &&
mount --bind "$1/net" /dev/net && umount -l "$1" && uid=$2 && shift 3 &&
exec setpriv --reuid "$uid" --regid "$uid" --clear-groups "$@"
"""


class RootlessSide(Side):
    """As `Side`; every command is the user's."""

    def __init__(self, name: str, namespace: Namespace, folder: Path, *, uid: int = UID) -> None:
        """`uid`: of tests that run at the same time each needs its own, where processes are counted."""
        self.uid = uid
        super().__init__(name, namespace, folder)
        self._mount = folder.parent / f"{name}-dev"
        self._mount.mkdir(exist_ok=True)
        self.tun_mode = "0666"
        self.own()

    def own(self) -> None:
        """Give the user all files, such as a configuration that was just written."""
        for path in (self.folder, *self.folder.rglob("*")):
            os.chown(path, self.uid, self.uid)

    def as_user(self, *command: str) -> list[str]:
        wrapper = ("unshare", "--mount", "--propagation", "slave", "sh", "-c", _AS_USER, "sh")
        return [*wrapper, str(self._mount), str(self.uid), self.tun_mode, *command]

    def command(self, *arguments: str) -> list[str]:
        return self.as_user(*super().command(*arguments))

    def start(self, *options: str, env: dict[str, str] | None = None, prefix: Sequence[str] = ()) -> Process:
        self.own()
        return super().start(*options, env=env, prefix=prefix)

    def run(
        self, *command: str, input_text: str = "", timeout_s: float = 30
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in the tunnel's network, whatever its status is."""
        whole = self.as_user(*nconnect_command(), "run", "-c", str(self.config), "--", *command)
        return self.namespace.run(whole, env=self.env, input_text=input_text, timeout_s=timeout_s)

    def inside(self, *command: str, timeout_s: float = 30) -> str:
        """Run a command in the tunnel's network that must succeed; its output."""
        done = self.run(*command, timeout_s=timeout_s)
        assert not done.returncode, done.stderr + done.stdout
        return done.stdout
