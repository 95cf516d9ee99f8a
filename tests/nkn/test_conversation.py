"""A recorded conversation of the official SDK's client with its nodes, against each of our two ends.

`tests/vectors/README.md` tells how it was recorded. Our node takes all that the SDK's client said; our link,
given what the nodes said, says what the SDK's client did.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from nconnect.crypto.keys import Identity
from nconnect.model import NknAddress
from nconnect.nkn.exchange import Exchange, Incoming
from nconnect.nkn.link import Link
from nconnect.nkn.outputs import Connect, LinkUp, Output, Resolve, SendBinary, SendText
from nconnect.node import rpc
from nconnect.node.core import Node
from nconnect.node.settings import BLOCK_INTERVAL_S, NodeSettings
from nconnect.wire.jsonrpc import NodeInfo
from nconnect.wire.nkn import InboundMessage, OutboundMessage, Receipt, decode_client_message
from tests.node.fakes import FakeClient, FakeTransport
from tests.node.fakes import rng as counting
from tests.node.test_rpc import FACTS

RECORD: dict[str, Any] = json.loads(
    (Path(__file__).parents[1] / "vectors" / "nkn_conversation.json").read_text()
)
ALICE = Identity(bytes.fromhex(RECORD["seed"]))
BOB = Identity(bytes.fromhex(RECORD["bobSeed"]))
NODE_SEEDS = {"node 1": b"m" * 32, "node 2": b"n" * 32}
SAID: list[dict[str, str]] = RECORD["said"]


def by(name: str, kind: str | None = None) -> list[str]:
    """What the client and this node said to one another, of one kind if named: the client's words."""
    return [each["data"] for each in SAID if each["to"] == name and kind in (None, each["kind"])]


def test_the_record_is_of_what_our_parts_have() -> None:
    for node in RECORD["nodes"]:
        assert Identity(NODE_SEEDS[node["name"]]).public_key.hex() == node["pubkey"]
    assert RECORD["challenge"] == counting(32).hex()
    assert RECORD["address"] == f"alice.{ALICE.public_key.hex()}"
    kinds = {(each["from"] == "client", each["kind"]) for each in SAID}
    assert kinds == {(True, "text"), (True, "binary"), (False, "text"), (False, "binary")}


def test_our_node_answers_its_calls_with_all_that_it_was_answered() -> None:
    calls = [each for each in RECORD["rpc"] if each["from"] == "client"]
    answers = [json.loads(each["data"]) for each in RECORD["rpc"] if each["to"] == "client"]
    assert {json.loads(call["data"])["method"] for call in calls} == {"getwsaddr", "getnodestate"}
    for call in calls:
        ours = json.loads(rpc.answer(call["data"].encode(), FACTS))
        assert ours["id"] == "nkn-sdk-js"
        wanted = "addr" if "getwsaddr" in call["data"] else "syncState"
        (theirs, *_) = [answer["result"] for answer in answers if wanted in answer["result"]]
        assert theirs.keys() <= ours["result"].keys()
        assert all(type(ours["result"][name]) is type(value) for name, value in theirs.items())


def test_our_strict_node_takes_all_that_it_said() -> None:
    """Its signatures are over the node's key and block hash, so a node with the same takes them."""
    node = Node(Identity(NODE_SEEDS["node 2"]), NodeSettings(verify_signatures=True), now=0.0, rng=counting)
    bob = FakeClient(node, "bob", bytes.fromhex(RECORD["bobSeed"])).log_in()
    transport = FakeTransport()
    info = NodeInfo("192.0.2.2:30002", "192.0.2.2:30003", RECORD["nodes"][1]["pubkey"], "")
    connection = node.open(transport, "198.51.100.1", info, 0.0)
    assert connection is not None
    now = 0.0
    for each in SAID:
        if each["from"] == "node 2" and "updateSigChainBlockHash" in each["data"]:
            now = BLOCK_INTERVAL_S
            node.handle_timeout(now)
            assert bob.block_hash.hex() == json.loads(each["data"])["Result"]
        elif each["to"] == "node 2" and each["kind"] == "text":
            node.receive_text(connection, memoryview(each["data"].encode()), now)
        elif each["to"] == "node 2":
            frame = bytes.fromhex(each["data"])
            receipt = decode_client_message(frame)
            if isinstance(receipt, Receipt):
                assert connection.ledger is not None
                connection.ledger._owed[receipt.prev_hash] = now  # as if we had asked
            node.receive_binary(connection, memoryview(frame), now)
    assert transport.closed is None
    assert transport.texts[1]["Error"] == 0
    assert node.stats().drops == {}
    assert node.stats().receipts == 1
    exchange = Exchange(BOB, rng=counting, accept_unencrypted=True)
    read = [exchange.receive(got.src, got.payload, now, has_room=True) for got in bob.received()]
    assert all(isinstance(each, Incoming) and str(each.src) == RECORD["address"] for each in read)
    assert [(each.data, each.encrypted) for each in read if isinstance(each, Incoming)] == [
        ("grüße", True),
        (b"\x00\xff", True),
        ("open", False),
        ("to both", True),
        ("under the new block hash", True),
    ]


