from __future__ import annotations

import sys
from pathlib import Path

import pytest

from nconnect.io.files import config_file
from tests.cli.conftest import Run
from tests.control.fake import KEY, FakeBackend

PSK = "cd" * 32


@pytest.fixture
def filled(run: Run, made: Path, tmp_path: Path) -> Path:
    """A provider with one peer that has everything."""
    key = tmp_path / "key"
    key.write_text(PSK)
    key.chmod(0o600)
    result = run(
        "peer", "add", "laptop", f"laptop.{KEY}", "--allowed-ips", "10.86.0.2/32", "--access", "2036-12-31",
        "--allow", "192.168.50.10:8000/tcp", "--preshared-key-file", key,
    )  # fmt: skip
    assert result.status == 0, result.err
    options = ("--max-flows", "77", "--direct", "off", "--accept-routes", "10.0.0.0/8", "--nconnect")
    assert run("peer", "set", "laptop", *options).status == 0
    bounds = 'rate = "1.5M"\nquota = "5G/day"\npaused = ""\n'
    made.write_text(made.read_text() + bounds)
    return made


def other(run: Run, tmp_path: Path) -> Path:
    path = tmp_path / "etc" / "nc1.toml"
    assert run("init", "--address", "10.86.0.9/24", "-c", path).status == 0
    return path


def test_what_goes_out_comes_in(run: Run, filled: Path, tmp_path: Path) -> None:
    table = tmp_path / "peers.toml"
    result = run("peer", "export", table, "--secrets")
    assert (result.status, result.err) == (0, "")
    assert table.stat().st_mode & 0o777 == 0o600
    target = other(run, tmp_path)
    assert "max_flows = 77" in table.read_text()
    assert "nconnect = true" in table.read_text()
    assert 'direct = "off"\nrate = "1.5M"\nquota = "5G/day"\npaused = ""\n' in table.read_text()
    result = run("peer", "import", table, "-c", target)
    assert result.out.startswith("1 added: kept in the file"), result.err
    assert config_file.load(target).peers == config_file.load(filled).peers
    assert run("peer", "import", table, "-c", target).out.startswith("1 unchanged: it was so already")


def test_without_secrets_there_is_no_key(run: Run, filled: Path, tmp_path: Path) -> None:
    assert PSK not in run("peer", "export").out
    result = run("peer", "export", tmp_path / "x")
    assert "1 preshared keys were left out" in result.out
    assert PSK not in (tmp_path / "x").read_text()
    assert run("peer", "export", tmp_path / "x").status == 1  # it exists


def test_a_peer_that_differs_is_not_overwritten(run: Run, filled: Path, tmp_path: Path) -> None:
    table = tmp_path / "peers.toml"
    table.write_text(f'[[peer]]\nname = "laptop"\naddress = "laptop.{KEY}"\nallowed_ips = ["10.86.0.7/32"]\n')
    before = filled.read_text()
    result = run("peer", "import", table)
    assert result.status == 2
    assert "--replace overwrites it" in result.err
    assert filled.read_text() == before
    assert run("peer", "import", table, "--replace").out.startswith("1 replaced")
    (peer,) = config_file.load(filled).peers
    assert str(peer.allowed_ips[0]) == "10.86.0.7/32"
    assert peer.preshared_key is None


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("not toml", "not a table of peers"),
        ('[interface]\nseed = "x"\n', "has more than"),
        ("peer = 1\n", "has more than"),
        ('[[peer]]\nname = "x"\n', "is missing or wrong"),
        ('[[peer]]\nname = "x"\naddress = "y"\nallowed_ips = []\ncolour = 1\n', "colour is unknown"),
        (
            '[[peer]]\nname = "x"\naddress = "y"\nallowed_ips = []\nnconnect = "no"\n',
            "is missing or wrong",
        ),
        ('[[peer]]\nname = "x"\naddress = "y"\nallowed_ips = ["10.0.0.1/32"]\n', "address"),
        ("\ud800", "not a table of peers"),
    ],
)
def test_a_table_that_is_none_changes_nothing(
    run: Run, filled: Path, tmp_path: Path, text: str, says: str
) -> None:
    table = tmp_path / "bad"
    table.write_bytes(text.encode(errors="surrogatepass"))
    before = filled.read_text()
    result = run("peer", "import", table)
    assert result.status == 2
    assert says in result.err
    assert filled.read_text() == before


def test_a_table_that_is_not_there(run: Run, filled: Path, tmp_path: Path) -> None:
    assert "does not exist" in run("peer", "import", tmp_path / "none").err


def test_dry_runs_change_nothing_and_ask_nobody(
    run: Run, filled: Path, daemon: FakeBackend, tmp_path: Path
) -> None:
    table = tmp_path / "peers.toml"
    run("peer", "export", table, "--secrets")
    before = filled.read_text()
    for command in (
        ["peer", "add", "b", "b." + "66" * 32, "--allowed-ips", "10.86.0.5/32"],
        ["peer", "set", "laptop", "--allow", "none"],
        ["peer", "remove", "laptop"],
    ):
        result = run(*command, "--dry-run")
        assert (result.status, result.err) == (0, ""), command
        assert result.out.rstrip().endswith("nothing was changed (--dry-run)")
        assert any(line.startswith(("+", "-")) for line in result.out.splitlines())
        assert PSK not in result.out
    assert run("peer", "remove", "lptop", "--dry-run").status == 2
    assert run("peer", "add", "laptop", f"x.{KEY}", "--allowed-ips", "10.86.0.2/32", "--dry-run").status == 2
    assert filled.read_text() == before
    assert "reload" not in daemon.asked


class Terminal:
    """Standard input with somebody at it."""

    def __init__(self, text: str) -> None:
        self._text = text

    def isatty(self) -> bool:
        return True

    def readline(self) -> str:
        return self._text


@pytest.mark.parametrize(("typed", "gone"), [("y\n", True), ("YES\n", True), ("\n", False), ("", False)])
def test_a_terminal_is_asked(
    run: Run, filled: Path, monkeypatch: pytest.MonkeyPatch, typed: str, gone: bool
) -> None:
    monkeypatch.setattr(sys, "stdin", Terminal(typed))
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    result = run("peer", "remove", "laptop")
    assert "remove laptop" in result.err
    assert (result.status == 0) is gone
    assert (config_file.load(filled).peers == ()) is gone


def test_yes_and_no_terminal_are_not_asked(run: Run, filled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = run("peer", "remove", "laptop")
    assert (result.status, result.err) == (0, "")
