"""How a loop takes turns between sources."""

from __future__ import annotations

from collections.abc import Callable

from nconnect.queueing.turns import MESSAGE_WORK, QUANTUM, TOTAL, Share, Turns


class Loop:
    """Calls what is scheduled in its next turn."""

    def __init__(self) -> None:
        self.turns = Turns(self.call_soon)
        self.soon: list[Callable[[], None]] = []

    def call_soon(self, call: Callable[[], None]) -> None:
        self.soon.append(call)

    def turn(self) -> None:
        calls, self.soon = self.soon, []
        for call in calls:
            call()


class Socket:
    """Has messages to be read, `READ` at a time, and does with its share what a websocket does."""

    READ = 100

    def __init__(self, share: Share, messages: int, work: int = MESSAGE_WORK) -> None:
        self.share = share
        self.left = messages
        self.work = work
        self.done = 0
        self.waits = False
        self._rest = 0  # read, not handled

    def readable(self) -> None:
        if self.waits or not self.left:
            return
        if not self.share.may_go_on():
            self.waits = True
            self.share.wait(self.go_on)
            return
        self._rest = min(self.READ, self.left, max(1, QUANTUM // self.work))
        self.left -= self._rest
        self._handle()

    def _handle(self) -> None:
        while self._rest:
            self._rest -= 1
            self.done += 1
            self.share.charge(self.work)
            if self.share.spent >= self.share.limit and self._rest:
                self.waits = True
                self.share.wait(self.go_on, first=True)
                return

    def go_on(self) -> None:
        self.waits = False
        if not self._rest:
            self.readable()
            return
        self._handle()
        if self.share.waiting and not self.waits:
            self.waits = True
            self.share.wait(self.go_on)


def run(loop: Loop, sockets: list[Socket], turns: int) -> list[int]:
    """So many turns; the work of each."""
    work = []
    for _ in range(turns):
        before = sum(s.done * s.work for s in sockets)
        loop.turn()
        for socket in sockets:
            socket.readable()
        work.append(sum(s.done * s.work for s in sockets) - before)
    return work


def test_a_sparse_source_is_served_at_once_beside_floods_and_turns_stay_short() -> None:
    loop = Loop()
    floods = [Socket(loop.turns.share(), 100_000) for _ in range(10)]
    run(loop, floods, 5)
    ping = Socket(loop.turns.share(), 0)
    for _ in range(200):
        ping.left = 1
        work = run(loop, [*floods, ping], 1)
        assert ping.left == 0, "it waited"
        assert work[0] <= 2 * TOTAL + 2 * QUANTUM


def test_sources_get_the_same_however_many_connections_each_has() -> None:
    loop = Loop()
    many, one = loop.turns.share(), loop.turns.share()
    crowd = [Socket(many, 10_000) for _ in range(500)]
    alone = Socket(one, 100_000)
    run(loop, [*crowd, alone], 400)
    ratio = sum(s.done for s in crowd) / alone.done
    assert 0.7 < ratio < 1.4


def test_large_messages_are_paid_back() -> None:
    loop = Loop()
    large = Socket(loop.turns.share(), 10_000, work=4 << 20)
    small = Socket(loop.turns.share(), 1_000_000)
    work = run(loop, [large, small], 600)
    assert 0.6 < large.done * large.work / (small.done * small.work) < 1.6
    assert max(work) <= (4 << 20) + 2 * TOTAL + QUANTUM


def test_several_that_cause_large_work_do_not_do_so_in_one_turn() -> None:
    """Ten senders of frames that inflate to 4 MiB each."""
    loop = Loop()
    bombs = [Socket(loop.turns.share(), 10_000, work=4 << 20) for _ in range(10)]
    work = run(loop, bombs, 40)[12:]
    assert max(work) <= 2 * (4 << 20)
    done = [bomb.done for bomb in bombs]
    assert max(done) - min(done) <= 2


def test_connections_of_one_source_take_turns() -> None:
    loop = Loop()
    share = loop.turns.share()
    sockets = [Socket(share, 100_000) for _ in range(10)]
    run(loop, sockets, 200)
    done = sorted(s.done for s in sockets)
    assert done[0] > 0


def test_a_lone_busy_source_is_served_in_every_turn() -> None:
    loop = Loop()
    bulk = Socket(loop.turns.share(), 1_000_000, work=64 << 10)
    assert min(run(loop, [bulk], 200)) >= QUANTUM // 2


def test_a_lone_source_of_heavy_work_leaves_the_turn_to_others_soon() -> None:
    loop = Loop()
    bomb = Socket(loop.turns.share(), 1000, work=4 << 20)
    ping = Socket(loop.turns.share(), 0)
    for _ in range(50):
        ping.left = 1
        work = run(loop, [bomb, ping], 1)
        assert ping.left == 0
        assert work[0] <= (4 << 20) + MESSAGE_WORK


def test_nothing_is_scheduled_for_sparse_sources() -> None:
    loop = Loop()
    for _ in range(20):
        share = loop.turns.share()
        assert share.may_go_on()
        share.charge(MESSAGE_WORK)
    assert not loop.soon


def test_nothing_is_left_waiting_when_no_more_comes() -> None:
    loop = Loop()
    sockets = [Socket(loop.turns.share(), 5000), Socket(loop.turns.share(), 3000)]
    run(loop, sockets, 400)
    assert not any(s.left or s.waits for s in sockets)
    assert not loop.soon


def test_what_is_kept_of_half_messages_is_shared_out() -> None:
    turns = Turns(kept_limit=1000)
    hog, other = turns.share(), turns.share()
    assert hog.keep(500)
    assert not hog.keep(1)
    hog.keep(-1)
    assert other.keep(250)
    assert not other.keep(1)
    other.keep(-251)
    assert other.keep(100), "it was given back"
    assert turns.kept_bytes == 600
