"""Streams between our client and NKN's SDKs, over our node. netns_tests has the same over NKN's own node."""

from __future__ import annotations

import pytest

from tests.loops import run
from tests.nkn import interop
from tests.nkn.net import Net
from tests.nkn.sdk import SDKS

both_sdks = pytest.mark.parametrize("kind", SDKS)
mtus = pytest.mark.parametrize("mtu", [pytest.param(1024, marks=pytest.mark.slow), 60_000])
SIZES = {1024: 100_000, 60_000: 1_000_000}  # the SDK for JavaScript is slow


@both_sdks
@mtus
def test_our_stream_to_theirs(kind: str, mtu: int) -> None:
    async def test() -> None:
        async with Net.running() as net:
            await interop.our_stream_to_theirs(net, kind, mtu, SIZES[mtu])

    run(test, within_s=90.0)


@both_sdks
@mtus
def test_their_session_to_ours(kind: str, mtu: int) -> None:
    async def test() -> None:
        async with Net.running() as net:
            await interop.their_session_to_ours(net, kind, mtu, SIZES[mtu])

    run(test, within_s=90.0)
