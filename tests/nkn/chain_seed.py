"""A seed of the chain on loopback: subscriptions are pending as soon as they are sent, and stay so."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator

from nconnect.io.http.http import Request, Response
from nconnect.model import NknAddress
from nconnect.wire.protobuf import as_bytes, as_string, fields
from tests.io.serving import url_of


class ChainSeed:
    """Answers as the official node does; `answers` may be changed, `asked` is kept."""

    def __init__(self) -> None:
        self.url = ""
        self.pending: dict[str, str] = {}
        self.answers: dict[str, object] = {
            "getnoncebyaddr": {"nonce": 3, "nonceInTxPool": 5},
            "getsubscribers": {"subscribers": {}, "subscribersInTxPool": self.pending},
            "getregistrant": {"registrant": "", "expiresAt": 0},
            "sendrawtransaction": "00" * 32,
        }
        self.asked: list[tuple[str, dict[str, object]]] = []

    @classmethod
    @contextlib.asynccontextmanager
    async def running(cls) -> AsyncIterator[ChainSeed]:
        seed = cls()
        async with url_of(seed._handle) as seed.url:
            yield seed

    async def _handle(self, ask: Request) -> Response:
        body = json.loads(ask.body)
        self.asked.append((body["method"], body["params"]))
        answer = self.answers.get(body["method"])
        if answer is None:
            error = {"code": -42001, "message": "INVALID METHOD"}
            return Response.json({"id": "1", "jsonrpc": "2.0", "error": error})
        if body["method"] == "sendrawtransaction":
            self._subscribe(bytes.fromhex(body["params"]["tx"]))
        return Response.json({"id": "1", "jsonrpc": "2.0", "result": answer})

    def _subscribe(self, transaction: bytes) -> None:
        unsigned = as_bytes(dict(fields(transaction))[1])
        payload = dict(fields(as_bytes(dict(fields(unsigned))[1])))
        told = dict(fields(as_bytes(payload[2])))
        if payload[1] == 6:
            address = NknAddress(as_string(told.get(2, memoryview(b""))), bytes(as_bytes(told[1])))
            self.pending[str(address)] = as_string(told.get(6, memoryview(b"")))
