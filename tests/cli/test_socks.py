"""`nconnect forward` and `nconnect socks`: what is refused in one line, before anything listens or joins."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from nconnect.cli import carry
from nconnect.crypto.keys import Identity
from nconnect.io.files import paths
from tests.cli.conftest import Run
from tests.loops import run as run_on_loop
from tests.nkn.net import Net
from tests.others import BECOME, becomes_a_user
from tests.streams.test_nconnect_dialler import serving

HOST = "192.168.50.10:80"
KEY = Identity(bytes(32)).public_key.hex()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("forward",), "missing argument"),
        (("forward", "80"), "[BIND:]PORT:HOST:PORT"),
        (("forward", "8000:example.com:80"), "nobody resolves other names"),
        (("forward", f"0.0.0.0:8000:{HOST}"), "asks for no password"),
        (("forward", f"[::]:8000:{HOST}"), "asks for no password"),
        (("socks", "--listen", "0.0.0.0:1080"), "--listen-password-file"),
        (("socks", "--listen", "nowhere:1080"), "no address of this machine"),
        (("socks", "--listen", "99999"), "no port"),
        (("socks", "--token", "nc1-x"), "token"),
    ],
)
def test_mistakes_are_one_line(run: Run, arguments: tuple[str, ...], says: str) -> None:
    result = run(*arguments)
    assert result.status == 2
    assert says.lower() in result.err.lower()
    assert result.err.count("\n") == 1
    assert result.out == ""


def test_without_a_tunnel_and_a_configuration_it_says_what_to_give(run: Run) -> None:
    for command in (("socks", "--listen", "45670"), ("forward", f"45671:{HOST}")):
        result = run(*command)
        assert (result.status, result.out) == (2, "")
        assert "--token" in result.err


def test_a_port_in_use_ends_it_before_anybody_joins(run: Run, config_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        for command in (("socks", "--listen", str(port)), ("forward", f"{port}:{HOST}")):
            result = run(*command, "--token", "nc1-x")
            assert result.status == 1
            assert f"cannot listen at 127.0.0.1:{port}" in result.err
    assert not config_path.exists()


def test_the_password_s_file_is_a_secret(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "password"
    arguments = ("socks", "--listen", "0.0.0.0:45672", "--listen-password-file", file)
    assert "does not exist" in run(*arguments).err
    file.write_text("correct horse\n")
    file.chmod(0o644)
    assert "chmod 600" in run(*arguments).err
    file.chmod(0o600)
    assert "--token" in run(*arguments).err
    for wrong in ("", "\nsecond line", "x" * 300):
        file.write_text(wrong)
        assert "holds no password" in run(*arguments).err


def test_the_first_holds_the_session_and_later_ones_ask_it(
    run: Run, made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[object] = []
    monkeypatch.setattr(carry, "_serve_beside", lambda bound, dialler: used.append(dialler) or 0)
    monkeypatch.setattr(carry, "_serve_alone", lambda *_: used.append("alone") or 0)
    assert run("socks", "--listen", "45673").status == 0
    lock = paths.acquire_lock("nc0")
    try:
        assert run("socks", "--listen", "45673").status == 0
    finally:
        paths.release_lock("nc0", lock)
    monkeypatch.setattr(carry, "_is_here", lambda *_: True)
    assert run("socks", "--listen", "45673").status == 0
    assert used[0] == "alone"
    assert [type(each).__name__ for each in used[1:]] == ["SocketDialler", "KernelDialler"]


@becomes_a_user
def test_a_port_that_needs_rights_is_one_line() -> None:
    command = [*BECOME, "--bounding-set", "-all", sys.executable, "-m"]
    done = subprocess.run(
        [*command, "nconnect", "socks", "--listen", "80"], capture_output=True, text=True, check=False
    )
    allowed = int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text()) <= 80
    assert done.returncode == (2 if allowed else 1)
    assert allowed or "below 1024" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--cipher", "dummy"), "are for --nconnect"),
        (("--nconnect", "x"), "--nconnect: "),
        (("--nconnect", f"nConnect.x.{KEY}", "--cipher", "rot13"), "write chacha20-ietf-poly1305, "),
        (("--nconnect", f"nConnect.x.{KEY}", "--token", "nc1-x"), "for an official server"),
    ],
)
def test_mistakes_about_an_official_server_are_one_line(
    run: Run, options: tuple[str, ...], says: str
) -> None:
    for command in (("socks", "--listen", "45674"), ("forward", f"45674:{HOST}")):
        result = run(*command, *options)
        assert result.status == 2
        assert says in result.err
        assert result.err.count("\n") == 1


def test_an_official_server_carries_the_streams() -> None:
    async def test() -> None:
        async with Net.running() as net, serving(net=net) as (server, _):
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "nconnect", "forward", "--nconnect", server.client.address),
                *("--seed-rpc", net.seed, "45675:192.168.55.10:8000"),
                stdout=asyncio.subprocess.PIPE,
            )
            assert process.stdout is not None
            line = await process.stdout.readline()
            assert line == b"Listening at 127.0.0.1:45675 for 192.168.55.10:8000\n"
            reader, writer = await asyncio.open_connection("127.0.0.1", 45675)
            writer.write(b"hello, bye")
            assert await reader.read() == b"hello, bye"
            writer.close()
            process.terminate()
            assert await process.wait() == 0

    run_on_loop(test, within_s=60.0)
