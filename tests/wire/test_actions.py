"""The JSON actions of client and node."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nconnect.errors import RemoteProtocolError
from nconnect.wire import actions
from nconnect.wire.actions import (
    INVALID_SIGNATURE,
    AuthChallenge,
    BlockHashUpdate,
    ClientSet,
    ErrorReply,
    SetClient,
    UnknownAction,
    Waiver,
    WrongNode,
    parse_client_action,
    parse_node_action,
)
from nconnect.wire.jsonrpc import NodeInfo

NODE = NodeInfo("203.0.113.7:30002", "203.0.113.7:30003", "ab" * 32, "cd" * 32)
# As the official node writes it, with what is of no use to us.
NODE_JSON = {"addr": NODE.addr, "rpcAddr": NODE.rpc_addr, "pubkey": NODE.public_key, "id": NODE.id, "sdp": ""}


@pytest.mark.parametrize(
    "action",
    [
        AuthChallenge(b"c" * 32),
        ClientSet(NODE, b"h" * 32),
        ClientSet(None, b""),
        ClientSet(NODE, b"h" * 32, frozenset(Waiver)),
        ClientSet(NODE, b"h" * 32, frozenset({Waiver.MASK})),
        WrongNode(NODE),
        BlockHashUpdate(b"h" * 32),
        ErrorReply("setClient", INVALID_SIGNATURE, "VERIFY SIGNATURE ERROR"),
        ErrorReply("", 45001, ""),
    ],
    ids=lambda action: type(action).__name__,
)
def test_what_a_node_writes_is_read(action: Any) -> None:
    assert parse_node_action(action.encode()) == action
    assert parse_node_action(memoryview(action.encode().encode())) == action
    assert json.loads(action.encode())["Version"] == 1, "a number, as nknd writes it"


@pytest.mark.parametrize(
    ("text", "action"),
    [
        (
            {"Action": "authChallenge", "Challenge": "ab" * 32, "Desc": "SUCCESS", "Error": 0, "Version": 1},
            AuthChallenge(b"\xab" * 32),
        ),
        (
            {
                "Action": "setClient",
                "Error": 0,
                "Result": {"node": NODE_JSON, "sigChainBlockHash": "ab" * 32},
            },
            ClientSet(NODE, b"\xab" * 32),
        ),
        ({"Action": "setClient", "Result": {}}, ClientSet(None, b"")),
        (
            {"Action": "setClient", "Result": {"waives": ["mask", "gravity"]}},
            ClientSet(None, b"", frozenset({Waiver.MASK})),
        ),
        (
            {
                "Action": "",
                "Desc": "WRONG NODE TO CONNECT",
                "Error": 48001,
                "Result": NODE_JSON,
                "Version": 1,
            },
            WrongNode(NODE),
        ),
        ({"Action": "setClient", "Error": 48001, "Result": NODE_JSON}, WrongNode(NODE)),
        ({"Action": "setClient", "Error": 42003, "Result": None}, ErrorReply("setClient", 42003, "")),
        ({"Error": 42001}, ErrorReply("", 42001, "")),
        ({"Action": "updateSigChainBlockHash", "Error": 0, "Result": "ab"}, BlockHashUpdate(b"\xab")),
        ({"Action": "getsessioncount", "Error": 0, "Result": 5}, UnknownAction("getsessioncount")),
        ({}, UnknownAction("")),
        ({"Action": 5}, UnknownAction("")),
        ({"Error": 42003, "Desc": 5}, ErrorReply("", 42003, "")),
        ({"Action": "setClient", "Result": {"waives": "mask"}}, ClientSet(None, b"")),
        (
            {"Action": "setClient", "Result": {"waives": [1, [], "mask"]}},
            ClientSet(None, b"", frozenset({Waiver.MASK})),
        ),
    ],
)
def test_what_other_nodes_write_is_read(text: dict[str, Any], action: object) -> None:
    assert parse_node_action(json.dumps(text)) == action


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '"authChallenge"',
        {"Action": "authChallenge"},
        {"Action": "authChallenge", "Challenge": "ab" * 31},
        {"Action": "authChallenge", "Challenge": "zz" * 32},
        {"Action": "authChallenge", "Challenge": 5},
        {"Action": "setClient"},
        {"Action": "setClient", "Error": "0"},
        {"Action": "setClient", "Error": 0.0},
        {"Action": "setClient", "Error": 10**100},
        {"Action": "setClient", "Result": "ok"},
        {"Action": "setClient", "Result": {"node": []}},
        {"Action": "setClient", "Result": {"node": {"addr": "a:1"}}},
        {"Action": "setClient", "Result": {"sigChainBlockHash": "a"}},
        {"Action": "setClient", "Result": {"sigChainBlockHash": "ab" * 65}},
        {"Error": 48001},
        {"Error": 48001, "Result": "other:30002"},
        {"Error": 48001, "Result": NODE_JSON | {"addr": "http://host:1"}},
        {"Action": "updateSigChainBlockHash", "Result": 5},
    ],
    ids=str,
)
def test_malformed_actions_of_nodes(text: object) -> None:
    with pytest.raises(RemoteProtocolError):
        parse_node_action(text if isinstance(text, str) else json.dumps(text))


def test_a_login() -> None:
    login = SetClient("laptop." + "ab" * 32, b"s" * 32, b"g" * 64)
    assert parse_client_action(login.encode()) == login
    assert json.loads(login.encode()) == {
        "Action": "setClient",
        "Addr": login.address,
        "ClientSalt": "73" * 32,
        "Signature": "67" * 64,
    }
    assert parse_client_action('{"Action":"heartbeat"}') == UnknownAction("heartbeat")


@pytest.mark.parametrize("name", ["Addr", "ClientSalt", "Signature"])
@pytest.mark.parametrize("value", [None, 5, "\ud800", ["ab"], "absent"])
def test_malformed_logins(name: str, value: object) -> None:
    members = json.loads(SetClient("a", b"s" * 32, b"g" * 64).encode())
    if value == "absent":
        del members[name]
    else:
        members[name] = value
    with pytest.raises(RemoteProtocolError):
        parse_client_action(json.dumps(members))


@pytest.mark.parametrize("text", ["", "{}", "[]", "null", '{"Action":null}', '{"action":"setClient"}'])
def test_malformed_actions_of_clients(text: str) -> None:
    with pytest.raises(RemoteProtocolError):
        parse_client_action(text)


def test_error_codes_are_the_official_nodes() -> None:
    assert (actions.WRONG_NODE, actions.INVALID_SIGNATURE, actions.INVALID_METHOD) == (48001, 42003, 42001)


KEYS = st.sampled_from(
    ["Action", "Error", "Result", "Challenge", "Desc", "node", "sigChainBlockHash", "waives"]
)
VALUES = st.recursive(
    st.none()
    | st.integers()
    | st.text()
    | st.sampled_from(["setClient", "authChallenge", 48001, 0, "ab" * 32]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=8,
)


@given(st.dictionaries(KEYS, VALUES))
def test_any_object_is_read_or_refused(value: dict[str, object]) -> None:
    for parse in (parse_node_action, parse_client_action):
        try:
            parse(json.dumps(value))
        except RemoteProtocolError:
            pass
