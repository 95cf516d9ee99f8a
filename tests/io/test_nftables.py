"""Running nft, with a program in its place that answers what it is told to."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nconnect.errors import HostError
from nconnect.host.ruleset import deletion
from nconnect.io import nftables


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Writes `asked` (arguments and input of every run), answers with `says`, or fails with `fails`."""
    program = tmp_path / "nft"
    program.write_text(
        f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\ncat >> {tmp_path}/asked\n'
        f"[ -e {tmp_path}/fails ] && cat {tmp_path}/fails >&2 && exit 1\n"
        f"cat {tmp_path}/says 2>/dev/null || true\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return tmp_path


def test_each_transaction_is_one_run(fake: Path) -> None:
    nftables.run([deletion("nconnect_a"), deletion("nconnect_b")])
    asked = (fake / "asked").read_text()
    assert asked.count("-j -f -") == 2
    assert json.dumps({"nftables": deletion("nconnect_b")}) in asked


def test_a_refusal_is_one_line_and_ends_it(fake: Path) -> None:
    (fake / "fails").write_text("Error: Operation not permitted\nsecond line\n")
    with pytest.raises(HostError) as refused:
        nftables.run([deletion("a"), deletion("b")])
    assert str(refused.value) == "nft refused the rules: Error: Operation not permitted (run as root)"
    assert (fake / "asked").read_text().count("-j -f -") == 1


def test_tables_and_their_handles(fake: Path) -> None:
    table = {"table": {"family": "inet", "name": "nconnect_nc0", "handle": 7}}
    (fake / "says").write_text(json.dumps({"nftables": [{"metainfo": {}}, table]}))
    assert nftables.tables() == {"nconnect_nc0": 7}
    assert nftables.counters("nconnect_nc1") == {}


def test_the_contents_of_a_table_take_one_run(fake: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (fake / "says").write_text(json.dumps({"nftables": [{"metainfo": {}}]}))
    assert nftables.contents("nconnect_nc0") == [{"metainfo": {}}]
    assert (fake / "asked").read_text() == "-j list table inet nconnect_nc0\n"
    (fake / "fails").write_text("Error: No such file or directory\n")
    monkeypatch.setattr(nftables, "tables", lambda: {"nconnect_nc1": 7})
    assert nftables.contents("nconnect_nc0") is None
    with pytest.raises(HostError, match="nft refused"):
        nftables.contents("nconnect_nc1")


def test_without_nft(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(nftables, "_PATH", str(tmp_path))
    with pytest.raises(HostError, match="nft is not installed: apt-get install nftables"):
        nftables.tables()


def test_an_nft_that_cannot_run(fake: Path) -> None:
    (fake / "nft").write_text("#!/nowhere/at/all\n")
    with pytest.raises(HostError, match="nft cannot be run"):
        nftables.tables()
