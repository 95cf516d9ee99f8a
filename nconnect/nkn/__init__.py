"""NKN for Python: clients that send each other messages over the NKN network, by public key.

    from nconnect.nkn import Client

    async with Client(identifier="alice") as client:
        reply = await client.send("bob.<64 hex digits>", "hello")

`Client`, `MultiClient` and what they speak in are loaded when they are first asked for; the rest of this
package is pure and stands below them: one link and all that keeps it up, messages, replies, envelopes.
docs/nkn.md tells how to use it.

- **node**: a relay of the network. **seed**: a node whose RPC says which node serves an address.
- **link**: one websocket to a node, logged in with one address; it is found, kept and mended by `link.Link`.
- **challenge**: what a node asks us to sign at the login. **redirect**: WRONG_NODE, the node names another.
- **receipt**: signed proof that a message arrived, owed when it carries a `prev_hash`.
- **waiver**: what a node of this project does without (signatures on messages, masked frames).
- **attempt**: from asking the seeds to a login. **backoff**: the wait between two of them.
- **envelope**: a message sealed for one client or several. **exchange**: messages and the answers to them.
- **sub-client**: one login of a `MultiClient`, `__k__.ADDRESS`.

`nconnect.io.nkn.link` runs a link on sockets.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nconnect.nkn.message import Message, Reply
    from nconnect.sdk.client import Client
    from nconnect.sdk.multiclient import MultiClient
    from nconnect.sdk.sub_link import LinkStatus

__all__ = ["Client", "LinkStatus", "Message", "MultiClient", "Reply"]

_WHERE = {
    "Client": "nconnect.sdk.client",
    "LinkStatus": "nconnect.sdk.sub_link",
    "Message": "nconnect.nkn.message",
    "MultiClient": "nconnect.sdk.multiclient",
    "Reply": "nconnect.nkn.message",
}


def __getattr__(name: str) -> Any:
    """Load the public names when they are asked for: they are above this package's floor, in `nconnect.sdk`.

    This is the only import upward in the project: programs say `from nconnect.nkn import Client`.
    """
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_WHERE[name]), name)
