from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from nconnect.control.schema import PendingPeer
from nconnect.io.files.config_file import load
from tests.cli.conftest import Run
from tests.control.fake import FakeBackend
from tests.invite.examples import DEVICE, OTHER


@pytest.fixture
def waiting(daemon: FakeBackend) -> FakeBackend:
    now = time.time()
    daemon.waiting = [PendingPeer(str(DEVICE), now - 60, now - 5, 3)]
    return daemon


def test_pending(run: Run, waiting: FakeBackend) -> None:
    shown = run("peer", "pending").out
    assert str(DEVICE) in shown
    assert "1 min ago" in shown
    assert "nconnect peer approve" in shown
    (peer,) = json.loads(run("peer", "pending", "--json").out)["pending"]
    assert (peer["address"], peer["count"]) == (str(DEVICE), 3)


def test_nobody(run: Run, made: Path, daemon: FakeBackend) -> None:
    assert "accept_pending = true" in run("peer", "pending").out
    text = made.read_text().replace("[interface]\n", "[interface]\naccept_pending = true\n")
    made.write_text(text)
    assert run("peer", "pending").out == "nobody has tried\n"


def test_without_a_daemon(run: Run, made: Path) -> None:
    assert "nc0 is not up" in run("peer", "pending").err
    assert run("peer", "approve", DEVICE, "laptop").status == 1


def test_approve_takes_the_next_free_address(run: Run, made: Path, waiting: FakeBackend) -> None:
    run("invite", "promised", "--address", "10.86.0.2")
    result = run("peer", "approve", DEVICE, "laptop", "--allow", "192.168.50.10/icmp", "--access", "30d")
    assert (result.status, result.err) == (0, "")
    assert result.out == "peer laptop approved as 10.86.0.3/32: in force now\n"
    assert "reload" in waiting.asked
    (peer,) = load(made).peers
    assert peer.address == DEVICE
    assert [str(prefix) for prefix in peer.allowed_ips] == ["10.86.0.3/32"]
    assert len(peer.allow or ()) == 1
    assert peer.expires_at is not None


def test_approve_with_addresses(run: Run, made: Path, waiting: FakeBackend) -> None:
    assert run("peer", "approve", DEVICE, "laptop", "--allowed-ips", "10.9.0.0/24").status == 0
    assert [str(prefix) for prefix in load(made).peers[0].allowed_ips] == ["10.9.0.0/24"]


def test_who_did_not_try_is_not_approved(run: Run, made: Path, waiting: FakeBackend) -> None:
    result = run("peer", "approve", OTHER, "other")
    assert result.status == 2
    assert "has not tried to connect" in result.err
    assert "reload" not in waiting.asked
    assert load(made).peers == ()


def test_mistakes_are_told_together(run: Run, made: Path, waiting: FakeBackend) -> None:
    result = run("peer", "approve", "x", "a b", "--allow", "y", "--allowed-ips", "z")
    assert result.status == 2
    assert len(result.err.splitlines()) == 4
