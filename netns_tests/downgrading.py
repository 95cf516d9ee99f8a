"""`python downgrading.py PORT CERTIFICATE NODE KEY`: a seed with the right certificate that names an address
without TLS, NODE (HOST:PORT), of the node with this public key. Says "serving", then each method it is asked.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

from nconnect.io.http.http import Request, Response
from nconnect.io.http.http_server import HttpServer
from nconnect.io.net.certificate import server_context
from nconnect.wire.jsonrpc import NodeInfo


async def main(port: int, certificate: Path, info: NodeInfo) -> None:
    async def answer(ask: Request) -> Response:
        print(json.loads(ask.body)["method"], flush=True)
        return Response.json({"id": "1", "jsonrpc": "2.0", "result": info.to_json()})

    await HttpServer.listen_tcp("0.0.0.0", port, answer, tls=server_context(certificate, None))
    print("serving", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    where, pem, addr, key = sys.argv[1:]
    asyncio.run(main(int(where), Path(pem), NodeInfo(addr, "", key, "")))
