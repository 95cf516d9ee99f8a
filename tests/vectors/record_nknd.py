"""Records nknd.json: what an official node answers. As root, with NKN's programs built (scripts/setup --dev):

    python -m tests.vectors.record_nknd tests/vectors/nknd.json

The node runs alone, in a network namespace of its own that leads nowhere, at an address for documentation
(RFC 5737). What one node alone does not say was written down from its sources: `from_the_sources`.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lab.netns import Namespace
from lab.official import OfficialNode
from nconnect.crypto.keys import Identity
from nconnect.wire import message, nkn, sigchain, websocket

HOST, RPC_PORT, WS_PORT = "192.0.2.1", 30003, 30002
SILENCE_S = 1.0  # what has not come by then does not come
BLOCK_S = 300.0  # the first block comes after some minutes
ALICE, BOB = Identity(b"a" * 32), Identity(b"b" * 32)
ALICE_ADDRESS, BOB_ADDRESS = f"alice.{ALICE.public_key.hex()}", f"bob.{BOB.public_key.hex()}"
ASK = {"jsonrpc": "2.0", "method": "getwsaddr", "params": {"address": ALICE_ADDRESS}}

RPC: dict[str, object] = {
    "getwsaddr": {**ASK, "id": 1},
    "getwsaddr, a string as id": {**ASK, "id": "nkn-sdk-js"},
    "getwsaddr, null as id": {**ASK, "id": None},
    "getwsaddr, no id": ASK,
    "getwsaddr, 1.5 as id": {**ASK, "id": 1.5},
    "getwsaddr, a list as id": {**ASK, "id": ["x"]},
    "getwsaddr, another version": {**ASK, "jsonrpc": "1.0", "id": 1},
    "getwsaddr, no version": {"id": 1, "method": "getwsaddr", "params": ASK["params"]},
    "getwsaddr, null as address": {**ASK, "params": {"address": None}},
    "getwsaddr, no address": {**ASK, "params": {}},
    "getwsaddr, a key that is not hex": {**ASK, "params": {"address": "alice.xyz"}},
    "getwsaddr, null as params": {**ASK, "params": None},
    "getwsaddr, a list as params": {**ASK, "params": [ALICE_ADDRESS]},
    "getwssaddr": {**ASK, "method": "getwssaddr", "id": 1},
    "getnodestate": {"jsonrpc": "2.0", "method": "getnodestate", "params": {}, "id": 1},
    "getversion": {"jsonrpc": "2.0", "method": "getversion", "params": {}, "id": 1},
    "getlatestblockheight": {"jsonrpc": "2.0", "method": "getlatestblockheight", "params": {}, "id": 1},
    "getlatestblockhash": {"jsonrpc": "2.0", "method": "getlatestblockhash", "params": {}, "id": 1},
    "an unknown method": {"jsonrpc": "2.0", "method": "getwsaddress", "params": {}, "id": 1},
    "a number as method": {"jsonrpc": "2.0", "method": 5, "id": 1},
    "a batch": [{**ASK, "id": 1}],
    "no JSON": "<html>",
    "nothing": "",
}

# What one node alone never says, from the sources of v2.2.0 (api/common, api/httpjson, api/websocket, lnode);
# `sdp` came with the next version. Addresses and keys are ours.
NODE = {
    "addr": "192.0.2.2:30002",
    "id": "cd" * 32,
    "pubkey": ALICE.public_key.hex(),
    "rpcAddr": "192.0.2.2:30003",
}
IPV6 = {**NODE, "addr": "2001:db8::2:30002", "rpcAddr": "2001:db8::2:30003"}
WITH_SDP = {**NODE, "sdp": ""}
WSS = {**NODE, "addr": "192-0-2-2.ipv4.example:30004", "rpcAddr": "192-0-2-2.ipv4.example:30005"}
NO_HTTPS = {**WSS, "rpcAddr": ":0"}
LOGIN = {"node": NO_HTTPS, "sigChainBlockHash": "ab" * 32}
STATES = ("WAIT_FOR_SYNCING", "SYNC_STARTED", "SYNC_FINISHED", "PERSIST_FINISHED")
NO_ID = "No ID in this account, waiting for generate ID fee or generate ID transaction"
WALLET: dict[str, Any] = {
    "publicKey": NODE["pubkey"],
    "walletAddress": "NKNaaaaaaaaaaaaaaaaaaaaaaaaaaaeJ6gxa",
}


def from_the_sources() -> dict[str, list[dict[str, object]]]:
    def call(name: str, members: dict[str, object], status: int = 200) -> dict[str, object]:
        return {"name": name, "status": status, "body": _dump({"id": "1", "jsonrpc": "2.0", **members})}

    def result(name: str, value: object) -> dict[str, object]:
        return call(name, {"result": value})

    def error(name: str, code: int, message: str, *, status: int = 200, **more: Any) -> dict[str, object]:
        return call(name, {"error": {"code": code, "message": message, **more}}, status)

    def action(name: str, action: str, code: int, text: str, result: object) -> dict[str, object]:
        said = {"Action": action, "Desc": text, "Error": code, "Result": result, "Version": 1}
        return {"name": name, "said": [{"node": _dump(said)}]}

    wrong = "WRONG NODE TO CONNECT"
    return {
        "rpc": [
            result("getwsaddr, after v2.2.0", WITH_SDP),
            result("getwsaddr, a node of IPv6", IPV6),
            result("getwssaddr, a node with TLS", WSS),
            result("getwssaddr, a node without RPC over TLS", NO_HTTPS),
            error("getwsaddr, no ring yet", -45001, "INTERNAL ERROR", data="Found no predecessors"),
            error("getwsaddr, a node without an id", -45022, NO_ID, **WALLET),
            error("getwsaddr, no ledger", -45024, "INTERNAL ERROR, DB service is unavailable"),
            error("getwsaddr, a panic", -45001, "INTERNAL ERROR", status=500),
            *(result(f"getnodestate, {state}", {"syncState": state}) for state in STATES),
        ],
        "websocket": [
            action("the wrong node, at the login", "setClient", 48001, wrong, NODE),
            action("the wrong node, later", "", 48001, wrong, NODE),
            action("the wrong node, after v2.2.0", "", 48001, wrong, WITH_SDP),
            action("the wrong node, one of IPv6", "", 48001, wrong, IPV6),
            action("no node found at the login", "setClient", 45001, "INTERNAL ERROR", None),
            action("a login at a node with TLS", "setClient", 0, "SUCCESS", LOGIN),
            action("a block", "sendRawBlock", 0, "SUCCESS", {"hash": "ab" * 32, "size": 1}),
        ],
    }


def _dump(value: object) -> str:
    """As Go writes it: sorted, without spaces."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def rpc(body: object, method: str = "POST") -> tuple[int, str]:
    """Ask once: (status, body)."""
    connection = http.client.HTTPConnection(HOST, RPC_PORT, timeout=5)
    text = body if isinstance(body, str) else json.dumps(body)
    connection.request(method, "/", text.encode(), {"Content-Type": "application/json"})
    answer = connection.getresponse()
    return answer.status, answer.read().decode()


