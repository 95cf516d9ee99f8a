"""Targets for NKN's messages, JSON and JSON-RPC."""

from __future__ import annotations

import json
import zlib

from nconnect.errors import ConfigError, RemoteProtocolError
from nconnect.model import NknAddress, join_addr
from nconnect.wire import actions, jsonrpc, message, nkn, protobuf, strict_json
from tests.fuzz import oracles
from tests.fuzz.draw import Draw
from tests.wire import nkn_proto

Refused = RemoteProtocolError

# --- Protocol Buffers, NKN ---


def protobuf_fields(data: bytes) -> None:
    found: oracles.Fields | None = []
    try:
        for number, value in protobuf.fields(data):
            assert found is not None
            found.append((number, value if isinstance(value, int) else bytes(value)))
    except Refused:
        found = None
    assert found == oracles.fields(data)


def nkn_frames(data: bytes) -> None:
    _nkn_frame(data)
    draw = Draw(data)
    made = nkn_proto.make(
        "OutboundMessage",
        dest=draw.of(("", "a")),
        payload=draw.piece(9),
        dests=[draw.text(5) for _ in range(draw.below(4))],
        max_holding_seconds=draw.number(4),
        nonce=draw.number(4),
        block_hash=draw.piece(40),
        signatures=[draw.piece(9) for _ in range(draw.below(4))],
        payloads=[draw.piece(9) for _ in range(draw.below(4))],
    )
    compressed = draw.flag()
    body = zlib.compress(made) + draw.of((b"", b"\0")) if compressed else made
    _nkn_frame(
        nkn_proto.make(
            "ClientMessage", message_type=draw.below(4), message=body, compression_type=draw.of((0, 0, 1, 2))
        )
        + draw.of((b"", b"", draw.piece(3)))
    )


def _nkn_frame(data: bytes) -> None:
    """What is taken is what the protobuf library reads, and obeys NKN's own rules."""
    try:
        message = nkn.decode_client_message(data)
    except Refused:
        return
    outer = nkn_proto.read("ClientMessage", data)
    body = outer.message
    if outer.compression_type:
        assert outer.compression_type == 1
        inflate = zlib.decompressobj()
        body = inflate.decompress(body)
        assert inflate.eof
        assert not inflate.unused_data
        assert len(body) <= 4 << 20
    kinds = (nkn.OutboundMessage, nkn.InboundMessage, nkn.Receipt)
    assert type(message) is kinds[outer.message_type]
    assert oracles.fields(body, 1 << 30) is not None
    inner = nkn_proto.read(type(message).__name__, body)
    if isinstance(message, nkn.OutboundMessage):
        dests, payloads = list(inner.dests) or [inner.dest], list(inner.payloads) or [inner.payload]
        assert (list(message.dests) == dests and dests != [""]) or inner.dests
        assert [bytes(each) for each in message.payloads] == payloads
        assert len(payloads) in (1, len(dests))
        assert len(dests) <= nkn.MAX_DESTS
        assert list(message.signatures) == list(inner.signatures)
        assert len(message.signatures) in (0, len(dests))
        assert (message.nonce, message.max_holding_seconds) == (inner.nonce, inner.max_holding_seconds)
        assert message.block_hash == inner.block_hash
    elif isinstance(message, nkn.InboundMessage):
        found = (message.src, bytes(message.payload), message.prev_hash)
        assert found == (inner.src, inner.payload, inner.prev_hash)
    else:
        assert (message.prev_hash, message.signature) == (inner.prev_hash, inner.signature)
    assert type(nkn.decode_client_message(message.encode())) is type(message)


def nkn_payloads(data: bytes) -> None:
    for kind in (message.Message, message.Payload, message.TextData):
        try:
            found = kind.decode(data)
        except Refused:
            continue
        assert oracles.fields(data) is not None
        assert kind.decode(found.encode()) == found
        inner = nkn_proto.read(kind.__name__, data)
        if isinstance(found, message.Message):
            assert (bytes(found.payload), found.encrypted) == (inner.payload, inner.encrypted)
            assert (found.nonce, found.encrypted_key) == (inner.nonce, inner.encrypted_key)
        elif isinstance(found, message.Payload):
            assert (found.type, found.message_id, bytes(found.data)) == (
                inner.type, inner.message_id, inner.data,
            )  # fmt: skip
            assert (found.reply_to_id, found.no_reply) == (inner.reply_to_id, inner.no_reply)
        else:
            assert found.text == inner.text


