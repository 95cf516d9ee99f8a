"""Codecs: bytes to values and back. Pure; the only state is that of one message of which parts are missing.

Everything that arrives is hostile. For any bytes, whole or split, a reader returns a value or raises
`RemoteProtocolError`, and nothing else. Readers copy no payload: a payload is a view of the input and is
valid as long as the input is.

    TCP or TLS bytes
      | upgrade     HTTP/1.1 upgrade, on h11                           RFC 6455, section 4
      v
    websocket       frame headers, `Assembler`, close codes            RFC 6455, section 5
      |-- text frame:    actions    JSON: login, redirect, errors      nkn: api/websocket/server
      |                    `-- sigchain: digests that clients sign
      `-- binary frame:  nkn        `ClientMessage` (proto3)           nkn: pb/clientmessage.proto
                           `-- its payload, opaque to nodes:
                         message    `Message`, `Payload`, `TextData`   nkn-sdk-go: payloads.proto
                           |-- tunnel   our handshake and data frames  docs/protocol.md
                           `-- invite   our frames of an invitation    docs/protocol.md, "Invitations"

(nkn is the official node's source, nkn-sdk-go the official SDK's.)

    protobuf, strict_json   the codecs under these: proto3's encoding; JSON (RFC 8259), parsed strictly
    jsonrpc                 JSON-RPC 2.0 with seeds and nodes (nkn: api/httpjson), `NodeInfo`
    chain                   topics, names, and the transactions that subscribe (nkn: pb/transaction.proto)
    ncp                     packets of NKN's sessions (ncp-go: pb/packet.proto)
    official_nconnect       the official nConnect's requests, and the target before its streams
    stun                    STUN's binding requests and answers over UDP (RFC 8489)
    pcp, upnp               asking a router for a port: PCP (RFC 6887), NAT-PMP (RFC 6886), UPnP
    login_page, text        what a captive portal answers; other people's words made safe to show

Departures, all within what the specifications let a reader accept:

- The payload is the last field of each protobuf message that we write, so that a message is a short prefix
  and the payload as it lies (decision 0008). Readers take any order.
- A node of ours adds `waives` to its answer to the login: what it does not need (docs/protocol.md).
- A node of ours adds `fingerprint` and `stunPorts` to what it says of itself (docs/node.md).
- Readers are stricter than proto3: an overlong varint, a `uint32` that is wider, and more fields than any
  real message has are refused.
- A data frame uses `Message`'s nonce field for our 16-byte header. NaCl's nonces have 24 or 48 bytes, so
  nothing else is taken for one.

Words: **frame**: what a websocket or our tunnel delimits. **message**: what NKN carries from one client to
another. **payload**: the part of a message that its carrier does not read. **prefix**: all of a message up
to its payload. **dest**, **src**: NKN addresses as text. **record**: one item of a sealed batch: a packet, a
ping, feedback. **digest**: the SHA-256 that is signed.

To add a record: a `RecordKind` in `tunnel`, its body's layout beside it, a row in docs/protocol.md ("Data"),
and its handling in `nconnect.tunnel.control_frames`. Kinds from 128 on are skipped by versions that do not
know them; an unknown kind below that makes them refuse the whole batch.
"""
