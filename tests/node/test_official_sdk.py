"""Clients of the official JavaScript SDK over our node, which verifies all they send."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from pathlib import Path

import pytest

from nconnect.crypto.keys import Identity
from nconnect.io.nkn.node_server import NodeServer
from nconnect.model import NodeConfig
from nconnect.node.settings import NodeSettings

MODULES = Path(os.environ.get("NCONNECT_NKN_SDK") or Path(__file__).parents[2] / "node_modules").resolve()
NODE_JS = shutil.which("node")
SCRIPT = Path(__file__).with_name("sdk_pair.mjs")


@pytest.mark.skipif(
    NODE_JS is None or not (MODULES / "nkn-sdk").is_dir(),
    reason="needs Node.js and nkn-sdk (scripts/setup --dev; NCONNECT_NKN_SDK names another node_modules)",
)
@pytest.mark.parametrize(
    ("port", "tls"),
    [(None, False), (0, False), (0, True)],
    ids=["two ports", "one port", "one port, TLS"],
)
def test_the_official_sdks_clients_exchange_messages(port: int | None, tls: bool, tmp_path: Path) -> None:
    async def run() -> None:
        settings = NodeSettings(verify_signatures=True)
        ports = (0, 0) if port is None else (None, None)
        config = NodeConfig.of(
            "127.0.0.1", port=port, ws_port=ports[0], rpc_port=ports[1], tls=tls, stun_ports=(0, 0)
        )
        own = tmp_path / "tls.pem"
        server = NodeServer(config, Identity(b"n" * 32), settings, own_certificate=own)
        await server.start()
        process = None
        try:
            process = await asyncio.create_subprocess_exec(
                str(NODE_JS),
                str(SCRIPT),
                server.seed_url().partition("#")[0],
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                env={
                    **os.environ,
                    "NCONNECT_NKN_SDK": str(MODULES),
                    **({"NODE_EXTRA_CA_CERTS": str(own)} if tls else {}),
                },
            )
            async with asyncio.timeout(60):
                out, errors = await process.communicate()
            assert process.returncode == 0, errors.decode()
            result = json.loads(out.splitlines()[-1])
            assert result["text"] == "reply to hello"
            assert result["plain"] == "reply to open"
            assert result["megabyte"] is True
            assert result["both"] == ["bob", "carol"]
            assert result["node"]["addr"] == f"127.0.0.1:{server.wss_port if tls else server.ws_port}"
            assert server.ws_port is None or not tls
            assert {item["src"] for item in result["got"]} == {result["alice"]}
            stats = server.node.stats()
            assert stats.logins == 3
            assert stats.receipts >= 6
            assert stats.drops == {}
        finally:
            if process is not None and process.returncode is None:
                process.kill()
                await process.wait()
            await server.close()

    asyncio.run(run())
