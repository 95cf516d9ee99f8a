"""JSON-RPC, both ends, and the description of a node."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nconnect.errors import RemoteProtocolError
from nconnect.model import join_addr
from nconnect.wire import jsonrpc
from nconnect.wire.jsonrpc import (
    INVALID_PARAMS,
    INVALID_REQUEST,
    MAX_BATCH,
    METHOD_NOT_FOUND,
    PARSE_ERROR,
    BadRequest,
    NodeInfo,
    RpcError,
    RpcRequest,
    encode_answers,
    encode_request,
    parse_requests,
    parse_response,
    split_addr,
)

NODE = NodeInfo("203.0.113.7:30002", "203.0.113.7:30003", "ab" * 32, "cd" * 32)


def body(value: object) -> bytes:
    return json.dumps(value).encode()


# --- NodeInfo ---


def test_a_node_is_read_and_written() -> None:
    assert NodeInfo.from_json(NODE.to_json()) == NODE
    assert NodeInfo.from_json(NODE.to_json() | {"pubkey": "AB" * 32, "sdp": "x"}) == NODE
    assert NODE.public_key_bytes == b"\xab" * 32
    assert NodeInfo.from_json({"addr": "h:1", "pubkey": "ab" * 32}) == NodeInfo("h:1", "", "ab" * 32, "")


def test_stun_ports_are_two_or_left_out() -> None:
    two = replace(NODE, stun_ports=(30006, 30007))
    assert two.to_json()["stunPorts"] == [30006, 30007]
    assert NodeInfo.from_json(two.to_json()) == two
    assert "stunPorts" not in NODE.to_json()


@pytest.mark.parametrize(
    "value",
    [None, 0, "30006", [], [1], [1, 2, 3], [1, 1], [0, 1], [1, 65536], [1, "2"], [1, True], [1, 2.0], {}],
)
def test_other_stun_ports_are_none(value: object) -> None:
    assert NodeInfo.from_json(NODE.to_json() | {"stunPorts": value}) == NODE


MALFORMED = [5, [], "zz", "host:port:extra/", "\n", "é" * 64]


@pytest.mark.parametrize("name", ["addr", "pubkey"])
@pytest.mark.parametrize("value", MALFORMED)
def test_malformed_nodes(name: str, value: object) -> None:
    with pytest.raises(RemoteProtocolError):
        NodeInfo.from_json(NODE.to_json() | {name: value})


@pytest.mark.parametrize("value", [*MALFORMED, ":0", "h:0", "abc", "ab" * 65, "\ud800"])
def test_what_a_client_can_do_without_is_taken_for_absent(value: object) -> None:
    for name, without in (("rpcAddr", replace(NODE, rpc_addr="")), ("id", replace(NODE, id=""))):
        assert NodeInfo.from_json(NODE.to_json() | {name: value}) == without


def test_a_node_without_brackets_is_written_with_them() -> None:
    told = {"addr": "2001:db8::7:30002", "rpcAddr": "2001:db8::7:30003", "pubkey": "ab" * 32, "id": ""}
    node = NodeInfo.from_json(told)
    assert (node.addr, node.rpc_addr) == ("[2001:db8::7]:30002", "[2001:db8::7]:30003")


@pytest.mark.parametrize("value", [None, [], "node", {}, {"addr": "h:1"}, {"pubkey": "ab" * 32}])
def test_what_is_no_node(value: object) -> None:
    with pytest.raises(RemoteProtocolError):
        NodeInfo.from_json(value)


@pytest.mark.parametrize(
    ("addr", "host", "port"),
    [
        ("203.0.113.7:30002", "203.0.113.7", 30002),
        ("node-1.example.org:1", "node-1.example.org", 1),
        ("a_b:65535", "a_b", 65535),
        ("[2001:db8::7]:30002", "2001:db8::7", 30002),
        ("[::1]:80", "::1", 80),
        ("2001:db8::7:30002", "2001:db8::7", 30002),
        ("::1:80", "::1", 80),
    ],
)
def test_addresses_of_nodes(addr: str, host: str, port: int) -> None:
    assert split_addr(addr) == (host, port)
    assert join_addr(host, port) == (f"[{host}]:{port}" if ":" in host else addr)


@pytest.mark.parametrize(
    "addr",
    [
        "", ":", "host", "host:", ":80", "host:0", "host:65536", "host:-1", "host:8 0", "host:٣",
        "ho st:80", "host:80\n", "http://host:80", "user@host:80", "host/x:80", "a:b:80",
        "::::80", "fe80::1%eth0:80", "[::1]", "[::1:80", "::1]:80", "[host]:80", "[]:80", "[::1]x:80",
        "[::1%eth0\r\n]:80", "-host:80", "h" * 300 + ":80", "host\r\nX: y:80",
    ],
)  # fmt: skip
def test_what_is_no_address_of_a_node(addr: str) -> None:
    with pytest.raises(RemoteProtocolError):
        split_addr(addr)


# --- caller ---


def test_a_request() -> None:
    assert json.loads(encode_request("getwsaddr", {"address": "a"}, id=7)) == {
        "id": 7,
        "jsonrpc": "2.0",
        "method": "getwsaddr",
        "params": {"address": "a"},
    }


@pytest.mark.parametrize("result", [None, 5, "x", [], {"a": 1}])
def test_a_result(result: object) -> None:
    assert parse_response(body({"id": 1, "jsonrpc": "2.0", "result": result})) == result
    assert parse_response(body({"id": "a", "result": result, "error": None})) == result


# What an official node (nknd v2.2.0) sent to a request with `"id": 1`.
OFFICIAL_GETWSADDR = (
    b'{"id":"1","jsonrpc":"2.0","result":{"addr":"192.0.2.1:30002","id":"' + b"cd" * 32 + b'",'
    b'"pubkey":"' + b"ab" * 32 + b'","rpcAddr":"192.0.2.1:30003","sdp":""}}'
)


def test_an_official_node_answers_with_an_id_of_its_own() -> None:
    node = NodeInfo.from_json(parse_response(OFFICIAL_GETWSADDR))
    assert node == NodeInfo("192.0.2.1:30002", "192.0.2.1:30003", "ab" * 32, "cd" * 32)


@pytest.mark.parametrize("id", ["1", 2, 1.0, True, None, [], {}])
def test_no_id_of_an_answer_is_refused(id: object) -> None:
    assert parse_response(body({"id": id, "jsonrpc": "2.0", "result": 5})) == 5
    assert parse_response(body({"result": 5})) == 5


def test_an_error() -> None:
    error = {"code": -42001, "message": "INVALID METHOD", "data": None}
    assert parse_response(body({"id": 1, "error": error})) == RpcError(-42001, "INVALID METHOD")
    error["data"] = "why"
    assert parse_response(body({"error": error})) == RpcError(-42001, "INVALID METHOD", "why")
    # Who could not read the request does not know its id.
    assert parse_response(body({"id": None, "error": {}})) == RpcError(0, "")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"<html>",
        b"[]",
        b"null",
        body({"id": 1}),
    ],
)
def test_malformed_answers(data: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        parse_response(data)


@pytest.mark.parametrize("version", ["1.0", 2, None, [], {}])
def test_no_version_of_an_answer_is_refused(version: object) -> None:
    assert parse_response(body({"id": 1, "result": 5, "jsonrpc": version})) == 5


@pytest.mark.parametrize(
    ("error", "read"),
    [
        ("no", RpcError(0, "no")),
        (5, RpcError(0, "")),
        ([], RpcError(0, "")),
        ({"code": "no", "message": "m"}, RpcError(0, "m")),
        ({"code": 10**4000, "message": 5, "data": {}}, RpcError(0, "")),
    ],
)
def test_an_error_is_an_error_however_it_is_written(error: object, read: RpcError) -> None:
    assert parse_response(body({"id": 1, "error": error})) == read


# --- server ---


@pytest.mark.parametrize("id", [1, "nkn-sdk-js", 1.5, None])
def test_a_request_is_read(id: Any) -> None:
    found = parse_requests(encode_request("getwsaddr", {"address": "a"}, id=id))
    assert found.requests == (RpcRequest(id, "getwsaddr", {"address": "a"}),)
    assert not found.is_batch


def test_params_and_version_may_be_absent() -> None:
    assert parse_requests(b'{"method":"getnodestate"}').requests == (RpcRequest(None, "getnodestate", {}),)


def test_a_batch_is_answered_one_by_one() -> None:
    found = parse_requests(body([{"id": 1, "method": "a"}, 5, {"id": 2, "method": 3}]))
    assert found.is_batch
    good, not_an_object, no_method = found.requests
    assert good == RpcRequest(1, "a", {})
    assert isinstance(not_an_object, BadRequest)
    assert isinstance(no_method, BadRequest)
    assert (not_an_object.id, not_an_object.code) == (None, INVALID_REQUEST)
    assert (no_method.id, no_method.code) == (2, METHOD_NOT_FOUND)


@pytest.mark.parametrize("data", [b"", b"{", b"\xff", b"[" * 50_000])
def test_what_is_no_json_is_a_parse_error(data: bytes) -> None:
    (refused,) = parse_requests(data).requests
    assert isinstance(refused, BadRequest)
    assert (refused.id, refused.code) == (None, PARSE_ERROR)


@pytest.mark.parametrize(
    ("value", "code"),
    [
        (5, INVALID_REQUEST),
        (None, INVALID_REQUEST),
        ("x", INVALID_REQUEST),
        ([], INVALID_REQUEST),
        ([{}] * (MAX_BATCH + 1), INVALID_REQUEST),
        ({"method": "a", "id": []}, INVALID_REQUEST),
        ({"method": "a", "id": True}, INVALID_REQUEST),
        ({"method": "a", "jsonrpc": "1.0"}, INVALID_REQUEST),
        ({"method": "a", "params": 5}, INVALID_PARAMS),
        ({"method": "a", "params": ["x"]}, INVALID_PARAMS),
        ({"method": 5, "params": ["x"]}, INVALID_PARAMS),
        ({"method": 5}, METHOD_NOT_FOUND),
        ({"method": "\ud800"}, METHOD_NOT_FOUND),
        ({}, METHOD_NOT_FOUND),
    ],
    ids=lambda value: str(value)[:30].encode("ascii", "replace").decode(),
)
def test_bad_requests(value: object, code: int) -> None:
    (refused,) = parse_requests(body(value)).requests
    assert isinstance(refused, BadRequest)
    assert refused.code == code


def test_answers() -> None:
    one = jsonrpc.result(1, NODE.to_json())
    other = jsonrpc.error("b", -32601, "no such method")
    assert NodeInfo.from_json(parse_response(encode_answers([one], is_batch=False))) == NODE
    assert json.loads(encode_answers([one, other], is_batch=True)) == [one, other]
    assert json.loads(encode_answers([one], is_batch=True)) == [one]
    answer = parse_response(encode_answers([other], is_batch=False))
    assert answer == RpcError(-32601, "no such method")


@given(st.binary(max_size=80))
def test_any_bytes_are_requests_or_refusals(data: bytes) -> None:
    assert parse_requests(data).requests


@given(st.binary(max_size=80))
def test_any_bytes_are_an_answer_or_refused(data: bytes) -> None:
    try:
        parse_response(data)
    except RemoteProtocolError:
        pass


@given(st.text(max_size=40))
def test_any_text_is_an_address_or_refused(text: str) -> None:
    try:
        host, port = split_addr(text)
    except RemoteProtocolError:
        return
    assert split_addr(join_addr(host, port)) == (host, port)
