"""Several nodes as one, in virtual time: members, clients, and the node named for an address."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nconnect.errors import RemoteProtocolError
from nconnect.node.cluster import MAX_MEMBERS, MEMBER_DEAD_AFTER_S, Arrived, Cluster, Publish, rendezvous
from nconnect.node.fragment import MAX_HALF_BYTES, ForwardedMessage, FragmentJoiner, cut
from nconnect.wire.jsonrpc import NodeInfo
from nconnect.wire.nkn import MAX_MESSAGE_BYTES

ALICE = "alice." + "a1" * 32
BOB = "bob." + "b0" * 32


def info(number: int, port: int = 30002) -> NodeInfo:
    return NodeInfo(f"192.0.2.{number}:{port}", f"192.0.2.{number}:30003", f"{number:064x}", f"{number:064x}")


class Network:
    """Clusters that hear each other at once and in order, except those cut off."""

    def __init__(self, count: int) -> None:
        self.now = 0.0
        self.cut_off: set[int] = set()
        self.lose: Callable[[str], bool] = lambda text: False
        self.arrived: list[tuple[int, str]] = []
        self.nodes = [Cluster(info(n), None, run=f"{n:016x}") for n in range(count)]
        for node in self.nodes:
            node.connected(0.0)
        self.settle()

    def settle(self) -> None:
        busy = True
        while busy:
            busy = False
            for index, node in enumerate(self.nodes):
                while (output := node.poll_output()) is not None:
                    busy = True
                    if isinstance(output, Arrived):
                        self.arrived.append((index, output.address))
                    elif index not in self.cut_off and not self.lose(output.text):
                        for other, heard in enumerate(self.nodes):
                            if other not in self.cut_off:
                                heard.receive(output.text.encode(), self.now)

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        while self.now < end:
            self.now = min(end, self.now + 0.25)
            for node in self.nodes:
                node.handle_timeout(self.now)
            self.settle()

    def keys(self, index: int) -> list[str]:
        return self.nodes[index].members


def test_all_know_all() -> None:
    network = Network(3)
    assert network.keys(0) == network.keys(1) == network.keys(2) == [f"{n:064x}" for n in range(3)]


def test_all_name_the_same_node_for_an_address() -> None:
    network = Network(3)
    named: Counter[object] = Counter()
    for number in range(300):
        address = f"__{number}__.{BOB}"
        answers = {node.assign(address, False) for node in network.nodes}
        assert len(answers) == 1
        named[answers.pop()] += 1
    assert len(named) == 3
    assert min(named.values()) > 60, "evenly"


def test_a_dead_node_is_out_of_the_answers_and_only_its_addresses_move() -> None:
    network = Network(3)
    addresses = [f"{n}.{BOB}" for n in range(100)]
    before = {address: network.nodes[0].assign(address, False) for address in addresses}
    network.cut_off.add(2)
    network.run(5.0)
    assert network.keys(0) == network.keys(1) == [f"{n:064x}" for n in range(2)]
    for address, old in before.items():
        new = network.nodes[0].assign(address, False)
        assert new == old if old != info(2) else new in (info(0), info(1))
    network.cut_off.clear()
    network.run(2.0)
    assert {a: network.nodes[0].assign(a, False) for a in addresses} == before


def test_one_lost_heartbeat_is_nothing() -> None:
    network = Network(2)
    network.cut_off.add(1)
    network.run(MEMBER_DEAD_AFTER_S - 1.0)
    network.cut_off.clear()
    network.run(0.5)
    assert len(network.keys(0)) == 2


def test_a_goodbye_acts_at_once() -> None:
    network = Network(2)
    network.nodes[1].logged_in(ALICE)
    network.settle()
    network.nodes[0].receive(network.nodes[1].farewell().encode(), network.now)
    assert network.keys(0) == [info(0).public_key]
    assert network.nodes[0].elsewhere(ALICE) == ()


def test_tls_addresses_come_from_nodes_that_have_them() -> None:
    secure = Cluster(info(1), info(1, 30004), run="1")
    plain = Cluster(info(2), None, run="2")
    assert plain.assign(ALICE, True) is None
    for cluster in (secure, plain):
        cluster.connected(0.0)
    output = secure.poll_output()
    assert isinstance(output, Publish)
    plain.receive(output.text.encode(), 0.0)
    for number in range(20):
        assert plain.assign(f"{number}.{BOB}", True) == info(1, 30004)


def test_who_is_where() -> None:
    network = Network(3)
    network.nodes[0].logged_in(ALICE)
    network.nodes[1].logged_in(ALICE)
    network.nodes[1].logged_in(BOB)
    network.settle()
    zero, one = info(0).public_key, info(1).public_key
    assert network.nodes[2].elsewhere(ALICE) == (zero, one)
    assert network.nodes[0].elsewhere(ALICE) == (one,)
    assert network.nodes[1].elsewhere(BOB) == ()
    assert network.arrived.count((2, ALICE)) == 1
    network.nodes[0].logged_out(ALICE)
    network.settle()
    assert network.nodes[2].elsewhere(ALICE) == (one,)
    network.nodes[1].logged_out(ALICE)
    network.settle()
    assert network.nodes[2].elsewhere(ALICE) == ()


def test_who_comes_late_learns_all() -> None:
    network = Network(2)
    for number in range(250):
        network.nodes[0].logged_in(f"{number}.{BOB}")
    network.run(1.0)
    late = Cluster(info(9), None, run="9")
    network.nodes.append(late)
    late.connected(network.now)
    network.run(2.0)
    assert all(late.elsewhere(f"{n}.{BOB}") == (info(0).public_key,) for n in range(250))


def test_a_lost_change_is_noticed_and_mended() -> None:
    network = Network(2)
    network.lose = lambda text: json.loads(text)["t"] in ("on", "off")
    network.nodes[0].logged_in(ALICE)
    network.nodes[0].logged_in(BOB)
    network.nodes[0].logged_out(ALICE)
    network.settle()
    network.lose = lambda text: False
    assert network.nodes[1].elsewhere(BOB) == ()
    network.run(2.5)
    assert network.nodes[1].elsewhere(BOB) == (info(0).public_key,)
    assert network.nodes[1].elsewhere(ALICE) == ()


def test_a_node_that_starts_anew_has_none_of_its_old_clients() -> None:
    network = Network(2)
    network.nodes[1].logged_in(ALICE)
    network.settle()
    again = network.nodes[1] = Cluster(info(1), None, run="again")
    again.connected(network.now)
    again.logged_in(BOB)
    network.run(2.0)
    assert network.nodes[0].elsewhere(ALICE) == ()
    assert network.nodes[0].elsewhere(BOB) == (info(1).public_key,)


def test_alone_without_a_connection_and_whole_again_after_it() -> None:
    network = Network(2)
    network.nodes[1].logged_in(BOB)
    network.settle()
    zero = network.nodes[0]
    network.cut_off.add(0)
    zero.disconnected()
    assert (zero.members, zero.elsewhere(BOB), zero.is_connected) == ([zero.key], (), False)
    assert zero.poll_timeout() is None
    zero.logged_in(ALICE)
    assert zero.poll_output() is None
    network.run(4.0)
    network.cut_off.clear()
    zero.connected(network.now)
    network.run(2.0)
    assert zero.elsewhere(BOB) == (info(1).public_key,)
    assert network.nodes[1].elsewhere(ALICE) == (zero.key,)


@given(st.lists(st.tuples(st.integers(0, 2), st.booleans(), st.integers(0, 4), st.booleans()), max_size=40))
@settings(max_examples=40)
def test_whatever_is_lost_all_agree_in_the_end(steps: list[tuple[int, bool, int, bool]]) -> None:
    network = Network(3)
    there: list[set[str]] = [set(), set(), set()]
    for index, on, client, lost in steps:
        address = f"{client}.{BOB}"
        network.lose = lambda text, lost=lost: lost
        node = network.nodes[index]
        node.logged_in(address) if on else node.logged_out(address)
        there[index].add(address) if on else there[index].discard(address)
        network.settle()
        network.run(0.25)
    network.lose = lambda text: False
    network.run(6.0)
    for index, node in enumerate(network.nodes):
        for client in range(5):
            address = f"{client}.{BOB}"
            expected = {info(n).public_key for n in range(3) if n != index and address in there[n]}
            assert set(node.elsewhere(address)) == expected


def test_rendezvous_without_nodes_is_our_mistake() -> None:
    with pytest.raises(ValueError, match="empty"):
        rendezvous(ALICE, [])


# --- what strangers could say ---


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"[]",
        b"\xff",
        b"{}",
        b'{"t":"alive","node":7}',
        b'{"t":"alive","node":"x","run":"1","seq":-1,"ws":{}}',
        b'{"t":"alive","node":"x","run":"1","seq":true,"ws":{}}',
        json.dumps({"t": "alive", "node": "x", "run": "1", "seq": 0, "ws": info(1).to_json()}).encode(),
    ],
)
def test_what_is_malformed_is_counted(message: bytes) -> None:
    cluster = Cluster(info(0), None, run="0")
    cluster.connected(0.0)
    cluster.receive(message, 0.0)
    assert cluster.malformed == 1
    assert cluster.members == [cluster.key]


@given(
    st.dictionaries(
        st.sampled_from(
            ["t", "node", "run", "seq", "ws", "wss", "address", "addresses", "part", "parts", "of"]
        ),
        st.sampled_from(["alive", "on", "all", "ask", "bye", f"{1:064x}", "1", info(1).to_json(), BOB])
        | st.integers(-1, 3)
        | st.none()
        | st.lists(st.just(BOB) | st.integers(), max_size=2),
    )
)
def test_nothing_that_parses_escapes(message: dict[str, object]) -> None:
    network = Network(2)
    network.nodes[0].receive(json.dumps(message).encode(), 0.0)
    network.nodes[0].receive(json.dumps({"node": f"{1:064x}", "run": f"{1:016x}", **message}).encode(), 0.0)


def test_members_are_bounded() -> None:
    cluster = Cluster(info(0), None, run="0")
    for number in range(1, MAX_MEMBERS + 50):
        key = f"{number:064x}"
        ws = {**info(1).to_json(), "pubkey": key}
        heard = {"t": "alive", "node": key, "run": "1", "seq": 0, "ws": ws}
        cluster.receive(json.dumps(heard).encode(), 0.0)
    assert len(cluster.members) == MAX_MEMBERS + 1
    assert cluster.malformed == 49


# --- messages and their fragments ---

RUN = b"r" * 8


@given(st.binary(max_size=200), st.integers(1, 50), st.text(max_size=20), st.integers(0, 0xFFFF_FFFF))
def test_a_message_arrives_as_it_was(payload: bytes, piece: int, src: str, holding_s: int) -> None:
    joiner = FragmentJoiner()
    parts = list(cut(RUN, 7, src, BOB, payload, holding_s, piece))
    assert [joiner.add(part) for part in parts[:-1]] == [None] * (len(parts) - 1)
    assert joiner.add(parts[-1]) == ForwardedMessage(RUN, src, BOB, payload, holding_s)


def test_messages_of_several_senders_do_not_mix() -> None:
    joiner = FragmentJoiner()
    one, two = (list(cut(run, 1, ALICE, BOB, run * 3, 0, 8)) for run in (b"1" * 8, b"2" * 8))
    whole = [joiner.add(part) for pair in zip(one, two, strict=True) for part in pair]
    assert [p.payload for p in whole if p is not None] == [b"1" * 24, b"2" * 24]


def test_a_missing_part_loses_that_message_alone() -> None:
    joiner = FragmentJoiner()
    first = list(cut(RUN, 1, ALICE, BOB, b"x" * 30, 0, 10))
    joiner.add(first[0])
    with pytest.raises(RemoteProtocolError, match="missing"):
        joiner.add(first[2])
    (second,) = cut(RUN, 2, ALICE, BOB, b"y", 0)
    whole = joiner.add(second)
    assert whole is not None
    assert whole.payload == b"y"


def test_what_never_ends_is_refused() -> None:
    joiner = FragmentJoiner()
    *parts, last = cut(RUN, 1, ALICE, BOB, bytes(MAX_MESSAGE_BYTES + 1), 0)
    for part in parts:
        assert joiner.add(part) is None
    with pytest.raises(RemoteProtocolError, match="too big"):
        joiner.add(last)
    assert not joiner._halves


def test_half_messages_of_many_senders_are_bounded() -> None:
    joiner = FragmentJoiner()
    for n in range(100):
        first, *_ = cut(n.to_bytes(8, "big"), 1, ALICE, BOB, bytes(1 << 20), 0, 900_000)
        joiner.add(first)
    assert sum(len(half[2]) for half in joiner._halves.values()) == joiner._half_bytes <= MAX_HALF_BYTES


@given(st.binary(max_size=100))
def test_any_bytes_are_a_part_or_refused(data: bytes) -> None:
    joiner = FragmentJoiner()
    for bytes_ in (data, b"\x01" + data):
        try:
            joiner.add(bytes_)
        except RemoteProtocolError:
            pass