class Talk:
    """A websocket, and all that was said on it."""

    def __init__(self) -> None:
        self.said: list[dict[str, Any]] = []
        self._socket = socket.create_connection((HOST, WS_PORT), timeout=5)
        head = f"GET / HTTP/1.1\r\nHost: {HOST}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        head += "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        self._socket.sendall(head.encode())
        self._data = bytearray()
        while b"\r\n\r\n" not in self._data:
            self._data += self._read()
        end = self._data.index(b"\r\n\r\n") + 4
        self.status = int(self._data[:end].split(b" ", 2)[1])
        del self._data[:end]
        self.challenge = b""

    def say(self, frame: str | bytes) -> None:
        if isinstance(frame, str):
            self.said.append({"client": frame})
            self._send(websocket.Opcode.TEXT, frame.encode())
        else:
            self.said.append({"client": {"hex": frame.hex()}})
            self._send(websocket.Opcode.BINARY, frame)

    def log_in(self, identity: Identity, address: str, *, wrong: bool = False) -> None:
        salt = b"s" * 32
        signature = identity.sign(sigchain.login_digest(self.challenge, salt))
        self.act(
            "setClient",
            Addr=address,
            ClientSalt=salt.hex(),
            Signature=bytes(64).hex() if wrong else signature.hex(),
        )

    def act(self, action: object, **members: object) -> None:
        self.say(json.dumps({"Action": action, **members}))

    def listen(self, frames: int = 100, silence_s: float = SILENCE_S) -> None:
        """Take so many frames, or what comes before it is silent."""
        end = time.monotonic() + silence_s
        for _ in range(frames):
            frame = self._frame(end)
            if frame is None:
                break
            opcode, payload = frame
            if opcode is websocket.Opcode.CLOSE:
                self.said.append({"closed": websocket.parse_close(payload)[0]})
                break
            said = payload.decode() if opcode is websocket.Opcode.TEXT else {"hex": payload.hex()}
            self.said.append({"node": said})
            if isinstance(said, str) and "Challenge" in said:
                self.challenge = bytes.fromhex(json.loads(said)["Challenge"])

    def close(self) -> None:
        self._socket.close()

    def _frame(self, end: float) -> tuple[websocket.Opcode, bytes] | None:
        while True:
            head = websocket.parse_header(self._data, max_payload=1 << 22)
            if head is not None and len(self._data) >= head.header_size + head.payload_size:
                size = head.header_size + head.payload_size
                payload = bytes(self._data[head.header_size : size])
                del self._data[:size]
                if head.opcode is websocket.Opcode.PING:
                    self._send(websocket.Opcode.PONG, payload)
                    continue
                return head.opcode, payload
            self._socket.settimeout(max(0.01, end - time.monotonic()))
            try:
                data = self._read()
            except TimeoutError:
                return None
            except ConnectionError:
                self.said.append({"closed": "reset"})
                return None
            self._data += data

    def _read(self) -> bytes:
        data = self._socket.recv(1 << 16)
        if not data:
            raise ConnectionResetError
        return data

    def _send(self, opcode: websocket.Opcode, payload: bytes) -> None:
        self._socket.sendall(websocket.frame_header(opcode, len(payload), bytes(4)) + payload)


