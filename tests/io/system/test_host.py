"""The parts of `Host` that need no kernel of their own; netns_tests/test_host.py has the rest."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from nconnect.config.proxy import UNPROXIED
from nconnect.host.ruleset import Ruleset
from nconnect.io.system import host, nftables
from nconnect.io.system.host import Host
from tests.host.examples import USER


def test_counters_can_be_read_while_a_thread_replaces_the_rules(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`status` reads them while a reload is under way: it must not fail for that."""
    host = Host("nc0", tmp_path)
    host._firewall.ruleset = Ruleset("nconnect_nc0", counters={"refused_1": "laptop"})

    def read_slowly(table: str) -> dict[str, int]:
        # What applying a plan does when the table is no longer the one that was loaded.
        host._firewall.ruleset = None
        return {"refused_1": 3}

    monkeypatch.setattr(nftables, "counters", read_slowly)
    assert host.refused_counts() == {"laptop": {"refused": 3}}
    assert host.refused_counts() == {}


def test_what_stops_streams_alone_is_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    stray = SimpleNamespace(problem="the kernel sends packets elsewhere")
    found = (
        SimpleNamespace(problem="ufw drops TCP", of_direct=True),
        SimpleNamespace(problem="ufw drops", of_direct=False),
    )
    monkeypatch.setattr(host, "detours", lambda config: ([stray], None))
    monkeypatch.setattr(host, "stopped", lambda *_, **__: found)
    looked = Host("nc7", Path("/nonexistent")).obstacles(USER, (), UNPROXIED, 0)
    assert looked == ([stray.problem, "ufw drops"], ("ufw drops TCP",))
