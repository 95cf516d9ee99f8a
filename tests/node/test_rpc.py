"""JSON-RPC answers, with the official node's errors."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nconnect.node.rpc import NodeFacts, answer, host_of
from nconnect.wire.jsonrpc import NodeInfo, parse_response

ADDRESS = "laptop." + "ab" * 32
FACTS = NodeFacts(
    host="203.0.113.7",
    ws_port=30002,
    rpc_port=30003,
    public_key=b"k" * 32,
    version="nconnect-1",
    height=12,
    block_hash=b"h" * 32,
    uptime_s=240,
    relayed=99,
)


def ask(method: object, params: object = None, facts: NodeFacts = FACTS, id: object = 1) -> dict[str, Any]:
    body = json.dumps({"jsonrpc": "2.0", "id": id, "method": method, "params": params}).encode()
    found: dict[str, Any] = json.loads(answer(body, facts))
    return found


def test_getwsaddr_names_us_as_the_caller_does() -> None:
    found = ask("getwsaddr", {"address": ADDRESS})
    assert found["id"] == 1
    assert found["result"]["addr"] == "203.0.113.7:30002"
    assert found["result"]["rpcAddr"] == "203.0.113.7:30003"
    info = NodeInfo.from_json(found["result"])
    assert info.public_key == (b"k" * 32).hex()
    assert len(bytes.fromhex(info.id)) == 32
    six = ask("getwsaddr", {"address": ADDRESS}, replace(FACTS, host="2001:db8::1"))
    assert six["result"]["addr"] == "[2001:db8::1]:30002"


def test_stun_ports_are_told_where_there_are_some() -> None:
    assert "stunPorts" not in ask("getwsaddr", {"address": ADDRESS})["result"]
    facts = replace(FACTS, wss_port=30004, stun_ports=(30006, 30007))
    for method in ("getwsaddr", "getwssaddr"):
        found = ask(method, {"address": ADDRESS}, facts)["result"]
        assert found["stunPorts"] == [30006, 30007]
        assert NodeInfo.from_json(found).stun_ports == (30006, 30007)


def test_our_own_client_understands_it() -> None:
    body = b'{"id":5,"method":"getwsaddr","params":{"address":"%s"}}' % ADDRESS.encode()
    assert NodeInfo.from_json(parse_response(answer(body, FACTS))).addr == "203.0.113.7:30002"


def test_state_and_chain() -> None:
    state = ask("getnodestate")["result"]
    assert state["syncState"] == "PERSIST_FINISHED"
    assert (state["height"], state["uptime"], state["relayMessageCount"]) == (12, 240, 99)
    assert ask("getversion")["result"] == "nconnect-1"
    assert ask("getlatestblockheight", {})["result"] == 12
    assert ask("getlatestblockhash")["result"] == {"height": 12, "hash": (b"h" * 32).hex()}


@pytest.mark.parametrize(
    ("method", "params", "code"),
    [
        ("getwsaddr", None, -42002),
        ("getwsaddr", {}, -42002),
        ("getwsaddr", {"address": 7}, -45001),
        ("getwsaddr", {"address": "laptop"}, -45001),
        ("getwssaddr", {"address": ADDRESS}, -45001),
        ("nosuchmethod", {}, -42001),
        ("__class__", {}, -42001),
        (7, {}, -42001),
        (None, None, -42001),
        (7, [1], -42002),
        ("getversion", [1], -42002),
    ],
)
def test_errors_are_the_official_nodes(method: object, params: object, code: int) -> None:
    found = ask(method, params, id="x")
    assert found["error"]["code"] == code
    assert found["error"]["message"].isupper()
    assert found["id"] == "x"
    assert "result" not in found


@pytest.mark.parametrize(
    ("method", "params", "data"),
    [
        ("getwsaddr", {}, "length of params is less than 1"),
        ("getwsaddr", {"address": 7}, "address should be a string"),
        ("getwssaddr", {"adress": ADDRESS}, "address should be a string"),
        ("getwsaddr", {"address": "laptop"}, "64 hex digits"),
    ],
)
def test_an_error_says_what_is_wrong(method: str, params: object, data: str) -> None:
    said = ask(method, params)["error"]["data"]
    assert data in said
    assert "\n" not in said


def test_a_batch_is_answered_in_order() -> None:
    body = json.dumps([{"id": n, "method": m} for n, m in enumerate(("getversion", "nope"))] + [7]).encode()
    found = json.loads(answer(body, FACTS))
    assert [item.get("result") for item in found] == ["nconnect-1", None, None]
    assert [item["id"] for item in found] == [0, 1, None]
    assert [item["error"]["code"] for item in found[1:]] == [-42001, -42004]


@pytest.mark.parametrize("body", [b"{", b"7", b'"getversion"', b"true", b"[]"])
def test_what_is_no_json_or_no_object_is_invalid_json(body: bytes) -> None:
    found = json.loads(answer(body, FACTS))
    assert found["error"] == {"code": -42004, "message": "INVALID JSON"}
    assert found["id"] is None


@given(st.binary(max_size=200))
def test_any_body_is_answered(body: bytes) -> None:
    assert json.loads(answer(body, FACTS))


@pytest.mark.parametrize(
    ("header", "host"),
    [
        ("203.0.113.7:30003", "203.0.113.7"),
        ("node.example", "node.example"),
        ("[2001:db8::1]:30003", "2001:db8::1"),
        ("[2001:DB8:0::1]", "2001:db8::1"),
        ("", None),
        (":30003", None),
        ("a b", None),
        ("a/b", None),
        ("[::1", None),
        ("[not:hex]", None),
        ("2001:db8::1", None),
        ("a" * 300, None),
        ('"><script>', None),
    ],
)
def test_host_of(header: str, host: str | None) -> None:
    assert host_of(header) == host
