"""NKN for Python: clients that send each other messages over the NKN network, by public key.

    from nconnect.nkn import Client

    async with Client(identifier="alice") as client:
        reply = await client.send("bob.<64 hex digits>", "hello")

docs/nkn.md explains how to use it. `Client`, `MultiClient` and `LinkStatus` live in `nconnect.sdk` and
are loaded when they are first asked for. The rest of this package is NKN's client protocol, pure, and
below them: one link and what keeps it up, messages, replies, envelopes.

    program                                       tunnel (nconnect.daemon.driver)
       |                                                 |
    nconnect.sdk ---> exchange: ids, replies, ACKs       |
       |              `-- envelope: seal for one or several
       v                                                 v
    nconnect.io.nkn.link: LinkRunner, the shell of one link (sockets, timer)
       |  feed: resolved, connected, receive_text, receive_binary, pong, disconnected, handle_timeout
       |  do:   poll_output() -> Resolve, Connect, SendText, SendBinary, SendPing, Disconnect, LinkUp, ...
       v
    link.Link -- states     the table below            -- liveness   pings, silence, the round trip
              -- ways       ws or wss, verified how    -- outbound   prefixes and signatures of messages
              -- reconnect  back to the node, or ask   -- backoff    when to try again
    spares.Spares: which extra links a client needs (nconnect.io.nkn.links)

States of a link, the main ways (`states.LINK_TRANSITIONS` has all; a missing entry is a
`LocalProtocolError` of the shell):

    NEW --> RESOLVING --> CONNECTING --> AWAITING_CHALLENGE --> LOGGING_IN --> UP
               ^  ask a seed  ^               |                     |           |
               |              +-- redirect: the node names another -+-----------+
               +-- WAITING (backoff) <-- any failure        CLOSED <-- stop, from any state

Specification: the official node and SDKs (nkn: api/websocket/server; nkn-sdk-go, nkn-sdk-js), written
down in docs/protocol.md, "NKN". Departures:

- several seeds are asked 0.3 s apart instead of one, the good answer that comes first counts;
- a node that closed the connection is tried again before the seeds are asked (`reconnect`);
- TLS is tried beside plain text, and verified if the seed was (decision 0016, `ways`);
- a silent node is noticed within 10 s, on a busy link within 3.5 s (`liveness`);
- we are strict about keys and liberal about everything else that a node says (decision 0017).

- **node**: a relay of the network. **seed**: a node whose RPC says which node serves an address.
- **link**: one websocket to a node, logged in with one address.
- **challenge**: what a node asks us to sign at the login. **redirect**: WRONG_NODE, the node names
  another.
- **receipt**: signed proof that a message arrived, owed when it carries a `prev_hash`.
- **waiver**: what a node of this project does not require (signatures on messages, masked frames).
- **attempt**: from asking the seeds to a login. **backoff**: the wait between two attempts.
- **envelope**: a message sealed for one client or several. **exchange**: messages and the answers to
  them.
- **sub-client**: one login of a client with several links, `__k__.ADDRESS`. **spare**: an extra
  sub-client while none of a client's links can reach its node.

To add an input or output of a link: an `Event` and its rows in `states`, an output in `outputs`, the
method in `link.Link`, and its shell in `nconnect.io.nkn.link`. To add a reason why a link is down:
`outputs.DownReason`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nconnect.nkn.message import Message, Reply
    from nconnect.sdk.chain import NknChain
    from nconnect.sdk.client import Client
    from nconnect.sdk.multiclient import MultiClient
    from nconnect.sdk.stream import Stream
    from nconnect.sdk.streaming import StreamServer
    from nconnect.sdk.sub_link import LinkStatus
    from nconnect.wire.chain import Registrant, Subscription

__all__ = [
    "Client",
    "LinkStatus",
    "Message",
    "MultiClient",
    "NknChain",
    "Registrant",
    "Reply",
    "Stream",
    "StreamServer",
    "Subscription",
]

_WHERE = {
    "Client": "nconnect.sdk.client",
    "LinkStatus": "nconnect.sdk.sub_link",
    "Message": "nconnect.nkn.message",
    "MultiClient": "nconnect.sdk.multiclient",
    "NknChain": "nconnect.sdk.chain",
    "Registrant": "nconnect.wire.chain",
    "Reply": "nconnect.nkn.message",
    "Stream": "nconnect.sdk.stream",
    "StreamServer": "nconnect.sdk.streaming",
    "Subscription": "nconnect.wire.chain",
}


def __getattr__(name: str) -> Any:
    """Load the public names when they are asked for: they are above this package's floor, in `nconnect.sdk`.

    This is the only import upward in the project: programs say `from nconnect.nkn import Client`.
    """
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_WHERE[name]), name)
