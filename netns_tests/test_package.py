"""The Debian package installs into clean roots of Debian 12 and 13, carries a ping, and leaves nothing.

user ──────────── internet ──────────── provider ──────────── server
the package,      node                  this checkout         192.168.50.10
in a root of
its own
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from lab import CHECKOUT
from lab.image import ENTRYPOINT, build_image, mirror
from lab.interpreters import interpreters
from lab.netns import Namespace
from lab.package import build_deb, build_wheel, dependencies
from lab.process import Process, until
from lab.traffic import pings
from lab.world import (
    LAN,
    PROVIDER_PEER,
    PROVIDER_TUNNEL,
    SEED_RPC,
    SERVER,
    USER_PEER,
    USER_TUNNEL,
    World,
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(shutil.which("debootstrap") is None, reason="needs debootstrap"),
]

RELEASES = {"bookworm": (3, 11), "trixie": (3, 13)}  # Debian 12 and 13, with their Pythons
SHELLS = ("share/bash-completion/completions/nconnect", "share/zsh/vendor-completions/_nconnect")
# What dpkg, apt and the account tools record about every package.
_BOOKKEEPING = (
    *("var/lib/dpkg/", "var/log/", "var/cache/", "root/.cache"),
    *("etc/passwd-", "etc/group-", "etc/shadow-", "etc/gshadow-"),
    *("etc/subuid", "etc/subgid", "etc/.pwd.lock"),
)


@dataclass
class Root:
    """A file system with a Debian in it. It has mounts only while a command runs."""

    path: Path

    def command(self, *arguments: str) -> list[str]:
        """A command in the root, without our environment and with mounts of its own, which end with it."""
        mounts = 'mount -t proc proc "$0/proc" && mount -t sysfs sysfs "$0/sys" && exec chroot "$0" "$@"'
        clean = ("env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "DEBIAN_FRONTEND=noninteractive")
        return ["unshare", "--mount", "sh", "-c", mounts, str(self.path), *clean, *arguments]

    def run(self, *arguments: str) -> str:
        done = subprocess.run(
            self.command(*arguments), capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 0, f"{arguments}: {done.stdout}{done.stderr}"
        return done.stdout

    def files(self) -> dict[str, tuple[int, int]]:
        """Mode and size of all files that are not the package tools' own records."""
        found = {}
        for folder, _, names in os.walk(self.path):
            for path in (folder, *(os.path.join(folder, name) for name in names)):
                name = os.path.relpath(path, self.path)
                if not name.startswith(_BOOKKEEPING):
                    status = os.lstat(path)
                    found[name] = (status.st_mode, 0 if os.path.isdir(path) else status.st_size)
        return found


