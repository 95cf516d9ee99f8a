from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from nconnect.cli.setup import default_identifier
from nconnect.config.private import is_private_prefix
from nconnect.io.files.config_file import load
from nconnect.io.net import proxy_search
from nconnect.model import Proxy
from tests.cli.conftest import Run


def test_a_provider(run: Run, config_path: Path) -> None:
    result = run(
        "init", "--address", "10.86.0.1/24,fd86::1/64",
        "--provide", "192.168.50.0/24", "--provide", "10.9.0.0/16",
        "--service", "8000/tcp", "--expose", "127.0.0.1:11434", "--seed-rpc", "http://203.0.113.7:30003",
        "--identifier", "gpu-box",
    )  # fmt: skip
    assert (result.status, result.err) == (0, "")
    config = load(config_path)
    assert config.identifier == "gpu-box"
    assert [str(a) for a in config.address] == ["10.86.0.1/24", "fd86::1/64"]
    assert [str(s.seen) for s in config.provide.subnets] == ["192.168.50.0/24", "10.9.0.0/16"]
    assert config.network.seed_rpc == ("http://203.0.113.7:30003",)
    address = run("address").out.strip()
    assert address.startswith("gpu-box.")
    assert (
        f"nconnect peer add gpu-box {address} --allowed-ips 10.86.0.1/32,fd86::1/128,192.168.50.0/24"
        in result.out
    )
    assert config.seed.hex() not in result.out


def test_it_says_what_peers_learn_unless_a_proxy_is_used(run: Run, tmp_path: Path) -> None:
    plain = run("init", "--address", "10.86.0.1/24", "-c", tmp_path / "a.toml")
    assert "peers learn this device's addresses" in plain.out
    assert '[network] direct = "no-host" or "off"' in plain.out
    proxied = run(
        "init", "--address", "10.86.0.1/24", "--proxy", "http://10.0.0.1:3128", "-c", tmp_path / "b.toml"
    )
    assert proxied.status == 0, proxied.err
    assert "peers learn" not in proxied.out


def test_the_file_is_secret_whatever_the_umask(run: Run, config_path: Path) -> None:
    before = os.umask(0)
    try:
        assert run("init", "--address", "10.86.0.1/24").status == 0
    finally:
        os.umask(before)
    assert config_path.stat().st_mode & 0o777 == 0o600
    assert config_path.parent.stat().st_mode & 0o777 == 0o700


def test_each_identity_is_new(run: Run, made: Path, tmp_path: Path) -> None:
    assert run("init", "--address", "10.86.0.1/24", "-c", tmp_path / "b.toml").status == 0
    assert load(made).seed != load(tmp_path / "b.toml").seed


def test_it_never_overwrites_unasked(run: Run, made: Path) -> None:
    before = made.read_text()
    result = run("init", "--address", "10.86.0.2/24")
    assert result.status == 2
    assert "exists already: --force" in result.err
    assert made.read_text() == before
    assert run("init", "--address", "10.86.0.2/24", "--force").status == 0
    assert made.read_text() != before


def test_without_an_address_networks_are_drawn_and_nothing_is_asked(run: Run, tmp_path: Path) -> None:
    drawn = []
    for name in ("nc0", "nc1"):
        path = tmp_path / f"{name}.toml"
        assert run("init", "-c", path).status == 0
        drawn.append(load(path).address)
    for four, six in drawn:
        assert is_private_prefix(four.network)
        assert is_private_prefix(six.network)
        assert (four.network.prefixlen, six.network.prefixlen) == (24, 64)
    assert drawn[0] != drawn[1]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--address", "10.86.0.1"], ["--address: '10.86.0.1' has no prefix length: write 10.86.0.1/24"]),
        (["--address", "10.86.0.1/24,10.86.0.1/16"], ["10.86.0.1 is there twice"]),
        (
            ["--address", "x", "--provide", "192.168.50.3/24", "--service", "80", "--seed-rpc", "node:30003"],
            ["--address: 'x'", "--provide: ", "--service: '80'", "--seed-rpc: 'node:30003'"],
        ),
        (
            ["--address", "10.86.0.1/24", "--expose", "10.86.0.1:80"],
            ["--expose: '10.86.0.1:80' is not a loopback"],
        ),
        (["--address", "10.86.0.1/24", "--identifier", "a b"], ["--identifier: 'a b'"]),
    ],
)
def test_mistakes_leave_no_file(run: Run, config_path: Path, arguments: list[str], says: list[str]) -> None:
    result = run("init", *arguments)
    assert (result.status, result.out) == (2, "")
    assert len(result.err.splitlines()) == len(says)
    for line, expected in zip(result.err.splitlines(), says, strict=True):
        assert line.startswith("nconnect: error: ")
        assert expected in line
    assert not config_path.parent.exists()


def test_a_name_that_no_interface_can_have(run: Run, tmp_path: Path) -> None:
    result = run("init", "--address", "10.86.0.1/24", "-c", tmp_path / "much-too-long-a-name.toml")
    assert result.status == 2
    assert "the kernel allows 15" in result.err
    assert list(tmp_path.glob("*.toml")) == []


def test_a_folder_that_cannot_be_made(run: Run, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    result = run("init", "--address", "10.86.0.1/24", "-c", tmp_path / "file" / "nc0.toml")
    assert result.status == 1
    assert result.err.count("\n") == 1


@pytest.mark.parametrize(
    ("host", "identifier"),
    [
        ("gpu-box", "gpu-box"),
        ("gpu-box.example.org", "gpu-box"),
        ("my box!", "my-box"),
        ("", "nconnect"),
        ("__0__", "nconnect"),
    ],
)
def test_the_default_identifier(monkeypatch: pytest.MonkeyPatch, host: str, identifier: str) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: host)
    assert default_identifier() == identifier


def test_a_proxy_is_written_into_the_file_and_not_shown(run: Run, config_path: Path) -> None:
    url = "http://bob:hunter2@10.0.0.1:3128"
    result = run("init", "--address", "10.86.0.1/24", "--proxy", url)
    assert (result.status, result.err) == (0, "")
    assert load(config_path).network.proxy == Proxy("http", "10.0.0.1", 3128, "bob", "hunter2")
    assert "hunter2" not in result.out


def test_a_wrong_proxy_makes_no_file(run: Run, config_path: Path) -> None:
    result = run("init", "--address", "10.86.0.1/24", "--proxy", "ftp://bob:hunter2@h:1")
    assert result.status == 2
    assert result.err.startswith("nconnect: error: --proxy: ftp:// is not a kind of proxy")
    assert len(result.err.splitlines()) == 1
    assert "hunter2" not in result.err
    assert not config_path.exists()


def test_init_speaks_of_a_proxy(
    run: Run, config_path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Of one that the environment has now, or of one that is set where nconnect does not look."""
    monkeypatch.setattr(proxy_search, "ENVIRONMENT", tmp_path / "environment")
    (tmp_path / "environment").write_text("HTTPS_PROXY=http://10.0.0.1:3128\n")
    told = f'only way out, write proxy = "http://10.0.0.1:3128" in [network] of {config_path}'
    assert told in run("init", "--address", "10.86.0.1/24").out
    assert "a proxy" not in run("init", "--address", "10.86.0.1/24", "--force", "--proxy", "none").out
    assert load(config_path).network.proxy == "none"
    monkeypatch.setenv("HTTPS_PROXY", "http://bob:hunter2@10.0.0.2:3128")
    out = run("init", "--address", "10.86.0.1/24", "--force").out
    assert "HTTPS_PROXY is used when it is set at `nconnect up`: the proxy 10.0.0.2:3128" in out
    assert "hunter2" not in out
