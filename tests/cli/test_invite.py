from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path

import pytest

from nconnect.invite.book import Book
from nconnect.invite.table import table_of
from nconnect.invite.token import Token
from nconnect.io.files.config_file import load
from nconnect.io.files.invitations import InvitationStore
from nconnect.model import Quota
from tests.cli.conftest import Run
from tests.control.fake import KEY, FakeBackend


def invited(run: Run, *arguments: object) -> Token:
    result = run("invite", *arguments, "--json")
    assert (result.status, result.err) == (0, "")
    return Token.parse(json.loads(result.out)["token"])


def test_a_token(run: Run, made: Path) -> None:
    result = run("invite", "alice", "--json", "--allow", "192.168.50.10:8000/tcp")
    content = json.loads(result.out)
    assert set(content) == {"token", "name", "expires", "access", "rate", "quota"}
    assert content["name"] == "alice"
    assert content["expires"] == pytest.approx(time.time() + 86_400, abs=60)
    token = Token.parse(content["token"])
    assert str(token.provider) == run("address").out.strip()
    assert token.seeds == (), "the public network's seeds are not written into it"
    (kept,) = InvitationStore.of("nc0").current()
    assert kept.allow == ("192.168.50.10:8000/tcp",)
    (listed,) = json.loads(run("invite", "list", "--json").out)["invitations"]
    assert (listed["name"], listed["state"], listed["id"]) == ("alice", "open", token.token_id.hex())
    for shown in (run("invite", "list"), run("invite", "list", "--json")):
        assert content["token"] not in shown.out


def test_for_people_there_is_a_code_and_what_to_do(run: Run, made: Path) -> None:
    result = run("invite", "alice")
    last = result.out.splitlines()[-1]
    assert last.startswith("sudo nconnect join nc1-"), "the line to paste is the last"
    assert Token.parse(last.removeprefix("sudo nconnect join "))
    assert "nc0 is not up" in result.out
    assert "▀" not in result.out
    drawn = run("invite", "bob", "--qr").out
    assert "▀" in drawn
    assert drawn.splitlines()[-1].startswith("sudo nconnect join nc1-")


def test_several_names(run: Run, made: Path) -> None:
    result = run("invite", "alice", "bob", "carol", "--access", "30d", "--json")
    invitations = json.loads(result.out)["invitations"]
    assert [each["name"] for each in invitations] == ["alice", "bob", "carol"]
    assert len({Token.parse(each["token"]).token_id for each in invitations}) == 3
    text = run("invite", "dave", "erin").out
    assert text.count("sudo nconnect join nc1-") == 2
    assert "On dave's device" in text


def test_one_wrong_name_invites_nobody(run: Run, made: Path) -> None:
    for names in (["alice", "b b"], ["alice", "alice"], ["alice", "--address", "10.86.0.7", "bob"]):
        assert run("invite", *names).status == 2
        assert len(InvitationStore.of("nc0").current()) == 0


def test_the_peer_has_the_bounds_of_its_invitation(run: Run, made: Path) -> None:
    content = json.loads(run("invite", "alice", "--rate", "50M", "--quota", "100G/month", "--json").out)
    assert (content["rate"], content["quota"]) == ("50M", "100G/month")
    (kept,) = InvitationStore.of("nc0").current()
    used = replace(kept, device=f"laptop.{KEY}", allowed_ips=("10.86.0.2/32",))
    (peer,) = table_of(load(made), Book([used]), own_key=bytes(32)).config.peers
    assert (peer.rate, peer.quota) == (50_000_000, Quota(100 * 10**9, "month"))
    assert "; rate 50M; quota 100G/month" in " ".join(run("invite", "list").out.split())
    # They lie in the inviting side's half, which the daemon's user cannot write.
    assert Book([used]).to_issued()["invitations"][0]["changes"] == {"rate": "50M", "quota": "100G/month"}
    assert "50M" not in str(Book([used]).to_used())


def test_the_access_ends_and_not_only_the_token(run: Run, made: Path) -> None:
    content = json.loads(run("invite", "alice", "--access", "30d", "--json").out)
    assert content["access"] == pytest.approx(time.time() + 30 * 86_400, abs=60)
    (kept,) = InvitationStore.of("nc0").current()
    used = replace(kept, device=f"laptop.{KEY}", allowed_ips=("10.86.0.2/32",))
    (peer,) = table_of(load(made), Book([used]), own_key=bytes(32)).config.peers
    assert peer.expires_at == pytest.approx(content["access"], abs=1)
    assert "access until" in run("invite", "list").out
    short = json.loads(run("invite", "bob", "--access", "1h", "--json").out)
    assert short["expires"] == short["access"], "a token ends no later than what it gives"
    assert json.loads(run("invite", "carol", "--json").out)["access"] is None


def test_who_offers_nothing_is_told(run: Run, config_path: Path) -> None:
    assert run("init", "--address", "10.86.0.1/24").status == 0
    assert "this device offers nothing yet" in run("invite", "alice").out
    assert run("provide", "add", "--service", "8000/tcp").status == 0
    assert "offers nothing" not in run("invite", "bob").out


def test_a_running_daemon_needs_no_word(run: Run, daemon: FakeBackend) -> None:
    assert "not up" not in run("invite", "alice").out
    assert daemon.asked == []


