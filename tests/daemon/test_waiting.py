"""Who waits is told what is missing, and goes on when it is there."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, cast

import pytest

from nconnect.daemon.events import Ready
from nconnect.daemon.waiting import Waiting
from nconnect.errors import NconnectError, NetworkError
from nconnect.io.nkn.links import LinkWentDown
from nconnect.nkn.outputs import DownReason
from nconnect.tunnel.outputs import Pong
from tests.tunnel.hostile import connected


class Parts:
    """A real core in virtual time; links, driver, host and service manager take notes."""

    def __init__(self) -> None:
        self.sim, self.user, self.provider = connected()
        self.plan: object | None = None
        self.is_up = False
        self.last_error = ""
        self.rtt_s: float | None = 0.002
        self.readied: list[str] = []
        self.drained = 0
        self.spare_helps = False
        self.waiting = Waiting(
            "nc7",
            self.user.address,
            tunnel=self.user.tunnel,
            driver=cast(Any, self),
            links=cast(Any, self),
            host_state=cast(Any, self),
            service=cast(Any, self),
            clock=lambda: self.sim.now,
        )

    @property
    def link(self) -> Parts:
        return self

    @property
    def runners(self) -> list[Parts]:
        return [self]

    def leg_s(self, link: int) -> float | None:
        return self.rtt_s

    def spare_may_help(self) -> bool:
        return self.spare_helps

    def down(self, why: str, reason: DownReason = DownReason.UNREACHABLE, link: int = 0) -> None:
        self.waiting.link_went_down(LinkWentDown(why, reason, link))

    def ready(self, text: str) -> None:
        self.readied.append(text)

    def drain(self) -> None:
        self.drained += 1
        self.on_drain()

    def on_drain(self) -> None: ...

    def set_up(self) -> None:
        self.plan, self.is_up = object(), True
        self.waiting.ready(Ready())


def run(test: Callable[[Parts], Awaitable[None]]) -> None:
    async def main() -> None:
        async with asyncio.timeout(10):
            await test(Parts())

    asyncio.run(main())


async def refused(waiting: Awaitable[object]) -> str:
    with pytest.raises(TimeoutError) as error:
        await waiting
    return str(error.value)


def test_what_is_missing_is_said_in_words() -> None:
    async def test(parts: Parts) -> None:
        wait = parts.waiting.wait
        assert await refused(wait(None, 0)) == "nc7 is not set up yet after 0 s"
        parts.plan, parts.waiting.is_ready = object(), True
        assert await refused(wait(None, 0)) == "there is no link to a node (still connecting) after 0 s"
        parts.last_error = "203.0.113.7: connection refused"
        assert "(203.0.113.7: connection refused)" in await refused(wait(None, 0))
        parts.is_up = True
        await wait(None, 0)
        await wait("gpu", 0)
        parts.user.peer(parts.provider).doubtful = True
        assert await refused(wait("gpu", 0)) == "gpu does not answer after 0 s"
        assert parts.drained, "it asks the peer"
        with pytest.raises(NconnectError, match="nobody"):
            await wait("nobody", 0)

    run(test)


def test_who_waits_goes_on_at_the_change() -> None:
    async def test(parts: Parts) -> None:
        waits = [
            asyncio.create_task(parts.waiting.wait(name, 5), name=f"wait {name}") for name in (None, "gpu")
        ]
        await asyncio.sleep(0)
        parts.waiting.notify()
        await asyncio.sleep(0)
        assert not any(task.done() for task in waits)
        assert parts.readied == []
        parts.set_up()
        await asyncio.gather(*waits)
        (said,) = parts.readied
        assert said == f"nc7 is up as {parts.user.address}"

    run(test)


def test_the_first_login_or_why_not() -> None:
    async def test(parts: Parts) -> None:
        login = asyncio.create_task(parts.waiting.first_login(), name="login")
        await asyncio.sleep(0)
        parts.down("no answer")
        parts.down("another reason, later")
        with pytest.raises(NetworkError, match=r"^no answer; `nconnect up --keep-trying` goes on trying$"):
            await login
        parts.is_up = True
        await parts.waiting.first_login()
        parts.is_up = False
        parts.waiting.request_stop()
        await parts.waiting.first_login()

    run(test)


@pytest.mark.parametrize("spare_fails_by", [DownReason.TIMED_OUT, DownReason.STOPPED])
def test_a_node_that_cannot_be_reached_is_no_failure_while_a_spare_link_may_come_up(
    spare_fails_by: DownReason,
) -> None:
    async def test(parts: Parts) -> None:
        parts.spare_helps = True
        login = asyncio.create_task(parts.waiting.first_login(), name="login")
        await asyncio.sleep(0)
        parts.down("silent")
        await asyncio.sleep(0)
        assert not login.done()
        parts.spare_helps = False
        parts.down("silent too", spare_fails_by, 1)
        with pytest.raises(NetworkError, match=r"^silent;"):
            await login

    run(test)


def test_without_a_seed_no_spare_link_helps() -> None:
    async def test(parts: Parts) -> None:
        parts.spare_helps = True
        parts.down("no seed", DownReason.NO_SEED)
        with pytest.raises(NetworkError, match=r"^no seed;"):
            await parts.waiting.first_login()

    run(test)


def test_only_link_0_that_fails_by_itself_ends_a_start() -> None:
    async def test(parts: Parts) -> None:
        parts.down("another link", link=1)
        parts.down("stopped", DownReason.STOPPED)
        parts.down("the network changed while connecting", DownReason.NETWORK_CHANGED)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(parts.waiting.first_login(), 0)

    run(test)


def test_a_ping_is_answered_by_its_own_pong_alone() -> None:
    async def test(parts: Parts) -> None:
        parts.set_up()
        peer = parts.user.peer(parts.provider)

        def answer() -> None:
            (ping_id,) = list(peer.pinged_at)[-1:]
            parts.waiting.answered(Pong(peer, ping_id + 1, 9.0))
            parts.waiting.answered(Pong(peer, ping_id, 0.025, leg_s=0.003))
            parts.waiting.answered(Pong(peer, ping_id, 9.0))

        parts.on_drain = answer  # type: ignore[method-assign]
        reply = await parts.waiting.ping("gpu", 5)
        assert (reply.peer, reply.rtt_ms, reply.node_ms, reply.peer_node_ms) == ("gpu", 25.0, 2.0, 3.0)
        parts.on_drain = lambda: None  # type: ignore[method-assign]
        await refused(parts.waiting.ping("gpu", 0.01))
        parts.is_up = False
        assert "there is no link" in await refused(parts.waiting.ping("gpu", 0.01))

    run(test)
