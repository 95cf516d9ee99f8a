"""NKN's own programs, as `scripts/setup --dev` builds them from the modules in `tests/official`."""

from __future__ import annotations

import json
import re
import shutil
import urllib.request
from pathlib import Path
from typing import Any

from lab import CHECKOUT
from lab.netns import LabError, Namespace
from lab.sides import RPC_PORT, Node

MODULES = CHECKOUT / "tests" / "official"
BUILT = CHECKOUT / ".official"


def wanted() -> list[str]:
    """The names of all programs, built or not."""
    return sorted(found.parent.name for found in MODULES.glob("*/go.mod"))


def missing(*names: str) -> list[str]:
    """The programs of `names` (by default all) that are not built."""
    return [name for name in names or wanted() if not (BUILT / name).exists()]


def program(name: str) -> str:
    """The path of a program; `LabError` when it is not built."""
    if missing(name):
        raise LabError(f"{name} is not built: run scripts/setup --dev, which says why if it cannot")
    return str(BUILT / name)


class OfficialNode(Node):
    """`nknd` as a private network of one node, reachable at `host`; each start begins a new chain."""

    def __init__(self, namespace: Namespace, folder: Path, host: str) -> None:
        super().__init__(namespace, folder)
        self.host = host

    def command(self) -> list[str]:
        """Write the files that nknd reads, remove those of an earlier run, and return the command line."""
        nknd = program("nknd")
        state = self.folder / "state"
        shutil.rmtree(state, ignore_errors=True)
        state.mkdir(mode=0o700)
        # The password protects nothing: the key is made here for this node, which holds nothing.
        (state / "password").write_text("lab")
        wallet = [program("nknc"), "wallet", "-c", "-p", "lab", "-n", str(state / "wallet.json")]
        done = self.namespace.run(wallet)
        public_key = re.search(r"\b[0-9a-f]{64}\b", done.stdout)
        if public_key is None:
            raise LabError(f"{' '.join(wallet)}: {done.stderr}{done.stdout}")
        config = {
            "hostname": self.host,
            "nat": False,
            "seedList": [f"http://{self.host}:{RPC_PORT}"],
            "genesisBlockProposer": public_key[0],
            "StunList": [f"stun:{self.host}:3478"],  # nobody answers there, and it asks no other server
            "AllowEmptyBeneficiaryAddress": True,
        }
        (state / "config.json").write_text(json.dumps(config))
        return [
            *("env", "-C", str(state), nknd, "-c", "--no-nat", "--config", "config.json"),
            *("--wallet", "wallet.json", "--password-file", "password"),
        ]

    def status(self) -> dict[str, Any]:
        """Its answer to `getnodestate`."""

        def ask() -> Any:
            text = json.dumps({"jsonrpc": "2.0", "id": "lab", "method": "getnodestate", "params": {}})
            request = urllib.request.Request(f"http://127.0.0.1:{RPC_PORT}", text.encode())
            with urllib.request.urlopen(request, timeout=5) as response:
                return json.load(response)["result"]

        found: dict[str, Any] = self.namespace.enter(ask)
        return found
