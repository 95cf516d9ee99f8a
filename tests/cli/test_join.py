"""What `join` refuses before it sends anything; netns_tests has the joining itself."""

from __future__ import annotations

import contextlib
import io
import re
import socket
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_interface
from pathlib import Path

import pytest

from nconnect.errors import NetworkError
from nconnect.invite.token import Token
from nconnect.invite.welcome import Welcome
from nconnect.io.files import paths
from nconnect.io.net import dial, proxy_search
from nconnect.io.nkn import join
from nconnect.io.system.netlink import LinkAddress, Netlink
from tests.cli.conftest import Run
from tests.invite.examples import PROVIDER, WELCOME


@pytest.fixture
def token() -> Iterator[str]:
    """One whose seed refuses every connection."""
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        seed = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        yield Token(PROVIDER, b"token-id", bytes(16), (seed,)).encode()


@pytest.mark.parametrize(
    ("text", "says"),
    [("hello", "begins with nc1-"), ("nc1-abcd", "mistyped or cut short"), ("nc2-abcd", "another version")],
)
def test_what_is_no_token(run: Run, config_path: Path, text: str, says: str) -> None:
    result = run("join", text)
    assert result.status == 2
    assert says in result.err
    assert len(result.err.splitlines()) == 1
    assert not config_path.parent.exists()


def test_a_file_that_exists(run: Run, made: Path, token: str) -> None:
    before = made.read_text()
    result = run("join", token)
    assert result.status == 2
    assert "exists already" in result.err
    assert made.read_text() == before


def test_a_daemon_that_runs(run: Run, made: Path, token: str) -> None:
    lock = paths.acquire_lock("nc0")
    try:
        result = run("join", token, "--force")
    finally:
        paths.release_lock("nc0", lock)
    assert result.status == 2
    assert "nconnect down" in result.err


@pytest.fixture(autouse=True)
def networks(monkeypatch: pytest.MonkeyPatch) -> list[LinkAddress]:
    """The networks that this machine is in: none, if the test says nothing else."""
    held: list[LinkAddress] = []
    monkeypatch.setattr(Netlink, "addresses", lambda _: held)
    return held


def test_nobody_there(run: Run, config_path: Path, token: str) -> None:
    result = run("join", token, "--timeout", "1")
    assert result.status == 1
    assert "no node could be reached within 1 s" in result.err
    assert token not in result.err
    assert not config_path.exists()


