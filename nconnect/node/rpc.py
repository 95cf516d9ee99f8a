"""The node's JSON-RPC: which node to connect to, and this node's state. Pure.

Answers and errors are those of the official node (nkn: api/common/interfaces.go, errcode.go): an error's code
is the negative of its error number, its message a fixed text. In addition, batches are answered as JSON-RPC
2.0 specifies, and a request's id may be a number.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv6Address
from typing import Any

from nconnect.errors import ConfigError
from nconnect.model import NknAddress, join_addr
from nconnect.wire import actions, jsonrpc
from nconnect.wire.jsonrpc import BadRequest, NodeInfo, RpcRequest

_MALFORMED = {
    jsonrpc.PARSE_ERROR: actions.INVALID_JSON,
    jsonrpc.INVALID_REQUEST: actions.INVALID_JSON,  # official: also for JSON that is no object
    jsonrpc.METHOD_NOT_FOUND: actions.INVALID_METHOD,
    jsonrpc.INVALID_PARAMS: actions.INVALID_PARAMS,
}

# A host as in a URL: a name, an IPv4 address, or an IPv6 address in brackets; then perhaps a port.
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9][A-Za-z0-9._-]{0,252})(?::[0-9]{1,5})?")


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """What answers need besides the request."""

    host: str  # by which the caller reached us, or which we advertise; IPv6 without brackets
    ws_port: int | None  # None: it speaks TLS only
    rpc_port: int | None
    public_key: bytes
    version: str
    height: int
    block_hash: bytes
    uptime_s: int
    relayed: int  # messages
    wss_port: int | None = None  # None: no TLS
    https_port: int | None = None
    fingerprint: str | None = None  # of its certificate
    stun_ports: tuple[int, ...] = ()
    # In a cluster: which node an address belongs to, as its clients (over TLS: True) reach it.
    assign: Callable[[str, bool], NodeInfo | None] | None = None


def answer(body: bytes, facts: NodeFacts) -> bytes:
    """The answer to one HTTP body, a request or a batch. Never raises: there is an answer to any body."""
    asked = jsonrpc.parse_requests(body)
    answers = [_answer(request, facts) for request in asked.requests]
    return jsonrpc.encode_answers(answers, is_batch=asked.is_batch)


def host_of(header: str) -> str | None:
    """The host in a Host header, without port and brackets; None when nobody could connect to it.

    >>> host_of("[2001:db8::1]:30003"), host_of("node.example"), host_of("a b")
    ('2001:db8::1', 'node.example', None)
    """
    match = _HOST.fullmatch(header.strip())
    if match is None:
        return None
    host = match.group(1)
    if not host.startswith("["):
        return host
    try:
        return str(IPv6Address(host[1:-1]))
    except AddressValueError:
        return None


def node_id(public_key: bytes) -> bytes:
    """The node's id: the SHA-256 of its key, as a client's id is the SHA-256 of its address."""
    return hashlib.sha256(public_key).digest()


def node_info(
    host: str,
    ws_port: int,
    rpc_port: int | None,
    public_key: bytes,
    fingerprint: str | None = None,
    stun_ports: tuple[int, ...] = (),
) -> NodeInfo:
    """This node as reached under the name `host`; over TLS with its certificate's `fingerprint`."""
    return NodeInfo(
        addr=join_addr(host, ws_port),
        rpc_addr="" if rpc_port is None else join_addr(host, rpc_port),
        public_key=public_key.hex(),
        id=node_id(public_key).hex(),
        fingerprint=fingerprint or "",
        stun_ports=stun_ports,
    )


class _Refused(Exception):
    """A call is answered with this error; `data` says what is wrong."""

    def __init__(self, code: int, data: str) -> None:
        self.code = code
        self.data = data


def _answer(request: RpcRequest | BadRequest, facts: NodeFacts) -> dict[str, object]:
    if isinstance(request, BadRequest):
        return _error(request.id, _MALFORMED[request.code])
    method = _METHODS.get(request.method)
    if method is None:
        return _error(request.id, actions.INVALID_METHOD)
    try:
        return jsonrpc.result(request.id, method(request.params, facts))
    except _Refused as refused:
        return _error(request.id, refused.code, refused.data)


def _error(id: jsonrpc.Id, code: int, data: str | None = None) -> dict[str, object]:
    """The official node's numbers are negative in RPC answers."""
    return jsonrpc.error(id, -code, actions.ERROR_TEXTS[code], data)


def _where(params: Mapping[str, Any], facts: NodeFacts, secure: bool) -> object:
    address = _address_in(params)
    ws_port, rpc_port = (facts.wss_port, facts.https_port) if secure else (facts.ws_port, facts.rpc_port)
    if ws_port is None:  # as an official node without a certificate
        why = "this node has no certificate" if secure else "this node speaks TLS only: ask getwssaddr"
        raise _Refused(actions.INTERNAL_ERROR, why)
    fingerprint = facts.fingerprint if secure else None
    own = node_info(facts.host, ws_port, rpc_port, facts.public_key, fingerprint, facts.stun_ports)
    info = facts.assign(address, secure) if facts.assign is not None else None
    return {**(info or own).to_json(), "sdp": ""}


def _address_in(params: Mapping[str, Any]) -> str:
    if not params:
        raise _Refused(actions.INVALID_PARAMS, "length of params is less than 1")
    address = params.get("address")
    if not isinstance(address, str):
        raise _Refused(actions.INTERNAL_ERROR, "address should be a string")
    try:
        NknAddress.parse(address)
    except ConfigError:
        # INTERNAL_ERROR is the official node's number for this
        raise _Refused(actions.INTERNAL_ERROR, "address should end in a key of 64 hex digits") from None
    return address


def _get_node_state(params: Mapping[str, Any], facts: NodeFacts) -> object:
    return {
        "addr": f"tcp://{join_addr(facts.host, facts.ws_port or facts.wss_port or 0)}",
        "height": facts.height,
        "id": node_id(facts.public_key).hex(),
        "jsonRpcPort": facts.rpc_port or 0,
        "publicKey": facts.public_key.hex(),
        "relayMessageCount": facts.relayed,
        "syncState": "PERSIST_FINISHED",
        "tlsJsonRpcPort": facts.https_port or 0,
        "tlsWebsocketPort": facts.wss_port or 0,
        "uptime": facts.uptime_s,
        "version": facts.version,
        "websocketPort": facts.ws_port or 0,
    }


_METHODS: dict[str, Callable[[Mapping[str, Any], NodeFacts], object]] = {
    "getwsaddr": lambda params, facts: _where(params, facts, secure=False),
    "getwssaddr": lambda params, facts: _where(params, facts, secure=True),
    "getnodestate": _get_node_state,
    "getversion": lambda _, facts: facts.version,
    "getlatestblockheight": lambda _, facts: facts.height,
    "getlatestblockhash": lambda _, facts: {"hash": facts.block_hash.hex(), "height": facts.height},
}
