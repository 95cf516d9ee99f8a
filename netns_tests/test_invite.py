"""A token joins one device, once, within its limits; every other use of it is refused with a reason.

user (empty before `join`) ── node ── provider ── server
"""

from __future__ import annotations

import json
import shlex
import time
import tomllib
from pathlib import Path

import pytest

from lab.process import until
from lab.sides import Side
from lab.traffic import pings
from lab.world import LAN, PROVIDER_TUNNEL, PROVIDER_TUNNEL6, SEED_RPC, SERVER, World

ENOUGH_S = 5.0  # from token to ping; seen: about 2


@pytest.fixture
def provider(fresh: World) -> Side:
    """A provider that is up and has no peers, and its node."""
    fresh.node.start()
    side = fresh.provider_side
    side.nconnect(
        *("init", "--identifier", "gpu-box", "--address", f"{PROVIDER_TUNNEL}/24,{PROVIDER_TUNNEL6}/64"),
        *("--provide", LAN, "--seed-rpc", SEED_RPC),
    )
    side.start()
    side.wait()
    return side


def invite(side: Side, name: str, *options: str) -> str:
    token: str = json.loads(side.nconnect("invite", name, "--json", *options))["token"]
    return token


def another(world: World, name: str) -> Side:
    """Another installation on the user's machine."""
    return Side(name, world.user, world.folder / name, interface="nc1")


def refusal(side: Side, token: str, *options: str) -> str:
    """The message of a `join` that must fail and leave no configuration."""
    done = side.try_nconnect("join", token, *options)
    assert done.returncode != 0
    assert not side.config.exists()
    assert len(done.stderr.splitlines()) == 1
    assert token not in done.stderr
    return done.stderr


def test_a_token_leads_to_a_ping_within_seconds(fresh: World, provider: Side) -> None:
    token = invite(provider, "laptop", "--allow", f"{SERVER}/icmp")
    began = time.monotonic()
    said = fresh.user_side.nconnect("join", token, "--identifier", "laptop")
    fresh.user_side.start()
    until(lambda: pings(fresh.user, SERVER), "a ping's answer", process=fresh.user_side.daemon)
    took = time.monotonic() - began
    assert took < ENOUGH_S, f"{took:.1f} s from the token to the first answered ping"
    assert "10.86.0.2/24, fd86::2/64" in said
    assert f"it may reach {SERVER}/icmp\n" in said, "and not all that is routed there"
    assert "sudo nconnect" in said

    config = tomllib.loads(fresh.user_side.config.read_text())
    assert fresh.user_side.config.stat().st_mode & 0o777 == 0o600
    assert config["network"]["seed_rpc"] == [SEED_RPC]
    (peer,) = config["peer"]
    assert peer["local_address"] == ["10.86.0.2/24", "fd86::2/64"]
    assert peer["name"] == "gpu-box"
    assert peer["allowed_ips"] == [f"{PROVIDER_TUNNEL}/32", f"{PROVIDER_TUNNEL6}/128", LAN]
    (ours,) = tomllib.loads(provider.nconnect("peer", "export", "--secrets"))["peer"]
    assert ours["name"] == "laptop"
    assert ours["allow"] == [f"{SERVER}/icmp"]
    assert ours["preshared_key"] == peer["preshared_key"]
    secrets = {token, peer["preshared_key"], config["interface"]["seed"]}
    for log in (fresh.logs(), said, provider.nconnect("status", "--json")):
        assert not any(secret in log for secret in secrets)

    # Now nobody can use the token, not even the device itself, because it has had a session.
    assert "has been used already" in refusal(another(fresh, "thief"), token)
    (listed,) = json.loads(provider.nconnect("invite", "list", "--json"))["invitations"]
    assert listed["state"] == "used"
    assert listed["used_by"] == fresh.user_side.address()


def test_a_join_whose_answer_was_lost_can_be_repeated(fresh: World, provider: Side) -> None:
    """A `join` that was killed can be repeated with the same identity, unless the peer was removed."""
    token = invite(provider, "laptop")
    first = json.loads(fresh.user_side.nconnect("join", token, "--json"))
    draft = {"token_id": json.loads(provider.nconnect("invite", "list", "--json"))["invitations"][0]["id"]}
    made = tomllib.loads(fresh.user_side.config.read_text())
    draft |= {"seed": made["interface"]["seed"], "identifier": made["interface"]["identifier"]}
    fresh.user_side.config.unlink()
    state = Path(fresh.user_side.env["NCONNECT_STATE_DIR"]) / "nc0" / "joining.json"
    state.write_text(json.dumps(draft))
    assert json.loads(fresh.user_side.nconnect("join", token, "--json")) == first
    assert tomllib.loads(fresh.user_side.config.read_text()) == made
    fresh.user_side.config.unlink()
    state.write_text(json.dumps(draft))
    provider.nconnect("peer", "remove", "laptop")
    assert "has been used already" in refusal(fresh.user_side, token)
    assert json.loads(provider.nconnect("peer", "list", "--json"))["peers"] == []


