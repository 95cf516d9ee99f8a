"""Peers that joined by invitation are listed with those of the file, and changed where they are kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from nconnect.io.files import paths
from nconnect.io.files.invitations import InvitationStore
from tests.cli.conftest import Run
from tests.control.fake import KEY, FakeBackend
from tests.invite.examples import OTHER

OTHER_KEY = OTHER.public_key.hex()
DEVICE = f"alice.{KEY}"


@pytest.fixture
def alice(run: Run, made: Path) -> Path:
    """A device that used its invitation."""
    assert run("invite", "alice", "--allow", "192.168.50.10:8000/tcp").status == 0
    store = InvitationStore.of("nc0")
    with store.using() as book:
        (only,) = book
        book.use(only.token_id, DEVICE, only.made_at + 1)
        book.add_peer(only.token_id, ["10.86.0.2/32"], bytes(range(32)))
    return made


def listed(run: Run) -> dict[str, dict[str, Any]]:
    return {peer["name"]: peer for peer in json.loads(run("peer", "list", "--json").out)["peers"]}


def test_it_is_in_every_list_and_not_in_the_file(run: Run, alice: Path) -> None:
    peer = listed(run)["alice"]
    assert peer["invited"]
    assert (peer["address"], peer["allowed_ips"], peer["allow"], peer["preshared_key"]) == (
        DEVICE, ["10.86.0.2/32"], ["192.168.50.10:8000/tcp"], True,
    )  # fmt: skip
    assert "came by invitation" in run("peer", "show", "alice").out
    (shown,) = json.loads(run("config", "show", "--json").out)["peer"]
    assert (shown["name"], shown["preshared_key"]) == ("alice", "(hidden)")
    assert 'name = "alice"' in run("peer", "export").out
    assert "alice" not in alice.read_text()


def test_it_is_changed_in_the_state(run: Run, alice: Path, daemon: FakeBackend) -> None:
    before = alice.read_text()
    result = run("peer", "set", "alice", "--add-allow", "192.168.50.11/icmp", "--access", "2099-01-01")
    assert (result.status, result.err) == (0, "")
    assert daemon.asked == ["reload"]
    peer = listed(run)["alice"]
    assert peer["allow"] == ["192.168.50.10:8000/tcp", "192.168.50.11/icmp"]
    assert peer["expires"] == 4_070_908_800.0
    assert run("peer", "set", "alice", "--allow", "all", "--name", "bob", "--no-preshared-key").status == 0
    peer = listed(run)["bob"]
    assert (peer["allow"], peer["preshared_key"], peer["invited"]) == (None, False, True)
    assert run("peer", "set", "bob", "--nconnect").status == 0
    assert json.loads(run("peer", "show", "bob", "--json").out)["nconnect"] is True
    assert run("peer", "set", "bob", "--no-nconnect").status == 0
    assert json.loads(run("peer", "show", "bob", "--json").out)["nconnect"] is False
    assert "it was so already" in run("peer", "set", "bob", "--name", "bob").out
    assert alice.read_text() == before


def test_what_the_daemon_refuses_is_taken_back(run: Run, alice: Path, daemon: FakeBackend) -> None:
    daemon.refuse_reload = "no"
    for command in (["set", "alice", "--allow", "none"], ["remove", "alice"]):
        result = run("peer", *command)
        assert result.status == 1
        assert "the peer is as before" in result.err
    assert listed(run)["alice"]["allow"] == ["192.168.50.10:8000/tcp"]


def test_a_dry_run_shows_and_changes_nothing(run: Run, alice: Path, daemon: FakeBackend) -> None:
    out = run("peer", "set", "alice", "--allow", "none", "--dry-run").out
    assert '-allow = ["192.168.50.10:8000/tcp"]' in out
    assert "+allow = []" in out
    assert bytes(range(32)).hex() not in run("peer", "remove", "alice", "--dry-run").out
    assert listed(run)["alice"]["allow"] == ["192.168.50.10:8000/tcp"]
    assert daemon.asked == []


def test_removed_it_stays_out_whatever_the_daemon_writes(run: Run, alice: Path) -> None:
    used = paths.state_dir("nc0") / "used-invitations.json"
    kept = used.read_bytes()
    assert run("peer", "remove", "alice").status == 0
    used.write_bytes(kept)
    assert listed(run) == {}
    assert "there is no peer 'alice'" in run("peer", "set", "alice", "--allow", "all").err


def test_what_the_file_has_wins_and_check_says_so(run: Run, alice: Path) -> None:
    result = run("peer", "add", "alice", f"other.{OTHER_KEY}", "--allowed-ips", "10.86.0.9/32")
    assert result.status == 2, "a command makes no such collision"
    assert "left out" in result.err
    assert "alice" not in alice.read_text()
    with alice.open("a") as file:
        file.write(f'\n[[peer]]\nname = "phone"\naddress = "{DEVICE}"\nallowed_ips = ["10.86.0.9/32"]\n')
    assert set(listed(run)) == {"phone"}
    check = run("config", "check")
    assert check.status == 0
    assert (
        "note: the peer alice, which came by invitation, is left out: it has the same key as phone"
        in check.out
    )
    (note,) = json.loads(run("config", "check", "--json").out)["left_out"]
    token_id = note.partition("peer remove ")[2].partition("`")[0]
    assert run("peer", "remove", token_id).status == 0
    assert json.loads(run("config", "check", "--json").out)["left_out"] == []


def test_a_name_and_an_address_are_given_once(run: Run, alice: Path) -> None:
    assert "there is already a peer 'alice'" in run("invite", "alice").err
    assert run("invite", "bob", "--address", "10.86.0.2").status == 2
    result = run("peer", "add", "x", f"x.{OTHER_KEY}", "--allowed-ips", "10.86.0.2/32")
    assert "10.86.0.2/32 also belongs to x" in result.err


def test_an_exported_table_comes_back_as_it_is(run: Run, alice: Path, tmp_path: Path) -> None:
    assert run("peer", "export", tmp_path / "table", "--secrets").status == 0
    result = run("peer", "import", tmp_path / "table")
    assert (result.status, result.out) == (0, "1 unchanged: it was so already\n")
    assert run("peer", "set", "alice", "--allow", "none").status == 0
    result = run("peer", "import", "--replace", tmp_path / "table")
    assert result.status == 2
    assert "came by invitation: change it with `nconnect peer set alice`" in result.err


def test_who_may_not_read_the_state_is_told_and_changes_the_file(run: Run, alice: Path) -> None:
    paths.issued_path("nc0").unlink()
    paths.issued_path("nc0").mkdir()
    result = run("peer", "list")
    assert result.status == 0
    assert "peers that came by invitation are not known here" in result.err
    assert run("peer", "add", "x", f"x.{OTHER_KEY}", "--allowed-ips", "10.86.0.9/32").status == 0
    assert run("peer", "set", "x", "--allow", "none").status == 0
    assert run("peer", "remove", "x").status == 0
    assert listed(run) == {}