def test_the_identity_is_kept_for_another_attempt(
    run: Run, config_path: Path, token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The provider may have let it in. One that nobody has seen is not kept: another has another node."""

    async def unanswered(*_: object, **__: object) -> None:
        raise NetworkError("no answer")

    state = paths.state_dir("nc0") / "joining.json"
    run("join", token, "--timeout", "1")  # no node is reached
    assert not state.exists()
    with monkeypatch.context() as patched:
        patched.setattr("nconnect.io.nkn.join.apply", unanswered)
        run("join", token)
        first = state.read_text()
        assert state.stat().st_mode & 0o777 == 0o600
        run("join", token, "--identifier", "other")
        assert state.read_text() == first
    run("join", token, "--timeout", "1")
    assert state.read_text() == first, "what an earlier attempt has sent may have been heard"
    another = Token(PROVIDER, b"other-id", bytes(16), Token.parse(token).seeds).encode()
    with monkeypatch.context() as patched:
        patched.setattr("nconnect.io.nkn.join.apply", unanswered)
        run("join", another)
    assert state.read_text() != first


def test_a_token_from_standard_input(
    run: Run, config_path: Path, token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(token + "\n"))
    assert "no node could be reached" in run("join", "-", "--timeout", "1").err
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    result = run("join", "-")
    assert result.status == 2
    assert "the token is missing" in result.err


def test_white_space_in_a_token_is_ignored(
    run: Run, config_path: Path, token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    reached = "no node could be reached"
    assert reached in run("join", token[:70], token[70:], "--timeout", "1").err
    assert reached in run("join", f" {token[:70]}\n  {token[70:]} ", "--timeout", "1").err
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{token[:70]}\n{token[70:]}\n"))
    assert reached in run("join", "-", "--timeout", "1").err
    assert "mistyped" in run("join", token[:70], token[71:]).err


def test_a_terminal_is_asked_for_the_token(
    run: Run, config_path: Path, token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def typed(text: str) -> None:
        terminal = io.StringIO(text)
        monkeypatch.setattr(terminal, "isatty", lambda: True)
        monkeypatch.setattr("sys.stdin", terminal)

    typed(f"{token[:70]}\n{token[70:]}\nnot read")
    result = run("join", "--timeout", "1")
    assert "paste the token" in result.err
    assert "no node could be reached" in result.err
    assert sys.stdin.read() == "not read"
    typed("hello\n")
    assert "a token begins with nc1-" in run("join").err
    typed(f"{token[:70]}\n\n")
    assert "cut short" in run("join").err
    monkeypatch.setattr("sys.stdin", io.StringIO(token))
    assert "the token is missing" in run("join").err, "without a terminal it is not read unasked"


def test_a_proxy_that_is_not_there_or_not_used_is_named(
    run: Run, config_path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        port = nobody.getsockname()[1]
        invited = Token(PROVIDER, b"token-id", bytes(16), ("http://node.example.invalid:1",)).encode()
        url = f"http://bob:hunter2@127.0.0.1:{port}"
        for arguments, variables in ((["--proxy", url], {}), ([], {"HTTPS_PROXY": url})):
            for name, value in variables.items():
                monkeypatch.setenv(name, value)
            result = run("join", invited, "--timeout", "1", *arguments)
            assert result.status == 1
            assert f"the proxy 127.0.0.1:{port} cannot be reached: connection refused" in result.err
            assert "hunter2" not in result.err
            assert len(result.err.splitlines()) == 1
    monkeypatch.delenv("HTTPS_PROXY")
    monkeypatch.setattr(proxy_search, "ENVIRONMENT", tmp_path / "environment")
    (tmp_path / "environment").write_text("https_proxy=10.0.0.1:3128\n")
    invited = Token(PROVIDER, b"token-id", bytes(16), (f"http://127.0.0.1:{port}",)).encode()
    result = run("join", invited, "--timeout", "1")
    assert "a proxy 10.0.0.1:3128 is set in" in result.err
    assert result.err.rstrip().endswith("and not used: give --proxy http://10.0.0.1:3128")
    assert "a proxy" not in run("join", invited, "--timeout", "1", "--proxy", "none").err
    assert not config_path.exists()


def test_a_wrong_proxy_uses_no_token(run: Run, config_path: Path, token: str) -> None:
    result = run("join", token, "--proxy", "http://bob:hunter2@h")
    assert result.status == 2
    assert result.err == (
        "nconnect: error: --proxy: has no port: write http://[USER:PASSWORD@]HOST:PORT or"
        " socks5://[USER:PASSWORD@]HOST:PORT (3128 and 8080 are usual, 1080 for SOCKS)\n"
    )
    assert not config_path.parent.exists()


@pytest.mark.parametrize(
    ("scheme", "says", "why"),
    [
        ("http", b"\0\xff" * 20_000, "does not speak HTTP"),
        ("socks5", b"HTTP/1.1 400 Bad Request\r\n\r\n", "refused \\(unexpected socks version"),
        ("http", None, "did not answer within 0.2 s"),
        ("socks5", None, "did not answer within 0.2 s"),
    ],
)
def test_a_proxy_that_hangs_or_is_none_is_one_line(
    run: Run, config_path: Path, monkeypatch: pytest.MonkeyPatch, scheme: str, says: bytes | None, why: str
) -> None:
    monkeypatch.setattr(dial, "PROXY_S", 0.2)
    invited = Token(PROVIDER, b"token-id", bytes(16), ("http://node.example.invalid:1",)).encode()
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = server.accept()
                    kept.append(connection)
                    if says is not None:
                        connection.recv(1)
                        connection.sendall(says)

        kept: list[socket.socket] = []
        thread = threading.Thread(target=serve)
        thread.start()
        url = f"{scheme}://127.0.0.1:{server.getsockname()[1]}"
        result = run("join", invited, "--proxy", url, "--timeout", "1")
        server.shutdown(socket.SHUT_RDWR)
        thread.join()
        for connection in kept:
            connection.close()
    assert result.status == 1
    assert re.search(f"the proxy 127\\.0\\.0\\.1:\\d+ {why}", result.err)
    assert len(result.err.splitlines()) == 1
    assert not config_path.exists()


def test_a_welcome_with_more_than_was_accepted(
    run: Run, config_path: Path, token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a provider that is older than `--accept-routes`, or that lies."""
    accepted: list[object] = []

    async def apply(*_: object, accept: object, **__: object) -> Welcome:
        accepted.append(accept)
        return replace(WELCOME, allowed_ips=("10.86.0.1/32", "192.168.50.0/24", "8.8.8.8/32"))

    monkeypatch.setattr(join, "apply", apply)
    result = run("join", token)
    assert result.status == 1
    assert "wants to have 8.8.8.8/32 routed to it" in result.err
    assert "--accept-routes 10.86.0.1/32,192.168.50.0/24,8.8.8.8/32" in result.err
    assert len(result.err.splitlines()) == 1
    assert not config_path.exists()
    assert run("join", token, "--accept-routes", "192.168.50.0/24").status == 1
    assert run("join", token, "--accept-routes", "8.0.0.0/8").status == 1
    assert run("join", token, "--accept-routes", "8.8.8.8/32,192.168.50.0/24").status == 0
    assert 'accept_routes = ["8.8.8.8/32", "192.168.50.0/24"]' in config_path.read_text()
    assert accepted[0] == "private"


@pytest.mark.parametrize(
    ("network", "named"),
    [
        ("192.168.48.9/20", "192.168.50.0/24"),
        ("10.3.4.5/8", "10.86.0.1/32, 10.86.0.0/24"),
        ("192.168.50.7/24", ""),  # equal: it is not routed, and `status` says so
        ("192.168.50.7/32", ""),
        ("192.168.50.129/25", ""),  # a longer prefix: it stays as it is
    ],
)
def test_a_part_of_the_devices_own_network_is_a_persons_to_give_away(
    run: Run,
    config_path: Path,
    token: str,
    networks: list[LinkAddress],
    monkeypatch: pytest.MonkeyPatch,
    network: str,
    named: str,
) -> None:
    async def apply(*_: object, **__: object) -> Welcome:
        return WELCOME

    monkeypatch.setattr(join, "apply", apply)
    networks.append(LinkAddress(2, ip_interface(network)))
    result = run("join", token)
    assert result.status == bool(named)
    if named:
        assert f"wants to have {named} routed to it, which is a part of the network that this" in result.err
        assert len(result.err.splitlines()) == 1
        assert not config_path.exists()
        assert run("join", token, "--accept-routes", "10.86.0.1/32,192.168.50.0/24").status == 0


def test_a_mistake_in_the_routes_uses_no_token(run: Run, config_path: Path, token: str) -> None:
    result = run("join", token, "--accept-routes", "privat")
    assert result.status == 2
    assert "--accept-routes: 'privat' is not an IP prefix" in result.err
    assert not config_path.parent.exists()