@pytest.mark.parametrize(
    "arguments",
    [
        ["invite", "alice", "--expires", "2h"],
        ["invite", "--expires", "2h", "alice"],
        ["invite", "new", "--expires", "2h", "alice"],
    ],
)
def test_the_name_may_stand_anywhere(run: Run, made: Path, arguments: list[str]) -> None:
    assert run(*arguments).status == 0
    assert [each.name for each in InvitationStore.of("nc0").current()] == ["alice"]


def test_the_file_may_be_named_before_the_name(run: Run, made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NCONNECT_CONFIG")
    assert run("invite", "-c", made, "alice").status == 0
    assert run("invite", f"--config={made}", "bob").status == 0
    assert run("-c", made, "invite", "carol").status == 0
    assert "alice" in run("invite", "-c", made, "list").out
    assert "carol" in run("invite", f"--config={made}", "list").out


def test_seeds(run: Run, made: Path) -> None:
    text = made.read_text()
    made.write_text(text + '\n[network]\nseed_rpc = ["http://203.0.113.7:30003"]\n')
    assert invited(run, "alice").seeds == ("http://203.0.113.7:30003",)
    assert invited(run, "bob", "--seed-rpc", "http://198.51.100.1:30003").seeds == (
        "http://198.51.100.1:30003",
    )
    made.write_text(text + '\n[network]\nseed_rpc = ["http://127.0.0.1:30003"]\n')
    assert "which is useless on another device" in run("invite", "carol").err
    made.write_text(text + '\n[node]\nlisten = "0.0.0.0"\n')
    assert "--seed-rpc http://HOST:30003" in run("invite", "carol").err
    made.write_text(text + '\n[node]\nlisten = "0.0.0.0"\nadvertise = "203.0.113.9"\n')
    assert invited(run, "carol").seeds == ("http://203.0.113.9:30003",)


def test_addresses_are_kept_for_it(run: Run, made: Path) -> None:
    assert run("invite", "alice", "--address", "10.86.0.7").status == 0
    assert "10.86.0.7 is not free" in run("invite", "bob", "--address", "10.86.0.7").err
    assert "choose one from 10.86.0.0/24" in run("invite", "bob", "--address", "10.87.0.7").err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["al ice"], "cannot be a peer's name"),
        (["alice", "--allow", "192.168.50.10:99999/tcp"], "--allow"),
        (["alice", "--expires", "never"], "an invitation must expire"),
        (["alice", "--expires", "yesterday"], "is not a time"),
        (["alice", "--address", "x"], "is not an address"),
        (["alice", "--seed-rpc", "x"], "is not a seed's address"),
        (["alice", "--access", "yesterday"], "--access"),
        (["alice", "--rate", "fast"], "--rate: 'fast' is not a rate"),
        (["alice", "--quota", "100G"], "--quota: '100G' is not a quota"),
    ],
)
def test_mistakes(run: Run, made: Path, arguments: list[str], says: str) -> None:
    result = run("invite", *arguments)
    assert result.status == 2
    assert says in result.err
    assert len(InvitationStore.of("nc0").current()) == 0


def test_a_peers_name_is_taken(run: Run, made: Path) -> None:
    assert run("peer", "add", "alice", f"alice.{KEY}", "--allowed-ips", "10.86.0.2").status == 0
    assert "there is already a peer 'alice'" in run("invite", "alice").err
    assert run("invite", "bob").status == 0
    assert "bob is invited already" in run("invite", "bob").err


def test_revoke(run: Run, made: Path) -> None:
    run("invite", "alice")
    assert run("invite", "revoke", "alice").out == "the invitation of alice is revoked\n"
    assert "revoked" in run("invite", "list").out
    assert run("invite", "revoke", "alice").status == 2
    assert run("invite", "alice").status == 0, "the name is free again"


def test_the_list_fits_80_columns(run: Run, made: Path) -> None:
    one = invited(run, "alice", "--allow", "192.168.50.10:8000/tcp,192.168.50.10/icmp")
    two = invited(run, "bob", "--address", "10.86.0.7", "--allow", "none")
    three = invited(run, "a-device-with-a-longer-name", "--expires", "2099-12-31")
    with InvitationStore.of("nc0").using() as book:
        book.use(one.token_id, f"laptop.{KEY}", time.time())
    header, *lines = run("invite", "list").out.splitlines()
    assert header.split("  ")[0] == "NAME"
    assert max(map(len, lines)) <= 80
    assert lines[0].endswith(f"UTC  laptop.{KEY[:6]}…{KEY[-6:]}")
    assert lines[1:] == [
        f"  id {one.token_id.hex()}; next free address; may reach 192.168.50.10:8000/tcp,",
        "  192.168.50.10/icmp",
        lines[3],
        f"  id {two.token_id.hex()}; address 10.86.0.7; may reach nothing",
        "a-device-with-a-longer-name  open   2099-12-31 00:00 UTC  -",
        f"  id {three.token_id.hex()}; next free address; may reach all",
    ]
    assert lines[3].startswith("bob ")
    assert lines[3].endswith("UTC  -")


def test_without_invitations(run: Run, made: Path) -> None:
    assert "there are no invitations" in run("invite", "list").out
    assert json.loads(run("invite", "list", "--json").out) == {"invitations": []}
    assert "none is open" in run("invite", "revoke", "alice").err
    assert "Usage: nconnect invite" in run("invite").out
    assert load(made).peers == ()
