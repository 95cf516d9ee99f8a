"""A node restarts, and its clients come back all at once: in virtual time, with a node that is slow.

The node does one thing after another: a question costs it some time, a login more, and of who has hung up
meanwhile it notices that. What waits is bounded as in a listening socket: beyond it a SYN is dropped, and
sent again after one and after three seconds.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable

import pytest

from nconnect.crypto.keys import Identity
from nconnect.model import NknAddress
from nconnect.nkn.link import Link
from nconnect.nkn.outputs import Connect, Disconnect, Resolve, SendPing, SendText
from nconnect.wire import actions
from nconnect.wire.jsonrpc import NodeInfo
from tests.sim.clock import Clock

SEEDS = ("http://203.0.113.1:30003",)
NODE = NodeInfo("203.0.113.1:30002", "203.0.113.1:30003", "01" * 32, "")
LOGINS_PER_S = 100.0
LOGIN_S = 1 / LOGINS_PER_S
QUESTION_S = 0.4 * LOGIN_S  # measured
HUNG_UP_S = 0.1 * LOGIN_S
BACKLOG = 100  # a second's logins, as 1,024 are of a real node
SYN_AGAIN_S = (1.0, 2.0)
CLIENTS = 1000
DOWN_S = 1.0


class Request:
    """Something that a client wants of the node, on a connection of its own."""

    def __init__(self, cost_s: float, done: Callable[[], None], failed: Callable[[str], None]) -> None:
        self.cost_s = cost_s
        self.done = done
        self.failed = failed
        self.wanted = True

    def fail(self, why: str) -> None:
        if self.wanted:
            self.failed(why)


class SlowNode:
    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.is_up = True
        self.waiting: deque[Request] = deque()
        self.busy_s = 0.0
        self.is_busy = False

    def connect(self, request: Request, again: tuple[float, ...] = SYN_AGAIN_S) -> None:
        if not request.wanted:
            return
        if not self.is_up:
            self.clock.after(0.001, lambda: request.fail("connection refused"))
        elif len(self.waiting) >= BACKLOG:
            if again:
                self.clock.after(again[0], lambda: self.connect(request, again[1:]))
        else:
            self.waiting.append(request)
            self.serve()

    def serve(self) -> None:
        if self.is_busy or not self.waiting or not self.is_up:
            return
        request = self.waiting.popleft()
        cost_s = request.cost_s if request.wanted else HUNG_UP_S
        self.busy_s += cost_s
        self.is_busy = True

        def served() -> None:
            self.is_busy = False
            if request.wanted and self.is_up:
                request.done()
            self.serve()

        self.clock.after(cost_s, served)


class Client:
    """A link and its shell, which give up a request after its time."""

    def __init__(self, number: int, clock: Clock, node: SlowNode) -> None:
        rng = random.Random(number)
        key = Identity(rng.randbytes(32))
        self.clock, self.node = clock, node
        self.link = Link(key, NknAddress("c", key.public_key), SEEDS, now=clock.now, rng=rng.randbytes)
        self.request: Request | None = None
        self.connected = False
        self.deadline = 0.0

    def tell(self, tell: Callable[[float], object]) -> None:
        tell(self.clock.now)
        while (output := self.link.poll_output()) is not None:
            if isinstance(output, Resolve):
                self.want(QUESTION_S, output.timeout_s, self.answered, self.link.resolve_failed)
            elif isinstance(output, Connect):
                self.want(LOGIN_S, output.timeout_s, self.let_in, self.link.disconnected)
            elif isinstance(output, Disconnect):
                self.connected = False
                if self.request is not None:
                    self.request.wanted = False
            elif isinstance(output, SendText):
                self.tell(lambda now: self.link.receive_text(actions.ClientSet(NODE, b"").encode(), now))
            elif isinstance(output, SendPing):
                self.clock.after(0.01, self.pong)
        self.arm()

    def arm(self) -> None:
        deadline = self.link.poll_timeout()
        if deadline is not None and deadline.at != self.deadline:
            at = self.deadline = deadline.at
            self.clock.at(at, lambda: self.due(at))

    def due(self, at: float) -> None:
        if at == self.deadline:
            self.deadline = 0.0
            self.tell(self.link.handle_timeout)

    def pong(self) -> None:
        if self.connected:
            self.tell(self.link.pong)

    def want(
        self, cost_s: float, timeout_s: float, done: Callable[[], None], fail: Callable[[str, float], None]
    ) -> None:
        def failed(why: str) -> None:
            request.wanted = False
            self.tell(lambda now: fail(why, now))

        request = self.request = Request(cost_s, done, failed)
        self.clock.after(timeout_s, lambda: request.fail("no answer"))
        self.node.connect(request)

    def answered(self) -> None:
        assert self.request is not None
        self.request.wanted = False
        self.tell(lambda now: self.link.resolved(NODE, now))

    def let_in(self) -> None:
        assert self.request is not None
        self.request.wanted = False
        self.connected = True
        self.tell(self.link.connected)
        self.tell(lambda now: self.link.receive_text(actions.AuthChallenge(bytes(32)).encode(), now))

    def lose(self) -> None:
        self.connected = False
        self.tell(lambda now: self.link.disconnected("the other side closed the websocket", now))


def returned_after(clients: list[Client], clock: Clock, limit_s: float) -> float:
    began = clock.now
    while not all(client.link.is_up for client in clients):
        assert clock.now < began + limit_s, f"{sum(c.link.is_up for c in clients)} are back"
        clock.run_until(clock.now + 0.1)
    return clock.now - began


@pytest.mark.parametrize("known", [True, False], ids=["to a node they know", "by a seed"])
def test_all_are_back_in_little_more_time_than_their_logins_take(known: bool) -> None:
    clock = Clock()
    node = SlowNode(clock)
    clients = [Client(number, clock, node) for number in range(CLIENTS)]
    for number, client in enumerate(clients):
        clock.after(number * 2 * LOGIN_S, lambda client=client: client.tell(client.link.start))
    returned_after(clients, clock, 60.0)
    clock.run_until(clock.now + 60.0)
    node.is_up = False
    for client in clients:
        client.lose()
        if not known:
            client.link.last_node = None
            client.tell(client.link.network_changed)
    clock.run_until(clock.now + DOWN_S)
    node.is_up = True
    node.busy_s = 0.0
    work_s = CLIENTS * (LOGIN_S if known else LOGIN_S + QUESTION_S)
    took_s = returned_after(clients, clock, 10 * work_s)
    assert took_s < 2.0 * work_s + 5.0
    assert node.busy_s < 1.3 * work_s, "most of its work is for those that get in, and none is done twice"
