"""Targets for what the official nConnect sends: requests, answers, targets, and shadowsocks' ciphers."""

from __future__ import annotations

import ipaddress

from nconnect.crypto.shadowsocks import MAX_CHUNK_BYTES, ShadowCipher, ShadowOpener, ShadowSealer
from nconnect.errors import RemoteProtocolError
from nconnect.wire import official_nconnect as official
from tests.fuzz.draw import Draw

_KINDS = (0, 1, 2, 3, 4, 5, 255)


def official_requests(data: bytes) -> None:
    """A message to a server, and an answer of one."""
    for read in (official.read_admin_request, official.read_info):
        try:
            read(data)
        except RemoteProtocolError:
            pass


def official_targets(data: bytes) -> None:
    """What stands before a stream."""
    _target(data)
    draw = Draw(data)
    _target(bytes((draw.of(_KINDS), draw.below(256))) + draw.piece(300))


def _target(data: bytes) -> None:
    try:
        found = official.read_target(data)
    except RemoteProtocolError:
        return
    if found is None:
        assert len(data) < official.MAX_TARGET_BYTES
        return
    host, port, end = found
    assert end <= len(data)
    if data[0] == 3:
        assert host == data[2 : end - 2].decode("ascii").lower()
    else:
        assert ipaddress.ip_address(host).packed == data[1 : end - 2]
    assert port == data[end - 2] << 8 | data[end - 1]


def shadow_streams(data: bytes) -> None:
    """What is authentic opens however it is cut; what is not never does, and no more than a chunk is held."""
    draw = Draw(data)
    cipher = draw.of(tuple(ShadowCipher))
    key = cipher.key("fuzz")
    opener = ShadowOpener(cipher, key)
    sent = [draw.piece(64) for _ in range(draw.below(4))]
    sealer = ShadowSealer(cipher, key, rng=lambda size: bytes(range(size)))
    stream = b"".join(map(sealer.seal, sent))
    harmed = draw.flag() and bool(stream)
    if harmed:
        place = draw.below(len(stream))
        stream = stream[:place] + bytes((stream[place] ^ 1,)) + stream[place + 1 :]
    stream += draw.piece(64) if (extra := draw.flag()) else b""
    got = b""
    try:
        while stream:
            size = 1 + draw.below(len(stream))
            got += opener.open(stream[:size])
            stream = stream[size:]
            assert len(opener._held) <= MAX_CHUNK_BYTES + 16
    except RemoteProtocolError:
        assert harmed or extra
    if cipher is not ShadowCipher.DUMMY:
        whole = b"".join(sent)
        assert whole.startswith(got)
        assert harmed or got == whole
