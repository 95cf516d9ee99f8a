"""Codecs: bytes to values and back, pure. Hostile bytes are a `RemoteProtocolError`, and nothing else.

    protobuf      field scanner and writers          nkn        NKN's binary messages
    strict_json   JSON from strangers                actions    the JSON actions of client and node
    jsonrpc       RPC calls, answers, `NodeInfo`     sigchain   digests that clients sign
    websocket     RFC 6455 frames                    upgrade    the handshake before them
    tunnel        our own frames

Words: **frame**: what a websocket or our tunnel delimits. **message**: what NKN carries from one client to
another. **payload**: the part of a message that its carrier does not read. **prefix**: all of a message up
to its payload, which comes last. **dest**, **src**: NKN addresses as text. **digest**: the SHA-256 that is
signed.
"""
