"""sshuttle (Debian's), over an sshd that the bench starts with throw-away keys: TCP over IPv4 only.

It does not use the machine's own sshd or accounts. If none is installed, Debian's package is unpacked into
the cache folder; installing it would open a port to everybody.
"""

from __future__ import annotations

import itertools
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from lab.bench.bed import PROVIDER_DIRECT, Bed
from lab.bench.contenders.base import TCP_ONLY, Running, answers, ping_over_tcp, tcp_round_trips, to_echo
from lab.bench.contenders.built import cache_folder
from lab.netns import LabError
from lab.process import Process, until

HOST = "10.97.0.1"
_number = itertools.count()

# `ip netns exec` gives the process its own mount namespace, so nobody else sees these mounts.
_SSHD = """\
mount -t tmpfs none /run && mkdir -p /run/sshd
mount --bind {folder}/passwd /etc/passwd && mount --bind {folder}/shadow /etc/shadow
exec {sshd} -D -e -f {folder}/sshd_config
"""
_CONFIG = """\
ListenAddress {host}
Port 22
HostKey {folder}/host
AuthorizedKeysFile {folder}/user.pub
PidFile none
StrictModes no
UsePAM no
PermitRootLogin prohibit-password
PasswordAuthentication no
"""


class Sshuttle:
    name = "sshuttle"
    about = "Debian's sshuttle over OpenSSH, direct"

    def measures(self, case: str) -> bool:
        return case in TCP_ONLY | {"tcp-up-8", "tcp-both", "memory"}

    def missing(self) -> str | None:
        absent = [name for name in ("sshuttle", "ssh", "ssh-keygen", "nft") if shutil.which(name) is None]
        if absent:
            return f"{' and '.join(absent)} not installed (scripts/setup --dev)"
        try:
            _sshd()
        except LabError as error:
            return str(error)
        return None

    @contextmanager
    def running(self, bed: Bed) -> Iterator[Running]:
        folder = bed.folder / f"sshuttle-{next(_number)}"
        folder.mkdir()
        for name in ("host", "user"):
            bed.user.must("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name))
        (folder / "passwd").write_text(
            "root:x:0:0:root:/root:/bin/sh\nsshd:x:65534:65534::/run/sshd:/usr/sbin/nologin\n"
        )
        (folder / "shadow").write_text("root:*:19000:0:99999:7:::\nsshd:*:19000:0:99999:7:::\n")
        (folder / "sshd_config").write_text(_CONFIG.format(folder=folder, host=PROVIDER_DIRECT))
        program, libraries = _sshd()
        with ExitStack() as undo:
            bed.provider.ip(f"address add {HOST}/32 dev lo")
            undo.callback(bed.provider.ip, f"address del {HOST}/32 dev lo")
            sshd = Process(
                bed.provider,
                ["sh", "-c", _SSHD.format(folder=folder, sshd=program)],
                folder / "sshd.log",
                env={"LD_LIBRARY_PATH": libraries} if libraries else None,
            )
            undo.callback(sshd.stop)
            until(lambda: "listening" in sshd.text(), "sshd", process=sshd)
            ssh = (
                f"ssh -i {folder}/user -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null"
                " -o LogLevel=ERROR -F none"
            )
            started = time.monotonic()
            client = Process(
                bed.user,
                ["sshuttle", "--method", "nft", "-e", ssh, "-r", f"root@{PROVIDER_DIRECT}", f"{HOST}/32"],
                folder / "sshuttle.log",
            )
            undo.callback(client.stop)
            connect = to_echo(HOST)
            try:
                answered = answers(lambda: bool(tcp_round_trips(bed, connect, 1)), "sshuttle")
            except LabError as error:
                raise LabError(f"{error}\n{sshd.tail()}\n{client.tail()}") from None
            yield Running(
                bed,
                HOST,
                "",
                (client, sshd),
                answered - started,
                own={"ping": lambda seconds: ping_over_tcp(bed, connect, seconds)},
            )


def _sshd() -> tuple[str, str]:
    """OpenSSH's server, and if it is not installed the folder of its libraries."""
    installed = shutil.which("sshd") or shutil.which("sshd", path="/usr/sbin")
    if installed:
        return installed, ""
    folder = cache_folder() / "sshd"
    program = folder / "usr/sbin/sshd"
    if not program.exists():
        _unpack(folder)
    libraries = next((str(found.parent) for found in folder.glob("usr/lib/*/libwrap.so.0")), "")
    return str(program), libraries


def _unpack(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    try:
        for command in (
            ["apt-get", "-qq", "-o", "APT::Sandbox::User=root", "download", "openssh-server", "libwrap0"],
            ["sh", "-c", "for package in *.deb; do dpkg -x $package . && rm $package || exit 1; done"],
        ):
            subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.SubprocessError) as error:
        raise LabError(f"no sshd, and fetching Debian's failed: {error}") from None