def outbound(
    sender: Identity, src: str, dest: str, text: str, node_key: bytes, block_hash: bytes, **more: int
) -> bytes:
    """A signed message in the clear, to one destination."""
    content = message.Payload(message.PayloadType.TEXT, b"12345678", message.TextData(text).encode()).encode()
    payload = message.Message(content).encode()
    key = bytes.fromhex(dest.rpartition(".")[2])
    prepared = sigchain.OutboundDigest(
        node_key, block_hash, sigchain.client_id(src), sender.public_key, sigchain.client_id(dest), key
    )
    digest = prepared.digest(7, len(payload))
    return nkn.OutboundMessage(
        (dest,), (payload,), 7, block_hash, (sender.sign(digest),), more.get("hold", 0)
    ).encode()


def websocket_cases() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    @contextlib.contextmanager
    def talk(*, challenged: bool = True) -> Iterator[Talk]:
        it = Talk()
        try:
            if challenged:
                it.listen(1)
            yield it
        finally:
            it.close()

    def logged_in(it: Talk) -> tuple[bytes, bytes]:
        """(the node's key, the block hash)"""
        it.log_in(ALICE, ALICE_ADDRESS)
        it.listen(1)
        result = json.loads(it.said[-1]["node"])["Result"]
        return bytes.fromhex(result["node"]["pubkey"]), bytes.fromhex(result["sigChainBlockHash"])

    with talk() as it:
        key, block_hash = logged_in(it)
        yield "a login", it.said
    with talk() as it:
        it.act("setClient", Addr=ALICE_ADDRESS)
        it.listen()
        yield "a login without a signature", it.said
    with talk() as it:
        it.log_in(ALICE, ALICE_ADDRESS, wrong=True)
        it.listen(silence_s=5.0)
        yield "a wrong signature", it.said
    with talk() as it:
        it.act("setClient", Addr=ALICE_ADDRESS, ClientSalt=5, Signature=5)
        it.listen(silence_s=5.0)
        yield "numbers as salt and signature", it.said
    for name, address in (("null", None), ("a number", 5), ("no key", "alice"), ("half a key", "alice.abcd")):
        with talk() as it:
            it.act("setClient", Addr=address)
            it.listen()
            yield f"{name} as address", it.said
    for when in ("before", "after"):
        with talk() as it:
            if when == "after":
                logged_in(it)
            begin = len(it.said)
            for say in ("no JSON", "[]", "{}", '{"Action":5}', '{"Action":"nothing"}', '{"Action":null}'):
                it.say(say)
                it.listen(1)
            for action in ("heartbeat", "getsessioncount", "gettxhashmap", "getwsaddr"):
                it.act(action)
                it.listen(1)
            yield f"odd text {when} the login", it.said[begin - 1 :]
    with talk() as it:
        it.say(outbound(ALICE, ALICE_ADDRESS, BOB_ADDRESS, "early", key, block_hash))
        it.say(b"\xff\xff")
        it.say(b"")
        it.listen()
        logged_in(it)
        yield "binary frames before the login", it.said
    with talk() as it:
        logged_in(it)
        it.log_in(ALICE, ALICE_ADDRESS)
        it.listen()
        yield "a second login", it.said
    with talk() as it:
        logged_in(it)
        it.log_in(BOB, BOB_ADDRESS)
        it.listen()
        yield "a second login, as another", it.said
    with talk() as it:
        logged_in(it)
        it.say(outbound(ALICE, ALICE_ADDRESS, BOB_ADDRESS, "to nobody", key, block_hash))
        it.say(outbound(ALICE, ALICE_ADDRESS, BOB_ADDRESS, "held", key, block_hash, hold=60))
        it.listen()
        yield "messages to one who is away", it.said
    with talk() as it:
        it.log_in(BOB, BOB_ADDRESS)
        it.listen()
        yield "a login to which a held message comes", it.said
    with talk() as it:
        logged_in(it)
        it.say(outbound(ALICE, ALICE_ADDRESS, ALICE_ADDRESS, "to myself", key, block_hash))
        it.listen()
        yield "a message to oneself", it.said
    with talk() as it:
        logged_in(it)
        it.say(outbound(BOB, ALICE_ADDRESS, ALICE_ADDRESS, "signed by another", key, block_hash))
        it.say(b"\xff\xff")
        it.say(nkn.Receipt(b"p" * 32, b"s" * 64).encode())
        it.listen()
        yield "a wrong signature, no protobuf, a receipt that nobody asked for", it.said
    with talk() as it:
        logged_in(it)
        end = time.monotonic() + BLOCK_S
        while time.monotonic() < end and "updateSigChainBlockHash" not in str(it.said[-1]):
            it.listen(1, 30.0)
        it.say(outbound(ALICE, ALICE_ADDRESS, ALICE_ADDRESS, "in a new block", key, block_hash))
        it.listen(1)
        yield "a new block", it.said


