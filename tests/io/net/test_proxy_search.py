"""Proxies that are set where nconnect does not look are found, and shown as HOST:PORT without login."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from nconnect.io.net import proxy_search
from nconnect.io.net.proxy_search import elsewhere, hint

CONFIG = "/etc/nconnect/nc0.toml"


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine on which nothing is set."""
    monkeypatch.setattr(proxy_search, "ENVIRONMENT", tmp_path / "environment")
    monkeypatch.setattr(proxy_search, "APT", (tmp_path / "apt.conf", tmp_path / "apt.conf.d"))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(os, "defpath", "/usr/bin:/bin")
    (tmp_path / "apt.conf.d").mkdir()
    return tmp_path


def found(environ: dict[str, str] | None = None) -> list[tuple[str, str]]:
    return [(each.url, each.where) for each in elsewhere(environ or {})]


def test_nothing_is_found_where_nothing_is_set() -> None:
    assert elsewhere({}) == ()
    assert hint(CONFIG, {}) == ""


def test_etc_environment(machine: Path) -> None:
    (machine / "environment").write_text(
        'PATH="/bin"\nexport HTTPS_PROXY="http://bob:hunter2@10.0.0.1:3128/"\n'
    )
    (each,) = elsewhere({})
    assert str(each.proxy) == "10.0.0.1:3128"
    assert "hunter2" not in repr(each)
    assert hint(CONFIG, {}) == (
        f"; a proxy 10.0.0.1:3128 is set in {machine / 'environment'} and not used:"
        f' write proxy = "http://USER:PASSWORD@10.0.0.1:3128" in [network] of {CONFIG}'
    )
    assert hint(None, {}).endswith("give --proxy http://USER:PASSWORD@10.0.0.1:3128")


def test_apt_s_setting(machine: Path) -> None:
    (machine / "apt.conf").write_text(
        '// Acquire::http::Proxy "http://old:1";\nAcquire::http::Proxy "DIRECT";\n'
    )
    (machine / "apt.conf.d" / "95proxy").write_text(
        'Acquire {\n  https { Proxy "http://10.0.0.2:8080/"; }\n}\n'
    )
    (machine / "apt.conf.d" / "96bad").write_text('Acquire::http::Proxy "http://h\x1b:1";\n')
    (machine / "apt.conf.d" / "97binary").write_bytes(b"\xff\0" * 100_000)
    assert found() == [("http://10.0.0.2:8080", f"for apt, in {machine / 'apt.conf.d' / '95proxy'}")]


@pytest.mark.parametrize(
    ("mode", "expected"),
    [("manual", ["http://10.0.0.3:8080", "socks5://10.0.0.4:1080"]), ("none", [])],
)
def test_the_desktop_s_setting(machine: Path, mode: str, expected: list[str]) -> None:
    program = machine / "gsettings"
    program.write_text(
        "#!/bin/sh\n"
        f"echo \"org.gnome.system.proxy mode '{mode}'\"\n"
        "echo \"org.gnome.system.proxy.https host '10.0.0.3'\"\n"
        "echo 'org.gnome.system.proxy.https port 8080'\n"
        "echo \"org.gnome.system.proxy.socks host '10.0.0.4'\"\n"
        "echo 'org.gnome.system.proxy.socks port 1080'\n"
    )
    program.chmod(0o755)
    assert found() == [(url, "in the desktop's settings") for url in expected]
    assert elsewhere({}, ask_desktop=False) == ()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may read another's environment")
def test_the_environment_that_sudo_drops() -> None:
    """What stands for sudo has the user's variables, and starts us without them."""
    script = (
        "import os, subprocess, sys\n"
        "clean = {'SUDO_UID': '1000', 'PATH': '/nowhere'}\n"
        "code = 'from nconnect.io.net import proxy_search as s; from pathlib import Path;'\n"
        "code += 's.ENVIRONMENT = Path(\"/nowhere\"); s.APT = (s.ENVIRONMENT, s.ENVIRONMENT);'\n"
        "code += 'print([(e.url, e.where) for e in s.elsewhere()])'\n"
        "subprocess.run([sys.executable, '-c', code], env=clean, check=True)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={"HTTPS_PROXY": "http://bob:hunter2@10.0.0.5:3128", "PYTHONPATH": os.getcwd()},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout == "[('http://USER:PASSWORD@10.0.0.5:3128', 'where sudo was called')]\n"


def test_without_sudo_no_other_process_is_looked_at(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(proxy_search, "PROC", tmp_path)
    folder = tmp_path / str(os.getppid())
    folder.mkdir()
    (folder / "environ").write_bytes(b"HTTPS_PROXY=http://10.0.0.6:3128\0")
    assert found({}) == []
    if os.geteuid() == 0:
        assert found({"SUDO_UID": "1000"}) == [("http://10.0.0.6:3128", "where sudo was called")]
