"""The watch over the bounds on connections: in virtual time, with a firewall in its place."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from types import SimpleNamespace
from typing import cast

import pytest

from nconnect.daemon.host_state import IDLE_S, LOOK_S, REST, HostState


@pytest.mark.parametrize(
    ("took_s", "rate", "pause_s"),
    [(0.001, 1, LOOK_S), (0.001, 0, IDLE_S), (0.5, 1, 0.5 * REST)],
)
def test_a_look_that_takes_long_is_followed_by_a_long_rest_and_an_idle_peer_is_looked_at_rarely(
    took_s: float, rate: int, pause_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, pauses, seen = 0.0, list[float](), list[Mapping[str, int]]()

    async def sleep(seconds: float) -> None:
        nonlocal now
        pauses.append(seconds)
        now += seconds
        if len(pauses) == 3:
            raise asyncio.CancelledError

    async def renew(received: Mapping[str, int]) -> None:
        nonlocal now
        seen.append(received)
        now += took_s

    monkeypatch.setattr(asyncio, "sleep", sleep)
    host_state = cast(HostState, SimpleNamespace(renew_flow_limits=renew))
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(HostState.keep_flows(host_state, lambda: {"bob": rate * int(now)}, lambda: now))
    assert pauses == [LOOK_S, *[pytest.approx(pause_s)] * 2]
    assert seen[0] == {"bob": rate}