def record() -> dict[str, object]:
    calls: list[dict[str, object]] = []
    for name, asked in RPC.items():
        status, body = rpc(asked)
        calls.append({"name": name, "asked": asked, "status": status, "body": body})
    status, body = rpc("", "GET")
    calls.append({"name": "GET", "asked": "", "status": status, "body": body})
    talks = [{"name": name, "said": said} for name, said in websocket_cases()]
    status, body = rpc(RPC["getnodestate"])
    calls.append(
        {
            "name": "getnodestate, after some minutes",
            "asked": RPC["getnodestate"],
            "status": status,
            "body": body,
        }
    )
    for _ in range(1000):
        status, body = rpc(RPC["getwsaddr"])
        if status != 200:
            break
    calls.append({"name": "asked too often", "asked": RPC["getwsaddr"], "status": status, "body": body})
    return {
        "recorded": {"rpc": calls, "websocket": talks},
        "from the sources": from_the_sources(),
    }


def main() -> None:
    (target,) = sys.argv[1:]
    with tempfile.TemporaryDirectory() as folder:
        namespace = Namespace(f"ncrecord{os.getpid()}")
        try:
            namespace.ip(f"addr add {HOST}/32 dev lo")
            node = OfficialNode(namespace, Path(folder), HOST)
            node.start()
            found = namespace.enter(record)
        finally:
            namespace.remove()
    Path(target).write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
