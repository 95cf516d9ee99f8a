"""An ordinary user without a TUN uses `nconnect socks` and `nconnect forward` with programs of others.

user (uid 65534, no capabilities) ── internet (node) ── provider (TUN) ── server 192.168.50.10
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lab import CHECKOUT
from lab.netns import Namespace
from lab.process import Process, until
from lab.sides import nconnect_command
from lab.traffic import SERVICE
from lab.world import PROVIDER_LAN, SERVER, World
from netns_tests.topology import CLOSED

NOBODY, ANOTHER = 65534, 65533
SOCKS, FORWARD, HTTP = 1080, 9000, 8080


def as_user(uid: int) -> list[str]:
    return ["setpriv", "--reuid", str(uid), "--regid", str(uid), "--clear-groups", "--no-new-privs"]


class Ordinary:
    """A user with a home folder and nothing else."""

    def __init__(self, namespace: Namespace, folder: Path) -> None:
        self.namespace = namespace
        self.folder = folder
        os.chown(folder, NOBODY, NOBODY)
        self.env = {
            "HOME": str(folder),
            "XDG_RUNTIME_DIR": str(folder),
            "NCONNECT_RUN_DIR": "",
            "NCONNECT_STATE_DIR": "",
            "NCONNECT_CONFIG": "",
            "PYTHONPATH": str(CHECKOUT),
        }
        self._logs = 0

    def start(self, *arguments: str) -> Process:
        """A command that says where it listens."""
        self._logs += 1
        log = self.folder / f"{self._logs}.log"
        process = Process(
            self.namespace, [*as_user(NOBODY), *nconnect_command(), *arguments], log, env=self.env
        )
        until(lambda: "Listening at " in process.text(), "a listener", process=process, timeout_s=30)
        return process

    def run(self, *arguments: str, text: str = "", uid: int = NOBODY) -> subprocess.CompletedProcess[str]:
        return self.namespace.run([*as_user(uid), *arguments], env=self.env, input_text=text, timeout_s=60)

    def curl(self, *arguments: str, uid: int = NOBODY) -> subprocess.CompletedProcess[str]:
        return self.run("curl", "-sS", "--noproxy", "", "-m", "30", *arguments, uid=uid)


@pytest.fixture(scope="module")
def user(shared: World) -> Iterator[Ordinary]:
    shared.user_side.down()
    folder = Path(tempfile.mkdtemp(prefix="ncsocks-"))
    pages = Path(tempfile.mkdtemp(prefix="ncpages-"))
    pages.joinpath("page").write_bytes(b"p" * 300_000)
    subprocess.run(["git", "init", "-q", "--bare", str(pages / "repo.git")], check=True)
    subprocess.run(["git", "-C", str(pages / "repo.git"), "update-server-info"], check=True)
    command = [sys.executable, "-m", "http.server", "-d", str(pages), str(HTTP)]
    web = shared.run_in(shared.server, command, "web")
    until(lambda: shared.server.listens(HTTP), "the web server", process=web)
    yield Ordinary(shared.user, folder)
    web.stop()
    shutil.rmtree(folder)
    shutil.rmtree(pages)


@pytest.fixture(scope="module")
def token(shared: World) -> str:
    return shared.provider_side.nconnect("invite", "nobody").split("nc1-", 1)[1].split()[0]


@pytest.fixture(scope="module")
def socks(user: Ordinary, token: str) -> Iterator[Process]:
    """`nconnect socks`, which joins with the invitation."""
    done = user.run(*nconnect_command(), "socks")
    assert done.returncode == 2
    assert "--token" in done.stderr
    process = user.start("socks", "--token", f"nc1-{token}")
    yield process
    assert process.stop() == 0
    assert f"nc1-{token[:20]}" not in process.text()


def test_it_joins_and_keeps_its_own_folders(user: Ordinary, socks: Process, token: str) -> None:
    config, control = user.folder / ".config/nconnect/nc0.toml", user.folder / "nconnect/nc0.sock"
    until(control.exists, "the control socket", process=socks)
    for path in (config, user.folder / ".local/state/nconnect/nc0", control):
        assert path.stat().st_uid == NOBODY
        assert path.stat().st_mode & 0o077 == 0
    assert "joined gpu-box as nobody" in socks.text()
    assert token not in Path(f"/proc/{socks.pid}/cmdline").read_text()
    assert "nc0" not in user.namespace.ip("link")


def test_programs_reach_the_server_and_nothing_else(user: Ordinary, socks: Process) -> None:
    page = f"http://{SERVER}:{HTTP}/page"
    for way in (
        ("--socks5-hostname", f"127.0.0.1:{SOCKS}"),
        ("--proxy", f"socks5h://127.0.0.1:{SOCKS}"),
        ("--proxytunnel", "-x", f"http://127.0.0.1:{SOCKS}"),
    ):
        done = user.curl(*way, page)
        assert (done.stdout, done.stderr) == ("p" * 300_000, "")
    refused = user.curl("--socks5-hostname", f"127.0.0.1:{SOCKS}", f"http://{PROVIDER_LAN}:{CLOSED}/")
    assert refused.returncode == 97
    assert "(2)" in refused.stderr
    refused = user.curl(
        "--proxytunnel", "-x", f"http://127.0.0.1:{SOCKS}", f"http://{PROVIDER_LAN}:{CLOSED}/"
    )
    assert "403" in refused.stderr
    for elsewhere in ("http://example.com/", "http://192.0.2.1:30003/", "http://127.0.0.1:30003/"):
        assert user.curl("--socks5-hostname", f"127.0.0.1:{SOCKS}", elsewhere).returncode == 97
    assert "is not among what this peer may reach" in socks.text()


def test_another_user_of_the_machine_is_refused(user: Ordinary, socks: Process) -> None:
    page = f"http://{SERVER}:{HTTP}/page"
    done = user.curl("--socks5-hostname", f"127.0.0.1:{SOCKS}", page, uid=ANOTHER)
    assert done.returncode
    assert f"uid {ANOTHER}" in socks.text()


def test_git_ssh_and_many_connections_at_once(user: Ordinary, socks: Process) -> None:
    proxy = f"socks5h://127.0.0.1:{SOCKS}"
    done = user.run("git", "-c", f"http.proxy={proxy}", "ls-remote", f"http://{SERVER}:{HTTP}/repo.git")
    assert done.returncode == 0, done.stderr
    with ThreadPoolExecutor(12) as pool:
        page = f"http://{SERVER}:{HTTP}/page"
        together = list(pool.map(lambda _: user.curl("--proxy", proxy, page).stdout, range(24)))
    assert together == ["p" * 300_000] * 24


def test_a_second_command_uses_the_first_one_s_session(user: Ordinary, socks: Process) -> None:
    second = user.start("socks", "--listen", "1082")
    try:
        done = user.curl("--socks5-hostname", "127.0.0.1:1082", f"http://{SERVER}:{HTTP}/page")
        assert (done.stdout, done.stderr) == ("p" * 300_000, "")
        refused = user.curl("--socks5-hostname", "127.0.0.1:1082", f"http://{PROVIDER_LAN}:{CLOSED}/")
        assert "(2)" in refused.stderr
    finally:
        assert second.stop() == 0
    assert socks.running


def test_udp_goes_over_the_session(user: Ordinary, socks: Process) -> None:
    udp = user.run(sys.executable, "-c", UDP_CLIENT, str(SOCKS), SERVER, str(SERVICE))
    assert udp.stdout.strip() == "True over the tunnel", udp.stderr


def test_forward_uses_what_was_kept(user: Ordinary, socks: Process) -> None:
    """Run last: it takes the session over."""
    assert socks.stop() == 0
    forward = user.start("forward", f"{FORWARD}:{SERVER}:{SERVICE}")
    try:
        assert f"Listening at 127.0.0.1:{FORWARD} for {SERVER}:{SERVICE}" in forward.text()
        code = (
            "import socket,sys\n"
            f"s=socket.create_connection(('127.0.0.1',{FORWARD}));s.sendall(b'echo\\n'+b'x'*100000)\n"
            "s.shutdown(1)\nn=0\nwhile d:=s.recv(65536): n+=len(d)\nprint(n)"
        )
        assert user.run(sys.executable, "-c", code).stdout.strip() == "100000"
    finally:
        forward.signal(signal.SIGINT)
        assert forward.wait(10) == 0


UDP_CLIENT = """
import socket, sys
tcp = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
tcp.sendall(b"\\5\\1\\0\\5\\3\\0\\1" + bytes(6))
answer = b""
while len(answer) < 12:
    answer += tcp.recv(12)
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
udp.settimeout(5)
to = b"\\0\\0\\0\\1" + socket.inet_aton(sys.argv[2]) + int(sys.argv[3]).to_bytes(2, "big")
udp.sendto(to + b"over the tunnel", ("127.0.0.1", int.from_bytes(answer[10:], "big")))
data = udp.recv(1000)
print(data[:len(to)] == to, data[len(to):].decode())
"""


def test_an_ordinary_user_uses_roots_tunnel(shared: World, user: Ordinary) -> None:
    """The kernel opens the streams, through the interface alone. Nothing is asked of root's daemon."""
    folder = Path(tempfile.mkdtemp(prefix="ncsocks-"))
    other = Ordinary(shared.user, folder)
    shared.user_side.start()
    shared.user_side.wait("gpu-box")
    try:
        process = other.start("socks", "--listen", "1081")
        proxy = ("--socks5-hostname", "127.0.0.1:1081")
        done = other.curl(*proxy, f"http://{SERVER}:{HTTP}/page")
        assert (done.stdout, done.stderr) == ("p" * 300_000, "")
        refused = other.curl(*proxy, f"http://{PROVIDER_LAN}:{CLOSED}/")
        assert refused.returncode == 97
        assert "(5)" in refused.stderr, "the provider's firewall answers with a reset"
        for elsewhere in ("192.0.2.1:30003", "127.0.0.1:1081", "10.86.0.2:1081", "198.51.100.2:1081"):
            assert other.curl(*proxy, f"http://{elsewhere}/").returncode == 97
        assert "is not behind nc0" in process.text()
        udp = other.run(sys.executable, "-c", UDP_CLIENT, "1081", SERVER, str(SERVICE))
        assert udp.stdout.strip() == "True over the tunnel", udp.stderr
        assert not (folder / ".config").exists()
        shared.user_side.down()
        assert other.curl(*proxy, f"http://{SERVER}:{HTTP}/page").returncode == 97
        assert "the tunnel nc0 is down" in process.text()
        assert process.stop() == 0
    finally:
        shared.user_side.stop()
        shutil.rmtree(folder)