def test_our_strict_node_takes_nothing_of_it_that_was_said_to_another() -> None:
    """The same login and messages at the first node's place: signed for the second."""
    node = Node(Identity(NODE_SEEDS["node 1"]), NodeSettings(verify_signatures=True), now=0.0, rng=counting)
    transport = FakeTransport()
    info = NodeInfo("192.0.2.1:30002", "192.0.2.1:30003", RECORD["nodes"][0]["pubkey"], "")
    connection = node.open(transport, "198.51.100.1", info, 0.0)
    assert connection is not None
    node.receive_text(connection, memoryview(by("node 1", "text")[1].encode()), 0.0)
    node.receive_binary(connection, memoryview(bytes.fromhex(by("node 1", "binary")[0])), 0.0)
    assert set(node.stats().drops) <= {"unknown_dest"}
    node.receive_binary(connection, memoryview(bytes.fromhex(by("node 2", "binary")[0])), 0.0)
    assert node.stats().drops["bad_signature"] == 1
    assert node.stats().messages == 0


class Recorded:
    """Randomness as the recorded client had it: salts and nonces in the order of their use."""

    def __init__(self) -> None:
        logins = [
            json.loads(each["data"]) for each in SAID if each["from"] == "client" and each["kind"] == "text"
        ]
        self.salts = [bytes.fromhex(login["ClientSalt"]) for login in logins]
        self.nonce = b""

    def __call__(self, size: int) -> bytes:
        if size == 32:
            return self.salts.pop(0)
        return self.nonce if self.nonce else bytes(size)


def test_our_link_says_what_it_said() -> None:
    recorded = Recorded()
    address = NknAddress("alice", ALICE.public_key)
    link = Link(ALICE, address, ("http://192.0.2.1:30003",), now=0.0, rng=recorded)
    nodes = {node["place"]: node["name"] for node in RECORD["nodes"]}
    now = 0.0
    at = ""

    def said() -> list[Output]:
        outputs = []
        while (output := link.poll_output()) is not None:
            outputs.append(output)
        return outputs

    link.start(now)
    (resolve,) = said()
    assert isinstance(resolve, Resolve)
    answer = next(json.loads(each["data"]) for each in RECORD["rpc"] if '"addr"' in each["data"])
    link.resolved(NodeInfo.from_json(answer["result"]), now)
    pending = said()
    ups = 0
    for each in SAID:
        now += 0.01
        for output in pending:
            ups += isinstance(output, LinkUp)
            if isinstance(output, Connect):
                at = nodes[output.node.addr.rpartition(":")[0]]
                link.connected(now)
        if each["from"] != "client":
            assert each["from"] == at, "it is connected where the recorded client was"
            if each["kind"] == "text":
                link.receive_text(each["data"], now)
            else:
                got = link.receive_binary(bytes.fromhex(each["data"]), now)
                assert isinstance(got, InboundMessage)
                read = Exchange(ALICE, rng=counting).receive(got.src, got.payload, now, has_room=True)
                assert isinstance(read, Incoming)
                assert (str(read.src), read.data) == (RECORD["bob"], "from bob")
            pending = said()
            continue
        if each["kind"] == "text":
            (login,) = [output for output in pending if isinstance(output, SendText)]
            assert json.loads(login.text) == json.loads(each["data"])
            pending = []
            continue
        message = decode_client_message(bytes.fromhex(each["data"]))
        if isinstance(message, Receipt):
            (receipt,) = [output for output in pending if isinstance(output, SendBinary)]
            assert decode_client_message(receipt.data) == message
            pending = []
            continue
        assert isinstance(message, OutboundMessage)
        recorded.nonce = message.nonce.to_bytes(4, "little")
        ours = decode_client_message(
            link.outbound(
                message.dests,
                [bytes(payload) for payload in message.payloads],
                max_holding_seconds=message.max_holding_seconds,
            )
        )
        assert ours == message, "signature, block hash and all"
        pending = said()
    assert ups == 2
    assert not recorded.salts