def test_the_provider_refuses_and_says_why(fresh: World, provider: Side) -> None:
    revoked = invite(provider, "revoked")
    provider.nconnect("invite", "revoke", "revoked")
    assert "was revoked" in refusal(fresh.user_side, revoked)

    expired = invite(provider, "expired")
    store = Path(provider.env["NCONNECT_STATE_DIR"]) / "issued-invitations" / "nc0.json"
    book = json.loads(store.read_text())
    book["invitations"][-1]["expires_at"] = time.time() - 1
    store.write_text(json.dumps(book))
    assert "has expired" in refusal(fresh.user_side, expired)

    taken = invite(provider, "taken")
    provider.nconnect("peer", "add", "taken", f"x.{PEER_KEY}", "--allowed-ips", "10.86.0.77")
    assert "could not add this device" in refusal(fresh.user_side, taken)
    assert "the file has another peer of that name" in provider.logs()
    provider.nconnect("peer", "remove", "taken")
    fresh.user_side.nconnect("join", taken)  # an error of the provider: the token can be used again


PEER_KEY = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"  # RFC 8032, 7.1, test 1


def test_routes_that_are_not_private_are_shown_before_the_token_is_used(fresh: World, provider: Side) -> None:
    provider.nconnect("provide", "add", "--subnet", "8.8.8.8/32,1.0.0.0/8,128.0.0.0/1")
    token = invite(provider, "laptop")
    side = fresh.user_side
    done = side.try_nconnect("join", token)
    assert done.returncode == 1
    assert not side.config.exists()
    (line,) = done.stderr.splitlines()
    assert "8.8.8.8/32, 1.0.0.0/8, 128.0.0.0/1 routed to it" in line
    assert "the invitation is still valid" in line
    assert f"--accept-routes {PROVIDER_TUNNEL}/32,{PROVIDER_TUNNEL6}/128,{LAN},8.8.8.8/32" in line
    assert "none" not in refusal(side, token, "--accept-routes", "none").partition("routed to it")[0]
    (entry,) = json.loads(provider.nconnect("invite", "list", "--json"))["invitations"]
    assert entry["state"] == "open"

    # On a terminal a person is asked. Here it is for another device, and the answer is no.
    asked = another(fresh, "asked")
    said = on_a_terminal(asked, ["join", token], "n\n")
    assert "8.8.8.8/32, 1.0.0.0/8, 128.0.0.0/1" in said
    assert "Route them? [y/N]" in said
    assert "the answer was not yes" in said
    assert not asked.config.exists()
    said = on_a_terminal(asked, ["join", token], "y\n")
    assert "joined gpu-box as laptop" in said
    (peer,) = tomllib.loads(asked.config.read_text())["peer"]
    assert "128.0.0.0/1" in peer["allowed_ips"]

    # Without a terminal the answer comes as an option, and is kept for later.
    token = invite(provider, "phone")
    side.nconnect("join", token, "--accept-routes", "all")
    assert tomllib.loads(side.config.read_text())["interface"]["accept_routes"] == "all"
    side.nconnect("config", "check")


def on_a_terminal(side: Side, arguments: list[str], types: str) -> str:
    """The output of a command on a terminal, where somebody types this."""
    command = shlex.join(side.command(*arguments))
    done = side.namespace.run(
        ["script", "--quiet", "--return", "--command", command, "/dev/null"], env=side.env, input_text=types
    )
    return done.stdout


def test_a_mistyped_token_and_an_unknown_one_are_refused(fresh: World, provider: Side) -> None:
    """The checksum refuses the first before anything is sent; the provider does not answer the second."""
    token = invite(provider, "laptop")
    other = "z" if token[20] != "z" else "y"
    assert "mistyped" in refusal(fresh.user_side, token[:20] + other + token[21:])
    before = provider.drops("unknown_peer")
    store = Path(provider.env["NCONNECT_STATE_DIR"]) / "issued-invitations" / "nc0.json"
    store.unlink()  # as if another provider had made it
    invite(provider, "somebody")
    assert "no answer within 2 s" in refusal(fresh.user_side, token, "--timeout", "2")
    assert provider.drops("unknown_peer") > before


def test_join_overwrites_nothing_unless_it_is_told_to(fresh: World, provider: Side) -> None:
    token = invite(provider, "laptop")
    fresh.user_side.nconnect("init", "--address", "10.1.0.1/24", "--seed-rpc", SEED_RPC)
    before = fresh.user_side.config.read_text()
    fresh.user_side.nconnect("join", token)
    assert fresh.user_side.config.read_text().startswith(before.rstrip())
    own = fresh.user_side.address()
    fresh.user_side.nconnect("join", invite(provider, "again"), "--force")
    assert fresh.user_side.address() != own