_KEY = "ab" * 32
_NODE = {"addr": "192.0.2.1:30002", "rpcAddr": "[2001:db8::1]:30003", "pubkey": _KEY, "id": "cd" * 32}
_SALT, _SIGNATURE = "11" * 32, "22" * 64
_NODE_ACTIONS: tuple[dict[str, object], ...] = (
    {"Action": "authChallenge", "Challenge": "33" * 32},
    {"Action": "setClient", "Error": 0, "Result": {"node": _NODE, "sigChainBlockHash": "44" * 32}},
    {"Action": "setClient", "Result": {"sigChainBlockHash": "", "waives": ["signatures", "mask", "other"]}},
    {"Action": "", "Error": 48001, "Result": _NODE},
    {"Action": "updateSigChainBlockHash", "Result": "55" * 32},
    {"Action": "setClient", "Error": 42003, "Desc": "INVALID SIGNATURE"},
)


def nkn_actions(data: bytes) -> None:
    draw = Draw(data)
    made = json.loads(json.dumps(draw.of(_NODE_ACTIONS)))
    place = made
    while isinstance(place.get("Result"), dict) and draw.flag():
        place = place["Result"]
        if isinstance(place.get("node"), dict) and draw.flag():
            place = place["node"]
    if draw.flag():
        place[draw.of(sorted(place))] = draw.of(oracles.ODD)
    for text in (data, json.dumps(made).encode()):
        try:
            action = actions.parse_node_action(text)
        except Refused:
            continue
        _is_sound(action, json.loads(text))
    client: dict[str, object] = {
        "Action": "setClient", "Addr": f"x.{_KEY}", "ClientSalt": _SALT, "Signature": _SIGNATURE,
    }  # fmt: skip
    if draw.flag():
        client[draw.of(sorted(client))] = draw.of(oracles.ODD)
    for text in (data, json.dumps(client).encode()):
        try:
            login = actions.parse_client_action(text)
        except Refused:
            assert text is data or client["Action"] == "setClient" or not isinstance(client["Action"], str) \
                or client["Action"] == "\ud800"  # fmt: skip
            continue
        given = json.loads(text)
        if isinstance(login, actions.SetClient):
            assert given["Action"] == "setClient"
            assert given["Addr"] == login.address
            assert login.salt.hex() == given["ClientSalt"].lower()
            assert len(login.salt) == 32
            assert login.signature.hex() == given["Signature"].lower()
            assert len(login.signature) == 64
        else:
            assert isinstance(given["Action"], str)
            assert given["Action"] == login.action != "setClient"


def _is_sound(action: actions.NodeAction, given: dict[str, object]) -> None:
    """An action that was taken has what it needs, and says what its text says."""
    code = given.get("Error") or 0
    assert type(code) is int
    assert -(2**64) < code < 2**64
    node = None
    if isinstance(action, actions.AuthChallenge):
        assert len(action.challenge) == 32
        assert action.challenge.hex() == str(given["Challenge"]).lower()
    elif isinstance(action, actions.ClientSet):
        result = given["Result"]
        assert isinstance(result, dict)
        assert len(action.block_hash) <= 64
        assert action.block_hash.hex() == (result.get("sigChainBlockHash") or "").lower()
        waives = result["waives"] if isinstance(result.get("waives"), list) else []
        assert {waiver.value for waiver in action.waives} == {
            w for w in ("signatures", "mask") if w in waives
        }
        node = action.node
    elif isinstance(action, actions.WrongNode):
        assert code == 48001
        node = action.node
    elif isinstance(action, actions.BlockHashUpdate):
        assert action.block_hash.hex() == str(given.get("Result") or "").lower()
        assert len(action.block_hash) <= 64
    elif isinstance(action, actions.ErrorReply):
        assert code == action.code != 0
    else:
        assert action.action == oracles.shown(given.get("Action"))
    assert not code or isinstance(action, actions.ErrorReply | actions.WrongNode)
    if node is not None:
        _is_node(node)
    if not isinstance(action, actions.UnknownAction):
        assert actions.parse_node_action(action.encode()) == action


def _is_node(node: jsonrpc.NodeInfo) -> None:
    assert oracles.is_host_port(node.addr)
    assert not node.rpc_addr or oracles.is_host_port(node.rpc_addr)
    assert len(node.public_key) == 64
    assert len(node.public_key_bytes) == 32
    assert bytes.fromhex(node.id).hex() == node.id


# --- JSON and JSON-RPC ---


_JSON = (
    "NaN",
    "Infinity",
    "1e999",
    "-0",
    "1.5e3",
    "01",
    '"\\ud800"',
    '"a"',
    "{}",
    '{"a":1}',
    "[]",
    "null",
    "",
)