@pytest.fixture(scope="module")
def deb(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("hatchling")
    folder = tmp_path_factory.mktemp("dist")
    return build_deb(build_wheel(folder), folder)


@pytest.fixture(scope="module", params=RELEASES)
def root(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Root]:
    """A minimal Debian with the packages that ours depends on, and no others."""
    release = request.param
    if RELEASES[release] not in interpreters():
        pytest.skip(
            "the package fits the Pythons of this machine: {} needs {}.{}".format(release, *RELEASES[release])
        )
    path = tmp_path_factory.mktemp("debian") / "root"
    names = {word.split()[0] for line in dependencies() for word in line.split(", ")}
    command = [
        "debootstrap",
        "--variant=minbase",
        f"--include={','.join(sorted(names))}",
        release,
        str(path),
    ]
    done = subprocess.run([*command, *mirror()], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"debootstrap: {done.stdout[-2000:]}{done.stderr}"
    path.parent.chmod(0o755)
    (path / "dev/net").mkdir(exist_ok=True)
    if not (path / "dev/net/tun").exists():
        os.mknod(path / "dev/net/tun", 0o666 | 0o020000, os.makedev(10, 200))
    yield Root(path)
    shutil.rmtree(path, ignore_errors=True)


def test_it_runs_in_a_clean_debian_and_leaves_no_trace(root: Root, deb: Path, fresh: World) -> None:
    before = root.files()
    accounts = (root.path / "etc/passwd").read_text()
    shutil.copy(deb, root.path / "nconnect.deb")
    root.run("dpkg", "-i", "/nconnect.deb")
    (root.path / "nconnect.deb").unlink()
    assert "nconnect " in root.run("nconnect", "version")
    assert "nconnect:" in (root.path / "etc/passwd").read_text()
    installed = root.files()
    for name in ("lib/systemd/system/nconnect@.service", "share/man/man1/nconnect.1.gz", *SHELLS):
        assert f"usr/{name}" in installed

    _tunnel(root, fresh)
    assert {name for name in root.files() if name.startswith("usr/")} == {
        name for name in installed if name.startswith("usr/")
    }, "running it wrote into /usr"

    root.run("dpkg", "--remove", "nconnect")
    assert (root.path / "etc/nconnect/nc0.toml").exists(), "a removal keeps the identity"
    assert not (root.path / "usr/lib/nconnect").exists()
    root.run("dpkg", "--purge", "nconnect")
    after = root.files()
    assert {name: after[name] for name in after if before.get(name) != after[name]} == {}
    assert set(before) == set(after)
    assert (root.path / "etc/passwd").read_text() == accounts


def test_its_dependencies_are_what_it_needs(root: Root, deb: Path) -> None:
    """dpkg finds all of them in a root that has nothing else."""
    told = root.run("dpkg-query", "-W", "-f", "${Package} ${Status}\n")
    for name in ("nftables", "python3"):
        assert f"{name} install ok installed" in told
    fields = subprocess.run(["dpkg-deb", "-f", deb, "Depends"], capture_output=True, text=True, check=True)
    assert "python3 (>= 3.11)" in fields.stdout


def test_pipx_installs_the_wheel_as_the_page_says(deb: Path, tmp_path: Path) -> None:
    """With the pipx of Debian 12, which has no --global."""
    page = (CHECKOUT / "docs/quick-start.md").read_text()
    (command,) = [line for line in page.splitlines() if line.startswith("sudo PIPX_HOME=")]
    (wheel,) = deb.parent.glob("*.whl")
    for there, here in (
        ("/opt/pipx", str(tmp_path / "home")),
        ("/usr/local/bin", str(tmp_path / "bin")),
        ("./nconnect-0.1.0-py3-none-any.whl", str(wheel)),
        (" pipx ", f" {tmp_path}/pipx/bin/pipx "),
    ):
        assert there in command
        command = command.replace(there, here)
    subprocess.run((sys.executable, "-m", "venv", tmp_path / "pipx"), check=True)
    subprocess.run((tmp_path / "pipx/bin/pip", "install", "--quiet", "pipx==1.1.0"), check=True)
    subprocess.run(command.removeprefix("sudo "), shell=True, check=True, timeout=300)
    done = subprocess.run(
        (tmp_path / "bin/nconnect", "--version"), capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("nconnect ")


def _tunnel(root: Root, world: World) -> None:
    """The packaged daemon, as the user, carries a ping to the server behind the provider."""
    inside = _In(root, world.user, world)
    inside.run(
        "nconnect",
        "init",
        "--identifier",
        USER_PEER,
        "--address",
        f"{USER_TUNNEL}/24",
        "--seed-rpc",
        SEED_RPC,
    )
    provider = world.provider_side
    provider.nconnect(
        *("init", "--identifier", PROVIDER_PEER, "--address", f"{PROVIDER_TUNNEL}/24"),
        *("--provide", LAN, "--seed-rpc", SEED_RPC),
    )
    address = inside.run("nconnect", "address").strip()
    provider.nconnect("peer", "add", USER_PEER, address, "--allowed-ips", f"{USER_TUNNEL}/32")
    inside.run(
        *("nconnect", "peer", "add", PROVIDER_PEER, provider.address()),
        *("--allowed-ips", f"{PROVIDER_TUNNEL}/32,{LAN}"),
    )
    world.node.start()
    provider.start()
    provider.wait()
    daemon = inside.start("nconnect", "up")
    until((root.path / "run/nconnect/nc0.sock").exists, "the packaged daemon's socket", process=daemon)
    inside.run("nconnect", "wait", PROVIDER_PEER, "--timeout", "15")
    assert pings(world.user, SERVER)
    uid = Path(f"/proc/{daemon.pid}").stat().st_uid
    assert f"nconnect:x:{uid}:" in (root.path / "etc/passwd").read_text(), "it runs as a user of its own"
    inside.run("nconnect", "down")
    assert daemon.wait(10) == 0, daemon.tail()


@dataclass
class _In:
    """Runs commands in the root, and in a machine of the world."""

    root: Root
    namespace: Namespace
    world: World

    def run(self, *arguments: str) -> str:
        done = self.namespace.run(self.root.command(*arguments))
        assert done.returncode == 0, f"{arguments}: {done.stdout}{done.stderr}"
        return done.stdout

    def start(self, *arguments: str) -> Process:
        return self.world.run_in(self.namespace, self.root.command(*arguments), "packaged")


def test_an_image_starts_the_tunnel_or_says_what_is_missing(deb: Path, tmp_path: Path) -> None:
    """No program that runs images is here: its one layer is unpacked, and its entry point run in there."""
    words = {word.split()[0] for line in dependencies() for word in line.split(", ")}
    image = build_image(deb, tmp_path, sorted(words), 1_800_000_000)
    with tarfile.open(image) as tar:
        tar.extractall(tmp_path / "image", filter="data")
    (layer,) = (
        path for path in (tmp_path / "image/blobs/sha256").iterdir() if path.read_bytes()[:2] == b"\x1f\x8b"
    )
    unpacked = Root(tmp_path / "root")
    unpacked.path.mkdir()
    subprocess.run(["tar", "-xzf", str(layer), "-C", str(unpacked.path)], check=True)
    assert "nconnect " in unpacked.run(ENTRYPOINT, "version")
    done = subprocess.run(
        unpacked.command(ENTRYPOINT), capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 2
    assert "no configuration" in done.stderr
    (unpacked.path / "token").write_text("nc1-nonsense\n")
    joining = unpacked.command("env", "NCONNECT_TOKEN_FILE=/token", ENTRYPOINT)
    done = subprocess.run(joining, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode in (1, 2)
    assert "nconnect: error" in done.stderr
    assert "nonsense" not in done.stderr
