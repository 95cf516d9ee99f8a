"""Finds proxies that are set on this machine in places that nconnect does not use, to tell the person.

`sudo` drops the environment; the desktop and apt have their own settings. None of them is trusted or applied:
the person is shown HOST:PORT and where it was found, and can write it into the configuration.
"""

from __future__ import annotations

import os
import pwd
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from nconnect.config.proxy import of_environment
from nconnect.errors import ConfigError
from nconnect.model import Proxy

PROC = Path("/proc")
ENVIRONMENT = Path("/etc/environment")  # pam_env's
APT = (Path("/etc/apt/apt.conf"), Path("/etc/apt/apt.conf.d"))
_MAX_BYTES = 64 * 1024  # of each file
MAX_PARENTS = 8
GSETTINGS_S = 2.0

_APT_PROXY = re.compile(r'(?i)\bproxy\s+"([^"]+)"')
_ASSIGNED = re.compile(r"(?m)^\s*(?:export\s+)?(\w+)=[\"']?([^\"'\n]*)[\"']?\s*$")
_GSETTING = re.compile(r"(?m)^org\.gnome\.system\.proxy(?:\.(\w+))? (\w+) '?([^'\n]*)'?$")


@dataclass(frozen=True, slots=True)
class FoundProxy:
    """A proxy that somebody set, and where: words that follow "it is set"."""

    proxy: Proxy
    where: str

    @property
    def url(self) -> str:
        """What is written to use it; a login is the person's to fill in."""
        return f"{self.proxy.scheme}://{'USER:PASSWORD@' if self.proxy.username else ''}{self.proxy}"

    def mend(self, path: object) -> str:
        """What to do to have it used."""
        return f'write proxy = "{self.url}" in [network] of {path}'


def elsewhere(environ: Mapping[str, str] = os.environ, *, ask_desktop: bool = True) -> tuple[FoundProxy, ...]:
    """All that are found, each address once, the likeliest first."""
    found: dict[str, FoundProxy] = {}
    desktop = _desktop(environ) if ask_desktop else ()
    for each in (*_before_sudo(environ), *_environment_file(), *desktop, *_apt()):
        found.setdefault(str(each.proxy), each)
    return tuple(found.values())


def hint(path: object | None = None, environ: Mapping[str, str] = os.environ) -> str:
    """What to add to an error when nothing was reached without a proxy, and one is set that is not used.

    `path`: the configuration's file, or None where `--proxy` is an option. "" when no proxy is found.
    """
    for found in elsewhere(environ, ask_desktop=False):
        mend = found.mend(path) if path is not None else f"give --proxy {found.url}"
        return f"; a proxy {found.proxy} is set {found.where} and not used: {mend}"
    return ""


def _before_sudo(environ: Mapping[str, str]) -> Iterator[FoundProxy]:
    """The environment in which `sudo` was called: its own process still has it."""
    if os.geteuid() != 0 or not environ.get("SUDO_UID"):
        return
    pid = os.getppid()
    for _ in range(MAX_PARENTS):
        folder = PROC / str(pid)
        text = _read(folder / "environ")
        entries = (entry.partition("=") for entry in text.split("\0"))
        yield from _of({name: value for name, _, value in entries}, "where sudo was called")
        parent = re.search(r"(?m)^PPid:\s*(\d+)$", _read(folder / "status"))
        if parent is None or int(parent[1]) <= 1:
            return
        pid = int(parent[1])


def _environment_file() -> Iterator[FoundProxy]:
    yield from _of(dict(_ASSIGNED.findall(_read(ENVIRONMENT))), f"in {ENVIRONMENT}")


def _apt() -> Iterator[FoundProxy]:
    file, folder = APT
    try:
        files = [file, *sorted(folder.iterdir())]
    except OSError:
        files = [file]
    for path in files:
        lines = [line for line in _read(path).splitlines() if not line.lstrip().startswith(("//", "#"))]
        for url in _APT_PROXY.findall("\n".join(lines)):
            yield from _of({"https_proxy": url}, f"for apt, in {path}")


def _desktop(environ: Mapping[str, str]) -> Iterator[FoundProxy]:
    """GNOME's setting, of the user who called sudo."""
    program = shutil.which("gsettings")
    if program is None:
        return
    uid: int | None = None
    gid: int | None = None
    home = environ.get("HOME", "/")
    try:
        if os.geteuid() == 0 and environ.get("SUDO_UID"):
            user = pwd.getpwuid(int(environ["SUDO_UID"]))
            uid, gid, home = user.pw_uid, user.pw_gid, user.pw_dir
        said = subprocess.run(
            [program, "list-recursively", "org.gnome.system.proxy"],
            capture_output=True,
            stdin=subprocess.DEVNULL,
            timeout=GSETTINGS_S,
            check=False,
            env={"HOME": home, "PATH": os.defpath},
            cwd="/",
            user=uid,
            group=gid,
            extra_groups=None if uid is None else [],
        ).stdout.decode(errors="replace")[:_MAX_BYTES]
    except (OSError, ValueError, KeyError, OverflowError, subprocess.SubprocessError):
        return
    values = {(section, key): value for section, key, value in _GSETTING.findall(said)}
    if values.get(("", "mode")) != "manual":
        return
    for section, scheme in (("https", "http"), ("socks", "socks5")):
        host, port = values.get((section, "host"), ""), values.get((section, "port"), "")
        if host:
            yield from _of({"https_proxy": f"{scheme}://{host}:{port}"}, "in the desktop's settings")


def _of(environ: Mapping[str, str], where: str) -> Iterator[FoundProxy]:
    try:
        proxy = of_environment(environ).proxy
    except ConfigError:
        return  # nothing that could be used
    if proxy is not None:
        yield FoundProxy(proxy, where)


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(_MAX_BYTES).decode(errors="replace")
    except OSError:
        return ""