def json_text(data: bytes) -> None:
    draw = Draw(data)
    made = "[" + draw.of(",: ").join(draw.of(_JSON) for _ in range(draw.below(5))) + draw.of(("]", "]", "}"))
    for text in (data, made.encode()):
        expected = oracles.strict_json(text)
        try:
            value = strict_json.load(text)
        except Refused:
            assert expected is None
        else:
            assert expected is not None
            assert strict_json.load(strict_json.dump(value)) == value == expected[0]
    given = draw.of(
        (*oracles.ODD, draw.text(), draw.piece(40).hex(), draw.piece(40).hex().upper(), draw.number(4))
    )
    members = {draw.of(("wanted", "other")): given}
    value = members.get("wanted")
    content = value if isinstance(value, str) and "\ud800" not in value else None
    oracles.agree(lambda: strict_json.text(members, "wanted"), content)
    whole = value if type(value) is int and -(2**64) < value < 2**64 else None
    oracles.agree(lambda: strict_json.number(members, "wanted"), whole)
    oracles.agree(lambda: strict_json.text_or_empty(members, "wanted"), oracles.shown(value))
    size = draw.of((32, 64, None))
    expected_bytes = None
    if content is not None and set(content.lower()) <= set("0123456789abcdef") and len(content) % 2 == 0:
        expected_bytes = bytes.fromhex(content) if size in (None, len(content) // 2) else None
    oracles.agree(lambda: strict_json.hex_bytes(members, "wanted", size), expected_bytes)


def rpc(data: bytes) -> None:
    try:
        jsonrpc.parse_response(data)
    except Refused:
        pass
    jsonrpc.parse_requests(data)
    try:
        node = jsonrpc.NodeInfo.from_json(strict_json.load(data))
    except Refused:
        pass
    else:
        assert jsonrpc.NodeInfo.from_json(node.to_json()) == node
    draw = Draw(data)
    _rpc_node(draw)
    _rpc_request(draw)
    _rpc_response(draw)


def _rpc_node(draw: Draw) -> None:
    made: dict[str, object] = dict(_NODE)
    if draw.flag():
        made[draw.of(sorted(made))] = draw.of(
            (*oracles.ODD, "192.0.2.1:0", "192.0.2.1:65536", "[fe80::1%0]:1", "a:1")
        )
    try:
        _is_node(jsonrpc.NodeInfo.from_json(made))
    except Refused:
        assert (made["addr"], made["pubkey"]) != (_NODE["addr"], _NODE["pubkey"])


def _rpc_request(draw: Draw) -> None:
    made: dict[str, object] = {"id": 1, "jsonrpc": "2.0", "method": "getwsaddr", "params": {}}
    if draw.flag():
        made[draw.of(sorted(made))] = draw.of(oracles.ODD)
    batch = draw.below(4)
    (request, *more) = jsonrpc.parse_requests(json.dumps([made] * batch if batch else made).encode()).requests
    assert len(more) == max(0, batch - 1)
    good = (
        (made["id"] is None or type(made["id"]) in (int, float) or isinstance(made["id"], str))
        and made["jsonrpc"] in ("2.0", None)
        and isinstance(made["method"], str)
        and made["method"] != "\ud800"
        and (made["params"] is None or isinstance(made["params"], dict))
    )
    assert isinstance(request, jsonrpc.RpcRequest) is good
    assert request.id == made["id"] or not good


def _rpc_response(draw: Draw) -> None:
    made: dict[str, object] = {"id": 1, "jsonrpc": "2.0", "result": _NODE}
    name = draw.of(("id", "jsonrpc", "result", "error", "none"))
    value = draw.of(oracles.ODD)
    if name != "none":
        made[name] = value
    if draw.flag():
        del made[draw.of(sorted(made))]
    try:
        answer = jsonrpc.parse_response(json.dumps(made).encode())
    except Refused:
        assert made.get("error") is None
        assert "result" not in made
        return
    if made.get("error") is not None:
        assert isinstance(answer, jsonrpc.RpcError)
        return
    assert answer == made["result"]


def node_addresses(data: bytes) -> None:
    draw = Draw(data)
    host = draw.of(
        (
            "[::1]",
            "[fe80::1%25]",
            "2001:db8::1",
            "fe80::1%0",
            "::1]",
            "[::1",
            "[::ffff:1.2.3.4]",
            "a.b.",
            "-a",
            "a" * 253,
            "a" * 254,
            draw.text(),
        )
    )
    port = draw.of(("0", "1", "65535", "65536", "00001", "000001", "+1", "\u0661", draw.text(6)))
    for text in (data.decode(errors="replace"), f"{host}:{port}"):
        _agree_on_address(text)
        try:
            address = NknAddress.parse(text)
        except ConfigError:
            continue
        assert NknAddress.parse(str(address)) == address


def _agree_on_address(text: str) -> None:
    oracles.agree(lambda: jsonrpc.split_addr(text), oracles.is_host_port(text))
    if found := oracles.is_host_port(text):
        assert jsonrpc.split_addr(join_addr(*found)) == found
