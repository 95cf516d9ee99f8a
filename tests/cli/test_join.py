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
from ipaddress import ip_interface, ip_network
from pathlib import Path
from typing import Any

import pytest

from nconnect.crypto.keys import Identity
from nconnect.errors import NetworkError
from nconnect.invite.token import Token
from nconnect.invite.welcome import Welcome
from nconnect.io.files import config_file, paths
from nconnect.io.net import dial, proxy_search
from nconnect.io.nkn import join
from nconnect.model import NknAddress
from tests.cli.conftest import Run
from tests.control.fake import FakeBackend
from tests.invite.examples import OTHER_IDENTITY, PROVIDER, WELCOME


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


def joining(monkeypatch: pytest.MonkeyPatch, welcome: Welcome = WELCOME) -> list[tuple[Any, ...]]:
    """The provider answers. What was asked: the applicant's address, the seeds, and what is accepted."""
    asked: list[tuple[Any, ...]] = []

    async def apply(
        _: Token, identity: Identity, address: NknAddress, seeds: object, *, accept: object, **__: object
    ) -> Welcome:
        assert identity.public_key == address.public_key
        asked.append((address, seeds, accept))
        return welcome

    monkeypatch.setattr(join, "apply", apply)
    return asked


def test_another_provider_is_added_to_the_interface_with_its_own_key(
    run: Run, made: Path, token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = config_file.load(made)
    asked = joining(monkeypatch)
    result = run("join", token, "--accept-routes", "192.168.0.0/16,10.0.0.0/8")
    assert result.status == 0, result.err
    assert "joined gpu-box as laptop, on nc0: kept in the file; no daemon is running" in result.out
    assert re.search(r"\nnext:\n  sudo nconnect.* up -d\n  nconnect.* offers ", result.out)
    ((address, seeds, _),) = asked
    assert (address.identifier, address.public_key) == ("gpu-box", Identity(before.seed).public_key)
    assert seeds == before.network.seed_rpc, "the interface's network, not another one"
    after = config_file.load(made)
    (peer,) = after.peers
    assert replace(after, peers=()) == before
    assert peer.local_address == (ip_interface("10.86.0.2/24"),)
    assert peer.accept_routes == (ip_network("192.168.0.0/16"), ip_network("10.0.0.0/8"))

    known = run("join", token)
    assert known.status == 2
    assert "`nconnect leave gpu-box`" in known.err
    assert len(asked) == 1

    other = Token(NknAddress("x", OTHER_IDENTITY.public_key), b"token-i2", bytes(16), ()).encode()
    assert run("join", other).status == 0
    assert [peer.name for peer in config_file.load(made).peers] == ["gpu-box", "gpu-box-2"]

    assert run("leave", "gpu-bok", "--yes").status == 2
    assert run("leave", "gpu-box", "--yes").out == "left gpu-box: kept in the file; no daemon is running\n"
    assert run("leave", "gpu-box-2", "--yes").status == 0
    assert config_file.load(made) == before


def test_a_running_interface_keeps_its_own_login(
    run: Run, daemon: FakeBackend, token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = joining(monkeypatch)
    daemon.refuse_reload = "mtu cannot change"
    refused = run("join", token)
    assert refused.status == 1
    assert "nothing was joined, and the invitation is still valid" in refused.err
    assert not asked
    daemon.refuse_reload = None
    told = run("join", token).out
    assert "in force now" in told
    assert re.search(r"\nnext:\n  nconnect.* offers ", told), "it is up already"
    ((address, *_),) = asked
    assert address.bare != address
    assert address.bare.identifier == "gpu-box"


def test_the_last_one_to_leave_leaves_a_file_that_can_join_again(
    run: Run, config_path: Path, token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    joining(monkeypatch)
    assert run("join", token).status == 0
    first = config_file.load(config_path)
    assert first.address == ()
    assert run("leave", "gpu-box", "--yes").status == 0
    left = config_file.load(config_path)
    assert (left.address, left.peers, left.seed) == ((), (), first.seed)
    assert run("join", token).status == 0
    assert config_file.load(config_path) == first


def test_what_belongs_to_a_new_interface_is_refused_for_one_that_exists(
    run: Run, made: Path, token: str
) -> None:
    before = made.read_text()
    for options in (["--identifier", "x"], ["--seed-rpc", "http://127.0.0.1:1"], ["--proxy", "none"]):
        result = run("join", token, *options)
        assert result.status == 2
        assert "nc1.toml" in result.err
    assert made.read_text() == before


def test_a_file_that_cannot_be_edited_costs_no_invitation(
    run: Run, made: Path, token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = joining(monkeypatch)
    made.write_text(made.read_text().replace("[interface]", "[interface]\nmtu = 3"))
    assert run("join", token).status == 2
    assert not asked


def test_another_network_is_named(run: Run, made: Path, token: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def apply(*_: object, **__: object) -> Welcome:
        raise NetworkError("no answer within 20 s")

    monkeypatch.setattr(join, "apply", apply)
    result = run("join", token)
    assert result.status == 1
    assert "its network has other seeds" in result.err
    assert len(result.err.splitlines()) == 1


def test_a_daemon_that_runs(run: Run, made: Path, token: str) -> None:
    lock = paths.acquire_lock("nc0")
    try:
        result = run("join", token, "--force")
    finally:
        paths.release_lock("nc0", lock)
    assert result.status == 2
    assert "nconnect down" in result.err


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


def test_a_mistake_in_the_routes_uses_no_token(run: Run, config_path: Path, token: str) -> None:
    result = run("join", token, "--accept-routes", "privat")
    assert result.status == 2
    assert "--accept-routes: 'privat' is not an IP prefix" in result.err
    assert not config_path.parent.exists()


@pytest.mark.parametrize(
    ("uid", "readers"), [("65534", ("nobody",)), ("0", ()), ("4000000001", ()), ("x", ()), (None, ())]
)
def test_who_called_sudo_may_read_offers(
    run: Run,
    config_path: Path,
    token: str,
    monkeypatch: pytest.MonkeyPatch,
    uid: str | None,
    readers: tuple[str, ...],
) -> None:
    monkeypatch.delenv("SUDO_UID", raising=False)
    if uid is not None:
        monkeypatch.setenv("SUDO_UID", uid)
    joining(monkeypatch)
    assert run("join", token).status == 0
    assert config_file.load(config_path).readers == readers
