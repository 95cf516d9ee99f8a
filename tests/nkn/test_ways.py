from __future__ import annotations

import pytest

from nconnect.nkn.ways import PLAIN_WAY, Way, redirected, ways_to
from nconnect.wire.jsonrpc import NodeInfo

A, B, C = "aa" * 32, "bb" * 32, "cc" * 32
HTTP = "http://seed.example:30003"
HTTPS = "https://seed.example"
PINNED = f"https://seed.example:443#sha256={A}"
OTHER = f"https://other.example:443#sha256={B}"
WEB = Way(secure=True, verify=True)


def at(addr: str, fingerprint: str = "") -> NodeInfo:
    return NodeInfo(addr, "", "01" * 32, "", fingerprint)


def pin(of: str) -> Way:
    return Way(secure=True, pin=of)


def test_tls_is_no_proof_where_the_seed_is_none() -> None:
    tls = Way(secure=True, ask=HTTP)
    assert not tls.is_verified
    assert ways_to(at("n:1", A), HTTP, [HTTP], tls_first=False) == (PLAIN_WAY, tls)
    assert ways_to(at("n:1", A), HTTP, [HTTP], tls_first=True) == (tls, PLAIN_WAY)
    assert ways_to(at("n:1"), None, [HTTP, PINNED], tls_first=True) == (PLAIN_WAY,)


@pytest.mark.parametrize(
    ("node", "seed", "way"),
    [
        (at("seed.example:443"), PINNED, pin(A)),  # itself, on its one port
        (at("SEED.example:443"), PINNED, pin(A)),
        (at("seed.example:30004"), PINNED, pin(A)),  # its other TLS port
        (at("seed.example:443", C), PINNED, pin(A)),  # what the user wrote comes first
        (at("other.example:443"), PINNED, pin(B)),
        (at("other.example:443", C), PINNED, pin(B)),
        (at("third.example:443", C), PINNED, pin(C)),  # told over a verified connection
        (at("third.example:443"), PINNED, WEB),
        (at("other.example:30004"), PINNED, WEB),  # another's pin says nothing about this port
        (at("seed.example:30004"), HTTPS, WEB),
        (at("third.example:443", C), HTTPS, pin(C)),
    ],
)
def test_over_tls_a_certificate_is_always_verified(node: NodeInfo, seed: str, way: Way) -> None:
    for tls_first in (False, True):
        assert ways_to(node, seed, [PINNED, OTHER, HTTPS], tls_first=tls_first) == (way,)
    assert way.is_verified


def test_who_named_the_node_is_not_known() -> None:
    assert ways_to(at("seed.example:443"), None, [PINNED, OTHER], tls_first=False) == (pin(A),)
    assert ways_to(at("n:1"), None, [PINNED, HTTPS], tls_first=False) == (WEB,)


def test_a_redirect_never_lessens_the_way() -> None:
    seeds = [PINNED, HTTP]
    for way in (pin(A), WEB):
        assert redirected(at("n:30002"), way, seeds) == WEB
        assert redirected(at("seed.example:443", C), way, seeds) == pin(A)
        assert redirected(at("n:443", C), way, seeds) == pin(C)
    assert redirected(at("n:30002", C), PLAIN_WAY, seeds) == PLAIN_WAY
    assert redirected(at("n:30004", C), Way(secure=True, ask=HTTP), seeds) == Way(secure=True)
