"""Recorded answers of an official node (tests/vectors/nknd.json) are accepted by all that reads them."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from nconnect.crypto.keys import Identity
from nconnect.errors import RemoteProtocolError
from nconnect.io.http.http import Request, Response
from nconnect.io.nkn import rpc
from nconnect.model import NknAddress
from nconnect.nkn.exchange import Exchange, Incoming
from nconnect.nkn.link import Link
from nconnect.nkn.outputs import Connect, Resolve, SendBinary, SendText
from nconnect.nkn.states import LinkState
from nconnect.wire import actions, jsonrpc
from nconnect.wire.jsonrpc import NodeInfo
from nconnect.wire.nkn import InboundMessage, Receipt, decode_client_message
from tests.io.serving import url_of

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "nknd.json").read_text())
RPC = {call["name"]: call for kind in VECTORS.values() for call in kind["rpc"]}
TALKS = {talk["name"]: talk["said"] for kind in VECTORS.values() for talk in kind["websocket"]}
ALICE, BOB = Identity(b"a" * 32), Identity(b"b" * 32)
ALICE_ADDRESS = NknAddress("alice", ALICE.public_key)
SALT = b"s" * 32


def _bytes(said: str | dict[str, str]) -> str | bytes:
    return said if isinstance(said, str) else bytes.fromhex(said["hex"])


def _node_said(talk: str) -> list[str | bytes]:
    return [_bytes(line["node"]) for line in TALKS[talk] if "node" in line]


# By RPC, through all that a client asks with


def ask(name: str) -> NodeInfo:
    async def answer(_: Request) -> Response:
        return Response(RPC[name]["status"], RPC[name]["body"].encode())

    async def asking() -> NodeInfo:
        async with url_of(answer) as url:
            return await rpc.ask_node(url, str(ALICE_ADDRESS), timeout_s=5.0)

    return asyncio.run(asking())


RECORDED = json.loads(RPC["getwsaddr"]["body"])["result"]
WSS = "192-0-2-2.ipv4.example"


@pytest.mark.parametrize(
    ("name", "addr", "rpc_addr"),
    [
        *(
            (f"getwsaddr{how}", "192.0.2.1:30002", "192.0.2.1:30003")
            for how in (
                "", ", a string as id", ", null as id", ", no id", ", 1.5 as id", ", a list as id",
                ", another version", ", no version",
            )
        ),
        ("getwsaddr, after v2.2.0", "192.0.2.2:30002", "192.0.2.2:30003"),
        ("getwsaddr, a node of IPv6", "[2001:db8::2]:30002", "[2001:db8::2]:30003"),
        ("getwssaddr, a node with TLS", f"{WSS}:30004", f"{WSS}:30005"),
        ("getwssaddr, a node without RPC over TLS", f"{WSS}:30004", ""),
    ],
)  # fmt: skip
def test_a_node_is_named(name: str, addr: str, rpc_addr: str) -> None:
    result = json.loads(RPC[name]["body"])["result"]
    assert ask(name) == NodeInfo(addr, rpc_addr, result["pubkey"], result["id"])


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("getwsaddr, no address", "-42002 'INVALID PARAMS: length of params is less than 1'"),
        ("getwsaddr, null as address", "-45001 'INTERNAL ERROR: address should be a string'"),
        ("getwsaddr, a key that is not hex", "-45001 .INTERNAL ERROR: encoding/hex: invalid byte"),
        ("getwsaddr, null as params", "-42002"),
        ("getwsaddr, a list as params", "-42002 'INVALID PARAMS'"),
        ("getwssaddr", "-45001 .*WSS"),
        ("an unknown method", "-42001 'INVALID METHOD'"),
        ("a number as method", "-42001"),
        ("a batch", "-42004 'INVALID JSON'"),
        ("no JSON", "-42004"),
        ("nothing", "-42004"),
        ("getwsaddr, no ring yet", "-45001 'INTERNAL ERROR: Found no predecessors'"),
        ("getwsaddr, a node without an id", "-45022 'No ID in this account"),
        ("getwsaddr, no ledger", "-45024"),
        ("getwsaddr, a panic", "HTTP 500"),
        ("asked too often", "asked too often"),
        ("GET", "no NKN seed"),
    ],
)
def test_a_refusal_says_why(name: str, why: str) -> None:
    with pytest.raises(RemoteProtocolError, match=why) as told:
        ask(name)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("name", [name for name in RPC if RPC[name]["status"] == 200 and RPC[name]["body"]])
def test_every_body_is_a_result_or_an_error(name: str) -> None:
    told = json.loads(RPC[name]["body"])
    read = jsonrpc.parse_response(RPC[name]["body"].encode())
    if "error" in told:
        assert isinstance(read, jsonrpc.RpcError)
        assert (read.code, read.message) == (told["error"]["code"], told["error"]["message"])
    else:
        assert read == told["result"]


# By websocket


@pytest.mark.parametrize("name", TALKS)
def test_every_frame_is_read(name: str) -> None:
    for said in _node_said(name):
        if isinstance(said, bytes):
            assert isinstance(decode_client_message(said), InboundMessage)
            continue
        told: dict[str, Any] = json.loads(said)
        read = actions.parse_node_action(said)
        if told["Error"] == actions.WRONG_NODE:
            assert isinstance(read, actions.WrongNode)
        elif told["Error"]:
            assert read == actions.ErrorReply(told["Action"], told["Error"], told["Desc"])
        elif told["Action"] in ("authChallenge", "setClient", "updateSigChainBlockHash"):
            assert isinstance(read, actions.AuthChallenge | actions.ClientSet | actions.BlockHashUpdate)
        else:
            assert read == actions.UnknownAction(told["Action"])


class Talk:
    """A link that hears what the node said in a talk, from the moment the websocket is open."""

    def __init__(self, name: str, identity: Identity = ALICE, identifier: str = "alice") -> None:
        self.said: list[str | bytes] = []
        self.got: list[InboundMessage] = []
        address = NknAddress(identifier, identity.public_key)
        seed = "http://192.0.2.1:30003"
        self.link = Link(identity, address, (seed,), now=0.0, rng=lambda size: SALT[:size])
        self.link.start(0.0)
        self.take(Resolve)
        self.link.resolved(NodeInfo.from_json(RECORDED), 0.0)
        self.take(Connect)
        self.link.connected(0.0)
        for said in _node_said(name):
            if isinstance(said, str):
                self.link.receive_text(said, 0.0)
            elif message := self.link.receive_binary(said, 0.0):
                self.got.append(message)
            self.take()
        assert self.link.counters.bad_frames == 0

    def take(self, kind: type | None = None) -> None:
        """All outputs; one of them is of this kind."""
        seen = False
        while (output := self.link.poll_output()) is not None:
            seen = seen or (kind is not None and isinstance(output, kind))
            if isinstance(output, SendText):
                self.said.append(output.text)
            elif isinstance(output, SendBinary):
                self.said.append(output.data)
        assert seen or kind is None


def test_a_login_is_as_the_node_took_it() -> None:
    talk = Talk("a login")
    assert talk.link.state is LinkState.UP
    (login,) = talk.said
    assert isinstance(login, str)
    assert [json.loads(login)] == [
        json.loads(line["client"]) for line in TALKS["a login"] if "client" in line
    ]


def test_a_wrong_signature() -> None:
    talk = Talk("a wrong signature")
    assert talk.link.last_error == (
        "node 192.0.2.1:30002 refused our signature (error 42003 VERIFY SIGNATURE ERROR)"
    )


@pytest.mark.parametrize("name", ["a second login", "a second login, as another", "odd text after the login"])
def test_odd_answers_while_it_is_up_change_nothing(name: str) -> None:
    link = Talk("a login").link
    texts = [said for said in _node_said(name) if isinstance(said, str) and "Challenge" not in said]
    assert texts
    for said in texts:
        link.receive_text(said, 1.0)
    assert link.state is LinkState.UP
    assert (link.counters.ignored_actions, link.counters.bad_frames) == (len(texts), 0)


@pytest.mark.parametrize("name", [name for name in TALKS if name.startswith("the wrong node")])
def test_the_wrong_node(name: str) -> None:
    (said,) = _node_said(name)
    for before, state in (("a login", LinkState.UP), ("a block", LinkState.AWAITING_CHALLENGE)):
        link = Talk(before).link
        assert link.state is state
        link.receive_text(said, 1.0)
        assert link.state is LinkState.CONNECTING
        assert link.node == NodeInfo.from_json(json.loads(said)["Result"])


def test_a_held_message_comes_with_the_login_and_a_receipt_is_owed() -> None:
    talk = Talk("a login to which a held message comes", BOB, "bob")
    (message,) = talk.got
    assert (message.src, len(message.prev_hash)) == (str(ALICE_ADDRESS), 32)
    assert isinstance(talk.said[-1], bytes)
    receipt = decode_client_message(talk.said[-1])
    assert isinstance(receipt, Receipt)
    assert receipt.prev_hash == message.prev_hash
    read = Exchange(BOB, rng=bytes, accept_unencrypted=True).receive(
        message.src, message.payload, 0.0, has_room=True
    )
    assert isinstance(read, Incoming)
    assert (read.src, read.data) == (ALICE_ADDRESS, "held")


@pytest.mark.parametrize("name", ["a message to oneself", "a new block"])
def test_messages_come(name: str) -> None:
    talk = Talk(name)
    assert talk.link.state is LinkState.UP
    assert [message.src for message in talk.got] == [str(ALICE_ADDRESS)]
    assert talk.link.counters.receipts == 1
    assert talk.link.counters.ignored_actions == 0
